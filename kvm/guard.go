package kvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/hikae/hikae/kvm/qga"
)

// Guard thaws a guest when the process that froze it is gone. It is armed before the freeze, and released after the
// thaw. The guest agent itself never thaws, and a process that is killed cannot.
type Guard func(ctx context.Context, agent string) (release func() error, err error)

// ProcessGuard is a guard that is a process of its own: the named program, with the socket's path as a last argument,
// whose main function is [RunGuard] over its standard input.
func ProcessGuard(program string, args ...string) Guard {
	return func(_ context.Context, agent string) (func() error, error) {
		cmd := exec.Command(program, append(args[:len(args):len(args)], agent)...)
		detach(cmd)
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
		if err := armed(out); err != nil {
			cmd.Process.Kill()
			return nil, errors.Join(err, cmd.Wait())
		}
		return func() error {
			_, err := in.Write([]byte{released})
			return errors.Join(err, in.Close(), cmd.Wait())
		}, nil
	}
}

const (
	released  = '.'
	ready     = '!'
	armWithin = 5 * time.Second
	// orphanThaw is how long a guard tries.
	orphanThaw = 5 * time.Minute
)

// armed waits for the guard's word that it is there.
func armed(out io.Reader) error {
	answer := make(chan error, 1)
	go func() {
		word := make([]byte, 1)
		_, err := io.ReadFull(out, word)
		if err == nil && word[0] != ready {
			err = fmt.Errorf("it says %q", word)
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-time.After(armWithin):
		return fmt.Errorf("it is not armed after %v", armWithin)
	}
}

// RunGuard is what a guard's process does: it says on out that it is armed, and waits on in for its release. If in ends
// without one, the process at the other end has died, and the guest is thawed, for at most 5 minutes.
func RunGuard(ctx context.Context, agent string, in io.Reader, out io.Writer) error {
	if _, err := out.Write([]byte{ready}); err != nil {
		return err
	}
	word := make([]byte, 1)
	if _, err := io.ReadFull(in, word); err == nil && word[0] == released {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, orphanThaw)
	defer cancel()
	c := qga.New(agent, nil)
	defer c.Close()
	return c.Thaw(ctx)
}
