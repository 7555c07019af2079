package files

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// Bounds of a walk. A directory has one name in any sound file system, so one that is met twice is a loop, or a tree
// that would grow without end.
const (
	maxDepth   = 4096
	maxVisited = 1 << 24
	maxPath    = 1 << 20
)

var errMetTwice = errors.New("the directory stands in two places")

// Walk calls fn for root and for everything below it, in the order in which it is stored, without following links. It
// goes from node to node, so its cost does not depend on how deep things lie, and it keeps no directory in memory.
// fs.SkipDir and fs.SkipAll from fn mean what they mean to [fs.WalkDir]. A directory that cannot be read is told to fn
// once more with its error, and fn decides.
func (t *Tree) Walk(root string, fn func(name string, e fs.DirEntry, err error) error) error {
	p, err := t.walk("walk", root, false)
	if err != nil {
		return err
	}
	attr, err := p.fs.Stat(t.ctx, p.node)
	if err != nil {
		return &fs.PathError{Op: "walk", Path: root, Err: err}
	}
	w := &walk{tree: t, fn: fn, met: map[place]struct{}{}}
	err = w.visit(root, &dirEntry{tree: t, at: p, name: path.Base(root), mode: attr.Mode.Type()}, 0)
	if errors.Is(err, fs.SkipDir) || errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

type walk struct {
	tree *Tree
	fn   func(string, fs.DirEntry, error) error
	met  map[place]struct{}
}

func (w *walk) visit(name string, e *dirEntry, depth int) error {
	if err := w.fn(name, e, nil); err != nil || !e.mode.IsDir() {
		return err
	}
	err := w.enter(name, e, depth)
	if err == nil || errors.Is(err, fs.SkipAll) {
		return err
	}
	var fromFn *walkError
	if errors.As(err, &fromFn) {
		return fromFn.err
	}
	if w.tree.ctx.Err() != nil {
		return w.tree.ctx.Err()
	}
	if err := w.fn(name, e, &fs.PathError{Op: "readdir", Path: name, Err: err}); err != nil && !errors.Is(err, fs.SkipDir) {
		return &walkError{err}
	}
	return nil
}

// walkError marks what fn said, so that it is not taken for damage.
type walkError struct{ err error }

func (e *walkError) Error() string { return e.err.Error() }
func (e *walkError) Unwrap() error { return e.err }

func (w *walk) enter(name string, dir *dirEntry, depth int) error {
	if _, twice := w.met[dir.at]; twice {
		return errMetTwice
	}
	if depth > maxDepth || len(name) > maxPath || len(w.met) > maxVisited {
		return fmt.Errorf("deeper than %d directories, or more than %d of them", maxDepth, maxVisited)
	}
	w.met[dir.at] = struct{}{}
	for e, err := range w.tree.entries(dir.at) {
		if err != nil {
			return err
		}
		err := w.visit(path.Join(name, e.name), e, depth+1)
		switch {
		case err == nil || errors.Is(err, fs.SkipDir) && e.mode.IsDir():
		case errors.Is(err, fs.SkipDir): // from a file: the rest of its directory
			return nil
		default:
			if !errors.Is(err, fs.SkipAll) {
				err = &walkError{err}
			}
			return err
		}
	}
	return nil
}
