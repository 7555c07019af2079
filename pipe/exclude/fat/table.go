package fat

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// What an entry of the table says, widened to 28 bits.
const (
	entryFree = 0
	entryBad  = 0x0FFFFFF7
	entryLast = 0x0FFFFFF8 // and above: the end of a chain
)

// tableChunk is how much of a table is read at once, in bytes. It holds whole entries of every width.
const tableChunk = 192 << 10

// readFull reads all of p.
func readFull(ctx context.Context, vol pipe.Image, p []byte, off int64) error {
	n, err := vol.ReadAt(ctx, p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// table is what the chains are in. Of each cluster one bit is kept: whether it is free. Links are read again when a chain
// is followed, in chunks.
type table struct {
	vol  pipe.Image
	geo  *geometry
	free []uint64

	mu    sync.Mutex
	chunk []byte // what was read last
	at    int64  // where in the table
}

// load reads all of the table, and compares the copies. The answer says in words what is doubtful.
func (t *table) load(ctx context.Context) (doubt string, err error) {
	t.free = make([]uint64, (int64(t.geo.clusters)+63)/64)
	t.at = -1
	used := (int64(t.geo.clusters+2)*int64(t.geo.kind) + 7) / 8
	bufs := make([][]byte, len(t.geo.tables))
	for off := int64(0); off < used; off += tableChunk {
		n := min(tableChunk, used-off)
		for i, at := range t.geo.tables {
			if bufs[i] == nil {
				bufs[i] = make([]byte, min(tableChunk, used))
			}
			if err := readFull(ctx, t.vol, bufs[i][:n], at+off); err != nil {
				return "", err
			}
			if i > 0 && !bytes.Equal(bufs[0][:n], bufs[i][:n]) {
				doubt = "its two tables differ"
			}
		}
		t.mark(bufs[0][:n], off)
		if off == 0 && doubt == "" {
			doubt = t.unclean(bufs[0])
		}
	}
	return doubt, nil
}

// mark notes the free clusters in a chunk of the table that begins at byte off of it.
func (t *table) mark(p []byte, off int64) {
	first := uint32(off * 8 / int64(t.geo.kind))
	count := uint32(int64(len(p)) * 8 / int64(t.geo.kind))
	for i := range count {
		if c := first + i; t.geo.valid(c) && entry(p, i, t.geo.kind) == entryFree {
			t.free[(c-2)/64] |= 1 << ((c - 2) % 64)
		}
	}
}

// unclean looks at the entry of cluster 1, in which drivers note that the volume is in use, and that it has read errors.
func (t *table) unclean(p []byte) string {
	if t.geo.dirty {
		return "it was not unmounted cleanly, or has errors, and FAT has no log"
	}
	var state uint32
	switch t.geo.kind {
	case fat16:
		state = uint32(binary.LittleEndian.Uint16(p[2:])) >> 14
	case fat32:
		state = binary.LittleEndian.Uint32(p[4:]) >> 26 & 3
	default:
		return ""
	}
	switch {
	case state&1 == 0:
		return "a driver met read errors on it"
	case state&2 == 0:
		return "it was not unmounted cleanly, and FAT has no log"
	}
	return ""
}

// entry is entry i of a piece of the table, widened: what is special is so at the top of 28 bits.
func entry(p []byte, i uint32, k kind) uint32 {
	var v, top uint32
	switch k {
	case fat12:
		v, top = uint32(binary.LittleEndian.Uint16(p[i/2*3+i%2:])), 0x0FF7
		if i%2 == 1 {
			v >>= 4
		}
		v &= 0x0FFF
	case fat16:
		v, top = uint32(binary.LittleEndian.Uint16(p[2*i:])), 0xFFF7
	default:
		return binary.LittleEndian.Uint32(p[4*i:]) & 0x0FFFFFFF
	}
	if v >= top {
		v += entryBad - top
	}
	return v
}

// next is the cluster behind one, and whether there is one.
func (t *table) next(ctx context.Context, cluster uint32) (uint32, bool, error) {
	per := uint32(tableChunk * 8 / int(t.geo.kind))
	off := int64(cluster/per) * tableChunk
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at != off {
		n := min(tableChunk, t.geo.table-off)
		if cap(t.chunk) < int(n) {
			t.chunk = make([]byte, n)
		}
		t.at = -1
		if err := readFull(ctx, t.vol, t.chunk[:n], t.geo.tables[0]+off); err != nil {
			return 0, false, err
		}
		t.chunk, t.at = t.chunk[:n], off
	}
	v := entry(t.chunk, cluster%per, t.geo.kind)
	switch {
	case v >= entryLast:
		return 0, false, nil
	case !t.geo.valid(v):
		return 0, false, &fsys.CorruptError{What: fmt.Sprintf("cluster %d", cluster), Off: t.geo.where(cluster), Why: fmt.Sprintf("cluster %d comes behind it", v)}
	}
	return v, true, nil
}

// link is a cluster of a chain with its number in it.
type link struct {
	cluster uint32
	i       int64
}

// chain yields the clusters of a chain, at most max of them: a longer one, or one that leads in a circle, is corrupt.
func (t *table) chain(ctx context.Context, first uint32, max int64) iter.Seq2[link, error] {
	return func(yield func(link, error) bool) {
		if !t.geo.valid(first) {
			yield(link{}, &fsys.CorruptError{What: "chain", Off: -1, Why: fmt.Sprintf("it begins at cluster %d", first)})
			return
		}
		at, more := first, true
		var err error
		for i := int64(0); more; i++ {
			if err = ctx.Err(); err == nil && (i >= max || i >= int64(t.geo.clusters)) {
				err = &fsys.CorruptError{What: fmt.Sprintf("chain from cluster %d", first), Off: t.geo.where(first), Why: "it is longer than it may be, or leads in a circle"}
			}
			if err == nil && t.isFree(at) {
				err = &fsys.CorruptError{What: fmt.Sprintf("chain from cluster %d", first), Off: t.geo.where(at), Why: fmt.Sprintf("cluster %d in it is free", at)}
			}
			if err != nil {
				yield(link{}, err)
				return
			}
			if !yield(link{at, i}, nil) {
				return
			}
			if at, more, err = t.next(ctx, at); err != nil {
				yield(link{}, err)
				return
			}
		}
	}
}

func (t *table) isFree(c uint32) bool { return t.free[(c-2)/64]>>((c-2)%64)&1 != 0 }

// runs yields the free ranges of the volume.
func (t *table) runs(ctx context.Context) iter.Seq2[fsys.Range, error] {
	return func(yield func(fsys.Range, error) bool) {
		for c, end := uint32(2), t.geo.clusters+2; c < end; {
			if !t.isFree(c) {
				if c++; (c-2)%64 == 0 { // over full words at once
					for c < end && t.free[(c-2)/64] == 0 {
						c = min(c+64, end)
					}
				}
				continue
			}
			from := c
			for c < end && t.isFree(c) {
				if c++; (c-2)%64 == 0 {
					for c < end && t.free[(c-2)/64] == ^uint64(0) {
						c = min(c+64, end)
					}
				}
			}
			if err := ctx.Err(); err != nil {
				yield(fsys.Range{}, err)
				return
			}
			if !yield(fsys.Range{Off: t.geo.where(from), Len: int64(c-from) * t.geo.cluster}, nil) {
				return
			}
		}
	}
}
