package nfctest

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"io/fs"
	"iter"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/nfc/internal/vector"
	"github.com/stretchr/testify/require"
)

// vectorSession is the ticket in the vectors.
const vectorSession = "52cdebc5-b7ee-359a-1dec-76f0bc105ac5"

// disk is 10 GiB of which the first 4 MiB can hold something.
type disk struct {
	mu   sync.Mutex
	data []byte
}

func newDisk() *disk {
	d := &disk{data: make([]byte, 4<<20)}
	fill := func(off, n int, b byte) { copy(d.data[off:], bytes.Repeat([]byte{b}, n)) }
	fill(512, 512, 0xa1)
	fill(1<<20, 65536, 0xc1)
	fill(1<<20+65536, 65536, 0xc2)
	fill(1<<20+131072, 512, 0xc3)
	return d
}

func (*disk) Size() int64  { return 10 << 30 }
func (*disk) Close() error { return nil }

func (*disk) Key(name string) (string, bool) { return "lsilogic", name == "adapterType" }

func (d *disk) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(p)
	if off < int64(len(d.data)) {
		copy(p, d.data[off:])
	}
	return len(p), nil
}

func (d *disk) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off+int64(len(p)) > int64(len(d.data)) {
		return 0, io.ErrShortWrite
	}
	return copy(d.data[off:], p), nil
}

// Extents are those of the vectors: the chunks of 64 KiB 0, 2, 31 and 39.
func (*disk) Extents(_ context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		for at := off; at < off+n; {
			end, kind := min(at-at%65536+65536, off+n), pipe.Zero
			switch at / 65536 {
			case 0, 2, 31, 39:
				kind = pipe.Data
			}
			if !yield(pipe.Extent{Off: at, Len: end - at, Kind: kind}, nil) {
				return
			}
			at = end
		}
	}
}

func loadVectors(t testing.TB) vector.Set {
	t.Helper()
	set, err := vector.Load("../testdata/vectors")
	require.NoError(t, err)
	return set
}

func listen(t testing.TB, opts *Options) *Server {
	t.Helper()
	if opts == nil {
		opts = &Options{}
	}
	if opts.Open == nil {
		opts.Open = func(_ context.Context, _, path string, _ bool) (Disk, error) {
			if path != "[datastore0] web0/web0-000001.vmdk" {
				return nil, fs.ErrNotExist
			}
			return newDisk(), nil
		}
	}
	s, err := Listen("127.0.0.1:0", opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// client speaks the vectors.
type client struct {
	t   testing.TB
	set vector.Set
	net.Conn
}

func dial(t testing.TB, s *Server) *client {
	t.Helper()
	c, err := net.DialTimeout("tcp", s.Addr().String(), 5*time.Second)
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	t.Cleanup(func() { c.Close() })
	return &client{t, loadVectors(t), c}
}

// login shows the ticket, and leaves c where the disk service begins.
func (c *client) login(ssl bool) {
	c.t.Helper()
	c.expect("authd", "banner")
	raw := c.Conn
	c.Conn = outer(raw)
	c.say("authd", "session")
	c.say("authd", "banner request")
	c.expect("authd", "banner again")
	c.say("authd", "thumbprint")
	line, err := readLine(c)
	require.NoError(c.t, err)
	require.Len(c.t, line+"\r\n", len(c.set.Get("authd", "thumbprint answer").Bytes))
	if !ssl {
		c.say("authd", "proxy nbd")
		c.expect("authd", "connect nbd")
		c.Conn = raw
		return
	}
	c.say("authd", "proxy nbdssl")
	c.expect("authd", "connect nbdssl")
	c.Conn = tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
}

func (c *client) handshake() {
	c.t.Helper()
	for _, m := range c.set {
		switch {
		case m.File != "classic" || m.Name == "complete":
		case m.FromServer:
			c.expect(m.File, m.Name)
		default:
			c.say(m.File, m.Name)
		}
	}
}

// open goes as far as an open file.
func (c *client) open(mode string) {
	c.t.Helper()
	c.handshake()
	for _, name := range []string{"open session", "socket options", "resource pool", "open file " + mode} {
		c.ask(name)
	}
}

func (c *client) ask(name string) {
	c.t.Helper()
	c.say("aio", name)
	c.expect("aio", name+" answer")
}

func (c *client) say(file, name string) {
	c.t.Helper()
	_, err := c.Write(c.set.Get(file, name).Bytes)
	require.NoError(c.t, err)
}

// expect reads a message and compares what is known of it.
func (c *client) expect(file, name string) {
	c.t.Helper()
	m := c.set.Get(file, name)
	got := make([]byte, len(m.Bytes))
	_, err := io.ReadFull(c, got)
	require.NoError(c.t, err, "%s: %s", file, name)
	for _, f := range m.Fields {
		if !f.Guess {
			require.Equal(c.t, m.Bytes[f.Off:f.Off+f.Len], got[f.Off:f.Off+f.Len], "%s: %s: %s", file, name, f.Comment)
		}
	}
}

// outer is the daemon's TLS.
func outer(c net.Conn) net.Conn {
	return tls.Client(&records{Conn: c}, &tls.Config{InsecureSkipVerify: true})
}
