package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/hikae/hikae/pipe"
)

// image is a disk of a point with all that it stands on.
type image struct {
	point, key string
	size       int64
	layers     []*layer // the point's own first
	kinds      kinds
	lock       *held
	cache      tableCache
	closed     sync.Once
}

var _ pipe.ExtentImage = (*image)(nil)

func (x *image) Size() int64 { return x.size }

func (x *image) Close() (err error) {
	x.closed.Do(func() {
		for _, l := range x.layers {
			err = errors.Join(err, l.close())
		}
		err = errors.Join(err, x.lock.release())
	})
	return err
}

// Extents implements [pipe.ExtentImage]: with the reasons for what is absent, as they were marked.
func (x *image) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || n > x.size-off {
			yield(pipe.Extent{}, &pipe.RangeError{Op: "extents", Off: off, Len: n, Err: fs.ErrInvalid})
			return
		}
		for i := x.kinds.at(off); n > 0 && i < len(x.kinds) && x.kinds[i].Off < off+n; i++ {
			if err := ctx.Err(); err != nil {
				yield(pipe.Extent{}, err)
				return
			}
			e := x.kinds[i]
			from, to := max(e.Off, off), min(e.End(), off+n)
			if !yield(pipe.Extent{Off: from, Len: to - from, Kind: e.Kind}, nil) {
				return
			}
		}
	}
}

var clusterPool = sync.Pool{New: func() any { b := make([]byte, clusterSize); return &b }}

// ReadAt implements [pipe.Image].
func (x *image) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &pipe.RangeError{Op: "read", Off: off, Len: int64(len(p)), Err: fs.ErrInvalid}
	}
	want := int64(len(p))
	if off >= x.size && want > 0 {
		return 0, io.EOF
	}
	want = min(want, x.size-off)
	done := int64(0)
	for done < want {
		if err := ctx.Err(); err != nil {
			return int(done), err
		}
		at := off + done
		in := at & (clusterSize - 1)
		n := min(want-done, clusterSize-in)
		if err := x.readPart(p[done:done+n], at>>clusterBits, in); err != nil {
			return int(done), err
		}
		done += n
	}
	if done < int64(len(p)) {
		return int(done), io.EOF
	}
	return int(done), nil
}

// readPart reads a part of one cluster. All of the cluster is read, as its sum is that of all of it.
func (x *image) readPart(p []byte, cluster, in int64) error {
	if in == 0 && len(p) == clusterSize {
		return x.cluster(p, cluster)
	}
	b := clusterPool.Get().(*[]byte)
	defer clusterPool.Put(b)
	if err := x.cluster(*b, cluster); err != nil {
		return err
	}
	copy(p, (*b)[in:])
	return nil
}

// cluster reads a whole cluster, from the newest layer that has it.
func (x *image) cluster(p []byte, cluster int64) error {
	for _, l := range x.layers {
		r, ok := l.find(cluster)
		switch {
		case !ok:
			continue
		case r.zero:
			clear(p)
			return nil
		}
		err := l.read(p, r, cluster, &x.cache)
		if err != nil {
			off := cluster << clusterBits
			err = &DamagedError{Point: l.point, Disk: x.key, Off: off, Len: min(clusterSize, x.size-off), Err: err}
		}
		return err
	}
	clear(p)
	return nil
}

// sumOf is the sum of a cluster's content, where a layer has content there.
func (x *image) sumOf(cluster int64) (sum uint64, ok bool) {
	for _, l := range x.layers {
		if r, has := l.find(cluster); has {
			if r.zero {
				return 0, false
			}
			sum, err := l.sum(r, cluster)
			return sum, err == nil
		}
	}
	return 0, false
}

// read reads a cluster of a layer and compares it with its sum.
func (l *layer) read(p []byte, r row, cluster int64, cache *tableCache) error {
	want, err := l.sum(r, cluster)
	if err != nil {
		return err
	}
	t, err := cache.get(l, cluster/tableEntries)
	if err != nil {
		return err
	}
	entry := uint64(0)
	if t != nil {
		entry = t[cluster%tableEntries]
	}
	at := int64(entry & offsetBits)
	if at == 0 || entry&entryZero != 0 {
		return fmt.Errorf("%w: its tables have no content there", errContent)
	}
	if err := readCluster(l.f, p, at); err != nil {
		return err
	}
	if xxhash.Sum64(p) != want {
		return errContent
	}
	return nil
}

// tableCache keeps L2 tables of the layers of an image: up to 16 MiB of them.
type tableCache struct {
	mu     sync.Mutex
	tables map[tableKey]*table
}

type tableKey struct {
	l *layer
	i int64
}

const maxTables = 256

func (c *tableCache) get(l *layer, i int64) (*table, error) {
	key := tableKey{l, i}
	c.mu.Lock()
	t, ok := c.tables[key]
	c.mu.Unlock()
	if ok {
		return t, nil
	}
	if i >= int64(len(l.l1)) {
		return nil, badLayer("no table %d", i)
	}
	t, err := l.head.readTable(l.f, l.l1, i)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tables == nil {
		c.tables = map[tableKey]*table{}
	}
	for other := range c.tables {
		if len(c.tables) < maxTables {
			break
		}
		delete(c.tables, other)
	}
	c.tables[key] = t
	return t, nil
}
