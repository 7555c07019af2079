package job

import (
	"cmp"
	"context"
	"fmt"
	"iter"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// Placer is an optional ability of a draft that writes over an existing VM.
type Placer interface {
	hikae.Draft
	// Ready is told, before any disk is opened, all that will be written and the change ids of the point that is brought
	// back. On an error nothing was touched.
	Ready(ctx context.Context, disks []hikae.Disk, since map[string]hikae.ChangeID) error
	// Changed says what may differ between an open disk, before anything was written to it, and the moment since. It is
	// as [hikae.Snapshot] has it. ErrTrackingLost: all of the disk is compared.
	Changed(ctx context.Context, key string, since hikae.ChangeID) iter.Seq2[pipe.Extent, error]
}

// Voider is an optional ability of a Placer. Before Ready it is told the change ids that the repository's points hold, of this VM and of
// others, as far as they could be read: none of this VM's is true after the restore, and what keeps them on the host can go.
type Voider interface {
	Placer
	Void(ids []hikae.ChangeID)
}

// Rewriter is an optional ability of a disk that is written over: how much of it differed, and was written.
type Rewriter interface{ Rewritten() int64 }

// Noter is an optional ability of a draft: what a person should know about the VM that was brought back, after Commit.
type Noter interface{ Notes() []string }

// Located is an optional ability of a draft: where the VM is that was brought back, after Commit. What is not known is empty.
type Located interface {
	Where() (name, host, folder string)
}

// ready lets a draft in place look at all disks before the first is written to.
func (s *restore) ready(ctx context.Context, draft hikae.Draft, disks []hikae.Disk) error {
	p, ok := draft.(Placer)
	if !ok {
		return nil
	}
	since := map[string]hikae.ChangeID{}
	for key, id := range s.point.Tracking {
		since[key] = hikae.ChangeID(id)
	}
	if v, ok := draft.(Voider); ok {
		v.Void(s.changeIDs(ctx))
	}
	if err := p.Ready(ctx, disks, since); err != nil {
		return fmt.Errorf("restore of %s in place: %w", s.point.VM, err)
	}
	return nil
}

// changeIDs are those of all points. Points that cannot be read are no reason not to restore one that can.
func (s *restore) changeIDs(ctx context.Context) (ids []hikae.ChangeID) {
	for p, err := range s.backend.Points(ctx, "") {
		if err != nil {
			s.res.Notes = append(s.res.Notes, fmt.Sprintf("which change ids the repository's points hold could not be read to the end: %v", err))
			break
		}
		for _, id := range p.Tracking {
			ids = append(ids, hikae.ChangeID(id))
		}
	}
	return ids
}

// differing leaves out of a point's disk what the VM's own record of changes says is there already.
func (s *restore) differing(ctx context.Context, draft hikae.Draft, d hikae.Disk, img pipe.Image) (pipe.Image, error) {
	p, ok := draft.(Placer)
	if !ok {
		return img, nil
	}
	since, own := hikae.ChangeID(s.point.Tracking[d.Key]), error(nil)
	inc := pipe.Changed(img, func(ctx context.Context) iter.Seq2[pipe.Extent, error] {
		return seen(p.Changed(ctx, d.Key, since), func(_ pipe.Extent, err error) { own = err })
	})
	for _, err := range inc.Extents(ctx, 0, d.Size) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			s.res.Notes = append(s.res.Notes, fmt.Sprintf("disk %s was compared as a whole: %v", d.Key, cmp.Or(own, err)))
			return img, nil
		}
		break // the list has arrived whole before the first answer
	}
	return inc, nil
}

// rewritten corrects what was written by what was found to be there already.
func rewritten(target pipe.Target, disk *RestoredDisk) {
	r, ok := target.(Rewriter)
	if !ok {
		return
	}
	n := min(r.Rewritten(), disk.Written)
	if same := disk.Written - n; same > 0 {
		disk.Skipped[pipe.Unchanged.String()] += same
	}
	disk.Written = n
}
