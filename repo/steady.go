package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/store"
)

// A store that fails says nothing of what it holds, and a bad cable or a bad bit in memory shows other bytes each time. Who
// takes that for damage writes over what is whole, or calls it bad for ever. So only two answers are definite: the object is
// not there, or two readings of it gave the same bytes and those do not verify.

// ErrUnread says that the store failed each time it was asked for an object: whether that is damaged is not known, and
// nothing was done about it.
type ErrUnread struct {
	Object string // name in the store
	Err    error
}

func (e *ErrUnread) Error() string {
	return fmt.Sprintf("%s could not be read, so whether it is damaged is not known: %v", e.Object, e.Err)
}

func (e *ErrUnread) Unwrap() error { return e.Err }

// errUnsteady says that each reading gave other bytes.
var errUnsteady = errors.New("no two readings gave the same bytes")

// steadyWaits are the pauses between readings; there is one reading more.
var steadyWaits = []time.Duration{50 * time.Millisecond, 400 * time.Millisecond}

// steady reads until there is a definite answer: bytes that are whole, or two times the same bytes that are not, or an error
// that is about the object. Else it is *ErrUnread.
func steady(ctx context.Context, name string, read func() ([]byte, error), whole func([]byte) bool) ([]byte, error) {
	var before [][]byte
	var failed error
	for i := 0; ; i++ {
		file, err := read()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case isFailure(err):
			failed = err
		case err != nil || whole(file):
			return file, err
		default:
			for _, b := range before {
				if bytes.Equal(b, file) {
					return file, nil
				}
			}
			before = append(before, file)
			failed = errUnsteady
		}
		if i == len(steadyWaits) {
			return nil, &ErrUnread{Object: name, Err: failed}
		}
		if len(before) > 0 && failed == errUnsteady {
			continue // nothing failed: what was read is read again at once
		}
		if err := wait(ctx, steadyWaits[i]); err != nil {
			return nil, err
		}
	}
}

// wholeCells reports whether every cell of a file proves itself.
func wholeCells(file []byte) bool {
	_, damaged, err := cell.Check(file)
	return err == nil && len(damaged) == 0
}

// steadily does again what the store failed at.
func steadily(ctx context.Context, name string, do func() error) error {
	for i := 0; ; i++ {
		err := do()
		if ctx.Err() != nil || !isFailure(err) {
			return err
		}
		if i == len(steadyWaits) {
			return &ErrUnread{Object: name, Err: err}
		}
		if err := wait(ctx, steadyWaits[i]); err != nil {
			return err
		}
	}
}

func isUnread(err error) bool {
	_, ok := errors.AsType[*ErrUnread](err)
	return ok
}

// readSteady reads a whole object.
func readSteady(ctx context.Context, st store.Store, name string, limit int64) ([]byte, error) {
	return steady(ctx, name, func() ([]byte, error) { return readAll(ctx, st, name, limit) }, wholeCells)
}

// maxUnread bounds how many objects may fail before a run stops: then it is the store, and not they.
const maxUnread = 16

// unreadable enters an object that the store fails at. The error stops the run, where there were too many.
func (v *verification) unreadable(name string, err error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.unread[name] {
		return nil
	}
	if v.unread == nil {
		v.unread = map[string]bool{}
	}
	v.unread[name] = true
	reason := err
	if u, ok := errors.AsType[*ErrUnread](err); ok {
		reason = u.Err
	}
	v.rep.Damaged = append(v.rep.Damaged, Damage{Object: name, Unread: true, Reason: "could not be read: " + reason.Error()})
	if len(v.unread) > maxUnread {
		return err
	}
	return nil
}

// unsettled reports whether it is not known what an object holds.
func (v *verification) unsettled(name string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.unread[name]
}

// unsure notes content of which it is not known whether it can be had.
func (v *verification) unsure(p packRef, id pipe.ID) {
	if num, ok := v.idx.number(p); ok {
		v.idx.markBad(id, num)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.doubtful == nil {
		v.doubtful = map[pipe.ID]bool{}
	}
	v.doubtful[id] = true
}

// blinded finds out whether there is a pack of which nobody can say what it holds: then nothing can be called lost.
func (v *verification) blinded() {
	for p := range v.sizes {
		if v.unsettled(p.name()) && !v.idx.has(p) {
			v.blind = true
			return
		}
	}
}
