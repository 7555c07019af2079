package replica

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// layerWriter makes a layer, or changes one: what it writes is found once finish has written the header. It is used by one
// goroutine at a time, but for the content of clusters that were given out.
type layerWriter struct {
	f       *os.File
	size    int64 // of the disk in the image
	backing string
	tables  []*table
	places  []uint64 // of the tables in the file; zero: to be written
	next    int64    // number of the first cluster behind all that are used
	free    []int64  // numbers of clusters that are used by nothing, not even by tables that are replaced
	used    int64    // clusters with content that were given out
}

// createLayer begins a file that is not there yet.
func createLayer(path string, size int64, backing string) (*layerWriter, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, roomError(err)
	}
	n := max(1, (imageSize(size)+tableCovers-1)/tableCovers)
	return &layerWriter{f: f, size: imageSize(size), backing: backing, tables: make([]*table, n), places: make([]uint64, n), next: 1}, nil
}

// changeLayer begins to change a file. All of its tables are held in memory: 128 KiB for each GiB of the disk.
func changeLayer(path string) (*layerWriter, error) {
	f, h, err := openLayer(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	w := &layerWriter{f: f, size: h.size, backing: h.backing, next: clustersOf(h.fileBytes)}
	if err := w.load(h); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return w, nil
}

// load reads all tables, and finds the clusters that nothing uses.
func (w *layerWriter) load(h *layerHead) error {
	l1, err := h.readL1(w.f)
	if err != nil {
		return err
	}
	used := make([]bool, w.next)
	take := func(at, n int64) {
		for c := at >> clusterBits; c < clustersOf(at+n); c++ {
			used[c] = true
		}
	}
	take(0, clusterSize)
	take(h.l1At, h.l1Entries*8)
	take(h.refAt, h.refClusters<<clusterBits)
	refs := make([]byte, h.refClusters<<clusterBits)
	if err := readAll(w.f, refs, h.refAt); err != nil {
		return badLayer("reference table: %v", err)
	}
	for i := 0; i < len(refs); i += 8 {
		if at := int64(binary.BigEndian.Uint64(refs[i:]) & offsetBits); at != 0 {
			if !h.inFile(at, clusterSize) {
				return badLayer("a block of counts is at %d", at)
			}
			take(at, clusterSize)
		}
	}
	w.tables, w.places = make([]*table, len(l1)), make([]uint64, len(l1))
	for i := range l1 {
		if w.tables[i], err = h.readTable(w.f, l1, int64(i)); err != nil {
			return err
		}
		if t := w.tables[i]; t != nil {
			w.places[i] = l1[i] & offsetBits
			take(int64(w.places[i]), clusterSize)
			for _, e := range t {
				if e&offsetBits != 0 {
					take(int64(e&offsetBits), clusterSize)
				}
			}
		}
	}
	for c, u := range used {
		if !u {
			w.free = append(w.free, int64(c))
		}
	}
	return nil
}

// entry is what the layer says of a cluster of the disk.
func (w *layerWriter) entry(cluster int64) uint64 {
	if t := w.tables[cluster/tableEntries]; t != nil {
		return t[cluster%tableEntries]
	}
	return 0
}

func (w *layerWriter) set(cluster int64, entry uint64) {
	i := cluster / tableEntries
	if w.tables[i] == nil {
		if entry == 0 {
			return
		}
		w.tables[i] = new(table)
	}
	if t := w.tables[i]; t[cluster%tableEntries] != entry {
		t[cluster%tableEntries], w.places[i] = entry, 0
	}
}

// place is where a cluster's content goes in the file. One that has a place keeps it.
func (w *layerWriter) place(cluster int64) int64 {
	e := w.entry(cluster)
	at := int64(e & offsetBits)
	if at == 0 {
		at = w.take() << clusterBits
		w.used++
	}
	w.set(cluster, uint64(at)|entryAlone)
	return at
}

func (w *layerWriter) take() int64 {
	if last := len(w.free) - 1; last >= 0 {
		c := w.free[last]
		w.free = w.free[:last]
		return c
	}
	return w.row(1)
}

// row gives out neighbouring clusters.
func (w *layerWriter) row(n int64) int64 {
	first := w.next
	w.next += n
	return first
}

// zero makes a cluster read as zero, and unset makes it as in the backing file. The place that it had stays its own until
// the tables that name it are replaced.
func (w *layerWriter) zero(cluster int64) {
	if w.backing == "" {
		w.set(cluster, 0)
		return
	}
	w.set(cluster, entryZero)
}

// finish writes tables and header, and makes the file durable.
func (w *layerWriter) finish() error {
	err := w.tablesOut()
	if err == nil {
		err = w.f.Sync()
	}
	return roomError(err)
}

func (w *layerWriter) tablesOut() error {
	for i, t := range w.tables {
		if t == nil || w.places[i] != 0 {
			continue
		}
		at := w.take() << clusterBits
		if err := writeWords(w.f, at, t[:]); err != nil {
			return err
		}
		w.places[i] = uint64(at)
	}
	l1 := make([]uint64, len(w.places))
	for i, at := range w.places {
		if at != 0 {
			l1[i] = at | entryAlone
		}
	}
	l1At := w.row(clustersOf(int64(len(l1))*8)) << clusterBits
	if err := writeWords(w.f, l1At, l1); err != nil {
		return err
	}
	refAt, refClusters, err := w.countsOut(l1At, int64(len(l1)))
	if err != nil {
		return err
	}
	if err := w.f.Truncate(w.next << clusterBits); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil { // the header never names what is not there
		return err
	}
	_, err = w.f.WriteAt(w.header(l1At, refAt, refClusters), 0)
	return err
}

// writeWords writes numbers, and zeros up to the end of the cluster.
func writeWords(f *os.File, at int64, words []uint64) error {
	w := bufio.NewWriterSize(io.NewOffsetWriter(f, at), clusterSize)
	var b [8]byte
	for _, v := range words {
		binary.BigEndian.PutUint64(b[:], v)
		if _, err := w.Write(b[:]); err != nil {
			return err
		}
	}
	if rest := int64(len(words)*8) & (clusterSize - 1); rest != 0 {
		if _, err := w.Write(make([]byte, clusterSize-rest)); err != nil {
			return err
		}
	}
	return w.Flush()
}

// countsOut writes the reference counts of everything that the new tables name, behind everything else.
func (w *layerWriter) countsOut(l1At, l1Entries int64) (refAt, refClusters int64, err error) {
	const perBlock = clusterSize / 2
	blocks := int64(1)
	for {
		refClusters = clustersOf(blocks * 8)
		if need := (w.next + blocks + refClusters + perBlock - 1) / perBlock; need <= blocks {
			break
		}
		blocks++
	}
	first := w.row(blocks)
	refAt = w.row(refClusters) << clusterBits
	counts := make([]byte, blocks<<clusterBits)
	take := func(at, n int64) {
		for c := at >> clusterBits; c < clustersOf(at+n); c++ {
			counts[c*2+1] = 1
		}
	}
	take(0, clusterSize)
	take(l1At, l1Entries*8)
	take(first<<clusterBits, blocks<<clusterBits)
	take(refAt, refClusters<<clusterBits)
	for i, t := range w.tables {
		if t == nil {
			continue
		}
		take(int64(w.places[i]), clusterSize)
		for _, e := range t {
			if at := int64(e & offsetBits); at != 0 {
				take(at, clusterSize)
			}
		}
	}
	if _, err := w.f.WriteAt(counts, first<<clusterBits); err != nil {
		return 0, 0, err
	}
	words := make([]uint64, blocks)
	for i := range words {
		words[i] = uint64(first+int64(i)) << clusterBits
	}
	return refAt, refClusters, writeWords(w.f, refAt, words)
}

// header is what stands in the first cluster.
func (w *layerWriter) header(l1At, refAt, refClusters int64) []byte {
	b := make([]byte, headerLen, clusterSize)
	be := binary.BigEndian
	copy(b, layerMagic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], clusterBits)
	be.PutUint64(b[24:], uint64(w.size))
	be.PutUint32(b[36:], uint32(len(w.places)))
	be.PutUint64(b[40:], uint64(l1At))
	be.PutUint64(b[48:], uint64(refAt))
	be.PutUint32(b[56:], uint32(refClusters))
	be.PutUint32(b[96:], 4) // reference counts of 16 bits
	be.PutUint32(b[100:], headerLen)
	if w.backing != "" {
		b = be.AppendUint32(b, extBackingFormat)
		b = be.AppendUint32(b, uint32(len("qcow2")))
		b = append(b, "qcow2\x00\x00\x00"...)
	}
	b = be.AppendUint64(b, 0) // the end of the extensions
	if w.backing != "" {
		be.PutUint64(b[8:], uint64(len(b)))
		be.PutUint32(b[16:], uint32(len(w.backing)))
		b = append(b, w.backing...)
	}
	return b // in one page, and what a change changes in one sector
}

func (w *layerWriter) close() error { return w.f.Close() }
