package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/repo"
)

// CopiedFrom is the fact that a copied point carries: the id of the point that it is a copy of. By it a copy that was
// begun again finds what is there already.
const CopiedFrom = "hikae.copied-from"

// CopyOptions change how points are copied. Nil and zero fields are good defaults.
type CopyOptions struct {
	VM   string // its name where the point goes; empty: the same
	Fact string // the fact by which a copy is known; empty: CopiedFrom
	// Base is the full id of the point there that the new one stands on, where that saves room. If it is a copy of a point of the same
	// place that is still there, and that place is a [pipe.Differ], only what differs is read. Empty: none.
	Base        string
	Compression pipe.Compression // empty: the default of pipe
	Workers     int              // zero: one for each processor
	BufferBytes int64            // zero: the default of pipe
	// Wrap puts an image around a disk's image: a limit, or somebody else who wants to see the content. Nil: none.
	Wrap   func(disk string, img pipe.Image) pipe.Image
	Events func(Event) // nil: nobody listens
}

// Copied is what was done for one point.
type Copied struct {
	From    string `json:"from"`
	To      string `json:"to"`
	VM      string `json:"vm"`                // its name where the point went
	Already bool   `json:"already,omitempty"` // it had been copied before
	Moved   int64  `json:"moved"`             // plain bytes handed to the target
	Stored  int64  `json:"stored"`            // bytes in packs, without parity
}

// CopyPoint copies a committed point from one place to another: its disks with the reasons of what is not there, its
// blobs, its facts, and the change ids. So the next backup into the other place can go on from it: a full backup that
// travels on a shipped disk is taken in by this, and increments follow over the line.
//
// A point that was copied to the same VM before is not copied again. The points of a VM are in the order of their commits,
// and the newest is what a restore and the next backup mean by "latest": so a point that is older than the newest there is
// refused with an [*OlderError].
func CopyPoint(ctx context.Context, to, from pipe.Backend, point pipe.PointInfo, opts *CopyOptions) (Copied, error) {
	c := pointCopy{to: to, from: from, point: point}
	if opts != nil {
		c.opts = *opts
	}
	if c.opts.Events == nil {
		c.opts.Events = func(Event) {}
	}
	c.opts.Fact = cmp.Or(c.opts.Fact, CopiedFrom)
	c.res = Copied{From: point.ID, VM: cmp.Or(c.opts.VM, point.VM)}
	err := c.run(ctx)
	if err != nil {
		err = fmt.Errorf("copy point %s of %s: %w", point.ID, point.VM, err)
	}
	return c.res, err
}

// pointCopy is one copy under way.
type pointCopy struct {
	to, from pipe.Backend
	point    pipe.PointInfo
	opts     CopyOptions
	res      Copied
	base     *pipe.PointInfo // of opts.Base, where it is there
}

func (c *pointCopy) run(ctx context.Context) error {
	if err := c.look(ctx); err != nil || c.res.Already {
		return err
	}
	facts := maps.Clone(c.point.Facts)
	if facts == nil {
		facts = map[string]string{}
	}
	facts[c.opts.Fact] = c.point.ID
	w, err := c.to.Begin(ctx, c.res.VM, &pipe.PointOptions{Base: c.opts.Base, Time: c.point.Time, Consistency: c.point.Consistency, Facts: facts})
	if err != nil {
		return err
	}
	defer w.Close()
	for i, d := range c.point.Disks {
		if err := c.disk(ctx, w, d, i); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	for _, b := range c.point.Blobs {
		if err := c.blob(ctx, w, b.Name); err != nil {
			return fmt.Errorf("blob %s: %w", b.Name, err)
		}
	}
	if err := c.look(ctx); err != nil || c.res.Already { // somebody may have been faster meanwhile
		return err
	}
	c.res.To, err = w.Commit(ctx, c.point.Tracking)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if a, ok := w.(pipe.Accountant); ok {
		c.res.Stored = a.Usage().Stored
	}
	return nil
}

// OlderError says that the VM has a newer point where one was to be copied to.
type OlderError struct {
	VM           string
	Point, Newer string // ids, here and there
	Time, Newest time.Time
}

func (e *OlderError) Error() string {
	return fmt.Sprintf("%s has a newer point there, %s of %s: one of %s behind it would be taken for the latest",
		e.VM, e.Newer, e.Newest.UTC().Format(time.RFC3339), e.Time.UTC().Format(time.RFC3339))
}

// look finds out whether the point is there already, and whether it would come too late.
func (c *pointCopy) look(ctx context.Context) error {
	var newest *pipe.PointInfo
	for p, err := range c.to.Points(ctx, c.res.VM) {
		switch {
		case isDamaged(err): // it is there, and cannot say what it is
			continue
		case err != nil:
			return fmt.Errorf("list the points of %s: %w", c.res.VM, err)
		case p.Facts[c.opts.Fact] == c.point.ID:
			c.res.To, c.res.Already = p.ID, true
			return nil
		}
		if p.ID == c.opts.Base {
			c.base = &p
		}
		if newest == nil || p.Time.After(newest.Time) {
			newest = &p
		}
	}
	if newest != nil && newest.Time.After(c.point.Time) {
		return &OlderError{VM: c.res.VM, Point: c.point.ID, Newer: newest.ID, Time: c.point.Time, Newest: newest.Time}
	}
	return nil
}

// IsDamaged reports whether an error of a listing of points is about one of them, so that the listing goes on behind it.
func IsDamaged(err error) bool { return isDamaged(err) }

// isDamaged reports whether an error of a listing is about one point, so that the listing goes on behind it.
func isDamaged(err error) bool {
	_, ok := errors.AsType[*repo.ErrCorrupt](err)
	var other interface{ Damaged() bool } // of a backend that is no repository
	return ok || errors.Is(err, mover.ErrCorrupt) || errors.As(err, &other) && other.Damaged()
}

// differing is img with what differs from the base as all that there is to copy; whole, where that is not known.
func (c *pointCopy) differing(ctx context.Context, d pipe.DiskInfo, img pipe.Image) (pipe.Image, Method) {
	differ, ok := pipe.BackendAs[pipe.Differ](c.from)
	if !ok || c.base == nil || c.base.Facts[c.opts.Fact] == "" ||
		!slices.ContainsFunc(c.base.Disks, func(b pipe.DiskInfo) bool { return b.Key == d.Key && b.Size == d.Size }) {
		return img, Whole
	}
	list := pipe.Changed(img, func(ctx context.Context) iter.Seq2[pipe.Extent, error] {
		return differ.Differences(ctx, c.base.Facts[c.opts.Fact], c.point.ID, d.Key)
	})
	for _, err := range list.Extents(ctx, 0, min(1, d.Size)) { // it is read now, while there is a way without it
		if err != nil {
			return img, Whole
		}
	}
	return list, Changed
}

func (c *pointCopy) disk(ctx context.Context, w pipe.PointWriter, d pipe.DiskInfo, at int) (err error) {
	img, err := c.from.Open(ctx, c.point.ID, d.Key)
	if err != nil {
		return err
	}
	if c.opts.Wrap != nil {
		img = c.opts.Wrap(d.Key, img)
	}
	defer func() { err = errors.Join(err, closeImage(img, err)) }()
	img, method := c.differing(ctx, d, img)
	c.opts.Events(DiskStarted{Key: d.Key, Size: d.Size, Method: method, Index: at, Count: len(c.point.Disks)})
	target, err := w.Disk(ctx, d.Key, d.Size)
	if err != nil {
		return err
	}
	defer target.Close()
	stats, err := pipe.Copy(ctx, target, img, &pipe.CopyOptions{
		Compression: c.opts.Compression, Workers: c.opts.Workers, BufferBytes: c.opts.BufferBytes,
		Progress: func(p pipe.Progress) { c.opts.Events(DiskProgress{Key: d.Key, Progress: p}) },
	})
	c.res.Moved += stats.Moved
	if err != nil {
		return err
	}
	c.opts.Events(DiskDone{Key: d.Key, Stats: stats})
	return target.Commit(ctx)
}

func (c *pointCopy) blob(ctx context.Context, w pipe.PointWriter, name string) error {
	r, err := c.from.OpenBlob(ctx, c.point.ID, name)
	if err != nil {
		return err
	}
	return errors.Join(w.Blob(ctx, name, r), r.Close())
}
