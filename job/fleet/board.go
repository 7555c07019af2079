package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"time"

	"github.com/hikae/hikae/job/queue"
)

// board is the tables that dispatchers and workers share.
type board struct {
	outcomes queue.Table // JOB.RUN.TASK: what became of it
	tries    queue.Table // the same: how often it was begun
	runs     queue.Table // JOB.RUN: how many tasks, and whether it was cancelled
	effects  queue.Table // CLAIM.ID: what its holder did outside, for the next one to undo
	claims   *queue.Claims
}

func openBoard(ctx context.Context, q queue.Queue, lease time.Duration) (*board, error) {
	b := &board{}
	for name, t := range map[string]*queue.Table{"outcomes": &b.outcomes, "tries": &b.tries, "runs": &b.runs, "effects": &b.effects} {
		var err error
		if *t, err = q.Table(ctx, name); err != nil {
			return nil, err
		}
	}
	claims, err := q.Table(ctx, "claims")
	if err != nil {
		return nil, err
	}
	b.claims = queue.NewClaims(claims, lease)
	return b, nil
}

type runDoc struct {
	Version   int       `json:"version"`
	Tasks     int       `json:"tasks"`
	Started   time.Time `json:"started"`
	Cancelled bool      `json:"cancelled,omitempty"`

	States map[State]int `json:"states,omitempty"` // how the tasks ended, once all have
}

func decodeRun(b []byte) (doc runDoc, err error) {
	if err := queue.CheckVersion("run", b); err != nil {
		return doc, err
	}
	err = queue.Strict(b, &doc)
	if err == nil && (doc.Tasks < 0 || doc.Tasks > MaxTasks) {
		err = fmt.Errorf("run of %d tasks: %w", doc.Tasks, ErrInvalid)
	}
	return doc, err
}

type triesDoc struct {
	Version int `json:"version"`
	Tries   int `json:"tries"`
}

func decodeTries(b []byte) (doc triesDoc, err error) {
	if err := queue.CheckVersion("tries", b); err != nil {
		return doc, err
	}
	err = queue.Strict(b, &doc)
	if err == nil && (doc.Tries < 0 || doc.Tries > math.MaxInt32) { // one more is always a number
		err = fmt.Errorf("%d tries: %w", doc.Tries, ErrInvalid)
	}
	return doc, err
}

// outcome is what became of a task; nil: nothing yet.
func (b *board) outcome(ctx context.Context, key string) (*Outcome, error) {
	e, err := b.outcomes.Get(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	o, err := decodeOutcome(e.Value)
	return &o, err
}

// settle creates an outcome. It returns the one that stands: another one's where that was first.
func (b *board) settle(ctx context.Context, key string, o *Outcome) (*Outcome, error) {
	value, err := o.encode()
	if err != nil {
		return nil, err
	}
	_, err = b.outcomes.Create(ctx, key, value)
	if err == nil {
		return o, b.forgetTries(ctx, key)
	}
	if !errors.Is(err, queue.ErrConflict) {
		return nil, err
	}
	first, err := b.outcome(ctx, key)
	if err == nil && first == nil {
		err = fmt.Errorf("outcome of %s: %w", key, queue.ErrConflict)
	}
	return first, err
}

// count changes how often a task was begun, and returns it.
func (b *board) count(ctx context.Context, key string, by int) (int, error) {
	for {
		doc := triesDoc{Version: version}
		e, err := b.tries.Get(ctx, key)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		there := err == nil
		if there {
			if doc, err = decodeTries(e.Value); err != nil {
				return 0, err
			}
		}
		doc.Tries = max(doc.Tries+by, 0)
		value, err := json.Marshal(doc)
		if err != nil {
			return 0, err
		}
		if there {
			_, err = b.tries.Update(ctx, key, value, e.Revision)
		} else {
			_, err = b.tries.Create(ctx, key, value)
		}
		if !errors.Is(err, queue.ErrConflict) {
			return doc.Tries, err
		}
	}
}

// forgetTries is done behind an outcome, which nobody tries again.
func (b *board) forgetTries(ctx context.Context, key string) error {
	e, err := b.tries.Get(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = b.tries.Delete(ctx, key, e.Revision)
	}
	if errors.Is(err, queue.ErrConflict) {
		return nil
	}
	return err
}

// run is a run's entry; fs.ErrNotExist: there is none.
func (b *board) run(ctx context.Context, job, run string) (doc runDoc, revision uint64, err error) {
	e, err := b.runs.Get(ctx, queue.Key(job, run))
	if err != nil {
		return doc, 0, err
	}
	doc, err = decodeRun(e.Value)
	return doc, e.Revision, err
}

// cancelled reports whether nobody wants a run any more. What cannot be asked is not cancelled.
func (b *board) cancelled(ctx context.Context, job, run string) bool {
	doc, _, err := b.run(ctx, job, run)
	return err == nil && doc.Cancelled
}
