package nfc

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/nfc/nfctest"
)

// Reads and writes are held against TLS alone: the same cipher over the same kind of connection in the same process, with
// as much of a server as it takes to keep the client busy.

const (
	benchDisk = 64 << 20
	benchRead = 1 << 20
)

// lean is a disk service that is in nobody's way: whole answers in order, out of one buffer.
type lean struct {
	*host
	content []byte
}

func newLean(t testing.TB) *lean {
	h := newHost(t, nil)
	h.size = benchDisk
	l := &lean{h, noise(1, benchDisk)}
	h.frameLoop = l.loop
	return l
}

func (l *lean) loop(in *bufio.Reader, out net.Conn) {
	w := bufio.NewWriterSize(out, 128<<10)
	var b [16 + 64]byte
	for {
		if in.Buffered() == 0 {
			w.Flush()
		}
		if _, err := io.ReadFull(in, b[:16]); err != nil || binary.LittleEndian.Uint32(b[:]) == 4 {
			return
		}
		kind, payload := binary.LittleEndian.Uint32(b[4:]), b[16:16+binary.LittleEndian.Uint32(b[8:])]
		if _, err := io.ReadFull(in, payload); err != nil {
			return
		}
		if kind != 7 {
			path := ""
			if kind == 4 {
				p := make([]byte, binary.LittleEndian.Uint32(payload))
				io.ReadFull(in, p)
				path = string(p)
			}
			a := answer{magic: aioMagic, kind: kind, opID: binary.LittleEndian.Uint32(b[12:])}
			for _, a := range l.answers(a, payload, path, 0) {
				l.send(w, a)
			}
			continue
		}
		clear(payload[:8])
		off, n := int64(binary.LittleEndian.Uint64(payload[16:])), int64(binary.LittleEndian.Uint32(payload[24:]))
		if payload[8] == 0 {
			if _, err := io.ReadFull(in, l.content[off:off+n]); err != nil {
				return
			}
			w.Write(b[:16+len(payload)])
			continue
		}
		w.Write(b[:16+len(payload)])
		w.Write(l.content[off : off+n])
	}
}

// moveDisk reads or writes the whole disk once, with four callers as a copy has them.
func moveDisk(b testing.TB, move func(ctx context.Context, p []byte, off int64) (int, error)) {
	var wg sync.WaitGroup
	for g := range int64(4) {
		wg.Go(func() {
			p := make([]byte, benchRead)
			for off := g * benchRead; off < benchDisk; off += 4 * benchRead {
				if _, err := move(b.Context(), p, off); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// rawTLS is a connection with nothing on it.
func rawTLS(t testing.TB, l *lean) (client, server net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			close(accepted)
			return
		}
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{l.cert}, DynamicRecordSizingDisabled: true})
		s.Handshake()
		accepted <- s
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	trust, err := parseThumbprint(l.thumbprintSHA256())
	require.NoError(t, err)
	c := tls.Client(raw, trust.tlsConfig("", ""))
	require.NoError(t, c.Handshake())
	s := <-accepted
	t.Cleanup(func() { raw.Close(); s.Close() })
	return c, s
}

// pour sends as much as a disk holds from one to the other, in pieces as long as a read.
func pour(t testing.TB, from, to net.Conn) {
	var wg sync.WaitGroup
	content := noise(2, benchRead)
	wg.Go(func() {
		for range benchDisk / benchRead {
			if _, err := from.Write(content); err != nil {
				t.Error(err)
				return
			}
		}
	})
	p := make([]byte, benchRead)
	for range benchDisk / benchRead {
		if _, err := io.ReadFull(to, p); err != nil {
			t.Error(err)
			break
		}
	}
	wg.Wait()
}

func BenchmarkRawTLS(b *testing.B) {
	c, s := rawTLS(b, newLean(b))
	b.SetBytes(benchDisk)
	for b.Loop() {
		pour(b, s, c)
	}
}

func BenchmarkRead(b *testing.B) {
	for name, opts := range map[string]*Options{"nbdssl": nil, "nbd": {Clear: true}, "nbdssl of 64 KiB": {Buffer: 64 << 10}} {
		b.Run(name, func(b *testing.B) {
			d := newLean(b).open(b, false, opts)
			b.SetBytes(benchDisk)
			for b.Loop() {
				moveDisk(b, d.ReadAt)
			}
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	for name, opts := range map[string]*Options{"nbdssl": nil, "nbd": {Clear: true}} {
		b.Run(name, func(b *testing.B) {
			target, err := newLean(b).open(b, true, opts).Target(nil)
			require.NoError(b, err)
			b.SetBytes(benchDisk)
			for b.Loop() {
				moveDisk(b, target.WriteAt)
			}
		})
	}
}

// BenchmarkService reads a disk of package nfctest.
func BenchmarkService(b *testing.B) {
	d := onService(b)
	b.SetBytes(benchDisk)
	for b.Loop() {
		moveDisk(b, d.ReadAt)
	}
}

// BenchmarkShare reports how much of raw TLS's rate is reached, as the median of pairs that run one after another: on a
// machine that others use too, figures of two moments do not compare. read and write are against the lean server, service
// is reads of package nfctest.
func BenchmarkShare(b *testing.B) {
	l := newLean(b)
	c, s := rawTLS(b, l)
	read := l.open(b, false, nil)
	target, err := l.open(b, true, nil).Target(nil)
	require.NoError(b, err)
	whole := onService(b)
	var reads, writes, service []float64
	for b.Loop() {
		service = append(service, timed(func() { pour(b, s, c) })/timed(func() { moveDisk(b, whole.ReadAt) }))
		reads = append(reads, timed(func() { pour(b, s, c) })/timed(func() { moveDisk(b, read.ReadAt) }))
		writes = append(writes, timed(func() { pour(b, c, s) })/timed(func() { moveDisk(b, target.WriteAt) }))
	}
	b.ReportMetric(100*median(reads), "%read")
	b.ReportMetric(100*median(writes), "%write")
	b.ReportMetric(100*median(service), "%service")
}

// onService is a disk of package nfctest, which does what a host does: it reads the disk for each answer.
func onService(b testing.TB) *Disk {
	disk := pipe.NewMemory(benchDisk)
	_, err := pipe.Copy(b.Context(), disk, pipetest.Bytes(noise(3, benchDisk)), nil)
	require.NoError(b, err)
	ss, err := nfctest.Listen("127.0.0.1:0", &nfctest.Options{
		Open: func(context.Context, string, string, bool) (nfctest.Disk, error) { return disk, nil },
	})
	require.NoError(b, err)
	b.Cleanup(func() { ss.Close() })
	require.NoError(b, ss.AddTicket(nfctest.Ticket{Session: "bench"}))
	c, err := Dial(b.Context(), Ticket{Host: "127.0.0.1", Port: ss.Addr().Port, Service: "vpxa-nfc", SessionID: "bench", Thumbprint: ss.Thumbprint()}, nil)
	require.NoError(b, err)
	b.Cleanup(func() { c.Close() })
	d, err := c.Open(b.Context(), "[datastore1] web0/web0.vmdk", false)
	require.NoError(b, err)
	return d
}

func timed(f func()) float64 {
	start := time.Now()
	f()
	return time.Since(start).Seconds()
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// TestShare is the bar for reads over TLS: six tenths of what TLS alone carries between the same two ends, as the median
// of nine pairs. It takes a machine that is not busy.
func TestShare(t *testing.T) {
	if !longTier() {
		t.Skip("figures are taken with HIKAE_TEST_TIER=long")
	}
	l := newLean(t)
	c, s := rawTLS(t, l)
	d := l.open(t, false, nil)
	var shares []float64
	for range 9 {
		shares = append(shares, timed(func() { pour(t, s, c) })/timed(func() { moveDisk(t, d.ReadAt) }))
	}
	require.GreaterOrEqual(t, median(shares), 0.6)
}
