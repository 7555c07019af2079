//go:build linux

package apps

import (
	"context"
	"sync"
	"time"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
)

// Prepared are servers that are ready for a freeze. Close may be called at any time; the other methods one after the
// other.
type Prepared struct {
	opts Options
	held []*member
}

var _ agent.Prepared = (*Prepared)(nil)

// member is one server and how it has fared so far: a step that failed is not followed by another.
type member struct {
	key  key
	held held

	mu  sync.Mutex
	err error
}

// take takes one step. After one that failed the server is let go.
func (m *member) take(step func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		if m.err = step(); m.err != nil {
			m.held.close()
		}
	}
	return m.err
}

// step takes one step with every server.
func (p *Prepared) step(ctx context.Context, limit time.Duration, take func(context.Context, held) error) []wire.Outcome {
	outcomes := make([]wire.Outcome, len(p.held))
	each(p.held, func(i int, m *member) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		outcomes[i] = m.key.outcome(began, m.take(func() error { return take(ctx, m.held) }))
	})
	return outcomes
}

// Hold is the last step before file systems freeze.
func (p *Prepared) Hold(ctx context.Context) []wire.Outcome {
	return p.step(ctx, p.opts.Hold, func(ctx context.Context, h held) error { return h.hold(ctx) })
}

// Resume is the first step after they thaw. It is taken also where ctx has ended: commits wait for it.
func (p *Prepared) Resume(ctx context.Context) []wire.Outcome {
	return p.step(context.WithoutCancel(ctx), p.opts.Resume, func(ctx context.Context, h held) error {
		return h.resume(ctx)
	})
}

// Finish hands out what a restore needs.
func (p *Prepared) Finish(ctx context.Context) ([]wire.Record, []wire.Outcome) {
	var mu sync.Mutex
	var records []wire.Record
	outcomes := p.step(ctx, time.Minute, func(ctx context.Context, h held) error {
		some, err := h.finish(ctx)
		mu.Lock()
		defer mu.Unlock()
		records = append(records, some...)
		return err
	})
	return records, outcomes
}

// Settle has nothing to do: PostgreSQL and MariaDB remove logs by rules of their own, which know of replicas that we do
// not know of.
func (p *Prepared) Settle(ctx context.Context, _ wire.SettleArgs) []wire.Outcome {
	return p.step(ctx, p.opts.Resume, func(context.Context, held) error { return nil })
}

// Close ends all sessions: servers abort what was not finished and let go of their locks.
func (p *Prepared) Close() error {
	each(p.held, func(_ int, m *member) { m.held.close() })
	return nil
}
