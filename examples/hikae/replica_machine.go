package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job/replica/kvmsite"
	"github.com/hikae/hikae/kvm"
)

// sourceFlags are the VM that has a replica: where it is, and what stops and starts it.
type sourceFlags struct {
	urls               []string
	stop, start, state []string
	within             time.Duration
	hard               bool
}

// flags adds what stops and starts it; where is said by --source, or by an argument.
func (f *sourceFlags) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.stop, "source-stop", nil, "`PROGRAM`, and its arguments, that stops the VM; may repeat (default: the power button, by the monitor of a kvm:// URL)")
	flags.StringArrayVar(&f.start, "source-start", nil, "`PROGRAM`, and its arguments, that starts it; may repeat")
	flags.StringArrayVar(&f.state, "source-state", nil, "`PROGRAM`, and its arguments, that ends with 0 where it runs, and with 1 where it is off; may repeat (default: its monitor is asked)")
	flags.BoolVar(&f.hard, "hard", false, "a VM that is not off within --within loses its power")
	deadlineFlag(cmd, &f.within)
}

// machine is the VM; nil where nothing is known of it.
func (f *sourceFlags) machine(name string) (*kvmsite.Machine, error) {
	if len(f.urls) == 0 && len(f.stop)+len(f.start)+len(f.state) == 0 {
		return nil, nil
	}
	if f.within < time.Second || f.within > 24*time.Hour {
		return nil, outcome.Usage("Write it as 90s or 5m.", "--within %v: a second at least, a day at most", f.within)
	}
	m := &kvmsite.Machine{Within: f.within, Hard: f.hard}
	if len(f.urls) == 1 && strings.HasPrefix(f.urls[0], kvmScheme) {
		vm, _, err := kvm.ParseURL(f.urls[0])
		if err != nil {
			return nil, outcome.Usage("For instance kvm:///run/vm/qmp.sock?name=web1.", "%v", err)
		}
		m.Monitor = vm.QMP
	}
	if len(f.stop) > 0 {
		m.StopWith = func(ctx context.Context) error { return runProgram(ctx, f.stop, name) }
	}
	if len(f.start) > 0 {
		m.StartWith = func(ctx context.Context) error { return runProgram(ctx, f.start, name) }
	}
	if len(f.state) > 0 {
		m.RunsWith = func(ctx context.Context) (bool, error) {
			err := runProgram(ctx, f.state, name)
			if ended, ok := errors.AsType[*exec.ExitError](err); ok && ended.ExitCode() == 1 {
				return false, nil
			}
			return err == nil, err
		}
	}
	return m, nil
}

// bothWays refuses a VM that would be stopped and could not be started again.
func (f *sourceFlags) bothWays(m *kvmsite.Machine) error {
	switch {
	case m == nil || m.Monitor == "" && m.StopWith == nil:
		return outcome.Usage("Name a kvm:// URL by --source, or a program by --source-stop.", "nothing says how the VM is stopped")
	case m.StartWith == nil:
		return outcome.Usage("Name a program by --source-start: the VM is started again where the failover fails.", "nothing says how the VM is started")
	}
	return nil
}

const maxSaidByProgram = 4 << 10

// runProgram runs a program of the user's without a shell. It has the VM's name in HIKAE_VM. What it leaves running is its own; it is
// waited for until the context ends.
func runProgram(ctx context.Context, words []string, vm string) error {
	ctx, cancel := context.WithTimeout(ctx, 24*time.Hour)
	defer cancel()
	out := &headOf{}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = append(withoutSecrets(cmd.Environ()), "HIKAE_VM="+vm)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 5 * time.Second // a VM that it started may hold its output open
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w %s", words[0], err, bytes.TrimSpace(out.text))
	}
	return nil
}

// withoutSecrets is an environment without our passwords.
func withoutSecrets(env []string) (out []string) {
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "HIKAE_") && (strings.Contains(name, "PASSWORD") || strings.Contains(name, "TOKEN") || strings.Contains(name, "SESSION")) {
			continue
		}
		out = append(out, v)
	}
	return out
}

// headOf keeps the first of what is written.
type headOf struct{ text []byte }

func (h *headOf) Write(p []byte) (int, error) {
	h.text = append(h.text, p[:min(len(p), maxSaidByProgram-len(h.text))]...)
	return len(p), nil
}
