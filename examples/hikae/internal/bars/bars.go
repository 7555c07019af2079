// Package bars shows on a terminal how far long work has come: a bar for each disk with bytes, rate and the time left.
package bars

import (
	"io"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
)

// Bars is a set of bars. The nil *Bars shows nothing. Its methods are called from one goroutine at a time.
type Bars struct {
	progress *mpb.Progress
	bars     map[string]*bar
	phase    string // in front of a disk's name
}

// bar is one line.
type bar struct {
	*mpb.Bar
	last time.Time
	done int64
}

// New shows bars on w, a terminal.
func New(w io.Writer) *Bars {
	return &Bars{
		progress: mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh(), mpb.WithWidth(48), mpb.WithRefreshRate(150*time.Millisecond)),
		bars:     map[string]*bar{},
	}
}

// Event follows a session.
func (b *Bars) Event(e job.Event) {
	if b == nil {
		return
	}
	switch e := e.(type) {
	case job.PhaseStarted:
		b.phase = map[job.Phase]string{job.PhaseCompare: "compare "}[e.Phase]
	case job.DiskStarted:
		b.Set(b.phase+e.Key, 0, e.Size)
	case job.DiskProgress:
		b.Set(b.phase+e.Key, e.Done, e.Total)
	case job.DiskDone:
		b.Set(b.phase+e.Key, e.Stats.Size, e.Stats.Size)
	}
}

// Set moves the bar of that name, and makes it where it is not there.
func (b *Bars) Set(name string, done, total int64) {
	if b == nil || total <= 0 {
		return
	}
	line, ok := b.bars[name]
	if !ok {
		line = &bar{Bar: b.add(name, total), last: time.Now()}
		b.bars[name] = line
	}
	now := time.Now()
	if done < line.done { // the point was begun again
		line.SetCurrent(done)
	} else {
		line.EwmaSetCurrent(done, now.Sub(line.last))
	}
	line.last, line.done = now, done
}

func (b *Bars) add(name string, total int64) *mpb.Bar {
	const decaySeconds = 30
	return b.progress.New(total, mpb.BarStyle().Lbound(" ").Filler("━").Tip("━").Padding("─").Rbound(" "),
		mpb.PrependDecorators(
			decor.Name(outcome.Clean(name), decor.WCSyncSpaceR),
			decor.Percentage(decor.WCSyncSpace)),
		mpb.AppendDecorators(
			decor.CountersKibiByte("% .1f / % .1f", decor.WCSyncSpace),
			decor.OnComplete(decor.EwmaSpeed(decor.SizeB1024(0), "% .1f", decaySeconds, decor.WCSyncSpace), ""),
			decor.OnComplete(decor.EwmaETA(decor.ET_STYLE_GO, decaySeconds, decor.WCSyncSpace), "done")))
}

// Close ends the bars where they stand, and leaves the terminal as text needs it.
func (b *Bars) Close() {
	if b == nil {
		return
	}
	for _, line := range b.bars {
		line.Abort(false) // leaves a full bar alone; to ask whether it is full would race with the last drawing of it
	}
	b.progress.Wait()
}
