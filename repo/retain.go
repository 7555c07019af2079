package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/retention"
)

// RetainOptions change what Retain looks at. Nil and zero fields are good defaults.
type RetainOptions struct {
	VMs    []string       // the policy is for these; empty: for all
	Zone   *time.Location // names the days; nil: UTC
	Now    time.Time      // what the caller believes; zero: not known
	DryRun bool           // decide, and forget nothing
	Note   string         // for the audit log
}

// Retain forgets what a policy lets go, and returns the decision for each point. The newest point of a VM always stays, and so
// does what is held. A point that cannot be read makes it refuse: who cannot see all points does not decide which of them go.
//
// Points of write-only clients count by their own: one of theirs that cannot be read stays, is told by Warn, and stops nobody.
// Errors: *retention.PolicyError, *retention.HistoryError, *PointError, ErrReadOnly.
func (r *Repository) Retain(ctx context.Context, policy retention.Policy, opts *RetainOptions) (*retention.Plan, error) {
	if r.writer != nil {
		return nil, errWriteOnly
	}
	var o RetainOptions
	if opts != nil {
		o = *opts
	}
	if !o.DryRun {
		if err := r.writable(ctx); err != nil {
			return nil, err
		}
	}
	if o.Note == "" {
		o.Note = "policy " + policy.String()
	}
	for try := 1; ; try++ {
		points, err := r.retained(ctx, o.VMs)
		if err != nil {
			return nil, err
		}
		plan, err := retention.Decide(points, policy, &retention.Options{Zone: o.Zone, Now: o.Now})
		if err != nil || o.DryRun {
			return plan, err
		}
		err = r.letGo(ctx, points, plan, o.Note)
		if went := errors.Is(err, ErrForgotten) || errors.Is(err, fs.ErrNotExist); !went || try == maxDecisions {
			return plan, err
		}
	}
}

// maxDecisions bounds how often it is decided anew because somebody else forgot points meanwhile.
const maxDecisions = 5

// letGo forgets what a plan lets go, as long as all the points are there that it keeps: otherwise somebody else's forgetting and
// this one could leave a VM none at all.
func (r *Repository) letGo(ctx context.Context, points []retention.Point, plan *retention.Plan, why string) error {
	goes := map[string]bool{}
	var gone []string
	for d := range plan.Gone() {
		goes[d.Point.ID] = true
		gone = append(gone, d.Point.ID)
	}
	var stay []id16
	for _, p := range points {
		var id id16
		if err := decodeHex(id[:], []byte(p.ID)); err != nil {
			return err
		}
		if !goes[p.ID] {
			stay = append(stay, id)
		}
	}
	for part := range slices.Chunk(gone, maxForget) {
		if err := r.forget(ctx, part, why, stay); err != nil {
			return err
		}
	}
	return nil
}

// retained are the points as retention looks at them.
func (r *Repository) retained(ctx context.Context, vms []string) (list []retention.Point, err error) {
	for p, err := range r.Points(ctx, "") {
		if bad, ok := errors.AsType[*PointError](err); ok && bad.WriteOnly {
			r.warn(fmt.Sprintf("point %s of a write-only client cannot be read and stays: %v", bad.Point, bad.Err))
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(vms) > 0 && !slices.Contains(vms, p.VM) {
			continue
		}
		list = append(list, retainedPoint(p))
	}
	return list, nil
}

func retainedPoint(p pipe.PointInfo) retention.Point {
	out := retention.Point{ID: p.ID, VM: p.VM, Log: p.Log, Time: p.Time, Consistency: consistencies[p.Consistency], Whole: true}
	if p.Held != "" {
		out.Holds = []string{p.Held}
	}
	for _, d := range p.Disks {
		out.Whole = out.Whole && d.Absent[pipe.Bad.String()] == 0
	}
	out.Whole = out.Whole && !slices.ContainsFunc(p.Blobs, func(b pipe.BlobInfo) bool { return b.Name == pipe.UnreadableBlob })
	return out
}

var consistencies = map[string]retention.Consistency{
	"crash": retention.Crash, "filesystem": retention.Filesystem, "application": retention.Application, "offline": retention.Offline,
}
