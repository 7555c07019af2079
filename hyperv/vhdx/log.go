package vhdx

import (
	"cmp"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sort"

	"github.com/hikae/hikae/pipe"
)

const (
	entryHead   = 64
	descriptor  = 32
	firstDescs  = (sectorLog - entryHead) / descriptor // in the first sector of an entry
	otherDescs  = sectorLog / descriptor
	maxFileSize = 1 << 50 // far above what 64 TiB of disk need, and far below where sums overflow
)

// entry is one entry of the log.
type entry struct {
	at, len  int64 // in the log
	tail     int64
	sequence uint64
	descs    int
	flushed  int64
	last     int64
}

// ring is a log that has been read whole.
type ring struct {
	b      []byte
	id     GUID
	budget int64 // bytes that may still be summed: a log made to deceive claims many long entries
}

// descSectors is how many sectors n descriptors take, with the entry's head.
func descSectors(n int) int64 {
	if n <= firstDescs {
		return 1
	}
	return 1 + int64(n-firstDescs+otherDescs-1)/otherDescs
}

func (r *ring) size() int64 { return int64(len(r.b)) }

func (r *ring) sector(at int64) []byte {
	at %= r.size()
	return r.b[at : at+sectorLog]
}

// desc is the nth descriptor of an entry.
func (r *ring) desc(e entry, n int) []byte {
	off := int64(entryHead + n*descriptor) // they follow each other over borders of sectors
	return r.sector(e.at + off/sectorLog*sectorLog)[off%sectorLog:][:descriptor]
}

// entry reads the entry at a sector, if there is a whole one.
func (r *ring) entry(at int64) (entry, bool) {
	h := r.sector(at)
	if string(h[:4]) != "loge" || GUID(h[32:48]) != r.id {
		return entry{}, false
	}
	e := entry{
		at: at % r.size(), len: int64(le.Uint32(h[8:])), tail: int64(le.Uint32(h[12:])), sequence: le.Uint64(h[16:]),
		flushed: int64(min(le.Uint64(h[48:]), 1<<62)), last: int64(min(le.Uint64(h[56:]), 1<<62)),
	}
	count := int64(le.Uint32(h[24:]))
	if e.len < sectorLog || e.len > r.size() || e.len%sectorLog != 0 || e.tail%sectorLog != 0 || e.tail >= r.size() ||
		e.sequence == 0 || count > e.len/descriptor || descSectors(int(count))*sectorLog > e.len {
		return entry{}, false
	}
	e.descs = int(count)
	return e, r.whole(e)
}

// whole checks an entry's descriptors and data sectors against its sequence number, then its checksum.
func (r *ring) whole(e entry) bool {
	data := int64(0)
	for i := range e.descs {
		d := r.desc(e, i)
		switch string(d[:4]) {
		case "zero":
		case "desc":
			data++
		default:
			return false
		}
		if le.Uint64(d[24:]) != e.sequence {
			return false
		}
	}
	first := descSectors(e.descs) * sectorLog
	if first+data*sectorLog > e.len {
		return false
	}
	for i := range data {
		s := r.sector(e.at + first + i*sectorLog)
		if string(s[:4]) != "data" || uint64(le.Uint32(s[4:]))<<32|uint64(le.Uint32(s[4092:])) != e.sequence {
			return false
		}
	}
	return r.sum(e)
}

func (r *ring) sum(e entry) bool {
	if r.budget -= e.len; r.budget < 0 {
		return false
	}
	h := r.sector(e.at)
	sum := crc32.Update(0, castagnoli, h[:4])
	sum = crc32.Update(sum, castagnoli, []byte{0, 0, 0, 0})
	sum = crc32.Update(sum, castagnoli, h[8:])
	for off := int64(sectorLog); off < e.len; off += sectorLog {
		sum = crc32.Update(sum, castagnoli, r.sector(e.at+off))
	}
	return sum == le.Uint32(h[4:])
}

// active finds the active sequence: entries that follow each other, of which the last names one as the oldest that has
// still to be applied; of several, the one that ends with the highest number.
func (r *ring) active() []entry {
	var best []entry
	for at := int64(0); at < r.size(); {
		seq := r.follow(at)
		if len(seq) == 0 {
			at += sectorLog
			continue
		}
		last := seq[len(seq)-1]
		from := slices.IndexFunc(seq, func(e entry) bool { return e.at == last.tail })
		if from >= 0 && (best == nil || last.sequence > best[len(best)-1].sequence) {
			best = seq[from:]
		}
		for _, e := range seq {
			at += e.len
		}
	}
	return best
}

// follow is the row of entries that begins at a sector. An entry that is torn ends it.
func (r *ring) follow(at int64) (seq []entry) {
	for used := int64(0); used < r.size(); {
		e, ok := r.entry(at + used)
		if !ok || len(seq) > 0 && e.sequence != seq[len(seq)-1].sequence+1 || used+e.len > r.size() {
			return seq
		}
		seq = append(seq, e)
		used += e.len
	}
	return seq
}

// patch is a range of a file that the log replaces. Without data it is zeros.
type patch struct {
	off, end int64
	data     []byte
}

// readLog reads the log that h names, and returns the file as it is with the log applied. A header without a log
// returns the file.
func (p *parser) readLog(h header, budget int64) (pipe.Image, []patch, error) {
	if h.log == (GUID{}) {
		return p.file, nil, nil
	}
	if h.logLen > min(maxLog, budget) {
		return nil, nil, &UnsupportedError{p.path, fmt.Sprintf("a log of %d bytes in use", h.logLen)}
	}
	b, err := p.read(h.logOff, h.logLen)
	if err != nil {
		return nil, nil, err
	}
	r := &ring{b: b, id: h.log, budget: 4 * h.logLen}
	seq := r.active()
	if len(seq) == 0 {
		return nil, nil, p.corrupt(h.logOff, "the log is in use and holds no whole sequence of entries")
	}
	size, count := p.file.Size(), 0
	for _, e := range seq {
		count += e.descs
	}
	all := make([]patch, 0, count)
	for _, e := range seq {
		if e.flushed > p.file.Size() || e.last > maxFileSize {
			return nil, nil, p.corrupt(h.logOff+e.at, "the log was written for a file of %d to %d bytes, this one has %d",
				e.flushed, e.last, p.file.Size())
		}
		size = max(size, e.last)
		if all, err = p.patches(h, r, e, all); err != nil {
			return nil, nil, err
		}
	}
	for _, w := range all {
		size = max(size, w.end)
	}
	all = settle(all)
	return &replayed{p.file, size, all}, all, nil
}

// patches adds what an entry replaces. A data sector lacks its first 8 and last 4 bytes, which stand in its descriptor:
// they are put back in place.
func (p *parser) patches(h header, r *ring, e entry, all []patch) ([]patch, error) {
	data := e.at + descSectors(e.descs)*sectorLog
	for i := range e.descs {
		d := r.desc(e, i)
		w := patch{off: int64(min(le.Uint64(d[16:]), 1<<62))}
		n := int64(sectorLog)
		if string(d[:4]) == "zero" {
			n = int64(min(le.Uint64(d[8:]), 1<<62))
		} else {
			w.data = r.sector(data)
			copy(w.data, d[8:16])
			copy(w.data[4092:], d[4:8])
			data += sectorLog
		}
		if w.off%sectorLog != 0 || n%sectorLog != 0 || n > maxFileSize || w.off > maxFileSize-n {
			return nil, p.corrupt(h.logOff+e.at, "the log replaces %d bytes at %d", n, w.off)
		}
		if w.end = w.off + n; w.off < headerOff1+sectorLog || w.off < h.logOff+h.logLen && h.logOff < w.end {
			return nil, p.corrupt(h.logOff+e.at, "the log replaces the headers or itself, at %d", w.off)
		}
		if n > 0 {
			all = append(all, w)
		}
	}
	return all, nil
}

// settle makes of patches in the order of their writing ones that do not overlap, in the order of their places: the
// newest is painted first, and each place is painted once.
func settle(all []patch) []patch {
	cuts := make([]int64, 0, 2*len(all)) // a log made to deceive holds a quarter of a million: nothing grows by doubling
	for _, w := range all {
		cuts = append(cuts, w.off, w.end)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	painted := make([]int32, len(cuts)) // by which patch, counted from one
	next := make([]int32, len(cuts)+1)  // the first cell from here on that is not painted
	for i := range next {
		next[i] = int32(i)
	}
	cells := 0
	find := func(i int32) int32 {
		for next[i] != i {
			next[i] = next[next[i]]
			i = next[i]
		}
		return i
	}
	for n := len(all) - 1; n >= 0; n-- {
		from, _ := slices.BinarySearch(cuts, all[n].off)
		for i := find(int32(from)); int(i) < len(cuts) && cuts[i] < all[n].end; i = find(i) {
			painted[i], next[i] = int32(n+1), i+1
			cells++
		}
	}
	out := make([]patch, 0, cells)
	for i, n := range painted {
		if n == 0 {
			continue
		}
		w := patch{off: cuts[i], end: cuts[i+1]}
		if from := all[n-1]; from.data != nil {
			w.data = from.data[w.off-from.off : w.end-from.off]
		}
		out = append(out, w)
	}
	return out
}

// replayed is a file with its log applied, in memory.
type replayed struct {
	file    pipe.Image
	size    int64
	patches []patch
}

func (r *replayed) Size() int64 { return r.size }

func (r *replayed) Close() error { return r.file.Close() }

// ReadAt implements [pipe.Image].
func (r *replayed) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), max(r.size-off, 0)))
	have := int(min(int64(n), max(r.file.Size()-off, 0)))
	if have > 0 {
		if err := readFull(ctx, r.file, p[:have], off); err != nil {
			return 0, err
		}
	}
	clear(p[have:n])
	end := off + int64(n)
	first := sort.Search(len(r.patches), func(i int) bool { return r.patches[i].end > off })
	for _, w := range r.patches[first:] {
		if w.off >= end {
			break
		}
		from, to := max(w.off, off), min(w.end, end)
		if w.data == nil {
			clear(p[from-off : to-off])
		} else {
			copy(p[from-off:to-off], w.data[from-w.off:])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// logged is a page that goes into an entry of the log.
type logged struct {
	off  int64
	page []byte // sectorLog bytes
}

// encodeEntry makes one entry that replaces pages, for a file of fileSize bytes.
func encodeEntry(id GUID, sequence uint64, tail, fileSize int64, pages []logged) []byte {
	pages = slices.SortedFunc(slices.Values(pages), func(a, b logged) int { return cmp.Compare(a.off, b.off) })
	first := descSectors(len(pages)) * sectorLog
	b := make([]byte, first+int64(len(pages))*sectorLog)
	copy(b, "loge")
	le.PutUint32(b[8:], uint32(len(b)))
	le.PutUint32(b[12:], uint32(tail))
	le.PutUint64(b[16:], sequence)
	le.PutUint32(b[24:], uint32(len(pages)))
	copy(b[32:], id[:])
	le.PutUint64(b[48:], uint64(fileSize))
	le.PutUint64(b[56:], uint64(fileSize))
	for i, pg := range pages {
		d, s := b[entryHead+i*descriptor:], b[first+int64(i)*sectorLog:]
		copy(d, "desc")
		copy(d[4:8], pg.page[4092:])
		copy(d[8:16], pg.page[:8])
		le.PutUint64(d[16:], uint64(pg.off))
		le.PutUint64(d[24:], sequence)
		copy(s[:sectorLog], pg.page)
		copy(s, "data")
		le.PutUint32(s[4:], uint32(sequence>>32))
		le.PutUint32(s[4092:], uint32(sequence))
	}
	le.PutUint32(b[4:], crc32.Checksum(b, castagnoli))
	return b
}
