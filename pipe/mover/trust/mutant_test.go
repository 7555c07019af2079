package trust

import (
	"bytes"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/stretchr/testify/require"
)

var one = big.NewInt(1)

// tap keeps what its owner writes.
type tap struct {
	net.Conn
	said []byte
}

func (c *tap) Write(p []byte) (int, error) {
	c.said = append(c.said, p...)
	return c.Conn.Write(p)
}

// seeded is a server's side of a connection. From the first byte on all randomness comes from a seed, so that a server
// that hears the same words answers with the same ones, and a recording fits them.
type seeded struct {
	net.Conn
	t     *testing.T
	seed  uint64
	begun bool
}

func (c *seeded) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.begun {
		c.begun = true
		cryptotest.SetGlobalRandom(c.t, c.seed)
	}
	return n, err
}

// recording is a connection to somebody who says what is recorded, and then nothing more.
type recording struct {
	net.Conn // nil: what is not below is not called
	says     bytes.Reader
	hears    int // bytes that were said to it
}

func (r *recording) Read(p []byte) (int, error)       { return r.says.Read(p) }
func (r *recording) Write(p []byte) (int, error)      { r.hears += len(p); return len(p), nil }
func (r *recording) Close() error                     { return nil }
func (r *recording) SetDeadline(time.Time) error      { return nil }
func (r *recording) SetReadDeadline(time.Time) error  { return nil }
func (r *recording) SetWriteDeadline(time.Time) error { return nil }

// record makes a good handshake and returns all that the client said in it.
func record(t *testing.T, s *site, id *Identity, seed uint64) []byte {
	t.Helper()
	for _, i := range []*Identity{s.id, id} { // made before, so that the seed does not make them
		_, err := i.certificate()
		require.NoError(t, err)
	}
	near, far := net.Pipe()
	client := &tap{Conn: near}
	done := make(chan error, 1)
	go func() {
		conn, err := Connect(t.Context(), client, ClientTLS(id, s.id.Pin()))
		if err == nil {
			_, err = io.ReadFull(conn, make([]byte, len(payload)))
		}
		near.Close()
		done <- err
	}()
	conn, _, err := Accept(t.Context(), &seeded{Conn: far, t: t, seed: seed}, ServerTLS(s.id, s.book), s.book)
	require.NoError(t, err)
	_, err = io.WriteString(conn, payload)
	require.NoError(t, err)
	require.NoError(t, <-done)
	far.Close()
	return client.said
}

// play lets a server hear a recording. It tells whom the server then trusts, and how much it said.
func play(t *testing.T, s *site, words []byte, seed uint64) (Peer, int, error) {
	r := &recording{}
	r.says.Reset(words)
	conn, peer, err := Accept(t.Context(), &seeded{Conn: r, t: t, seed: seed}, ServerTLS(s.id, s.book), s.book)
	if err == nil {
		_, _ = io.WriteString(conn, payload)
	}
	return peer, r.hears, err
}

// TestHandshakeMutants flips single bits of a recorded handshake, in front of a server that would take the recording as
// it was: none gets through, and nothing is answered or changed. (RELIABILITY bar 38)
func TestHandshakeMutants(t *testing.T) {
	s := newSite(t)
	id := s.enrol("site-a", Append)
	const seed = 20261122
	words := record(t, s, id, seed)
	before, bits := s.bytes(), len(words)*8
	require.Greater(t, bits, 10_000)

	peer, heard, err := play(t, s, words, seed)
	require.NoError(t, err, "the control: without a flip the recording fits this server")
	require.Equal(t, "site-a", peer.Name)

	mutants, first := 500, rand.Uint64()
	if long() {
		mutants = bits
	}
	t.Logf("%d of %d mutants, from %d", mutants, bits, first)
	passed := 0
	for i, bit := range rand.New(rand.NewPCG(first, 0)).Perm(bits)[:mutants] {
		mutant := bytes.Clone(words)
		mutant[bit/8] ^= 1 << (bit % 8)
		_, said, err := play(t, s, mutant, seed)
		// The version in the header of the first record means nothing and stands in no transcript (RFC 8446 §5.1): who
		// changes it has changed nothing that was said.
		if err == nil && bit/8 >= 1 && bit/8 <= 2 {
			passed++
			continue
		}
		require.Error(t, err, "bit %d of byte %d got through (mutant %d)", bit%8, bit/8, i)
		require.Less(t, said, heard, "bit %d of byte %d was answered", bit%8, bit/8)
	}
	require.LessOrEqual(t, passed, 16)
	require.Equal(t, before, s.bytes())
	_, _, err = play(t, s, words, seed)
	require.NoError(t, err, "the control, again")
}

// TestReplay: what was recorded with one connection is of no use on another.
func TestReplay(t *testing.T) {
	s := newSite(t)
	id := s.enrol("site-a", Append)
	words := record(t, s, id, 1)
	_, _, err := play(t, s, words, 1)
	require.NoError(t, err, "the control: the recording is whole")
	_, _, err = play(t, s, words, 2)
	require.Error(t, err)
	for end := range len(words) { // and a part of one of none on any
		if end%97 != 0 && end != len(words)-1 {
			continue
		}
		_, _, err := play(t, s, words[:end], 1)
		require.Error(t, err, "%d of %d bytes", end, len(words))
	}
}
