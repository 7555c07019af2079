package hypervvolume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/hyperv/vhdx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ledger is a journal that keeps what is not done.
type ledger struct{ open map[string]hikae.Effect }

func (l *ledger) Intend(_ context.Context, e hikae.Effect) (func(context.Context) error, error) {
	if l.open == nil {
		l.open = map[string]hikae.Effect{}
	}
	e.ID = fmt.Sprint(len(l.open) + 1)
	l.open[e.ID] = e
	return func(context.Context) error { delete(l.open, e.ID); return nil }, nil
}

func host(t *testing.T) (*hypervtest.Host, *hypervtest.Guest) {
	t.Helper()
	h, err := hypervtest.Start(&hypervtest.Options{JobTime: time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(h.Close)
	id := h.AddVM(hypervtest.VM{Name: "web1", Disks: []hypervtest.Disk{{Size: 4 << 20, BlockSize: 1 << 20}}})
	g := h.VM(id)
	require.NoError(t, g.Write(0, 1<<20, bytes.Repeat([]byte{'a'}, 4096)))
	return h, g
}

// A volume is pinned, mounted once, read by production names, and deleted; effects are written first and taken back.
func TestTake(t *testing.T) {
	ctx := context.Background()
	h, g := host(t)
	s, j := New(h), &ledger{}
	_, err := s.Volume(ctx, "elsewhere", g.Tip(0))
	require.ErrorIs(t, err, errors.ErrUnsupported)
	volume, err := s.Volume(ctx, h.Name(), g.Tip(0))
	require.NoError(t, err)
	snap, err := s.Take(ctx, h.Name(), "mark", []string{volume}, j)
	require.NoError(t, err)
	require.Len(t, j.open, 1)
	require.Equal(t, Name, j.open["1"].Facts["snapshotter"])
	require.NoError(t, g.Write(0, 1<<20, bytes.Repeat([]byte{'b'}, 4096)))
	img, err := vhdx.OpenIn(ctx, snap, g.Tip(0), nil)
	require.NoError(t, err)
	p := make([]byte, 4096)
	_, err = img.ReadAt(ctx, p, 1<<20)
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte{'a'}, 4096), p)
	require.NoError(t, img.Close())
	h.Fail(hypervtest.Fault{Event: "storage.unmount", Reason: "the proxy is busy"})
	require.Error(t, snap.Delete(ctx))
	require.Len(t, j.open, 1)
	require.NoError(t, snap.Delete(ctx))
	require.NoError(t, snap.Delete(ctx))
	require.Empty(t, j.open)
	require.Empty(t, h.Leftovers())
	require.Equal(t, 1, h.Storage().Counts().Mounts)
}

// After an error nothing is left.
func TestTakeFails(t *testing.T) {
	ctx := context.Background()
	h, _ := host(t)
	s, j := New(h), &ledger{}
	for _, event := range []string{"storage.snapshot", "storage.mount"} {
		h.Fail(hypervtest.Fault{Event: event, Reason: "the array is full"})
		_, err := s.Take(ctx, h.Name(), "mark", []string{`C:\`}, j)
		require.ErrorContains(t, err, "full")
		require.Empty(t, j.open)
		require.Empty(t, h.Leftovers())
	}
	_, err := s.Transport(ctx, h.Name(), "mark", "{no}", nil, j)
	require.Error(t, err)
	require.Empty(t, j.open)
}

// What a dead session left is found by its mark, and nothing else.
func TestUndo(t *testing.T) {
	ctx := context.Background()
	h, _ := host(t)
	s, j := New(h), &ledger{}
	_, err := s.Take(ctx, h.Name(), "dead", []string{`C:\`}, j)
	require.NoError(t, err)
	other, err := s.Take(ctx, h.Name(), "alive", []string{`C:\`}, nil)
	require.NoError(t, err)
	e := j.open["1"]
	require.NoError(t, s.Undo(ctx, e))
	require.NoError(t, s.Undo(ctx, e))
	require.Equal(t, 1, h.Storage().Counts().Held)
	require.NoError(t, other.Delete(ctx))
	e.Facts = map[string]string{"snapshotter": Name, "host": h.Name()}
	require.Error(t, s.Undo(ctx, e), "without a mark everything would fit")
	var _ hyperv.VolumeSnapshotter = s
}
