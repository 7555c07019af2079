package nfsserve

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const diskBytes = 8<<20 + 512

// served is a server of one disk, with a client that has it mounted.
type served struct {
	*Server
	*client
	dir  []byte // handle of the top
	addr string
}

func point(seed uint64) (pipe.Image, []byte) {
	content := make([]byte, diskBytes)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i < len(content); i += 8 {
		if i/65536%3 > 0 {
			binary.LittleEndian.PutUint64(content[i:], r.Uint64())
		}
	}
	return pipe.FromReaderAt(bytes.NewReader(content), diskBytes), content
}

func serve(t *testing.T, folder string, opts *Options) *served {
	t.Helper()
	if opts == nil {
		opts = &Options{}
	}
	opts.Folder = folder
	img, _ := point(1)
	s, err := New([]Disk{{Name: "web1", Image: img, Identity: "point-1/scsi0:0"}}, opts)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.NoError(t, <-ended)
	})
	c := dial(t, l.Addr().String())
	dir, err := c.mount(s.Path())
	if err != nil && opts.Clients != nil {
		return &served{Server: s, client: c, addr: l.Addr().String()}
	}
	require.NoError(t, err)
	return &served{Server: s, client: c, dir: dir, addr: l.Addr().String()}
}

// all is the whole disk by the wire.
func (s *served) all(t *testing.T, file []byte) []byte {
	t.Helper()
	var out []byte
	for len(out) < diskBytes {
		p, err := s.read(file, uint64(len(out)), 1<<20)
		require.NoError(t, err)
		require.NotEmpty(t, p)
		out = append(out, p...)
	}
	return out
}

// A host reads the point, writes over it at random, and reads what it wrote; the point stays what it is, and all of it is
// there again after this program was started anew.
func TestStartedFromAPoint(t *testing.T) {
	folder := t.TempDir()
	img, content := point(1)
	s := serve(t, folder, nil)
	flat, size, err := s.lookup(s.dir, "web1-flat.vmdk")
	require.NoError(t, err)
	require.EqualValues(t, diskBytes, size)
	require.True(t, bytes.Equal(content, s.all(t, flat)))

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	want := bytes.Clone(content)
	for range 60 {
		off := r.IntN(diskBytes)
		p := make([]byte, min(1+r.IntN(200_000), diskBytes-off))
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		require.NoError(t, s.write(flat, uint64(off), p))
		copy(want[off:], p)
	}
	require.True(t, bytes.Equal(want, s.all(t, flat)))
	require.NoError(t, s.Close())

	again := serve(t, folder, nil)
	require.Equal(t, s.Path(), again.Path(), "a host that has it mounted goes on")
	require.True(t, bytes.Equal(want, again.all(t, flat)), "by the handle that it had")
	got := make([]byte, diskBytes)
	_, err = img.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got), "the point is what it was")
}

// What was answered as durable is there although this program was killed: nothing is flushed after the last answer.
func TestAnsweredIsDurable(t *testing.T) {
	folder := t.TempDir()
	s := serve(t, folder, nil)
	flat, _, err := s.lookup(s.dir, "web1-flat.vmdk")
	require.NoError(t, err)
	require.NoError(t, s.write(flat, 4096, []byte("durable")))

	copied := t.TempDir() // as a kill would leave it
	require.NoError(t, os.CopyFS(copied, os.DirFS(folder)))
	again := serve(t, copied, nil)
	p, err := again.read(flat, 4096, 7)
	require.NoError(t, err)
	require.Equal(t, "durable", string(p))
}

// The descriptor leads to the disk: the reader of VMDK finds the point through it.
func TestDescriptor(t *testing.T) {
	s := serve(t, t.TempDir(), nil)
	_, content := point(1)
	img, err := vmdk.OpenIn(t.Context(), mounted{s}, "web1.vmdk", nil)
	require.NoError(t, err)
	defer img.Close()
	got := make([]byte, diskBytes)
	_, err = img.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
}

// mounted is what a host sees as a folder of VMDK files.
type mounted struct{ s *served }

func (m mounted) Open(_ context.Context, name string) (pipe.Image, error) {
	h, size, err := m.s.lookup(m.s.dir, name)
	return pipe.FromReaderAt(remote{m.s, h, int64(size)}, int64(size)), err
}

type remote struct {
	s    *served
	file []byte
	size int64
}

func (r remote) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) && off+int64(done) < r.size {
		got, err := r.s.read(r.file, uint64(off)+uint64(done), min(len(p)-done, 1<<20))
		if err != nil {
			return done, err
		}
		done += copy(p[done:], got)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// What a host makes beside the disks: it is kept, renamed while it is open, listed and removed; the disks are not.
func TestFilesOfTheHost(t *testing.T) {
	folder := t.TempDir()
	s := serve(t, folder, nil)
	log, err := s.create(s.dir, "vmware.log")
	require.NoError(t, err)
	require.NoError(t, s.write(log, 0, []byte("begun")))
	require.NoError(t, s.rename(s.dir, "vmware.log", "vmware-1.log"))
	require.NoError(t, s.write(log, 5, []byte(" and renamed")), "the handle stays with the file")
	got, err := os.ReadFile(filepath.Join(s.Files(), "vmware-1.log"))
	require.NoError(t, err)
	require.Equal(t, "begun and renamed", string(got))
	require.NoError(t, s.truncate(log, 5))

	again := serve(t, t.TempDir(), nil)
	_, err = again.read(log, 0, 5)
	require.ErrorIs(t, err, stale, "another server's handle")
	names, err := s.list(s.dir)
	require.NoError(t, err)
	require.Subset(t, names, []string{"vmware-1.log", "web1-flat.vmdk", "web1.vmdk"})
	require.NoError(t, s.remove(s.dir, "vmware-1.log"))
	_, err = s.read(log, 0, 5)
	require.ErrorIs(t, err, stale)

	flat, _, err := s.lookup(s.dir, "web1-flat.vmdk")
	require.NoError(t, err)
	require.Error(t, s.remove(s.dir, "web1-flat.vmdk"))
	require.Error(t, s.rename(s.dir, "web1-flat.vmdk", "x"))
	require.Error(t, s.rename(s.dir, "web1.vmdk", "web1-flat.vmdk"))
	require.Error(t, s.truncate(flat, 0))
	require.NoError(t, s.truncate(flat, diskBytes))
	require.Error(t, s.write(flat, diskBytes-1, []byte("xy")), "a disk has one length")
	require.NoError(t, s.write(flat, diskBytes-1, []byte("x")))
}

// Names lead nowhere but into the folder.
func TestNothingOutside(t *testing.T) {
	folder := t.TempDir()
	outside := filepath.Join(folder, "secret")
	s := serve(t, folder, nil)
	require.FileExists(t, outside)
	for _, name := range []string{"..", "../secret", "../../etc/passwd", "/etc/passwd", "a/../../secret", "\x00"} {
		h, _, err := s.lookup(s.dir, name)
		if err != nil {
			continue
		}
		_, err = s.read(h, 0, 10)
		require.Error(t, err, name)
	}
	require.NoError(t, os.Symlink(outside, filepath.Join(s.Files(), "link")))
	h, _, err := s.lookup(s.dir, "link")
	if err == nil {
		_, err = s.read(h, 0, 10)
	}
	require.Error(t, err)
}

// Whoever has no allowed address, does not know the path, or makes a handle up, gets nothing.
func TestWhoIsLetIn(t *testing.T) {
	s := serve(t, t.TempDir(), nil)
	for _, path := range []string{"/", "", "/hikae", s.Path() + "x", s.Path()[:len(s.Path())-1]} {
		_, err := s.mount(path)
		require.Error(t, err, path)
	}
	forged := bytes.Clone(s.dir)
	forged[len(forged)-1] ^= 1
	_, _, err := s.lookup(forged, "web1.vmdk")
	require.ErrorIs(t, err, stale)
	_, _, err = s.lookup(nil, "web1.vmdk")
	require.ErrorIs(t, err, stale)

	foreign := serve(t, t.TempDir(), &Options{Clients: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	_, err = foreign.client.call(programNFS, 3, 0, nil)
	require.Error(t, err, "this address is none of its clients")
}

// What comes in is bounded, and nothing that comes in ends the server.
func TestHostileMessages(t *testing.T) {
	s := serve(t, t.TempDir(), nil)
	c := dial(t, s.addr)
	require.NoError(t, c.send(nil))
	_, err := c.receive()
	require.Error(t, err)
	c = dial(t, s.addr)
	_, err = c.conn.Write([]byte{0xff, 0xff, 0xff, 0xff})
	require.NoError(t, err)
	_, err = c.receive()
	require.Error(t, err, "a message of 2 GiB")

	flat, _, err := s.lookup(s.dir, "web1-flat.vmdk")
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(7, 7))
	for range 300 {
		c := dial(t, s.addr)
		c.wait = 200 * time.Millisecond
		proc := r.IntN(23)
		args := xdr(flat, "name", r.IntN(1<<31), uint64(r.Uint32()), flat, r.IntN(9))
		for range r.IntN(4) {
			args[r.IntN(len(args))] ^= byte(1 << r.IntN(8))
		}
		_, _ = c.call(programNFS, 3, proc, args[:r.IntN(len(args)+1)])
		c.conn.Close()
	}
	_, err = s.read(flat, 0, 10)
	require.NoError(t, err)
}

func TestFullDisk(t *testing.T) {
	s := serve(t, t.TempDir(), &Options{LeastFree: 1 << 60})
	flat, _, err := s.lookup(s.dir, "web1-flat.vmdk")
	require.NoError(t, err)
	require.ErrorIs(t, s.write(flat, 0, []byte("x")), noSpace)
	_, err = s.create(s.dir, "new")
	require.Error(t, err)
	_, free, err := s.space(s.dir)
	require.NoError(t, err)
	require.Zero(t, free)
	_, err = s.read(flat, 0, 10)
	require.NoError(t, err)
}

func TestAnotherPointIsRefused(t *testing.T) {
	folder := t.TempDir()
	s := serve(t, folder, nil)
	require.NoError(t, s.Close())
	img, _ := point(2)
	_, err := New([]Disk{{Name: "web1", Image: img, Identity: "point-2/scsi0:0"}}, &Options{Folder: folder})
	require.ErrorContains(t, err, "web1")
	_, err = New([]Disk{{Name: "../web1", Image: img}}, &Options{Folder: t.TempDir()})
	require.ErrorIs(t, err, os.ErrInvalid)
}

func TestManyConnections(t *testing.T) {
	s := serve(t, t.TempDir(), &Options{Connections: 3})
	dial(t, s.addr).call(programNFS, 3, 0, nil)
	dial(t, s.addr).call(programNFS, 3, 0, nil)
	_, err := dial(t, s.addr).call(programNFS, 3, 0, nil)
	require.Error(t, err, "a fourth")
	_, err = s.call(programNFS, 3, 0, nil)
	require.NoError(t, err)
}

func TestPortmap(t *testing.T) {
	s := serve(t, t.TempDir(), nil)
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Portmap(ctx, conn, 2049) }()
	ask, err := net.Dial("udp", conn.LocalAddr().String())
	require.NoError(t, err)
	defer ask.Close()
	ask.SetDeadline(time.Now().Add(5 * time.Second))
	for program, port := range map[int]int{programNFS: 2049, programMount: 2049, 100021: 0} {
		_, err = ask.Write(xdr(9, 0, 2, programMap, 2, procGetPort, 1, xdr(0, "host", 0, 0, 0), 0, 0, program, 3, protocolTCP, 0))
		require.NoError(t, err)
		in := make([]byte, 100)
		n, err := ask.Read(in)
		require.NoError(t, err)
		require.Equal(t, xdr(9, 1, 0, 0, 0, 0, port), in[:n])
	}
	cancel()
	require.NoError(t, <-ended)
}

func FuzzPortmap(f *testing.F) {
	f.Add(xdr(9, 0, 2, programMap, 2, procGetPort, 1, xdr(0, "host", 0, 0, 0), 0, 0, programNFS, 3, protocolTCP, 0))
	f.Fuzz(func(t *testing.T, call []byte) {
		if a := mapped(call, 2049); len(a) > 32 {
			t.Fatal("longer than any answer")
		}
	})
}

func TestAllowed(t *testing.T) {
	list, err := Allowed([]string{"192.0.2.7", "2001:db8::/32", "10.1.2.3/8"})
	require.NoError(t, err)
	require.Equal(t, "[192.0.2.7/32 2001:db8::/32 10.0.0.0/8]", fmt.Sprint(list))
	_, err = Allowed([]string{"esx1"})
	require.Error(t, err)
}

func FuzzCheck(f *testing.F) {
	for proc := range 22 {
		f.Add(append(xdr(1, 0, 2, programNFS, 3, proc, 1, xdr(0, "host", 0, 0, 0), 0, 0), xdr(make([]byte, 40), "name", uint64(1), 2, 3)...))
	}
	f.Fuzz(func(t *testing.T, call []byte) {
		n := len(call)
		if check(call) == nil && n < 40 {
			t.Fatal("no call is so short")
		}
	})
}

// A removed file's handle leads to no other file, though systems give its number to the next one; also after a restart.
func TestHandleOfARemovedFile(t *testing.T) {
	folder := t.TempDir()
	s := serve(t, folder, nil)
	_, err := s.create(s.dir, "old.log")
	require.NoError(t, err)
	old, _, err := s.lookup(s.dir, "old.log")
	require.NoError(t, err)
	require.NoError(t, s.remove(s.dir, "old.log"))
	for i := range 8 {
		name := fmt.Sprintf("new%d", i)
		_, err = s.create(s.dir, name)
		require.NoError(t, err)
		_, _, err = s.lookup(s.dir, name)
		require.NoError(t, err)
	}
	_, err = s.read(old, 0, 100)
	require.ErrorIs(t, err, stale)
	require.NoError(t, s.rename(s.dir, "new0", "new1"))
	require.NoError(t, s.Close())
	again := serve(t, folder, nil)
	_, err = again.read(old, 0, 100)
	require.ErrorIs(t, err, stale)

	l, err := openLives(filepath.Join(t.TempDir(), "lives"))
	require.NoError(t, err)
	l.lines = maxLines
	require.NoError(t, l.end(7))
	require.NoError(t, l.end(7))
	back, err := openLives(l.path)
	require.NoError(t, err)
	require.EqualValues(t, 2, back.of(7))
}
