package vhdx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/hikae/hikae/pipe"
)

const defaultDepth = 128

// chainFile is one file of a chain.
type chainFile struct {
	pipe.Image
	path string // as errors name it
}

// places is where the files of a chain lie. A place is a name there: what it looks like, only places knows.
type places interface {
	// candidates are the places where the parent of a disk may be, most likely first.
	candidates(at string, info Info) []string
	// open opens the file at a place. None is fs.ErrNotExist.
	open(ctx context.Context, place string) (chainFile, error)
	// same reports whether two open files are known to be one.
	same(a, b chainFile) bool
	// where says in words where was looked.
	where() string
}

// opener opens the files of one chain.
type opener struct {
	opts  Options
	cache *cache
	logs  int64 // bytes of logs that may still be taken into memory
	files []chainFile
	infos []Info // of the parents
}

func newOpener(opts *Options) *opener {
	o := &opener{logs: maxLog}
	if opts != nil {
		o.opts = *opts
	}
	if o.opts.Depth <= 0 {
		o.opts.Depth = defaultDepth
	}
	o.cache = newCache(o.opts.CacheBytes)
	return o
}

func (o *opener) close() error {
	var errs []error
	for _, f := range o.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// open opens the disk in a file, which the opener owns from then on, and the chain below it. where is asked for only if
// the disk has a parent.
func (o *opener) open(ctx context.Context, f chainFile, where func() (places, string, error)) (*Image, error) {
	o.files = append(o.files, f)
	top, info, err := o.layer(ctx, f.path, f.Image)
	if err == nil {
		err = o.parents(ctx, where, top, info)
	}
	if err != nil {
		return nil, err
	}
	info.Depth = len(o.files)
	return &Image{top: top, files: o.files, info: info, below: o.infos}, nil
}

// layer reads what one file says about itself.
func (o *opener) layer(ctx context.Context, name string, file pipe.Image) (*layer, Info, error) {
	p := &parser{ctx, name, file}
	head := make([]byte, 8)
	if n, err := file.ReadAt(ctx, head, 0); n == len(head) && string(head) != identifier {
		return o.vhdLayer(p)
	} else if n < len(head) && (err == nil || file.Size() >= int64(len(head))) {
		return nil, Info{}, fmt.Errorf("%s: read at 0: %w", name, err)
	}
	h, err := p.header()
	if err != nil {
		return nil, Info{}, err
	}
	l, _, info, err := o.vhdxLayer(p, h)
	return l, info, err
}

// vhdxLayer reads a VHDX file of which the header is known.
func (o *opener) vhdxLayer(p *parser, h header) (*layer, *blockTable, Info, error) {
	file, patches, err := p.readLog(h, o.logs)
	if err != nil {
		return nil, nil, Info{}, err
	}
	if len(patches) > 0 {
		o.logs -= h.logLen
	}
	after := &parser{p.ctx, p.path, file}
	bat, metadata, err := after.regions(h)
	if err != nil {
		return nil, nil, Info{}, err
	}
	m, err := after.metadata(metadata)
	if err != nil {
		return nil, nil, Info{}, err
	}
	if m.entries()*8 > bat.len {
		return nil, nil, Info{}, p.corrupt(bat.off, "the table of blocks has %d bytes, a disk of %d bytes needs %d", bat.len, m.size, m.entries()*8)
	}
	t := &blockTable{
		meta: m, path: p.path, file: file, id: o.id(), cache: o.cache, bat: bat,
		taken: []region{{0, mib}, bat, metadata},
	}
	if h.logLen > 0 {
		t.taken = append(t.taken, region{h.logOff, h.logLen})
	}
	info := Info{
		Format: "vhdx", Size: m.size, BlockSize: m.blockSize, SectorSize: m.sector, PhysicalSector: m.physical, DiskID: m.diskID,
		DataWrite: h.dataWrite, Sequence: h.sequence, Locator: m.locator, LogReplayed: h.log != GUID{},
	}
	switch {
	case m.hasParent:
		info.Type = Differencing
	case m.keep:
		info.Type = Fixed
	}
	return &layer{table: t, path: p.path, size: m.size, sector: m.sector, file: file}, t, info, nil
}

// parents opens what is below a layer, down to a disk that stands alone.
func (o *opener) parents(ctx context.Context, where func() (places, string, error), child *layer, info Info) error {
	if info.Type != Differencing {
		return nil
	}
	in, at, err := where()
	if err != nil {
		return &ParentError{child.path, parentNames(info), err}
	}
	for info.Type == Differencing {
		parent, parentInfo, place, err := o.parent(ctx, in, at, info)
		if err == nil && parent.sector != child.sector {
			err = fmt.Errorf("%w: it has sectors of %d bytes, the disk of %d", ErrParentMismatch, parent.sector, child.sector)
		}
		if err != nil {
			return &ParentError{child.path, parentNames(info), err}
		}
		child.parent, o.infos = parent, append(o.infos, parentInfo)
		child, info, at = parent, parentInfo, place
	}
	return nil
}

// parentNames are the paths by which a disk names its parent.
func parentNames(info Info) (names []string) {
	for _, k := range []string{keyRelative, keyVolume, keyAbsolute} {
		if v := info.Locator[k]; v != "" {
			names = append(names, v)
		}
	}
	return names
}

// parent finds and opens the parent of the disk at a place. Of the files that are where it may be, the one
// with the right identity is taken; a file that is broken, or another disk, is passed by and told if none is right.
func (o *opener) parent(ctx context.Context, in places, at string, info Info) (*layer, Info, string, error) {
	want, err := linkages(info)
	if err != nil {
		return nil, Info{}, "", err
	}
	if len(o.files) >= o.opts.Depth {
		return nil, Info{}, "", fmt.Errorf("%w: it has more than %d files", ErrChain, o.opts.Depth)
	}
	var passed error
	for _, place := range in.candidates(at, info) {
		l, i, err := o.try(ctx, in, place, want)
		switch {
		case err == nil:
			return l, i, place, nil
		case ctx.Err() != nil:
			return nil, Info{}, "", err
		case errors.Is(err, fs.ErrNotExist):
		case passed == nil || errors.Is(passed, ErrParentMismatch) && !errors.Is(err, ErrParentMismatch):
			passed = err
		}
	}
	if passed == nil {
		passed = fmt.Errorf("%w in %s", ErrParentMissing, in.where())
	}
	return nil, Info{}, "", passed
}

func nonempty(names ...string) (out []string) {
	for _, n := range names {
		if n != "" {
			out = append(out, n)
		}
	}
	return out
}

// linkages are the identities that a parent may have. The second is there while a parent's is being changed.
func linkages(info Info) (want []GUID, err error) {
	for _, k := range []string{keyLinkage, keyLinkage2} {
		if v := info.Locator[k]; v != "" {
			g, err := ParseGUID(v)
			if err != nil {
				return nil, fmt.Errorf("%w: %s: %w", ErrParentMismatch, k, err)
			}
			want = append(want, g)
		}
	}
	if len(want) == 0 {
		return nil, fmt.Errorf("%w: the disk does not say which it is", ErrParentMismatch)
	}
	return want, nil
}

// try opens the file at a place as the parent.
func (o *opener) try(ctx context.Context, in places, place string, want []GUID) (*layer, Info, error) {
	f, err := in.open(ctx, place)
	if err != nil {
		return nil, Info{}, err
	}
	o.files = append(o.files, f)
	l, info, err := o.known(ctx, in, f, want)
	if err != nil {
		o.files = o.files[:len(o.files)-1]
		return nil, Info{}, errors.Join(err, f.Close())
	}
	return l, info, nil
}

func (o *opener) known(ctx context.Context, in places, f chainFile, want []GUID) (*layer, Info, error) {
	for _, above := range o.files[:len(o.files)-1] {
		if in.same(f, above) {
			return nil, Info{}, fmt.Errorf("%w: %s is above itself", ErrChain, f.path)
		}
	}
	before := o.logs
	l, info, err := o.layer(ctx, f.path, f.Image)
	if err != nil {
		return nil, Info{}, err
	}
	for _, w := range want {
		if w == info.DataWrite {
			return l, info, nil
		}
	}
	o.forget(len(o.files) - 1)
	o.logs = before
	return nil, Info{}, fmt.Errorf("%w: %s is %v, not %v", ErrParentMismatch, f.path, info.DataWrite, joinGUIDs(want))
}

// forget drops the pages of a file that was opened and is not the one.
func (o *opener) forget(file int) {
	o.cache.mu.Lock()
	defer o.cache.mu.Unlock()
	for k := range o.cache.pages {
		if k.file == file {
			delete(o.cache.pages, k)
		}
	}
}

func joinGUIDs(list []GUID) string {
	var words []string
	for _, g := range list {
		words = append(words, g.String())
	}
	return strings.Join(words, " or ")
}

// id is what the file that was opened last is known by in the cache.
func (o *opener) id() int { return max(len(o.files)-1, 0) }
