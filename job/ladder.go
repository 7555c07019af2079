package job

import (
	"cmp"
	"context"
	"iter"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// ladder chooses how a disk is read, and writes down each step that it had to take down.
func (s *backup) ladder(ctx context.Context, d hikae.Disk, img pipe.Image, target pipe.Target) (Method, pipe.Image, error) {
	lower := Allocated
	if _, ok := pipe.As[pipe.ExtentImage](img); !ok {
		lower = Whole
	}
	ok, reason := s.plan.baseOf(d)
	if ok {
		var inc pipe.Image
		inc, reason = s.changed(ctx, d, img, target)
		if err := ctx.Err(); err != nil {
			return "", nil, err
		}
		if inc != nil {
			return Changed, inc, nil
		}
	}
	if reason != "" {
		s.fall(Fallback{Disk: d.Key, From: Changed, To: Allocated, Reason: reason})
	}
	if lower == Whole {
		s.fall(Fallback{Disk: d.Key, From: Allocated, To: Whole, Reason: "the source does not tell which parts hold data"})
	}
	return lower, img, nil
}

// changed asks the provider what differs from the base, and waits for the whole answer; nil with the reason where it
// cannot tell.
func (s *backup) changed(ctx context.Context, d hikae.Disk, img pipe.Image, target pipe.Target) (pipe.Image, string) {
	if _, ok := target.(pipe.ExtentTarget); !ok {
		return nil, "the target cannot take over what is unchanged"
	}
	since := hikae.ChangeID(s.plan.Base.Tracking[d.Key])
	all, own := true, error(nil) // own: the provider's error, without what pipe wraps around it
	inc := pipe.Changed(img, func(ctx context.Context) iter.Seq2[pipe.Extent, error] {
		all, own = true, nil
		return seen(s.snap.Changed(ctx, d.Key, since), func(e pipe.Extent, err error) {
			all, own = all && e.Kind == pipe.Data, err
		})
	})
	for _, err := range inc.Extents(ctx, 0, d.Size) {
		if err != nil {
			return nil, cmp.Or(own, err).Error()
		}
		break // the list has arrived whole before the first answer
	}
	if all && since == "" && d.Size > 0 {
		return nil, "the base point has no change id for this disk"
	}
	return inc, ""
}

// seen tells what passes.
func seen(seq iter.Seq2[pipe.Extent, error], tell func(pipe.Extent, error)) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		for e, err := range seq {
			tell(e, err)
			if !yield(e, err) {
				return
			}
		}
	}
}
