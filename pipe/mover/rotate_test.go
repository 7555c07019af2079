package mover

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// enrolDir enrols a machine whose key lies in a folder.
func (y *yard) enrolDir(name string, role trust.Role) string {
	y.t.Helper()
	dir := y.t.TempDir()
	mine, err := trust.LoadIdentity(dir)
	require.NoError(y.t, err)
	token, err := y.book.AddToken(y.id.Pin(), name, role, time.Hour)
	require.NoError(y.t, err)
	once, err := token.Identity()
	require.NoError(y.t, err)
	_, err = y.book.Enrol(once.Pin(), mine.PublicKey(), "")
	require.NoError(y.t, err)
	return dir
}

// scissors are a listener's connections, which can be cut.
type scissors struct {
	net.Listener
	mu   sync.Mutex
	open []net.Conn
}

func (s *scissors) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err == nil {
		s.mu.Lock()
		s.open = append(s.open, c)
		s.mu.Unlock()
	}
	return c, err
}

func (s *scissors) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open {
		_ = c.Close()
	}
	s.open = nil
}

// More than one process of a machine uses its key. One of them rotates it: the others go on with the new one when their
// lines are cut, at whatever step the rotation is, or has broken off.
func TestRotateBesideASession(t *testing.T) {
	t.Parallel()
	for name, rotate := range map[string]func(t *testing.T, y *yard, dir string){
		"done": func(t *testing.T, y *yard, dir string) {
			c, err := Dial(t.Context(), y.address, &DialOptions{IdentityDir: dir, ServerPin: y.id.Pin()})
			require.NoError(t, err)
			require.NoError(t, c.Rotate(t.Context()))
			require.NoError(t, c.Close())
		},
		"used and not adopted": useNext,
		"told and not used":    tellNext,
		"not told": func(t *testing.T, _ *yard, dir string) {
			_, err := trust.NextIdentity(dir)
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, nil)
			dir := y.enrolDir("site-a", trust.Full)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			s := &scissors{Listener: l}
			go func() { _ = y.server.Serve(t.Context(), s) }()
			c, err := Dial(t.Context(), l.Addr().String(), &DialOptions{IdentityDir: dir, ServerPin: y.id.Pin(), GiveUp: 10 * time.Second, CacheDir: t.TempDir()})
			require.NoError(t, err)
			defer c.Close()
			for range 2 { // the machine's key is what the last one left
				_, err = c.Health(t.Context())
				require.NoError(t, err)
				rotate(t, y, dir)
				s.cut()
				_, err = c.Health(t.Context())
				require.NoError(t, err)
				again, err := Dial(t.Context(), y.address, &DialOptions{IdentityDir: dir, ServerPin: y.id.Pin()})
				require.NoError(t, err)
				require.NoError(t, again.Close())
			}
		})
	}
}

// A peer that was taken out of the book has nothing to fall back on.
func TestRefusedWhateverItsKeys(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	dir := y.enrolDir("site-a", trust.Full)
	c, err := Dial(t.Context(), y.address, &DialOptions{IdentityDir: dir, ServerPin: y.id.Pin(), GiveUp: 10 * time.Second})
	require.NoError(t, err)
	defer c.Close()
	_, err = trust.NextIdentity(dir)
	require.NoError(t, err)
	require.NoError(t, y.book.Revoke("site-a"))
	require.Eventually(t, func() bool { _, err = c.Health(t.Context()); return err != nil }, 5*time.Second, 20*time.Millisecond)
	_, err = Dial(t.Context(), y.address, &DialOptions{IdentityDir: dir, ServerPin: y.id.Pin()})
	require.ErrorIs(t, err, trust.ErrRefused)
}

// tellNext is a rotation that was killed after the mover was told.
func tellNext(t *testing.T, y *yard, dir string) {
	next, err := trust.NextIdentity(dir)
	require.NoError(t, err)
	mine, err := trust.FindIdentity(dir)
	require.NoError(t, err)
	peer, err := y.book.Find(mine.Pin())
	require.NoError(t, err)
	if peer.Next == next.Pin() { // the last one's
		return
	}
	require.NoError(t, y.book.Rotate(peer, next.PublicKey()))
}

// useNext is a rotation that was killed after the new key was used, and before it took the old one's place.
func useNext(t *testing.T, y *yard, dir string) {
	tellNext(t, y, dir)
	next, err := trust.PendingIdentity(dir)
	require.NoError(t, err)
	require.NoError(t, y.dial(next).Close())
}

// R011: who collects may have a rotation behind it that was broken off, as who calls may.
func TestCollectAfterBrokenRotation(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]func(t *testing.T, y *yard, dir string){"used": useNext, "told": tellNext, "not told": func(t *testing.T, _ *yard, dir string) {
		_, err := trust.NextIdentity(dir)
		require.NoError(t, err)
	}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := pipetest.NewPattern(3, 4*testBlock, pipetest.RandomLayout(3, 4*testBlock, pipe.Data, pipe.Zero)...)
			y := newYard(t, &ServerOptions{Source: &shelfSource{images: map[string]pipe.Image{"sda": img}}})
			dir := y.enrolDir("repository", trust.Full)
			broken(t, y, dir)
			next, err := trust.PendingIdentity(dir)
			require.NoError(t, err)
			order := &wire.Collect{VM: "vm1", Disks: []wire.CollectDisk{{Key: "disk0", Image: "sda"}}}
			target := newRepo(t)
			for range 2 {
				_, err := Collect(t.Context(), y.address, order, target, &DialOptions{IdentityDir: dir, ServerPin: y.id.Pin(), CacheDir: t.TempDir()})
				require.NoError(t, err)
			}
			mine, err := trust.FindIdentity(dir)
			require.NoError(t, err)
			if name != "not told" {
				require.Equal(t, next.Pin(), mine.Pin(), "a key that was used takes its place")
			}
		})
	}
}
