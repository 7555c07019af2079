package files

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// maxLinks is how many symbolic links one name may lead through, as in Linux.
const maxLinks = 40

// maxSorted bounds how many entries of one directory fs.ReadDir is given at once: it must sort them.
const maxSorted = 1 << 20

var errLoop = errors.New("too many levels of symbolic links")

// Tree is one or several file systems of a guest as an [fs.FS]. It is safe for concurrent use.
type Tree struct {
	ctx  context.Context // fs.FS has no place for it; whoever wants to end it ends this one
	root fsys.FileSystem
	// mounts are the file systems that stand in place of directories of others.
	mounts map[place]fsys.FileSystem
	// volumes are what the file systems lie on, where that may tell that something was left out of it.
	volumes map[fsys.FileSystem]pipe.Image
}

// place is a node and the file system that it is in.
type place struct {
	fs   fsys.FileSystem
	node fsys.Node
}

var (
	_ fs.ReadDirFS  = (*Tree)(nil)
	_ fs.StatFS     = (*Tree)(nil)
	_ fs.ReadLinkFS = (*Tree)(nil)
)

// FS shows one file system. Every call reads with ctx.
//
// Symbolic links are followed within the tree; an absolute one begins at its root, and ".." ends there. Names of NTFS
// and FAT are found in any case.
func FS(ctx context.Context, f fsys.FileSystem) *Tree {
	return &Tree{ctx: ctx, root: f}
}

// WithContext returns the same tree, read with another context.
func (t *Tree) WithContext(ctx context.Context) *Tree {
	c := *t
	c.ctx = ctx
	return &c
}

// Open implements [fs.FS]. A regular file is also an io.ReaderAt and an io.Seeker.
func (t *Tree) Open(name string) (fs.File, error) {
	p, err := t.walk("open", name, true)
	if err != nil {
		return nil, err
	}
	attr, err := p.fs.Stat(t.ctx, p.node)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	info := Info{Attr: attr, name: path.Base(name)}
	switch {
	case attr.Mode.IsDir():
		return newDir(t, p, info), nil
	case attr.Mode.IsRegular():
		return &file{SectionReader: io.NewSectionReader(&content{tree: t, at: p, size: attr.Size}, 0, attr.Size), info: info}, nil
	}
	return &special{info}, nil
}

// Stat implements [fs.StatFS]; the FileInfo is an [Info].
func (t *Tree) Stat(name string) (fs.FileInfo, error) { return t.stat("stat", name, true) }

// Lstat implements [fs.ReadLinkFS]; the FileInfo is an [Info].
func (t *Tree) Lstat(name string) (fs.FileInfo, error) { return t.stat("lstat", name, false) }

func (t *Tree) stat(op, name string, follow bool) (fs.FileInfo, error) {
	p, err := t.walk(op, name, follow)
	if err != nil {
		return nil, err
	}
	attr, err := p.fs.Stat(t.ctx, p.node)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return Info{Attr: attr, name: path.Base(name)}, nil
}

// ReadLink implements [fs.ReadLinkFS].
func (t *Tree) ReadLink(name string) (string, error) {
	p, err := t.walk("readlink", name, false)
	if err != nil {
		return "", err
	}
	target, err := p.fs.Readlink(t.ctx, p.node)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// ReadDir implements [fs.ReadDirFS].
func (t *Tree) ReadDir(name string) ([]fs.DirEntry, error) {
	p, err := t.walk("readdir", name, true)
	if err != nil {
		return nil, err
	}
	var out []fs.DirEntry
	for e, err := range t.entries(p) {
		if err == nil && len(out) == maxSorted {
			err = errors.New("the directory has too many entries to be sorted")
		}
		if err != nil {
			return out, &fs.PathError{Op: "readdir", Path: name, Err: err}
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return out, nil
}

// entries are those of a directory, with what is mounted in it in its place.
func (t *Tree) entries(dir place) iter.Seq2[*dirEntry, error] {
	return func(yield func(*dirEntry, error) bool) {
		for e, err := range dir.fs.ReadDir(t.ctx, dir.node) {
			if err != nil {
				yield(nil, err)
				return
			}
			at := t.cross(place{dir.fs, e.Node})
			if !yield(&dirEntry{tree: t, at: at, name: ShownName(e.Name), mode: e.Type.Type()}, nil) {
				return
			}
		}
	}
}

// mount puts a file system in the place of a directory.
func (t *Tree) mount(at place, f fsys.FileSystem) {
	if t.mounts == nil {
		t.mounts = map[place]fsys.FileSystem{}
	}
	t.mounts[at] = f
}

// cross goes from a mount point to what is mounted there.
func (t *Tree) cross(p place) place {
	if m, ok := t.mounts[p]; ok {
		return place{m, m.Root()}
	}
	return p
}

// walk finds what a name stands for.
func (t *Tree) walk(op, name string, follow bool) (place, error) {
	if !fs.ValidPath(name) {
		return place{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	w := walker{tree: t, todo: split(name)}
	p, err := w.run(follow)
	if err != nil {
		return place{}, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return p, nil
}

func split(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(s string) bool { return s == "" || s == "." })
}

// walker follows a name from directory to directory.
type walker struct {
	tree  *Tree
	todo  []string
	above []place // the directories on the way, the root first
	links int
}

func (w *walker) run(follow bool) (place, error) {
	root := w.tree.cross(place{w.tree.root, w.tree.root.Root()})
	w.above = []place{root}
	for len(w.todo) > 0 {
		name := w.todo[0]
		w.todo = w.todo[1:]
		here := w.above[len(w.above)-1]
		if name == ".." {
			w.above = w.above[:max(1, len(w.above)-1)]
			continue
		}
		e, err := w.tree.lookup(here, name)
		if err != nil {
			return place{}, err
		}
		switch last := len(w.todo) == 0; {
		case e.mode&fs.ModeSymlink != 0 && (!last || follow):
			if err := w.follow(e); err != nil {
				return place{}, err
			}
		case last:
			return e.at, nil
		case !e.mode.IsDir():
			return place{}, fs.ErrNotExist
		default:
			w.above = append(w.above, e.at)
		}
	}
	return w.above[len(w.above)-1], nil
}

// follow puts the link's target in front of what is left of the name.
func (w *walker) follow(e *dirEntry) error {
	if w.links++; w.links > maxLinks {
		return errLoop
	}
	target, err := e.at.fs.Readlink(w.tree.ctx, e.at.node)
	if err != nil {
		return err
	}
	if strings.HasPrefix(target, "/") {
		w.above = w.above[:1]
	}
	parts := split(target)
	for i, p := range parts {
		if p != ".." {
			parts[i] = ShownName(p)
		}
	}
	if len(parts)+len(w.todo) > fsys.MaxLink {
		return errLoop
	}
	w.todo = append(parts, w.todo...)
	return nil
}

// lookup finds an entry by its shown name; where the file system knows no case, in any.
func (t *Tree) lookup(dir place, name string) (*dirEntry, error) {
	fold := dir.fs.Info().Kind == "ntfs" || dir.fs.Info().Kind == "vfat"
	var folded *dirEntry
	for e, err := range t.entries(dir) {
		if err != nil {
			return nil, err
		}
		if e.name == name {
			return e, nil
		}
		if fold && folded == nil && strings.EqualFold(e.name, name) {
			folded = e
		}
	}
	if folded == nil {
		return nil, fs.ErrNotExist
	}
	return folded, nil
}

// Info is the FileInfo of a guest's file; Sys returns its Attr.
type Info struct {
	fsys.Attr
	name string
}

// Name implements [fs.FileInfo]: see [ShownName].
func (i Info) Name() string { return i.name }

// Size implements [fs.FileInfo].
func (i Info) Size() int64 { return i.Attr.Size }

// Mode implements [fs.FileInfo].
func (i Info) Mode() fs.FileMode { return i.Attr.Mode }

// ModTime implements [fs.FileInfo].
func (i Info) ModTime() time.Time { return i.Attr.Mod }

// IsDir implements [fs.FileInfo].
func (i Info) IsDir() bool { return i.Attr.Mode.IsDir() }

// Sys implements [fs.FileInfo]: it is an [fsys.Attr].
func (i Info) Sys() any { return i.Attr }

// dirEntry is a name in a directory.
type dirEntry struct {
	tree *Tree
	at   place
	name string
	mode fs.FileMode
}

func (e *dirEntry) Name() string      { return e.name }
func (e *dirEntry) IsDir() bool       { return e.mode.IsDir() }
func (e *dirEntry) Type() fs.FileMode { return e.mode }

func (e *dirEntry) Info() (fs.FileInfo, error) {
	attr, err := e.at.fs.Stat(e.tree.ctx, e.at.node)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: e.name, Err: err}
	}
	return Info{Attr: attr, name: e.name}, nil
}

// file is an open regular file. Nothing is held open for it.
type file struct {
	*io.SectionReader
	info Info
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *file) Close() error               { return nil }

// special is what has no content to read: a device, a socket, a pipe.
type special struct{ info Info }

func (s *special) Stat() (fs.FileInfo, error) { return s.info, nil }
func (s *special) Close() error               { return nil }
func (s *special) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: s.info.name, Err: errors.ErrUnsupported}
}

// dir is an open directory.
type dir struct {
	info Info
	next func() (*dirEntry, error, bool)
	stop func()
}

func newDir(t *Tree, p place, info Info) *dir {
	next, stop := iter.Pull2(t.entries(p))
	return &dir{info: info, next: next, stop: stop}
}

func (d *dir) Stat() (fs.FileInfo, error) { return d.info, nil }

func (d *dir) Close() error {
	d.stop()
	return nil
}

func (d *dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: errors.New("is a directory")}
}

// ReadDir implements [fs.ReadDirFile]: entries come as they are stored.
func (d *dir) ReadDir(n int) ([]fs.DirEntry, error) {
	var out []fs.DirEntry
	for n <= 0 || len(out) < n {
		e, err, ok := d.next()
		if !ok {
			if n > 0 && len(out) == 0 {
				return nil, io.EOF
			}
			return out, nil
		}
		if err != nil {
			return out, &fs.PathError{Op: "readdir", Path: d.info.name, Err: err}
		}
		out = append(out, e)
		if len(out) > maxSorted {
			return out, &fs.PathError{Op: "readdir", Path: d.info.name, Err: errors.New("too many entries for one call")}
		}
	}
	return out, nil
}
