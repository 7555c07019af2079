package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent"
)

// here is a channel into this machine. It runs programs, and nothing else.
type here struct {
	runs func() error // called before each run; an error is the channel's
	late func() error // called after it: the answer is lost
}

func (h *here) Run(ctx context.Context, path string, args []string, stdin []byte) (hikae.RunResult, error) {
	if h.runs != nil {
		if err := h.runs(); err != nil {
			return hikae.RunResult{}, err
		}
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		err = nil
	}
	if h.late != nil && err == nil {
		err = h.late()
	}
	if err != nil {
		return hikae.RunResult{}, err
	}
	return hikae.RunResult{Stdout: out.Bytes(), Stderr: errs.Bytes(), ExitCode: cmd.ProcessState.ExitCode()}, nil
}

func (h *here) Upload(_ context.Context, path string, data []byte, mode uint32) error {
	return os.WriteFile(path, data, fs.FileMode(mode))
}
func (h *here) Download(_ context.Context, path string, _ int64) ([]byte, error) {
	return os.ReadFile(path)
}
func (h *here) Close() error     { return nil }
func (h *here) Kind() guest.Kind { return guest.QGA }
func (h *here) System() guest.System {
	return guest.System{OS: runtime.GOOS, Arch: runtime.GOARCH, Admin: true}
}
func (h *here) MakeDir(_ context.Context, path string) error { return os.Mkdir(path, 0o700) }
func (h *here) Remove(_ context.Context, path string) error  { return os.RemoveAll(path) }

// launching is a channel that can also start a program and talk to it.
type launching struct {
	here
	mu  sync.Mutex
	cmd *exec.Cmd // started last
}

func (l *launching) Launch(_ context.Context, p guest.Program) (io.ReadWriteCloser, error) {
	cmd := exec.Command(p.Path, append(p.Args, "serve", "--dir", filepath.Dir(p.Path))...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.cmd = cmd
	l.mu.Unlock()
	return &launched{cmd: cmd, in: in, out: out}, nil
}

type launched struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  io.ReadCloser
	once sync.Once
	err  error
}

func (l *launched) Read(p []byte) (int, error)  { return l.out.Read(p) }
func (l *launched) Write(p []byte) (int, error) { return l.in.Write(p) }

// Close ends the input, and within 5 s the program.
func (l *launched) Close() error {
	l.once.Do(func() {
		l.in.Close()
		kill := time.AfterFunc(5*time.Second, func() { l.cmd.Process.Kill() })
		defer kill.Stop()
		l.err = l.cmd.Wait()
	})
	return l.err
}

// program lies ready in a folder of its own.
func program(t *testing.T) guest.Program {
	t.Helper()
	dir, err := os.MkdirTemp("", agent.Prefix) // short, for the socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(dir, "hikae-agent")
	if os.Link(self, path) != nil { // another file system
		content, err := os.ReadFile(self)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, content, 0o700))
	}
	return guest.Program{Path: path, Name: "hikae-test"}
}

// gone wants that nothing of a program is left: no folder, no process. One that was spoken to by runs keeps the name of its
// folder, which is empty then, until somebody ends it.
func gone(t *testing.T, p guest.Program) {
	t.Helper()
	dir := filepath.Dir(p.Path)
	require.Eventually(t, func() bool {
		content, err := os.ReadDir(dir)
		if err == nil && len(content) == 0 {
			for _, id := range runFrom(dir) {
				syscall.Kill(id, syscall.SIGTERM)
			}
		}
		return errors.Is(err, fs.ErrNotExist) && len(runFrom(dir)) == 0
	}, 15*time.Second, 10*time.Millisecond, "%s is left, or processes %v of it", dir, runFrom(dir))
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T, ch guest.Channel, p guest.Program, opts *guest.ComponentOptions) *guest.Component {
	t.Helper()
	c, err := guest.Connect(soon(t), ch, p, opts)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}
