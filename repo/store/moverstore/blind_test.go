package moverstore_test

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/guard"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/moverstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// target is a blind target on 127.0.0.1: a real mover over TLS, a guard, and a store, in memory where the test says nothing.
type target struct {
	t       testing.TB
	st      *memstore.Store // nil: another
	under   store.Store
	said    lines // the target's log
	dir     string
	book    *trust.Book
	id      *trust.Identity
	address string

	mu   sync.Mutex
	stop func(kill bool)
}

// lines is a log that may be read while it is written.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	return len(p), nil
}

// with are the lines that contain every one of the parts.
func (l *lines) with(parts ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			found = append(found, line)
		}
	}
	return found
}

func newTarget(t testing.TB) *target {
	t.Helper()
	st := memstore.New(nil)
	x := newTargetOf(t, st)
	x.st = st
	return x
}

func newTargetOf(t testing.TB, under store.Store) *target {
	t.Helper()
	x := &target{t: t, under: under, dir: t.TempDir()}
	var err error
	x.book, err = trust.OpenBook(x.dir)
	require.NoError(t, err)
	x.id, err = trust.LoadIdentity(x.dir)
	require.NoError(t, err)
	x.start("127.0.0.1:0")
	t.Cleanup(func() { x.end(false) })
	return x
}

// start starts the mover, which knows nothing of sessions before.
func (x *target) start(address string) {
	x.t.Helper()
	log := slog.New(slog.NewTextHandler(&x.said, nil))
	g, err := guard.New(x.under, &guard.Options{Dir: x.dir, Log: log})
	require.NoError(x.t, err)
	blind := moverstore.Blind(func(_ context.Context, p trust.Peer) (store.Store, error) {
		return g.For(p.Name, p.Role == trust.Full), nil
	})
	s, err := mover.NewServer(&mover.ServerOptions{Identity: x.id, Book: x.book, Blind: blind, Log: log})
	require.NoError(x.t, err)
	l, err := net.Listen("tcp", address)
	require.NoError(x.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.address = l.Addr().String()
	x.stop = func(kill bool) {
		if kill {
			cancel() // cuts what is there
		}
		wait, release := context.WithTimeout(context.Background(), 10*time.Second)
		defer release()
		_ = s.Shutdown(wait)
		cancel()
		<-done
	}
}

func (x *target) end(kill bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stop(kill)
	x.stop = func(bool) {}
}

// dial enrols a new peer and connects as it.
func (x *target) dial(name string, role trust.Role) *mover.Client {
	x.t.Helper()
	token, err := x.book.AddToken(x.id.Pin(), name, role, time.Hour)
	require.NoError(x.t, err)
	once, err := token.Identity()
	require.NoError(x.t, err)
	id, err := trust.NewIdentity()
	require.NoError(x.t, err)
	_, err = x.book.Enrol(once.Pin(), id.PublicKey(), "test")
	require.NoError(x.t, err)
	c, err := mover.Dial(x.t.Context(), x.address, &mover.DialOptions{Identity: id, ServerPin: x.id.Pin(), GiveUp: 20 * time.Second})
	require.NoError(x.t, err)
	x.t.Cleanup(func() { require.NoError(x.t, c.Close()) })
	return c
}

// The suite, over TLS and real sessions.
func TestStoreOverAMover(t *testing.T) {
	x := newTarget(t)
	owner := x.dial("owner", trust.Full)
	storetest.TestStore(t, func(t testing.TB) store.Store { return moverstore.Over(owner) })
}

var secret = repo.KeyFile([32]byte{7})

const block = 64 << 10

func options(t testing.TB) *repo.OpenOptions {
	return &repo.OpenOptions{CacheDir: t.TempDir(), Warn: func(s string) { t.Log("warning:", s) }}
}

func disk(seed uint64) pipe.Image { return pipetest.NewPattern(seed, 60*block+777).Blank() }

func backup(ctx context.Context, r *repo.Repository, vm string, img pipe.Image, base string, between func()) (string, error) {
	w, err := r.Begin(ctx, vm, &pipe.PointOptions{Base: base})
	if err != nil {
		return "", err
	}
	defer w.Close()
	d, err := w.Disk(ctx, "disk0", img.Size())
	if err != nil {
		return "", err
	}
	defer d.Close()
	if _, err := pipe.Copy(ctx, d, img, nil); err != nil {
		return "", err
	}
	if err := w.Blob(ctx, "config", strings.NewReader(vm)); err != nil {
		return "", err
	}
	if between != nil {
		between()
	}
	if err := d.Commit(ctx); err != nil {
		return "", err
	}
	return w.Commit(ctx, nil)
}

func requireRestores(t testing.TB, r *repo.Repository, point string, seed uint64) {
	t.Helper()
	img, err := r.Open(t.Context(), point, "disk0")
	require.NoError(t, err)
	defer img.Close()
	want, got := make([]byte, img.Size()), make([]byte, img.Size())
	_, err = disk(seed).ReadAt(t.Context(), want, 0)
	require.NoError(t, err)
	_, err = img.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
}

// R177, DESIGN §7: an owner makes a repository on a blind target, enrols a write-only client, which backs up over the
// line; the owner restores over the line. The target is started anew under both of them again and again.
func TestBlindTarget(t *testing.T) {
	ctx := t.Context()
	x := newTarget(t)
	restart := func() {
		address := x.address
		x.end(true)
		x.start(address)
	}
	owner, err := repo.Init(ctx, moverstore.Over(x.dial("owner", trust.Full)), secret, &repo.InitOptions{BlockSize: block}, options(t))
	require.NoError(t, err)
	defer owner.Close()
	theirs, err := backup(ctx, owner, "db", disk(1), "", nil)
	require.NoError(t, err)
	restart()
	key, err := owner.EnrolWriter(ctx, []string{"web"})
	require.NoError(t, err)

	host := x.dial("web-host", trust.Append)
	cache := memstore.New(nil)
	w, err := repo.OpenWriter(ctx, moverstore.Over(host), cache, key, options(t))
	require.NoError(t, err)
	first, err := backup(ctx, w, "web", disk(2), "", restart)
	require.NoError(t, err)
	restart()
	second, err := backup(ctx, w, "web", disk(2), first, restart)
	require.NoError(t, err)
	info, err := w.Resolve(ctx, second)
	require.NoError(t, err)
	require.Less(t, info.New, int64(block))
	require.NoError(t, w.Close())
	require.Empty(t, x.said.with("level=WARN", "msg=refused"), "ordinary backups give no cause for alarm")

	restart()
	requireRestores(t, owner, theirs, 1)
	requireRestores(t, owner, first, 2)
	requireRestores(t, owner, second, 2)
	rep, err := owner.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep)

	// What the write-only client's connection gives to whoever has taken it over.
	far := moverstore.Over(host)
	for name := range collect(t, x.st) {
		if strings.HasPrefix(name, "data/") || strings.HasPrefix(name, "slot/") || strings.HasPrefix(name, "manifest/") {
			_, err := far.ReadAt(ctx, name, make([]byte, 9), 0)
			require.ErrorIs(t, err, fs.ErrPermission, name)
			require.ErrorIs(t, far.Remove(ctx, name), fs.ErrPermission, name)
		}
	}
	_, err = repo.Open(ctx, far, secret, options(t))
	require.ErrorIs(t, err, fs.ErrPermission, "not even with the passphrase")
	require.NotEmpty(t, x.said.with("level=WARN", "msg=refused", "web-host"), "and these do")
}

func collect(t testing.TB, st store.Store) map[string]int64 {
	t.Helper()
	found, err := storetest.Collect(st.List(t.Context(), ""))
	require.NoError(t, err)
	return found
}
