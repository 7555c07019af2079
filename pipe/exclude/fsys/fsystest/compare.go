package fsystest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// CompareOptions say what a driver and a reader need not agree on. Nil and zero fields compare all.
type CompareOptions struct {
	// Ignore leaves out a path and all below it, on both sides: what a driver hides, or adds.
	Ignore func(path string) bool
	// NoMode and NoOwner: the driver makes up permissions (the type is compared all the same), users and groups.
	NoMode, NoOwner bool
	// NoLinks: the driver counts names in another way.
	NoLinks bool
	// Times is the unit in which both sides know times; 1 ns.
	Times time.Duration
	// NoDirTimes: directories may have changed since, such as by the mount itself.
	NoDirTimes bool
}

// Compare holds all that f shows against a scan, in both directions: every path with its type, mode, size, content,
// target, time, owner and names, and that two names are one file here where they are one there. It also checks what the
// interface promises: that ReadDir and Stat agree, that Runs are gap-free, that reads end with io.EOF.
func Compare(ctx context.Context, f fsys.FileSystem, want Tree, opts *CompareOptions) error {
	c := &comparison{f: f, want: want, seen: map[string]bool{}, nodes: map[uint64]fsys.Node{}}
	if opts != nil {
		c.opts = *opts
	}
	c.opts.Times = max(c.opts.Times, 1)
	if err := c.visit(ctx, "", f.Root(), fs.ModeDir, 0); err != nil {
		return err
	}
	for path := range want {
		if !c.seen[path] && !c.ignored(path) {
			c.wrong(path, "is not shown")
		}
	}
	return first(c.found)
}

type comparison struct {
	f     fsys.FileSystem
	opts  CompareOptions
	want  Tree
	seen  map[string]bool
	nodes map[uint64]fsys.Node // the driver's numbers and the reader's
	found []error
}

// maxDepth ends a walk that goes in circles.
const maxDepth = 4096

func (c *comparison) wrong(path, format string, args ...any) {
	c.found = append(c.found, fmt.Errorf("%q: %s", path, fmt.Sprintf(format, args...)))
}

// ignored asks for the path and each folder above it.
func (c *comparison) ignored(path string) bool {
	if c.opts.Ignore == nil {
		return false
	}
	for i := range len(path) {
		if path[i] == '/' && c.opts.Ignore(path[:i]) {
			return true
		}
	}
	return c.opts.Ignore(path)
}

// visit compares one path and what is below it. The error is one that ends the walk: a context's.
func (c *comparison) visit(ctx context.Context, path string, n fsys.Node, typ fs.FileMode, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.ignored(path) {
		return nil
	}
	want, ok := c.want[path]
	switch {
	case !ok:
		c.wrong(path, "is shown, and is not there")
		return nil
	case c.seen[path]:
		c.wrong(path, "is shown twice")
		return nil
	case depth > maxDepth:
		c.wrong(path, "is %d deep", depth)
		return nil
	}
	c.seen[path] = true
	attr, err := c.f.Stat(ctx, n)
	if err != nil {
		c.wrong(path, "stat: %v", err)
		return nil
	}
	if typ != attr.Mode.Type() || attr.Node != n {
		c.wrong(path, "the directory says node %d of type %v, Stat says %d of %v", n, typ, attr.Node, attr.Mode.Type())
	}
	c.attributes(path, want, attr)
	c.identity(path, want, n)
	switch {
	case attr.Mode.IsDir():
		return c.directory(ctx, path, n, depth)
	case attr.Mode.IsRegular():
		c.content(ctx, path, want, n)
	case attr.Mode.Type() == fs.ModeSymlink:
		if target, err := c.f.Readlink(ctx, n); err != nil || target != want.Target {
			c.wrong(path, "links to %q (%v), not to %q", target, err, want.Target)
		}
	}
	return nil
}

func (c *comparison) attributes(path string, want Item, got fsys.Attr) {
	mask := ^fs.FileMode(0)
	if c.opts.NoMode {
		mask = fs.ModeType
	}
	if got.Mode&mask != want.Mode&mask {
		c.wrong(path, "mode %v, not %v", got.Mode, want.Mode)
	}
	if got.Mode.IsRegular() && got.Size != want.Size {
		c.wrong(path, "size %d, not %d", got.Size, want.Size)
	}
	unit := c.opts.Times
	if !got.Mod.Truncate(unit).Equal(want.Mod.Truncate(unit)) && !(c.opts.NoDirTimes && got.Mode.IsDir()) {
		c.wrong(path, "time %v, not %v", got.Mod.UTC(), want.Mod.UTC())
	}
	if !c.opts.NoOwner && (got.UID != want.UID || got.GID != want.GID) {
		c.wrong(path, "owner %d:%d, not %d:%d", got.UID, got.GID, want.UID, want.GID)
	}
	if !c.opts.NoLinks && got.Links != want.Links {
		c.wrong(path, "%d names, not %d", got.Links, want.Links)
	}
}

// identity: names of one file lead to one node.
func (c *comparison) identity(path string, want Item, n fsys.Node) {
	if want.Node == 0 {
		return
	}
	if known, ok := c.nodes[want.Node]; ok && known != n {
		c.wrong(path, "is node %d, another name of it node %d", n, known)
	}
	c.nodes[want.Node] = n
}

func (c *comparison) directory(ctx context.Context, path string, n fsys.Node, depth int) error {
	for e, err := range c.f.ReadDir(ctx, n) {
		if err != nil {
			c.wrong(path, "reading the directory: %v", err)
			return ctx.Err()
		}
		below := e.Name
		if path != "" {
			below = path + "/" + below
		}
		if err := c.visit(ctx, below, e.Node, e.Type, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// content reads a file once from end to end, and once more a piece across its end and one from its middle.
func (c *comparison) content(ctx context.Context, path string, want Item, n fsys.Node) {
	h := blake3.New()
	size, err := io.Copy(h, io.NewSectionReader(nodeReader{ctx, c.f, n}, 0, 1<<62))
	if err != nil || size != want.Size {
		c.wrong(path, "%d bytes could be read, not %d: %v", size, want.Size, err)
		return
	}
	if [32]byte(h.Sum(nil)) != want.Sum {
		c.wrong(path, "another content")
		return
	}
	c.end(ctx, path, want, n)
	if err := c.runs(ctx, n, want.Size); err != nil {
		c.wrong(path, "runs: %v", err)
	}
}

func (c *comparison) end(ctx context.Context, path string, want Item, n fsys.Node) {
	p := make([]byte, 100)
	inside := min(want.Size, 40)
	got, err := c.f.ReadAt(ctx, n, p, want.Size-inside)
	if int64(got) != inside || !errors.Is(err, io.EOF) {
		c.wrong(path, "a read over the end gives %d bytes and %v", got, err)
	}
	if got, err = c.f.ReadAt(ctx, n, p, want.Size+1); got != 0 || !errors.Is(err, io.EOF) {
		c.wrong(path, "a read behind the end gives %d bytes and %v", got, err)
	}
}

// runs checks their form; where they lie is for CheckFree.
func (c *comparison) runs(ctx context.Context, n fsys.Node, size int64) error {
	at, block := int64(0), c.f.Info().BlockSize
	for r, err := range c.f.Runs(ctx, n) {
		if err != nil {
			return err
		}
		if none := r.Kind == fsys.Hole || r.Kind == fsys.Packed; r.File != at || r.Len <= 0 || none != (r.Vol < 0) {
			return fmt.Errorf("%+v, at %d", r, at)
		}
		at += r.Len
	}
	if at < (size+block-1)/block*block {
		return fmt.Errorf("they end at %d of %d", at, size)
	}
	return nil
}

// nodeReader reads a node as an io.ReaderAt.
type nodeReader struct {
	ctx context.Context // an adapter's whole purpose is to carry it
	f   fsys.FileSystem
	n   fsys.Node
}

func (r nodeReader) ReadAt(p []byte, off int64) (int, error) { return r.f.ReadAt(r.ctx, r.n, p, off) }
