package qcow2

import (
	"encoding/binary"

	"github.com/hikae/hikae/pipe/diskfile"
)

const (
	refOrder = 4 // reference counts of 16 bits
	maxCount = 1<<16 - 1
)

// allocator gives out places at the end of a new file. Every cluster that it gives out is used once, except those with
// compressed data: for them it counts how many compressed clusters lie in them.
type allocator struct {
	clusterBits uint32
	next        int64           // clusters given out
	packed      map[int64]int32 // counts of clusters with compressed data
	packEnd     int64           // where the next compressed cluster may begin; 0: at a new cluster
}

// end is the length of the file so far.
func (a *allocator) end() int64 { return a.next << a.clusterBits }

// clusters gives out n neighbouring clusters.
func (a *allocator) clusters(n int64) int64 {
	off := a.end()
	a.next += n
	return off
}

// pack gives out n bytes, fewer than a cluster, for compressed data. It may cross into the next cluster.
func (a *allocator) pack(n int64) int64 {
	cs := int64(1) << a.clusterBits
	left := (cs - a.packEnd&(cs-1)) & (cs - 1)
	switch cluster := a.packEnd >> a.clusterBits; {
	case left == 0, a.packed[cluster] == maxCount, left < n && cluster+1 != a.next:
		a.packEnd = a.clusters(1)
	case left < n:
		a.clusters(1)
	}
	off := a.packEnd
	a.packEnd += n
	a.count(off, n, 1)
	return off
}

// unpack takes back what pack gave out. The space is not used again, but it is not counted as used either.
func (a *allocator) unpack(off, n int64) { a.count(off, n, -1) }

// count adds to the counts of the clusters that hold the sectors of [off, off+n).
func (a *allocator) count(off, n int64, by int32) {
	if a.packed == nil {
		a.packed = make(map[int64]int32)
	}
	last := (off + n - 1) | 511
	for c := off >> a.clusterBits; c <= last>>a.clusterBits; c++ {
		a.packed[c] += by
	}
}

// of is the reference count of a cluster.
func (a *allocator) of(cluster int64) uint16 {
	if n, ok := a.packed[cluster]; ok {
		return uint16(n)
	}
	return 1
}

// writeCounts writes the reference counts behind everything else, themselves included: blocks of counts, then the
// table of their places.
func (a *allocator) writeCounts(file *diskfile.Pending) (table, tableClusters int64, err error) {
	cs := int64(1) << a.clusterBits
	perBlock := cs / 2
	blocks, tableClusters := a.countSpace(perBlock, cs)
	first := a.clusters(blocks)
	table = a.clusters(tableClusters)

	places := make([]byte, 0, blocks*8)
	b := make([]byte, cs)
	for i := range blocks {
		clear(b)
		for j := int64(0); j < perBlock && i*perBlock+j < a.next; j++ {
			binary.BigEndian.PutUint16(b[j*2:], a.of(i*perBlock+j))
		}
		if _, err := file.WriteAt(b, first+i*cs); err != nil {
			return 0, 0, err
		}
		places = binary.BigEndian.AppendUint64(places, uint64(first+i*cs))
	}
	_, err = file.WriteAt(places, table)
	return table, tableClusters, err
}

// countSpace is how many clusters the counts of everything take, their own included.
func (a *allocator) countSpace(perBlock, cs int64) (blocks, tableClusters int64) {
	for {
		total := a.next + blocks + tableClusters
		needBlocks := (total + perBlock - 1) / perBlock
		needTable := (needBlocks*8 + cs - 1) / cs
		if needBlocks == blocks && needTable == tableClusters {
			return blocks, tableClusters
		}
		blocks, tableClusters = needBlocks, needTable
	}
}
