package kvm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/hikae/hikae/kvm/qga"
)

// Orders of a session to its guard.
const (
	orderFreeze  = "freeze"
	orderThaw    = "thaw"
	orderRelease = "release"
)

// lease is how long a guest stays frozen at most, whatever its session is doing: its process may have been stopped, or
// its machine have no memory left. It is shorter than the default deadline of a freeze, which the session keeps itself.
const lease = 8 * time.Second

// RunGuard is what a guard's process does: it says on out that it is armed, and takes the session's orders from in. A
// guest that it froze it thaws when it is told to, when the lease is over, or when in ends without a release, which says
// that the process at the other end has died; then it also does what else its charge says, for at most 5 minutes. The
// charge is what the guard was given, or the path of a guest agent's socket.
func RunGuard(ctx context.Context, charge string, in io.Reader, out io.Writer) error {
	c, err := parseCharge(charge)
	if err != nil {
		return err
	}
	if c.Agent != "" && c.Domain == nil && !filepath.IsAbs(c.Agent) {
		return fmt.Errorf("guest agent %q: not an absolute path", c.Agent)
	}
	if _, err := out.Write([]byte{ready}); err != nil {
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	w := &watchman{charge: c, out: json.NewEncoder(out), lease: lease}
	return w.serve(ctx, takeOrders(in, ended))
}

// takeOrders reads orders until they end, or somebody says that they do.
func takeOrders(in io.Reader, ended <-chan struct{}) <-chan order {
	orders := make(chan order)
	go func() {
		defer close(orders)
		lines := bufio.NewScanner(in)
		lines.Buffer(nil, maxOrder)
		for lines.Scan() {
			var o order
			if json.Unmarshal(lines.Bytes(), &o) != nil {
				return
			}
			select {
			case orders <- o:
			case <-ended:
				return
			}
		}
	}()
	return orders
}

// watchman is a guard at work.
type watchman struct {
	charge charge
	out    *json.Encoder
	lease  time.Duration
	agent  *qga.Client      // from the freeze to the thaw, for the agent takes 100 ms to notice that a client left; nil: nothing is frozen
	over   <-chan time.Time // the end of the lease
	late   bool             // it is over, and the guest was thawed
	frozen int              // how many file systems were
}

func (w *watchman) serve(ctx context.Context, orders <-chan order) error {
	for {
		select {
		case o, ok := <-orders:
			switch {
			case !ok:
				return w.alone(ctx)
			case o.Do == orderRelease:
				return nil
			}
			a := w.obey(ctx, o)
			a.N = o.N
			if err := w.out.Encode(a); err != nil {
				return w.alone(ctx)
			}
		case <-w.over:
			w.late = true
			if err := w.thaw(ctx, orphanThaw); err != nil && !errors.Is(err, errLate) {
				return err
			}
		}
	}
}

// obey does what the session wants. Nothing takes longer than the session waits, and a freeze no longer than the lease.
func (w *watchman) obey(ctx context.Context, o order) answer {
	within := time.Duration(o.Millis) * time.Millisecond
	switch o.Do {
	case orderFreeze:
		return answerOf(w.freeze(ctx, min(within, w.lease)))
	case orderThaw:
		if w.late {
			return answer{Late: true}
		}
		err := w.thaw(ctx, within)
		if errors.Is(err, errLate) {
			return answer{Late: true}
		}
		return answerOf(err)
	}
	return answer{Error: fmt.Sprintf("no order %.40q", o.Do)}
}

func (w *watchman) freeze(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if w.agent != nil {
		w.agent.Close()
	}
	w.agent, w.over, w.late = w.charge.link().open(), time.After(w.lease), false
	q := agentQuiescer{agent: w.agent}
	err := q.Freeze(ctx)
	w.frozen = q.frozen
	if err != nil && untouched(err) {
		w.forget()
	}
	return err
}

// thaw thaws what was frozen; errLate says that it was before. Where nobody confirms that, it stays on the guard's mind.
func (w *watchman) thaw(ctx context.Context, within time.Duration) error {
	if w.agent == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	held, err := w.agent.ThawHeld(ctx, w.frozen)
	if err == nil {
		w.forget()
	}
	if err == nil && !held {
		return errLate
	}
	return err
}

// forget leaves the agent's port to others.
func (w *watchman) forget() {
	w.agent.Close()
	w.agent, w.over = nil, nil
}

// alone is what remains to do when the session is no more. Thawing comes first: a snapshot takes longer to fill a disk
// than a program to mind that it stands still.
func (w *watchman) alone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, orphanThaw)
	defer cancel()
	err := w.thaw(ctx, orphanThaw)
	if errors.Is(err, errLate) {
		err = nil
	}
	return errors.Join(err, w.charge.giveUp(ctx))
}
