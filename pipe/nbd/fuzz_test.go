package nbd_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
)

// wire is a connection whose other side is a row of bytes, and then the end.
type wire struct {
	net.Conn
	in  *bytes.Reader
	out func([]byte)
}

func newWire(b []byte, out func([]byte)) *wire {
	client, server := net.Pipe()
	server.Close()
	return &wire{Conn: client, in: bytes.NewReader(b), out: out}
}

func (w *wire) Read(p []byte) (int, error) { return w.in.Read(p) }

func (w *wire) Write(p []byte) (int, error) {
	w.out(p)
	return len(p), nil
}

func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// memoryDisk is a disk in memory: fuzzing it does not wait for a real one.
type memoryDisk struct{ *pipe.Memory }

func (d memoryDisk) Zero(ctx context.Context, off, n int64) error {
	return d.Mark(ctx, pipe.Extent{Off: off, Len: n, Kind: pipe.Zero})
}

func (d memoryDisk) Flush(context.Context) error { return nil }

// FuzzServer: whatever a client sends, the server ends with the connection, without a panic, and never answers with more
// than the requests could ask for.
func FuzzServer(f *testing.F) {
	for _, seed := range [][]byte{
		greeted(req(0, 0, 0, 4096), req(0, 7, 0, 1<<16), req(0, 2, 0, 0)),
		greeted(req(1, 1, 5, 5, "hello"), req(0, 6, 0, 4096), req(0, 4, 1, 99), req(0, 3, 0, 0), req(0, 5, 0, 10), req(8, 7, 0, 512)),
		be(uint32(3), opt(11), opt(7, uint32(0), uint16(1), uint16(3)), uint32(0x21e41c71), uint16(32), uint16(1), uint64(9), uint64(0), uint64(2), "ab"),
		be(uint32(1), opt(1, "")), be(uint32(3), opt(3), opt(6, uint32(1), "d", uint16(0)), opt(9, uint32(0), uint32(0)), opt(5), opt(2)),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		server, err := nbd.NewServer([]nbd.Export{{Image: memoryDisk{pipe.NewMemory(300_000)}}, {Name: "d", Description: "a disk", Image: sparse(2, 1000)}}, nil)
		require.NoError(t, err)
		sent := 0
		server.ServeConn(t.Context(), newWire(b, func(p []byte) { sent += len(p) }))
		require.LessOrEqual(t, sent, 200+len(b)/16*(400_000+64))
	})
}

// FuzzClient: whatever a server sends, the client comes to an end with an error of a known type or with an answer in
// order, without a panic.
func FuzzClient(f *testing.F) {
	for _, seed := range [][]byte{
		be(structured(8192), answer(0, 1, 1, uint64(0), make([]byte, 4096)), answer(1, 2, 1, uint64(4096), uint32(4096)),
			answer(1, 5, 2, uint32(7), uint32(4096), uint32(0), uint32(4096), uint32(3)), answer(1, 0, 3), answer(1, 0, 4)),
		be(structured(8192), answer(0, 1<<15+2, 1, uint32(5), uint16(2), "no", uint64(5)), answer(1, 1<<15+1, 1, uint32(22), uint16(0))),
		be(hello, rep(11, 1<<31+1), rep(8, 1<<31+1), rep(7, 3, uint16(0), uint64(5000), uint16(1|4|64)), rep(7, 3, uint16(3), uint32(512), uint32(4096), uint32(65536)),
			rep(7, 1), uint32(0x67446698), uint32(0), uint64(1), make([]byte, 5000), uint32(0x67446698), uint32(5), uint64(2)),
		be(hello, rep(11, 1), rep(10, 4, uint32(7), "base:allocation"), rep(10, 1), rep(7, 3, uint16(0), uint64(1<<40), uint16(1|4|64)), rep(7, 1),
			uint32(0x6e8a278c), uint16(1), uint16(2), uint64(1), uint64(0), uint64(12), uint64(0), uint32(5000)),
		be(hello, rep(11, 1<<31+1), rep(8, 1<<31+1), rep(7, 1<<31+1), uint64(512), uint16(3)),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		opts := &nbd.Options{Connections: 1, Timeout: 5 * time.Second, Dial: func(context.Context, string, string) (net.Conn, error) {
			return newWire(b, func([]byte) {}), nil
		}}
		c, err := nbd.Dial(t.Context(), "nbd://server", opts)
		if err != nil {
			requireKnown(t, err)
			return
		}
		defer c.Close()
		p := make([]byte, min(c.Size(), 5000))
		if n, err := c.ReadAt(t.Context(), p, 0); err != nil && err != io.EOF {
			requireKnown(t, err)
			require.LessOrEqual(t, n, len(p))
		}
		pos, count := int64(0), 0
		for e, err := range pipe.Extents(t.Context(), c, 0, c.Size()) {
			if err != nil {
				requireKnown(t, err)
				break
			}
			require.True(t, e.Off == pos && e.Len > 0 && e.End() <= c.Size(), "%v at %d", e, pos)
			if pos = e.End(); count > 1000 {
				break
			}
			count++
		}
		if target, err := c.Target(nil); err == nil && c.Size() > 0 {
			target.WriteAt(t.Context(), p[:1], 0)
			target.Commit(t.Context())
		}
	})
}
