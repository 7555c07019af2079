package kvmsite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae/job/replica"
	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/kvm/qmp"
)

// Machine is a VM of QEMU by its monitor, or any VM by functions. It is a [replica.Machine].
type Machine struct {
	Monitor string // path of the monitor's socket; empty: StopWith and RunsWith say all
	// Within is how long the VM may take to be off after it was told to stop, or to be there after it was started. Zero: 5
	// minutes.
	Within time.Duration
	// Hard ends a VM that is not off by then as a power cut does. Without it that is an error, and the VM runs on.
	Hard bool

	StopWith  func(ctx context.Context) error         // nil: the power button, by the monitor
	StartWith func(ctx context.Context) error         // nil: it cannot be started from here
	RunsWith  func(ctx context.Context) (bool, error) // nil: the monitor is asked
}

var _ replica.Machine = (*Machine)(nil)

const (
	askWithin  = 10 * time.Second
	hardWithin = time.Minute
)

// Running implements [replica.Machine]. A monitor that nobody listens at says that there is no VM; one that is taken or
// silent belongs to one.
func (m *Machine) Running(ctx context.Context) (bool, error) {
	if m.RunsWith != nil {
		return m.RunsWith(ctx)
	}
	if m.Monitor == "" {
		return false, errors.New("nobody can be asked whether it runs")
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	mon, err := qmp.Dial(ctx, m.Monitor)
	switch {
	case err == nil:
		return true, mon.Close()
	case kvm.IsOff(err):
		return false, nil
	case errors.Is(err, qmp.ErrTaken) || errors.Is(err, kvm.ErrSilent):
		return true, nil
	}
	return false, err
}

// Stop implements [replica.Machine].
func (m *Machine) Stop(ctx context.Context) error {
	runs, err := m.Running(ctx)
	if err == nil && !runs {
		return nil
	}
	if err != nil && m.StopWith == nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, m.within())
	defer cancel()
	if m.StopWith != nil {
		err = m.StopWith(bounded)
	} else {
		err = m.tell(bounded, "system_powerdown")
	}
	if err == nil {
		err = m.await(bounded, false)
	}
	if err == nil || ctx.Err() != nil || !m.Hard || m.Monitor == "" {
		return err
	}
	bounded, cancel = context.WithTimeout(ctx, hardWithin)
	defer cancel()
	return errors.Join(m.tell(bounded, "quit"), m.await(bounded, false))
}

// Start implements [replica.Machine].
func (m *Machine) Start(ctx context.Context) error {
	runs, err := m.Running(ctx)
	if err == nil && runs {
		return nil
	}
	if m.StartWith == nil {
		return replica.ErrByHand
	}
	ctx, cancel := context.WithTimeout(ctx, m.within())
	defer cancel()
	if err := m.StartWith(ctx); err != nil {
		return err
	}
	if m.RunsWith == nil && m.Monitor == "" {
		return nil
	}
	return m.await(ctx, true)
}

func (m *Machine) within() time.Duration {
	if m.Within > 0 {
		return m.Within
	}
	return 5 * time.Minute
}

// tell says one thing at the monitor. That it went away meanwhile is what was wanted.
func (m *Machine) tell(ctx context.Context, command string) error {
	if m.Monitor == "" {
		return errors.New("how it is stopped was not said")
	}
	mon, err := qmp.Dial(ctx, m.Monitor)
	if kvm.IsOff(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer mon.Close()
	if err := mon.Execute(ctx, command, nil, nil); err != nil && !errors.Is(err, qmp.ErrClosed) {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

// await waits until the VM runs, or is off. Who cannot tell is asked again.
func (m *Machine) await(ctx context.Context, want bool) error {
	if m.RunsWith == nil && m.Monitor == "" {
		return nil // the program that stopped it is believed; the last point says whether it was right
	}
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		runs, err := m.Running(ctx)
		if err == nil && runs == want {
			return nil
		}
		select {
		case <-ctx.Done():
			word := map[bool]string{true: "runs", false: "is off"}[runs]
			return errors.Join(fmt.Errorf("it still %s: %w", word, ctx.Err()), err)
		case <-time.After(wait):
		}
	}
}
