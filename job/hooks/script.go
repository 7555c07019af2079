package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// Script is a program that is run for a call.
type Script struct {
	Argv []string          // the program, and its arguments; no shell reads them
	Env  map[string]string // besides the call's
	Dir  string            // empty: the folder of the calling process
	// Deadline ends the program, and what it started. Zero: a minute.
	Deadline time.Duration
	// OutputBytes is how much is kept of what it prints on both streams: the end of it. Zero: 16 KiB.
	OutputBytes int
}

const (
	defaultDeadline = time.Minute
	defaultOutput   = 16 << 10
	// lastWords is how long the output of a program that was ended is waited for.
	lastWords = 2 * time.Second
)

// ErrDeadline is wrapped where a hook took too long.
var ErrDeadline = fmt.Errorf("the hook took too long: %w", context.DeadlineExceeded)

// passed are the variables of our own environment that programs need to run at all. Ours with secrets are not among them.
var passed = []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "TEMP", "TMP",
	"SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "PROGRAMDATA", "PROGRAMFILES"}

// Run runs the program and waits for it. An error says that it could not be started, took too long, was cancelled or ended with
// another status than 0; the record says the same for a report.
func (s *Script) Run(ctx context.Context, c Call) (Record, error) {
	begun := time.Now()
	r := Record{Hook: c.Hook, VM: c.VM, Attempts: 1, Exit: -1}
	err := s.run(ctx, c, &r)
	r.Seconds = seconds(begun)
	if err != nil {
		err = fmt.Errorf("hook %s: %s: %w", c.Hook, r.What, err)
		r.Error = cut(err.Error())
	}
	return r, err
}

func (s *Script) run(ctx context.Context, c Call, r *Record) error {
	if len(s.Argv) == 0 || s.Argv[0] == "" {
		return fmt.Errorf("it names no program: %w", fs.ErrInvalid)
	}
	r.What = s.Argv[0]
	limit := s.Deadline
	if limit <= 0 {
		limit = defaultDeadline
	}
	limited, cancel := context.WithTimeoutCause(ctx, limit, ErrDeadline)
	defer cancel()
	out := &tail{most: s.OutputBytes}
	if out.most <= 0 {
		out.most = defaultOutput
	}
	cmd := exec.CommandContext(limited, s.Argv[0], s.Argv[1:]...)
	cmd.Env, cmd.Dir = s.environment(c), s.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.JSON()), out, out
	cmd.WaitDelay = lastWords
	together(cmd)
	err := cmd.Run()
	r.Output, r.Truncated = out.text()
	if cmd.ProcessState != nil {
		r.Exit = cmd.ProcessState.ExitCode()
	}
	switch {
	case err != nil && limited.Err() != nil:
		return context.Cause(limited)
	case errors.Is(err, exec.ErrWaitDelay): // it ended well, and something that it started holds its output open
		return nil
	}
	return err
}

// environment is what the program gets: what it needs to run, the call, and the caller's own.
func (s *Script) environment(c Call) (out []string) {
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+v)
		}
	}
	out = append(out, c.env()...)
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		out = append(out, name+"="+s.Env[name])
	}
	return out
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	most int
	kept []byte
	lost bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if len(p) > t.most {
		p, t.lost = p[len(p)-t.most:], true
	}
	if over := len(t.kept) + len(p) - t.most; over > 0 {
		t.kept, t.lost = append(t.kept[:0], t.kept[over:]...), true
	}
	t.kept = append(t.kept, p...)
	return n, nil
}

func (t *tail) text() (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.kept), "\uFFFD"), t.lost
}
