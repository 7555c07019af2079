package index

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/hikae/hikae/guest/index/list"
)

// FSOptions change how a tree is listed. Nil and zero fields are good defaults.
type FSOptions struct {
	// Owner tells whose a file is. Nil: it is not known.
	Owner func(info fs.FileInfo) (owner, group string)
	// Name is the name as it stands on the disk, where the tree shows another. Nil: it is as shown.
	Name func(shown string) string
}

// AddFS lists a tree as the next volume: without any component, from a file system of a restore point or a snapshot. What
// cannot be read is listed with a note.
func AddFS(ctx context.Context, w *Writer, v Volume, tree fs.FS, opts *FSOptions) error {
	if opts == nil {
		opts = &FSOptions{}
	}
	if err := w.Volume(v); err != nil {
		return err
	}
	info, err := fs.Stat(tree, ".")
	if err != nil {
		return err
	}
	a := adder{ctx: ctx, w: w, tree: tree, opts: opts}
	return a.add("", "", info)
}

const maxDepth = 1024

type adder struct {
	ctx  context.Context
	w    *Writer
	tree fs.FS
	opts *FSOptions
	deep int
}

// add adds a name and what is below it. shown is its path in the tree, p in the index.
func (a *adder) add(shown, p string, info fs.FileInfo) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	e := Entry{Path: p, Type: typeOf(info.Mode()), Mode: modeOf(info.Mode()), ModUnix: info.ModTime().Unix()}
	if e.Type == list.File {
		e.Size = info.Size()
	}
	if a.opts.Owner != nil {
		e.Owner, e.Group = a.opts.Owner(info)
	}
	if e.Type == list.Link {
		target, err := fs.ReadLink(a.tree, shown)
		if err != nil {
			e.Note = note(err)
		}
		e.Target = target[:min(len(target), list.MaxTarget)]
	}
	if e.Type != list.Dir {
		return a.w.Add(e)
	}
	names, err := a.below(shown)
	if err != nil {
		e.Note = note(err)
	}
	if err := a.w.Add(e); err != nil {
		return err
	}
	a.deep++
	defer func() { a.deep-- }()
	for _, n := range names {
		if err := a.add(path.Join(shown, n.shown), join(p, n.name), n.info); err != nil {
			return err
		}
	}
	return nil
}

// child is a name in a folder.
type child struct {
	shown, name string
	info        fs.FileInfo
}

func (a *adder) below(shown string) ([]child, error) {
	if a.deep == maxDepth || len(shown) > list.MaxPath/2 {
		return nil, errors.New("too deep")
	}
	entries, err := fs.ReadDir(a.tree, cmpRoot(shown))
	var out []child
	for _, e := range entries {
		info, infoErr := e.Info()
		if infoErr != nil {
			err = errors.Join(err, infoErr)
			continue
		}
		c := child{e.Name(), e.Name(), info}
		if a.opts.Name != nil {
			c.name = a.opts.Name(c.shown)
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b child) int { return strings.Compare(a.name, b.name) })
	// A damaged folder may have a name twice.
	return slices.CompactFunc(out, func(a, b child) bool { return a.name == b.name }), err
}

func cmpRoot(p string) string {
	if p == "" {
		return "."
	}
	return p
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func note(err error) string {
	text := err.Error()
	return text[:min(len(text), list.MaxText)]
}

func typeOf(m fs.FileMode) list.Type {
	switch {
	case m.IsRegular():
		return list.File
	case m.IsDir():
		return list.Dir
	case m&fs.ModeSymlink != 0:
		return list.Link
	}
	return list.Special
}

// modeOf is permission bits as POSIX has them.
func modeOf(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for bit, posix := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			out |= posix
		}
	}
	return out
}
