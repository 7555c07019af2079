package exclude

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// walker walks over the folders in which a glob may fit something.
type walker struct {
	*looker
	rules  globs
	seen   map[fsys.Node]bool // folders: a damaged file system may lead to one twice, or in a circle
	linked map[fsys.Node]uint32
	todo   []folder
	sets   int // bytes that the spots of those to do take
	buf    []uint64
	cut    bool
}

// maxSets bounds the bytes that the spots of folders still to be read take.
const maxSets = 32 << 20

// folder is one that is still to be read.
type folder struct {
	node  fsys.Node
	spot  spot
	depth int
	own   int // bytes that its sets take; 0: they are those of another
}

// inTime walks for at most half of the time that is left: what was found by then is of use without the rest, and free
// space is mostly the larger part.
func (w *walker) inTime(ctx context.Context) error {
	half := ctx
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		half, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	err := w.walk(half)
	if err == nil || half.Err() == nil || ctx.Err() != nil {
		return err
	}
	w.a.notes = append(w.a.notes, fmt.Sprintf("%s: the time was up before all of its folders were looked through; the files that were not found by then are stored", w.r.volume.Name))
	return nil
}

func (w *walker) walk(ctx context.Context) error {
	w.buf = make([]uint64, len(w.rules.rules))
	root := w.rules.start()
	if w.rules.barren(root) {
		return nil
	}
	w.enter(w.f.Root(), folder{}, root)
	for len(w.todo) > 0 {
		last := len(w.todo) - 1
		at := w.todo[last]
		w.todo = w.todo[:last]
		w.sets -= at.own
		for e, err := range w.f.ReadDir(ctx, at.node) {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = w.entry(ctx, at, e)
			}
			if err != nil {
				return err
			}
		}
	}
	if w.cut {
		w.a.notes = append(w.a.notes, w.r.volume.Name+": it has more folders, or files with several names, than are looked through; the rest is stored")
	}
	return nil
}

// enter puts a folder on the list. Most stand where the folder around them stands, and share its sets.
func (w *walker) enter(n fsys.Node, in folder, s spot) {
	next := folder{node: n, spot: s, depth: in.depth + 1}
	if slices.Equal(s.sets, in.spot.sets) {
		next.spot.sets = in.spot.sets
	} else {
		next.spot.sets, next.own = slices.Clone(s.sets), 8*len(s.sets)
	}
	switch {
	case w.seen[n]:
	case len(w.seen) >= maxFolders || next.depth > maxDepth || w.sets+next.own > maxSets:
		w.cut = true
	default:
		w.seen[n] = true
		w.sets += next.own
		w.todo = append(w.todo, next)
	}
}

func (w *walker) entry(ctx context.Context, at folder, e fsys.Entry) error {
	if !e.Type.IsDir() && !e.Type.IsRegular() {
		return nil
	}
	next := w.rules.step(at.spot, e.Name, w.buf)
	switch {
	case e.Type.IsDir():
		if !w.rules.barren(next) {
			w.enter(e.Node, at, next)
		}
		return nil
	case !next.excluded || next.kept:
		return nil
	}
	return w.file(ctx, e.Node)
}

// file takes a file of which one more name fits. One with several names is taken with the last of them: a name that does
// not fit keeps it.
func (w *walker) file(ctx context.Context, n fsys.Node) error {
	attr, err := w.f.Stat(ctx, n)
	if err != nil {
		return err
	}
	if attr.Links > 1 {
		if _, known := w.linked[n]; !known && len(w.linked) >= maxLinked {
			w.cut = true
			return nil
		}
		if w.linked[n]++; w.linked[n] != attr.Links {
			return nil
		}
	}
	if w.taken[n] || !attr.Mode.IsRegular() || attr.Kept != "" {
		return nil
	}
	w.r.files++
	return w.take(ctx, n, 0, -1, pipe.Excluded)
}
