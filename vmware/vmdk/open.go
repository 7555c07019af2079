package vmdk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/hikae/hikae/pipe"
)

const (
	maxDepth     = 256 // disks of a chain
	defaultCache = 32 << 20
)

// opener opens a disk and all that it stands on.
type opener struct {
	folder Folder
	opts   Options
	cache  *cache
	files  map[string]pipe.Image // by name: an extent may take a part of a file that another has the rest of
	order  []pipe.Image
	names  []string
	chain  []string // descriptors, the disk's own first
	info   Info
}

func newOpener(folder Folder, opts Options) *opener {
	if opts.CacheBytes <= 0 {
		opts.CacheBytes = defaultCache
	}
	return &opener{folder: folder, opts: opts, cache: newCache(opts.CacheBytes), files: make(map[string]pipe.Image)}
}

func (o *opener) close() (err error) {
	for _, f := range o.order {
		err = errors.Join(err, f.Close())
	}
	return err
}

// file opens a file, or finds it among those that are open.
func (o *opener) file(ctx context.Context, name string) (pipe.Image, error) {
	if f, ok := o.files[name]; ok {
		return f, nil
	}
	if len(o.order) >= maxExtents {
		return nil, fmt.Errorf("more than %d files", maxExtents)
	}
	f, err := o.folder.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	o.files[name] = f
	o.order, o.names = append(o.order, f), append(o.names, name)
	return f, nil
}

// refer opens what a descriptor names.
func (o *opener) refer(ctx context.Context, from, ref string) (pipe.Image, string, error) {
	fail := func(reason string, err error) (pipe.Image, string, error) {
		return nil, "", &ReferenceError{Path: from, Reference: ref, Reason: reason, Err: err}
	}
	if ref == "" || strings.ContainsRune(ref, 0) {
		return fail("it is no path", nil)
	}
	name := beside(from, ref)
	f, err := o.file(ctx, name)
	switch {
	case err == nil:
		return f, name, nil
	case ctx.Err() != nil:
		return nil, "", err
	case errors.Is(err, errOutside), errors.Is(err, errDevice):
		return fail(err.Error(), nil)
	}
	return fail("it cannot be opened", err)
}

// disk opens one disk of the chain, and what is below it. It returns the disk's content id too.
func (o *opener) disk(ctx context.Context, name string, file pipe.Image) (*layer, CID, error) {
	if len(o.chain) >= maxDepth {
		return nil, 0, &ReferenceError{Path: o.chain[len(o.chain)-1], Reference: name, Reason: fmt.Sprintf("the chain is deeper than %d", maxDepth)}
	}
	for _, above := range o.chain {
		if above == name || sameFile(o.files[above], file) {
			return nil, 0, &ReferenceError{Path: o.chain[len(o.chain)-1], Reference: name, Reason: "the chain leads back to it"}
		}
	}
	o.chain = append(o.chain, name)
	d, g, err := o.read(ctx, name, file)
	if err != nil {
		return nil, 0, err
	}
	if len(o.chain) == 1 {
		o.info = Info{Descriptor: *d}
	}
	l := &layer{path: name}
	if g != nil {
		l.parts, l.size = []part{{len: g.size, grains: g}}, g.size
	} else if err := o.extents(ctx, l, d); err != nil {
		return nil, 0, err
	}
	return l, d.CID, o.parent(ctx, l, d)
}

// sameFile reports whether two files are one by different names.
func sameFile(a, b pipe.Image) bool {
	type stater interface{ Stat() (fs.FileInfo, error) }
	sa, okA := a.(stater)
	sb, okB := b.(stater)
	if !okA || !okB {
		return false
	}
	fa, errA := sa.Stat()
	fb, errB := sb.Stat()
	return errA == nil && errB == nil && os.SameFile(fa, fb)
}

// read reads a disk's descriptor; and where that stands in its one extent, opens this.
func (o *opener) read(ctx context.Context, name string, file pipe.Image) (*Descriptor, *grains, error) {
	start := make([]byte, min(file.Size(), 8))
	if err := readFull(ctx, file, start, 0); err != nil {
		return nil, nil, fmt.Errorf("%s: header: %w", name, err)
	}
	switch {
	case strings.HasPrefix(string(start), hostedMagic):
		return o.hosted(ctx, name, file)
	case strings.HasPrefix(string(start), cowdMagic), len(start) == 8 && binary.LittleEndian.Uint64(start) == seMagic:
		return nil, nil, &UnsupportedError{Path: name, Feature: "an extent without its descriptor"}
	case file.Size() > maxDescriptor:
		return nil, nil, &CorruptError{Path: name, Reason: "it is no VMDK"}
	}
	text := make([]byte, file.Size())
	if err := readFull(ctx, file, text, 0); err != nil {
		return nil, nil, fmt.Errorf("%s: descriptor: %w", name, err)
	}
	d, err := ParseDescriptor(name, text)
	return d, nil, err
}

// hosted reads a disk that is one file. By what name the descriptor in it calls that file does not matter: files are
// renamed.
func (o *opener) hosted(ctx context.Context, name string, file pipe.Image) (*Descriptor, *grains, error) {
	h, err := readHosted(ctx, name, file)
	if err != nil {
		return nil, nil, err
	}
	d, err := h.embedded(ctx, name, file)
	switch {
	case err != nil:
		return nil, nil, err
	case d == nil:
		return nil, nil, &UnsupportedError{Path: name, Feature: "an extent without its descriptor"}
	case len(d.Extents) != 1 || d.Extents[0].Type != "SPARSE" || d.Extents[0].Access == NoAccess:
		return nil, nil, &UnsupportedError{Path: name, Feature: "a descriptor in one of several extents"}
	}
	g, err := h.grains(name, file, o.cache)
	return d, g, err
}

// extents opens what a descriptor of its own names.
func (o *opener) extents(ctx context.Context, l *layer, d *Descriptor) error {
	for _, e := range d.Extents {
		p := part{off: l.size, len: e.Sectors * sector, closed: e.Access == NoAccess}
		if !p.closed {
			if err := o.extent(ctx, l.path, e, &p); err != nil {
				return err
			}
		}
		l.parts = append(l.parts, p)
		l.size += p.len
	}
	return nil
}

func (o *opener) extent(ctx context.Context, path string, e ExtentLine, p *part) (err error) {
	switch e.Type {
	case "ZERO":
		return nil
	case "FLAT", "VMFS", "SPARSE", "VMFSSPARSE", "SESPARSE":
	default:
		return &UnsupportedError{Path: path, Feature: "an extent of type " + e.Type}
	}
	file, name, err := o.refer(ctx, path, e.File)
	if err != nil {
		return err
	}
	switch e.Type {
	case "FLAT", "VMFS":
		p.flat, p.at = file, e.Offset*sector
		if p.at > file.Size()-p.len {
			return &CorruptError{Path: name, Offset: file.Size(), Reason: fmt.Sprintf("it ends before the extent of %d bytes at %d does", p.len, p.at)}
		}
		return nil
	case "SPARSE":
		var h *hosted
		if h, err = readHosted(ctx, name, file); err == nil {
			p.grains, err = h.grains(name, file, o.cache)
		}
	case "VMFSSPARSE":
		p.grains, err = openCOWD(ctx, name, file, o.cache)
	case "SESPARSE":
		p.grains, err = openSESparse(ctx, name, file, o.cache)
	}
	if err == nil && p.grains.size < p.len {
		err = &CorruptError{Path: name, Reason: fmt.Sprintf("the extent has %d bytes, its descriptor says %d", p.grains.size, p.len)}
	}
	return err
}

// parent opens what a delta stands on, if that is still what it was written over.
func (o *opener) parent(ctx context.Context, l *layer, d *Descriptor) error {
	if d.ParentCID == NoParent {
		return nil
	}
	if d.ParentHint == "" {
		return &ReferenceError{Path: l.path, Reason: fmt.Sprintf("it stands on content %v and does not name the file", d.ParentCID)}
	}
	file, name, err := o.refer(ctx, l.path, d.ParentHint)
	if err != nil {
		return err
	}
	below, cid, err := o.disk(ctx, name, file)
	if err != nil {
		return err
	}
	if cid != d.ParentCID {
		return &CIDError{Path: l.path, Parent: name, Want: d.ParentCID, Have: cid}
	}
	l.parent = below
	return nil
}
