package winrmchannel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/guest"
)

// closeLimit is how long a program has to end after its input has.
const closeLimit = 5 * time.Second

// channel adds to what is made of any channel that a shell carries streams.
type channel struct {
	guest.Channel
	link *link
}

// Launch implements [guest.Launcher]: the component's frames go over its standard input and output. It lives no longer than
// its shell, in which Windows keeps it.
func (c *channel) Launch(ctx context.Context, p guest.Program) (io.ReadWriteCloser, error) {
	i := strings.LastIndexByte(p.Path, '\\')
	if i < 0 {
		return nil, errProgram
	}
	args := append(append([]string{}, p.Args...), "serve", "--dir", p.Path[:i])
	if err := fit(p.Path, args); err != nil {
		return nil, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	s, err := c.link.start(ctx, p.Path, args)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", guest.Printable(p.Path, 300), err)
	}
	return newStream(s), nil
}

// stream is a program that runs in the guest.
type stream struct {
	shell  *shell
	out    *io.PipeReader
	in     *io.PipeWriter // of out
	life   context.Context
	cancel context.CancelFunc
	ended  chan struct{}

	writing sync.Mutex
	once    sync.Once
	closed  error

	mu     sync.Mutex
	stderr []byte
	err    error
}

func newStream(s *shell) *stream {
	t := &stream{shell: s, ended: make(chan struct{})}
	t.out, t.in = io.Pipe()
	t.life, t.cancel = context.WithCancel(context.Background())
	go t.fetch()
	return t
}

// fetch hands on what the program prints, until it or the link ends.
func (t *stream) fetch() {
	defer close(t.ended)
	defer t.in.Close()
	for {
		out, err := t.shell.receive(t.life)
		if err == nil && len(out.Stdout) > 0 {
			_, err = t.in.Write(out.Stdout)
		}
		t.note(out.Stderr, err)
		if err != nil {
			return
		}
		if out.Done {
			if out.ExitCode != 0 {
				t.note(nil, fmt.Errorf("the component ended with %d", out.ExitCode))
			}
			return
		}
	}
}

const maxComplaint = 4 << 10

func (t *stream) note(stderr []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stderr = append(t.stderr, stderr[:min(len(stderr), maxComplaint-len(t.stderr))]...)
	if t.err == nil && t.life.Err() == nil {
		t.err = err
	}
}

// Err says why the program or the link ended, with what the program complained of. It waits for that.
func (t *stream) Err() error {
	<-t.ended
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil && len(t.stderr) == 0 {
		return nil
	}
	if len(t.stderr) == 0 {
		return t.err
	}
	return errors.Join(t.err, errors.New(guest.Printable(string(t.stderr), 300)))
}

// Read reads what the program prints.
func (t *stream) Read(p []byte) (int, error) { return t.out.Read(p) }

// Write writes to the program's input.
func (t *stream) Write(p []byte) (int, error) {
	t.writing.Lock()
	defer t.writing.Unlock()
	if t.life.Err() != nil {
		return 0, io.ErrClosedPipe
	}
	ctx, cancel := context.WithTimeout(t.life, callLimit)
	defer cancel()
	if err := t.shell.send(ctx, p, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close ends the program's input and, within 5 s, the program and its shell.
func (t *stream) Close() error {
	t.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
		defer cancel()
		go io.Copy(io.Discard, t.out) // nobody reads any more, and the program may have to print before it ends
		if t.shell.send(ctx, nil, true) == nil {
			select {
			case <-t.ended:
			case <-ctx.Done():
			}
		}
		t.cancel()
		t.closed = t.shell.delete(context.Background())
		<-t.ended
		t.out.Close()
	})
	return t.closed
}
