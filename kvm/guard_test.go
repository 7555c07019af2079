//go:build unix

package kvm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/kvm/qga"
)

// guestAgent is a guest agent that only freezes and thaws. It serves one client at a time, as a port does.
type guestAgent struct {
	mu     sync.Mutex
	frozen bool
	thaws  int
}

func (a *guestAgent) serve(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	require.NoError(t, err)
	l, err := net.Listen("unix", filepath.Join(dir, "a"))
	require.NoError(t, err)
	var ended sync.WaitGroup
	ended.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			a.talk(c)
			c.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		ended.Wait()
		os.RemoveAll(dir)
	})
	return l.Addr().String()
}

func (a *guestAgent) talk(c net.Conn) {
	lines := bufio.NewReader(c)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var q struct {
			Execute   string
			Arguments struct{ ID int64 }
		}
		if json.Unmarshal(bytes.TrimLeft(line, "\xff"), &q) != nil {
			return
		}
		json.NewEncoder(c).Encode(map[string]any{"return": a.do(c, q.Execute, q.Arguments.ID)})
	}
}

func (a *guestAgent) do(c net.Conn, command string, id int64) any {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch command {
	case "guest-sync-delimited":
		c.Write([]byte{0xff})
		return id
	case "guest-fsfreeze-status":
		if a.frozen {
			return "frozen"
		}
		return "thawed"
	case "guest-fsfreeze-freeze":
		a.frozen = true
		return 1
	case "guest-fsfreeze-thaw":
		held := map[bool]int{true: 1}[a.frozen]
		a.frozen = false
		a.thaws++
		return held
	}
	return struct{}{}
}

func (a *guestAgent) state() (frozen bool, thaws int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.frozen, a.thaws
}

// guarded runs a guard in this process and returns its session's end.
func guarded(t *testing.T, socket string, lease time.Duration) (g *guardProcess, orders *io.PipeWriter, ended <-chan error) {
	t.Helper()
	in, orders := io.Pipe()
	answers, out := io.Pipe()
	w := &watchman{charge: charge{Agent: socket}, out: json.NewEncoder(out), lease: lease}
	over, stop := make(chan error, 1), make(chan struct{})
	go func() {
		err := w.serve(t.Context(), takeOrders(in, stop))
		close(stop)
		out.Close()
		in.Close()
		over <- err
	}()
	g = &guardProcess{in: orders, answers: make(chan answer, 1), agent: agentLink{socket: socket}}
	go g.listen(answers)
	t.Cleanup(func() { orders.Close() })
	return g, orders, over
}

func TestGuardFreezesAndThaws(t *testing.T) {
	a := &guestAgent{}
	g, _, ended := guarded(t, a.serve(t), time.Minute)
	require.NoError(t, g.Freeze(soon(t)))
	frozen, _ := a.state()
	require.True(t, frozen)
	require.NoError(t, g.Thaw(soon(t)))
	require.NoError(t, g.Freeze(soon(t)), "it is used again")
	require.NoError(t, g.Thaw(soon(t)))
	require.NoError(t, json.NewEncoder(g.in).Encode(order{N: 9, Do: orderRelease}))
	require.NoError(t, <-ended)
	frozen, thaws := a.state()
	require.False(t, frozen)
	require.Equal(t, 2, thaws)
}

// A session that does nothing while the guest is frozen, as one whose process is stopped: the guard thaws when the lease
// is over, and says so to whoever thinks that the guest was frozen all the time.
func TestGuardLease(t *testing.T) {
	a := &guestAgent{}
	g, orders, ended := guarded(t, a.serve(t), 50*time.Millisecond)
	require.NoError(t, g.Freeze(soon(t)))
	require.Eventually(t, func() bool { frozen, _ := a.state(); return !frozen }, 10*time.Second, 5*time.Millisecond)
	free := qga.New(g.agent.socket, nil)
	defer free.Close()
	_, err := free.Frozen(soon(t))
	require.NoError(t, err, "the agent's port is free")
	require.ErrorIs(t, g.Thaw(soon(t)), errLate)
	orders.Close()
	require.NoError(t, <-ended)
	_, thaws := a.state()
	require.Equal(t, 1, thaws, "what is thawed is not thawed again")
}

// A session that dies, or that says what is no order, while the guest is frozen, and one that dies before.
func TestGuardAlone(t *testing.T) {
	for _, last := range []string{"", "no order\n"} {
		a := &guestAgent{}
		g, orders, ended := guarded(t, a.serve(t), time.Minute)
		require.NoError(t, g.Freeze(soon(t)))
		_, err := orders.Write([]byte(last))
		require.NoError(t, err)
		orders.Close()
		require.NoError(t, <-ended)
		frozen, _ := a.state()
		require.False(t, frozen)
	}
	a := &guestAgent{frozen: true} // by somebody else
	g, orders, ended := guarded(t, a.serve(t), time.Minute)
	require.ErrorIs(t, g.Freeze(soon(t)), qga.ErrFrozen)
	orders.Close()
	require.NoError(t, <-ended)
	frozen, _ := a.state()
	require.True(t, frozen, "a stranger's freeze was thawed")
}

// Errors that a session acts on come over the pipe as what they are.
func TestGuardAnswers(t *testing.T) {
	g, orders, ended := guarded(t, filepath.Join(t.TempDir(), "none"), time.Minute)
	err := g.Freeze(soon(t))
	require.True(t, gone(err), err)
	require.True(t, untouched(err))
	require.ErrorContains(t, g.ask(soon(t), "nonsense"), "no order")
	orders.Close()
	require.NoError(t, <-ended)
	for _, known := range freezeErrors {
		require.ErrorIs(t, answerOf(known).err(), known)
	}
	require.NoError(t, answerOf(nil).err())
	require.ErrorContains(t, answerOf(errNothingFrozen).err(), "froze no file system")
	require.False(t, untouched(answerOf(errNothingFrozen).err()))
}

// An answer that comes after its time is not taken for that to the next order.
func TestGuardStaleAnswer(t *testing.T) {
	in, out := io.Pipe()
	g := &guardProcess{in: out, answers: make(chan answer, 2)}
	go io.Copy(io.Discard, in)
	t.Cleanup(func() { out.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, g.ask(ctx, orderFreeze), context.Canceled)
	g.answers <- answer{N: 1, Error: "late"}
	g.answers <- answer{N: 2}
	require.NoError(t, g.ask(soon(t), orderThaw))
	close(g.answers)
	require.ErrorIs(t, g.ask(soon(t), orderThaw), io.ErrUnexpectedEOF)
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}
