package kvm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qga"
)

// A guard's process and its session talk by two pipes. The guard says a byte when it is armed; then it takes orders, one
// line of JSON each, and answers each with one. It is the guard that freezes and thaws, because the agent's port serves
// one client at a time: a session that was stopped would hold it, and nobody could thaw.
//
//	session                              guard
//	        ◄──────────────────────── !
//	{"n":1,"do":"freeze","millis":10000} ──►   the lease begins
//	        ◄──────────────────────── {"n":1}
//	{"n":2,"do":"thaw","millis":30000} ──►   the lease ends
//	        ◄──────────────────────── {"n":2} or {"n":2,"late":true}
//	{"n":3,"do":"release"} ──────────►   it ends

// order is what a session wants from its guard.
type order struct {
	N      int64  `json:"n"`
	Do     string `json:"do"` // freeze, thaw or release
	Millis int64  `json:"millis,omitempty"`
}

// answer is what became of it.
type answer struct {
	N     int64  `json:"n"` // the order's
	Error string `json:"error,omitempty"`
	Kind  string `json:"kind,omitempty"` // of the error, where the session acts on it
	Late  bool   `json:"late,omitempty"` // the lease was over before
}

// errLate says that the guest is thawed, but has been for a while: the lease was over, or it did not stay frozen.
var errLate = hikae.ErrThawedEarly

// freezeErrors are those of a freeze that a session tells apart.
var freezeErrors = map[string]error{"silent": qga.ErrSilent, "frozen": qga.ErrFrozen, "gone": fs.ErrNotExist}

func answerOf(err error) answer {
	if err == nil {
		return answer{}
	}
	a := answer{Error: err.Error()}
	for kind, known := range freezeErrors {
		if errors.Is(err, known) {
			a.Kind = kind
		}
	}
	if a.Kind == "" && gone(err) {
		a.Kind = "gone"
	}
	return a
}

func (a answer) err() error {
	known := freezeErrors[a.Kind]
	switch {
	case a.Late:
		return errLate
	case a.Error == "":
		return nil
	case known != nil:
		return fmt.Errorf("%w: by the guard: %s", known, a.Error)
	}
	return fmt.Errorf("by the guard: %s", a.Error)
}

const maxOrder = 64 << 10

// guardProcess is a guard as its session sees it.
type guardProcess struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	agent   agentLink
	orders  int64       // given so far
	answers chan answer // closed when the guard has ended
}

var _ hikae.Quiescer = (*guardProcess)(nil)

// listen reads the guard's answers until it ends.
func (g *guardProcess) listen(out io.Reader) {
	defer close(g.answers)
	lines := bufio.NewScanner(io.LimitReader(out, 1<<20))
	lines.Buffer(nil, maxOrder)
	for lines.Scan() {
		var a answer
		if json.Unmarshal(lines.Bytes(), &a) != nil {
			return
		}
		g.answers <- a
	}
}

// ask gives an order and waits for the answer. One to an earlier order, for which nobody waited any more, is passed over.
func (g *guardProcess) ask(ctx context.Context, do string) error {
	g.orders++
	o := order{N: g.orders, Do: do}
	if deadline, ok := ctx.Deadline(); ok {
		o.Millis = max(time.Until(deadline).Milliseconds(), 1)
	}
	if err := json.NewEncoder(g.in).Encode(o); err != nil {
		return fmt.Errorf("the guard: %w", err)
	}
	for {
		select {
		case a, ok := <-g.answers:
			if !ok {
				return fmt.Errorf("the guard: %w", io.ErrUnexpectedEOF)
			}
			if a.N == o.N {
				return a.err()
			}
		case <-ctx.Done():
			return fmt.Errorf("the guard: %w", ctx.Err())
		}
	}
}

// Freeze implements [hikae.Quiescer].
func (g *guardProcess) Freeze(ctx context.Context) error { return g.ask(ctx, orderFreeze) }

// Thaw implements [hikae.Quiescer]. Where the guard does not thaw in half of the time, it is ended, so that it leaves the
// agent's port, and the session does it itself. That the guest was thawed before, because the lease was over, is errLate.
func (g *guardProcess) Thaw(ctx context.Context) error {
	half, stop := halfOf(ctx)
	err := g.ask(half, orderThaw)
	stop()
	if err == nil || errors.Is(err, errLate) {
		return err
	}
	g.cmd.Process.Kill()
	if direct := g.agent.thaw(ctx); direct != nil {
		return errors.Join(direct, err)
	}
	return errLate // nobody knows what it did, and when
}

// halfOf is a context that ends after half of the time that another has left.
func halfOf(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithTimeout(ctx, qga.Timeout)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/2)
}

// release ends the guard. One that does not go is killed.
func (g *guardProcess) release() error {
	err := errors.Join(json.NewEncoder(g.in).Encode(order{N: g.orders + 1, Do: orderRelease}), g.in.Close())
	stop := time.AfterFunc(armWithin, func() { g.cmd.Process.Kill() })
	defer stop.Stop()
	for range g.answers { // until it has ended
	}
	return errors.Join(err, g.cmd.Wait())
}
