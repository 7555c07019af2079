package trust

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"crypto/sha256"

	"github.com/stretchr/testify/require"
)

func newBook(t *testing.T) *Book {
	t.Helper()
	b, err := OpenBook(t.TempDir())
	require.NoError(t, err)
	return b
}

// enrolled puts a peer into a book.
func enrolled(t *testing.T, b *Book, name string) (*Identity, Peer) {
	t.Helper()
	token, err := b.AddToken(Pin{1}, name, Append, 0)
	require.NoError(t, err)
	key, err := token.Identity()
	require.NoError(t, err)
	id := fresh(t)
	peer, err := b.Enrol(key.Pin(), id.PublicKey(), "host")
	require.NoError(t, err)
	return id, peer
}

func bookBytes(t *testing.T, b *Book) string {
	t.Helper()
	data, err := os.ReadFile(b.path())
	require.NoError(t, err)
	return string(data)
}

// From a token to a peer to nothing, as the book tells it.
func TestLifeOfAPeer(t *testing.T) {
	b := newBook(t)
	token, err := b.AddToken(Pin{1}, "Web-1", Full, 2*time.Hour)
	require.NoError(t, err)
	key, err := token.Identity()
	require.NoError(t, err)
	p, err := b.Find(key.Pin())
	require.NoError(t, err)
	require.True(t, p.Token)
	require.Equal(t, "Web-1", p.Name)
	require.WithinDuration(t, time.Now().Add(2*time.Hour), p.Expires, 5*time.Second)

	id := fresh(t)
	peer, err := b.Enrol(key.Pin(), id.PublicKey(), "web1.example")
	require.NoError(t, err)
	require.Equal(t, Peer{Name: "Web-1", Role: Full, Pin: id.Pin(), Host: "web1.example", Since: peer.Since, Serial: 2}, peer)
	found, err := b.Find(id.Pin())
	require.NoError(t, err)
	require.Equal(t, peer, found)
	require.NoError(t, b.Check(peer))
	require.NoError(t, b.Check(p), "what came by the token may end by itself")

	again, err := OpenBook(b.dir)
	require.NoError(t, err)
	list, err := again.Peers()
	require.NoError(t, err)
	require.Equal(t, []Peer{peer}, list)

	require.NoError(t, again.Revoke("web-1"), "names are one whatever their case")
	_, err = b.Find(id.Pin())
	require.ErrorIs(t, err, ErrRevoked)
	var pe *PeerError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, "Web-1", pe.Name)
	require.ErrorIs(t, b.Check(peer), ErrRevoked)
	require.ErrorIs(t, b.Check(p), ErrTokenUsed)
	require.ErrorIs(t, b.Revoke("web-1"), fs.ErrNotExist)

	_, err = b.AddToken(Pin{1}, "Web-1", Append, 0)
	require.NoError(t, err, "a name that was revoked may be given again")
	require.ErrorIs(t, b.Check(peer), ErrRevoked, "to somebody else")
	require.ErrorIs(t, b.Check(p), ErrTokenUsed)
	require.ErrorIs(t, b.Rotate(peer, fresh(t).PublicKey()), ErrRevoked)
}

// The old key is good until the new one was used, and no longer.
func TestRotation(t *testing.T) {
	s := newSite(t)
	old := s.enrol("site-a", Append)
	stranger := s.enrol("site-b", Append)
	peer, next, other := s.welcome(old), fresh(t), fresh(t)

	require.ErrorIs(t, s.book.Rotate(peer, stranger.PublicKey()), ErrKeyTaken)
	require.ErrorIs(t, s.book.Rotate(peer, old.PublicKey()), ErrKeyTaken)
	require.NoError(t, s.book.Rotate(peer, other.PublicKey()))
	require.NoError(t, s.book.Rotate(peer, next.PublicKey()), "another one takes its place")
	before := s.bytes()
	require.NoError(t, s.book.Rotate(peer, next.PublicKey()))
	require.Equal(t, before, s.bytes(), "announced again it is no matter")
	s.refused(ClientTLS(other, s.id.Pin()), ErrRevoked)

	require.Equal(t, "site-a", s.welcome(old).Name)
	got := s.welcome(next)
	require.Equal(t, next.Pin(), got.Pin)
	require.Zero(t, got.Next)
	require.Equal(t, peer.Serial, got.Serial)
	require.NoError(t, s.book.Check(peer), "a connection that is open stays")
	s.refused(ClientTLS(old, s.id.Pin()), ErrRevoked)
	s.welcome(next)

	require.NoError(t, s.book.Revoke("site-a"))
	require.ErrorIs(t, s.book.Check(peer), ErrRevoked)
	require.ErrorIs(t, s.book.Rotate(got, fresh(t).PublicKey()), ErrRevoked)
	token, key := s.token("site-c", Append)
	asToken, err := s.book.Find(key.Pin())
	require.NoError(t, err)
	require.ErrorIs(t, s.book.Rotate(asToken, fresh(t).PublicKey()), fs.ErrPermission)
	require.NotZero(t, token.Server)
}

// A disk that takes nothing shuts out nobody who changes keys; the change is done when it can be.
func TestRotationOnAFullDisk(t *testing.T) {
	s := newSite(t)
	old, next := s.enrol("site-a", Append), fresh(t)
	require.NoError(t, s.book.Rotate(s.welcome(old), next.PublicKey()))
	blocked := filepath.Join(s.dir, bookName+".new")
	require.NoError(t, os.MkdirAll(filepath.Join(blocked, "full"), 0o700))
	require.Equal(t, next.Pin(), s.welcome(next).Pin)
	s.welcome(old)
	require.NoError(t, os.RemoveAll(blocked))
	s.welcome(next)
	s.refused(ClientTLS(old, s.id.Pin()), ErrRevoked)
}

// While another process holds the lock, however long, peers are let in; who wants to write waits.
func TestLockedBook(t *testing.T) {
	s := newSite(t)
	good := s.enrol("good", Full)
	lock, err := openLock(s.dir)
	require.NoError(t, err)
	free, err := tryLock(lock)
	require.NoError(t, err)
	require.True(t, free)
	revoked := make(chan error, 1)
	go func() { revoked <- s.book.Revoke("good") }()
	time.Sleep(20 * time.Millisecond) // it waits by now
	s.welcome(good)
	select {
	case err := <-revoked:
		require.Fail(t, "it did not wait", "%v", err)
	default:
	}
	require.NoError(t, lock.Close())
	require.NoError(t, <-revoked)
	s.refused(ClientTLS(good, s.id.Pin()), ErrRevoked)
}

// A peer that is revoked while it changes keys has no key left.
func TestRevokedWhileRotating(t *testing.T) {
	s := newSite(t)
	old, next := s.enrol("site-a", Append), fresh(t)
	require.NoError(t, s.book.Rotate(s.welcome(old), next.PublicKey()))
	require.NoError(t, s.book.Revoke("site-a"))
	s.refused(ClientTLS(old, s.id.Pin()), ErrRevoked)
	s.refused(ClientTLS(next, s.id.Pin()), ErrRevoked)
}

// A new key is in use only when its owner has shown that it has it: a certificate alone ends no rotation.
func TestRotationNeedsTheKey(t *testing.T) {
	s := newSite(t)
	old, next := s.enrol("site-a", Append), fresh(t)
	require.NoError(t, s.book.Rotate(s.welcome(old), next.PublicKey()))
	s.refused(showing(s, [][]byte{selfMade(t, next.key, -time.Hour, time.Hour)}, fresh(t).key), nil)
	s.welcome(old)
}

// One token, eight that have it: one gets through.
func TestOneTokenManyClients(t *testing.T) {
	b := newBook(t)
	for round := range 5 {
		token, err := b.AddToken(Pin{1}, fmt.Sprintf("site-%d", round), Append, 0)
		require.NoError(t, err)
		key, err := token.Identity()
		require.NoError(t, err)
		var won, used, other atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			mine := b
			if i%2 == 1 { // as another process has it
				if mine, err = OpenBook(b.dir); err != nil {
					require.NoError(t, err)
				}
			}
			wg.Go(func() {
				_, err := mine.Enrol(key.Pin(), fresh(t).PublicKey(), "")
				switch {
				case err == nil:
					won.Add(1)
				case errors.Is(err, ErrTokenUsed):
					used.Add(1)
				default:
					other.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, won.Load())
		require.EqualValues(t, 7, used.Load())
	}
	list, err := b.Peers()
	require.NoError(t, err)
	require.Len(t, list, 5)
}

const childEnv = "HIKAE_TRUST_TEST_CHILD"

// child adds tokens to a book until it is killed, or enrols with a token that it is given, and says what came of it.
func child(dir string) int {
	b, err := OpenBook(dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if text := os.Getenv(childEnv + "_PIN"); text != "" {
		pin, err := ParsePin(text)
		id, err2 := NewIdentity()
		if err = errors.Join(err, err2); err == nil {
			_, err = b.Enrol(pin, id.PublicKey(), "")
		}
		fmt.Println(err == nil, errors.Is(err, ErrTokenUsed))
		return 0
	}
	if os.Getenv(childEnv+"_ONCE") != "" {
		runtime.LockOSThread() // strace counts calls by thread
		if err := addOne(b); err != nil {
			fmt.Println(err)
			return 0
		}
		fmt.Println("added")
		return 0
	}
	for i := 0; ; i++ {
		name := fmt.Sprintf("p%d", i%20)
		if _, err := b.AddToken(Pin{1}, name, Append, 0); errors.Is(err, ErrNameTaken) {
			err = b.Revoke(name)
			if err != nil {
				fmt.Println(err)
				return 1
			}
		} else if err != nil {
			fmt.Println(err)
			return 1
		}
	}
}

func addOne(b *Book) error {
	_, err := b.AddToken(Pin{1}, "added", Append, 0)
	return err
}

func childOf(t *testing.T, b *Book, env ...string) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(append(os.Environ(), childEnv+"="+b.dir), env...)
	out := new(strings.Builder)
	cmd.Stdout = out
	require.NoError(t, cmd.Start())
	return cmd, out
}

// The same across processes.
func TestOneTokenManyProcesses(t *testing.T) {
	b := newBook(t)
	token, err := b.AddToken(Pin{1}, "site", Append, 0)
	require.NoError(t, err)
	key, err := token.Identity()
	require.NoError(t, err)
	var all strings.Builder
	var cmds []*exec.Cmd
	var outs []*strings.Builder
	for range 3 {
		cmd, out := childOf(t, b, childEnv+"_PIN="+key.Pin().String())
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	for i, cmd := range cmds {
		require.NoError(t, cmd.Wait())
		all.WriteString(outs[i].String())
	}
	require.Equal(t, 1, strings.Count(all.String(), "true false"), all.String())
	require.Equal(t, 2, strings.Count(all.String(), "false true"), all.String())
}

// A writer that is killed at any moment leaves a whole book, its peers, and no lock.
func TestKilledWriter(t *testing.T) {
	kills := 5
	if long() {
		kills = 100
	}
	b := newBook(t)
	id, peer := enrolled(t, b, "stays")
	var changes uint64
	for range kills {
		cmd, out := childOf(t, b)
		before := changes
		require.Eventually(t, func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.look()
			changes = b.pages.Changes
			return b.err == nil && changes > before+3
		}, 20*time.Second, time.Millisecond)
		time.Sleep(time.Duration(time.Now().UnixNano()%3000) * time.Microsecond)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		require.Empty(t, out.String())

		again, err := OpenBook(b.dir)
		require.NoError(t, err)
		found, err := again.Find(id.Pin())
		require.NoError(t, err)
		require.Equal(t, peer, found)
		token, err := again.AddToken(Pin{1}, "next", Append, 0)
		require.NoError(t, err, "nothing is locked")
		require.NotZero(t, token)
		require.NoError(t, again.Revoke("next"))
	}
}

// A damaged book trusts nobody, says so, and is not written over; put right, it goes on.
func TestDamagedBook(t *testing.T) {
	s := newSite(t)
	good := s.enrol("good", Full)
	_, key := s.token("token", Append)
	whole := s.bytes()
	path := filepath.Join(s.dir, bookName)
	peer := s.welcome(good)

	for name, text := range map[string]string{
		"empty":         "",
		"torn":          whole[:len(whole)-20],
		"longer":        whole + "\n",
		"a flipped bit": flip(whole, len(whole)/2),
		"another role":  resum(strings.Replace(whole, `"full"`, `"root"`, 1)),
		"unknown field": resum(strings.Replace(whole, `"role"`, `"admin": true, "role"`, 1)),
		"another name":  strings.Replace(whole, `"good"`, `"evil"`, 1),
		"by hand":       resum(strings.Replace(whole, "\t", "  ", 1)),
		"too large":     strings.Repeat("x", maxBook+1),
	} {
		t.Run(name, func(t *testing.T) {
			require.NotEqual(t, whole, text)
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			s.refused(ClientTLS(good, s.id.Pin()), ErrBook)
			_, err := s.book.Peers()
			require.ErrorIs(t, err, ErrBook)
			_, err = OpenBook(s.dir)
			require.ErrorIs(t, err, ErrBook)
			require.ErrorContains(t, err, bookName)
			_, err = s.book.AddToken(s.id.Pin(), "new", Append, 0)
			require.ErrorIs(t, err, ErrBook)
			_, err = s.book.Enrol(key.Pin(), fresh(t).PublicKey(), "")
			require.ErrorIs(t, err, ErrBook)
			require.ErrorIs(t, s.book.Revoke("good"), ErrBook)
			require.Equal(t, text, s.bytes())
		})
	}
	require.NoError(t, os.WriteFile(path, []byte(whole), 0o600))
	s.welcome(good)
	require.NoError(t, s.book.Check(peer))

	require.NoError(t, os.Remove(path))
	s.refused(ClientTLS(good, s.id.Pin()), ErrUnknownPeer)
	require.ErrorIs(t, s.book.Check(peer), ErrUnknownPeer)
}

func flip(s string, at int) string { return s[:at] + string(s[at]^1) + s[at+1:] }

// resum puts the right sum over changed pages.
func resum(text string) string {
	_, body, _ := strings.Cut(text, "\n")
	sum := sha256.Sum256([]byte(body))
	return bookPrefix + hex.EncodeToString(sum[:]) + "\n" + body
}

// Every single byte that changes is found.
func TestFlippedBook(t *testing.T) {
	b := newBook(t)
	enrolled(t, b, "one")
	data := []byte(bookBytes(t, b))
	for i := range data {
		data[i] ^= 0x20
		_, err := decodePages(data)
		require.Error(t, err, "byte %d", i)
		data[i] ^= 0x20
	}
	_, err := decodePages(data)
	require.NoError(t, err)
}

// Who may write to the book may let anybody in: then nobody is.
func TestOpenBookFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("access lists decide on Windows, not modes")
	}
	s := newSite(t)
	good := s.enrol("good", Full)
	require.NoError(t, os.Chmod(filepath.Join(s.dir, bookName), 0o666))
	s.refused(ClientTLS(good, s.id.Pin()), ErrBook)
	require.NoError(t, os.Chmod(filepath.Join(s.dir, bookName), 0o644))
	s.welcome(good)
}

// An edit that the disk refuses leaves the book as it was.
func TestFailedWrite(t *testing.T) {
	b := newBook(t)
	id, _ := enrolled(t, b, "one")
	before := bookBytes(t, b)
	blocked := filepath.Join(b.dir, bookName+".new")
	require.NoError(t, os.MkdirAll(filepath.Join(blocked, "full"), 0o700))
	_, err := b.AddToken(Pin{1}, "two", Append, 0)
	require.Error(t, err)
	require.Error(t, b.Revoke("one"))
	require.Equal(t, before, bookBytes(t, b))
	_, err = b.Find(id.Pin())
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(blocked))
	require.NoError(t, b.Revoke("one"))
}

// A disk that cannot be read at the moment lets nobody new in and throws nobody out.
func TestUnreadableBook(t *testing.T) {
	b := newBook(t)
	id, peer := enrolled(t, b, "one")
	require.NoError(t, os.Rename(b.path(), b.path()+".away"))
	require.NoError(t, os.Mkdir(b.path(), 0o700))
	_, err := b.Find(id.Pin())
	require.ErrorIs(t, err, ErrBook)
	require.NoError(t, b.Check(peer))
	require.NoError(t, os.Remove(b.path()))
	require.NoError(t, os.Rename(b.path()+".away", b.path()))
	_, err = b.Find(id.Pin())
	require.NoError(t, err)
}

// Edits by one process count at once in every other, and who watches is told within 2 s.
func TestWatch(t *testing.T) {
	b := newBook(t)
	_, peer := enrolled(t, b, "one")
	ctx, cancel := context.WithCancel(t.Context())
	changed, done := make(chan time.Time, 10), make(chan struct{})
	go func() {
		defer close(done)
		b.Watch(ctx, func() { changed <- time.Now() })
	}()
	tool, err := OpenBook(b.dir)
	require.NoError(t, err)
	time.Sleep(50 * time.Millisecond) // the watcher has looked once
	require.NoError(t, tool.Revoke("one"))
	require.ErrorIs(t, b.Check(peer), ErrRevoked, "at once for who asks")
	revoked := time.Now()
	select {
	case at := <-changed:
		require.Less(t, at.Sub(revoked), 2*time.Second)
	case <-time.After(10 * time.Second):
		require.Fail(t, "nobody was told")
	}
	cancel()
	<-done
}

// Many quick edits by two values are all seen by both, also those within one tick of the clock.
func TestQuickEdits(t *testing.T) {
	b := newBook(t)
	tool, err := OpenBook(b.dir)
	require.NoError(t, err)
	for i := range 50 {
		token, err := tool.AddToken(Pin{1}, "x", Append, 0)
		require.NoError(t, err)
		key, err := token.Identity()
		require.NoError(t, err)
		_, err = b.Find(key.Pin())
		require.NoError(t, err, "edit %d", i)
		require.NoError(t, tool.Revoke("x"))
		_, err = b.Find(key.Pin())
		require.ErrorIs(t, err, ErrRevoked)
	}
}

// A book that has lain for a while is not read again, until another lies in its place.
func TestSettledBook(t *testing.T) {
	b := newBook(t)
	id, _ := enrolled(t, b, "one")
	settle := func() {
		old := time.Now().Add(-time.Hour)
		require.NoError(t, os.Chtimes(b.path(), old, old))
		_, err := b.Find(id.Pin())
		require.NoError(t, err)
		require.False(t, b.mark.fresh)
	}
	settle()
	turns := b.turns
	before := b.mark.fi
	for range 3 {
		_, err := b.Find(id.Pin())
		require.NoError(t, err)
	}
	require.Same(t, before, b.mark.fi, "it was read again")
	require.Equal(t, turns, b.turns)
	if runtime.GOOS != "windows" {
		require.NoError(t, os.Chmod(b.path(), 0o622))
		_, err := b.Find(id.Pin())
		require.ErrorIs(t, err, ErrBook)
		require.NoError(t, os.Chmod(b.path(), 0o600))
	}

	tool, err := OpenBook(b.dir)
	require.NoError(t, err)
	require.NoError(t, tool.Revoke("one"))
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(b.path(), old, old), "a copy that keeps times, as a restored folder has")
	_, err = b.Find(id.Pin())
	require.ErrorIs(t, err, ErrRevoked)
}

// Damage within the tick of the clock in which the book was written shows too.
func TestFreshBook(t *testing.T) {
	b := newBook(t)
	id, _ := enrolled(t, b, "one")
	_, err := b.Find(id.Pin())
	require.NoError(t, err)
	fi, err := os.Stat(b.path())
	require.NoError(t, err)
	f, err := os.OpenFile(b.path(), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{'!'}, fi.Size()/2)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Chtimes(b.path(), fi.ModTime(), fi.ModTime()))
	_, err = b.Find(id.Pin())
	require.ErrorIs(t, err, ErrBook)
}

// Names and hosts that mean more than a name.
func TestBadNames(t *testing.T) {
	b := newBook(t)
	for _, name := range []string{"", ".", "..", "a/b", "../a", `a\b`, "a b", "a\x00", "-a", "a.", "ü", "a\nb", strings.Repeat("a", MaxName+1), "*", "a:b"} {
		_, err := b.AddToken(Pin{1}, name, Append, 0)
		require.ErrorIs(t, err, fs.ErrInvalid, "%q", name)
	}
	for _, name := range []string{"a", "9", "Site-A_2.example", strings.Repeat("a", MaxName)} {
		_, err := b.AddToken(Pin{1}, name, Append, 0)
		require.NoError(t, err, name)
	}
	for _, role := range []Role{"", "root", "Append"} {
		_, err := b.AddToken(Pin{1}, "x", role, 0)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	for _, life := range []time.Duration{-1, 1, MaxTokenLife + 1} {
		_, err := b.AddToken(Pin{1}, "x", Append, life)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	token, err := b.AddToken(Pin{1}, "x", Append, 0)
	require.NoError(t, err)
	key, err := token.Identity()
	require.NoError(t, err)
	for _, host := range []string{strings.Repeat("h", 256), "a\nb", "\xff", "a\x1b[31m"} {
		_, err := b.Enrol(key.Pin(), fresh(t).PublicKey(), host)
		require.ErrorIs(t, err, fs.ErrInvalid, "%q", host)
	}
	_, err = b.Enrol(key.Pin(), make([]byte, 31), "")
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = b.Enrol(key.Pin(), key.PublicKey(), "")
	require.ErrorIs(t, err, ErrKeyTaken, "the token's own key stays nobody's")
	_, err = b.Enrol(key.Pin(), fresh(t).PublicKey(), "")
	require.NoError(t, err, "none of that has used the token up")
}

// A token that has ended makes room for the next one of its name.
func TestEndedToken(t *testing.T) {
	b := newBook(t)
	first, err := b.AddToken(Pin{1}, "x", Append, time.Minute)
	require.NoError(t, err)
	_, err = b.AddToken(Pin{1}, "x", Append, time.Minute)
	require.ErrorIs(t, err, ErrNameTaken)
	later(b, time.Minute+time.Second)
	second, err := b.AddToken(Pin{1}, "x", Append, time.Minute)
	require.NoError(t, err)
	for _, c := range []struct {
		token Token
		want  error
	}{{first, ErrExpired}, {second, nil}} {
		key, err := c.token.Identity()
		require.NoError(t, err)
		_, err = b.Find(key.Pin())
		require.ErrorIs(t, err, c.want)
	}
}

// The book is bounded: peers at 10,000, what is gone at 4,096, the oldest first.
func TestFullBook(t *testing.T) {
	p := new(pages)
	now := time.Now().UTC().Truncate(time.Second)
	pin := func(i int) (out Pin) { return sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)}) }
	for i := range maxPeers {
		p.Peers = append(p.Peers, entry{Name: fmt.Sprintf("p%05d", i), Role: Append, Pin: pin(i), Since: now, Serial: uint64(i + 2), Was: 1,
			Host: strings.Repeat("h", maxHost)})
	}
	p.Serial = maxPeers + 1
	_, err := p.add(entry{Name: "more", Role: Append, Pin: pin(maxPeers), Since: now})
	require.ErrorContains(t, err, "no more")
	for i := range maxGone + 10 {
		p.bury("gone", pin(maxPeers+i), wasRevoked, now)
	}
	require.Len(t, p.Gone, maxGone)
	require.Equal(t, pin(maxPeers+10), p.Gone[0].Pin)
	data, err := encodePages(p)
	require.NoError(t, err)
	require.Less(t, len(data), maxBook)
	require.NoError(t, p.check())
}

// A clock that was never set writes no book.
func TestClockBeforeTime(t *testing.T) {
	b := newBook(t)
	b.now = func() time.Time { return time.Date(1901, 1, 1, 0, 0, 0, 0, time.UTC) }
	_, err := b.AddToken(Pin{1}, "x", Append, 0)
	require.ErrorContains(t, err, "clock")
}
