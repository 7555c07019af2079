package fleet

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job/queue"
)

// effectDoc is an effect of a session, noted with the claim that it was under.
type effectDoc struct {
	Version int          `json:"version"`
	Noted   time.Time    `json:"noted"`
	Effect  hikae.Effect `json:"effect"`
}

const (
	maxEffect   = 64 << 10 // bytes of one effect
	maxEffects  = 256      // notes of one claim that a sweep looks at
	forgetLimit = 10 * time.Second
)

// Journal is a journal for the task's session. Effects are written into the local one as ever, and noted with the claim besides: a host
// lets nobody at a VM while the snapshot of a dead worker is on it, and that worker's machine, whose journal knows the snapshot, may
// never come back. Whoever takes the claim over calls [Work.Sweep].
func (w *Work) Journal(local hikae.Journal) hikae.Journal {
	j := &journal{w, local}
	if named, ok := local.(session); ok {
		return &namedJournal{j, named}
	}
	return j
}

// session is what some journals tell besides, and drivers put into the names of what they make.
type session interface{ Session() string }

type namedJournal struct {
	*journal
	session
}

type journal struct {
	w     *Work
	local hikae.Journal
}

// Intend makes the effect durable in both places. What the claim's note cannot be made for is not done.
func (j *journal) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	noted := e
	noted.ID, noted.Session = strings.ToLower(rand.Text()), ""
	if s, ok := j.local.(session); ok {
		noted.Session = s.Session()
	}
	value, err := json.Marshal(effectDoc{version, time.Now().UTC(), noted})
	if err == nil && len(value) > maxEffect {
		err = fmt.Errorf("it has %d bytes, at most %d: %w", len(value), maxEffect, ErrInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("note of effect %s: %w", e.Kind, err)
	}
	key := queue.Key(j.w.claim, noted.ID)
	revision, err := j.w.b.effects.Create(ctx, key, value)
	if err != nil {
		return nil, fmt.Errorf("note of effect %s: %w", e.Kind, err)
	}
	done, err := j.local.Intend(ctx, e)
	if err != nil {
		return nil, errors.Join(err, j.forget(ctx, key, revision))
	}
	return func(ctx context.Context) error {
		if err := done(ctx); err != nil {
			return err
		}
		_ = j.forget(ctx, key, revision) // undoing what is undone already is no error: who comes next does it
		return nil
	}, nil
}

func (j *journal) forget(ctx context.Context, key string, revision uint64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetLimit)
	defer cancel()
	return j.w.b.effects.Delete(ctx, key, revision)
}

// Sweep undoes what earlier holders of the claim left on hosts, dead or cut off: call it after [Work.Fence], before anything is
// done. Sweepers are by prefix of an effect's kind, and what depends on points of another repository stays, as with
// [hikae.FileJournal.SweepFor]. What fails stays noted, and is in the error: a backup may succeed in spite of it.
func (w *Work) Sweep(ctx context.Context, repository string, sweepers map[string]hikae.Sweeper, keep []hikae.ChangeID) (undone int, err error) {
	var notes []queue.Entry
	for e, err := range w.b.effects.List(ctx, queue.Key(w.claim)) {
		if err != nil {
			return 0, fmt.Errorf("notes of effects: %w", err)
		}
		if notes = append(notes, e); len(notes) >= maxEffects {
			break
		}
	}
	var errs []error
	for i := len(notes) - 1; i >= 0; i-- { // the newest first
		done, err := w.undo(ctx, notes[i], repository, sweepers, keep)
		if err != nil {
			errs = append(errs, err)
		}
		undone += done
	}
	return undone, errors.Join(errs...)
}

func (w *Work) undo(ctx context.Context, note queue.Entry, repository string, sweepers map[string]hikae.Sweeper, keep []hikae.ChangeID) (int, error) {
	doc, err := decodeEffect(note.Value)
	if err != nil {
		return 0, fmt.Errorf("note of an effect: %w", err)
	}
	e := doc.Effect
	if e.Repository != "" && e.Repository != repository {
		return 0, nil
	}
	s := hikae.SweeperFor(sweepers, e.Kind)
	if s == nil {
		return 0, fmt.Errorf("effect %s: nobody here undoes %q of VM %q", e.ID, e.Kind, e.VM)
	}
	if err := s.Undo(ctx, e, keep); err != nil {
		return 0, fmt.Errorf("effect %s: undo %s of VM %q: %w", e.ID, e.Kind, e.VM, err)
	}
	if err := w.b.effects.Delete(ctx, note.Key, note.Revision); err != nil && !errors.Is(err, queue.ErrConflict) {
		return 0, fmt.Errorf("note of effect %s: %w", e.ID, err)
	}
	return 1, nil
}

func decodeEffect(b []byte) (d effectDoc, err error) {
	if len(b) > maxEffect {
		return d, fmt.Errorf("effect of %d bytes, at most %d: %w", len(b), maxEffect, ErrInvalid)
	}
	if err := queue.CheckVersion("effect", b); err != nil {
		return d, err
	}
	err = queue.Strict(b, &d)
	return d, err
}
