// Package moverstore is a store on another machine, reached through a data mover: what a blind target keeps.
//
// The mover at the other end knows no key of the repository. It stores whole objects, created and never replaced, and
// says what this peer may see of them; package repo runs here, over [Store], as over any other store.
//
//	repo ── Store ── calls of pipe/mover/wire ──────── mover ── guard ── a store
//	        parts of at most 1 MiB, four under way      puts the parts together, checks, creates
//
// # What to know first
//
// Every answer costs a round trip of the line. An object is announced, brought in parts in any order, and sealed; only
// the sealing creates it. A call that was cut off is sent again by the session and carried out once, so a lost
// connection leaves no doubt about a creation. A session that the other side no longer knows does: then the object is
// brought again in the next one, and where there is one already it is read back, if this peer may; if not, the answer is
// fs.ErrExist, and whoever chose a name that is nobody else's knows what that means.
//
// What was created is durable, and what is said to exist too. What could not be made durable is store.ErrNotDurable,
// whether or not it can be read: nobody may take it for stored.
//
// Errors are those of [store.Store], and fs.ErrPermission for what this peer may not do; all of them are *fs.PathError,
// and errors.As finds the *wire.Fail with the other side's words.
package moverstore

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/repo/store"
)

// Caller is one session with the other side. Calls may be made at the same time; those that were cut off are sent
// again, and each is carried out once. Errors: *wire.Fail as answered, mover.ErrLostSession or session.ErrLost, whatever
// else ends a session, and the context's.
type Caller interface {
	Call(ctx context.Context, req wire.Message) (wire.Message, error)
}

// Sessions gives the current session, or a new one where the last was lost.
type Sessions func(ctx context.Context) (Caller, error)

// Store is a store on another machine. It is safe for concurrent use.
type Store struct {
	sessions Sessions
	closed   atomic.Bool
}

var (
	_ store.Store  = (*Store)(nil)
	_ store.Prober = (*Store)(nil)
	_ store.Spacer = (*Store)(nil)
)

const (
	partsUnderWay = 4                // of one object
	dropDeadline  = 10 * time.Second // to tell the other side that an object will not be finished
)

// Over makes a store of what a blind target keeps. Closing the store leaves the client open.
func Over(c *mover.Client) *Store {
	return New(func(ctx context.Context) (Caller, error) { return c.Session(ctx) })
}

// New is Over for any sessions.
func New(sessions Sessions) *Store { return &Store{sessions: sessions} }

// Create brings an object in parts and seals it. It is durable on nil, and after fs.ErrExist what is there is.
func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	err := s.valid(store.ValidName(name))
	if err == nil {
		err = s.again(ctx, func(c Caller, lost bool) error {
			err := create(ctx, c, name, data)
			if lost {
				err = settled(ctx, c, name, data, err)
			}
			return err
		})
	}
	return failed("create", name, err)
}

// create brings an object in one session.
func create(ctx context.Context, c Caller, name string, data []byte) error {
	if len(data) > wire.MaxObject {
		return fmt.Errorf("%w: %d bytes, and a mover takes at most %d", fs.ErrInvalid, len(data), wire.MaxObject)
	}
	opened, err := call[*wire.StoreOpened](ctx, c, &wire.StoreOpen{Name: name, Size: int64(len(data))})
	if err != nil {
		return err
	}
	if err := bring(ctx, c, opened.Object, data); err != nil {
		drop(ctx, c, opened.Object)
		return err
	}
	_, err = call[*wire.OK](ctx, c, &wire.StoreSeal{Object: opened.Object})
	return err
}

// bring sends an object's parts, several at a time.
func bring(ctx context.Context, c Caller, object wire.Ref, data []byte) error {
	g, each := errgroup.WithContext(ctx)
	g.SetLimit(partsUnderWay)
	for off := 0; off < len(data) && each.Err() == nil; off += wire.MaxPart {
		g.Go(func() error {
			part := data[off:min(off+wire.MaxPart, len(data))]
			_, err := call[*wire.OK](each, c, &wire.StorePart{Object: object, Off: int64(off), Data: part})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// drop tells the other side to forget an object that was begun. It is only a kindness: the session's end does the same.
func drop(ctx context.Context, c Caller, object wire.Ref) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropDeadline)
	defer cancel()
	_, _ = c.Call(ctx, &wire.StoreDrop{Object: object})
}

// ReadAt reads part of an object.
func (s *Store) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	var n int
	err := s.valid(store.ValidName(name) && off >= 0 && off <= math.MaxInt64-int64(len(p)))
	if err == nil {
		err = s.again(ctx, func(c Caller, _ bool) (err error) {
			n, err = readAt(ctx, c, name, p, off)
			return err
		})
	}
	if err == io.EOF {
		return n, err
	}
	return n, failed("read", name, err)
}

// readAt reads in one session, several parts at a time.
func readAt(ctx context.Context, c Caller, name string, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		_, err := size(ctx, c, name)
		return 0, err
	}
	if len(p) <= wire.MaxPart {
		return readPart(ctx, c, name, p, off)
	}
	got := make([]int, (len(p)+wire.MaxPart-1)/wire.MaxPart)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(partsUnderWay)
	for i := range got {
		g.Go(func() (err error) {
			at := i * wire.MaxPart
			got[i], err = readPart(ctx, c, name, p[at:min(at+wire.MaxPart, len(p))], off+int64(at))
			if err == io.EOF {
				err = nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return joined(got, len(p))
}

// joined is how much of a read of n bytes was there, from what its parts gave.
func joined(got []int, n int) (int, error) {
	total := 0
	for i, part := range got {
		total += part
		if part < min(wire.MaxPart, n-i*wire.MaxPart) {
			return total, io.EOF
		}
	}
	return total, nil
}

func readPart(ctx context.Context, c Caller, name string, p []byte, off int64) (int, error) {
	a, err := call[*wire.Content](ctx, c, &wire.StoreRead{Name: name, Off: off, Len: uint32(len(p))})
	if err != nil {
		return 0, err
	}
	if a.Codec != pipe.Plain || int(a.Plain) != len(a.Data) || len(a.Data) > len(p) {
		return 0, fmt.Errorf("%d bytes in codec %v were answered where at most %d plain ones were asked for", len(a.Data), a.Codec, len(p))
	}
	if n := copy(p, a.Data); n < len(p) {
		return n, io.EOF
	}
	return len(p), nil
}

// Stat returns an object's size.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	info := store.Info{Name: name}
	err := s.valid(store.ValidName(name))
	if err == nil {
		err = s.again(ctx, func(c Caller, _ bool) (err error) {
			info.Size, err = size(ctx, c, name)
			return err
		})
	}
	if err != nil {
		return store.Info{}, failed("stat", name, err)
	}
	return info, nil
}

func size(ctx context.Context, c Caller, name string) (int64, error) {
	a, err := call[*wire.StoreSize](ctx, c, &wire.StoreStat{Name: name})
	if err != nil {
		return 0, err
	}
	return a.Size, nil
}

// Remove removes an object, where the peer may.
func (s *Store) Remove(ctx context.Context, name string) error {
	err := s.valid(store.ValidName(name))
	if err == nil {
		err = s.again(ctx, func(c Caller, lost bool) error {
			_, err := call[*wire.OK](ctx, c, &wire.StoreRemove{Name: name})
			if lost && answers(err, wire.CodeNotFound) {
				return nil // the lost session may have removed it, and gone it is
			}
			return err
		})
	}
	return failed("remove", name, err)
}

// Probe asks what the other side's store can do: the mover probes it there, where the promises are kept.
func (s *Store) Probe(ctx context.Context) (store.Abilities, error) {
	a, err := s.probe(ctx)
	if err != nil {
		return store.Abilities{}, failed("probe", "", err)
	}
	return store.Abilities{ExclusiveCreate: a.ExclusiveCreate, DurableNames: a.DurableNames, FreshReads: a.FreshReads}, nil
}

// Free is how much room the other side has, where it says so.
func (s *Store) Free(ctx context.Context) (int64, error) {
	a, err := s.probe(ctx)
	switch {
	case err != nil:
		return 0, failed("free", "", err)
	case a.Free == math.MaxInt64:
		return 0, failed("free", "", errNotTold)
	}
	return a.Free, nil
}

func (s *Store) probe(ctx context.Context) (is *wire.StoreIs, err error) {
	err = s.again(ctx, func(c Caller, _ bool) (err error) {
		is, err = call[*wire.StoreIs](ctx, c, &wire.StoreProbe{})
		return err
	})
	return is, err
}

// Close ends the use of the store. The session stays open: it is its owner's.
func (s *Store) Close() error {
	s.closed.Store(true)
	return nil
}

// valid says whether a call with such arguments may be made at all.
func (s *Store) valid(args bool) error {
	switch {
	case !args:
		return fs.ErrInvalid
	case s.closed.Load():
		return fs.ErrClosed
	}
	return nil
}

// call makes one call and wants one kind of answer.
func call[A wire.Message](ctx context.Context, c Caller, req wire.Message) (a A, err error) {
	answer, err := c.Call(ctx, req)
	if err != nil {
		return a, err
	}
	a, ok := answer.(A)
	if !ok {
		return a, fmt.Errorf("the other side answered %v with %v", req.Kind(), answer.Kind())
	}
	return a, nil
}
