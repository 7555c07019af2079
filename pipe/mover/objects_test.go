package mover

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

func newShelf(testing.TB) store.Store { return memstore.New(nil) }

// blindShelf is a blind target of one store, with a guard that knows two rules: an append peer removes nothing, and reads
// only what is under "log/".
type blindShelf struct{ store store.Store }

func (b *blindShelf) Open(_ context.Context, peer trust.Peer) (BlindSession, error) {
	return &shelfSession{Store: b.store, appends: peer.Role != trust.Full}, nil
}

type shelfSession struct {
	store.Store
	appends bool
}

func (s *shelfSession) refuse(what string) error {
	return fmt.Errorf("to %s is not for this peer: %w", what, fs.ErrPermission)
}

// MayCreate lets pass what is a name, but for "not-mine/" where the peer only appends.
func (s *shelfSession) MayCreate(_ context.Context, name string, _ int64) error {
	switch {
	case !store.ValidName(name):
		return fs.ErrInvalid
	case s.appends && strings.HasPrefix(name, "not-mine/"):
		return s.refuse("create " + name)
	}
	return nil
}

func (s *shelfSession) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if s.appends && name[:min(4, len(name))] != "log/" {
		return 0, s.refuse("read " + name)
	}
	return s.Store.ReadAt(ctx, name, p, off)
}

func (s *shelfSession) Stat(ctx context.Context, name string) (int64, error) {
	i, err := s.Store.Stat(ctx, name)
	return i.Size, err
}

func (s *shelfSession) List(ctx context.Context, prefix string) iter.Seq2[BlindObject, error] {
	return func(yield func(BlindObject, error) bool) {
		for i, err := range s.Store.List(ctx, prefix) {
			if !yield(BlindObject(i), err) || err != nil {
				return
			}
		}
	}
}

func (s *shelfSession) Remove(ctx context.Context, name string) error {
	if s.appends {
		return s.refuse("remove")
	}
	return s.Store.Remove(ctx, name)
}

func (s *shelfSession) Probe(context.Context) (BlindAbilities, error) {
	return BlindAbilities{ExclusiveCreate: true, Free: -1}, nil
}

func (s *shelfSession) Close() error { return nil }

// newBlind is a session with a blind target.
func newBlind(t *testing.T, st store.Store, role trust.Role) *handler {
	hs, err := newHost(&ServerOptions{Blind: &blindShelf{st}}, uncared{})
	require.NoError(t, err)
	h, err := newHandler(t.Context(), hs, trust.Peer{Name: "x", Role: role}, func(wire.Message) {})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, h.Close())
		require.Zero(t, hs.spool.used, "memory was not given back")
		require.Empty(t, hs.spool.holding)
		require.Empty(t, hs.spool.by)
	})
	return h
}

// bring stores an object by parts in any order.
func bring(t *testing.T, h *handler, name string, data []byte, part int) {
	o := do[*wire.StoreOpened](t, h, 1, &wire.StoreOpen{Name: name, Size: int64(len(data))}).Object
	var offs []int
	for off := 0; off < len(data); off += part {
		offs = append(offs, off)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(offs), func(i, j int) { offs[i], offs[j] = offs[j], offs[i] })
	for _, off := range offs {
		do[*wire.OK](t, h, 2, &wire.StorePart{Object: o, Off: int64(off), Data: data[off:min(len(data), off+part)]})
	}
	do[*wire.OK](t, h, 3, &wire.StoreSeal{Object: o})
	fails(t, h, 4, wire.CodeClosed, &wire.StoreSeal{Object: o})
}

func TestBlindObjects(t *testing.T) {
	t.Parallel()
	st := newShelf(t)
	h := newBlind(t, st, trust.Full)
	data := bytes.Repeat([]byte("hikae "), 100_000)
	bring(t, h, "data/a", data, 7000)
	bring(t, h, "log/1", []byte("x"), 1)
	bring(t, h, "log/2", nil, 1)
	got, err := store.ReadAll(t.Context(), st, "data/a", 1<<20)
	require.NoError(t, err)
	require.Equal(t, data, got)

	require.EqualValues(t, len(data), do[*wire.StoreSize](t, h, 1, &wire.StoreStat{Name: "data/a"}).Size)
	part := do[*wire.Content](t, h, 1, &wire.StoreRead{Name: "data/a", Off: int64(len(data)) - 10, Len: 100})
	require.Equal(t, data[len(data)-10:], part.Data)
	require.Equal(t, pipe.Plain, part.Codec)
	fails(t, h, 1, wire.CodeInvalid, &wire.StoreRead{Name: "data/a", Len: wire.MaxPart + 1})

	again := do[*wire.StoreOpened](t, h, 1, &wire.StoreOpen{Name: "data/a", Size: 1}).Object
	do[*wire.OK](t, h, 1, &wire.StorePart{Object: again, Data: []byte("x")})
	f := fails(t, h, 1, wire.CodeExists, &wire.StoreSeal{Object: again}) // creating it decides, and not a look before
	require.Contains(t, f.Text, "data/a")
	require.EqualValues(t, len(data), do[*wire.StoreSize](t, h, 1, &wire.StoreStat{Name: "data/a"}).Size)
	fails(t, h, 1, wire.CodeNotFound, &wire.StoreStat{Name: "data/b"})
	fails(t, h, 1, wire.CodeInvalid, &wire.StoreOpen{Name: "../x", Size: 1})
	is := do[*wire.StoreIs](t, h, 1, &wire.StoreProbe{})
	require.True(t, is.ExclusiveCreate)
	require.EqualValues(t, 1<<63-1, is.Free)

	app := newBlind(t, st, trust.Append)
	bring(t, app, "data/b", []byte("y"), 1)
	fails(t, app, 1, wire.CodeForbidden, &wire.StoreOpen{Name: "not-mine/b", Size: 1})
	fails(t, app, 1, wire.CodeForbidden, &wire.StoreRead{Name: "data/b", Len: 1})
	fails(t, app, 1, wire.CodeForbidden, &wire.StoreRemove{Name: "data/b"})
	do[*wire.Content](t, app, 1, &wire.StoreRead{Name: "log/1", Len: 1})
	do[*wire.OK](t, h, 1, &wire.StoreRemove{Name: "data/b"})
}

// What does not add up to the object that was announced is not stored.
func TestBlindPartsThatDoNotFit(t *testing.T) {
	t.Parallel()
	st := newShelf(t)
	h := newBlind(t, st, trust.Append)
	o := do[*wire.StoreOpened](t, h, 1, &wire.StoreOpen{Name: "data/a", Size: 10}).Object
	do[*wire.OK](t, h, 1, &wire.StorePart{Object: o, Off: 4, Data: []byte("456")})
	for _, m := range []*wire.StorePart{
		{Object: o, Off: 8, Data: []byte("890")}, {Object: o, Off: 1 << 40, Data: []byte("x")}, {Object: o, Off: 11},
		{Object: o, Off: 3, Data: []byte("34")}, {Object: o, Off: 6, Data: []byte("6")}, {Object: o, Off: 5, Data: []byte("5")},
		{Object: o, Off: 0, Data: []byte("0123456789")},
	} {
		fails(t, h, 1, wire.CodeInvalid, m)
	}
	fails(t, h, 1, wire.CodeIncomplete, &wire.StoreSeal{Object: o})
	fails(t, h, 1, wire.CodeClosed, &wire.StorePart{Object: o, Off: 0, Data: []byte("0123")})
	fails(t, h, 1, wire.CodeNotFound, &wire.StoreStat{Name: "data/a"})

	var open []wire.Ref
	for range maxObjects {
		open = append(open, do[*wire.StoreOpened](t, h, 1, &wire.StoreOpen{Name: "data/c", Size: 1}).Object)
	}
	fails(t, h, 1, wire.CodeBusy, &wire.StoreOpen{Name: "data/d", Size: 1})
	do[*wire.OK](t, h, 1, &wire.StoreDrop{Object: open[0]})
	do[*wire.StoreOpened](t, h, 1, &wire.StoreOpen{Name: "data/d", Size: 1})
}

// A listing longer than a message comes in parts, each name once.
func TestBlindListing(t *testing.T) {
	t.Parallel()
	st := newShelf(t)
	const n = wire.MaxExtents + 100
	for i := range n {
		require.NoError(t, st.Create(t.Context(), fmt.Sprintf("data/%05d", i), nil))
	}
	h := newBlind(t, st, trust.Full)
	seen := map[string]bool{}
	m := &wire.StoreList{Prefix: "data/"}
	for call := uint64(1); ; call++ {
		page := do[*wire.StoreNames](t, h, call, m)
		for _, o := range page.Names {
			require.False(t, seen[o.Name])
			seen[o.Name] = true
		}
		if m.List = page.List; !page.More {
			break
		}
	}
	require.Len(t, seen, n)
	fails(t, h, 99, wire.CodeClosed, m)
	for range maxLists {
		do[*wire.StoreNames](t, h, 100, &wire.StoreList{Prefix: "data/"})
	}
	fails(t, h, 101, wire.CodeBusy, &wire.StoreList{Prefix: "data/"})
}
