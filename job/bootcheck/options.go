package bootcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
)

// Options say what a machine has to do to pass. At least one thing is to be waited for. Zero fields are good defaults.
type Options struct {
	Agent  bool           // the guest's agent answers
	Ports  []int          // somebody listens at these TCP ports of the guest
	Serial *regexp.Regexp // it prints this at its serial port
	Screen bool           // its screen shows something, and comes to rest

	// Probe is a program on this machine, with its arguments, that says by its exit status whether the machine is well. It is run when
	// everything else has passed, with HIKAE_VM, HIKAE_POINT, and for each of Ports HIKAE_PORT_<port>=HOST:PORT in its environment.
	Probe []string
	// InGuest is a program in the guest that the agent runs, with its arguments: 0 passes.
	InGuest []string

	Within      time.Duration // until everything that is waited for was seen. Zero: 5 minutes
	ProbeWithin time.Duration // for Probe and InGuest each. Zero: 2 minutes
	Linger      time.Duration // how long a machine that stops by itself, or a screen, is watched on. Zero: 3 seconds

	Journal  hikae.Journal
	Events   func(job.Event)
	Sessions *job.Sessions
}

// Bounds.
const (
	defaultWithin = 5 * time.Minute
	probeWithin   = 2 * time.Minute
	lingering     = 3 * time.Second
	maxPorts      = 32
	maxOutput     = 16 << 10 // bytes of a probe that are kept
)

func (o *Options) orDefault() (Options, error) {
	out := Options{}
	if o != nil {
		out = *o
	}
	if out.Within <= 0 {
		out.Within = defaultWithin
	}
	if out.ProbeWithin <= 0 {
		out.ProbeWithin = probeWithin
	}
	if out.Linger <= 0 {
		out.Linger = lingering
	}
	if out.Events == nil {
		out.Events = func(job.Event) {}
	}
	out.Ports = slices.Compact(slices.Sorted(slices.Values(out.Ports)))
	switch {
	case !out.Agent && len(out.Ports) == 0 && out.Serial == nil && !out.Screen && len(out.InGuest) == 0:
		return out, fmt.Errorf("nothing is waited for: an agent, a port, a text at the serial port, or the screen: %w", fs.ErrInvalid)
	case len(out.Ports) > maxPorts:
		return out, fmt.Errorf("%d ports, and at most %d can be waited for: %w", len(out.Ports), maxPorts, fs.ErrInvalid)
	}
	for _, p := range out.Ports {
		if p < 1 || p > 65535 {
			return out, fmt.Errorf("port %d: %w", p, fs.ErrInvalid)
		}
	}
	return out, nil
}

// ErrFailed is wrapped where a machine did not pass.
var ErrFailed = errors.New("the machine did not pass its boot check")
