package report

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job"
)

const mib = 1 << 20

// day is an increment: new data, of that random, written over, of that random; in MiB.
type day struct{ moved, random, over, randomized int64 }

func (d day) past() Past {
	return Past{Point: "p", Increment: true, Moved: d.moved * mib, Random: d.random * mib, Overwritten: d.over * mib, Randomized: d.randomized * mib, Seconds: 30}
}

func days(list ...day) (out []Past) {
	for _, d := range list {
		out = append(out, d.past())
	}
	return out
}

func hinted(now day, before []Past) bool {
	return encryption(now.past(), before) != nil && len(before) >= leastRuns
}

// What happens on ordinary days gives no hint, and files that are encrypted in place do.
func TestHintAtEncryption(t *testing.T) {
	office := days(day{900, 200, 500, 40}, day{1100, 300, 600, 60}, day{700, 90, 350, 20}, day{1300, 420, 700, 90})
	blind := days(day{900, 200, 0, 0}, day{1100, 300, 0, 0}, day{700, 90, 0, 0})
	locked := days(day{900, 900, 880, 880}, day{1100, 1100, 1090, 1090}, day{700, 699, 650, 650})
	photos := days(day{9000, 8800, 300, 120}, day{400, 200, 200, 50}, day{12000, 11700, 500, 190})
	for name, c := range map[string]struct {
		now    day
		before []Past
		want   bool
	}{
		"an ordinary day":                               {day{1000, 250, 520, 45}, office, false},
		"a lot is written":                              {day{40_000, 9000, 22_000, 1500}, office, false},
		"an update of the system":                       {day{5000, 1200, 2600, 500}, office, false},
		"a database grows":                              {day{30_000, 600, 1000, 60}, office, false},
		"an upload of photos":                           {day{60_000, 58_000, 900, 200}, office, false},
		"photos again":                                  {day{15_000, 14_600, 600, 210}, photos, false},
		"a few files are packed in place":               {day{700, 400, 300, 200}, office, false},
		"a guest that encrypts its disks, a long day":   {day{30_000, 30_000, 28_000, 28_000}, locked, false},
		"files are encrypted in place":                  {day{50_000, 48_000, 47_000, 46_000}, office, true},
		"some of them":                                  {day{2200, 1500, 1400, 900}, office, true},
		"of a VM with photos":                           {day{50_000, 49_000, 48_000, 47_000}, photos, true},
		"encrypted, and the target does not tell":       {day{50_000, 48_000, 0, 0}, blind, true},
		"an ordinary day, and the target does not tell": {day{1500, 600, 0, 0}, blind, false},
		"files are encrypted in the first days":         {day{50_000, 48_000, 47_000, 46_000}, office[:2], false},
	} {
		require.Equal(t, c.want, hinted(c.now, c.before), name)
	}
	full := day{50_000, 48_000, 47_000, 46_000}.past()
	full.Increment = false
	require.Nil(t, encryption(full, office), "a run without a base says nothing of a change")
}

// Days that differ by chance as a VM's do, a thousand years of them, are quiet: the rule's share of false alarms.
func TestHintIsQuiet(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 11))
	alarms, n := 0, 0
	for range 1000 { // VMs
		scale := 100 + rnd.Int64N(3000)
		own := rnd.Float64() * 0.4 // share that is compressed already
		var before []Past
		for range 365 {
			moved := int64(float64(scale) * (0.3 + rnd.ExpFloat64()))
			over := int64(float64(moved) * (0.3 + 0.4*rnd.Float64()))
			share := min(1, own*(0.5+rnd.Float64()))
			d := day{moved, int64(float64(moved) * share), over, int64(float64(over) * share)}
			if rnd.IntN(100) == 0 { // an upload of what is compressed, a tenth of it where other data was
				up := 5000 + rnd.Int64N(50_000)
				d = day{d.moved + up, d.random + up, d.over + up/10, d.randomized + up/10}
			}
			p := d.past()
			if len(before) >= leastRuns {
				n++
				if encryption(p, before) != nil {
					alarms++
				}
			}
			before = append([]Past{p}, before[:min(len(before), usualRuns-1)]...)
		}
	}
	t.Logf("%d hints in %d days", alarms, n)
	require.Less(t, float64(alarms)/float64(n), 1.0/2000, "more than one false hint in five years and a half of a VM")
}

// A figure is remarkable where it is far from what it usually is, and large enough to matter.
func TestRemarks(t *testing.T) {
	run := func(seconds float64, moved, stored int64) Past {
		return Past{Increment: true, Seconds: seconds, Moved: moved * mib, Stored: stored * mib}
	}
	before := []Past{run(100, 900, 500), run(110, 1000, 600), run(90, 1100, 550), run(105, 950, 580)}
	kinds := func(now Past, before []Past) (out []string) {
		for _, r := range remarks(now, before) {
			out = append(out, r.Kind)
		}
		return out
	}
	require.Empty(t, kinds(run(130, 1500, 800), before))
	require.Equal(t, []string{"time"}, kinds(run(260, 1000, 500), before))
	require.Equal(t, []string{"moved", "stored"}, kinds(run(100, 40_000, 20_000), before))
	require.Empty(t, kinds(run(900, 40_000, 20_000), before[:2]), "two runs are no rule")
	wild := []Past{run(30, 10, 10), run(600, 10, 10), run(90, 10, 10), run(900, 10, 10)}
	require.Empty(t, kinds(run(1100, 10, 10), wild), "it differs from day to day")
	require.Empty(t, kinds(run(50, 300, 200), []Past{run(5, 30, 20), run(5, 30, 20), run(5, 30, 20)}), "ten times of little is little")
}

// A session is held against runs of its own kind: an increment against increments.
func TestUsual(t *testing.T) {
	record := func(i int, base string, seconds float64) job.Record {
		return job.Record{Kind: job.KindBackup, Backup: &job.Result{Session: fmt.Sprintf("%d-aaaaaaaa", i), VM: "web1", Point: "p", Base: base, Started: at(i), Seconds: seconds,
			Disks: []job.DiskResult{{Key: "disk0", Moved: int64(seconds) * mib}}}}
	}
	earlier := []job.Record{record(6, "b", 20), record(5, "", 900), record(4, "b", 30), record(3, "b", 40), record(2, "", 800)}
	r := New(record(7, "b", 300), earlier)
	require.Equal(t, 3, r.Usual.Runs)
	require.InDelta(t, 30, r.Usual.Seconds, 0.01)
	require.Len(t, r.Remarks, 1)
	require.Equal(t, "It took 5:00 min, and usually 30.0 s. The line on where the time went says what it waited for.", r.Remarks[0].Text)
	full := New(record(7, "", 300), earlier)
	require.Equal(t, 2, full.Usual.Runs)
	require.Empty(t, full.Remarks)
	require.Nil(t, New(record(1, "", 5), nil).Usual)
}
