//go:build linux

package apps

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a client.
const (
	maxAnswer    = 1 << 20 // bytes of one statement's answer
	maxStatement = 32 << 10
	askLimit     = 30 * time.Second // of a statement whose context has no deadline
	endLimit     = 2 * time.Second  // for a client that was killed to be gone
)

// errEnded says that a client has ended: with it went the session, and what the server held for it.
var errEnded = errors.New("the session has ended")

// errClosed is why a session of ours ends that nobody needs any more.
var errClosed = errors.New("closed")

// command is a client that can be started.
type command struct {
	path string
	args []string
	env  []string
	as   *syscall.Credential // nil: as we are
	echo func(token string) string
}

// client is a database's own command-line client as a coprocess: one connection that stays open. A statement that
// fails, or outlives its context, ends it.
type client struct {
	echo func(token string) string
	in   *os.File
	out  *os.File // of both streams, so that errors and rows keep their order
	rows *bufio.Reader
	turn chan struct{} // holds a token: whoever has it may ask

	mu   sync.Mutex
	pid  int // 0: reaped
	why  error
	gone chan struct{}
}

// start starts a client. It ends by close alone, or by itself.
func start(cmd command) (*client, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inR.Close(), inW.Close())
	}
	p := exec.Command(cmd.path, cmd.args...)
	p.Env, p.Dir = cmd.env, "/"
	p.Stdin, p.Stdout, p.Stderr = inR, outW, outW
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: cmd.as}
	err = p.Start()
	_, _ = inR.Close(), outW.Close()
	if err != nil {
		return nil, errors.Join(err, inW.Close(), outR.Close())
	}
	c := &client{echo: cmd.echo, in: inW, out: outR, rows: bufio.NewReaderSize(outR, 16<<10),
		turn: make(chan struct{}, 1), pid: p.Process.Pid, gone: make(chan struct{})}
	c.turn <- struct{}{}
	go c.reap(p)
	return c, nil
}

// reap waits for the client's end. It looks before it reaps, so that kill never meets a number that is somebody else's
// by now.
func (c *client) reap(p *exec.Cmd) {
	for unix.Waitid(unix.P_PID, p.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		continue
	}
	c.mu.Lock()
	_ = p.Wait()
	c.pid = 0
	if c.why == nil {
		c.why = fmt.Errorf("the client ended: %v", p.ProcessState)
	}
	c.mu.Unlock()
	close(c.gone)
}

// kill ends the client and all that it started. why is what later statements are told.
func (c *client) kill(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why == nil {
		c.why = why
	}
	if c.pid != 0 {
		_ = syscall.Kill(-c.pid, syscall.SIGKILL)
	}
	past := time.Unix(1, 0)
	_, _ = c.in.SetWriteDeadline(past), c.out.SetReadDeadline(past)
}

// close ends the client. What the server held for it is let go.
func (c *client) close() {
	c.kill(errClosed)
	select {
	case <-c.gone:
	case <-time.After(endLimit): // in a call of the kernel that cannot be broken off: it has no connection any more
	}
	_, _ = c.in.Close(), c.out.Close()
}

// ended says why the client is no more, once it is.
func (c *client) ended(err error) error {
	select { // its last words and its end come together; the end tells more
	case <-c.gone:
	case <-time.After(200 * time.Millisecond):
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why != nil {
		return fmt.Errorf("%w: %w", errEnded, c.why)
	}
	return fmt.Errorf("%w: %w", errEnded, err)
}

// ask sends one statement, or several in one line, and returns the lines of the answer.
func (c *client) ask(ctx context.Context, sql string) (lines []string, err error) {
	if len(sql) > maxStatement || strings.ContainsAny(sql, "\x00\n\r") {
		panic("apps: a statement that is too long or has several lines") // ours: nothing foreign is put into one unquoted
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { c.turn <- struct{}{} }()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() {
		c.kill(fmt.Errorf("no answer in time: %w", context.Cause(ctx)))
	})
	defer stop()
	token := rand.Text()
	_, err = io.WriteString(c.in, sql+";\n"+c.echo(token)+"\n")
	if err != nil {
		err = c.lastWords(nil, err)
	} else {
		lines, err = c.answer(token)
	}
	if err != nil {
		c.kill(err) // whatever it still does, nobody listens
	}
	return lines, err
}

// answer reads up to the token.
func (c *client) answer(token string) ([]string, error) {
	var lines []string
	for left := maxAnswer; ; {
		line, err := c.line(left)
		if err == bufio.ErrBufferFull {
			c.kill(fmt.Errorf("an answer of more than %d bytes", maxAnswer))
			return nil, c.ended(err)
		}
		if err != nil {
			return nil, c.lastWords(append(lines, line), err)
		}
		if line == token {
			return lines, nil
		}
		left -= len(line) + 1
		lines = append(lines, line)
	}
}

// line reads one line, without its end. bufio.ErrBufferFull: it is longer than max bytes.
func (c *client) line(max int) (string, error) {
	var line []byte
	for {
		part, err := c.rows.ReadSlice('\n')
		if len(line)+len(part) > max {
			return "", bufio.ErrBufferFull
		}
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return strings.TrimSuffix(string(line), "\n"), err
		}
	}
}

// lastWords makes an error of what a client said before it ended.
func (c *client) lastWords(lines []string, err error) error {
	end := c.ended(err)
	for len(lines) < 64 && !errors.Is(end, context.DeadlineExceeded) && !errors.Is(end, context.Canceled) {
		line, err := c.line(16 << 10)
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
		if err != nil {
			break
		}
	}
	if f := refusal(lines); f != nil {
		return f
	}
	return end
}

// refusal is the error that a server, or its client, put into words.
func refusal(lines []string) error {
	for i, line := range lines {
		for _, prefix := range []string{"ERROR", "FATAL", "PANIC", "psql: error", "mysql: ", "mariadb: "} {
			if strings.HasPrefix(line, prefix) {
				return &serverError{words: clean(strings.Join(lines[i:], " "), 1024)}
			}
		}
	}
	return nil
}

// serverError is what a server said. It is foreign text, cleaned and cut.
type serverError struct{ words string }

func (e *serverError) Error() string { return e.words }
