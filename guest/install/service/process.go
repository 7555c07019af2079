package service

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/install/pack"
)

// Times of a component's process.
const (
	trialLimit = 20 * time.Second // to answer for the first time
	partLimit  = 90 * time.Second // to thaw, run scripts and let applications go; more than the component takes itself
)

// running is a component in a process of its own: what is written to it is its input, what is read its output.
type running struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  io.ReadCloser
	said *tail
	dir  string

	once sync.Once
	err  error
}

// start starts a program as a component, with a folder of its own.
func start(sessions, path string) (*running, error) {
	dir := filepath.Join(sessions, agent.Prefix+strings.ToLower(rand.Text()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	r := &running{cmd: exec.Command(path, "serve", "--dir", dir), dir: dir, said: &tail{}}
	r.cmd.Dir, r.cmd.Stderr = dir, r.said
	r.cmd.WaitDelay = time.Second // its watchdog may hold what it inherited
	in, err := r.cmd.StdinPipe()
	if err == nil {
		r.in = in
		r.out, err = r.cmd.StdoutPipe()
	}
	if err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return r, nil
}

func (r *running) Read(p []byte) (int, error)  { return r.out.Read(p) }
func (r *running) Write(p []byte) (int, error) { return r.in.Write(p) }

// Close ends the component's input and waits until it has let go of everything; one that does not end is killed, and its
// watchdog thaws. Its folder is gone afterwards.
func (r *running) Close() error {
	r.once.Do(func() {
		r.in.Close()
		kill := time.AfterFunc(partLimit, func() { r.cmd.Process.Kill() })
		defer kill.Stop()
		_, _ = io.Copy(io.Discard, r.out) // until it has closed it
		if r.err = r.cmd.Wait(); r.err != nil {
			r.err = fmt.Errorf("component: %w: %s", r.err, r.said)
		}
		r.err = errors.Join(r.err, os.RemoveAll(r.dir))
	})
	return r.err
}

// tail keeps the end of what a program said.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-tailBytes):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}

// answers starts a component, once, to see that it is what its package says: it speaks our protocol and is of that
// version.
func (s *Service) answers(ctx context.Context, path, version string) error {
	return tryOut(ctx, filepath.Join(s.dir, sessionsDir), path, version)
}

func tryOut(ctx context.Context, sessions, path, version string) error {
	ctx, cancel := context.WithTimeout(ctx, trialLimit)
	defer cancel()
	r, err := start(sessions, path)
	if err != nil {
		return fmt.Errorf("the component does not start: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { r.cmd.Process.Kill() })
	defer stop()
	h, err := greet(r)
	closed := r.Close()
	if err != nil || ctx.Err() != nil {
		return fmt.Errorf("the component does not answer: %w", errors.Join(err, context.Cause(ctx), closed))
	}
	if h.Version != wire.Version {
		return fmt.Errorf("%w: the component speaks version %d of the protocol, and not %d", pack.ErrContent, h.Version, wire.Version)
	}
	if words := strings.Fields(h.Product); len(words) != 2 || words[0] != Component || words[1] != version {
		return fmt.Errorf("%w: it calls itself %.80q, and its package %s %s", pack.ErrContent, h.Product, Component, version)
	}
	return nil
}

// greet says hello, and nothing else.
func greet(rw io.ReadWriter) (h wire.HelloAnswer, err error) {
	args, err := wire.Encode(wire.HelloArgs{Version: wire.Version, Session: "trial", LeaseMillis: trialLimit.Milliseconds()})
	if err != nil {
		return h, err
	}
	req, err := wire.Encode(wire.Request{Verb: wire.Hello, Args: args})
	if err != nil {
		return h, err
	}
	if err := wire.Write(rw, wire.Frame{Kind: wire.KindRequest, Call: 1, Payload: req}); err != nil {
		return h, err
	}
	f, err := wire.Read(rw)
	if err != nil {
		return h, err
	}
	if f.Kind != wire.KindAnswer || f.Call != 1 {
		return h, fmt.Errorf("%w: it answers with %.80q", wire.ErrMalformed, f.Payload)
	}
	return h, wire.Decode(f.Payload, &h)
}
