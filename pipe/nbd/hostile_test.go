package nbd_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
)

// be is big-endian integers and strings in a row: uint8, uint16, uint32, uint64, string, []byte.
func be(parts ...any) (b []byte) {
	for _, p := range parts {
		switch v := p.(type) {
		case uint8:
			b = append(b, v)
		case uint16:
			b = binary.BigEndian.AppendUint16(b, v)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, v)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, v)
		case string:
			b = append(b, v...)
		case []byte:
			b = append(b, v...)
		}
	}
	return b
}

const (
	ihaveopt = "IHAVEOPT"
	hello    = "NBDMAGICIHAVEOPT\x00\x03"
)

// rep is a server's reply to an option.
func rep(option, kind uint32, data ...any) []byte {
	d := be(data...)
	return be(uint64(0x3e889045565a9), option, kind, uint32(len(d)), d)
}

// structured is a server's side of a handshake up to the transmission, with base:allocation as context 7.
func structured(size uint64) []byte {
	return be(hello, rep(11, 1<<31+1), rep(8, 1), rep(10, 4, uint32(7), "base:allocation"), rep(10, 1),
		rep(7, 3, uint16(0), size, uint16(1|4|8|64)), rep(7, 1))
}

// answer is a chunk of a structured reply.
func answer(flags, kind uint16, cookie uint64, data ...any) []byte {
	d := be(data...)
	return be(uint32(0x668e33ef), flags, kind, cookie, uint32(len(d)), d)
}

// scripted is a server that sends what it was told to, whatever the client says, and then for ever more.
func scripted(first, more []byte) *nbd.Options {
	return &nbd.Options{Timeout: 700 * time.Millisecond, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go io.Copy(io.Discard, server)
		go func() {
			_, err := server.Write(first)
			for err == nil && len(more) > 0 {
				_, err = server.Write(more)
			}
		}()
		return client, nil
	}}
}

// What a hostile server does ends in an error of a known type, at once, and without memory that only a length claims
// (RELIABILITY: NBD in the table of hostile inputs).
func TestHostileServer(t *testing.T) {
	read := func(c *nbd.Client) error {
		_, err := c.ReadAt(context.Background(), make([]byte, 4096), 4096)
		return err
	}
	status := func(c *nbd.Client) error {
		for _, err := range c.Extents(context.Background(), 0, c.Size()) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	endless := be(uint32(7), make([]byte, 8*4096)) // ranges of no length
	for name, test := range map[string]struct {
		first, more []byte
		use         func(*nbd.Client) error
	}{
		"wrong magic":                 {first: be("NBDMAGIG", ihaveopt, uint16(3))},
		"wrong second magic":          {first: be("NBDMAGIC", "IHAVENOT", uint16(3))},
		"endless greeting":            {first: be("x"), more: be("x")},
		"silent":                      {},
		"old style":                   {first: be("NBDMAGIC", uint64(0x00420281861253), uint64(1<<20))},
		"not fixed newstyle":          {first: be("NBDMAGIC", ihaveopt, uint16(2))},
		"reply with a wrong magic":    {first: be(hello, uint64(1), uint32(11), uint32(1), uint32(0))},
		"reply of 2^32-1 bytes":       {first: be(hello, uint64(0x3e889045565a9), uint32(11), uint32(1), uint32(math.MaxUint32))},
		"reply to another option":     {first: be(hello, rep(3, 1))},
		"never-ending contexts":       {first: be(hello, rep(11, 1<<31+1), rep(8, 1), rep(10, 4, uint32(1), "base:allocation")), more: rep(10, 4, uint32(2), "base:allocation")},
		"contexts nobody asked for":   {first: be(hello, rep(11, 1<<31+1), rep(8, 1)), more: rep(10, 4, uint32(2), "x-other:one")},
		"never-ending information":    {first: be(hello, rep(11, 1<<31+1), rep(8, 1<<31+1)), more: rep(7, 3, uint16(99), "x")},
		"no size":                     {first: be(hello, rep(11, 1<<31+1), rep(8, 1<<31+1), rep(7, 1))},
		"size 2^63":                   {first: structured(1 << 63)},
		"size 2^64-1":                 {first: structured(math.MaxUint64)},
		"smallest block 3":            {first: be(hello, rep(11, 1<<31+1), rep(8, 1<<31+1), rep(7, 3, uint16(0), uint64(512), uint16(1)), rep(7, 3, uint16(3), uint32(3), uint32(4096), uint32(1<<25)), rep(7, 1))},
		"block sizes of zero":         {first: be(hello, rep(11, 1<<31+1), rep(8, 1<<31+1), rep(7, 3, uint16(0), uint64(512), uint16(1)), rep(7, 3, uint16(3), uint32(0), uint32(0), uint32(0)), rep(7, 1))},
		"cut in the handshake":        {first: be(hello, "x")[:19]},
		"unknown cookie":              {first: be(structured(1<<20), answer(1, 0, 77)), use: read},
		"answer nobody asked for":     {first: be(structured(1<<20), answer(1, 0, 1)), use: read},
		"wrong magic of an answer":    {first: structured(1 << 20), more: be(uint32(0x11111111), make([]byte, 28)), use: read},
		"simple answer to a read":     {first: structured(1 << 20), more: be(uint32(0x67446698), uint32(0), uint64(1)), use: read},
		"done without the data":       {first: structured(1 << 20), more: answer(1, 0, 1), use: read},
		"content before the range":    {first: structured(1 << 20), more: answer(0, 1, 1, uint64(0), make([]byte, 512)), use: read},
		"content after the range":     {first: structured(1 << 20), more: answer(0, 1, 1, uint64(8192), make([]byte, 512)), use: read},
		"content beyond the range":    {first: structured(1 << 20), more: answer(0, 1, 1, uint64(8191), make([]byte, 2)), use: read},
		"content at 2^64-1":           {first: structured(1 << 20), more: answer(0, 1, 1, uint64(math.MaxUint64), make([]byte, 2)), use: read},
		"content of 2^32-1 bytes":     {first: structured(1 << 20), more: be(uint32(0x668e33ef), uint16(0), uint16(1), uint64(1), uint32(math.MaxUint32), uint64(4096)), use: read},
		"content that overlaps":       {first: structured(1 << 20), more: answer(0, 1, 1, uint64(4096), make([]byte, 512)), use: read},
		"content of no bytes":         {first: structured(1 << 20), more: answer(0, 1, 1, uint64(4096)), use: read},
		"hole of no bytes":            {first: structured(1 << 20), more: answer(0, 2, 1, uint64(4096), uint32(0)), use: read},
		"hole beyond the range":       {first: structured(1 << 20), more: answer(0, 2, 1, uint64(4096), uint32(math.MaxUint32)), use: read},
		"status for a read":           {first: structured(1 << 20), more: answer(0, 5, 1, uint32(7), uint32(512), uint32(0)), use: read},
		"unknown chunk":               {first: structured(1 << 20), more: answer(0, 99, 1), use: read},
		"error without an error":      {first: structured(1 << 20), more: answer(1, 1<<15+1, 1, uint32(0), uint16(0)), use: read},
		"error message too long":      {first: structured(1 << 20), more: answer(1, 1<<15+1, 1, uint32(5), uint16(9), "x"), use: read},
		"error outside the range":     {first: structured(1 << 20), more: answer(1, 1<<15+2, 1, uint32(5), uint16(0), uint64(0)), use: read},
		"never-ending errors":         {first: structured(1 << 20), more: answer(0, 1<<15+1, 1, uint32(5), uint16(0)), use: read},
		"cut in the middle":           {first: be(structured(1<<20), answer(0, 1, 1, uint64(4096), make([]byte, 512))[:100]), use: read},
		"silence after the handshake": {first: structured(1 << 20), use: read},
		"ranges of no length":         {first: structured(1 << 20), more: answer(0, 5, 1, endless), use: status},
		"no ranges":                   {first: structured(1 << 20), more: answer(0, 5, 1, uint32(7)), use: status},
		"ranges of another context":   {first: structured(1 << 20), more: answer(0, 5, 1, uint32(8), uint32(512), uint32(0)), use: status},
		"a context twice":             {first: structured(1 << 20), more: answer(0, 5, 1, uint32(7), uint32(512), uint32(0)), use: status},
		"no context at all":           {first: structured(1 << 20), more: answer(1, 0, 1), use: status},
		"ranges of 4 GiB in length":   {first: structured(1 << 20), more: be(uint32(0x668e33ef), uint16(0), uint16(5), uint64(1), uint32(math.MaxUint32)&^7|4, uint32(7)), use: status},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			c, err := nbd.Dial(context.Background(), "nbd://server", scripted(test.first, test.more))
			if err == nil {
				require.NotNil(t, test.use, "the handshake is refused")
				err = test.use(c)
				require.NoError(t, c.Close())
			}
			requireKnown(t, err)
			require.Less(t, time.Since(start), 5*time.Second) // the silence lasts 0.7 s; the machine may be busy
		})
	}
}

// requireKnown: callers can tell what kind of error it is.
func requireKnown(t testing.TB, err error) {
	t.Helper()
	_, protocol := errors.AsType[*nbd.ProtocolError](err)
	_, option := errors.AsType[*nbd.OptionError](err)
	_, server := errors.AsType[*nbd.ServerError](err)
	if !protocol && !option && !server && !errors.Is(err, nbd.ErrLost) && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("an error of no known type: %T %v", err, err)
	}
}

// greeted is a client's side of a handshake up to the transmission, structured, with base:allocation.
func greeted(extra ...any) []byte {
	return be(uint32(3), opt(8), opt(10, uint32(0), uint32(1), uint32(15), "base:allocation"), opt(7, uint32(0), uint16(0)), be(extra...))
}

func opt(option uint32, data ...any) []byte {
	d := be(data...)
	return be(ihaveopt, option, uint32(len(d)), d)
}

func req(flags, cmd uint16, off uint64, n uint32, data ...any) []byte {
	return be(uint32(0x25609513), flags, cmd, uint64(1), off, n, be(data...))
}

// What a hostile client does ends its connection or gets an error, at once, in bounded memory; the server goes on.
func TestHostileClient(t *testing.T) {
	src := sparse(1, 1<<20)
	for name, test := range map[string]struct {
		send, more []byte
		answered   bool // the client gets an error and may go on
	}{
		"unknown flags":             {send: be(uint32(0x80000003))},
		"wrong magic":               {send: be(uint32(3), "IHAVENOT", uint32(1), uint32(0))},
		"option of 2^32-1 bytes":    {send: be(uint32(3), ihaveopt, uint32(7), uint32(math.MaxUint32))},
		"never-ending options":      {send: be(uint32(3)), more: opt(99)},
		"never-ending list":         {send: be(uint32(3)), more: opt(3)},
		"name longer than its data": {send: be(uint32(3), opt(7, uint32(1<<30), "x"), opt(2)), answered: true},
		"2^32-1 queries":            {send: be(uint32(3), opt(8), opt(10, uint32(0), uint32(math.MaxUint32)), opt(2)), answered: true},
		"export that is not there":  {send: be(uint32(3), opt(1, "nobody"))},
		"request with wrong magic":  {send: greeted(make([]byte, 28))},
		"write of 2^32-1 bytes":     {send: greeted(req(0, 1, 0, math.MaxUint32)), more: make([]byte, 1<<16)},
		"read at 2^64-1":            {send: greeted(req(0, 0, math.MaxUint64, 2), req(0, 2, 0, 0)), answered: true},
		"read of 2^32-1 bytes":      {send: greeted(req(0, 0, 0, math.MaxUint32), req(0, 2, 0, 0)), answered: true},
		"write to a read-only disk": {send: greeted(req(0, 1, 0, 5, "hello"), req(0, 2, 0, 0)), answered: true},
		"unknown command":           {send: greeted(req(0, 99, 0, 0), req(0, 2, 0, 0)), answered: true},
		"unknown flag":              {send: greeted(req(1<<14, 0, 0, 1), req(0, 2, 0, 0)), answered: true},
		"requests without an end":   {send: greeted(), more: req(0, 0, 0, 1<<20)},
		"garbage":                   {send: be(uint32(3)), more: []byte("garbage ")},
		"cut":                       {send: greeted(req(0, 0, 0, 1)[:13])},
	} {
		t.Run(name, func(t *testing.T) {
			server, err := nbd.NewServer([]nbd.Export{{Image: src}}, &nbd.ServerOptions{HandshakeTimeout: 2 * time.Second, Timeout: 500 * time.Millisecond})
			require.NoError(t, err)
			client, conn := net.Pipe()
			ended := make(chan error, 1)
			start := time.Now()
			go func() { ended <- server.ServeConn(context.Background(), conn) }()
			go func() {
				_, err := client.Write(test.send)
				for err == nil && len(test.more) > 0 {
					_, err = client.Write(test.more)
				}
				if len(test.more) == 0 && !test.answered {
					time.Sleep(50 * time.Millisecond)
					client.Close()
				}
			}()
			if name != "requests without an end" { // that one takes no answers
				go io.Copy(io.Discard, client)
			}
			err = <-ended
			client.Close()
			require.Less(t, time.Since(start), 4*time.Second)
			if test.answered {
				require.NoError(t, err)
				return
			}
			require.Error(t, err)
		})
	}
}

// A client that takes no answers holds its share of memory and no more, and is cut after the deadline; meanwhile others
// are served.
func TestSlowClientHoldsNobody(t *testing.T) {
	src := pipe.FromReaderAt(random{}, 1<<30)
	ended := make(chan error, 10)
	uri := serve(t, &nbd.ServerOptions{BytesInFlight: 4 << 20, Timeout: time.Second, Ended: func(_ net.Addr, err error) { ended <- err }}, nbd.Export{Image: src})
	a, err := nbd.ParseURI(uri(""))
	require.NoError(t, err)
	before := heap()
	slow, err := net.Dial(a.Network, a.Host)
	require.NoError(t, err)
	defer slow.Close()
	go func() {
		slow.Write(greeted())
		for i := range uint64(200) {
			slow.Write(req(0, 0, i<<20, 1<<20))
		}
	}()
	time.Sleep(200 * time.Millisecond)
	c := dial(t, uri(""), nil)
	b := make([]byte, 16<<20)
	_, err = c.ReadAt(t.Context(), b, 0)
	require.NoError(t, err)
	require.Less(t, heap()-before, int64(16<<20+2*4<<20+8<<20), "the buffer, two shares, and what else there is")
	require.ErrorIs(t, <-ended, nbd.ErrLost)
}

// random is content that is not zero.
type random struct{}

func (random) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		p[i] = byte(off+int64(i)) | 1
	}
	return len(p), nil
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
