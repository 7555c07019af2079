package mover

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// testBlock is the block size of repositories in tests.
const testBlock = 64 << 10

// place is a trusted target without its network: a real repository behind the handlers of sessions.
type place struct {
	*host
	t     testing.TB
	repo  *repo.Repository
	store store.Store
	seen  *tally
}

// newPlace makes a target. change may replace parts of it before the first session.
func newPlace(t testing.TB, change func(*host)) *place {
	t.Helper()
	st := memstore.New(nil)
	r, err := repo.Init(t.Context(), st, repo.KeyFile([32]byte{1}), &repo.InitOptions{BlockSize: testBlock}, repoOptions(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	p := &place{t: t, repo: r, store: st, seen: &tally{}}
	p.host = newHostFor(t, r, p.seen)
	if change != nil {
		change(p.host)
	}
	return p
}

func repoOptions(t testing.TB) *repo.OpenOptions {
	return &repo.OpenOptions{CacheDir: t.TempDir(), Warn: func(s string) { t.Log("warning:", s) }}
}

func newHostFor(t testing.TB, b pipe.Backend, o Observer) *host {
	h, err := newHost(&ServerOptions{Backend: b, StateDir: t.TempDir(), Observer: o, Log: slog.New(slog.DiscardHandler)}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.tenants.close()) })
	return h
}

// session begins a session of a peer.
func (p *place) session(name string, role trust.Role, push func(wire.Message)) *handler {
	p.t.Helper()
	if push == nil {
		push = func(wire.Message) {}
	}
	h, err := newHandler(p.t.Context(), p.host, trust.Peer{Name: name, Role: role}, push)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { require.NoError(p.t, h.Close()) })
	return h
}

// client is a far peer of the target.
func (p *place) client(name string, role trust.Role) *Client {
	return testClient(p.t, func(_ int, push func(wire.Message)) (line, error) {
		return newDirect(p.session(name, role, push)), nil
	}, nil)
}

// direct is a session without connections. Messages go through their coding, so that what a handler gets is what it
// would get from the wire.
type direct struct {
	h     *handler
	calls atomic.Uint64
	spoil func(frame []byte) // after the wire, before the handler
}

func newDirect(h *handler) *direct { return &direct{h: h} }

func (d *direct) CallNumbered(ctx context.Context, req wire.Message) (uint64, wire.Message, error) {
	n := d.calls.Add(1)
	frame, err := wire.Append(nil, wire.Frame{Call: n, Message: req})
	if err != nil {
		return n, nil, err
	}
	if d.spoil != nil {
		d.spoil(frame)
	}
	f, err := wire.NewReader(bytes.NewReader(frame)).Read()
	if err != nil {
		return n, nil, err
	}
	answer, err := d.h.Handle(ctx, f.Call, f.Message)
	if err != nil {
		return n, nil, err
	}
	answer, err = recode(answer)
	return n, answer, err
}

func (d *direct) Close() error { return d.h.Close() }

// do makes a call of which the answer is of a kind.
func do[A wire.Message](t testing.TB, h *handler, call uint64, req wire.Message) A {
	t.Helper()
	answer, err := h.Handle(t.Context(), call, req)
	require.NoError(t, err)
	a, ok := answer.(A)
	require.True(t, ok, "%v was answered by %v", req.Kind(), answer.Kind())
	return a
}

// fails makes a call that is answered with a code.
func fails(t testing.TB, h *handler, call uint64, code wire.Code, req wire.Message) *wire.Fail {
	t.Helper()
	_, err := h.Handle(t.Context(), call, req)
	f, ok := errors.AsType[*wire.Fail](err)
	require.True(t, ok, "%v: %v", req.Kind(), err)
	require.Equal(t, code, f.Code, "%v: %v", req.Kind(), f)
	return f
}

// tally is an observer that adds up.
type tally struct {
	sessions                             atomic.Int64
	known, missing, plain, brought, news atomic.Int64
	failed, refused                      atomic.Int64
	in, out                              atomic.Int64
}

func (o *tally) Session(_ string, delta int) { o.sessions.Add(int64(delta)) }
func (o *tally) Wire(in, out int64)          { o.in.Add(in); o.out.Add(out) }
func (o *tally) Blocks(_ string, b BlockCount) {
	o.known.Add(b.Known)
	o.missing.Add(b.Missing)
	o.plain.Add(b.PlainBytes)
	o.brought.Add(b.WireBytes)
	o.news.Add(b.Stored)
}
func (o *tally) Failed(string, wire.Kind, wire.Code) { o.failed.Add(1) }
func (o *tally) Refused(string)                      { o.refused.Add(1) }

// backup makes a point of one disk.
func backup(ctx context.Context, b pipe.Backend, vm string, img pipe.Image, opts *pipe.PointOptions) (string, error) {
	w, err := b.Begin(ctx, vm, opts)
	if err != nil {
		return "", err
	}
	defer w.Close()
	t, err := w.Disk(ctx, "disk0", img.Size())
	if err != nil {
		return "", err
	}
	defer t.Close()
	if _, err := pipe.Copy(ctx, t, img, nil); err != nil {
		return "", err
	}
	if err := t.Commit(ctx); err != nil {
		return "", err
	}
	if err := w.Blob(ctx, "config", bytes.NewReader([]byte("name = "+vm))); err != nil {
		return "", err
	}
	return w.Commit(ctx, map[string]string{"disk0": "change-1"})
}

func mustBackup(t testing.TB, b pipe.Backend, vm string, img pipe.Image, opts *pipe.PointOptions) string {
	t.Helper()
	id, err := backup(t.Context(), b, vm, img, opts)
	require.NoError(t, err)
	return id
}

// requireSame holds a point's disk against the image that it was made from, byte by byte.
func requireSame(t testing.TB, b pipe.Backend, point string, want pipe.Image) {
	t.Helper()
	img, err := b.Open(t.Context(), point, "disk0")
	require.NoError(t, err)
	defer img.Close()
	require.Equal(t, want.Size(), img.Size())
	a, c := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < want.Size(); off += int64(len(a)) {
		n := min(int64(len(a)), want.Size()-off)
		_, err := img.ReadAt(t.Context(), a[:n], off)
		require.True(t, err == nil || errors.Is(err, io.EOF), "%v", err)
		_, err = want.ReadAt(t.Context(), c[:n], off)
		require.True(t, err == nil || errors.Is(err, io.EOF), "%v", err)
		require.True(t, bytes.Equal(a[:n], c[:n]), "the disks differ in the MiB at %d", off)
	}
}

func longTier() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// What an append peer writes is, to the last byte, what the repository gives back; its VM has the peer's name before
// its own there, and not for the peer.
func TestAppendPeerWrites(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	c := p.client("web", trust.Append)
	first := pipetest.NewPattern(1, 20*testBlock+512, pipetest.RandomLayout(1, 20*testBlock+512, pipe.Data, pipe.Zero)...)
	id := mustBackup(t, c, "vm1", first, nil)
	requireSame(t, p.repo, id, first)

	again := mustBackup(t, c, "vm1", first, &pipe.PointOptions{Base: id})
	requireSame(t, p.repo, again, first)
	require.Greater(t, p.seen.known.Load(), int64(0), "nothing was known of what this peer had sent")

	for point, err := range p.repo.Points(t.Context(), "web/vm1") {
		require.NoError(t, err)
		require.Contains(t, []string{id, again}, point.ID)
	}
	var seen []string
	for point, err := range c.Points(t.Context(), "") {
		require.NoError(t, err)
		require.Equal(t, "vm1", point.VM)
		require.Equal(t, "change-1", point.Tracking["disk0"])
		seen = append(seen, point.ID)
	}
	require.Equal(t, []string{id, again}, seen)
}
