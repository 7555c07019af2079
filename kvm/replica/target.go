package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// target takes one disk of a point. Clusters are written whole, so that each has its sum from the bytes that were given: the
// pieces of one wait in memory for each other, and for what they lack of the base when it takes too long.
type target struct {
	w    *pointWriter
	disk diskRecord
	path string // of the file, without suffix
	base *image // nil: none

	mu      sync.Mutex
	layer   *layerWriter
	kinds   kinds
	sums    []*table // of the clusters that have content, by L2 table
	pending map[int64]*pieces
	order   []int64 // of pending, oldest first; what is not there any more is skipped
	sealed  bool
	closed  bool
}

var _ pipe.ExtentTarget = (*target)(nil)

// pieces is a cluster that is not whole yet.
type pieces struct {
	data  [clusterSize]byte
	knows kinds // Data: given; Unchanged: not yet
}

// maxPending bounds the clusters that wait, to 32 MiB.
const maxPending = 512

// beginDisk makes the file of a disk. base is what it stands on, and the target's to close.
func (w *pointWriter) beginDisk(key string, size int64, base *image) (*target, error) {
	t := &target{w: w, base: base, pending: map[int64]*pieces{}, disk: diskRecord{Key: key, Name: nameFor(key), Size: size, Based: base != nil}}
	t.path = filepath.Join(w.dir, t.disk.Name)
	backing, kind := "", pipe.Zero
	if base != nil {
		backing, kind = backingName(w.base.Info.ID, t.disk.Name), pipe.Unchanged
	}
	var err error
	if t.layer, err = createLayer(t.path+diskSuffix, size, backing); err != nil {
		return nil, err
	}
	t.kinds = newKinds(size, kind)
	t.sums = make([]*table, len(t.layer.tables))
	return t, nil
}

func (t *target) Size() int64 { return t.disk.Size }

func (t *target) fail(op string, off, n int64, err error) error {
	return &pipe.RangeError{Op: op + " disk " + t.disk.Key, Off: off, Len: n, Err: err}
}

// usable refuses ranges outside of the disk, and everything after the end. It is called with the lock.
func (t *target) usable(ctx context.Context, off, n int64) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case t.sealed || t.closed:
		return fmt.Errorf("%w: %w", errDone, fs.ErrClosed)
	case off < 0 || n < 0 || n > t.disk.Size-off:
		return fmt.Errorf("the disk has %d bytes: %w", t.disk.Size, fs.ErrInvalid)
	}
	return nil
}

// clusterLen is how much of a cluster belongs to the disk.
func (t *target) clusterLen(cluster int64) int64 {
	return min(clusterSize, t.disk.Size-cluster<<clusterBits)
}

// WriteAt implements [pipe.Target].
func (t *target) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	done := int64(0)
	for {
		n, err := t.writeSome(ctx, p[done:], off+done)
		done += n
		if err != nil {
			return int(done), t.fail("write", off+done, int64(len(p))-done, roomError(err))
		}
		if done == int64(len(p)) {
			return int(done), nil
		}
	}
}

// writeSome writes the part of p that lies in one cluster.
func (t *target) writeSome(ctx context.Context, p []byte, off int64) (int64, error) {
	cluster, in := off>>clusterBits, off&(clusterSize-1)
	n := min(int64(len(p)), clusterSize-in)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.usable(ctx, off, int64(len(p))); err != nil || n == 0 {
		return 0, err
	}
	if err := t.kinds.set(off, n, pipe.Data); err != nil {
		return 0, err
	}
	if n < t.clusterLen(cluster) {
		return n, t.piece(ctx, cluster, in, n, p[:n])
	}
	delete(t.pending, cluster)
	b := p[:n]
	if n < clusterSize {
		b = make([]byte, clusterSize)
		copy(b, p[:n])
	}
	return n, t.store(ctx, cluster, b)
}

// store writes a whole cluster. The lock is let go of while its content is on its way.
func (t *target) store(ctx context.Context, cluster int64, b []byte) error {
	if diskfile.IsZero(b) {
		if err := t.kinds.set(cluster<<clusterBits, t.clusterLen(cluster), pipe.Zero); err != nil {
			return err
		}
		t.layer.zero(cluster)
		return nil
	}
	sum := xxhash.Sum64(b)
	if t.baseHas(ctx, cluster, sum, b) {
		t.layer.set(cluster, 0)
		return nil
	}
	at := t.layer.place(cluster)
	t.setSum(cluster, sum)
	t.mu.Unlock()
	_, err := t.layer.f.WriteAt(b, at)
	t.mu.Lock()
	return err
}

// baseHas reports whether the base has the same content there: a disk that is read whole, because nobody knows what changed,
// is no reason for a whole copy of it.
func (t *target) baseHas(ctx context.Context, cluster int64, sum uint64, b []byte) bool {
	if t.base == nil || t.layer.entry(cluster) != 0 {
		return false
	}
	if had, ok := t.base.sumOf(cluster); !ok || had != sum {
		return false
	}
	p := clusterPool.Get().(*[]byte)
	defer clusterPool.Put(p)
	return t.base.cluster(*p, cluster) == nil && string(*p) == string(b)
}

func (t *target) setSum(cluster int64, sum uint64) {
	i := cluster / tableEntries
	if t.sums[i] == nil {
		t.sums[i] = new(table)
	}
	t.sums[i][cluster%tableEntries] = sum
}

// piece takes a part of a cluster. p nil: the part is zero.
func (t *target) piece(ctx context.Context, cluster, in, n int64, p []byte) error {
	b, err := t.piecesOf(cluster)
	if err != nil {
		return err
	}
	if p == nil {
		clear(b.data[in : in+n])
	} else {
		copy(b.data[in:], p)
	}
	if err := b.knows.set(in, n, pipe.Data); err != nil {
		return err
	}
	if len(b.knows) == 1 && b.knows[0].Kind == pipe.Data {
		delete(t.pending, cluster)
		return t.settle(ctx, cluster, b)
	}
	return nil
}

// piecesOf finds a cluster that is not whole, or makes one of what the layer has there.
func (t *target) piecesOf(cluster int64) (*pieces, error) {
	if b := t.pending[cluster]; b != nil {
		return b, nil
	}
	if err := t.makeRoom(); err != nil {
		return nil, err
	}
	b := &pieces{knows: newKinds(t.clusterLen(cluster), pipe.Unchanged)}
	if e := t.layer.entry(cluster); e != 0 {
		if at := int64(e & offsetBits); at != 0 && e&entryZero == 0 {
			if err := readCluster(t.layer.f, b.data[:], at); err != nil {
				return nil, err
			}
		}
		b.knows = newKinds(t.clusterLen(cluster), pipe.Data)
	}
	t.pending[cluster] = b
	t.order = append(t.order, cluster)
	return b, nil
}

// makeRoom completes clusters that have waited longest.
func (t *target) makeRoom() error {
	for len(t.pending) >= maxPending {
		if err := t.complete(t.order[0]); err != nil {
			return err
		}
		t.order = t.order[1:]
	}
	if len(t.order) > 4*maxPending { // most have become whole
		kept := t.order[:0]
		for _, c := range t.order {
			if t.pending[c] != nil {
				kept = append(kept, c)
			}
		}
		t.order = kept
	}
	return nil
}

// complete fills a cluster up with what the base has, or zeros.
func (t *target) complete(cluster int64) error {
	b := t.pending[cluster]
	if b == nil {
		return nil
	}
	delete(t.pending, cluster)
	if t.base != nil {
		var old [clusterSize]byte
		if err := t.base.cluster(old[:], cluster); err != nil {
			return err
		}
		for _, e := range b.knows {
			if e.Kind == pipe.Unchanged {
				copy(b.data[e.Off:e.End()], old[e.Off:])
			}
		}
	}
	return t.settle(context.Background(), cluster, b)
}

// settle writes a cluster that has become whole. The lock is kept: pieces of it may come again.
func (t *target) settle(ctx context.Context, cluster int64, b *pieces) error {
	if diskfile.IsZero(b.data[:]) {
		t.layer.zero(cluster)
		return nil
	}
	sum := xxhash.Sum64(b.data[:])
	if t.baseHas(ctx, cluster, sum, b.data[:]) {
		return nil
	}
	t.setSum(cluster, sum)
	_, err := t.layer.f.WriteAt(b.data[:], t.layer.place(cluster))
	return err
}

// Mark implements [pipe.ExtentTarget].
func (t *target) Mark(ctx context.Context, e pipe.Extent) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.mark(ctx, e); err != nil {
		return t.fail("mark "+e.Kind.String()+" on", e.Off, e.Len, roomError(err))
	}
	return nil
}

func (t *target) mark(ctx context.Context, e pipe.Extent) error {
	switch err := t.usable(ctx, e.Off, e.Len); {
	case err != nil:
		return err
	case e.Kind == pipe.Unchanged && t.base == nil:
		return diskfile.ErrNoBase
	case e.Kind == pipe.Data || e.Kind > pipe.Unchanged:
		return fmt.Errorf("%v cannot be marked: %w", e.Kind, fs.ErrInvalid)
	}
	if err := t.kinds.set(e.Off, e.Len, e.Kind); err != nil {
		return err
	}
	for off := e.Off; off < e.End(); {
		if skip := t.untouched(off, e.Kind); skip > off {
			off = min(skip, e.End())
			continue
		}
		cluster, in := off>>clusterBits, off&(clusterSize-1)
		n := min(e.End()-off, clusterSize-in)
		if err := t.markPart(ctx, cluster, in, n, e.Kind == pipe.Unchanged); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// untouched is up to where nothing was written and a mark changes nothing: most of a large disk.
func (t *target) untouched(off int64, kind pipe.Kind) int64 {
	i := off / tableCovers
	if len(t.pending) > 0 || t.layer.tables[i] != nil || kind != pipe.Unchanged && t.base != nil {
		return off
	}
	return (i + 1) * tableCovers
}

// markPart makes a part of a cluster zero, or as in the base.
func (t *target) markPart(ctx context.Context, cluster, in, n int64, unchanged bool) error {
	untouched := t.pending[cluster] == nil && t.layer.entry(cluster) == 0
	switch {
	case n == t.clusterLen(cluster):
		delete(t.pending, cluster)
		if unchanged {
			t.layer.set(cluster, 0)
		} else {
			t.layer.zero(cluster)
		}
		return nil
	case untouched && (unchanged || t.base == nil):
		return nil // it is so already
	case !unchanged:
		return t.piece(ctx, cluster, in, n, nil)
	}
	if b := t.pending[cluster]; b != nil {
		return b.knows.set(in, n, pipe.Unchanged)
	}
	b := clusterPool.Get().(*[]byte)
	defer clusterPool.Put(b)
	if err := t.base.cluster(*b, cluster); err != nil {
		return err
	}
	return t.piece(ctx, cluster, in, n, (*b)[in:in+n])
}

// Commit implements [pipe.Target]: what was written is durable once the point is committed.
func (t *target) Commit(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.usable(ctx, 0, 0)
	if err == nil {
		err = t.finish()
	}
	if err != nil {
		return t.fail("commit", 0, t.disk.Size, errors.Join(roomError(err), t.close()))
	}
	t.sealed = true
	if err := t.close(); err != nil {
		return t.fail("commit", 0, t.disk.Size, err)
	}
	t.w.committed(t)
	return nil
}

func (t *target) finish() error {
	for cluster := range t.pending {
		if err := t.complete(cluster); err != nil {
			return err
		}
	}
	if err := t.layer.finish(); err != nil {
		return err
	}
	m := &sumMap{size: t.disk.Size, fileBytes: t.layer.next << clusterBits, kinds: t.kinds}
	if err := m.fill(t.layer); err != nil {
		return err
	}
	return writeMap(t.path+mapSuffix, m, func(c int64) (uint64, error) { return t.sums[c/tableEntries][c%tableEntries], nil })
}

// fill takes from a layer's tables which clusters it has.
func (m *sumMap) fill(w *layerWriter) error {
	clusters, sums := clustersOf(m.size), int64(0)
	for i, t := range w.tables {
		if t == nil {
			continue
		}
		for j, e := range t {
			c := int64(i)*tableEntries + int64(j)
			if e == 0 || c >= clusters {
				continue
			}
			zero := e&entryZero != 0
			if err := m.add(c, zero, sums); err != nil {
				return err
			}
			if !zero {
				sums++
			}
		}
	}
	return nil
}

// Close implements [pipe.Target].
func (t *target) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.close()
}

func (t *target) close() error {
	if t.closed {
		return nil
	}
	t.closed = true
	err := t.layer.close()
	if t.base != nil {
		err = errors.Join(err, t.base.Close())
	}
	t.pending, t.order = nil, nil
	return err
}
