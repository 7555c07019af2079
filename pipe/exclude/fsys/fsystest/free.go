package fsystest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sort"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// FreeOf collects the free ranges, and checks that they are ascending, disjoint, not adjacent, and within both the volume of
// size bytes and what the file system says it covers.
func FreeOf(ctx context.Context, f fsys.FileSystem, size int64) ([]fsys.Range, error) {
	var list []fsys.Range
	size = min(size, f.Info().Size)
	for r, err := range f.Free(ctx) {
		if err != nil {
			return nil, err
		}
		switch {
		case r.Off < 0 || r.Len <= 0 || r.Len > size-r.Off:
			return nil, fmt.Errorf("free: %+v of %d bytes", r, size)
		case len(list) > 0 && r.Off <= list[len(list)-1].End():
			return nil, fmt.Errorf("free: %+v follows %+v", r, list[len(list)-1])
		}
		list = append(list, r)
	}
	if doubt := f.Info().Doubt; doubt != "" && len(list) > 0 {
		return nil, fmt.Errorf("%d free ranges in spite of the doubt: %s", len(list), doubt)
	}
	return list, nil
}

// CheckFree checks what f calls free: its form as FreeOf does, and that nothing of it is in use, neither a run of any file
// that can be reached from the root nor one of the ranges inUse that the test knows of.
func CheckFree(ctx context.Context, f fsys.FileSystem, size int64, inUse ...fsys.Range) error {
	free, err := FreeOf(ctx, f, size)
	if err != nil {
		return err
	}
	var all []error
	for _, r := range inUse {
		if hit, ok := Overlap(free, r); ok {
			all = append(all, fmt.Errorf("in use: %+v; free: %+v", r, hit))
		}
	}
	w := &walker{f: f, seen: map[fsys.Node]bool{}, visit: func(path string, n fsys.Node) error {
		for r, err := range f.Runs(ctx, n) {
			if err != nil {
				return err
			}
			if hit, ok := Overlap(free, fsys.Range{Off: r.Vol, Len: r.Len}); ok && r.Vol >= 0 {
				all = append(all, fmt.Errorf("%q lies at %+v; free: %+v", path, r, hit))
			}
		}
		return nil
	}}
	if err := w.walk(ctx, "", f.Root()); err != nil {
		return errors.Join(err, first(all))
	}
	return first(all)
}

// Overlap finds the first of the ascending ranges that has a byte in common with r.
func Overlap(list []fsys.Range, r fsys.Range) (fsys.Range, bool) {
	i := sort.Search(len(list), func(i int) bool { return list[i].End() > r.Off })
	if i < len(list) && list[i].Off < r.End() && r.Len > 0 {
		return list[i], true
	}
	return fsys.Range{}, false
}

// walker visits every regular file once.
type walker struct {
	f     fsys.FileSystem
	seen  map[fsys.Node]bool
	visit func(path string, n fsys.Node) error
}

func (w *walker) walk(ctx context.Context, path string, dir fsys.Node) error {
	w.seen[dir] = true
	for e, err := range w.f.ReadDir(ctx, dir) {
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		if w.seen[e.Node] {
			continue
		}
		below := path + "/" + e.Name
		switch e.Type {
		case fs.ModeDir:
			err = w.walk(ctx, below, e.Node)
		case 0:
			w.seen[e.Node] = true
			err = w.visit(below, e.Node)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", below, err)
		}
	}
	return nil
}
