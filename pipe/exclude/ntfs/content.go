package ntfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// content is what a file is and where its bytes are.
type content struct {
	number  int64
	mode    fs.FileMode
	flags   uint32
	links   uint32
	mod     time.Time
	kept    string
	link    string
	data    *stream // nil: nothing
	refusal error   // why the bytes cannot be read
	broken  error   // the record is damaged: kept so that a directory full of names of it costs no more than one
}

// content finds out about a file, through a cache of what was asked for last.
func (w *view) content(ctx context.Context, n int64) (*content, error) {
	if c, ok := w.open.get(n); ok {
		return c, c.broken
	}
	c := &content{number: n}
	f, err := w.file(ctx, n)
	if err == nil {
		err = w.describe(ctx, f, c)
	}
	var bad *fsys.CorruptError
	switch {
	case errors.As(err, &bad):
		c = &content{number: n, broken: err}
	case err != nil:
		return nil, err
	}
	weight := 64
	if c.data != nil {
		weight += len(c.data.runs) + len(c.data.resident)/24
	}
	w.open.put(n, c, weight)
	return c, c.broken
}

func (w *view) describe(ctx context.Context, f *file, c *content) error {
	if err := c.fromStandard(f); err != nil {
		return corrupt(fmt.Sprintf("file record %d", f.number), w.where(f.number), err)
	}
	if err := c.fromNames(f); err != nil {
		return corrupt(fmt.Sprintf("file record %d", f.number), w.where(f.number), err)
	}
	c.mode = 0o666
	if c.flags&flagReadOnly != 0 {
		c.mode = 0o444
	}
	if f.head.flags()&recordDir != 0 {
		c.mode = fs.ModeDir | 0o777
	} else if s, err := w.stream(f, typeData, ""); err == nil {
		c.data = s
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if c.data != nil && c.data.flags&attrEncrypted != 0 {
		c.refusal = &ContentError{Node: fsys.Node(f.number), Why: "it is encrypted (EFS)", Encrypted: true}
	}
	if len(f.parts(typeReparse, "")) > 0 {
		return w.reparse(ctx, f, c)
	}
	if c.flags&flagSystem != 0 && c.refusal == nil {
		return c.interix(ctx)
	}
	return nil
}

func (c *content) fromStandard(f *file) error {
	for _, a := range f.parts(typeStandard, "") {
		if !a.resident || len(a.value) < 0x24 {
			return errors.New("no room for the standard information")
		}
		c.mod, c.flags = filetime(le.Uint64(a.value[8:])), le.Uint32(a.value[0x20:])
	}
	return nil
}

func (c *content) fromNames(f *file) error {
	if f.number < firstOrdinary {
		c.kept = "it is the file system's own"
	}
	for _, a := range f.parts(typeName, "") {
		n, err := parseName(a.value)
		if err != nil {
			return err
		}
		if n.space != spaceDOS {
			c.links++
		}
		if n.parent.number() == numberExtend {
			c.kept = "it is the file system's own"
		}
	}
	return nil
}

// filetime counts units of 100 ns since the year 1601.
func filetime(t uint64) time.Time {
	const second, unix = 10_000_000, 11_644_473_600
	return time.Unix(int64(t/second)-unix, int64(t%second)*100).UTC()
}

// Stat implements [fsys.FileSystem]. Permissions stand in lists that only Windows can judge: what is shown is the
// read-only flag.
func (v *volume) Stat(ctx context.Context, n fsys.Node) (fsys.Attr, error) {
	c, err := v.now.content(ctx, int64(n))
	if err != nil {
		return fsys.Attr{}, err
	}
	a := fsys.Attr{Node: n, Mode: c.mode, Links: c.links, Mod: c.mod, Kept: c.kept}
	switch {
	case c.mode&fs.ModeSymlink != 0:
		a.Size = int64(len(c.link))
	case c.mode.IsRegular() && c.data != nil:
		a.Size = c.data.size
	}
	return a, nil
}

// regular is the content of a regular file.
func (v *volume) regular(ctx context.Context, n fsys.Node) (*content, error) {
	c, err := v.now.content(ctx, int64(n))
	if err != nil {
		return nil, err
	}
	if !c.mode.IsRegular() {
		return nil, fmt.Errorf("file record %d is no regular file: %w", n, fs.ErrInvalid)
	}
	return c, nil
}

// ReadAt implements [fsys.FileSystem]. A [*ContentError] says that the bytes cannot be had from outside.
func (v *volume) ReadAt(ctx context.Context, n fsys.Node, p []byte, off int64) (int, error) {
	c, err := v.regular(ctx, n)
	switch {
	case err != nil:
		return 0, err
	case off < 0:
		return 0, fs.ErrInvalid
	case c.refusal != nil:
		return 0, c.refusal
	case c.data == nil:
		if len(p) > 0 {
			return 0, io.EOF
		}
		return 0, nil
	}
	return c.data.readAt(ctx, p, off)
}

// Readlink implements [fsys.FileSystem].
func (v *volume) Readlink(ctx context.Context, n fsys.Node) (string, error) {
	c, err := v.now.content(ctx, int64(n))
	if err != nil {
		return "", err
	}
	if c.mode&fs.ModeSymlink == 0 {
		return "", fmt.Errorf("file record %d is no link: %w", n, fs.ErrInvalid)
	}
	return c.link, nil
}

// Runs implements [fsys.FileSystem]. What is allocated behind the part that was ever written is Unwritten, to the byte.
func (v *volume) Runs(ctx context.Context, n fsys.Node) iter.Seq2[fsys.Run, error] {
	return func(yield func(fsys.Run, error) bool) {
		c, err := v.regular(ctx, n)
		if err != nil {
			yield(fsys.Run{}, err)
			return
		}
		for r := range c.runs() {
			if err := ctx.Err(); err != nil {
				yield(fsys.Run{}, err)
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (c *content) runs() iter.Seq[fsys.Run] {
	return func(yield func(fsys.Run) bool) {
		s := c.data
		if s == nil || s.size == 0 && len(s.runs) == 0 {
			return
		}
		if s.runs == nil || s.unit > 0 || c.packed() {
			n := max(s.size, s.alloc) + s.cluster - 1
			yield(fsys.Run{Len: n - n%s.cluster, Vol: -1, Kind: fsys.Packed})
			return
		}
		for _, r := range s.runs {
			if r.lcn < 0 {
				if !yield(fsys.Run{File: r.vcn * s.cluster, Len: r.n * s.cluster, Vol: -1, Kind: fsys.Hole}) {
					return
				}
				continue
			}
			if !s.splitAtInit(r, yield) {
				return
			}
		}
	}
}

// packed: somebody above NTFS keeps the content elsewhere.
func (c *content) packed() bool {
	e, ok := c.refusal.(*ContentError)
	return ok && e.Tag != 0
}

// splitAtInit yields the part of a run that was written, and the rest.
func (s *stream) splitAtInit(r run, yield func(fsys.Run) bool) bool {
	from, vol, n := r.vcn*s.cluster, r.lcn*s.cluster, r.n*s.cluster
	written := max(0, min(n, s.init-from))
	if written > 0 && !yield(fsys.Run{File: from, Len: written, Vol: vol, Kind: fsys.Written}) {
		return false
	}
	return written == n || yield(fsys.Run{File: from + written, Len: n - written, Vol: vol + written, Kind: fsys.Unwritten})
}
