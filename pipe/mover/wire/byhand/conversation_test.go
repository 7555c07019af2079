// Package byhand talks to real movers over real connections by bytes that are written from PROTOCOL.md. It codes and
// decodes nothing by package wire, opens no session by package session and no connection by package trust; so it shows that
// the document is enough to write the other side, and that the movers keep to it.
package byhand

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/pipe/mover/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// id is a block's id under the key that Begun gave.
func id(t *testing.T, key, block []byte) []byte {
	h, err := blake3.NewKeyed(key)
	require.NoError(t, err)
	_, _ = h.Write(block)
	return h.Sum(nil)[:32]
}

// put are the fields of a Put with plain content.
func put(disk []byte, off int, id, block []byte) []byte {
	return cat(disk, u64(uint64(off)), id, u32(len(block)), []byte{0, 1}, block)
}

// known are the fields of a Put without content.
func known(disk []byte, off int, id []byte) []byte {
	return cat(disk, u64(uint64(off)), id, u32(blockSize), []byte{0, 0})
}

// TestPoint writes a point in the steps of section 7, cuts a lane in the middle, and reads the point back (R010, R021, R029).
func TestPoint(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	key := s.enrolled("site-a", trust.Append)
	one, two := bytes.Repeat([]byte("one "), blockSize/4), bytes.Repeat([]byte("two."), blockSize/4)
	tail := []byte("the disk's last block is shorter")
	size := 4*blockSize + len(tail)

	l := s.lane(key)
	l.hello(1, 1, session(2), 0)
	l.welcome(false, "site-a")
	l.call(1, 40, text("web1"), text(""), u64(1_700_000_000_000_000_000), text("crash"), u16(1), text("os"), text("Debian"))
	begun := l.answer(1, 41)
	require.Len(t, begun, 36)
	writer, blockKey := begun[:4], begun[4:]
	l.call(2, 42, writer, text("disk0"), u64(uint64(size)))
	started := l.answer(2, 43)
	require.Equal(t, cat(u32(blockSize), flag(true)), started[4:])
	disk := started[:4]
	idOne, idTwo, idTail := id(t, blockKey, one), id(t, blockKey, two), id(t, blockKey, tail)

	l.call(3, 44, disk, u16(3), idOne, idTwo, idTail)
	require.Equal(t, []byte{0}, l.answer(3, 45), "nothing is known yet")
	l.call(4, 46, known(disk, 0, idOne))
	l.fail(4, 10)
	l.call(5, 46, put(disk, 0, idTwo, one))
	l.fail(5, 11)
	l.call(6, 46, put(disk, 17, idOne, one))
	l.fail(6, 6)
	l.call(7, 46, put(disk, 0, id(t, blockKey, make([]byte, blockSize)), make([]byte, blockSize)))
	l.fail(7, 6)
	l.call(8, 46, put(disk, 0, idOne, one))
	placed := l.answer(8, 47)
	require.Len(t, placed, 16)
	l.call(9, 44, disk, u16(2), idTwo, idOne)
	require.Equal(t, []byte{0x40}, l.answer(9, 45), "this tenant has sent the second")

	// The second lane, and a call that is sent again.
	l2 := s.lane(key)
	l2.hello(1, 1, session(2), 1)
	l2.welcome(true, "site-a")
	l2.call(8, 46, put(disk, 0, idOne, one))
	require.Equal(t, placed, l2.answer(8, 47), "the answer that was kept")
	l.close()
	l2.call(10, 46, known(disk, blockSize, idOne))
	l2.answer(10, 47)
	l2.send(6, 0, u64(11), u16(0))
	l2.call(10, 46, known(disk, blockSize, idOne))
	l2.quiet() // it is late: there is no answer

	// A frame that is none ends its lane, and not the session.
	l2.send(99, 11, []byte("more than there is in a probe"))
	l2.ended()
	l3 := s.lane(key)
	l3.hello(1, 1, session(2), 2)
	l3.welcome(true, "site-a")
	l3.call(11, 46, put(disk, 2*blockSize, idTwo, two))
	l3.answer(11, 47)
	l3.call(12, 48, disk, extent(3*blockSize, blockSize, 3))
	require.Empty(t, l3.answer(12, 16))
	l3.call(13, 46, put(disk, 4*blockSize, idTail, tail))
	l3.answer(13, 47)
	l3.call(14, 48, disk, extent(0, blockSize, 1))
	l3.fail(14, 6)
	l3.call(15, 56, writer, u16(0))
	require.NotEqual(t, byte(57), first(l3.next(15)), "a disk is open")
	l3.call(16, 50, disk)
	l3.answer(16, 16)
	l3.call(17, 50, disk)
	l3.fail(17, 17)

	l3.call(18, 52, writer, text("config.xml"))
	blob := l3.answer(18, 53)
	l3.call(19, 54, blob, u64(4), []byte("fig>")) // it has overtaken its predecessor
	l3.call(20, 54, blob, u64(0), []byte("<con"))
	require.ElementsMatch(t, []uint64{19, 20}, []uint64{l3.any(16), l3.any(16)})
	config := blake3.Sum256([]byte("<config>"))
	l3.call(21, 55, blob, u64(8), config[:])
	l3.answer(21, 16)
	l3.call(22, 56, writer, u16(1), text("disk0"), text("change 7"))
	point := l3.answer(22, 57)
	require.Greater(t, len(point), 10)

	// What an append peer sees of it, and what not.
	l3.call(23, 24, text("web1"), text(""))
	list := l3.answer(23, 25)
	require.Equal(t, cat(flag(false), u16(1), point, text("web1"), u64(1_700_000_000_000_000_000), text("crash"), u64(0),
		u16(1), text("disk0"), u64(uint64(size)), u64(uint64(3*blockSize+len(tail))), u16(1), text("swap"), u64(blockSize),
		u16(1), text("config.xml"), u64(8), u16(1), text("disk0"), text("change 7"), u16(1), text("os"), text("Debian"), text("")), list)
	l3.call(24, 26, point, text("disk0"))
	opened := l3.answer(24, 27)
	require.Equal(t, cat(u64(uint64(size)), flag(true)), opened[4:])
	l3.call(25, 30, opened[:4], u64(0), u64(uint64(size)))
	require.Equal(t, cat(u16(3), extent(0, 3*blockSize, 1), extent(3*blockSize, blockSize, 3), extent(4*blockSize, len(tail), 1)), l3.answer(25, 31))
	l3.call(26, 28, opened[:4], u64(0), u32(100))
	l3.fail(26, 3)
	l3.call(27, 33, point, text("config.xml"), u64(0), u32(100))
	l3.fail(27, 3)
	l3.call(28, 32, opened[:4])
	l3.answer(28, 16)
	l3.call(29, 32, opened[:4])
	l3.fail(29, 17)
	l3.send(3, 0, u16(17), text("done"))
	l3.ended()

	reader := s.lane(s.enrolled("reader", trust.Full))
	reader.hello(1, 1, session(3), 0)
	reader.welcome(false, "reader")
	reader.call(1, 24, text("site-a/web1"), text(""))
	require.Contains(t, string(reader.answer(1, 25)), "site-a/web1")
	reader.call(2, 26, point, text("disk0"))
	image := reader.answer(2, 27)[:4]
	reader.call(3, 28, image, u64(uint64(4*blockSize)), u32(4096))
	end := reader.answer(3, 29)
	require.Equal(t, cat(u32(len(tail)), []byte{0}, tail), end)
	reader.call(4, 33, point, text("config.xml"), u64(2), u32(1000))
	require.Equal(t, cat(u64(8), []byte("onfig>")), reader.answer(4, 34))
}

// next is the next answer's kind and payload; its call must be the one.
func (l *lane) next(call uint64) []byte {
	l.t.Helper()
	kind, n, payload, err := l.read()
	require.NoError(l.t, err)
	require.Equal(l.t, call, n)
	return append([]byte{kind}, payload...)
}

// any is the number of the next call that is answered by a kind.
func (l *lane) any(kind byte) uint64 {
	l.t.Helper()
	k, n, payload, err := l.read()
	require.NoError(l.t, err)
	require.Equal(l.t, kind, k, "%q", payload)
	return n
}

func first(b []byte) byte { return b[0] }

// TestGreetings: what is no beginning is refused as section 13 says.
func TestGreetings(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	key := s.enrolled("site-a", trust.Append)
	magic := []byte("HIKAE-MV")
	for name, c := range map[string]struct {
		bytes []byte
		code  int
	}{
		"another version":            {frame(1, 0, magic, u16(2), []byte("whatever it says")), 2},
		"an old version":             {frame(1, 0, magic, u16(0)), 2},
		"a session of another day":   {frame(1, 0, magic, u16(1), []byte{1}, session(9), u32(1)), 7},
		"another magic":              {frame(1, 0, []byte("HIKAE-XX"), u16(1), []byte{1}, session(9), u32(0)), 6},
		"role 3":                     {frame(1, 0, magic, u16(1), []byte{3}, session(9), u32(0)), 6},
		"a collector, and no source": {frame(1, 0, magic, u16(1), []byte{2}, session(9), u32(0)), 16},
		"no Hello":                   {frame(4, 0, u64(1)), 6},
		"a call":                     {frame(123, 1), 6},
		"an unknown kind":            {frame(200, 1), 6},
		"2^31 bytes":                 {cat(u32(1<<31), frame(49, 1)[4:]), 6},
		"HTTP":                       {[]byte("GET / HTTP/1.1\r\nHost: mover\r\n\r\n"), 6},
	} {
		t.Run(name, func(t *testing.T) {
			l := s.lane(key)
			_, err := l.c.Write(c.bytes)
			require.NoError(t, err)
			l.t = t
			l.refused(c.code)
		})
	}
}

// TestStrangers: nobody who is not in the book, or does not keep to the one scheme, gets a byte of the protocol (R010).
func TestStrangers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	key := s.enrolled("site-a", trust.Append)
	once := s.token("site-b", trust.Append)
	week := 7 * 24 * time.Hour
	for name, change := range map[string]func(*tls.Config){
		"no certificate": func(c *tls.Config) { c.Certificates = nil },
		"not enrolled":   func(c *tls.Config) { c.Certificates[0] = certificate(t, newKey(t), time.Now()) },
		"expired":        func(c *tls.Config) { c.Certificates[0] = certificate(t, key, time.Now().Add(-2*week)) },
		"not yet valid":  func(c *tls.Config) { c.Certificates[0] = certificate(t, key, time.Now().Add(2*week)) },
		"two certificates": func(c *tls.Config) {
			c.Certificates[0].Certificate = append(c.Certificates[0].Certificate, certificate(t, newKey(t), time.Now()).Certificate[0])
		},
		"TLS 1.2":              func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"another ALPN":         func(c *tls.Config) { c.NextProtos = []string{"hikae-mover/2"} },
		"no ALPN":              func(c *tls.Config) { c.NextProtos = nil },
		"another key exchange": func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} },
	} {
		t.Run(name, func(t *testing.T) {
			config := s.scheme(certificate(t, key, time.Now()))
			change(config)
			c, err := tls.Dial("tcp", s.address, config)
			if err != nil {
				return
			}
			defer c.Close()
			require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
			_, _ = c.Write(frame(1, 0, []byte("HIKAE-MV"), u16(1), []byte{1}, session(1), u32(0)))
			got, err := io.ReadAll(c)
			require.Error(t, err)
			require.Empty(t, got)
		})
	}

	// A token may enrol and do nothing else, and enrols once.
	l := s.lane(once)
	l.hello(1, 1, session(1), 0)
	l.welcome(false, "site-b")
	for n, kind := range []byte{123, 99} {
		l.call(uint64(n+1), kind)
		l.fail(uint64(n+1), 3)
	}
	l.call(3, 40, text("web1"), text(""), u64(0), text(""), u16(0))
	l.fail(3, 3)
	l.call(4, 120, newKey(t).Public().(ed25519.PublicKey), text(""))
	l.answer(4, 121)
	l.close()
	used := s.lane(once)
	got, err := io.ReadAll(used.c)
	require.Error(t, err)
	require.Empty(t, got)
}

// TestBreaches: whoever breaks the protocol in the middle loses the lane or the session, as section 13 has it.
func TestBreaches(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	key := s.enrolled("site-a", trust.Append)
	for i, c := range []struct {
		name  string
		bytes []byte
		code  int // of the Refuse; 0: the lane ends without a word, and the session goes on
	}{
		{"a second Hello", frame(1, 0, []byte("HIKAE-MV"), u16(1), []byte{1}, session(1), u32(0)), 0},
		{"an answer where nobody asked", frame(16, 1), 0},
		{"Credit from the wrong side", frame(8, 0, u32(1), u64(1), u64(1)), 0},
		{"Drain from the wrong side", frame(9, 0, u32(1)), 0},
		{"a call without a number", frame(123, 0), 0},
		{"a Ping with one", frame(4, 1, u64(1)), 0},
		{"a byte too many", frame(123, 1, []byte{0}), 0},
		{"2^31 bytes", cat(u32(1<<31), frame(46, 1)[4:]), 0},
		{"a header's zero that is none", cat(u32(0), []byte{123, 0, 1, 0}, u64(1)), 0},
		{"a number far ahead", frame(123, 1<<20), 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := s.lane(key)
			l.t = t
			l.hello(1, 1, session(byte(20+i)), 0)
			l.welcome(false, "site-a")
			_, err := l.c.Write(c.bytes)
			require.NoError(t, err)
			if c.code != 0 {
				l.refused(c.code)
			} else {
				l.ended()
			}
			again := s.lane(key)
			again.t = t
			again.hello(1, 1, session(byte(20+i)), 1)
			if c.code != 0 {
				again.refused(7)
				return
			}
			again.welcome(true, "site-a")
			again.call(1, 123)
			again.answer(1, 124)
		})
	}
}

// TestFencing: the session that begins a point of a VM last has it; the one before commits nothing.
func TestFencing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	key := s.enrolled("site-a", trust.Append)
	begin := func(n byte) (*lane, []byte) {
		l := s.lane(key)
		l.hello(1, 1, session(n), 0)
		l.welcome(false, "site-a")
		l.call(1, 40, text("web1"), text(""), u64(0), text(""), u16(0))
		return l, l.answer(1, 41)[:4]
	}
	old, oldWriter := begin(30)
	fresh, freshWriter := begin(31)
	old.call(2, 42, oldWriter, text("disk0"), u64(4096))
	old.fail(2, 8)
	old.call(3, 56, oldWriter, u16(0))
	old.fail(3, 8)
	fresh.call(2, 42, freshWriter, text("disk0"), u64(4096))
	disk := fresh.answer(2, 43)[:4]
	fresh.call(3, 48, disk, extent(0, 4096, 0))
	fresh.answer(3, 16)
	fresh.call(4, 50, disk)
	fresh.answer(4, 16)
	fresh.call(5, 56, freshWriter, u16(0))
	point := fresh.answer(5, 57)
	require.EqualValues(t, len(point)-2, binary.BigEndian.Uint16(point))

	// A disk that was dropped keeps its point from being committed.
	fresh.call(6, 40, text("web2"), text(""), u64(0), text(""), u16(0))
	dropping := fresh.answer(6, 41)[:4]
	fresh.call(7, 42, dropping, text("disk0"), u64(4096))
	fresh.call(8, 51, fresh.answer(7, 43)[:4])
	fresh.answer(8, 16)
	fresh.call(9, 56, dropping, u16(0))
	fresh.answer(9, 17)
	fresh.call(10, 58, dropping)
	fresh.answer(10, 16)

	// Nobody names another's VM, nor learns of it.
	other := s.lane(s.enrolled("site-b", trust.Append))
	other.hello(1, 1, session(31), 0)
	other.welcome(false, "site-b")
	other.call(1, 24, text("site-a/web1"), text(""))
	other.fail(1, 6)
	other.call(2, 24, text(""), text(""))
	require.Equal(t, cat(flag(false), u16(0)), other.answer(2, 25))
	other.call(3, 26, point, text("disk0"))
	other.fail(3, 4)

	require.NoError(t, s.book.Revoke("site-a"))
	fresh.refused(3)
	old.refused(3)
}
