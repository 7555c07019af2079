package hostfs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/hostfs"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// A file is read by every name that a host has for it, whole, in parts, and past its end.
func TestRead(t *testing.T) {
	h := startHost(t)
	s := h.open(t, nil)
	want := noise(1, 5<<20+777)
	h.put(t, `VMs\web 1\Größe.vhdx`, want)
	h.put(t, `ClusterStorage\Volume1\x`, want[:100])
	require.NoError(t, os.WriteFile(filepath.Join(h.vms, "y"), want[:7], 0o600))

	for name, size := range map[string]int{
		`C:\VMs\web 1\Größe.vhdx`: len(want), `c:/VMs/./web 1/../web 1/Größe.vhdx`: len(want), `\\?\C:\ClusterStorage\Volume1\x`: 100,
		`\\fs1\vms\y`: 7, `\\?\UNC\fs1\vms\y`: 7, `\\HV1\C$\VMs\web 1\Größe.vhdx`: len(want),
	} {
		img, err := s.Open(t.Context(), name)
		require.NoError(t, err, name)
		require.Equal(t, int64(size), img.Size())
		got := make([]byte, size)
		n, err := img.ReadAt(t.Context(), got, 0)
		require.NoError(t, err)
		require.Equal(t, size, n)
		require.True(t, bytes.Equal(want[:size], got), name)
		n, err = img.ReadAt(t.Context(), got[:5], int64(size-3))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, want[size-3:size], got[:n])
		_, err = img.ReadAt(t.Context(), got[:1], int64(size)+10)
		require.ErrorIs(t, err, io.EOF)
		_, err = img.ReadAt(t.Context(), got[:1], -1)
		require.ErrorIs(t, err, fs.ErrInvalid)
		require.NoError(t, diskfile.Changed(img))
		far, ok := pipe.As[interface {
			pipe.Image
			pipe.Far
		}](img)
		require.True(t, ok)
		require.Positive(t, far.Flight().Reads)
		require.NoError(t, img.Close())
		require.NoError(t, img.Close())
		_, err = img.ReadAt(t.Context(), got[:1], 0)
		require.ErrorIs(t, err, fs.ErrClosed)
	}
}

// What cannot be opened says why, by errors that callers can tell apart, and names that lead astray lead nowhere.
func TestOpenRefused(t *testing.T) {
	h := startHost(t)
	s := h.open(t, nil)
	h.put(t, `VMs\a`, []byte("x"))
	for name, want := range map[string]error{
		`C:\VMs\b`: fs.ErrNotExist, `C:\nowhere\b`: fs.ErrNotExist, `C:\VMs\a\b`: fs.ErrNotExist, `D:\a`: fs.ErrNotExist,
		`C:\VMs`: diskfile.ErrNotDisk, `C:\`: diskfile.ErrNotDisk,
		`C:\VMs\..\..\..\etc\passwd`: fs.ErrInvalid, `C:\VMs\a:stream`: fs.ErrInvalid, `C:\VMs\a.`: fs.ErrInvalid, `C:\VMs\*`: fs.ErrInvalid,
		`C:VMs\a`: fs.ErrInvalid, `VMs\a`: fs.ErrInvalid, `\VMs\a`: fs.ErrInvalid, `\\.\C:`: fs.ErrInvalid, `\\HV1`: fs.ErrInvalid, "": fs.ErrInvalid,
		`\\HV1\..\a`: fs.ErrInvalid, `C:\NUL`: fs.ErrInvalid, `C:\com1.vhdx`: fs.ErrInvalid, "C:\\a\x00": fs.ErrInvalid,
		`\\?\Volume{b75e2c83-0000-0000-0000-602f00000000}\a`: fs.ErrInvalid, `\\evil\vms\a`: hostfs.ErrLogon,
	} {
		img, err := s.Open(t.Context(), name)
		require.ErrorIs(t, err, want, "%q", name)
		require.Nil(t, img)
		var where *diskfile.Error
		require.ErrorAs(t, err, &where, "%q", name)
	}
}

// A login that is refused, a guest's, and a server that is not there, end at once and say so.
func TestLogonRefused(t *testing.T) {
	h := startHost(t, "map to guest = Bad User")
	h.put(t, "a", []byte("x"))
	for name, login := range map[string]hostfs.Login{
		"password": {User: h.User, Password: "wrong"}, "guest": {User: "nobody-at-all", Password: "x"}, "nobody": {},
	} {
		s := h.open(t, func(o *hostfs.Options) {
			o.Login = func(context.Context, string) (hostfs.Login, error) { return login, nil }
		})
		_, err := s.Open(t.Context(), `C:\a`)
		require.ErrorIs(t, err, hostfs.ErrLogon, name)
	}
	s := h.open(t, func(o *hostfs.Options) { o.Address = func(string) string { return "127.0.0.1:1" } })
	begun := time.Now()
	_, err := s.Open(t.Context(), `C:\a`)
	require.ErrorIs(t, err, hostfs.ErrAway)
	require.Less(t, time.Since(begun), 3*time.Second)
	for _, o := range []hostfs.Options{{Machine: "HV1"}, {Machine: `..`, Login: h.options().Login}, {Machine: `a\b`, Login: h.options().Login}} {
		_, err := hostfs.New(o)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
}

// A share that does not encrypt is refused where encryption was asked for, and one that does is not.
func TestEncryption(t *testing.T) {
	h := startHost(t)
	h.put(t, "a", []byte("x"))
	demand := func(o *hostfs.Options) { o.RequireEncryption = true }
	_, err := h.open(t, demand).Open(t.Context(), `C:\a`)
	require.ErrorIs(t, err, hostfs.ErrNotEncrypted)
	sealed := startHost(t, "server smb encrypt = required")
	want := noise(2, 3<<20)
	sealed.put(t, "a", want)
	s := sealed.open(t, demand)
	require.False(t, s.Encrypted())
	img, err := s.Open(t.Context(), `C:\a`)
	require.NoError(t, err)
	defer img.Close()
	got := make([]byte, len(want))
	_, err = img.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.True(t, s.Encrypted())
}

// Connections that break while many read cost time and nothing else. R094.
func TestReadGoesOn(t *testing.T) {
	h := startHost(t)
	s := h.open(t, nil)
	want := noise(3, 2<<20)
	h.put(t, "disk", want)
	img, err := s.Open(t.Context(), `C:\disk`)
	require.NoError(t, err)
	defer img.Close()
	var reads atomic.Int64
	var all sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range 6 {
		all.Go(func() {
			got := make([]byte, 128<<10)
			for n := range 24 {
				off := (i*7 + n*3) % 16 << 17
				_, err := img.ReadAt(ctx, got, int64(off))
				if err != nil || !bytes.Equal(want[off:off+len(got)], got) {
					t.Errorf("read at %d: %v", off, err)
					return
				}
				reads.Add(1)
			}
		})
	}
	for i := range 5 {
		for target := int64(i * 20); reads.Load() < target && !t.Failed(); time.Sleep(time.Millisecond) {
		}
		h.wire.cut(i%2 == 0)
		time.Sleep(20 * time.Millisecond)
		h.wire.up()
	}
	all.Wait()
	require.Equal(t, int64(6*24), reads.Load())
	require.Greater(t, h.wire.made, 5)
}

// Whatever comes into a file's place, or is done to it, while its connections are away: its bytes are never taken for the
// first's.
func TestReadOfAnotherFile(t *testing.T) {
	h := startHost(t)
	s := h.open(t, nil)
	first, second := noise(4, 1<<20), noise(5, 1<<20)
	for name, change := range map[string]func(t *testing.T, path string){
		"replaced": func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path+".new", second, 0o600))
			fi, err := os.Stat(path)
			require.NoError(t, err)
			require.NoError(t, os.Chtimes(path+".new", fi.ModTime(), fi.ModTime()))
			require.NoError(t, os.Rename(path+".new", path))
		},
		"written to": func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte("changed"), 1000)
			require.NoError(t, errors.Join(err, f.Close()))
		},
		"longer":  func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 2<<20)) },
		"shorter": func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 1000)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := h.put(t, "disk", first)
			old := time.Now().Add(-time.Hour)
			require.NoError(t, os.Chtimes(path, old, old))
			img, err := s.Open(t.Context(), `C:\disk`)
			require.NoError(t, err)
			defer img.Close()
			p := make([]byte, 4096)
			_, err = img.ReadAt(t.Context(), p, 0)
			require.NoError(t, err)
			h.wire.cut(false)
			change(t, path)
			var changed *diskfile.ChangedError
			_, err = img.ReadAt(t.Context(), p, 8192)
			require.ErrorAs(t, err, &changed)
			require.ErrorAs(t, diskfile.Changed(img), &changed)
		})
	}
	path := h.put(t, "gone", first)
	img, err := s.Open(t.Context(), `C:\gone`)
	require.NoError(t, err)
	defer img.Close()
	require.NoError(t, os.Remove(path))
	h.wire.cut(false)
	_, err = img.ReadAt(t.Context(), make([]byte, 10), 0)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// A file that is written to while it is open on a connection that lasts is found out by who asks.
func TestChanged(t *testing.T) {
	h := startHost(t)
	path := h.put(t, "disk", noise(6, 1<<20))
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(path, old, old))
	img, err := h.open(t, nil).Open(t.Context(), `C:\disk`)
	require.NoError(t, err)
	defer img.Close()
	require.NoError(t, diskfile.Changed(img))
	f, err := h.open(t, nil).OpenFile(t.Context(), `C:\disk`) // Samba tells times of its own clients' writes alone
	require.NoError(t, err)
	_, err = f.WriteAt(t.Context(), []byte("changed"), 1000)
	require.NoError(t, errors.Join(err, f.Close()))
	var changed *diskfile.ChangedError
	require.ErrorAs(t, diskfile.Changed(img), &changed)
	require.NoError(t, os.Truncate(path, 100))
	_, err = img.ReadAt(t.Context(), make([]byte, 10), 1<<19)
	require.ErrorAs(t, err, &changed, "what a file has no more is not zeros")
}

// A server that stays away is given up after the time that was allowed; a caller who leaves does not wait for that.
func TestServerAway(t *testing.T) {
	h := startHost(t)
	s := h.open(t, func(o *hostfs.Options) { o.GiveUp = time.Second })
	h.put(t, "disk", noise(8, 1000))
	img, err := s.Open(t.Context(), `C:\disk`)
	require.NoError(t, err)
	defer img.Close()
	h.wire.cut(true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err = img.ReadAt(ctx, make([]byte, 10), 0)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(begun), 900*time.Millisecond)
	_, err = img.ReadAt(t.Context(), make([]byte, 10), 0)
	require.ErrorIs(t, err, hostfs.ErrAway)
	require.Less(t, time.Since(begun), 5*time.Second)
	h.wire.up()
	_, err = img.ReadAt(t.Context(), make([]byte, 10), 0)
	require.NoError(t, err)
}

// Two stores, as two processes are: each reads what the other reads, and a store that is closed ends what it had open.
func TestClose(t *testing.T) {
	h := startHost(t)
	h.put(t, "disk", noise(9, 1000))
	one, err := hostfs.New(h.options())
	require.NoError(t, err)
	other := h.open(t, nil)
	a, err := one.Open(t.Context(), `C:\disk`)
	require.NoError(t, err)
	b, err := other.Open(t.Context(), `C:\disk`)
	require.NoError(t, err)
	require.NoError(t, one.Close())
	require.NoError(t, one.Close())
	_, err = a.ReadAt(t.Context(), make([]byte, 10), 0)
	require.ErrorIs(t, err, fs.ErrClosed)
	_, err = one.Open(t.Context(), `C:\disk`)
	require.ErrorIs(t, err, fs.ErrClosed)
	_, err = b.ReadAt(t.Context(), make([]byte, 10), 0)
	require.NoError(t, err)
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
}
