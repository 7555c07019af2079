package vhdx

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/bits"
	"path/filepath"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// CreateOptions change how a disk file is written. Nil and zero fields are good defaults.
type CreateOptions struct {
	diskfile.CreateOptions

	// Type is Dynamic, or Fixed: then the file has its full length, and what is not written is a hole in it. With a
	// Parent the disk is Differencing, whatever is said here.
	Type Type
	// BlockSize is a power of two from 1 to 256 MiB. Zero: 32 MiB, and 2 MiB for a differencing disk and a VHD.
	BlockSize int64
	// SectorSize is the logical one, 512 or 4096. Zero: 512, or the parent's.
	SectorSize int64
	// Parent is the path of the disk that this one stands on. It must not change from now on.
	Parent string
	// ParentName is the parent's path as the Hyper-V host sees it (C:\VMs\disk.vhdx), which is written beside the
	// relative path. Empty: only the relative path is written.
	ParentName string
	// Open is how the parent is opened.
	Open Options
	// DiskID is the identity of the virtual disk. Zero: the parent's, or a new one.
	DiskID GUID
	// CacheBytes bounds the tables that are kept. Zero: 32 MiB.
	CacheBytes int
}

// Target is a VHDX disk that is being made. It has the extents ability. Blocks take space in the file when something
// that is not zero is written to them.
type Target struct {
	*writer
	file   publisher
	parent *Image
}

// publisher is a file that becomes a disk all at once, or is abandoned.
type publisher interface {
	Commit(ctx context.Context) error
	Close() error
}

var _ pipe.ExtentTarget = (*Target)(nil)

// Create starts a VHDX file with a disk of size bytes at path, with the errors of [diskfile.Begin], and of [Open] for
// the parent; the file appears at Commit. With a parent, a size of zero is the parent's. The file's disk is longer than
// the target where size is no multiple of the sector size, as the format knows whole sectors only, and at least one;
// what is added is zero.
func Create(ctx context.Context, path string, size int64, opts *CreateOptions) (*Target, error) {
	o := CreateOptions{}
	if opts != nil {
		o = *opts
	}
	t := &Target{}
	var locator map[string]string
	if o.Parent != "" {
		var err error
		if t.parent, err = Open(ctx, o.Parent, &o.Open); err != nil {
			return nil, err
		}
		if locator, err = t.onParent(path, &size, &o); err != nil {
			return nil, errors.Join(err, t.parent.Close())
		}
	}
	err := t.begin(ctx, path, size, &o, locator)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// onParent takes from the parent what is not said, and makes the names that it gets.
func (t *Target) onParent(path string, size *int64, o *CreateOptions) (map[string]string, error) {
	info := t.parent.Info()
	if *size == 0 {
		*size = t.parent.Size()
	}
	if o.SectorSize == 0 {
		o.SectorSize = info.SectorSize
	}
	if o.DiskID == (GUID{}) {
		o.DiskID = info.DiskID
	}
	if (*size+o.SectorSize-1)/max(o.SectorSize, 1)*o.SectorSize < t.parent.Size() || o.SectorSize != info.SectorSize || info.Format != "vhdx" {
		return nil, fmt.Errorf("a child of %d bytes with sectors of %d on a %s of %d with %d: %w",
			*size, o.SectorSize, info.Format, t.parent.Size(), info.SectorSize, fs.ErrInvalid)
	}
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	parent, err := filepath.Abs(o.Parent)
	if err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(folder, parent)
	if err != nil {
		return nil, err
	}
	name, err := windowsName(filepath.ToSlash(rel))
	if err != nil {
		return nil, err
	}
	out := map[string]string{keyLinkage: info.DataWrite.String(), keyRelative: name}
	if o.ParentName != "" {
		out[keyAbsolute] = o.ParentName
	}
	return out, nil
}

func (t *Target) begin(ctx context.Context, path string, size int64, o *CreateOptions, locator map[string]string) error {
	m, err := newMeta(size, o, locator)
	if err != nil {
		return err
	}
	file, err := diskfile.Begin(path, &o.CreateOptions)
	if err != nil {
		return err
	}
	t.file = file
	store := &storeImage{storage: newPendingStorage(file)}
	if t.writer, err = format(ctx, path, store, m, o.CacheBytes); err != nil {
		return err
	}
	t.size = size
	if t.parent != nil {
		t.layer.parent, t.base = t.parent.top, ofParent
	}
	return nil
}

// newMeta checks what was asked for.
func newMeta(size int64, o *CreateOptions, locator map[string]string) (*meta, error) {
	m := &meta{
		blockSize: o.BlockSize, sector: o.SectorSize, physical: 4096, keep: o.Type == Fixed && locator == nil,
		hasParent: locator != nil, diskID: o.DiskID, locator: locator,
	}
	if m.sector == 0 {
		m.sector = 512
	}
	if m.blockSize == 0 {
		if m.blockSize = 32 * mib; m.hasParent {
			m.blockSize = 2 * mib
		}
	}
	if m.diskID == (GUID{}) {
		m.diskID = NewGUID()
	}
	m.size = max((size+m.sector-1)/m.sector, 1) * m.sector
	switch {
	case m.blockSize < minBlock || m.blockSize > maxBlock || bits.OnesCount64(uint64(m.blockSize)) != 1:
		return nil, fmt.Errorf("block size %d is no power of two from 1 to 256 MiB: %w", m.blockSize, fs.ErrInvalid)
	case m.sector != 512 && m.sector != 4096:
		return nil, fmt.Errorf("sector size %d: %w", m.sector, fs.ErrInvalid)
	case size < 0 || size > maxDiskSize:
		return nil, fmt.Errorf("disk size %d: %w", size, fs.ErrInvalid)
	}
	return m, nil
}

// format makes an empty disk of a file.
func format(ctx context.Context, path string, store *storeImage, m *meta, cacheBytes int) (*writer, error) {
	w, err := layOut(ctx, path, store, m, cacheBytes)
	if err != nil {
		return nil, err
	}
	return w, w.write(ctx, identifierBlock(), 0)
}

// identifierBlock is what a file begins with, and who made it.
func identifierBlock() []byte {
	b := make([]byte, tableLen)
	copy(b, identifier)
	copy(b[8:], utf16Bytes("Hikae", le))
	return b
}

// layOut makes all but the identifier: headers and region tables, then log, metadata, table of blocks, each from a whole MiB
// on.
func layOut(ctx context.Context, path string, store *storeImage, m *meta, cacheBytes int) (*writer, error) {
	const logOff, metaOff, batOff = 1 * mib, 2 * mib, 3 * mib
	bat := region{batOff, (m.entries()*8 + mib - 1) / mib * mib}
	w := &writer{path: path, size: m.size, store: store, fresh: true}
	w.h = header{at: headerOff1, fileWrite: NewGUID(), dataWrite: NewGUID(), version: 1, logLen: mib, logOff: logOff}
	if err := store.grow(ctx, bat.end()); err != nil {
		return nil, w.named("resize", bat.end(), err)
	}
	regions := encodeRegions(bat, region{metaOff, mib})
	for _, part := range []struct {
		b   []byte
		off int64
	}{{regions, regionOff0}, {regions, regionOff1}, {m.encode(), metaOff}} {
		if err := w.write(ctx, part.b, part.off); err != nil {
			return nil, err
		}
	}
	for range 2 {
		if err := w.writeHeader(ctx); err != nil {
			return nil, err
		}
	}
	w.table = &blockTable{
		meta: m, path: path, file: store, cache: newCache(cacheBytes), bat: bat,
		taken: []region{{0, mib}, {logOff, mib}, {metaOff, mib}, bat},
	}
	w.table.cache.writable = true
	w.layer = &layer{table: w.table, path: path, size: m.size, sector: m.sector, file: store}
	if m.keep {
		return w, w.fillFixed(ctx)
	}
	return w, nil
}

// fillFixed gives every block its place, in order.
func (w *writer) fillFixed(ctx context.Context) error {
	t := w.table
	at := w.store.Size()
	if err := w.named("resize", at, w.store.grow(ctx, at+t.blocks()*t.blockSize)); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for b := range t.blocks() {
		if err := w.set(ctx, t.entry(b), uint64(at+b*t.blockSize)|fullyPresent); err != nil {
			return err
		}
	}
	return nil
}

func encodeRegions(bat, metadata region) []byte {
	b := make([]byte, tableLen)
	copy(b, "regi")
	le.PutUint32(b[8:], 2)
	for i, r := range []struct {
		id GUID
		region
	}{{regionBAT, bat}, {regionMetadata, metadata}} {
		e := b[16+32*i:]
		copy(e, r.id[:])
		le.PutUint64(e[16:], uint64(r.off))
		le.PutUint32(e[24:], uint32(r.len))
		le.PutUint32(e[28:], 1) // required
	}
	le.PutUint32(b[4:], crc32.Checksum(b, castagnoli))
	return b
}

// encode makes the metadata region's table and items.
func (m *meta) encode() []byte {
	const virtualDisk, required = 2, 4
	flags := uint32(0)
	if m.keep {
		flags |= 1
	}
	if m.hasParent {
		flags |= 2
	}
	items := []struct {
		id    GUID
		flags uint32
		b     []byte
	}{
		{itemFile, required, le.AppendUint32(le.AppendUint32(nil, uint32(m.blockSize)), flags)},
		{itemSize, required | virtualDisk, le.AppendUint64(nil, uint64(m.size))},
		{itemDiskID, required | virtualDisk, m.diskID[:]},
		{itemLogical, required | virtualDisk, le.AppendUint32(nil, uint32(m.sector))},
		{itemPhysical, required | virtualDisk, le.AppendUint32(nil, uint32(m.physical))},
	}
	if m.hasParent {
		items = append(items, struct {
			id    GUID
			flags uint32
			b     []byte
		}{itemLocator, required, encodeLocator(m.locator)})
	}
	b := make([]byte, tableLen)
	copy(b, "metadata")
	le.PutUint16(b[10:], uint16(len(items)))
	for i, item := range items {
		e := b[32+32*i:]
		copy(e, item.id[:])
		le.PutUint32(e[16:], uint32(len(b)))
		le.PutUint32(e[20:], uint32(len(item.b)))
		le.PutUint32(e[24:], item.flags)
		b = append(b, item.b...)
		b = append(b, make([]byte, -len(b)&7)...)
	}
	return b
}

// Commit implements [pipe.Target], with the errors of [diskfile.Pending.Commit].
func (t *Target) Commit(ctx context.Context) error {
	if t.closed.Swap(true) {
		return t.fail("publish", -1, fs.ErrClosed)
	}
	err := t.seal(ctx)
	if err == nil && t.parent != nil {
		err = t.parent.Changed() // the child would not open: its parent is no longer the one
	}
	if err != nil {
		return errors.Join(err, t.Close())
	}
	return errors.Join(t.file.Commit(ctx), t.closeParent())
}

// Close implements [pipe.Target].
func (t *Target) Close() error {
	if t.writer != nil {
		t.closed.Store(true)
	}
	err := t.closeParent()
	if t.file != nil {
		err = errors.Join(err, t.file.Close())
	}
	return err
}

func (t *Target) closeParent() error {
	if t.parent == nil {
		return nil
	}
	p := t.parent
	t.parent = nil
	return p.Close()
}
