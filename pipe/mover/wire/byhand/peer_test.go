package byhand

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

const blockSize = 64 << 10

// site is a real mover on a real socket.
type site struct {
	t       *testing.T
	book    *trust.Book
	pin     trust.Pin
	address string
	mode    string
	stop    func()
}

// newSite starts a trusted target of a new repository.
func newSite(t *testing.T) *site {
	t.Helper()
	opts := &repo.OpenOptions{StateDir: t.TempDir(), CacheDir: t.TempDir()}
	r, err := repo.Init(t.Context(), memstore.New(nil), repo.KeyFile([32]byte{1}), &repo.InitOptions{BlockSize: blockSize}, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return start(t, &mover.ServerOptions{Backend: r, StateDir: t.TempDir()})
}

// start starts a mover.
func start(t *testing.T, opts *mover.ServerOptions) *site {
	t.Helper()
	s := &site{t: t, mode: "trusted"}
	if opts.Blind != nil {
		s.mode = "blind"
	} else if opts.Source != nil {
		s.mode = "source"
	}
	dir := t.TempDir()
	var err error
	s.book, err = trust.OpenBook(dir)
	require.NoError(t, err)
	opts.Book = s.book
	opts.Identity, err = trust.LoadIdentity(dir)
	require.NoError(t, err)
	s.pin = opts.Identity.Pin()
	server, err := mover.NewServer(opts)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.address = l.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(context.Background(), l) })
	s.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		require.NoError(t, server.Shutdown(ctx))
		serving.Wait()
	})
	t.Cleanup(s.stop)
	return s
}

// enrolled is the key of a peer that the site has enrolled, by hand as all else.
func (s *site) enrolled(name string, role trust.Role) ed25519.PrivateKey {
	s.t.Helper()
	once := s.token(name, role)
	own := newKey(s.t)
	l := s.lane(once)
	l.hello(1, 1, session(1), 0)
	l.welcome(false, name)
	l.call(1, 120, own.Public().(ed25519.PublicKey), text("a host"))
	require.Equal(s.t, cat(text(name), text(string(role)), text(s.mode)), l.answer(1, 121))
	l.close()
	return own
}

// token is the key of a new token, from its text.
func (s *site) token(name string, role trust.Role) ed25519.PrivateKey {
	s.t.Helper()
	token, err := s.book.AddToken(s.pin, name, role, time.Hour)
	require.NoError(s.t, err)
	code := token.String()
	require.Equal(s.t, "hikae-token-1-", code[:14])
	raw, err := base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding).DecodeString(code[14:])
	require.NoError(s.t, err)
	require.Len(s.t, raw, 68)
	require.Equal(s.t, s.pin[:], raw[:32])
	sum := sha256.Sum256(cat([]byte("hikae-token-1-"), raw[:64]))
	require.Equal(s.t, sum[:4], raw[64:])
	seed, err := hkdf.Key(sha256.New, raw[32:64], raw[:32], "hikae mover token 1", 32)
	require.NoError(s.t, err)
	return ed25519.NewKeyFromSeed(seed)
}

func newKey(t *testing.T) ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return key
}

// certificate is for a key, for a week back and a week forth from a time.
func certificate(t *testing.T, key ed25519.PrivateKey, around time.Time) tls.Certificate {
	week := 7 * 24 * time.Hour
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "anything"}, NotBefore: around.Add(-week), NotAfter: around.Add(week)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// scheme is the one scheme, as section 2 has it.
func (s *site) scheme(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"hikae-mover/1"}, CurvePreferences: []tls.CurveID{tls.X25519MLKEM768},
		Certificates: certs, InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if pin := sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo); pin != s.pin {
				return fmt.Errorf("pin %x", pin)
			}
			return nil
		},
	}
}

// lane is one connection.
type lane struct {
	t *testing.T
	c *tls.Conn
}

func (s *site) lane(key ed25519.PrivateKey) *lane {
	s.t.Helper()
	c, err := tls.Dial("tcp", s.address, s.scheme(certificate(s.t, key, time.Now())))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	require.NoError(s.t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return &lane{s.t, c}
}

func (l *lane) close() { require.NoError(l.t, l.c.Close()) }

// send writes a frame by section 3.
func (l *lane) send(kind byte, call uint64, fields ...[]byte) {
	l.t.Helper()
	_, err := l.c.Write(frame(kind, call, fields...))
	require.NoError(l.t, err)
}

func frame(kind byte, call uint64, fields ...[]byte) []byte {
	payload := cat(fields...)
	return cat(u32(len(payload)), []byte{kind, 0, 0, 0}, u64(call), payload)
}

func (l *lane) call(n uint64, kind byte, fields ...[]byte) {
	l.t.Helper()
	l.send(kind, n, fields...)
}

// read is the next frame but Ping and Durable.
func (l *lane) read() (kind byte, call uint64, payload []byte, err error) {
	for {
		var h [16]byte
		if _, err := io.ReadFull(l.c, h[:]); err != nil {
			return 0, 0, nil, err
		}
		payload := make([]byte, binary.BigEndian.Uint32(h[:]))
		if _, err := io.ReadFull(l.c, payload); err != nil {
			return 0, 0, nil, err
		}
		switch {
		case h[4] == 4:
			l.send(5, 0, payload)
		case h[4] != 7 && h[4] != 8:
			return h[4], binary.BigEndian.Uint64(h[8:]), payload, nil
		}
	}
}

// answer is the payload of a call's answer, which comes next and is of a kind.
func (l *lane) answer(call uint64, kind byte) []byte {
	l.t.Helper()
	k, n, payload, err := l.read()
	require.NoError(l.t, err)
	require.Equal(l.t, []uint64{uint64(kind), call}, []uint64{uint64(k), n}, "%q", payload)
	return payload
}

// fail is an answer that says why not.
func (l *lane) fail(call uint64, code int) {
	l.t.Helper()
	require.Equal(l.t, u16(code), l.answer(call, 17)[:2])
}

// refused: the next frame is a Refuse with that code, and the last.
func (l *lane) refused(code int) {
	l.t.Helper()
	require.Equal(l.t, u16(code), l.answer(0, 3)[:2])
	l.ended()
}

// ended: the connection has no other frame.
func (l *lane) ended() {
	l.t.Helper()
	kind, _, payload, err := l.read()
	require.Error(l.t, err, "kind %d: %q", kind, payload)
}

func (l *lane) hello(version, role int, s []byte, number int) {
	l.t.Helper()
	l.send(1, 0, []byte("HIKAE-MV"), u16(version), []byte{byte(role)}, s, u32(number))
}

// welcome takes a Welcome apart.
func (l *lane) welcome(resumed bool, name string) {
	l.t.Helper()
	p := l.answer(0, 2)
	require.Equal(l.t, cat(u16(1), flag(resumed)), p[:3])
	require.Positive(l.t, binary.BigEndian.Uint32(p[3:]), "calls")
	require.Positive(l.t, binary.BigEndian.Uint64(p[7:]), "window")
	require.Equal(l.t, u16(8), p[23:25], "lanes")
	require.Equal(l.t, cat(u32(5000), u32(20000), u32(1800)), p[25:37], "times")
	require.Equal(l.t, text(name), p[37:])
}

// quiet: nothing comes but the Pong of a Ping.
func (l *lane) quiet() {
	l.t.Helper()
	l.send(4, 0, u64(77))
	require.Equal(l.t, u64(77), l.answer(0, 5))
}

func session(n byte) []byte { return bytes.Repeat([]byte{n}, 16) }

func u16(n int) []byte    { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
func u32(n int) []byte    { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
func u64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func flag(is bool) []byte {
	if is {
		return []byte{1}
	}
	return []byte{0}
}

func text(s string) []byte     { return cat(u16(len(s)), []byte(s)) }
func cat(all ...[]byte) []byte { return bytes.Join(all, nil) }
func extent(off, n int, kind byte) []byte {
	return cat(u64(uint64(off)), u64(uint64(n)), []byte{kind})
}
