package hyperv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hikae/hikae"
)

// offHostProduction is procedure 3 off-host, for a group of VMs that share volumes (R197):
//
//	checkpoint  R090–R092, of one VM after the other: from then on nobody writes to the files that are going to be read
//	pin         R096  their volumes, at one moment
//	present     R097  mounted where we read
//	…           disks are read there
//	merge       R098  of a VM's checkpoint, when that VM is released
//	remove      R099  of the volume snapshot, when the last VM is
type offHostProduction struct{ p *Provider }

func (o offHostProduction) pin(ctx context.Context, vms []*planned, opts *hikae.SnapshotOptions) ([]hikae.Snapshot, error) {
	failed := failures{}
	made, err := o.checkpoints(ctx, vms, opts, failed)
	if err != nil || len(made) == 0 {
		return nil, errors.Join(err, failed.err(), releaseAll(ctx, made))
	}
	volumes, err := o.volumes(ctx, vms[0].host, made, opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("off-host: %w", err), failed.err(), releaseAll(ctx, made))
	}
	var out []hikae.Snapshot
	for _, s := range made {
		s.readFrom(volumes)
		volumes.join(s.VM().ID)
		out = append(out, &offHostSnapshot{elsewhere: s, volumes: volumes})
	}
	return out, failed.err()
}

// elsewhere is a snapshot whose files can be read elsewhere than where they lie.
type elsewhere interface {
	hikae.Snapshot
	// pinnedFiles are the files of its disks, those that nobody writes to any more, with all their parents.
	pinnedFiles(ctx context.Context) ([]string, error)
	// readFrom has disks opened among other files from now on.
	readFrom(Files)
	// willAsk says which change ids its caller has: those of a group are not known when it is pinned.
	willAsk(since map[string]hikae.ChangeID)
	// willReplace says which the newest point has.
	willReplace(past map[string]hikae.ChangeID)
}

func (s *snapshot) willAsk(since map[string]hikae.ChangeID)    { s.opts.Since = since }
func (s *snapshot) willReplace(past map[string]hikae.ChangeID) { s.opts.Past = past }

// checkpoints makes them. A VM whose checkpoint fails is left out of the group; when the session is over, all are.
func (o offHostProduction) checkpoints(ctx context.Context, vms []*planned, opts *hikae.SnapshotOptions, failed failures) (made []elsewhere, err error) {
	for _, vm := range vms {
		snaps, err := o.p.checkpointed(ctx, vm, opts)
		if ctx.Err() != nil {
			return append(made, snaps...), errors.Join(context.Cause(ctx), err)
		}
		if err != nil {
			failed.join([]*planned{vm}, err)
		}
		made = append(made, snaps...)
	}
	return made, nil
}

// volumes pins what the checkpoints' files lie on.
func (o offHostProduction) volumes(ctx context.Context, h *Host, made []elsewhere, opts *hikae.SnapshotOptions) (*pinnedVolumes, error) {
	var files []string
	for _, s := range made {
		list, err := s.pinnedFiles(ctx)
		if err != nil {
			return nil, fmt.Errorf("VM %s: %w", s.VM().ID, err)
		}
		files = append(files, list...)
	}
	slices.Sort(files)
	var journal hikae.Journal
	if opts != nil {
		journal = opts.Journal
	}
	return o.p.pinVolumes(ctx, h, strings.ToLower(rand.Text()), slices.Compact(files), journal)
}

// offHostSnapshot is a VM of such a group: two counts, one for its own checkpoint, one for the volumes that it shares.
type offHostSnapshot struct {
	elsewhere
	volumes *pinnedVolumes
}

// Warnings are those of the checkpoint.
func (s *offHostSnapshot) Warnings() []string {
	if w, ok := s.elsewhere.(interface{ Warnings() []string }); ok {
		return w.Warnings()
	}
	return nil
}

// WillAsk implements [job.LateSince].
func (s *offHostSnapshot) WillAsk(since map[string]hikae.ChangeID) { s.willAsk(since) }

// WillReplace implements [job.LatePast].
func (s *offHostSnapshot) WillReplace(past map[string]hikae.ChangeID) { s.willReplace(past) }

// Release implements [hikae.Snapshot]: the VM's checkpoint is merged (R098); the volume snapshot goes with the group's last VM
// (R099), whatever became of the merge.
func (s *offHostSnapshot) Release(ctx context.Context) error {
	err := s.elsewhere.Release(ctx)
	return errors.Join(err, s.volumes.leave(ctx, s.VM().ID))
}

// releaseAll takes back snapshots that nobody is going to read.
func releaseAll(ctx context.Context, list []elsewhere) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), setUndo)
	defer cancel()
	var errs []error
	for _, s := range list {
		errs = append(errs, s.Release(ctx))
	}
	return errors.Join(errs...)
}
