package smbstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/smbstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// R174, R175: a whole repository on a share: backups by one store, restores by another, which sees them at once.
func TestRepository(t *testing.T) {
	server := startSamba(t)
	st := server.open(t, "repo", nil)
	ctx := t.Context()
	key := repo.KeyFile([32]byte{1, 2, 3})
	open := &repo.OpenOptions{CacheDir: t.TempDir(), Warn: func(s string) { t.Error("warning: ", s) }}
	r, err := repo.Init(ctx, st, key, &repo.InitOptions{BlockSize: 64 << 10}, open)
	require.NoError(t, err)
	const size = 6<<20 + 777
	points := map[string]pipe.Image{}
	for seed := range uint64(2) {
		img := pipetest.NewPattern(seed, size, pipe.Extent{Off: 3 << 20, Len: 1 << 20, Kind: pipe.Zero})
		points[backup(t, r, img)] = img
	}
	require.NoError(t, r.Close())

	other := server.open(t, "repo", nil)
	open = &repo.OpenOptions{CacheDir: t.TempDir(), Warn: open.Warn}
	r, err = repo.Open(ctx, other, key, open)
	require.NoError(t, err)
	defer r.Close()
	for id, want := range points {
		got, err := r.Open(ctx, id, "disk0")
		require.NoError(t, err)
		diff, err := pipe.Compare(ctx, got, want, nil)
		require.NoError(t, err)
		require.Empty(t, diff)
		require.NoError(t, got.Close())
	}

	// The same folder, as the server's own disk has it, is a repository in a directory.
	local, err := dirstore.Open(server.folder("repo"))
	require.NoError(t, err)
	defer local.Close()
	here, err := storetest.Collect(local.List(ctx, ""))
	require.NoError(t, err)
	there, err := storetest.Collect(other.List(ctx, ""))
	require.NoError(t, err)
	require.Equal(t, here, there)
}

func backup(t *testing.T, r *repo.Repository, img pipe.Image) string {
	t.Helper()
	ctx := t.Context()
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	target, err := w.Disk(ctx, "disk0", img.Size())
	require.NoError(t, err)
	defer target.Close()
	_, err = pipe.Copy(ctx, target, img, nil)
	require.NoError(t, err)
	require.NoError(t, target.Commit(ctx))
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	return id
}

// Samba as it comes takes "PACK" and "pack" for one name; others tell them apart. What is listed can be read under that
// name, either way, and another program's files do no harm.
func TestForeignFilesAndCase(t *testing.T) {
	for _, sensitive := range []string{"auto", "yes"} {
		t.Run("case sensitive "+sensitive, func(t *testing.T) {
			ctx := t.Context()
			server := startSamba(t, "case sensitive = "+sensitive)
			st := server.open(t, "repo", nil)
			require.NoError(t, st.Create(ctx, "log/1", []byte("one")))
			plant := func(name, content string) {
				path := filepath.Join(server.folder("repo"), name)
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
			}
			plant("README", "other")
			plant("Thumbs.db", "other")
			plant(".DS_Store", "other")
			plant("log/~1.tmp", "other")
			plant("log/a:b c", "other")
			plant("Pack/7F", "other")
			plant("folder/x/deep", "other")
			require.NoError(t, os.Symlink("/etc/hostname", filepath.Join(server.folder("repo"), "log", "link")))
			require.NoError(t, os.Symlink("1", filepath.Join(server.folder("repo"), "log", "inside")))
			found, err := storetest.Collect(st.List(ctx, ""))
			require.NoError(t, err)
			require.Contains(t, found, "log/1")
			require.NotContains(t, found, "log/link")
			for name, size := range found {
				info, err := st.Stat(ctx, name)
				require.NoError(t, err, name)
				require.Equal(t, size, info.Size, name)
				_, err = store.ReadAll(ctx, st, name, 100)
				require.NoError(t, err, name)
			}
			for _, name := range []string{"readme", "pack/7f", "log/1"} {
				_, statErr := st.Stat(ctx, name)
				_, listed := found[name]
				assert.Equal(t, statErr == nil, listed, "%s: %v", name, statErr)
			}
			require.ErrorIs(t, st.Create(ctx, "folder/x", nil), store.ErrForeign)
			require.ErrorIs(t, st.Remove(ctx, "folder/x"), store.ErrForeign)
			_, err = st.Stat(ctx, "folder/x")
			require.ErrorIs(t, err, store.ErrForeign)
			_, err = st.ReadAt(ctx, "folder/x", make([]byte, 1), 0)
			require.ErrorIs(t, err, store.ErrForeign)
			require.NoError(t, st.Create(ctx, "pack/one", []byte("mine")))
			got, err := store.ReadAll(ctx, st, "pack/one", 100)
			require.NoError(t, err)
			require.Equal(t, "mine", string(got))
			kept, err := os.ReadFile(filepath.Join(server.folder("repo"), "README"))
			require.NoError(t, err)
			require.Equal(t, "other", string(kept))
		})
	}
}

// A folder that vanishes is not an empty store.
func TestFolderIsGone(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := startSamba(t)
	st := server.open(t, "repo", nil)
	require.NoError(t, st.Create(ctx, "log/1", []byte("one")))
	require.NoError(t, os.Rename(server.folder("repo"), server.folder("moved")))
	_, err := st.Stat(ctx, "log/1")
	require.Error(t, err)
	require.NotErrorIs(t, err, fs.ErrNotExist)
	_, err = storetest.Collect(st.List(ctx, ""))
	require.Error(t, err)
	_, err = smbstore.Open(ctx, server.address("repo"), server.creds, quick())
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, os.Rename(server.folder("moved"), server.folder("repo")))
	_, err = st.Stat(ctx, "log/1")
	require.NoError(t, err)
}

// A writer that dies leaves an unfinished file and a claim. As long as its connection is there they stay; then they go.
func TestSweepAndDeadWriters(t *testing.T) {
	ctx := t.Context()
	server := startSamba(t)
	opts := quick()
	opts.BusyWait = 300 * time.Millisecond
	st := server.open(t, "repo", opts)
	dead := server.open(t, "repo", opts)
	require.NoError(t, dead.Create(ctx, "log/0", nil))
	unfinished, claim := smbstore.Leave(t, dead, "log/1")

	swept, err := st.Sweep(ctx, true)
	require.NoError(t, err)
	require.Equal(t, store.Swept{Kept: 2}, swept, "its writer lives")
	start := time.Now()
	require.ErrorIs(t, st.Create(ctx, "log/1", []byte("mine")), smbstore.ErrBusy)
	require.Greater(t, time.Since(start), 200*time.Millisecond)
	require.NoError(t, st.Create(ctx, "log/2", []byte("mine")), "other names are free")

	smbstore.Cut(dead)
	require.Eventually(t, func() bool {
		return st.Create(ctx, "log/1", []byte("mine")) == nil
	}, 5*time.Second, 20*time.Millisecond)
	swept, err = st.Sweep(ctx, false)
	require.NoError(t, err)
	require.Equal(t, 0, swept.Kept)
	require.Equal(t, 1, swept.Removed, "the claim went when the name was wanted")
	for _, name := range []string{unfinished, claim} {
		require.NoFileExists(t, filepath.Join(server.folder("repo"), name))
	}
	require.NoError(t, dead.Create(ctx, "log/3", []byte("it comes back")), "and its folder is made anew")
}

// Two connections of one store exclude each other as two stores do.
func TestProbeSaysWhatHolds(t *testing.T) {
	server := startSamba(t)
	st := server.open(t, "repo", nil)
	found, err := st.Probe(t.Context())
	require.NoError(t, err)
	require.Equal(t, store.Abilities{ExclusiveCreate: true, DurableNames: true, FreshReads: true}, found)
	careful := quick()
	careful.SeveralWriters = false
	found, err = server.open(t, "repo", careful).Probe(t.Context())
	require.NoError(t, err)
	require.False(t, found.Shared(), "one process writes, unless its owner says otherwise")
	entries, err := os.ReadDir(server.folder("repo"))
	require.NoError(t, err)
	require.Empty(t, entries, "a probe leaves nothing")
}

// A share that can only be read says so.
func TestReadOnlyShare(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := startSamba(t)
	st := server.open(t, "repo", nil)
	require.NoError(t, st.Create(ctx, "log/1", []byte("one")))
	require.NoError(t, st.Close())
	server.configure("read only = yes")
	server.restart()
	st, err := smbstore.Open(ctx, server.address("repo"), server.creds, quick())
	require.NoError(t, err)
	defer st.Close()
	got, err := store.ReadAll(ctx, st, "log/1", 10)
	require.NoError(t, err)
	require.Equal(t, "one", string(got))
	_, err = st.Probe(ctx)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorIs(t, st.Create(ctx, "log/2", nil), fs.ErrPermission)
	require.ErrorIs(t, st.Remove(ctx, "log/1"), fs.ErrPermission)
}

// Nobody gets in without a password that the server knows, a guest not at all, and the error says who and not how.
func TestLogon(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := startSamba(t, "[global] map to guest = Bad User", "guest ok = yes")
	at := server.address("")
	require.NoError(t, errors.Join(os.Chmod(server.dir, 0o755), os.Chmod(server.folder(""), 0o777))) // a guest could
	for name, c := range map[string]smbstore.Credentials{
		"wrong password": {User: server.user, Password: "Secret-1234"},
		"guest":          {User: "nobody-of-that-name", Password: "Secret-1234"},
		"anonymous":      {},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			_, err := smbstore.Open(ctx, at, func(context.Context) (smbstore.Credentials, error) {
				asked++
				return c, nil
			}, quick())
			require.ErrorIs(t, err, smbstore.ErrLogon)
			require.NotContains(t, err.Error(), "Secret-1234")
			require.Equal(t, 1, asked, "a server locks accounts that are tried again")
		})
	}
	_, err := smbstore.Open(ctx, at, func(context.Context) (smbstore.Credentials, error) {
		return smbstore.Credentials{}, errors.New("vault is sealed")
	}, quick())
	require.ErrorIs(t, err, smbstore.ErrLogon)
	require.ErrorContains(t, err, "vault is sealed")
	_, err = smbstore.Open(ctx, smbstore.Address{Host: at.Host, Share: "none"}, server.creds, quick())
	require.Error(t, err)
	_, err = smbstore.Open(ctx, at, nil, quick())
	require.ErrorIs(t, err, fs.ErrInvalid)
}

// RELIABILITY §1.1, bar 34: credentials that expire are asked for anew, once and again; then the call ends.
func TestCredentialsAreAskedForAnew(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := startSamba(t)
	var expired atomic.Int64
	var asked atomic.Int64
	creds := func(context.Context) (smbstore.Credentials, error) {
		asked.Add(1)
		c := smbstore.Credentials{User: server.user, Password: testPassword}
		if expired.Add(-1) >= 0 {
			c.Password = "expired"
		}
		return c, nil
	}
	opts := quick()
	opts.Connections = 1
	st, err := smbstore.Init(ctx, server.address("repo"), creds, opts)
	require.NoError(t, err)
	defer st.Close()
	require.NoError(t, st.Create(ctx, "one", []byte("1")))
	server.restart()
	expired.Store(1)
	require.NoError(t, st.Create(ctx, "two", []byte("2")), "the second time they are good")
	server.restart()
	expired.Store(100)
	asked.Store(0)
	_, err = st.Stat(ctx, "one")
	require.ErrorIs(t, err, smbstore.ErrLogon)
	require.EqualValues(t, 2, asked.Load())
	require.NotContains(t, err.Error(), "expired")
	expired.Store(0)
	_, err = st.Stat(ctx, "one")
	require.NoError(t, err)
}

// What goes over the wire is signed, and encrypted where the share asks for it; who wants that can insist.
func TestEncryption(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	secret := bytes.Repeat([]byte("plain text of a disk "), 1000)
	for _, encrypt := range []bool{false, true} {
		t.Run(fmt.Sprint(encrypt), func(t *testing.T) {
			setting := "server smb encrypt = off"
			if encrypt {
				setting = "server smb encrypt = required"
			}
			server := startSamba(t, setting)
			var seen tap
			opts := quick()
			opts.Dial = seen.dial
			st := server.open(t, "repo", opts)
			require.Equal(t, encrypt, st.Encrypted())
			require.NoError(t, st.Create(ctx, "one", secret))
			require.NoError(t, st.Close())
			require.Equal(t, !encrypt, bytes.Contains(seen.bytes(), secret[:100]))
			opts = quick()
			opts.RequireEncryption = true
			st, err := smbstore.Open(ctx, server.address("repo"), server.creds, opts)
			if !encrypt {
				require.ErrorIs(t, err, smbstore.ErrNotEncrypted)
				return
			}
			require.NoError(t, err)
			require.NoError(t, st.Close())
		})
	}
}

// A bit that is turned over on the way is found by the signature: the object is whole, or the call is made again.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := startSamba(t)
	var flips flipper
	opts := quick()
	opts.Dial, opts.Timeout = flips.dial, time.Second
	st := server.open(t, "repo", opts)
	data := content(1, 300_000)
	for i := range 8 {
		flips.after.Store(int64(1000 + 40_000*i))
		name := fmt.Sprintf("pack/%d", i)
		require.NoError(t, st.Create(ctx, name, data))
		got, err := store.ReadAll(ctx, st, name, 1<<20)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got))
		onDisk, err := os.ReadFile(filepath.Join(server.folder("repo"), filepath.FromSlash(name)))
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, onDisk))
	}
	require.Greater(t, flips.count.Load(), int64(3))
}

// tap keeps what goes over its connections.
type tap struct {
	mu  chan struct{}
	all bytes.Buffer
}

func (p *tap) lock() func() {
	if p.mu == nil {
		p.mu = make(chan struct{}, 1)
	}
	p.mu <- struct{}{}
	return func() { <-p.mu }
}

func (p *tap) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	return &tapConn{conn, p}, err
}

func (p *tap) bytes() []byte {
	defer p.lock()()
	return bytes.Clone(p.all.Bytes())
}

type tapConn struct {
	net.Conn
	p *tap
}

func (c *tapConn) Write(b []byte) (int, error) {
	unlock := c.p.lock()
	c.p.all.Write(b)
	unlock()
	return c.Conn.Write(b)
}

// flipper turns one bit over, of what is read and of what is written in turns, when so many bytes have passed.
type flipper struct {
	after atomic.Int64
	count atomic.Int64
}

func (f *flipper) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	return &flipConn{conn, f}, err
}

func (f *flipper) pass(p []byte) []byte {
	left := f.after.Add(-int64(len(p)))
	if at := left + int64(len(p)); left <= 0 && at > 0 && len(p) >= 100 {
		f.count.Add(1)
		p = bytes.Clone(p)
		p[len(p)-1] ^= 1
	} else if left <= 0 && at > 0 {
		f.after.Store(at) // not the length of a message: that is found otherwise
	}
	return p
}

type flipConn struct {
	net.Conn
	f *flipper
}

func (c *flipConn) Write(p []byte) (int, error) { return c.Conn.Write(c.f.pass(p)) }

func (c *flipConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	copy(p[:n], c.f.pass(p[:n]))
	return n, err
}

// Two servers behind one name, as a badly made cluster has them, do not know of each other's open files: a probe says so.
func TestProbeFindsWhatDoesNotHold(t *testing.T) {
	t.Parallel()
	one, two := startSamba(t), startSamba(t)
	require.NoError(t, os.RemoveAll(two.folder("")))
	require.NoError(t, os.Symlink(one.folder(""), two.folder("")))
	var n atomic.Int64
	opts := quick()
	opts.Connections = 1
	opts.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		address := one.hostPort()
		if n.Add(1)%2 == 0 {
			address = two.hostPort()
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	st := one.open(t, "repo", opts)
	for range 2 { // whichever of them is asked first
		found, err := st.Probe(t.Context())
		require.NoError(t, err)
		require.False(t, found.ExclusiveCreate)
		require.False(t, found.Shared())
		n.Add(1)
	}
}
