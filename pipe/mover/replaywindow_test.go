package mover

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

var quick = settings{patience: 15 * time.Second, impatient: time.Second}.withDefaults()

func keepOne(t testing.TB, k *keeper, n byte, size int) *kept {
	t.Helper()
	c, _, err := k.keep(t.Context(), &quick, pipe.ID{n}, pipe.Plain, make([]byte, size))
	require.NoError(t, err)
	return c
}

// Content is kept until the target says that it is durable, and no longer; a full window makes the next block wait.
func TestWindowWaitsForWhatIsDurable(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWindow(100)
		k, e := newKeeper(w), &epoch{}
		k.settle(e, 1) // a target that settles
		for n := range byte(4) {
			k.placed(keepOne(t, k, n, 25), e, uint64(n)+10)
		}
		done := make(chan struct{})
		go func() { defer close(done); keepOne(t, k, 9, 25) }()
		time.Sleep(14 * time.Second)
		select {
		case <-done:
			t.Fatal("it did not wait")
		default:
		}
		k.settle(e, 11) // only call 10
		<-done
		require.Nil(t, k.find(pipe.ID{0}))
		require.NotNil(t, k.find(pipe.ID{1}))
		require.EqualValues(t, 100, w.used)
		k.settle(&epoch{}, 99) // of another session
		require.NotNil(t, k.find(pipe.ID{1}))
		k.close()
		require.Zero(t, w.used)
	})
}

// A target that settles nothing, such as one without durable packs, is not waited for again and again: what is oldest
// goes, and is counted.
func TestWindowOfATargetThatSettlesNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWindow(100)
		k, e := newKeeper(w), &epoch{}
		since := time.Now()
		pushed := int64(0)
		for n := range byte(100) {
			c, out, err := k.keep(t.Context(), &quick, pipe.ID{n}, pipe.Plain, make([]byte, 25))
			require.NoError(t, err)
			pushed += out
			k.placed(c, e, uint64(n))
		}
		require.Equal(t, time.Second, time.Since(since), "it waits once")
		require.EqualValues(t, 96*25, pushed)
		require.EqualValues(t, 100, w.used)
		require.NotNil(t, k.find(pipe.ID{99}))
		require.Nil(t, k.find(pipe.ID{95}))

		other := newKeeper(w) // whose part is none: it gets some of the largest
		c, out, err := other.keep(t.Context(), &quick, pipe.ID{200}, pipe.Plain, make([]byte, 25))
		require.NoError(t, err)
		require.EqualValues(t, 25, out)
		other.placed(c, e, 1)
		require.NotNil(t, other.find(pipe.ID{200}))
		require.Nil(t, k.find(pipe.ID{96}), "the oldest of the other")
		require.EqualValues(t, 100, w.used)
	})
}

// Several writers that fill the window have equal parts of it in the end, and none goes without, as long as there is
// anything that was placed.
func TestWindowIsShared(t *testing.T) {
	s := quick
	s.impatient = time.Nanosecond
	w, e := newWindow(800), &epoch{}
	keepers := make([]*keeper, 8)
	number := uint64(0)
	for i := range keepers {
		keepers[i] = newKeeper(w)
		for n := range 70 { // the first takes nearly all
			c, _, err := keepers[i].keep(t.Context(), &s, pipe.ID{byte(n), 1}, pipe.Plain, make([]byte, 10))
			require.NoError(t, err)
			number++
			keepers[i].placed(c, e, number)
		}
	}
	for i, k := range keepers {
		require.InDelta(t, 100, w.parts[k], 20, "writer %d", i)
		require.NotNil(t, k.find(pipe.ID{69, 1}), "the newest of each")
	}
	for _, k := range keepers {
		k.close()
	}
	require.Zero(t, w.used)
	require.Empty(t, w.parts)

	// What is under way cannot be pushed out: then a block goes without being kept.
	busy, late := newKeeper(w), newKeeper(w)
	keepOne(t, busy, 1, 800)
	c, out, err := late.keep(t.Context(), &s, pipe.ID{2}, pipe.Plain, make([]byte, 10))
	require.NoError(t, err)
	require.True(t, c.untracked)
	require.EqualValues(t, 10, out)
}

func TestWindowEdges(t *testing.T) {
	w := newWindow(100)
	k, e := newKeeper(w), &epoch{}
	k.placed(keepOne(t, k, 1, 500), e, 7) // one block always has room
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := k.keep(ctx, &quick, pipe.ID{2}, pipe.Plain, make([]byte, 1))
	require.ErrorIs(t, err, context.Canceled)
	k.settle(e, 8)
	require.Zero(t, w.used)

	// It may be told before the answer is there.
	early := keepOne(t, k, 3, 10)
	k.settle(e, 20)
	require.NotNil(t, k.find(pipe.ID{3}))
	k.placed(early, e, 19)
	require.Nil(t, k.find(pipe.ID{3}))

	// The same content twice is kept once.
	first, second := keepOne(t, k, 4, 10), keepOne(t, k, 4, 10)
	require.EqualValues(t, 10, w.used)
	k.failed(second)
	require.Same(t, first, k.find(pipe.ID{4}))
	k.failed(first)
	require.Zero(t, w.used)

	// The other side's limit and ours: the smaller one counts.
	w.setLimit(30)
	require.EqualValues(t, 30, w.limit)
	w.setLimit(1 << 40)
	require.EqualValues(t, 100, w.limit)
	w.setLimit(0)
	require.EqualValues(t, 100, w.limit)
}

// Notes come back in order, from memory and from a file that nobody else sees.
func TestNotes(t *testing.T) {
	dir := t.TempDir()
	n := newNotes(dir)
	defer n.close()
	r := rand.New(rand.NewPCG(1, 1))
	var want []note
	for i := range 20_000 {
		next := note{disk: uint16(i % 3), extent: pipe.Extent{Off: int64(i) << 20, Len: 65536, Kind: pipe.Data}, id: pipe.ID{byte(i), byte(i >> 8)}}
		if i%4 == 0 {
			next.extent.Kind, next.id = pipe.Kind(2+r.IntN(5)), pipe.ID{}
		}
		want = append(want, next)
		require.NoError(t, n.add(next))
		if i == 100 || i == 19_999 {
			var got []note
			require.NoError(t, n.all(func(n note) error { got = append(got, n); return nil }))
			require.Equal(t, want, got)
		}
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	if os.PathSeparator == '/' {
		require.Empty(t, files)
	}
	stop := errors.New("stop")
	require.ErrorIs(t, n.all(func(note) error { return stop }), stop)
}

// A long run of unchanged ranges is one note.
func TestNotesOfMarksThatContinue(t *testing.T) {
	n := newNotes(t.TempDir())
	defer n.close()
	mark := func(off int64, kind pipe.Kind, disk uint16) {
		require.NoError(t, n.add(note{disk: disk, extent: pipe.Extent{Off: off, Len: 10, Kind: kind}}))
	}
	for off := int64(0); off < 1000; off += 10 {
		mark(off, pipe.Unchanged, 0)
	}
	mark(1000, pipe.Zero, 0)
	mark(1010, pipe.Zero, 1)
	mark(1020, pipe.Zero, 1)
	mark(1020, pipe.Zero, 1) // again: it continues nothing
	var got []pipe.Extent
	require.NoError(t, n.all(func(n note) error { got = append(got, n.extent); return nil }))
	require.Equal(t, []pipe.Extent{
		{Off: 0, Len: 1000, Kind: pipe.Unchanged}, {Off: 1000, Len: 10}, {Off: 1010, Len: 20}, {Off: 1020, Len: 10},
	}, got)
}

func TestTape(t *testing.T) {
	dir := t.TempDir()
	tp := newTape(dir)
	var want []byte
	for i := range 300 {
		p := bytes.Repeat([]byte{byte(i)}, 5000)
		want = append(want, p...)
		require.NoError(t, tp.add(p))
	}
	r, err := tp.reader()
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	big := bytes.Repeat([]byte("x"), 3*tapeTail)
	require.NoError(t, tp.add(big))
	r, err = tp.reader()
	require.NoError(t, err)
	got, err = io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(append(want, big...), got))
	tp.close()
	tp.close()
	require.ErrorIs(t, tp.add(nil), os.ErrClosed)
	_, err = tp.reader()
	require.ErrorIs(t, err, os.ErrClosed)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// Where the notes have no room, the backup goes on and a person is told; only a restart of the target ends it then.
func TestNotesWithoutRoom(t *testing.T) {
	var mu sync.Mutex
	var warnings []string
	m := newMortal(t)
	change := func(s *settings) {
		s.CacheDir = filepath.Join(t.TempDir(), "is not there")
		s.Warn = func(text string) { mu.Lock(); defer mu.Unlock(); warnings = append(warnings, text) }
	}
	c := m.client(change)
	_, err := backUp(t.Context(), c, nil, map[string]pipe.Image{"d0": source(1)})
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	require.True(t, strings.Contains(warnings[0], "notes"), warnings[0])

	m.kind, m.when = wire.KindCommit, func(int) (uint64, bool) { return 1, false }
	m.last.kill()
	_, err = backUp(t.Context(), c, nil, map[string]pipe.Image{"d0": source(2)})
	require.ErrorIs(t, err, ErrLostContent)
	require.Len(t, m.points(), 1)
}

// RELIABILITY bar 17: a bit that turns over behind TLS, before the target has proven the block, is found, and the block
// is sent again. Where the content is wrong on this side already, it is not sent twice.
func TestBitsThatTurnOverOnTheWay(t *testing.T) {
	var spoilt atomic.Int64
	r := rand.New(rand.NewPCG(3, 3))
	p := newPlace(t, nil)
	c := testClient(t, func(_ int, push func(wire.Message)) (line, error) {
		d := newDirect(p.session("full", trust.Full, push))
		var mu sync.Mutex
		d.spoil = func(frame []byte) {
			const fields = wire.HeaderSize + 50
			mu.Lock()
			defer mu.Unlock()
			if wire.Kind(frame[4]) == wire.KindPut && len(frame) > 10_000 && r.IntN(3) == 0 {
				frame[fields+r.IntN(len(frame)-fields)] ^= 1 << r.IntN(8)
				spoilt.Add(1)
			}
		}
		return d, nil
	}, nil)
	const size = 40 * testBlock
	src := dense(5, size)
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(t.Context(), "disk0", size)
	require.NoError(t, err)
	for try := 0; ; try++ { // three in a row are possible, and then it is the caller who tries again
		if _, err = pipe.Copy(t.Context(), d, src, nil); err == nil || try == 10 {
			break
		}
		require.ErrorIs(t, err, pipe.ErrBlockMismatch)
	}
	require.NoError(t, err)
	require.Greater(t, spoilt.Load(), int64(5))
	require.NoError(t, d.Commit(t.Context()))
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	requireSame(t, p.repo, id, src)

	puts := spoilt.Load()
	w2, err := c.Begin(t.Context(), "vm2", nil)
	require.NoError(t, err)
	defer w2.Close()
	d2, err := w2.Disk(t.Context(), "disk0", size)
	require.NoError(t, err)
	_, err = d2.(pipe.BlockTarget).PutBlock(t.Context(), 0, pipe.ID{1}, testBlock, pipe.Plain, bytes.Repeat([]byte{7}, testBlock))
	require.ErrorIs(t, err, pipe.ErrBlockMismatch)
	require.LessOrEqual(t, spoilt.Load(), puts+1, "it was sent once")
}
