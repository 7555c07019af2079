package scm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/guest/smbchannel/rpc"
	"github.com/hikae/hikae/guest/smbchannel/scm"
	"github.com/hikae/hikae/guest/smbchannel/scm/scmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process is one that ends when it is stopped.
type process struct {
	once sync.Once
	done chan struct{}
	code int
}

func (p *process) Stop()                 { p.once.Do(func() { close(p.done) }) }
func (p *process) Done() <-chan struct{} { return p.done }
func (p *process) Code() int             { return p.code }

// machine is a fake, and how to reach it.
type machine struct {
	scmtest.Machine
	dials   int
	running sync.WaitGroup
}

func newMachine(t testing.TB) *machine {
	m := &machine{}
	m.Start = func(string) (scmtest.Process, error) { return &process{done: make(chan struct{}), code: 3}, nil }
	t.Cleanup(m.running.Wait)
	return m
}

func (m *machine) dial(context.Context) (io.ReadWriteCloser, error) {
	m.dials++
	ours, its := net.Pipe()
	m.running.Go(func() {
		defer its.Close()
		_ = m.Serve(its)
	})
	return ours, nil
}

func openManager(t testing.TB, m *machine) *scm.Manager {
	t.Helper()
	manager, err := scm.Open(t.Context(), m.dial)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, manager.Close()) })
	return manager
}

// R126: the life of a run-time component's service, from its making to the proof that it is gone.
func TestLife(t *testing.T) {
	m := newMachine(t)
	manager := openManager(t, m)
	ctx := t.Context()
	require.NoError(t, manager.Create(ctx, vectorService))
	require.ErrorIs(t, manager.Create(ctx, vectorService), fs.ErrExist)
	st, err := manager.Status(ctx, "HIKAE-7") // names do not tell case apart
	require.NoError(t, err)
	require.Equal(t, scm.Stopped, st.State)
	require.NoError(t, manager.Start(ctx, "hikae-7"))
	var refused *scm.Error
	require.ErrorAs(t, manager.Start(ctx, "hikae-7"), &refused)
	require.Equal(t, uint32(scm.AlreadyRunning), refused.Code)
	st, err = manager.Status(ctx, "hikae-7")
	require.NoError(t, err)
	require.Equal(t, scm.Running, st.State)

	require.NoError(t, manager.Delete(ctx, "hikae-7"))
	require.Equal(t, []string{"hikae-7"}, m.Names(), "it runs: it is marked, and goes when it ends")
	require.NoError(t, manager.Stop(ctx, "hikae-7"))
	_, err = manager.Status(ctx, "hikae-7")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Empty(t, m.Names())
	require.Equal(t, 1, m.dials, "all of it over one association")
}

func TestExitCode(t *testing.T) {
	m := newMachine(t)
	manager := openManager(t, m)
	require.NoError(t, manager.Create(t.Context(), vectorService))
	require.NoError(t, manager.Start(t.Context(), "hikae-7"))
	require.NoError(t, manager.Stop(t.Context(), "hikae-7"))
	st, err := manager.Status(t.Context(), "hikae-7")
	require.NoError(t, err)
	require.Equal(t, 3, st.ExitCode())
	err = manager.Stop(t.Context(), "hikae-7")
	require.ErrorContains(t, err, "stop service hikae-7: it does not run (error 1062)")
}

func TestRefusals(t *testing.T) {
	manager := openManager(t, newMachine(t))
	for _, s := range []scm.Service{
		{}, {Name: "a b", Command: "x"}, {Name: `a\b`, Command: "x"}, {Name: "a"}, {Name: "a", Command: "%SystemRoot%\\x"},
		{Name: "a", Command: "x\x00y"}, {Name: "a", Command: string(make([]byte, scm.MaxCommand+1))}, {Name: string(make([]byte, 300)), Command: "x"},
	} {
		require.Error(t, manager.Create(t.Context(), s), "%q", s)
	}
	require.Error(t, manager.Delete(t.Context(), "a,b"))
	require.ErrorIs(t, manager.Delete(t.Context(), "nobody"), fs.ErrNotExist)
}

// Whatever procedure fails, in whatever way: the error says so, and the next call works, over a new association where the
// old one broke.
func TestFaults(t *testing.T) {
	kinds := map[string]error{
		"code":  &scm.Error{Code: scm.AccessDenied},
		"fault": &rpc.Fault{Status: rpc.FaultUnknownProcedure},
		"end":   errors.New("the link breaks"),
	}
	for kind, failure := range kinds {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprint(kind, " after=", after), func(t *testing.T) { failEach(t, failure, after) })
		}
	}
}

// failEach fails the first call, the second, and so on until a life goes through.
func failEach(t *testing.T, failure error, after bool) {
	for n := 1; ; n++ {
		m := newMachine(t)
		left := n
		hook := func(uint16, string) error {
			if left--; left == 0 {
				return failure
			}
			return nil
		}
		if after {
			m.Intercept(nil, hook)
		} else {
			m.Intercept(hook, nil)
		}
		err := life(t.Context(), m)
		require.NoError(t, sweep(t.Context(), m), "call %d", n)
		// A handle of an association that broke keeps the service until the machine has seen the end of it.
		require.Eventually(t, func() bool { return len(m.Names()) == 0 }, 10*time.Second, time.Millisecond, "call %d", n)
		if left > 0 {
			require.NoError(t, err)
			require.Greater(t, n, 14, "every call was failed once")
			return
		}
		require.Error(t, err, "call %d", n)
		if coded, ok := failure.(*scm.Error); ok {
			var got *scm.Error
			require.ErrorAs(t, err, &got)
			require.Equal(t, coded.Code, got.Code)
			require.ErrorIs(t, err, fs.ErrPermission)
		}
	}
}

func life(ctx context.Context, m *machine) error {
	manager, err := scm.Open(ctx, m.dial)
	if err != nil {
		return err
	}
	defer manager.Close()
	if err := manager.Create(ctx, vectorService); err != nil {
		return err
	}
	if err := manager.Start(ctx, vectorService.Name); err != nil {
		return err
	}
	if _, err := manager.Status(ctx, vectorService.Name); err != nil {
		return err
	}
	if err := manager.Stop(ctx, vectorService.Name); err != nil {
		return err
	}
	return manager.Delete(ctx, vectorService.Name)
}

// sweep takes away what a failed life left, with a manager of its own.
func sweep(ctx context.Context, m *machine) error {
	m.Intercept(nil, nil)
	manager, err := scm.Open(ctx, m.dial)
	if err != nil {
		return err
	}
	defer manager.Close()
	_ = manager.Stop(ctx, vectorService.Name)
	var coded *scm.Error
	err = manager.Delete(ctx, vectorService.Name)
	if errors.As(err, &coded) && coded.Code == scm.MarkedForDelete {
		return nil // the machine has not seen the end of an association yet
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// A manager goes on after its association broke.
func TestReopen(t *testing.T) {
	m := newMachine(t)
	manager := openManager(t, m)
	m.Intercept(func(procedure uint16, _ string) error {
		if procedure == scm.OpenServiceW {
			return &rpc.Fault{Status: rpc.FaultUnknownProcedure}
		}
		return nil
	}, nil)
	_, err := manager.Status(t.Context(), "x")
	var fault *rpc.Fault
	require.ErrorAs(t, err, &fault)
	m.Intercept(nil, nil)
	_, err = manager.Status(t.Context(), "x")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Equal(t, 2, m.dials)
}

// A machine that says nothing is waited for as long as the context lasts.
func TestSilent(t *testing.T) {
	ours, its := net.Pipe()
	defer its.Close()
	go func() { _, _ = io.Copy(io.Discard, its) }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := scm.Open(ctx, func(context.Context) (io.ReadWriteCloser, error) { return ours, nil })
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// Answers that were cut off, lengthened or changed are errors or answers, never a wait, a panic or a success without what
// a success has to bring.
func TestHostile(t *testing.T) {
	list := vectors(t)
	for i, m := range list {
		if m.to {
			continue
		}
		for at := range m.bytes {
			for _, change := range []byte{0x01, 0x80, 0xff} {
				bent := append([]message{}, list...)
				bent[i].bytes = append([]byte{}, m.bytes...)
				bent[i].bytes[at] ^= change
				_ = create(t, bent)
			}
			short := append([]message{}, list...)
			short[i].bytes = m.bytes[:at]
			require.Error(t, create(t, short), "%s cut at %d", m.name, at)
			// Cut off inside, with a header that says so.
			if at >= 24 {
				whole := append([]byte{}, m.bytes[:at]...)
				whole[8], whole[9] = byte(at), byte(at>>8)
				short[i].bytes = whole
				require.Error(t, create(t, short), "%s ends at %d", m.name, at)
			}
		}
	}
}

func create(t *testing.T, list []message) error {
	s := &script{left: list}
	m, err := scm.Open(t.Context(), func(context.Context) (io.ReadWriteCloser, error) { return s, nil })
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Create(t.Context(), vectorService)
}
