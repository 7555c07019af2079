package mover

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo/store/memstore"
)

// leaving is a backend whose caller leaves while a call is carried out.
type leaving struct {
	pipe.Backend
	leave context.CancelFunc
}

func (l *leaving) left() {
	if l.leave != nil {
		l.leave()
	}
}

func (l *leaving) Begin(ctx context.Context, vm string, o *pipe.PointOptions) (pipe.PointWriter, error) {
	w, err := l.Backend.Begin(context.WithoutCancel(ctx), vm, o)
	l.left()
	return &leavingWriter{w, l}, err
}

func (l *leaving) Open(ctx context.Context, point, disk string) (pipe.Image, error) {
	img, err := l.Backend.Open(context.WithoutCancel(ctx), point, disk)
	l.left()
	return img, err
}

type leavingWriter struct {
	pipe.PointWriter
	l *leaving
}

func (w *leavingWriter) Disk(ctx context.Context, key string, size int64) (pipe.Target, error) {
	t, err := w.PointWriter.Disk(context.WithoutCancel(ctx), key, size)
	w.l.left()
	return t, err
}

// What was opened for a caller who has left meanwhile is closed, with its number, its turn and its place.
func TestOpenedForNobody(t *testing.T) {
	t.Parallel()
	l := &leaving{}
	p := newPlace(t, func(h *host) { l.Backend, h.backend = h.backend, l })
	id := mustBackup(t, p.repo, "web/vm", pipetest.Bytes(chacha(1, testBlock)), nil)
	h := p.session("web", trust.Append, nil)
	call := uint64(0)
	leave := func(req wire.Message) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		l.leave = cancel
		call++
		_, err := h.Handle(ctx, call, req)
		l.leave = nil
		require.Error(t, err)
	}
	for range maxImages + 2 {
		leave(&wire.OpenDisk{Point: id, Disk: "disk0"})
	}
	require.Empty(t, h.images.by)
	for range maxWriters + 2 {
		leave(&wire.Begin{VM: "vm"})
	}
	require.Empty(t, h.writers.each())
	call++
	w := do[*wire.Begun](t, h, call, &wire.Begin{VM: "vm"}).Writer // it waits for those before
	require.EqualValues(t, 1, p.admission.writing.Load())
	leave(&wire.StartDisk{Writer: w, Key: "d", Size: testBlock})
	require.Empty(t, h.disks.each())
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	call++
	_, err := h.Handle(gone, call, &wire.StartBlob{Writer: w, Name: "config"})
	require.Error(t, err)
	require.Empty(t, h.blobs.each())
	call++
	do[*wire.OK](t, h, call, &wire.DropPoint{Writer: w})
	require.Zero(t, p.admission.writing.Load())
}

// The same of a blind target's objects.
func TestObjectOpenedForNobody(t *testing.T) {
	t.Parallel()
	host, err := newHost(&ServerOptions{Blind: &blindShelf{store: memstore.New(nil)}}, nil)
	require.NoError(t, err)
	h, err := newHandler(t.Context(), host, trust.Peer{Name: "web", Role: trust.Append}, func(wire.Message) {})
	require.NoError(t, err)
	defer h.Close()
	h.undo(do[*wire.StoreOpened](t, h, 1, &wire.StoreOpen{Name: "data/1", Size: 1 << 20}))
	require.Empty(t, h.objects.each())
}
