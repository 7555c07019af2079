package qcow2

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

const (
	maxDepth       = 200      // images in a chain
	maxChainTables = 48 << 20 // bytes of L1 tables of a chain
	defaultCache   = 32 << 20
)

// opener opens an image and all that it stands on.
type opener struct {
	opts   Options
	home   string // the folder of the image that the user named, without symbolic links
	allow  []string
	files  []*diskfile.Image
	layers int
	budget int64 // bytes of L1 tables that may still be read
	cache  *cache
}

func newOpener(opts *Options) *opener {
	o := &opener{budget: maxChainTables}
	if opts != nil {
		o.opts = *opts
	}
	if o.opts.CacheBytes <= 0 {
		o.opts.CacheBytes = defaultCache
	}
	o.cache = newCache(o.opts.CacheBytes)
	return o
}

func (o *opener) close() (err error) {
	for _, f := range o.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// open opens what the user named.
func (o *opener) open(ctx context.Context, path string) (*Image, error) {
	file, err := diskfile.Open(path, o.fileOptions())
	if err != nil {
		return nil, err
	}
	o.files = append(o.files, file)
	if err := o.places(path); err != nil {
		return nil, err
	}
	top, err := o.layer(ctx, path, file, o.opts.Alone, o.opts.Snapshot)
	if err != nil {
		return nil, err
	}
	return o.image(ctx, top)
}

func (o *opener) fileOptions() *diskfile.OpenOptions { return &diskfile.OpenOptions{Live: o.opts.Live} }

func (o *opener) image(ctx context.Context, top *layer) (*Image, error) {
	info, err := top.info(ctx)
	if err != nil {
		return nil, err
	}
	info.Depth = o.layers
	return &Image{top: top, files: o.files, info: info}, nil
}

// places finds the real names of the folders in which files may lie.
func (o *opener) places(path string) (err error) {
	if o.home, err = realPath(filepath.Dir(path)); err != nil {
		return err
	}
	for _, dir := range o.opts.Allow {
		real, err := realPath(dir)
		if err != nil {
			return fmt.Errorf("allowed folder: %w", err)
		}
		o.allow = append(o.allow, real)
	}
	return nil
}

func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// layer opens one image of the chain, and what is below it. Where noRefs is not empty, it is the reason why the image
// may name no other files.
func (o *opener) layer(ctx context.Context, path string, file pipe.Image, noRefs, snapshot string) (*layer, error) {
	h, err := readHeader(ctx, path, file)
	if err != nil {
		return nil, err
	}
	if h.incompatible&featCorrupt != 0 && !o.opts.AllowCorrupt {
		return nil, &CorruptError{Path: path, Offset: 72, Reason: "it is marked as corrupt"}
	}
	l := &layer{path: path, id: o.layers, h: h, size: h.size, file: file, data: file, cache: o.cache}
	if o.layers++; o.layers > maxDepth {
		return nil, &ReferenceError{Path: path, Reference: h.backing, Reason: fmt.Sprintf("the chain is deeper than %d", maxDepth)}
	}
	if err := o.tables(ctx, l, snapshot); err != nil {
		return nil, err
	}
	if err := o.dataFile(l, noRefs); err != nil {
		return nil, err
	}
	return l, o.backing(ctx, l, noRefs)
}

// tables reads the L1 table of the current state, or of a snapshot.
func (o *opener) tables(ctx context.Context, l *layer, snapshot string) error {
	if snapshot == "" {
		return l.loadL1(ctx, l.h.l1Off, l.h.l1Len, &o.budget)
	}
	s, err := l.findSnapshot(ctx, snapshot)
	if err != nil {
		return err
	}
	l.size, l.ofSnapshot = s.Size, true
	return l.loadL1(ctx, s.l1Off, s.l1Len, &o.budget)
}

// dataFile opens the external data file.
func (o *opener) dataFile(l *layer, noRefs string) error {
	if l.h.incompatible&featDataFile == 0 {
		return nil
	}
	if l.h.dataFile == "" {
		return &CorruptError{Path: l.path, Offset: 72, Reason: "its data is in another file, which it does not name"}
	}
	file, _, err := o.refer(l.path, l.h.dataFile, noRefs)
	if err != nil {
		return err
	}
	l.data, l.extern = file, true
	return nil
}

// backing opens the backing file in its format.
func (o *opener) backing(ctx context.Context, l *layer, noRefs string) error {
	if l.h.backing == "" {
		return nil
	}
	file, path, err := o.refer(l.path, l.h.backing, noRefs)
	if err != nil {
		return err
	}
	switch format := l.h.backingFormat; format {
	case "raw", "file", "host_device":
		l.backing = file
	case "qcow2":
		return o.below(ctx, l, path, file, "")
	case "":
		return o.probed(ctx, l, path, file)
	default:
		return &diskfile.FormatError{Path: path, Format: format}
	}
	return nil
}

func (o *opener) below(ctx context.Context, l *layer, path string, file *diskfile.Image, noRefs string) error {
	below, err := o.layer(ctx, path, file, noRefs, "")
	if err != nil {
		return err
	}
	l.backing = below
	return nil
}

// probed looks at a backing file whose format is not stated, as QEMU would. If it is a raw disk, a guest decides what
// it looks like: so it may look like qcow2, but not lead to other files.
func (o *opener) probed(ctx context.Context, l *layer, path string, file *diskfile.Image) error {
	p, err := diskfile.ReadProbe(ctx, file)
	if err != nil {
		return err
	}
	switch name := diskfile.Recognise(p); {
	case name == "":
		l.backing = file
		return nil
	case name != "qcow2":
		return &diskfile.FormatError{Path: path, Format: name}
	case o.opts.TrustProbe:
		return o.below(ctx, l, path, file, "")
	}
	return o.below(ctx, l, path, file, "its overlay does not state its format, so that these may be a guest's words")
}

// refer opens a file that an image names, if it lies where the user allows it.
// The path is for what that file names in turn: relative to where it was named, not to where a symbolic link leads.
func (o *opener) refer(from, ref, noRefs string) (file *diskfile.Image, path string, err error) {
	fail := func(reason string, err error) (*diskfile.Image, string, error) {
		return nil, "", &ReferenceError{Path: from, Reference: ref, Reason: reason, Err: err}
	}
	switch {
	case noRefs != "":
		return fail(noRefs, nil)
	case strings.ContainsRune(ref, 0):
		return fail("it is no path", nil)
	case hasProtocol(ref):
		return fail("only paths of files are followed", nil)
	}
	path = ref
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(from), path)
	}
	real, err := realPath(path)
	if err != nil {
		return fail("it cannot be found", err)
	}
	dir, ok := o.allowed(real)
	if !ok {
		return fail("it lies outside of the allowed folders", nil)
	}
	file, err = openBelow(dir, real, o.fileOptions())
	if err != nil {
		return fail("it cannot be opened", err)
	}
	if err := o.own(file); err != nil {
		return fail("the chain leads back to it", err)
	}
	return file, path, nil
}

// hasProtocol reports whether QEMU would take a name for something else than a path: a word and a colon before any
// slash.
func hasProtocol(ref string) bool {
	before, _, _ := strings.Cut(ref, "/")
	if vol := filepath.VolumeName(ref); vol != "" {
		before = strings.TrimPrefix(before, vol)
	}
	return strings.Contains(before, ":")
}

// allowed finds the allowed folder that a real path lies in: the home folder itself, or anywhere below the others.
func (o *opener) allowed(real string) (dir string, ok bool) {
	if filepath.Dir(real) == o.home {
		return o.home, true
	}
	for _, dir := range o.allow {
		if rel, err := filepath.Rel(dir, real); err == nil && filepath.IsLocal(rel) {
			return dir, true
		}
	}
	return "", false
}

// openBelow opens a file by its real path below dir. Whatever is swapped on the way there meanwhile, it does not leave
// dir.
func openBelow(dir, real string, opts *diskfile.OpenOptions) (*diskfile.Image, error) {
	rel, err := filepath.Rel(dir, real)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return diskfile.OpenIn(root, rel, opts)
}

var errCycle = errors.New("cyclic chain")

// own takes a file into the chain, unless it is in it already.
func (o *opener) own(file *diskfile.Image) error {
	fi, err := file.Stat()
	for _, f := range o.files {
		var have fs.FileInfo
		if err == nil {
			have, err = f.Stat()
		}
		if err == nil && os.SameFile(have, fi) {
			err = errCycle
		}
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	o.files = append(o.files, file)
	return nil
}
