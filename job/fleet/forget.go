package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/hikae/hikae/job/queue"
)

// Keep is how long the tables tell of runs that are over. Zero fields are good defaults.
type Keep struct {
	Age  time.Duration // of a run whose tasks all have outcomes, from its beginning; zero: 30 days
	Runs int           // of one job, the newest; zero: 100
}

const (
	defaultAge  = 30 * 24 * time.Hour
	defaultRuns = 100
)

// known is a run as its entry tells it.
type known struct {
	queue.Entry
	doc runDoc
}

// Forget removes what the tables tell of a job's old runs, and notes of effects that are as old as that. A run that is not complete stays
// whatever its age; where it is one too many it goes, and tasks of it that the queue has still are dropped by whoever takes them.
// It returns how many runs were removed. Points are not touched. [Dispatch] does this at its end.
func Forget(ctx context.Context, q queue.Queue, job string, keep *Keep) (removed int, err error) {
	b, err := openBoard(ctx, q, q.Lease())
	if err != nil {
		return 0, err
	}
	return b.forget(ctx, job, "", keep)
}

// forget leaves the run that is being dispatched.
func (b *board) forget(ctx context.Context, job, but string, keep *Keep) (removed int, err error) {
	k := Keep{}
	if keep != nil {
		k = *keep
	}
	k.Age, k.Runs = cmp.Or(k.Age, defaultAge), cmp.Or(k.Runs, defaultRuns)
	runs, err := b.runsOf(ctx, job)
	if err != nil {
		return 0, err
	}
	for i, run := range runs {
		if run.Key == queue.Key(job, but) {
			continue
		}
		if i < k.Runs && (time.Since(run.doc.Started) < k.Age || run.doc.States == nil) {
			continue
		}
		if err := b.forgetRun(ctx, run); err != nil {
			return removed, fmt.Errorf("forgetting run %s: %w", run.Key, err)
		}
		removed++
	}
	return removed, b.forgetEffects(ctx, k.Age)
}

// runsOf are a job's runs, the newest first.
func (b *board) runsOf(ctx context.Context, job string) (runs []known, err error) {
	for e, err := range b.runs.List(ctx, queue.Key(job)) {
		if err != nil {
			return nil, err
		}
		r := known{Entry: e}
		if r.doc, err = decodeRun(e.Value); err != nil {
			if newer, ok := errors.AsType[*queue.VersionError](err); ok && newer != nil {
				continue // a newer program's to judge
			}
			return nil, fmt.Errorf("run %q: %w", e.Key, err)
		}
		runs = append(runs, r)
	}
	slices.SortFunc(runs, func(a, b known) int { return cmp.Or(b.doc.Started.Compare(a.doc.Started), cmp.Compare(a.Key, b.Key)) })
	return runs, nil
}

// forgetRun removes the entry last: what is broken off is begun again by the next one.
func (b *board) forgetRun(ctx context.Context, run known) error {
	for _, t := range []queue.Table{b.outcomes, b.tries} {
		if err := removeAll(ctx, t, run.Key, func(queue.Entry) bool { return true }); err != nil {
			return err
		}
	}
	return ignoreConflict(b.runs.Delete(ctx, run.Key, run.Revision))
}

func removeAll(ctx context.Context, t queue.Table, prefix string, old func(queue.Entry) bool) error {
	var gone []queue.Entry
	for e, err := range t.List(ctx, prefix) {
		if err != nil {
			return err
		}
		if old(e) {
			gone = append(gone, queue.Entry{Key: e.Key, Revision: e.Revision})
		}
	}
	for _, e := range gone {
		if err := ignoreConflict(t.Delete(ctx, e.Key, e.Revision)); err != nil {
			return err
		}
	}
	return nil
}

func ignoreConflict(err error) error {
	if errors.Is(err, queue.ErrConflict) {
		return nil
	}
	return err
}

// forgetEffects removes notes that nobody came to undo: of VMs that no run has had for so long. The machine that made them has them in
// its own journal.
func (b *board) forgetEffects(ctx context.Context, age time.Duration) error {
	return removeAll(ctx, b.effects, "", func(e queue.Entry) bool {
		d, err := decodeEffect(e.Value)
		return err == nil && time.Since(d.Noted) > age
	})
}

// concluded writes into a run's entry how its tasks ended, so that nobody needs to read all of them to tell.
func (b *board) concluded(ctx context.Context, job, run string, states map[State]int) error {
	for {
		doc, revision, err := b.run(ctx, job, run)
		if errors.Is(err, fs.ErrNotExist) || err == nil && maps.Equal(doc.States, states) {
			return nil
		}
		if err != nil {
			return err
		}
		doc.States = states
		value, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		if _, err = b.runs.Update(ctx, queue.Key(job, run), value, revision); !errors.Is(err, queue.ErrConflict) {
			return err
		}
	}
}
