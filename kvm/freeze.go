package kvm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qga"
)

// errNothingFrozen: the agent answered, and there was no file system that it could freeze.
var errNothingFrozen = errors.New("the guest agent froze no file system")

// agentLink is the way to a guest's agent: a socket, or by the domain.
type agentLink struct {
	socket string
	domain *Domain
}

func (m Machine) agent() agentLink { return agentLink{m.Agent, m.Domain} }

func (l agentLink) none() bool { return l.socket == "" && l.domain == nil }

// open makes a client. Nothing is connected yet.
func (l agentLink) open() *qga.Client {
	if l.domain != nil {
		return qga.Via(l.domain.carrier())
	}
	return qga.New(l.socket, nil)
}

// thaw thaws. A quiescer that the caller brought along cannot be reached any more.
func (l agentLink) thaw(ctx context.Context) error {
	if l.none() {
		return nil
	}
	if l.domain == nil && !filepath.IsAbs(l.socket) {
		return fmt.Errorf("guest agent %q: not an absolute path", l.socket)
	}
	c := l.open()
	defer c.Close()
	return c.Thaw(ctx)
}

// agentQuiescer freezes by the guest agent.
type agentQuiescer struct {
	agent  *qga.Client
	frozen int // how many file systems
}

var _ hikae.Quiescer = (*agentQuiescer)(nil)

// Freeze implements [hikae.Quiescer].
func (q *agentQuiescer) Freeze(ctx context.Context) error {
	n, err := q.agent.Freeze(ctx)
	q.frozen = n
	if err == nil && n == 0 {
		return errNothingFrozen
	}
	return err
}

// Close ends the connection.
func (q *agentQuiescer) Close() error { return q.agent.Close() }

// Thaw implements [hikae.Quiescer]. That something had thawed the guest before is errLate.
func (q *agentQuiescer) Thaw(ctx context.Context) error {
	held, err := q.agent.ThawHeld(ctx, q.frozen)
	if err == nil && !held {
		return errLate
	}
	return err
}
