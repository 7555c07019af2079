package nbd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
	"github.com/hikae/hikae/pipe/pipetest"
)

// The client reads from nbdkit whatever nbdkit can do: simple replies, block sizes that it insists on, TLS, slow disks.
func TestClientWithNbdkit(t *testing.T) {
	needs(t, "nbdkit")
	src := sparse(11, 6<<20)
	file := fileOf(t, src)
	certs := certificates(t)
	for name, test := range map[string]struct {
		args  []string
		query string
	}{
		"file":             {args: []string{"file", file}},
		"simple replies":   {args: []string{"--no-sr", "file", file}},
		"oldest handshake": {args: []string{"--mask-handshake=1", "file", file}},
		"blocks of 4096": {args: []string{"--filter=blocksize-policy", "file", file, "blocksize-minimum=4096",
			"blocksize-preferred=65536", "blocksize-maximum=128k", "blocksize-error-policy=error"}},
		"one connection": {args: []string{"--filter=multi-conn", "file", file, "multi-conn-mode=disable"}},
		"slow":           {args: []string{"--filter=delay", "file", file, "rdelay=3ms"}},
		"a thread":       {args: []string{"--filter=noparallel", "file", file, "serialize=all-requests"}},
		"TLS":            {args: []string{"--tls=require", "--tls-certificates=" + certs, "--tls-verify-peer", "file", file}, query: certs},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := background(t, "nbdkit", append([]string{"-f", "-U", "SOCKET"}, test.args...)...)
			a := nbd.Address{Network: "unix", Host: socket, TLS: test.query != "", TLSCertificates: test.query}
			c := dial(t, a.String(), nil)
			checkContent(t, c, src)
		})
	}
}

// checkContent reads everything at once, and at odd places.
func checkContent(t *testing.T, c pipe.Image, want pipe.Image) {
	t.Helper()
	diff, err := pipe.Compare(t.Context(), c, want, nil)
	require.NoError(t, err)
	require.Empty(t, diff)
	for _, off := range []int64{0, 1, 511, 4095, 65537, 1<<20 - 1, want.Size() - 5} {
		for _, n := range []int64{1, 5, 5000, 300_000} {
			n = min(n, want.Size()-off)
			got, exp := make([]byte, n), make([]byte, n)
			m, err := c.ReadAt(t.Context(), got, off)
			require.NoError(t, err)
			require.EqualValues(t, n, m)
			_, err = want.ReadAt(t.Context(), exp, off)
			require.NoError(t, err)
			require.True(t, string(got) == string(exp), "[%d, +%d)", off, n)
		}
	}
	pos := int64(0)
	for e, err := range pipe.Extents(t.Context(), c, 0, c.Size()) {
		require.NoError(t, err)
		require.Equal(t, pos, e.Off)
		pos = e.End()
	}
	require.Equal(t, c.Size(), pos)
}

// A huge sparse disk is walked without reading it, and what its map says is right.
func TestClientWithSparseRandom(t *testing.T) {
	socket := background(t, "nbdkit", "-f", "-U", "SOCKET", "sparse-random", "10G", "seed=1", "percent=1", "runlength=4194304")
	c := dial(t, unixURI(socket, ""), nil)
	data := int64(0)
	for e, err := range c.Extents(t.Context(), 0, c.Size()) {
		require.NoError(t, err)
		if e.Kind == pipe.Data {
			data += e.Len
			continue
		}
		b := make([]byte, min(e.Len, 4096))
		_, err := c.ReadAt(t.Context(), b, e.End()-int64(len(b)))
		require.NoError(t, err)
		require.Zero(t, len(trimZero(b)), "%v", e)
	}
	require.Greater(t, data, int64(10<<20))
	require.Less(t, data, int64(1<<30))
}

func trimZero(b []byte) []byte {
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	return b
}

// An error of the server names the range and the reason, and the next request works.
func TestClientWithErrors(t *testing.T) {
	src := sparse(12, 4<<20)
	flag := filepath.Join(t.TempDir(), "fail")
	socket := background(t, "nbdkit", "-f", "-U", "SOCKET", "--filter=error", "file", fileOf(t, src),
		"error-pread=EIO", "error-pread-rate=100%", "error-pread-file="+flag)
	c := dial(t, unixURI(socket, ""), nil)
	checkContent(t, c, src)
	require.NoError(t, os.WriteFile(flag, nil, 0o600))
	n, err := c.ReadAt(t.Context(), make([]byte, 3<<20), 1<<20)
	require.Zero(t, n)
	at, ok := errors.AsType[*pipe.RangeError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, pipe.RangeError{Op: "read", Off: 1 << 20, Len: 3 << 20, Err: at.Err}, *at)
	server, ok := errors.AsType[*nbd.ServerError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, nbd.EIO, server.Errno)
	require.NoError(t, os.Remove(flag))
	checkContent(t, c, src)
}

// A server that is slower than the deadline is given up, with an error that says so; a context ends a wait at once.
func TestClientDeadlines(t *testing.T) {
	socket := background(t, "nbdkit", "-f", "-U", "SOCKET", "--filter=delay", "memory", "1M", "rdelay=5")
	c := dial(t, unixURI(socket, ""), &nbd.Options{Timeout: 300 * time.Millisecond})
	start := time.Now()
	_, err := c.ReadAt(t.Context(), make([]byte, 512), 0)
	require.ErrorIs(t, err, nbd.ErrLost)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, time.Since(start), 3*time.Second)

	c = dial(t, unixURI(socket, ""), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start = time.Now()
	_, err = c.ReadAt(ctx, make([]byte, 512), 0)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), 2*time.Second)
}

// The client writes to nbdkit: data, zeros, discards, in the server's blocks.
func TestClientWritesToNbdkit(t *testing.T) {
	for name, args := range map[string][]string{
		"memory":   {"memory", "3146241"},
		"no zero":  {"--filter=nozero", "memory", "3146241"},
		"simple":   {"--no-sr", "memory", "3146241"},
		"in 4096s": {"--filter=blocksize-policy", "memory", "3149824", "blocksize-minimum=4096", "blocksize-error-policy=error", "blocksize-maximum=64k", "blocksize-preferred=4096"},
	} {
		t.Run(name, func(t *testing.T) {
			socket := background(t, "nbdkit", append([]string{"-f", "-U", "SOCKET"}, args...)...)
			target, err := nbd.DialTarget(t.Context(), unixURI(socket, ""), nil, nil)
			require.NoError(t, err)
			defer target.Close()
			src := sparse(13, target.Size())
			_, err = pipe.Copy(t.Context(), target, src, nil)
			require.NoError(t, err)
			_, err = target.WriteAt(t.Context(), []byte("odd"), 4094)
			require.NoError(t, err)
			require.NoError(t, target.Trim(t.Context(), 1<<20, 0))
			require.NoError(t, target.Commit(t.Context()))
			want := pipe.NewMemory(src.Size())
			_, err = pipe.Copy(t.Context(), want, src, nil)
			require.NoError(t, err)
			_, err = want.WriteAt(t.Context(), []byte("odd"), 4094)
			require.NoError(t, err)
			checkContent(t, dial(t, unixURI(socket, ""), nil), want)
		})
	}
}

// A dirty bitmap of QEMU tells which ranges were written, those that became zero included (R014).
func TestClientWithDirtyBitmap(t *testing.T) {
	needs(t, "qemu-img", "qemu-io", "qemu-nbd")
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	run(t, "qemu-img", "create", "-f", "qcow2", disk, "64M")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 8M", disk)
	run(t, "qemu-img", "bitmap", "--add", "--enable", "-g", "64k", disk, "cp1")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 2 1M 64k", "-c", "write -z 4M 128k", "-c", "write -P 3 40M 1k", disk)
	socket := background(t, "qemu-nbd", "-t", "-r", "-e", "8", "-f", "qcow2", "-k", "SOCKET", "-B", "cp1", "-x", "disk", disk)
	const dirty = "qemu:dirty-bitmap:cp1"
	c := dial(t, unixURI(socket, "disk"), &nbd.Options{Contexts: []string{dirty, "qemu:dirty-bitmap:other"}})
	require.Equal(t, []string{"base:allocation", dirty}, c.Contexts())
	names, err := nbd.ListContexts(t.Context(), unixURI(socket, "disk"), nil, "qemu:")
	require.NoError(t, err)
	require.Contains(t, names, dirty)

	flags := func(context string, off, n int64) (list []string) {
		for s, err := range c.BlockStatus(t.Context(), context, off, n) {
			require.NoError(t, err)
			list = append(list, fmt.Sprintf("%d+%d:%d", s.Off, s.Len, s.Flags))
		}
		return list
	}
	require.Equal(t, []string{"0+1048576:0", "1048576+65536:1", "1114112+3080192:0", "4194304+131072:1", "4325376+37617664:0",
		"41943040+65536:1", "42008576+25100288:0"}, flags(dirty, 0, c.Size()))
	require.Equal(t, []string{"4194305+131071:1", "4325376+1:0"}, flags(dirty, 4194305, 131072), "clipped to what was asked for")
	for s, err := range c.BlockStatus(t.Context(), "base:allocation", 4<<20, 128<<10) {
		require.NoError(t, err)
		require.NotZero(t, s.Flags&2, "a range that became zero is dirty and zero")
	}
	b := make([]byte, 3)
	_, err = c.ReadAt(t.Context(), b, 1<<20-1)
	require.NoError(t, err)
	require.Equal(t, []byte{1, 2, 2}, b)
}

// The client writes a disk through qemu-nbd into a qcow2 file, and qemu-img finds it sound and the same.
func TestClientWritesToQemu(t *testing.T) {
	needs(t, "qemu-img", "qemu-nbd")
	src := sparse(14, 16<<20)
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	run(t, "qemu-img", "create", "-f", "qcow2", disk, "16M")
	socket := background(t, "qemu-nbd", "-t", "-e", "8", "-f", "qcow2", "-k", "SOCKET", "--discard=unmap", disk)
	target, err := nbd.DialTarget(t.Context(), unixURI(socket, ""), nil, nil)
	require.NoError(t, err)
	_, err = pipe.Copy(t.Context(), target, src, nil)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	require.NoError(t, target.Close())
	run(t, "qemu-img", "check", "-U", disk)
	run(t, "qemu-img", "compare", "-U", "-f", "raw", "-F", "qcow2", fileOf(t, src), disk)
	pipetest.TestImage(t, dial(t, unixURI(socket, ""), nil), src)
}
