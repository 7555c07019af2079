package qcow2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// CreateOptions change how an image is written. Nil and zero fields are good defaults.
type CreateOptions struct {
	diskfile.CreateOptions

	// ClusterSize is a power of two, 512 bytes to 2 MiB. Zero: 64 KiB.
	ClusterSize int64
	// Compress stores clusters that are written whole, and only once, in compressed form.
	Compress bool
	// Compression is used where Compress is set. The zero value is Zlib, which every reader knows.
	Compression Compression
	// TableBytes bounds the L2 tables that are kept in memory. Zero: 32 MiB.
	TableBytes int
}

// Target is an image that is being made, of version 3 and without a backing file. It has the extents ability. Clusters
// take space in the file when something that is not zero is written to them, in the order in which that happens.
//
// The file is laid out as header, L1 table, then clusters with data and L2 tables as they come, and at Commit the
// reference counts. The header is written last.
type Target struct {
	file        *diskfile.Pending
	path        string
	size        int64
	clusterBits uint32
	compress    bool
	compression Compression

	mu     sync.Mutex // for alloc and tables
	alloc  allocator
	tables tables
	closed atomic.Bool
}

var _ pipe.ExtentTarget = (*Target)(nil)

const (
	defaultClusterSize = 64 << 10
	defaultTables      = 32 << 20
)

// Create starts an image of a disk of size bytes at path, with the errors of [diskfile.Begin]; the file appears at
// Commit. The image's disk is longer than the target where size is no multiple of 512, as the format knows whole sectors
// only; what is added is zero.
func Create(path string, size int64, opts *CreateOptions) (*Target, error) {
	t, err := newTarget(path, size, opts)
	if err != nil {
		return nil, err
	}
	var files diskfile.CreateOptions
	if opts != nil {
		files = opts.CreateOptions
	}
	if t.file, err = diskfile.Begin(path, &files); err != nil {
		return nil, err
	}
	t.tables.file = t.file
	return t, nil
}

func newTarget(path string, size int64, opts *CreateOptions) (*Target, error) {
	o := CreateOptions{}
	if opts != nil {
		o = *opts
	}
	if o.ClusterSize == 0 {
		o.ClusterSize = defaultClusterSize
	}
	if o.TableBytes <= 0 {
		o.TableBytes = defaultTables
	}
	clusterBits := uint32(bits.TrailingZeros64(uint64(o.ClusterSize)))
	switch covers := 2*clusterBits - 3; {
	case o.ClusterSize != 1<<clusterBits || clusterBits < minClusterBits || clusterBits > maxClusterBits:
		return nil, fmt.Errorf("cluster size %d is no power of two from 512 to 2 MiB: %w", o.ClusterSize, fs.ErrInvalid)
	case size < 0 || size > 1<<61:
		return nil, fmt.Errorf("disk size %d: %w", size, fs.ErrInvalid)
	case size>>covers >= maxL1Bytes/8:
		return nil, fmt.Errorf("a disk of %d bytes needs larger clusters than %d bytes: %w", size, o.ClusterSize, fs.ErrInvalid)
	case o.Compression > Zstd:
		return nil, fmt.Errorf("unknown %v: %w", o.Compression, fs.ErrInvalid)
	}
	t := &Target{
		path: path, size: size, clusterBits: clusterBits, compress: o.Compress,
	}
	if o.Compress {
		t.compression = o.Compression
	}
	t.begin(o.TableBytes)
	return t, nil
}

// begin lays out what stands at the start: the header and the L1 table.
func (t *Target) begin(tableBytes int) {
	cs := t.clusterSize()
	covers := 2*t.clusterBits - 3
	entries := max((t.size+1<<covers-1)>>covers, 1) // rounding to sectors never needs another
	t.alloc = allocator{clusterBits: t.clusterBits}
	t.alloc.clusters(1)
	l1 := t.alloc.clusters((entries*8 + cs - 1) / cs)
	t.tables = newTables(&t.alloc, cs, l1, int(entries), tableBytes)
}

// Size implements [pipe.Target].
func (t *Target) Size() int64 { return t.size }

func (t *Target) fail(op string, off int64, err error) error {
	return &diskfile.Error{Op: op, Path: t.path, Off: off, Err: err}
}

// check refuses ranges outside of the disk.
func (t *Target) check(ctx context.Context, off, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.closed.Load() {
		return t.fail("write", off, fs.ErrClosed)
	}
	if off < 0 || n < 0 || off > t.size || n > t.size-off {
		return t.fail("write", off, fmt.Errorf("%w: %d bytes leave the disk of %d", fs.ErrInvalid, n, t.size))
	}
	return nil
}

// WriteAt implements [pipe.Target].
func (t *Target) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := t.check(ctx, off, int64(len(p))); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		n, err := t.writeSome(p[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// writeSome writes the part of p that lies in one cluster, or in a row of clusters that are neighbours in the file.
func (t *Target) writeSome(p []byte, off int64) (int, error) {
	cs := t.clusterSize()
	n := min(int64(len(p)), cs-off&(cs-1))
	switch {
	case diskfile.IsZero(p[:n]):
		return int(n), t.zeroPart(off, n)
	case t.compress && t.whole(off, n):
		return int(n), t.writeWhole(p[:n], off)
	}
	host, err := t.place(off)
	if err != nil {
		return 0, err
	}
	for n < int64(len(p)) && !t.compress {
		m := min(int64(len(p))-n, cs)
		follows, err := t.placeAfter(p[n:n+m], off+n, host+n)
		if err != nil {
			return 0, err
		}
		if !follows {
			break
		}
		n += m
	}
	_, err = t.file.WriteAt(p[:n], host)
	return int(n), err
}

func (t *Target) clusterSize() int64 { return 1 << t.clusterBits }

// whole reports whether [off, off+n) is all that a cluster has of the disk.
func (t *Target) whole(off, n int64) bool {
	return off&(t.clusterSize()-1) == 0 && (n == t.clusterSize() || off+n == t.size)
}

// place finds where a byte of the disk goes in the file.
func (t *Target) place(off int64) (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.placeLocked(off)
}

func (t *Target) placeLocked(off int64) (int64, error) {
	cluster, in := off>>t.clusterBits, off&(t.clusterSize()-1)
	e, err := t.tables.get(cluster)
	switch {
	case err != nil:
		return 0, err
	case e&entryCompressed != 0:
		host, err := t.unpack(cluster, e)
		return host + in, err
	case e&entryZero != 0: // a cluster that was made zero keeps its place, which holds zeros
		return int64(e&offsetMask) + in, t.tables.set(cluster, e&^entryZero)
	case e != 0:
		return int64(e&offsetMask) + in, nil
	}
	host := t.alloc.clusters(1)
	return host + in, t.tables.set(cluster, uint64(host)|entryCopied)
}

// placeAfter reports whether p's cluster has its place at host, giving it that place if it has none yet and the file
// ends there.
func (t *Target) placeAfter(p []byte, off, host int64) (bool, error) {
	zero := diskfile.IsZero(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	e, err := t.tables.get(off >> t.clusterBits)
	if err != nil || zero {
		return false, err
	}
	if e == 0 && t.alloc.end() == host {
		return true, t.tables.set(off>>t.clusterBits, uint64(t.alloc.clusters(1))|entryCopied)
	}
	return e != 0 && e&(entryCompressed|entryZero) == 0 && int64(e&offsetMask) == host, nil
}

// writeWhole writes a whole cluster, compressed if it has no place yet and gets smaller.
func (t *Target) writeWhole(p []byte, off int64) error {
	plain := p
	if n := t.clusterSize(); int64(len(p)) < n { // the disk ends within its last cluster
		plain = append(make([]byte, 0, n), p...)[:n]
	}
	packed, err := t.compression.encode(plain)
	if err != nil {
		return t.fail("compress", off, err)
	}
	if len(packed) >= len(plain)-len(plain)/16 {
		packed = nil // too little is gained for what unpacking costs
	}
	host, fits, err := t.pack(off, int64(len(packed)))
	if err != nil {
		return err
	}
	if fits {
		p = packed
	}
	_, err = t.file.WriteAt(p, host)
	return err
}

// pack finds a place for a cluster that takes n bytes compressed. Where it has a place already, and for n = 0, that is
// a plain place, and fits is false.
func (t *Target) pack(off, n int64) (host int64, fits bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	cluster := off >> t.clusterBits
	e, err := t.tables.get(cluster)
	if err != nil {
		return 0, false, err
	}
	if e&entryCompressed != 0 {
		t.alloc.unpack(t.descriptor(e))
		if err := t.tables.set(cluster, 0); err != nil {
			return 0, false, err
		}
		e = 0
	}
	if e != 0 || n == 0 {
		host, err = t.placeLocked(off)
		return host, false, err
	}
	host = t.alloc.pack(n)
	sectors := (host+n-1)>>9 - host>>9
	return host, true, t.tables.set(cluster, entryCompressed|uint64(sectors)<<(70-t.clusterBits)|uint64(host))
}

// descriptor takes the L2 entry of a compressed cluster apart. The length is up to the end of its last sector.
func (t *Target) descriptor(e uint64) (host, n int64) { return descriptor(e, t.clusterBits) }

// unpack gives a compressed cluster a plain place, because a part of it is written over.
func (t *Target) unpack(cluster int64, e uint64) (int64, error) {
	from, n := t.descriptor(e)
	packed, plain := make([]byte, n), make([]byte, t.clusterSize())
	if got, err := t.file.ReadAt(packed, from); got == 0 {
		return 0, t.fail("read", from, err)
	}
	if err := t.compression.decode(plain, packed); err != nil {
		return 0, t.fail("unpack", from, err)
	}
	host := t.alloc.clusters(1)
	if _, err := t.file.WriteAt(plain, host); err != nil {
		return 0, err
	}
	t.alloc.unpack(from, n)
	return host, t.tables.set(cluster, uint64(host)|entryCopied)
}

// Mark implements [pipe.ExtentTarget]. Every reason reads as zero; Unchanged is diskfile.ErrNoBase.
func (t *Target) Mark(ctx context.Context, e pipe.Extent) error {
	if err := t.check(ctx, e.Off, e.Len); err != nil {
		return err
	}
	switch {
	case e.Kind == pipe.Unchanged:
		return t.fail("mark", e.Off, diskfile.ErrNoBase)
	case e.Kind != pipe.Zero && !e.Kind.Dropped():
		return t.fail("mark", e.Off, fmt.Errorf("%w: %v cannot be marked", fs.ErrInvalid, e.Kind))
	}
	cs := t.clusterSize()
	for off := e.Off; off < e.End(); {
		if skip := t.tables.empty(&t.mu, off>>t.clusterBits) << t.clusterBits; skip > off {
			off = skip
			continue
		}
		n := min(e.End()-off, cs-off&(cs-1))
		if err := t.zeroPart(off, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// zeroPart makes a range within one cluster zero.
func (t *Target) zeroPart(off, n int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	cluster, whole := off>>t.clusterBits, t.whole(off, n)
	e, err := t.tables.get(cluster)
	switch {
	case err != nil:
		return err
	case e == 0 || e&(entryZero|entryCompressed) == entryZero:
		return nil
	case e&entryCompressed != 0 && whole:
		t.alloc.unpack(t.descriptor(e))
		return t.tables.set(cluster, 0)
	case whole: // it keeps its place, where a later write puts it again
		if err := t.tables.set(cluster, e|entryZero); err != nil {
			return err
		}
	}
	host, err := int64(e&offsetMask), error(nil)
	if e&entryCompressed != 0 {
		host, err = t.unpack(cluster, e)
	}
	if err != nil {
		return err
	}
	return t.file.Zero(host+off&(t.clusterSize()-1), n)
}

// Commit implements [pipe.Target], with the errors of [diskfile.Pending.Commit].
func (t *Target) Commit(ctx context.Context) error {
	if t.closed.Swap(true) {
		return t.fail("publish", -1, fs.ErrClosed)
	}
	if err := t.finish(); err != nil {
		return errors.Join(err, t.file.Close())
	}
	return t.file.Commit(ctx)
}

// Close implements [pipe.Target].
func (t *Target) Close() error {
	t.closed.Store(true)
	return t.file.Close()
}

// finish writes the tables, then the reference counts, then the header.
func (t *Target) finish() error {
	if err := t.tables.flush(); err != nil {
		return err
	}
	refTable, refClusters, err := t.alloc.writeCounts(t.file)
	if err != nil {
		return err
	}
	if err := t.file.Truncate(t.alloc.end()); err != nil {
		return err
	}
	_, err = t.file.WriteAt(t.header(refTable, refClusters), 0)
	return err
}

// header is the header and, as its one extension, the names of the features that it may use.
func (t *Target) header(refTable, refClusters int64) []byte {
	b := make([]byte, headerLen, 512)
	be := binary.BigEndian
	copy(b, magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], t.clusterBits)
	be.PutUint64(b[24:], uint64(t.size+511)&^511)
	be.PutUint32(b[36:], uint32(t.tables.entries()))
	be.PutUint64(b[40:], uint64(t.tables.l1Off))
	be.PutUint64(b[48:], uint64(refTable))
	be.PutUint32(b[56:], uint32(refClusters))
	be.PutUint32(b[96:], refOrder)
	be.PutUint32(b[100:], headerLen)
	if t.compression != Zlib {
		be.PutUint64(b[72:], featCompression)
		b[104] = byte(t.compression)
		b = be.AppendUint32(b, extFeatureNames)
		b = be.AppendUint32(b, 48)
		b = append(b, 0, 3)
		b = append(append(b, "compression type"...), make([]byte, 46-len("compression type"))...)
	}
	return be.AppendUint64(b, 0) // the end of the extensions
}
