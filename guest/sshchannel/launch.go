package sshchannel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/guest"
	"golang.org/x/crypto/ssh"
)

// closeLimit is how long a program has to end after its input has.
const closeLimit = 5 * time.Second

// Launch implements [guest.Launcher]: the component's frames go over its standard input and output.
func (c *channel) Launch(ctx context.Context, p guest.Program) (io.ReadWriteCloser, error) {
	words := append(append([]string{}, c.System().Elevate...), p.Path)
	words = append(append(words, p.Args...), "serve", "--dir", folderOf(p.Path))
	stream, err := c.link.start(ctx, words)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Path, err)
	}
	return stream, nil
}

func folderOf(program string) string {
	if i := strings.LastIndexByte(program, '\\'); i > 0 {
		return program[:i]
	}
	return path.Dir(program)
}

// start starts a program and waits until its shell is past everything that an account prints.
func (l *link) start(ctx context.Context, words []string) (*stream, error) {
	mark := rand.Text()
	line, err := l.line(mark, words)
	if err != nil {
		return nil, err
	}
	s, release, err := l.session(ctx)
	if err != nil {
		return nil, err
	}
	t := &stream{link: l, session: s, release: release, words: words, done: make(chan struct{}), stderr: newCapture(mark, l.windows)}
	if err = t.begin(ctx, line, []byte(mark+" ")); err != nil {
		s.Close()
		release()
		return nil, err
	}
	go t.wait()
	return t, nil
}

// stream is a program that runs in the guest.
type stream struct {
	link    *link
	session *ssh.Session
	release func()
	words   []string
	pid     string
	in      io.WriteCloser
	out     io.Reader
	early   bytes.Buffer // of out, that came with the mark
	stderr  *capture
	once    sync.Once

	reading sync.Mutex
	mu      sync.Mutex // the library may not close what it writes to at that moment
	writing int
	closing bool

	done chan struct{} // closed when the program or the link has ended
	err  error         // how; read after done
}

func (t *stream) begin(ctx context.Context, line string, mark []byte) (err error) {
	t.session.Stderr = t.stderr
	if t.in, err = t.session.StdinPipe(); err != nil {
		return err
	}
	if t.out, err = t.session.StdoutPipe(); err != nil {
		return err
	}
	return t.link.within(ctx, func() error {
		if err := t.session.Start(line); err != nil || t.link.windows {
			return err
		}
		return t.skip(mark)
	}, func() { t.session.Close() })
}

// skip reads up to and with the mark.
func (t *stream) skip(mark []byte) error {
	var seen []byte
	for part := make([]byte, 4096); ; {
		n, err := t.out.Read(part)
		seen = append(seen, part[:n]...)
		if rest, pid, found := afterMark(seen, mark); found {
			t.early.Write(rest)
			t.pid = pid
			return nil
		}
		switch {
		case err == io.EOF:
			return fmt.Errorf("the account's shell ended before the program began: %s", words(seen))
		case err != nil:
			return err
		case len(seen) > maxNoise:
			return errNoise
		}
	}
}

func (t *stream) wait() {
	defer close(t.done)
	defer t.release()
	t.err = t.session.Wait()
	t.session.Close()
}

func (t *stream) Read(p []byte) (int, error) {
	t.reading.Lock() // of two who wait the library wakes one
	defer t.reading.Unlock()
	if t.early.Len() > 0 {
		return t.early.Read(p)
	}
	return t.out.Read(p)
}

func (t *stream) Write(p []byte) (int, error) {
	t.mu.Lock()
	if t.closing {
		t.mu.Unlock()
		return 0, net.ErrClosed
	}
	t.writing++
	t.mu.Unlock()
	n, err := t.in.Write(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writing--
	t.endInput()
	return n, err
}

// endInput ends the program's input, once nobody writes to it.
func (t *stream) endInput() {
	if t.closing && t.writing == 0 {
		t.in.Close()
	}
}

// Close ends the program's input and, where that does not end it in time, the program.
func (t *stream) Close() error {
	t.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
		defer cancel()
		t.link.within(ctx, func() error {
			t.mu.Lock()
			t.closing = true
			t.endInput()
			t.mu.Unlock()
			go io.Copy(io.Discard, struct{ io.Reader }{t}) // what nobody reads any more must not keep it
			<-t.done
			return nil
		}, func() { t.link.interrupt(t.session, t.words, t.pid) })
	})
	return nil
}

// Err waits for the program's end and says how it was; nil is exit code 0.
func (t *stream) Err() error {
	<-t.done
	var exit *ssh.ExitError
	var lost *ssh.ExitMissingError
	said := words(t.stderr.bytes())
	switch {
	case t.err == nil:
		return nil
	case errors.As(t.err, &exit):
		return fmt.Errorf("it ended with exit code %d: %s", exit.ExitStatus(), said)
	case errors.As(t.err, &lost):
		return fmt.Errorf("%w: %s", ErrLinkLost, said)
	}
	return t.link.because(t.err)
}
