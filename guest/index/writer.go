package index

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/hikae/hikae/guest/index/list"
)

const (
	magic      = "HKFI"
	version    = 1
	headBytes  = 8
	endMagic   = "HKFIend\x01"
	tailBytes  = 8 + 4 + 4 + sha256.Size + len(endMagic)
	hashBytes  = 16 // of each block: enough to tell damage, and the directory's own hash is whole
	maxVolumes = 4096

	// defaultLimit is below what a restore reads as one blob, 64 MiB, and some 8 million files.
	defaultLimit = 60 << 20
	maxDirectory = 32 << 20 // bytes, plain
)

// Options change how an index is written. Nil and zero fields are good defaults.
type Options struct {
	// Limit bounds the index, in bytes. Zero: 60 MiB, which every reader of a restore point's blobs takes.
	Limit int64
	// Incomplete, where set, is asked by [Build] once the list has ended: why the volume that is mounted there is not
	// listed whole. Empty: it is.
	Incomplete func(mount string) string
}

// Writer writes an index. It is not safe for concurrent use.
type Writer struct {
	out     io.Writer
	enc     *zstd.Encoder
	limit   int64
	block   block
	plain   []byte
	packed  []byte
	dir     directory
	dirSize int
	blocks  int
	written int64
	inside  bool
	last    string
	first   bool // of its volume
	err     error
}

// NewWriter begins an index.
func NewWriter(w io.Writer, opts *Options) (*Writer, error) {
	limit := int64(defaultLimit)
	if opts != nil && opts.Limit > 0 {
		limit = opts.Limit
	}
	// One at a time, and with the window of a block: the index is written beside a backup.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true))
	if err != nil {
		return nil, err
	}
	x := &Writer{out: w, enc: enc, limit: limit}
	x.block.reset()
	head := append([]byte(magic), version, 0, 0, 0)
	x.write(head)
	return x, x.err
}

// Volume begins a volume.
func (w *Writer) Volume(v Volume) error {
	if err := v.Check(); err != nil {
		return err
	}
	w.flush()
	if len(w.dir.volumes) == maxVolumes {
		return fmt.Errorf("%w: more than %d volumes", ErrFull, maxVolumes)
	}
	w.dir.volumes = append(w.dir.volumes, part{Volume: v})
	w.dirSize += 8 * list.MaxText
	w.last, w.first, w.inside = "", true, true
	return w.err
}

// Add adds an entry of the last volume; they come in the order of [list.Compare]. Errors wrap [list.ErrMalformed], or
// [ErrFull] where the index is as long as it may be: it can still be closed.
func (w *Writer) Add(e Entry) error {
	if w.err != nil {
		return w.err
	}
	if err := e.Check(); err != nil {
		return err
	}
	if !w.inside || !w.first && list.Compare(w.last, e.Path) >= 0 {
		return fmt.Errorf("%w: %.100q does not follow %.100q", list.ErrMalformed, e.Path, w.last)
	}
	if w.block.full() {
		w.flush()
	}
	if w.block.count == 0 && (w.blocks == maxBlocks || w.written+int64(w.dirSize)+2*maxBlock > w.limit || w.dirSize+2*list.MaxPath > maxDirectory) {
		return fmt.Errorf("%w: %d bytes", ErrFull, w.written)
	}
	w.block.add(e)
	w.last, w.first = e.Path, false
	return w.err
}

// Cut says in the index why the last volume has more files than are listed.
func (w *Writer) Cut(why string) {
	if n := len(w.dir.volumes); n > 0 {
		w.dir.volumes[n-1].cut = why[:min(len(why), list.MaxText)]
	}
}

// incomplete says of volumes that are not cut yet why they are not whole.
func (w *Writer) incomplete(of func(mount string) string) {
	for i := range w.dir.volumes {
		if v := &w.dir.volumes[i]; v.cut == "" {
			why := of(v.Mount)
			v.cut = why[:min(len(why), list.MaxText)]
		}
	}
}

// Entries is how many there are so far.
func (w *Writer) Entries() int64 {
	n := int64(w.block.count)
	for _, v := range w.dir.volumes {
		n += v.entries
	}
	return n
}

// flush ends a block.
func (w *Writer) flush() {
	if w.block.count == 0 || w.err != nil {
		return
	}
	w.plain = w.block.plain(w.plain[:0])
	w.packed = w.enc.EncodeAll(w.plain, w.packed[:0])
	sum := sha256.Sum256(w.packed)
	b := place{
		off: w.written, packed: len(w.packed), plain: len(w.plain), count: w.block.count,
		first: w.block.first, summary: w.block.grams.summary(), hash: [hashBytes]byte(sum[:hashBytes]),
	}
	w.write(w.packed)
	v := &w.dir.volumes[len(w.dir.volumes)-1]
	v.blocks = append(v.blocks, b)
	v.entries += int64(b.count)
	w.blocks++
	w.dirSize += len(b.first) + len(b.summary) + 64
	w.block.reset()
}

// Close ends the index: without it there is none. The stream below is not closed.
func (w *Writer) Close() error {
	w.flush()
	if w.err != nil {
		return w.err
	}
	w.plain = w.dir.encode(w.plain[:0])
	w.packed = w.enc.EncodeAll(w.plain, w.packed[:0])
	sum := sha256.Sum256(w.packed)
	tail := binary.LittleEndian.AppendUint64(nil, uint64(w.written))
	tail = binary.LittleEndian.AppendUint32(tail, uint32(len(w.packed)))
	tail = binary.LittleEndian.AppendUint32(tail, uint32(len(w.plain)))
	tail = append(append(tail, sum[:]...), endMagic...)
	w.write(w.packed)
	w.write(tail)
	if w.err != nil {
		return w.err
	}
	w.err = fmt.Errorf("%w: the index is closed", list.ErrMalformed)
	return w.enc.Close()
}

func (w *Writer) write(p []byte) {
	if w.err == nil {
		_, w.err = w.out.Write(p)
		w.written += int64(len(p))
	}
}
