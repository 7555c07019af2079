package repo

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/hikae/hikae/pipe"
)

var _ pipe.Differ = (*Repository)(nil)

// Differences implements [pipe.Differ]. Only pages are read, and of those only the ones that two points do not share: about a page for
// each 256 blocks among which one differs. Blocks are the same if they have the same id; what is called different may hold the same all
// the same, as where the master was changed in between.
func (r *Repository) Differences(ctx context.Context, base, point, disk string) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		err := r.differences(ctx, base, point, disk, func(e pipe.Extent) bool { return yield(e, nil) })
		if err != nil && !errors.Is(err, errStop) {
			yield(pipe.Extent{}, fmt.Errorf("what differs between the points %s and %s: %w", base, point, err))
		}
	}
}

func (r *Repository) differences(ctx context.Context, base, point, disk string, yield func(pipe.Extent) bool) (err error) {
	var trees [2]treeReader
	for i, p := range []string{base, point} {
		img, openErr := r.Open(ctx, p, disk)
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, img.Close()) }()
		trees[i] = img.(*diskImage).tree
	}
	a, b := trees[0], trees[1]
	if a.shape != b.shape {
		return fmt.Errorf("%w: %d and %d bytes", pipe.ErrSizeMismatch, a.size, b.size)
	}
	var run pipe.Extent
	err = differ(ctx, a, b, func(same bool, lo, hi int64) error {
		kind := pipe.Data
		if same {
			kind = pipe.Unchanged
		}
		e := pipe.Extent{Off: lo * a.blockSize, Len: min(hi*a.blockSize, a.size) - lo*a.blockSize, Kind: kind}
		if run.Len > 0 && run.Kind == kind {
			run.Len += e.Len
			return nil
		}
		if run.Len > 0 && !yield(run) {
			return errStop
		}
		run = e
		return nil
	})
	if err == nil && run.Len > 0 && !yield(run) {
		err = errStop
	}
	return err
}

// differ calls f, in order, for every run of blocks [lo, hi) that two trees of one shape have in common or do not. Neighbours may be alike.
func differ(ctx context.Context, a, b treeReader, f func(same bool, lo, hi int64) error) error {
	if a.blocks == 0 {
		return nil
	}
	return differEntries(ctx, a, b, a.root, b.root, a.height, 0, f)
}

// differEntries: both entries stand for the page of this level that starts at block first; level −1 is a block.
func differEntries(ctx context.Context, a, b treeReader, ea, eb entry, level int, first int64, f func(same bool, lo, hi int64) error) error {
	n := int64(1)
	if level >= 0 {
		n = a.covered(level+1, first)
	}
	switch {
	case ea.kind == eb.kind && ea.id == eb.id:
		return f(true, first, first+n)
	case level < 0, ea.kind != pipe.Data && eb.kind != pipe.Data:
		return f(false, first, first+n)
	}
	below := func(t treeReader, e entry) (func(i int) entry, error) {
		if e.kind != pipe.Data {
			return func(int) entry { return e }, nil // all of it is absent for one reason
		}
		p, err := t.load(ctx, e.id, level, t.entries(level, first))
		if err != nil {
			return nil, err
		}
		return func(i int) entry { return p.entries[i] }, nil
	}
	as, err := below(a, ea)
	if err != nil {
		return err
	}
	bs, err := below(b, eb)
	if err != nil {
		return err
	}
	for i := range a.entries(level, first) {
		if err := differEntries(ctx, a, b, as(i), bs(i), level-1, first+int64(i)*a.span(level), f); err != nil {
			return err
		}
	}
	return nil
}
