package nfc

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/pipe"
)

// put overwrites a word of an answer's payload.
func put(at int, v uint32) func(a *answer) []answer {
	return func(a *answer) []answer {
		binary.LittleEndian.PutUint32(a.payload[at:], v)
		return []answer{*a}
	}
}

// Each line of an answer to a read that is not what was asked for ends the connection; not one byte of it is returned.
func TestReadsAreChecked(t *testing.T) {
	for name, mangle := range map[string]func(a *answer) []answer{
		"another magic":               func(a *answer) []answer { a.magic++; return []answer{*a} },
		"a payload of 2 GiB":          func(a *answer) []answer { a.size = 1 << 31; return []answer{*a} },
		"a payload of 4 KiB":          func(a *answer) []answer { a.size = 4096; a.payload = make([]byte, 4096); return []answer{*a} },
		"no payload":                  func(a *answer) []answer { a.size, a.payload = 0, nil; return []answer{*a} },
		"a request that was not made": func(a *answer) []answer { a.opID += 77; return []answer{*a} },
		"another type":                func(a *answer) []answer { a.kind = 13; return []answer{*a} },
		"twice":                       func(a *answer) []answer { return []answer{*a, *a} },
		"another handle":              put(0, 5),
		"a write":                     put(8, 0),
		"compressed":                  put(12, 2),
		"another offset":              put(16, 512),
		"an offset beyond 2^63":       put(20, 1<<31),
		"another total":               put(24, 1024),
		"a total of 4 GiB":            put(24, 1<<32-1),
		"a piece beyond the end":      put(28, 512),
		"a piece at 4 GiB":            put(28, 1<<32-512),
		"an empty piece":              put(32, 0),
		"a longer piece":              put(32, 1<<20),
		"a piece of 4 GiB":            put(32, 1<<32-1),
		"more bytes than it says":     put(36, 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, noise(1, 1<<20))
			d := h.open(t, false, &Options{Timeout: 5 * time.Second})
			h.mangle = func(a *answer) []answer {
				if a.kind != 7 {
					return []answer{*a}
				}
				return mangle(a)
			}
			n, err := d.ReadAt(t.Context(), make([]byte, 4096), 8192)
			if name == "twice" { // the second comes when nothing is waited for any more
				require.NoError(t, err)
				require.Eventually(t, func() bool {
					n, err = d.ReadAt(t.Context(), make([]byte, 4096), 8192)
					return err != nil
				}, 5*time.Second, time.Millisecond)
			}
			var broke *ProtocolError
			require.ErrorAs(t, err, &broke)
			require.Zero(t, n)
			require.ErrorContains(t, err, h.path)
			require.ErrorContains(t, err, "read [8192, 12288)")
		})
	}
}

// Pieces that overlap, and pieces that are missing, are no zeros.
func TestPieces(t *testing.T) {
	content := noise(2, 1<<20)
	h := newHost(t, content)
	d := h.open(t, false, &Options{Buffer: 64 << 10, Timeout: 200 * time.Millisecond})
	h.mangle = func(a *answer) []answer { // the second piece never comes
		a.silent = a.kind == 7 && binary.LittleEndian.Uint32(a.payload[28:]) == 64<<10
		return []answer{*a}
	}
	p := make([]byte, 256<<10)
	_, err := d.ReadAt(t.Context(), p, 0)
	require.ErrorIs(t, err, ErrLost)

	d = h.open(t, false, &Options{Buffer: 64 << 10})
	h.mangle = func(a *answer) []answer { // the second piece begins in the first
		if a.kind == 7 && binary.LittleEndian.Uint32(a.payload[28:]) == 64<<10 {
			return put(28, 32<<10)(a)
		}
		return []answer{*a}
	}
	_, err = d.ReadAt(t.Context(), p, 0)
	var broke *ProtocolError
	require.ErrorAs(t, err, &broke)
}

// An answer of another kind than content, and what is said of files.
func TestAnswersAreChecked(t *testing.T) {
	only := func(kind uint32, mangle func(a *answer) []answer) func(a *answer) []answer {
		return func(a *answer) []answer {
			if a.kind != kind {
				return []answer{*a}
			}
			return mangle(a)
		}
	}
	short := func(a *answer) []answer { a.payload, a.size = a.payload[:20], 20; return []answer{*a} }
	for name, mangle := range map[string]func(a *answer) []answer{
		"a short description": only(4, short), "a folder": only(4, put(16, 1)), "for writing": only(4, put(20, openReadWrite)),
		"2^63 bytes": only(4, put(32, 1<<31)), "2^50 bytes and more": only(4, put(32, 1<<19)), "a part of a sector": only(4, put(28, 513)),
		"sectors of 0": only(4, put(36, 0)), "sectors of 768": only(4, put(36, 768)), "sectors of 1 MiB": only(4, put(36, 1<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, noise(1, 1<<20))
			h.mangle = mangle
			c, err := Dial(t.Context(), h.ticket(), nil)
			require.NoError(t, err)
			defer c.Close()
			_, err = c.Open(t.Context(), h.path, false)
			var broke *ProtocolError
			require.ErrorAs(t, err, &broke)
		})
	}
	t.Run("a sector that changes", func(t *testing.T) {
		h := newHost(t, noise(1, 1<<20))
		h.mangle = only(7, func(a *answer) []answer { a.extra[0] = byte(a.opID); return []answer{*a} })
		c, err := Dial(t.Context(), h.ticket(), nil)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Open(t.Context(), h.path, false)
		require.ErrorContains(t, err, "differs")
	})
	t.Run("a property without end", func(t *testing.T) {
		h := newHost(t, noise(1, 1<<20))
		d := h.open(t, false, nil)
		h.mangle = only(11, put(12, 1<<31))
		_, err := d.Property(t.Context(), "uuid")
		var broke *ProtocolError
		require.ErrorAs(t, err, &broke)
		require.False(t, pipe.WorthRetry(err))
	})
	t.Run("another count of chunks", func(t *testing.T) {
		h := newHost(t, noise(1, 1<<20))
		h.mangle = only(13, put(32, 1<<30))
		var broke *ProtocolError
		for _, err := range h.open(t, false, nil).Extents(t.Context(), 0, 1<<20) {
			require.ErrorAs(t, err, &broke)
		}
		require.NotNil(t, broke)
	})
	t.Run("a write of another length", func(t *testing.T) {
		h := newHost(t, make([]byte, 1<<20))
		h.mangle = only(7, func(a *answer) []answer {
			if a.payload[8] == 0 {
				return put(24, 512)(a)
			}
			return []answer{*a}
		})
		target, err := h.open(t, true, nil).Target(nil)
		require.NoError(t, err)
		_, err = target.WriteAt(t.Context(), make([]byte, 4096), 4096)
		require.ErrorContains(t, err, "write [4096, 8192)")
		require.Error(t, target.Commit(t.Context()))
	})
	t.Run("a read that is refused", func(t *testing.T) {
		h := newHost(t, noise(1, 1<<20))
		d := h.open(t, false, nil)
		h.mangle = only(7, func(a *answer) []answer {
			if binary.LittleEndian.Uint64(a.payload[16:]) == 4096 {
				a.kind, a.payload, a.size, a.extra = 1, []byte{13, 0, 0, 0, 9, 9}, 6, nil
			}
			return []answer{*a}
		})
		var refused *HostError
		_, err := d.ReadAt(t.Context(), make([]byte, 512), 4096)
		require.ErrorAs(t, err, &refused)
		require.EqualValues(t, 13, refused.Code)
		_, err = d.ReadAt(t.Context(), make([]byte, 512), 0)
		require.NoError(t, err, "the connection stands")
	})
	t.Run("a ticket for reading", func(t *testing.T) {
		h := newHost(t, noise(1, 1<<20))
		h.mangle = only(4, func(a *answer) []answer { a.kind, a.payload, a.size = 1, []byte{11, 0, 0, 0}, 4; return []answer{*a} })
		c, err := Dial(t.Context(), h.ticket(), nil)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Open(t.Context(), h.path, true)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.False(t, pipe.WorthRetry(err))
	})
}

// A host with another certificate gets no ticket, and one that changes it between the layers gets no further.
func TestTrust(t *testing.T) {
	h := newHost(t, noise(1, 1<<20))
	ticket := h.ticket()
	ticket.Thumbprint = h.thumbprintSHA256()
	c, err := Dial(t.Context(), ticket, nil)
	require.NoError(t, err, "SHA-256, with colons")
	require.NoError(t, c.Close())

	ticket = h.ticket()
	ticket.Thumbprint = "00" + ticket.Thumbprint[2:]
	_, err = Dial(t.Context(), ticket, nil)
	var trust *TrustError
	require.ErrorAs(t, err, &trust)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.False(t, pipe.WorthRetry(err))
	require.Equal(t, "authentication", trust.Layer)
	require.True(t, h.ids[ticket.SessionID], "the session id was not told")

	h.inner = certificate(t)
	_, err = Dial(t.Context(), h.ticket(), nil)
	require.ErrorAs(t, err, &trust)
	require.Equal(t, "disk service", trust.Layer)
}

// Tickets that cannot be used, or that carry more than one word.
func TestTickets(t *testing.T) {
	h := newHost(t, noise(1, 1<<20))
	for name, change := range map[string]func(t *Ticket){
		"no host": func(t *Ticket) { t.Host = "" }, "any host": func(t *Ticket) { t.Host = "*" }, "port": func(t *Ticket) { t.Port = 65536 },
		"no service": func(t *Ticket) { t.Service = "" }, "two lines": func(t *Ticket) { t.SessionID += "\r\nPROXY x" },
		"space": func(t *Ticket) { t.Service += " x" }, "long": func(t *Ticket) { t.SessionID = strings.Repeat("x", 300) },
		"no thumbprint": func(t *Ticket) { t.Thumbprint = "" }, "MD5": func(t *Ticket) { t.Thumbprint = t.Thumbprint[:32] },
	} {
		ticket := h.ticket()
		change(&ticket)
		_, err := Dial(t.Context(), ticket, nil)
		require.ErrorIs(t, err, fs.ErrInvalid, name)
	}
	ticket := h.ticket()
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", ticket, ticket, ticket, ticket), ticket.SessionID)
	delete(h.ids, ticket.SessionID)
	_, err := Dial(t.Context(), ticket, nil)
	var refused *RefusedError
	require.ErrorAs(t, err, &refused, "a spent ticket")
	require.Contains(t, refused.Answer, "530")
	require.NotContains(t, err.Error(), ticket.SessionID)
	for _, o := range []Options{{Buffer: 1}, {Buffer: 4 << 20}, {InFlight: 65}, {InFlight: -1}, {Size: -1}, {OpID: strings.Repeat("x", 300)}} {
		_, err := Dial(t.Context(), h.ticket(), &o)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
}

// The daemon's lines and the classic messages are bounded and checked.
func TestDaemon(t *testing.T) {
	dial := func(h *host) error {
		c, err := Dial(t.Context(), h.ticket(), &Options{DialTimeout: 5 * time.Second})
		if err == nil {
			c.Close()
		}
		return err
	}
	var broke *ProtocolError
	var refused *RefusedError
	h := newHost(t, nil)
	h.banner = "220 " + strings.Repeat("x", 1<<20) + "\r\n"
	require.ErrorAs(t, dial(h), &broke)
	h.banner = "SSH-2.0-OpenSSH\r\n"
	require.ErrorAs(t, dial(h), &refused)
	h.banner = "220 hello\r\n"
	for command, line := range map[string]string{"PROXY": "504 no such service\r\n", "THUMBPRINT_SHA2": "501 Invalid arguments\r\n", "BANNER": "2200\r\n"} {
		h.lines = map[string]string{command: line}
		require.ErrorAs(t, dial(h), &refused, command)
		require.True(t, strings.HasPrefix(refused.Command, command))
		require.Equal(t, strings.TrimSpace(line), refused.Answer)
	}
	h.lines = map[string]string{"PROXY": "200 Connect ha-nfcssl\r\nand more\r\n"}
	require.ErrorAs(t, dial(h), &broke)
	h.lines = nil
	for _, kind := range []uint32{36, 51, 52} {
		h.classics = func(k uint32, msg []byte) {
			if k == kind {
				binary.LittleEndian.PutUint32(msg, 99)
			}
		}
		require.ErrorAs(t, dial(h), &broke)
	}
	h.classics = func(k uint32, msg []byte) {
		if k == 51 {
			binary.LittleEndian.PutUint32(msg[4:], 2)
		}
	}
	require.ErrorAs(t, dial(h), &broke, "a version from before names")
}

// Wherever the host's side breaks, there is a typed error, or a new connection and the right bytes (R113).
func TestCutAnywhere(t *testing.T) {
	content := noise(3, 128<<10)
	h := newHost(t, content)
	total := int64(0) // of what a whole life takes
	count := &countConn{}
	life := func(opts Options) error {
		c, err := Dial(t.Context(), h.ticket(), &opts)
		if err != nil {
			return err
		}
		defer c.Close()
		d, err := c.Open(t.Context(), h.path, false)
		if err != nil {
			return err
		}
		p := make([]byte, len(content))
		n, err := d.ReadAt(t.Context(), p, 0)
		if !bytes.Equal(p[:n], content[:n]) || err == nil && n != len(p) {
			return fmt.Errorf("%d bytes that are not the disk's", n)
		}
		return err
	}
	require.NoError(t, life(Options{Buffer: 32 << 10, Dialer: count.dial}))
	total = count.n
	require.Greater(t, total, int64(len(content)))
	step := int64(1)
	for at := int64(0); at < total; at += step {
		step = 97
		switch long := longTier(); {
		case at > 8000: // the content
			step = 16411
		case long:
			step = 3
		}
		h.cut = func(int) int64 { return at }
		err := life(Options{Buffer: 32 << 10})
		if err == nil { // the lengths of handshakes vary by some bytes, and the goodbye is not needed
			require.Greater(t, at, total-2000)
			continue
		}
		require.ErrorIs(t, err, ErrLost, "%d", at)
		require.True(t, pipe.WorthRetry(err))

		h.cut = func(n int) int64 { // and a session that survives two of them, once it is open
			return map[bool]int64{true: max(at, 7000), false: -1}[n%3 != 0]
		}
		redial := func(context.Context) (Ticket, error) { return h.ticket(), nil }
		if err := life(Options{Buffer: 32 << 10, Redial: redial}); err != nil {
			require.ErrorIs(t, err, ErrLost)
		}
	}
}

// longTier says whether there is time for every place.
func longTier() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

type countConn struct {
	net.Conn
	n int64
}

func (c *countConn) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	c.Conn = conn
	return c, err
}

func (c *countConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n += int64(n)
	return n, err
}

// Any pieces in any order: what arrived is what a plain set of bytes says, and no byte counts twice.
func TestCover(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c cover
		seen := make([]bool, 64)
		for range rapid.IntRange(0, 60).Draw(t, "pieces") {
			from := rapid.Uint32Range(0, 64).Draw(t, "from")
			s := span{from, min(64, from+rapid.Uint32Range(0, 12).Draw(t, "length"))}
			fresh := s.from < s.to
			for i := s.from; i < s.to; i++ {
				fresh = fresh && !seen[i]
			}
			if got := c.add(s); got != fresh {
				t.Fatalf("%v is taken: %v, %v", s, got, c.parts)
			}
			for i := s.from; fresh && i < s.to; i++ {
				seen[i] = true
			}
		}
		n := uint32(0)
		for i := range seen {
			if seen[i] {
				n++
			}
		}
		if n != c.n {
			t.Fatalf("%d bytes are there, %d counted", n, c.n)
		}
	})
}

// A connection is handed out record by record, however the bytes arrive.
func TestRecords(t *testing.T) {
	stream := []byte{22, 3, 1, 0, 3, 'a', 'b', 'c', 23, 3, 3, 0, 0, 23, 3, 3, 0, 1, 'd', 'r', 'a', 'w'}
	for _, most := range []int{1, 2, 4, 512} {
		near, far := net.Pipe()
		go func() { far.Write(stream); far.Close() }()
		r := &records{Conn: near}
		got := 0
		for got < 19 { // a caller that asks for much never gets past the record it is in
			n, err := r.Read(make([]byte, most))
			require.NoError(t, err)
			got += n
			require.LessOrEqual(t, got, 19)
		}
		rest, err := io.ReadAll(near)
		require.NoError(t, err)
		require.Equal(t, "raw", string(rest))
	}
}

// Whatever bytes a host sends after the handshake, the client neither panics nor takes memory, and ends.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{}, uint16(512))
	good := head{kindIO, ioLen, 0}.append(nil)
	good = ioFrame{dir: dirRead, off: 512, total: 512, n: 512, wire: 512}.append(good)
	f.Add(append(good, make([]byte, 512)...), uint16(512))
	f.Add(head{kindError, 8, 0}.append(nil), uint16(1))
	f.Add(head{kindError, 4096, 1}.append(nil), uint16(1))
	f.Fuzz(func(t *testing.T, stream []byte, n uint16) {
		near, far := net.Pipe()
		go func() { io.Copy(io.Discard, far) }()
		go func() { far.Write(stream); far.Close() }()
		opts, err := (&Options{Timeout: time.Second}).fill()
		require.NoError(t, err)
		l := newLink(near, near, &opts)
		want := append([]byte(nil), make([]byte, int(n)+1)...)
		err = l.do(context.Background(), newRead(1, want, 512))
		if err == nil { // every byte of it was in the stream
			require.GreaterOrEqual(t, len(stream), headLen+ioLen+len(want))
		} else {
			var broke *ProtocolError
			var refused *HostError
			require.True(t, errors.As(err, &broke) || errors.As(err, &refused) || errors.Is(err, ErrLost), "%v", err)
		}
		l.fail(errClosed)
		<-l.gone
	})
}

// What is decoded and encoded again is the same.
func FuzzDecoders(f *testing.F) {
	f.Add(ioFrame{handle: 7, dir: dirRead, off: 512, total: 512, n: 512, wire: 512}.append(nil))
	f.Add(append(make([]byte, 8), bytes.Repeat([]byte{0xff}, 52)...))
	opened, _ := hex.DecodeString("000000000000000001000000edfe0000020000001e000000000000000000100000000000" + "00020000")
	f.Add(append(opened, make([]byte, 20)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= ioLen {
			again := parseIO(b).append(nil)
			require.Equal(t, b[:40], again[:40])
		}
		if len(b) >= headLen {
			if h, err := parseHead(b); err == nil {
				require.Equal(t, b[:headLen], h.append(nil))
				require.LessOrEqual(t, h.size, uint32(longestPayload))
			}
		}
		if o, err := parseOpened(b, false); err == nil {
			require.Zero(t, o.size%o.sector)
			require.LessOrEqual(t, o.size, int64(largestDisk))
			require.GreaterOrEqual(t, o.size, int64(0))
		}
		l := lines{from: bytes.NewReader(b)}
		if line, err := l.next(); err == nil {
			require.NotContains(t, line, "\n")
			require.True(t, bytes.HasPrefix(b, []byte(line)))
		}
	})
}
