package guard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/guard"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const block = 64 << 10

var secret = repo.KeyFile([32]byte{4, 5, 6})

// site is a blind target with a repository in it, as its owner and its clients see it.
type site struct {
	t    testing.TB
	st   *memstore.Store
	g    *guard.Guard
	full *repo.Repository
	said *bytes.Buffer // the guard's log
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, st: memstore.New(nil), said: new(bytes.Buffer)}
	var err error
	s.g, err = guard.New(s.st, &guard.Options{Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(s.said, nil))})
	require.NoError(t, err)
	s.full, err = repo.Init(t.Context(), s.g.For("owner", true), secret, &repo.InitOptions{BlockSize: block}, s.options())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.full.Close()) })
	return s
}

func (s *site) options() *repo.OpenOptions {
	return &repo.OpenOptions{CacheDir: s.t.TempDir(), Warn: func(text string) { s.t.Log("warning:", text) }}
}

func (s *site) enrol(vms ...string) repo.WriterKey {
	s.t.Helper()
	key, err := s.full.EnrolWriter(s.t.Context(), vms)
	require.NoError(s.t, err)
	return key
}

// writer is a write-only client that reaches the store through the guard.
func (s *site) writer(peer string, key repo.WriterKey, cache store.Store) *repo.Repository {
	s.t.Helper()
	r, err := repo.OpenWriter(s.t.Context(), s.g.For(peer, false), cache, key, s.options())
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, r.Close()) })
	return r
}

// reader opens a slot, on the bare store.
func (s *site) reader() *repo.Repository {
	s.t.Helper()
	r, err := repo.Open(s.t.Context(), s.st, secret, s.options())
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, r.Close()) })
	return r
}

func disk(seed uint64) pipe.Image {
	return pipetest.NewPattern(seed, 24*block+777, pipe.Extent{Off: 3 * block, Len: 2 * block, Kind: pipe.Zero}).Blank()
}

func backup(ctx context.Context, r *repo.Repository, vm string, img pipe.Image, opts *pipe.PointOptions) (pipe.PointInfo, error) {
	w, err := r.Begin(ctx, vm, opts)
	if err != nil {
		return pipe.PointInfo{}, err
	}
	defer w.Close()
	d, err := w.Disk(ctx, "disk0", img.Size())
	if err != nil {
		return pipe.PointInfo{}, err
	}
	defer d.Close()
	if _, err := pipe.Copy(ctx, d, img, nil); err != nil {
		return pipe.PointInfo{}, err
	}
	if err := d.Commit(ctx); err != nil {
		return pipe.PointInfo{}, err
	}
	if err := w.Blob(ctx, "config", strings.NewReader(vm)); err != nil {
		return pipe.PointInfo{}, err
	}
	id, err := w.Commit(ctx, map[string]string{"disk0": "change"})
	if err != nil {
		return pipe.PointInfo{}, err
	}
	return r.Resolve(ctx, id)
}

func (s *site) backup(r *repo.Repository, vm string, seed uint64, opts *pipe.PointOptions) pipe.PointInfo {
	s.t.Helper()
	p, err := backup(s.t.Context(), r, vm, disk(seed), opts)
	require.NoError(s.t, err)
	return p
}

func (s *site) requireRestores(r *repo.Repository, point string, seed uint64) {
	s.t.Helper()
	img, err := r.Open(s.t.Context(), point, "disk0")
	require.NoError(s.t, err)
	defer img.Close()
	want, got := make([]byte, img.Size()), make([]byte, img.Size())
	_, err = disk(seed).ReadAt(s.t.Context(), want, 0)
	require.NoError(s.t, err)
	_, err = img.ReadAt(s.t.Context(), got, 0)
	require.NoError(s.t, err)
	require.True(s.t, bytes.Equal(want, got))
}

// R177, DESIGN §7 (blind target): a write-only client backs up through the guard, its second backup is an increment
// from its cache, and without the cache a full; the owner restores them all, and the guard had nothing to refuse.
func TestEndToEnd(t *testing.T) {
	s := newSite(t)
	owners := s.backup(s.full, "db", 1, nil)
	key := s.enrol("web")
	cache := memstore.New(nil)
	w := s.writer("web-host", key, cache)
	first := s.backup(w, "web", 2, nil)
	require.Greater(t, first.New, int64(5*block))
	require.NoError(t, w.Close())

	w = s.writer("web-host", key, cache)
	var known []string
	for p, err := range w.Points(t.Context(), "web") {
		require.NoError(t, err)
		require.Equal(t, map[string]string{"disk0": "change"}, p.Tracking)
		known = append(known, p.ID)
	}
	require.Equal(t, []string{first.ID}, known)
	second := s.backup(w, "web", 2, &pipe.PointOptions{Base: first.ID})
	require.Less(t, second.New, int64(block), "an increment of nothing")
	bare := s.writer("web-host", key, memstore.New(nil))
	third := s.backup(bare, "web", 2, nil)
	require.Greater(t, third.New, int64(5*block), "without a cache all is sent again")
	require.Empty(t, s.said.String(), "nothing was refused")
	_, err := s.g.For("web-host", false).Stat(t.Context(), "meta/0000000000000003/"+strings.Repeat("0", 32))
	require.ErrorIs(t, err, fs.ErrPermission)
	require.Empty(t, s.said.String(), "who looks whether his creation came through is no attacker")

	r := s.reader()
	s.requireRestores(r, owners.ID, 1)
	for _, p := range []pipe.PointInfo{first, second, third} {
		s.requireRestores(r, p.ID, 2)
	}
	rep, err := r.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep)
	for name := range s.all() {
		require.False(t, strings.HasPrefix(name, "beat/"), "%s is left", name)
	}
}

func (s *site) all() map[string]int64 {
	s.t.Helper()
	found, err := storetest.Collect(s.st.List(s.t.Context(), ""))
	require.NoError(s.t, err)
	return found
}

// content is everything that the store holds.
func (s *site) content() map[string]string {
	s.t.Helper()
	out := map[string]string{}
	for name := range s.all() {
		b, err := store.ReadAll(s.t.Context(), s.st, name, 1<<30)
		require.NoError(s.t, err)
		out[name] = string(b)
	}
	return out
}

// A store that a full peer sees is a store like any other.
func TestFullPeer(t *testing.T) {
	storetest.TestStore(t, func(t testing.TB) store.Store {
		g, err := guard.New(memstore.New(nil), nil)
		require.NoError(t, err)
		return g.For("owner", true)
	})
	s := newSite(t)
	s.backup(s.full, "db", 1, nil)
	for name, text := range s.content() {
		if !strings.HasPrefix(name, "data/") {
			continue
		}
		flipped := []byte(text)
		flipped[5000] ^= 1
		err := s.g.For("owner", true).Create(t.Context(), name[:len(name)-1]+"z", flipped)
		require.ErrorIs(t, err, fs.ErrPermission, "damaged on its way")
	}
}

// Before there is a repository nobody who only appends can do anything.
func TestEmptyStore(t *testing.T) {
	st := memstore.New(nil)
	g, err := guard.New(st, nil)
	require.NoError(t, err)
	v := g.For("web-host", false)
	require.ErrorIs(t, v.Create(t.Context(), "header", []byte("x")), repo.ErrNotRepository)
	_, err = v.Stat(t.Context(), "slot/00000000000000000000000000000000")
	require.ErrorIs(t, err, fs.ErrPermission)
	_, err = v.Stat(t.Context(), "header")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, v.Close())
	require.ErrorIs(t, v.Create(t.Context(), "header", nil), fs.ErrClosed)
}

// Every name of a repository in use, tried by a peer that only appends: it reads and lists the header and the log and
// nothing else, removes nothing, overwrites nothing.
func TestWhatAnAppendPeerSees(t *testing.T) {
	ctx := t.Context()
	s := newSite(t)
	s.backup(s.full, "db", 1, nil)
	w := s.writer("web-host", s.enrol("web"), memstore.New(nil))
	s.backup(w, "web", 2, nil)
	v := s.g.For("web-host", false)
	before := s.content()
	kinds := map[string]bool{}
	for name, text := range before {
		bare := strings.TrimPrefix(strings.TrimPrefix(name, "copy1/"), "copy2/")
		kind, _, _ := strings.Cut(bare, "/")
		kinds[kind] = true
		public := kind == "header" || kind == "log"
		_, statErr := v.Stat(ctx, name)
		_, readErr := v.ReadAt(ctx, name, make([]byte, 16), 0)
		if public {
			require.NoError(t, errors.Join(statErr, readErr), name)
		} else {
			require.ErrorIs(t, statErr, fs.ErrPermission, name)
			require.ErrorIs(t, readErr, fs.ErrPermission, name)
		}
		require.ErrorIs(t, v.Remove(ctx, name), fs.ErrPermission, name)
		for _, data := range []string{"", text, text[:len(text)/2]} {
			err := v.Create(ctx, name, []byte(data))
			require.True(t, errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrExist), "%s: %v", name, err)
		}
	}
	for _, kind := range []string{"header", "slot", "log", "data", "meta", "index", "anchor", "manifest"} {
		require.True(t, kinds[kind], "the test has seen no %s", kind)
	}
	for prefix, allowed := range map[string]bool{
		"log/": true, "copy1/log/": true, "copy2/log/": true, "checkpoint/": true, "": false, "data/": false, "meta/": false,
		"manifest/": false, "copy1/manifest/": false, "slot/": false, "copy1/": false, "index/": false, "beat/": false,
		"beat/0000000000000002/": false, "beat/x/": false,
	} {
		_, err := storetest.Collect(v.List(ctx, prefix))
		if allowed {
			require.NoError(t, err, prefix)
		} else {
			require.ErrorIs(t, err, fs.ErrPermission, "%q", prefix)
		}
	}
	require.Equal(t, before, s.content())
	require.Contains(t, s.said.String(), "web-host", "refusals are told, with the peer")

	large := make([]byte, 16<<20+1)
	p, err := repo.OpenPublic(ctx, s.st, nil)
	require.NoError(t, err)
	record := fmt.Sprintf("log/%016x", p.Head()+1)
	for _, name := range []string{record, "copy1/" + record} {
		require.ErrorIs(t, v.Create(ctx, name, large), fs.ErrPermission, "more than a record ever has: %s", name)
	}
}

// Whose a key is stays known across a restart, and a damaged note is not taken for an empty one.
func TestKeysAreRemembered(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	key := s.enrol("web")
	open := func() *guard.Guard {
		g, err := guard.New(s.st, &guard.Options{Dir: dir})
		require.NoError(t, err)
		return g
	}
	use := func(g *guard.Guard, peer string) error {
		w, err := repo.OpenWriter(t.Context(), g.For(peer, false), memstore.New(nil), key, s.options())
		require.NoError(t, err)
		defer w.Close()
		_, err = backup(t.Context(), w, "web", disk(3), nil)
		return err
	}
	require.NoError(t, use(open(), "web-host"))
	require.ErrorIs(t, use(open(), "other-host"), fs.ErrPermission)
	require.NoError(t, use(open(), "web-host"))
	for _, bad := range []string{"", "{", `{"00":"x"}`, `{"` + strings.Repeat("0", 64) + `":""}`, "[]"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "writers.json"), []byte(bad), 0o600))
		_, err := guard.New(s.st, &guard.Options{Dir: dir})
		require.Error(t, err, "%q", bad)
	}
}

// A lost first place of the log is put back from a copy by whoever finds it, byte for byte and no other way.
func TestLogIsMendedByAnAppendPeer(t *testing.T) {
	ctx := t.Context()
	s := newSite(t)
	key := s.enrol("web")
	w := s.writer("web-host", key, memstore.New(nil))
	s.backup(w, "web", 2, nil)
	before := s.content()
	logs := slices.DeleteFunc(slices.Collect(func(yield func(string) bool) {
		for name := range before {
			if !yield(name) {
				return
			}
		}
	}), func(name string) bool { return !strings.HasPrefix(name, "log/") })
	slices.Sort(logs)
	for _, name := range logs {
		s.st.Set(name, nil)
		s.st.Set("copy2/"+name, nil)
		v := s.g.For("web-host", false)
		forged := []byte(before[name])
		forged[100] ^= 1
		require.ErrorIs(t, v.Create(ctx, name, forged), fs.ErrPermission)
		require.NoError(t, s.writer("web-host", key, memstore.New(nil)).Close())
		require.NoError(t, v.Create(ctx, "copy2/"+name, []byte(before[name])))
		require.Equal(t, before, s.content(), name)
	}
}
