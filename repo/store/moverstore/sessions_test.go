package moverstore_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/repo/guard"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/moverstore"
)

// peak is the most memory that a process has had so far, in bytes; 0: not known here.
func peak(pid int) int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rss, _ := strings.Cut(string(status), "VmHWM:")
	rss, _, _ = strings.Cut(rss, "kB")
	kib, _ := strconv.ParseInt(strings.TrimSpace(rss), 10, 64)
	return kib << 10
}

const roleVariable = "MOVERSTORE_TEST_TARGET"

// playTarget is this program as a blind target of its own, with a store below dir. It ends with its input.
func playTarget(dir string) error {
	debug.SetGCPercent(25) // as the tool does
	id, err := trust.LoadIdentity(dir)
	if err != nil {
		return err
	}
	book, err := trust.OpenBook(dir)
	if err != nil {
		return err
	}
	under, err := dirstore.Init(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	g, err := guard.New(under, &guard.Options{Dir: dir})
	if err != nil {
		return err
	}
	blind := moverstore.Blind(func(_ context.Context, p trust.Peer) (store.Store, error) {
		return g.For(p.Name, p.Role == trust.Full), nil
	})
	s, err := mover.NewServer(&mover.ServerOptions{Identity: id, Book: book, Blind: blind})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	fmt.Println(l.Addr())
	err = s.Serve(ctx, l)
	return errors.Join(err, under.Close())
}

// contentOf is what session i stores.
func contentOf(i int) []byte {
	b := make([]byte, 1<<20)
	for at := 0; at < len(b); at += 8 {
		binary.LittleEndian.PutUint64(b[at:], uint64(i)<<32|uint64(at))
	}
	return b
}

// RELIABILITY bar 24, the side of the store: a thousand authenticated sessions at once at one blind target, a process of its own, each of a peer of its own that
// stores an object, looks at it, reads it back and removes it. All of them come to their end, none is starved, and nothing is left.
func TestThousandSessionsAtAStore(t *testing.T) {
	sessions := map[string]int{"long": 300, "release": 1000}[os.Getenv("HIKAE_TEST_TIER")]
	if sessions == 0 {
		sessions = 30
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	dir := t.TempDir()
	book, err := trust.OpenBook(dir)
	require.NoError(t, err)
	id, err := trust.LoadIdentity(dir)
	require.NoError(t, err)
	peers := make([]*trust.Identity, sessions)
	for i := range peers {
		peers[i] = enrolled(t, book, id.Pin(), fmt.Sprint("peer", i))
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	target := exec.CommandContext(ctx, exe)
	target.Env, target.Stderr = append(os.Environ(), roleVariable+"="+dir), os.Stderr
	input, err := target.StdinPipe()
	require.NoError(t, err)
	output, err := target.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, target.Start())
	address, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	var stores []store.Store
	var clients []*mover.Client
	began := time.Now()
	for _, peer := range peers {
		c, err := mover.Dial(ctx, strings.TrimSpace(address), &mover.DialOptions{Identity: peer, ServerPin: id.Pin(), GiveUp: 30 * time.Second})
		require.NoError(t, err)
		clients, stores = append(clients, c), append(stores, moverstore.Over(c))
	}
	opened := time.Since(began)
	start, ends := make(chan struct{}), make(chan end, sessions)
	for i, st := range stores {
		go func() {
			<-start
			began := time.Now()
			err := useStore(ctx, st, i)
			ends <- end{time.Since(began), err}
		}()
	}
	began = time.Now()
	close(start)
	var took []time.Duration
	for range sessions {
		e := <-ends
		require.NoError(t, e.err)
		took = append(took, e.took)
	}
	all := time.Since(began)
	slices.Sort(took)
	median, slowest := took[sessions/2], took[sessions-1]
	memory := peak(target.Process.Pid)
	for _, c := range clients {
		require.NoError(t, c.Close())
	}
	require.NoError(t, input.Close())
	_ = target.Wait()
	t.Logf("%d sessions opened in %.1f s, served in %.1f s; median %.2f s, slowest %.2f s: %.2f ×; the target's memory %d MiB at the peak",
		sessions, opened.Seconds(), all.Seconds(), median.Seconds(), slowest.Seconds(), slowest.Seconds()/median.Seconds(), memory>>20)
	require.Less(t, slowest, 10*median, "a session was starved")
	require.Less(t, memory, int64(3<<30))
	under, err := dirstore.Open(filepath.Join(dir, "store"))
	require.NoError(t, err)
	require.Empty(t, collect(t, under))
	require.NoError(t, under.Close())
}

// enrolled makes a peer known, as a token and its use would.
func enrolled(t *testing.T, book *trust.Book, pin trust.Pin, name string) *trust.Identity {
	t.Helper()
	token, err := book.AddToken(pin, name, trust.Full, time.Hour)
	require.NoError(t, err)
	once, err := token.Identity()
	require.NoError(t, err)
	peer, err := trust.NewIdentity()
	require.NoError(t, err)
	_, err = book.Enrol(once.Pin(), peer.PublicKey(), "test")
	require.NoError(t, err)
	return peer
}

// end is how a session's work ended.
type end struct {
	took time.Duration
	err  error
}

// useStore does what a client does with a store.
func useStore(ctx context.Context, st store.Store, i int) error {
	name, content := fmt.Sprintf("pack/%d/one", i), contentOf(i)
	if err := st.Create(ctx, name, content); err != nil {
		return err
	}
	got, err := store.ReadAll(ctx, st, name, 1<<20)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, content) {
		return errors.New("what was stored reads otherwise")
	}
	return st.Remove(ctx, name)
}
