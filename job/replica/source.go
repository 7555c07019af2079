package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

// Source is where a replica's points come from.
type Source interface {
	// Sync makes one point of the VM at the site. On error there is none.
	Sync(ctx context.Context, to pipe.Backend, vm string) (Synced, error)
}

// FromVM reads the VM itself, as a backup does, with all that belongs to one: only what changed since the newest point of
// the site, and work in the guest.
type FromVM struct {
	// Open finds the VM, anew for each point: it may have been stopped meanwhile. The options are the caller's own; Name is
	// set, and no unfinished points are made: a site takes none.
	Open func(ctx context.Context) (provider hikae.SnapshotProvider, id string, opts *job.BackupOptions, err error)
}

// Sync implements [Source].
func (f *FromVM) Sync(ctx context.Context, to pipe.Backend, vm string) (Synced, error) {
	provider, id, opts, err := f.Open(ctx)
	if err != nil {
		return Synced{}, err
	}
	o := job.BackupOptions{}
	if opts != nil {
		o = *opts
	}
	o.Name, o.CheckpointEvery = vm, -1
	done, err := job.Backup(ctx, provider, id, to, &o)
	s := Synced{Direct: true, Backup: &done, Point: done.Point, Consistency: done.Consistency}
	for _, d := range done.Disks {
		s.Moved += d.Moved
	}
	if err != nil {
		return s, err
	}
	p, err := pointByID(ctx, to, vm, done.Point)
	if err != nil {
		return s, err
	}
	s.of(p)
	return s, nil
}

// FromPoints copies points of a repository, so that the VM is not read twice, and nothing has to reach it. Where the site's newest
// point is a copy of one that the repository still has, only what differs is read; otherwise the point is read whole. What the site's
// newest point has already is not written again.
type FromPoints struct {
	From  pipe.Backend
	VM    string // its name there; empty: the same
	Point string // full id; empty: the newest
	Copy  *job.CopyOptions
}

// Sync implements [Source].
func (f *FromPoints) Sync(ctx context.Context, to pipe.Backend, vm string) (Synced, error) {
	from := f.VM
	if from == "" {
		from = vm
	}
	var p pipe.PointInfo
	var err error
	if f.Point != "" {
		p, err = pointByID(ctx, f.From, from, f.Point)
	} else {
		p, err = newest(ctx, f.From, from)
	}
	if err != nil {
		return Synced{}, err
	}
	o := job.CopyOptions{}
	if f.Copy != nil {
		o = *f.Copy
	}
	o.VM = vm
	if base, err := newest(ctx, to, vm); err == nil {
		o.Base = base.ID
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Synced{}, err
	}
	done, err := job.CopyPoint(ctx, to, f.From, p, &o)
	s := Synced{Copied: &done, Point: done.To, Moved: done.Moved, Already: done.Already}
	if err != nil {
		return s, err
	}
	made, err := pointByID(ctx, to, vm, done.To)
	if err == nil {
		s.of(made)
	}
	return s, err
}

// points are those of a VM that can be read, in their order.
func points(ctx context.Context, b pipe.Backend, vm string) (out []pipe.PointInfo, err error) {
	for p, err := range b.Points(ctx, vm) {
		switch {
		case err == nil:
			out = append(out, p)
		case !damaged(err):
			return nil, fmt.Errorf("list the points of %s: %w", vm, err)
		}
	}
	return out, nil
}

// damaged reports whether an error of a listing is about one point alone.
func damaged(err error) bool {
	var d interface{ Damaged() bool }
	return job.IsDamaged(err) || errors.As(err, &d) && d.Damaged()
}

func newest(ctx context.Context, b pipe.Backend, vm string) (pipe.PointInfo, error) {
	list, err := points(ctx, b, vm)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("there is no point of %s: %w", vm, fs.ErrNotExist)
	}
	if err != nil {
		return pipe.PointInfo{}, err
	}
	return list[len(list)-1], nil
}

func pointByID(ctx context.Context, b pipe.Backend, vm, id string) (pipe.PointInfo, error) {
	list, err := points(ctx, b, vm)
	if err != nil {
		return pipe.PointInfo{}, err
	}
	for _, p := range list {
		if p.ID == id {
			return p, nil
		}
	}
	return pipe.PointInfo{}, fmt.Errorf("point %s of %s: %w", id, vm, fs.ErrNotExist)
}
