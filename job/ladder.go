package job

import (
	"context"
	"fmt"
	"iter"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// ladder chooses how a disk is read, and writes down each step that it had to take down. The function that it answers is
// called after the copy.
func (s *backup) ladder(ctx context.Context, d hikae.Disk, img pipe.Image, target pipe.Target) (Method, pipe.Image, func(), error) {
	lower := Allocated
	if _, ok := pipe.As[pipe.ExtentImage](img); !ok {
		lower = Whole
	}
	img = s.without(d, img)
	ok, reason := s.plan.baseOf(d)
	if ok {
		var inc pipe.Image
		var done func()
		inc, done, reason = s.changed(ctx, d, img, target)
		if err := ctx.Err(); err != nil {
			return "", nil, nil, err
		}
		if inc != nil {
			wrong, err := s.sample(ctx, d, img, inc)
			if err != nil {
				done()
				return "", nil, nil, err
			}
			if wrong == "" {
				s.reads(d.Key, Changed)
				return Changed, inc, done, nil
			}
			done()
			reason = wrong
		}
	}
	if reason != "" {
		s.fall(Fallback{Disk: d.Key, From: Changed, To: Allocated, Reason: reason})
	}
	if lower == Whole {
		s.fall(Fallback{Disk: d.Key, From: Allocated, To: Whole, Reason: "the source does not tell which parts hold data"})
	}
	s.reads(d.Key, lower)
	return lower, img, func() {}, nil
}

// changed asks the provider what differs from the base, and waits for the whole answer; nil with the reason where it
// cannot tell.
func (s *backup) changed(ctx context.Context, d hikae.Disk, img pipe.Image, target pipe.Target) (pipe.Image, func(), string) {
	if _, ok := target.(pipe.ExtentTarget); !ok {
		return nil, nil, "the target cannot take over what is unchanged"
	}
	list := s.changes(d)
	all, err := list.load(ctx)
	if err != nil {
		return nil, nil, err.Error()
	}
	if all && list.since == "" && d.Size > 0 {
		return nil, nil, "the base point has no change id for this disk"
	}
	if !s.leavesOut(d) {
		return pipe.Changed(img, func(ctx context.Context) iter.Seq2[pipe.Extent, error] { return list.Extents(ctx, 0, d.Size) }), func() {}, ""
	}
	base, err := s.openBase(ctx, d.Key)
	if err != nil {
		return nil, nil, fmt.Sprintf("the base point's disk cannot be opened: %v", err)
	}
	if _, ok := pipe.As[pipe.ExtentImage](base); !ok {
		base.Close()
		return nil, nil, "the base point does not tell what was left out of it"
	}
	x := &increment{Image: img, changes: list, base: base, block: 1}
	if blocks, ok := target.(pipe.BlockTarget); ok {
		x.block = int64(blocks.BlockSize())
	}
	return x, func() { base.Close() }, ""
}

// leavesOut reports whether anything is left out of this disk, or was in the base. Where not, what changed is enough to
// know, and neither the base nor the disk has to be asked for more.
func (s *backup) leavesOut(d hikae.Disk) bool {
	if s.exclusion.Image != nil {
		return true
	}
	for _, old := range s.plan.Base.Disks {
		if old.Key != d.Key {
			continue
		}
		known := old.Data
		for reason, n := range old.Absent {
			var kind pipe.Kind
			if err := kind.UnmarshalText([]byte(reason)); err != nil || kind.Dropped() && n > 0 {
				return true
			}
			known += n
		}
		return known != old.Size // it does not say what became of the rest
	}
	return true
}
