package winrmchannel

import (
	"context"
	"errors"
	"fmt"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/winrmchannel/wsman"
)

const (
	maxStream = 1 << 20
	maxInput  = 64 << 20
	maxLine   = 30_000 // characters of a command line; Windows takes 32767
)

// Run implements [hikae.GuestChannel]. When the context ends so does the program.
func (l *link) Run(ctx context.Context, path string, args []string, stdin []byte) (hikae.RunResult, error) {
	if len(stdin) > maxInput {
		return hikae.RunResult{}, fmt.Errorf("run %s: %w", guest.Printable(path, 300), errInput)
	}
	r, err := l.run(ctx, path, args, stdin, maxStream)
	if err != nil {
		return hikae.RunResult{}, fmt.Errorf("run %s: %w", guest.Printable(path, 300), err)
	}
	return r, nil
}

var errInput = fmt.Errorf("an input of more than %d bytes", maxInput)

// run keeps at most max bytes of each stream. The rest is fetched all the same: a program must not wait for us. Callers
// bound the input: a file of 64 MiB that cannot be compressed is a third longer in base64.
func (l *link) run(ctx context.Context, path string, args []string, stdin []byte, max int) (r hikae.RunResult, err error) {
	if err := fit(path, args); err != nil {
		return r, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	s, err := l.start(ctx, path, args)
	if err != nil {
		return r, err
	}
	defer func() {
		// After a program that has ended its shell ends too, if not now then by itself.
		if failed := s.delete(ctx); failed != nil && err != nil {
			err = errors.Join(err, failed)
		}
	}()
	// The program may print before it has read everything: input goes beside. A program whose input was lost on the way
	// would wait for ever; one that refuses it has ended, or is about to.
	both, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		var f *wsman.Fault
		if err := s.send(both, stdin, true); err != nil && !errors.As(err, &f) {
			stop(err)
		}
	}()
	err = s.collect(both, &r, max)
	stop(nil)
	<-fed
	return r, err
}

// collect fetches what a program prints until it has ended.
func (s *shell) collect(ctx context.Context, r *hikae.RunResult, max int) error {
	keep := func(to *[]byte, b []byte) {
		if room := max - len(*to); len(b) > room {
			b, r.Truncated = b[:room], true
		}
		*to = append(*to, b...)
	}
	for {
		out, err := s.receive(ctx)
		if err != nil {
			return err
		}
		keep(&r.Stdout, out.Stdout)
		keep(&r.Stderr, out.Stderr)
		if out.Done {
			r.ExitCode = out.ExitCode
			return nil
		}
	}
}

var errProgram = errors.New("not an absolute path of Windows, or a word with a control character")

// fit refuses what no command line can carry.
func fit(path string, args []string) error {
	n := len(path)
	drive := len(path) > 3 && path[1] == ':' && (path[2] == '\\' || path[2] == '/') && path[0]|0x20 >= 'a' && path[0]|0x20 <= 'z'
	for i, w := range append([]string{path}, args...) {
		for _, r := range w {
			if r == 0 || i == 0 && (r < ' ' || r == '"') || r < ' ' && r != '\t' && r != '\n' && r != '\r' {
				return errProgram
			}
		}
		n += 2*len(w) + 3
	}
	if !drive {
		return errProgram
	}
	if n > maxLine {
		return fmt.Errorf("a command line of about %d characters, at most %d", n, maxLine)
	}
	return nil
}
