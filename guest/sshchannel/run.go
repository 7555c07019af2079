package sshchannel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/hikae/hikae"
	"golang.org/x/crypto/ssh"
)

const (
	maxStream = 1 << 20   // bytes of each stream that Run keeps
	maxNoise  = 256 << 10 // bytes that an account may print before a program starts
)

// Run implements [hikae.GuestChannel]. When the context ends the program is told to end, first politely.
func (l *link) Run(ctx context.Context, program string, args []string, stdin []byte) (hikae.RunResult, error) {
	r, err := l.run(ctx, append([]string{program}, args...), stdin)
	if err != nil {
		err = fmt.Errorf("run %s: %w", program, err)
	}
	return r, err
}

func (l *link) run(ctx context.Context, words []string, stdin []byte) (r hikae.RunResult, err error) {
	mark := rand.Text()
	line, err := l.line(mark, words)
	if err != nil {
		return r, err
	}
	s, release, err := l.session(ctx)
	if err != nil {
		return r, err
	}
	defer release()
	defer s.Close()
	stdout, stderr := newCapture(mark, l.windows), newCapture(mark, l.windows)
	s.Stdin, s.Stdout, s.Stderr = bytes.NewReader(stdin), stdout, stderr
	giveUp := func() { go s.Close() }
	stdout.giveUp, stderr.giveUp = giveUp, giveUp
	err = l.within(ctx, func() error { return s.Run(line) }, func() { l.interrupt(s, words, stdout.pid()) })
	if stdout.noisy() || stderr.noisy() {
		return r, errNoise
	}
	if r.ExitCode, err = exitCode(err); err != nil {
		return hikae.RunResult{}, err
	}
	r.Stdout, r.Stderr, r.Truncated = stdout.bytes(), stderr.bytes(), stdout.more || stderr.more
	return r, nil
}

// interrupt ends a program and what it has started. Servers do not hand on signals to root's programs, so another session
// does it, on the same connection; sudo hands on only what it can catch.
func (l *link) interrupt(s *ssh.Session, words []string, pid string) {
	defer s.Close()
	if l.windows || pid == "" {
		return
	}
	ctx, cancel := context.WithTimeout(l.ended, grace)
	defer cancel()
	killer, err := l.openSession(ctx)
	if err != nil {
		s.Signal(ssh.SIGTERM)
		s.Signal(ssh.SIGKILL)
		return
	}
	defer killer.Close()
	kill := "/bin/sh -c 'kill -TERM -" + pid + "; sleep 0.2; kill -KILL -" + pid + "'"
	if words[0] == "sudo" {
		kill = "sudo -n " + kill
	}
	killer.Run(kill)
}

// exitCode tells a program's end from a failure of the link.
func exitCode(err error) (int, error) {
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return exit.ExitStatus(), nil
	}
	return 0, err
}

var errProgram = errors.New("a program is named by an absolute path or a plain name")

// line is the command for one program. It prints the mark first, on both streams: what comes before is not the program's.
// On the standard output the process id follows, which the program then has.
func (l *link) line(mark string, words []string) (string, error) {
	if l.windows {
		return windowsLine(words)
	}
	if program := words[0]; !path.IsAbs(program) && (!allTame(program) || strings.ContainsAny(program[:1], "-.")) {
		return "", errProgram
	}
	line, err := posixLine(words)
	if err != nil {
		return "", err
	}
	return anyShell("echo " + mark + " $$; echo " + mark + " 0 >&2; exec " + line)
}

// windowsLine is for cmd and for PowerShell alike: only words that both leave alone. Not yet verified on Windows.
func windowsLine(words []string) (string, error) {
	for _, w := range words {
		if strings.ContainsFunc(w, func(r rune) bool {
			return r > 0x7e || !tame(byte(r)) && !strings.ContainsRune(`\=`, r)
		}) || w == "" || w[0] == '@' {
			return "", fmt.Errorf("%q cannot be given to both of Windows' shells", w)
		}
	}
	line := strings.Join(words, " ")
	if len(line) > 8000 {
		return "", fmt.Errorf("%w: %d bytes, at most 8000", errLong, len(line))
	}
	return line, nil
}

// capture keeps the beginning of what comes after a mark. It takes everything, so that no program waits for us.
type capture struct {
	mark   []byte
	giveUp func() // called when too much came before the mark; may be nil

	mu      sync.Mutex
	buf     bytes.Buffer
	started bool
	more    bool
	endless bool
	process string
}

func newCapture(mark string, started bool) *capture {
	return &capture{mark: []byte(mark + " "), started: started}
}

func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.started {
		c.keep(p)
		return len(p), nil
	}
	c.buf.Write(p)
	rest, pid, found := afterMark(c.buf.Bytes(), c.mark)
	switch {
	case found:
		rest = bytes.Clone(rest)
		c.buf.Reset()
		c.started, c.process = true, pid
		c.keep(rest)
	case c.buf.Len() > maxNoise:
		c.endless = true
		if c.giveUp != nil {
			c.giveUp()
		}
		return 0, errNoise
	}
	return len(p), nil
}

func (c *capture) keep(p []byte) {
	if room := maxStream - c.buf.Len(); len(p) > room {
		p, c.more = p[:room], true
	}
	c.buf.Write(p)
}

var errNoise = errors.New("the account prints endlessly before a program starts")

// afterMark is what follows the line with the mark, and the number that stands in it.
func afterMark(text, mark []byte) (rest []byte, pid string, found bool) {
	_, after, _ := bytes.Cut(text, mark)
	number, rest, found := bytes.Cut(after, []byte("\n"))
	if !found || len(number) == 0 || len(number) > 10 || len(bytes.Trim(number, "0123456789")) > 0 {
		return nil, "", false
	}
	return rest, string(number), true
}

// bytes is what the program printed; without the mark, it is what there is instead: a shell's complaint.
func (c *capture) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.buf.Bytes())
}

func (c *capture) pid() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.process
}

func (c *capture) noisy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endless
}
