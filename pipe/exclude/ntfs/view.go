package ntfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// Bounds of what a view keeps, in bytes, and of what one file may take.
const (
	cachedTable = 4 << 20
	cachedUnits = 4 << 20
	cachedRuns  = maxRuns   // in runs, of all files that were read last: 36 MiB
	maxList     = 256 << 10 // of an attribute list; Windows allows no more
	tableBlock  = 32 << 10  // in which the file table is read
)

// Numbers of the file records that every volume has.
const (
	numberTable   = 0
	numberMirror  = 1
	numberLog     = 2
	numberVolume  = 3
	numberRoot    = 5
	numberBitmap  = 6
	numberBoot    = 7
	numberExtend  = 11
	firstOrdinary = 16 // below are the file system's own
)

// view is the volume's structures, as they lie on the disk or as they are once the log is replayed. It is safe for
// concurrent use.
type view struct {
	geometry
	src   source
	table *stream // the file table, $MFT

	blocks lru[int64, []byte]
	open   lru[int64, *content]
	units  unitCache
}

// newView finds the file table. Doubt says that this took its copy.
func newView(ctx context.Context, src source, g geometry) (w *view, doubt string, err error) {
	w = &view{geometry: g, src: src}
	w.blocks.most, w.open.most, w.units.most = cachedTable, cachedRuns, cachedUnits
	r, err := w.recordAt(ctx, g.mft*g.cluster)
	if bad := err; bad != nil {
		if r, err = w.recordAt(ctx, g.mirror*g.cluster); err != nil {
			return nil, "", bad
		}
		doubt = fmt.Sprintf("the file table is read by its copy: %v", bad)
	}
	return w, doubt, w.openTable(ctx, r)
}

// recordAt reads the file record at a byte of the volume.
func (w *view) recordAt(ctx context.Context, off int64) (record, error) {
	p := make([]byte, w.record)
	if err := readFull(ctx, w.src, p, off); err != nil {
		return nil, err
	}
	r, err := parseRecord(p)
	if err != nil {
		return nil, corrupt("file record", off, err)
	}
	return r, nil
}

// openTable follows the file table's own run list. Where that needs several records, each must lie in what the ones
// before it have shown.
func (w *view) openTable(ctx context.Context, r record) error {
	f, err := newFile(numberTable, r)
	if err != nil {
		return corrupt("file record 0", w.mft*w.cluster, err)
	}
	parts := f.parts(typeData, "")
	if len(parts) == 0 || parts[0].resident || parts[0].low != 0 {
		return corrupt("file record 0", w.mft*w.cluster, errors.New("it has no run list of the file table"))
	}
	w.table = &stream{src: w.src, cluster: w.cluster, size: parts[0].size, init: parts[0].init, alloc: parts[0].alloc}
	for _, a := range parts {
		if w.table.runs, err = appendRuns(w.table.runs, a, w.clusters); err != nil {
			return corrupt("file record 0", w.mft*w.cluster, err)
		}
	}
	refs, err := w.extensions(ctx, f)
	if err != nil {
		return err
	}
	for _, n := range refs {
		if err := w.extendTable(ctx, f, n); err != nil {
			return err
		}
	}
	s, err := newStream(w.src, w.geometry, f.parts(typeData, ""), &w.units)
	if err == nil && s.flags != 0 {
		err = fmt.Errorf("flags %#x of the file table", s.flags)
	}
	if err == nil {
		err = s.solid()
	}
	if err != nil {
		return corrupt("file record 0", w.mft*w.cluster, err)
	}
	w.table = s
	w.blocks.reset()
	return nil
}

// extendTable adds what one more record says of where the file table lies.
func (w *view) extendTable(ctx context.Context, f *file, n ref) error {
	if err := w.extend(ctx, f, n); err != nil {
		return err
	}
	for _, a := range f.parts(typeData, "") {
		if k := len(w.table.runs); a.low != w.table.runs[k-1].end() {
			continue
		}
		var err error
		if w.table.runs, err = appendRuns(w.table.runs, a, w.clusters); err != nil {
			return corrupt(fmt.Sprintf("file record %d", n.number()), w.where(n.number()), err)
		}
	}
	return nil
}

// records is how many file records there are.
func (w *view) records() int64 { return w.table.init / w.record }

// where is the byte of the volume where a file record lies.
func (w *view) where(n int64) int64 {
	off := n * w.record
	if p := w.table.place(off / w.cluster); p >= 0 {
		return p + off%w.cluster
	}
	return -1
}

// readRecord reads a file record, whether it is in use or not.
func (w *view) readRecord(ctx context.Context, n int64) (record, error) {
	if n < 0 || n >= w.records() {
		return nil, fmt.Errorf("file record %d of %d: %w", n, w.records(), fs.ErrNotExist)
	}
	p := make([]byte, w.record)
	if err := w.readTable(ctx, p, n*w.record); err != nil {
		return nil, err
	}
	r, err := parseRecord(p)
	if err != nil {
		return nil, corrupt(fmt.Sprintf("file record %d", n), w.where(n), err)
	}
	return r, nil
}

// readTable reads of the file table through a cache of blocks.
func (w *view) readTable(ctx context.Context, p []byte, off int64) error {
	if len(p) > tableBlock {
		_, err := w.table.readAt(ctx, p, off)
		return err
	}
	k := off / tableBlock
	block, ok := w.blocks.get(k)
	if !ok {
		block = make([]byte, min(tableBlock, w.table.size-k*tableBlock))
		if _, err := w.table.readAt(ctx, block, k*tableBlock); err != nil { // a hole in what is known so far, or damage elsewhere
			_, err := w.table.readAt(ctx, p, off)
			return err
		}
		w.blocks.put(k, block, len(block))
	}
	copy(p, block[off-k*tableBlock:])
	return nil
}

// file is a file record with all of its extensions.
type file struct {
	number int64
	head   record
	attrs  []attr
}

func newFile(n int64, r record) (*file, error) {
	f := &file{number: n, head: r}
	return f, f.add(r)
}

func (f *file) add(r record) error {
	for a, err := range r.attrs() {
		if err != nil {
			return err
		}
		f.attrs = append(f.attrs, a)
	}
	return nil
}

// parts are those of one attribute, as they were found.
func (f *file) parts(typ uint32, name string) []attr {
	var list []attr
	for _, a := range f.attrs {
		if a.typ == typ && a.name == name {
			list = append(list, a)
		}
	}
	return list
}

// file reads a file record that is in use, with its extensions.
func (w *view) file(ctx context.Context, n int64) (*file, error) {
	r, err := w.readRecord(ctx, n)
	if err != nil {
		return nil, err
	}
	if !r.inUse() || r.base() != 0 {
		return nil, fmt.Errorf("file record %d: %w", n, fs.ErrNotExist)
	}
	f, err := newFile(n, r)
	if err != nil {
		return nil, corrupt(fmt.Sprintf("file record %d", n), w.where(n), err)
	}
	refs, err := w.extensions(ctx, f)
	if err != nil {
		return nil, err
	}
	for _, e := range refs {
		if err := w.extend(ctx, f, e); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// extend adds the attributes of one extension, which must name the file as its base.
func (w *view) extend(ctx context.Context, f *file, e ref) error {
	r, err := w.readRecord(ctx, e.number())
	if err != nil {
		return err
	}
	base := r.base()
	if !r.inUse() || r.seq() != e.seq() || base.number() != f.number || base.seq() != f.head.seq() {
		err = fmt.Errorf("it is not an extension of %d", f.number)
	} else {
		err = f.add(r)
	}
	if err != nil {
		return corrupt(fmt.Sprintf("file record %d", e.number()), w.where(e.number()), err)
	}
	return nil
}

// extensions are the records besides the first that the attribute list names, each once, in its order.
func (w *view) extensions(ctx context.Context, f *file) ([]ref, error) {
	list, err := w.attributeList(ctx, f)
	if err != nil {
		return nil, corrupt(fmt.Sprintf("attribute list of %d", f.number), -1, err)
	}
	var refs []ref
	seen := map[int64]bool{f.number: true}
	for p := list; len(p) > 0; {
		if len(p) < 0x1A {
			return nil, corrupt(fmt.Sprintf("attribute list of %d", f.number), -1, fmt.Errorf("%d bytes are left", len(p)))
		}
		n := int(le.Uint16(p[4:]))
		if n < 0x1A || n > len(p) {
			return nil, corrupt(fmt.Sprintf("attribute list of %d", f.number), -1, fmt.Errorf("an entry of %d bytes", n))
		}
		if e := ref(le.Uint64(p[0x10:])); !seen[e.number()] {
			seen[e.number()] = true
			refs = append(refs, e)
		}
		p = p[n:]
	}
	return refs, nil
}

// attributeList is the content of the attribute list, nil where there is none.
func (w *view) attributeList(ctx context.Context, f *file) ([]byte, error) {
	parts := f.parts(typeList, "")
	if len(parts) == 0 {
		return nil, nil
	}
	s, err := newStream(w.src, w.geometry, parts, &w.units)
	if err != nil {
		return nil, err
	}
	if s.size > maxList || s.unit > 0 {
		return nil, fmt.Errorf("%d bytes", s.size)
	}
	p := make([]byte, s.size)
	_, err = s.readAt(ctx, p, 0)
	return p, err
}

// stream is one attribute's content; an error wrapping fs.ErrNotExist where there is no such attribute.
func (w *view) stream(f *file, typ uint32, name string) (*stream, error) {
	parts := f.parts(typ, name)
	if len(parts) == 0 {
		return nil, fmt.Errorf("attribute %#x of file record %d: %w", typ, f.number, fs.ErrNotExist)
	}
	s, err := newStream(w.src, w.geometry, parts, &w.units)
	if err != nil {
		return nil, corrupt(fmt.Sprintf("attribute %#x of file record %d", typ, f.number), w.where(f.number), err)
	}
	return s, nil
}

// solidStream is the stream of an attribute that the file system keeps for itself.
func (w *view) solidStream(f *file, typ uint32, name string) (*stream, error) {
	s, err := w.stream(f, typ, name)
	if err != nil {
		return nil, err
	}
	if err := s.solid(); err != nil {
		return nil, corrupt(fmt.Sprintf("attribute %#x of file record %d", typ, f.number), w.where(f.number), err)
	}
	return s, nil
}

// small reads a whole attribute of at most the given number of bytes.
func (w *view) small(ctx context.Context, f *file, typ uint32, name string, most int64) ([]byte, error) {
	s, err := w.stream(f, typ, name)
	if err != nil {
		return nil, err
	}
	if s.size > most {
		return nil, corrupt(fmt.Sprintf("attribute %#x of file record %d", typ, f.number), w.where(f.number),
			fmt.Errorf("%d bytes, more than %d", s.size, most))
	}
	p := make([]byte, s.size)
	_, err = s.readAt(ctx, p, 0)
	return p, err
}
