package moverstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/repo/store"
)

// Blind is the other end: it makes a mover a blind target that keeps what open returns for a peer, which is for one
// session and closed with it. What stands between the peer and the objects is open's to say: package repo/guard has it.
func Blind(open func(ctx context.Context, peer trust.Peer) (store.Store, error)) mover.BlindStore {
	return blind(open)
}

type blind func(ctx context.Context, peer trust.Peer) (store.Store, error)

func (b blind) Open(ctx context.Context, peer trust.Peer) (mover.BlindSession, error) {
	st, err := b(ctx, peer)
	if err != nil {
		return nil, err
	}
	return &blindSession{st}, nil
}

// blindSession is a store as a mover wants one.
type blindSession struct{ st store.Store }

// Asker is an optional ability of the store that is opened for a peer: it says what it would refuse to create before the
// object's bytes have come. On nil nothing is promised. Errors: fs.ErrPermission, fs.ErrInvalid.
type Asker interface {
	MayCreate(ctx context.Context, name string, size int64) error
}

var _ mover.BlindAsker = (*blindSession)(nil)

func (s *blindSession) MayCreate(ctx context.Context, name string, size int64) error {
	if a, ok := store.As[Asker](s.st); ok {
		return toTell(a.MayCreate(ctx, name, size))
	}
	if !store.ValidName(name) {
		return fs.ErrInvalid
	}
	return nil
}

// Create settles what exists: the peer relies on the answer, and who created it may have died before it was durable.
func (s *blindSession) Create(ctx context.Context, name string, data []byte) error {
	err := s.st.Create(ctx, name, data)
	if settler, ok := store.As[store.Settler](s.st); ok && errors.Is(err, fs.ErrExist) {
		if settled := settler.Settle(ctx, folder(name)); settled != nil {
			err = settled
		}
	}
	return toTell(err)
}

func (s *blindSession) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	n, err := s.st.ReadAt(ctx, name, p, off)
	return n, toTell(err)
}

func (s *blindSession) Stat(ctx context.Context, name string) (int64, error) {
	info, err := s.st.Stat(ctx, name)
	return info.Size, toTell(err)
}

func (s *blindSession) List(ctx context.Context, prefix string) iter.Seq2[mover.BlindObject, error] {
	return func(yield func(mover.BlindObject, error) bool) {
		for info, err := range s.st.List(ctx, prefix) {
			if !yield(mover.BlindObject{Name: info.Name, Size: info.Size}, toTell(err)) {
				return
			}
		}
	}
}

func (s *blindSession) Remove(ctx context.Context, name string) error {
	return toTell(s.st.Remove(ctx, name))
}

func (s *blindSession) Probe(ctx context.Context) (mover.BlindAbilities, error) {
	out := mover.BlindAbilities{Free: -1}
	if p, ok := store.As[store.Prober](s.st); ok {
		can, err := p.Probe(ctx)
		if err != nil {
			return out, toTell(err)
		}
		out.ExclusiveCreate, out.DurableNames, out.FreshReads = can.ExclusiveCreate, can.DurableNames, can.FreshReads
	}
	if sp, ok := store.As[store.Spacer](s.st); ok {
		if n, err := sp.Free(ctx); err == nil {
			out.Free = n
		}
	}
	return out, nil
}

func (s *blindSession) Close() error { return s.st.Close() }

// toTell gives the errors of stores that a mover does not know its own names.
func toTell(err error) error {
	switch {
	case errors.Is(err, store.ErrForeign):
		return fmt.Errorf("%w: %w", mover.ErrForeign, err)
	case errors.Is(err, store.ErrNotDurable):
		return fmt.Errorf("%w: %w", mover.ErrNotDurable, err)
	}
	if b, ok := errors.AsType[interface {
		error
		Busy() bool
	}](err); ok && b.Busy() {
		return fmt.Errorf("%w: %w", mover.ErrBusy, err)
	}
	return err
}
