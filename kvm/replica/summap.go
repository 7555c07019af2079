package replica

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sort"

	"github.com/cespare/xxhash/v2"
)

// A map stands beside each disk's file and says what of the disk is in it, in our words, and what its content is:
//
//	head      magic, version, disk size, length of the disk's file; counts and lengths of what follows
//	ranges    of the disk: length and kind, down to single bytes
//	clusters  rows of clusters that are in the file, with content or as zeros
//	sum       of all the above
//	sums      of each cluster with content, 8 bytes
//
// It is what makes the file's own tables, which QEMU reads, no more than a claim: content that is not at the place that they
// name is found out by its sum.
type sumMap struct {
	size      int64 // of the disk
	fileBytes int64 // that the disk's file has at least
	kinds     kinds
	rows      []row
	sumsAt    int64 // where the sums begin in the map's file
}

// row is a row of clusters that are in a layer.
type row struct {
	first, n int64
	zero     bool
	sum      int64 // number of the first one's sum
}

const (
	mapMagic   = "hikaemap"
	mapVersion = 1
	mapHead    = 8 + 8*7
	maxMapText = 256 << 20 // bytes of ranges and rows
)

// find is the row that holds a cluster.
func (m *sumMap) find(cluster int64) (row, bool) {
	i := sort.Search(len(m.rows), func(i int) bool { return m.rows[i].first+m.rows[i].n > cluster })
	if i == len(m.rows) || m.rows[i].first > cluster {
		return row{}, false
	}
	return m.rows[i], true
}

// sums is how many sums there are.
func (m *sumMap) sums() (n int64) {
	for _, r := range m.rows {
		if !r.zero {
			n += r.n
		}
	}
	return n
}

// add appends a cluster to the rows.
func (m *sumMap) add(cluster int64, zero bool, sum int64) error {
	if last := len(m.rows) - 1; last >= 0 {
		if r := &m.rows[last]; r.first+r.n == cluster && r.zero == zero {
			r.n++
			return nil
		}
	}
	if len(m.rows) == maxRuns {
		return errRuns
	}
	m.rows = append(m.rows, row{first: cluster, n: 1, zero: zero, sum: sum})
	return nil
}

// writeMap makes a map's file, durable on return but for its name. sumOf gives the sums in the order of the clusters.
func writeMap(path string, m *sumMap, sumOf func(cluster int64) (uint64, error)) (err error) {
	if err := removeIfThere(path); err != nil { // what was left there may be read-only
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = roomError(errors.Join(err, f.Close())) }()
	w := bufio.NewWriterSize(f, 256<<10)
	if _, err := w.Write(m.text()); err != nil {
		return err
	}
	var b [8]byte
	for _, r := range m.rows {
		for c := r.first; c < r.first+r.n && !r.zero; c++ {
			sum, err := sumOf(c)
			if err != nil {
				return err
			}
			binary.BigEndian.PutUint64(b[:], sum)
			if _, err := w.Write(b[:]); err != nil {
				return err
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Sync()
}

// text is the map without the sums.
func (m *sumMap) text() []byte {
	ranges := m.kinds.appendTo(nil)
	var rows []byte
	pos := int64(0)
	for _, r := range m.rows {
		n := uint64(r.n) << 1
		if r.zero {
			n |= 1
		}
		rows = binary.AppendUvarint(binary.AppendUvarint(rows, uint64(r.first-pos)), n)
		pos = r.first + r.n
	}
	b := []byte(mapMagic)
	for _, v := range []uint64{mapVersion, uint64(m.size), uint64(m.fileBytes), uint64(len(m.kinds)), uint64(len(ranges)), uint64(len(m.rows)), uint64(len(rows))} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = append(append(b, ranges...), rows...)
	return binary.BigEndian.AppendUint64(b, xxhash.Sum64(b))
}

// readMap reads a map for a disk of size bytes, but for the sums. What somebody else put there is refused rather than
// believed.
func readMap(r io.ReaderAt, fileLen, size int64, based bool) (*sumMap, error) {
	head := make([]byte, mapHead)
	if err := readAll(r, head, 0); err != nil {
		return nil, err
	}
	var v [7]uint64
	for i := range v {
		v[i] = binary.BigEndian.Uint64(head[8+8*i:])
	}
	m := &sumMap{size: int64(v[1]), fileBytes: int64(v[2])}
	switch {
	case string(head[:8]) != mapMagic:
		return nil, errors.New("it is no map of a disk")
	case v[0] != mapVersion:
		return nil, fmt.Errorf("version %d: %w", v[0], errors.ErrUnsupported)
	case m.size != size:
		return nil, fmt.Errorf("it is of a disk of %d bytes, not %d", m.size, size)
	case m.fileBytes < 0 || v[3] > maxRuns || v[4] > maxMapText || v[5] > maxRuns || v[6] > maxMapText:
		return nil, errRuns
	}
	if int64(v[4]+v[6])+mapHead+8 > fileLen {
		return nil, errShort
	}
	text := make([]byte, int64(v[4]+v[6])+8)
	if err := readAll(r, text, mapHead); err != nil {
		return nil, err
	}
	body := text[:len(text)-8]
	sum := xxhash.New()
	_, _ = sum.Write(head) // never fails
	_, _ = sum.Write(body)
	if sum.Sum64() != binary.BigEndian.Uint64(text[len(body):]) {
		return nil, errContent
	}
	var err error
	if m.kinds, err = decodeKinds(body[:v[4]], int(v[3]), size, based); err != nil {
		return nil, err
	}
	if m.rows, err = decodeRows(body[v[4]:], int(v[5]), clustersOf(size)); err != nil {
		return nil, err
	}
	m.sumsAt = mapHead + int64(len(text))
	if want := m.sumsAt + 8*m.sums(); want != fileLen {
		return nil, fmt.Errorf("it has %d bytes, and not %d", fileLen, want)
	}
	return m, nil
}

func decodeRows(b []byte, count int, clusters int64) ([]row, error) {
	if 2*count > len(b) {
		return nil, errShort
	}
	rows, pos, sum := make([]row, 0, count), int64(0), int64(0)
	for range count {
		gap, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errShort
		}
		b = b[n:]
		many, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errShort
		}
		b = b[n:]
		if gap > uint64(clusters-pos) || many>>1 == 0 || many>>1 > uint64(clusters-pos)-gap {
			return nil, fmt.Errorf("clusters behind the end of the disk, which has %d", clusters)
		}
		r := row{first: pos + int64(gap), n: int64(many >> 1), zero: many&1 != 0, sum: sum}
		if !r.zero {
			sum += r.n
		}
		pos = r.first + r.n
		rows = append(rows, r)
	}
	if len(b) > 0 {
		return nil, errors.New("it goes on after its end")
	}
	return rows, nil
}

// readAll fills p, or says why not.
func readAll(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		if err == nil || err == io.EOF {
			err = errShort
		}
		return err
	}
	return nil
}

// mapFile is a map with its file open, for the sums.
type mapFile struct {
	*sumMap
	f *os.File
}

func openMap(path string, size int64, based bool) (*mapFile, error) {
	f, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		var m *sumMap
		if m, err = readMap(f, info.Size(), size, based); err == nil {
			return &mapFile{m, f}, nil
		}
		err = &fs.PathError{Op: "read map", Path: path, Err: err}
	}
	return nil, errors.Join(err, f.Close())
}

// sum is that of a cluster of a row.
func (m *mapFile) sum(r row, cluster int64) (uint64, error) {
	var b [8]byte
	if err := readAll(m.f, b[:], m.sumsAt+8*(r.sum+cluster-r.first)); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// openRegular opens a file of ours: nothing that is no plain file, and nothing that a link in its place leads to.
func openRegular(path string, flags int) (*os.File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("this is not a plain file")}
	}
	return os.OpenFile(path, flags, 0)
}
