package winrmchannel

import (
	"context"
	"errors"
	"time"

	"github.com/hikae/hikae/guest/winrmchannel/pwsh"
	"github.com/hikae/hikae/guest/winrmchannel/wsman"
)

const (
	callLimit  = 60 * time.Second // a call whose context has no deadline
	cleanLimit = 10 * time.Second // ending a shell
	piece      = 96 << 10         // bytes of input in one message: 128 KiB in base64
)

// shell is a remote shell with one program in it. Deleting it ends the program.
type shell struct {
	link        *link
	id, command string
}

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callLimit)
}

// start starts a program in a shell of its own. A shell whose making was never answered ends by itself when it has been
// idle: its id is the server's to choose.
func (l *link) start(ctx context.Context, program string, args []string) (*shell, error) {
	answer, err := l.post(ctx, l.requests.Create(shellIdle))
	if err != nil {
		return nil, err
	}
	s := &shell{link: l}
	if s.id, err = wsman.ShellID(answer); err != nil {
		return nil, l.faulty(err)
	}
	answer, err = l.post(ctx, l.requests.Command(s.id, pwsh.Quote(program), pwsh.Line(args)))
	if err == nil {
		if s.command, err = wsman.CommandID(answer); err != nil {
			err = l.faulty(err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.delete(ctx))
	}
	return s, nil
}

// delete ends the shell, also when the context has ended. That it is not there is no error.
func (s *shell) delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	if s.command != "" { // a polite end; the next message is what counts
		s.link.post(ctx, s.link.requests.Terminate(s.id, s.command))
	}
	answer, err := s.link.post(ctx, s.link.requests.Delete(s.id))
	if err != nil { // the line, maybe; one more attempt
		answer, err = s.link.post(ctx, s.link.requests.Delete(s.id))
	}
	if err != nil {
		return err
	}
	var f *wsman.Fault
	if err := wsman.Check(answer); err != nil && !(errors.As(err, &f) && f.ShellGone()) {
		return s.link.faulty(err)
	}
	return nil
}

// send writes to the program. That it has ended already is no error: it did not want the rest.
func (s *shell) send(ctx context.Context, data []byte, end bool) error {
	for {
		n := min(len(data), piece)
		last := n == len(data)
		answer, err := s.link.post(ctx, s.link.requests.Send(s.id, s.command, data[:n], end && last))
		if err != nil {
			return err
		}
		if err := wsman.Check(answer); err != nil {
			return s.link.faulty(err)
		}
		if data = data[n:]; last {
			return nil
		}
	}
}

// emptyPause is how soon an answer without output may be followed by another question: a server is to hold its answer back
// until there is something to say.
const emptyPause = 100 * time.Millisecond

// receive waits for output, as long as the context allows.
func (s *shell) receive(ctx context.Context) (wsman.Output, error) {
	for {
		asked := time.Now()
		answer, err := s.link.post(ctx, s.link.requests.Receive(s.id, s.command))
		if err != nil {
			return wsman.Output{}, err
		}
		out, err := wsman.ReadOutput(answer)
		var f *wsman.Fault
		switch {
		case err == nil && (out.Done || len(out.Stdout)+len(out.Stderr) > 0):
			return out, nil
		case err == nil:
		case errors.As(err, &f) && f.TimedOut() && ctx.Err() == nil:
		default:
			return wsman.Output{}, s.link.faulty(err)
		}
		select {
		case <-time.After(emptyPause - time.Since(asked)):
		case <-ctx.Done():
			return wsman.Output{}, ctx.Err()
		}
	}
}
