// Package kvmsite makes a site of job/replica of a folder of qcow2 files, whose VMs run under QEMU; and machines of QEMU's
// monitors, for the VMs that it stops.
package kvmsite

import (
	"context"
	"errors"

	"github.com/hikae/hikae/job/replica"
	kvmreplica "github.com/hikae/hikae/kvm/replica"
)

// Site is a [replica.Site] of a folder. How a VM is started stands in Options, for one failover.
type Site struct {
	*kvmreplica.Site
	Options kvmreplica.FailoverOptions // Point is chosen by the procedure
}

var _ replica.Site = (*Site)(nil)

// State implements [replica.Site].
func (s *Site) State(ctx context.Context, vm string) (replica.State, error) {
	st, err := s.Site.State(ctx, vm)
	return replica.State{Stage: replica.Stage(st.Stage), Since: st.Since, Point: st.Point}, err
}

// Failover implements [replica.Site].
func (s *Site) Failover(ctx context.Context, vm, point string) error {
	o := s.Options
	o.Point = point
	_, err := s.Site.Failover(ctx, vm, &o)
	if bad, ok := errors.AsType[*kvmreplica.DamagedError](err); ok {
		return &replica.DamagedError{Point: bad.Point, Err: err}
	}
	return err
}

// Resume implements [replica.Site].
func (s *Site) Resume(ctx context.Context, vm string) error {
	st, err := s.Site.State(ctx, vm)
	if err != nil || st.Command == nil && len(s.Options.Command) == 0 {
		return err
	}
	_, err = s.Site.Resume(ctx, vm, &s.Options)
	return err
}

// Running implements [replica.Site].
func (s *Site) Running(ctx context.Context, vm string) (string, error) {
	st, err := s.Site.State(ctx, vm)
	if err != nil || st.Stage == kvmreplica.Ready {
		return "", err
	}
	return st.Running(ctx)
}
