package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/hikae/hikae"
)

// Guard looks after a guest in a process of its own: it freezes and thaws it, so that it can thaw it also when the process
// that works on it is gone or stands still, for the guest agent itself never does; and with QEMU before 7.1 it gives a
// snapshot up that would fill the disk and stop the guest. It is armed before the freeze, and released after the thaw, or
// after the snapshot. The charge is text for [RunGuard].
type Guard func(ctx context.Context, charge string) (Watch, error)

// Watch is a guard that is armed.
type Watch struct {
	// Quiescer freezes and thaws the guest by its agent, from the guard's process. Nil: the session does that itself.
	Quiescer hikae.Quiescer
	// Release lets the guard go.
	Release func() error
}

// ProcessGuard is a guard that is a process of its own: the named program, with the charge as a last argument, whose main
// function is [RunGuard] over its standard input and output.
func ProcessGuard(program string, args ...string) Guard {
	return func(_ context.Context, charge string) (Watch, error) {
		c, err := parseCharge(charge)
		if err != nil {
			return Watch{}, err
		}
		cmd := exec.Command(program, append(args[:len(args):len(args)], charge)...)
		detach(cmd)
		in, err := cmd.StdinPipe()
		if err != nil {
			return Watch{}, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return Watch{}, err
		}
		if err := cmd.Start(); err != nil {
			return Watch{}, err
		}
		if err := armed(out); err != nil {
			cmd.Process.Kill()
			return Watch{}, errors.Join(err, cmd.Wait())
		}
		g := &guardProcess{cmd: cmd, in: in, agent: c.link(), answers: make(chan answer, 1)}
		go g.listen(out)
		return Watch{Quiescer: g, Release: g.release}, nil
	}
}

const (
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

// charge is what a guard has to do.
type charge struct {
	Agent  string        `json:"agent,omitempty"`  // socket of the agent of a frozen guest
	Domain *Domain       `json:"domain,omitempty"` // the frozen guest is libvirt's
	Jobs   *hikae.Effect `json:"jobs,omitempty"`   // a snapshot to give up
}

// charge is the guard's charge for this snapshot.
func (s *snapshot) charge(freezes bool) (string, error) {
	var c charge
	if freezes {
		c.Agent, c.Domain = s.machine.Agent, s.machine.Domain
	}
	if s.byJob {
		e, err := s.effect(kindFleece, nil)
		if err != nil {
			return "", err
		}
		c.Jobs = &e
	}
	text, err := json.Marshal(c)
	return string(text), err
}

func parseCharge(text string) (c charge, err error) {
	if !strings.HasPrefix(text, "{") {
		return charge{Agent: text}, nil
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return c, fmt.Errorf("the guard's charge: %w", err)
	}
	return c, nil
}

func (c charge) link() agentLink { return agentLink{c.Agent, c.Domain} }

// giveUp gives up the snapshot, if there is one to give up.
func (c charge) giveUp(ctx context.Context) error {
	if c.Jobs == nil {
		return nil
	}
	return again(ctx, func() error { return New(nil, nil).Undo(ctx, *c.Jobs, nil) })
}

// again tries until it is done or the context ends.
func again(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}
