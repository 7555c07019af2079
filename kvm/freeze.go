package kvm

import (
	"context"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qga"
)

// agentQuiescer freezes by the guest agent.
type agentQuiescer struct{ agent *qga.Client }

var _ hikae.Quiescer = agentQuiescer{}

func (q agentQuiescer) Freeze(ctx context.Context) error {
	n, err := q.agent.Freeze(ctx)
	if err == nil && n == 0 {
		return errNothingFrozen
	}
	return err
}

func (q agentQuiescer) Close() error { return q.agent.Close() }

func (q agentQuiescer) Thaw(ctx context.Context) error { return q.agent.Thaw(ctx) }
