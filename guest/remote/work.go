package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
)

// do does what a request asks for. hide gets the secrets that came with it.
func (t *task) do(ctx context.Context, r request, hide *[]string) (any, error) {
	switch r.Verb {
	case verbStatus:
		return answer(r, func(*statusArgs) (*Status, error) { return t.server.status(ctx, t.peer) })
	case verbProbe:
		return answer(r, func(a *probeArgs) (*probeAnswer, error) { *hide = secretsOf(a.Ways); return t.probe(ctx, a) })
	case verbDeploy:
		return answer(r, func(a *deployArgs) (*deployAnswer, error) { *hide = secretsOf(a.Ways); return t.deploy(ctx, a) })
	case verbDial:
		return answer(r, func(a *dialArgs) (*dialAnswer, error) { return t.dial(ctx, a) })
	case verbRemove:
		return answer(r, func(a *removeArgs) (*removeAnswer, error) { return t.remove(ctx, a) })
	case verbSweep:
		return answer(r, func(a *sweepArgs) (*sweepAnswer, error) { *hide = secretsOf(a.Ways); return t.sweep(ctx, a) })
	}
	return nil, invalid("%.20q is no verb", r.Verb)
}

// answer decodes a request's arguments and hands them on.
func answer[A, R any](r request, f func(*A) (*R, error)) (any, error) {
	a := new(A)
	if err := decode(r.Args, a); err != nil {
		return nil, err
	}
	out, err := f(a)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// secretsOf are words that no error may tell.
func secretsOf(ways []wayArgs) (out []string) {
	for _, w := range ways {
		out = append(out, w.Credential.Password, w.Credential.Passphrase, string(w.Credential.PrivateKey))
	}
	return out
}

// ways makes the ways that a request names, in its order.
func (t *task) ways(args []wayArgs) ([]guest.Way, error) {
	if err := checkWays(args); err != nil {
		return nil, err
	}
	out := make([]guest.Way, 0, len(args))
	for _, w := range args {
		newWay := t.server.opts.Ways[w.Kind]
		if newWay == nil {
			out = append(out, closedWay{kind: w.Kind})
			continue
		}
		way, err := newWay(w.Settings, w.Credential.credential())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Kind, err)
		}
		out = append(out, way)
	}
	return out, nil
}

// closedWay is one of a kind that this proxy does not have.
type closedWay struct{ kind guest.Kind }

func (w closedWay) err() *guest.WayError {
	return &guest.WayError{Kind: w.kind, Step: "proxy", Problem: "this proxy has no such way", Hint: "choose another proxy, or another way"}
}

func (w closedWay) Kind() guest.Kind                            { return w.kind }
func (w closedWay) Open(context.Context) (guest.Channel, error) { return nil, w.err() }
func (w closedWay) Probe(context.Context) guest.Finding {
	e := w.err()
	return guest.Finding{Kind: e.Kind, Step: e.Step, Problem: e.Problem, Hint: e.Hint}
}

// probe looks which ways are open, all at once.
func (t *task) probe(ctx context.Context, a *probeArgs) (*probeAnswer, error) {
	each, err := limitOf(a.LimitMillis, probeLimit)
	if err = errors.Join(err, checkGuest(a.Guest)); err != nil {
		return nil, err
	}
	ways, err := t.ways(a.Ways)
	if err != nil {
		return nil, err
	}
	free, err := t.server.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	ctx, cancel := context.WithTimeout(ctx, max(each, probesLimit))
	defer cancel()
	r := guest.Probe(ctx, a.Guest, ways, &guest.ProbeOptions{Timeout: each})
	return &probeAnswer{Findings: r.Ways}, nil
}

// deploy brings a component in over the first way that takes it, and begins the task's stream.
func (t *task) deploy(ctx context.Context, a *deployArgs) (*deployAnswer, error) {
	limit, err := limitOf(a.LimitMillis, deployLimit)
	if a.Reconnects < 0 || a.Reconnects > ToGuest.Reconnects() {
		err = errors.Join(err, invalid("%d reconnects to a guest, at most %d", a.Reconnects, ToGuest.Reconnects()))
	}
	if err = errors.Join(err, checkGuest(a.Guest)); err != nil {
		return nil, err
	}
	if err := t.unused(); err != nil {
		return nil, err
	}
	ways, err := t.ways(a.Ways)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	free, err := t.server.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	t.sweepBefore(ctx, a.Guest, ways, places(a.Ways), secretsOf(a.Ways))
	return t.deployBy(ctx, a, ways)
}

// unused sees that the task has no stream yet.
func (t *task) unused() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stream != nil {
		return &Failure{CodeState, "this task has a stream already: one task is one deployment"}
	}
	return nil
}

// deployBy tries one way after the other. A deployment that left something is the last: another way might hide it.
func (t *task) deployBy(ctx context.Context, a *deployArgs, ways []guest.Way) (*deployAnswer, error) {
	out := &deployAnswer{Refused: []string{}}
	errs, at, left := []error{guest.ErrNoWay}, places(a.Ways), a.Reconnects
	for _, way := range ways {
		var journal hikae.Journal
		if t.server.opts.Journal != nil {
			journal = owned{t.server.opts.Journal, peerFact(t.peer.Serial), at[way.Kind()]}
		}
		p, err := t.server.place(ctx, way, a.Guest, a.Session, journal, &left)
		out.Reconnects = a.Reconnects - left
		if err == nil {
			t.begin(p)
			t.server.log.Info("a component was brought in", "peer", t.peer.Name, "guest", a.Guest, "way", string(way.Kind()))
			out.Kind, out.System, out.Path = way.Kind(), p.system, p.path
			return out, nil
		}
		errs = append(errs, err)
		told := failureOf(err, secretsOf(a.Ways))
		out.Refused = append(out.Refused, guest.Printable(fmt.Sprintf("%s: %s", way.Kind(), told.Text), maxName))
		if errors.Is(err, guest.ErrLeftover) || ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 2 {
		return nil, errs[1] // of one way, its own error
	}
	return nil, errors.Join(errs...)
}

// begin makes a component that was placed the task's.
func (t *task) begin(p *placed) {
	s := newStream(t.nudge)
	t.mu.Lock()
	t.stream, t.placed = s, p
	t.mu.Unlock()
	var pumps sync.WaitGroup
	pumps.Go(func() { // from the guest
		_, err := io.Copy(s, p.stream)
		s.finish(endOf(err))
	})
	pumps.Go(func() { // to the guest; its end is the component's
		_, _ = io.Copy(p.stream, s)
		_ = p.stream.Close()
	})
	t.working.Go(func() {
		stop := context.AfterFunc(t.ctx, func() { s.fail(context.Cause(t.ctx)); _ = p.stream.Close() })
		defer stop()
		pumps.Wait()
	})
}

// endOf is why a guest's stream ended, in words; empty where it just ended.
func endOf(err error) string {
	if err == nil {
		return ""
	}
	return guest.Printable(err.Error(), maxReason-4)
}

// remove takes the component away and proves it.
func (t *task) remove(ctx context.Context, a *removeArgs) (*removeAnswer, error) {
	limit, err := limitOf(a.LimitMillis, removeLimit)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	p := t.placed
	t.mu.Unlock()
	if p == nil {
		return &removeAnswer{}, nil // nothing is, or it was removed before
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	free, err := t.server.exit(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	if err := p.remove(ctx); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.placed = nil
	t.mu.Unlock()
	return &removeAnswer{}, nil
}
