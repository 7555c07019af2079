package job

import (
	"math"
	"time"

	"github.com/hikae/hikae/pipe"
)

// totals are the busy shares over all disks of a session, weighted by the time that each took.
type totals struct {
	nanoseconds float64
	stages      []pipe.StageStat // Busy is share × nanoseconds
}

func (t *totals) add(s pipe.Stats) {
	d := float64(s.Duration)
	t.nanoseconds += d
next:
	for _, st := range s.Stages {
		for i := range t.stages {
			if t.stages[i].Name == st.Name {
				t.stages[i].Busy += st.Busy * d
				continue next
			}
		}
		t.stages = append(t.stages, pipe.StageStat{Name: st.Name, Side: st.Side, Busy: st.Busy * d})
	}
}

func (t *totals) stats() pipe.Stats {
	var s pipe.Stats
	for _, st := range t.stages {
		if t.nanoseconds > 0 {
			st.Busy = math.Round(min(1, st.Busy/t.nanoseconds)*1e4) / 1e4
			s.Stages = append(s.Stages, st)
		}
	}
	return s
}

// shares are the busy shares by stage.
func (t *totals) shares() map[string]float64 {
	out := map[string]float64{}
	for _, st := range t.stats().Stages {
		out[st.Name] = st.Busy
	}
	return out
}

// bottleneck names the busiest side: source, pipe or target; empty where nothing was copied.
func (t *totals) bottleneck() string {
	s := t.stats()
	return s.Bottleneck()
}

func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1e3) / 1e3 }
