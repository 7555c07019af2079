package guard

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"strings"
	"sync/atomic"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
)

// Asker is what the stores that [Guard.For] returns can do besides: they say what they would refuse to create before its
// bytes have come. On nil nothing is promised.
type Asker interface {
	MayCreate(ctx context.Context, name string, size int64) error
}

// view is what the two kinds of peers have in common.
type view struct {
	g      *Guard
	peer   string
	closed atomic.Bool
}

// Close ends the peer's use of the store.
func (v *view) Close() error {
	v.closed.Store(true)
	return nil
}

func (v *view) open(ctx context.Context, valid bool) error {
	switch {
	case !valid:
		return fs.ErrInvalid
	case v.closed.Load():
		return fs.ErrClosed
	}
	return ctx.Err()
}

// Probe says what the guarded store can do.
func (v *view) Probe(ctx context.Context) (store.Abilities, error) {
	if err := v.open(ctx, true); err != nil {
		return store.Abilities{}, err
	}
	return v.g.probe(ctx)
}

// Free is the room that the guarded store has.
func (v *view) Free(ctx context.Context) (int64, error) {
	if err := v.open(ctx, true); err != nil {
		return 0, err
	}
	if s, ok := store.As[store.Spacer](v.g.st); ok {
		return s.Free(ctx)
	}
	return 0, errors.ErrUnsupported
}

// create stores an object that was found good. After "it exists" the name is made durable: whoever is told so may rely
// on it, and the one who created it may have died in between.
func (v *view) create(ctx context.Context, name string, data []byte) error {
	err := v.g.st.Create(ctx, name, data)
	if s, ok := store.As[store.Settler](v.g.st); ok && errors.Is(err, fs.ErrExist) {
		if settled := s.Settle(ctx, name[:strings.LastIndexByte(name, '/')+1]); settled != nil {
			return settled
		}
	}
	return err
}

// fullView is the store of a full peer.
type fullView struct{ view }

var (
	_ store.Prober = (*fullView)(nil)
	_ store.Spacer = (*fullView)(nil)
	_ Asker        = (*fullView)(nil)
)

// MayCreate lets pass what is a name.
func (v *fullView) MayCreate(ctx context.Context, name string, _ int64) error {
	return v.g.refused("create", v.peer, name, v.open(ctx, store.ValidName(name)))
}

// Create stores an object. Packs are looked at: what was damaged on its way is not what the peer believes to be there.
func (v *fullView) Create(ctx context.Context, name string, data []byte) error {
	err := v.open(ctx, store.ValidName(name))
	if err == nil && (strings.HasPrefix(name, "data/") || strings.HasPrefix(name, "meta/")) {
		err = repo.CheckCells(data)
	}
	if err == nil {
		err = v.create(ctx, name, data)
	}
	return v.g.refused("create", v.peer, name, err)
}

// ReadAt reads any object.
func (v *fullView) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := v.open(ctx, store.ValidName(name)); err != nil {
		return 0, v.g.refused("read", v.peer, name, err)
	}
	return v.g.st.ReadAt(ctx, name, p, off)
}

// Stat looks at any object.
func (v *fullView) Stat(ctx context.Context, name string) (store.Info, error) {
	if err := v.open(ctx, store.ValidName(name)); err != nil {
		return store.Info{}, v.g.refused("stat", v.peer, name, err)
	}
	return v.g.st.Stat(ctx, name)
}

// List lists any objects. Before a listing of packs is at its end, the names in it are durable: who lists them relies on
// them, and cannot settle them from afar.
func (v *fullView) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	if err := v.open(ctx, store.ValidPrefix(prefix)); err != nil {
		return failing(v.g.refused("list", v.peer, prefix, err))
	}
	if prefix != "data/" && prefix != "meta/" {
		return v.g.st.List(ctx, prefix)
	}
	return func(yield func(store.Info, error) bool) {
		for info, err := range v.g.st.List(ctx, prefix) {
			if !yield(info, err) || err != nil {
				return
			}
		}
		if err := v.g.settle(ctx, prefix); err != nil {
			yield(store.Info{}, v.g.refused("list", v.peer, prefix, err))
		}
	}
}

// Remove removes any object.
func (v *fullView) Remove(ctx context.Context, name string) error {
	if err := v.open(ctx, store.ValidName(name)); err != nil {
		return v.g.refused("remove", v.peer, name, err)
	}
	return v.g.st.Remove(ctx, name)
}

// failing is a listing that only says why it cannot be.
func failing(err error) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) { yield(store.Info{}, err) }
}
