package fat

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Open opens a volume. See [fsys].
func Open(ctx context.Context, vol pipe.Image) (fsys.FileSystem, error) {
	boot := make([]byte, 512)
	if vol.Size() < int64(len(boot)) {
		return nil, fsys.ErrOther
	}
	if err := readFull(ctx, vol, boot, 0); err != nil {
		return nil, err
	}
	g, err := parseBoot(boot, vol.Size())
	if err != nil {
		return nil, err
	}
	if g.size > vol.Size() {
		return nil, bad("it says that the volume has %d bytes, which has %d", g.size, vol.Size())
	}
	v := &volume{vol: vol, geo: g, table: table{vol: vol, geo: g}}
	if v.doubt, err = v.table.load(ctx); err != nil {
		return nil, err
	}
	if g.kind == fat32 && v.doubt == "" && v.table.isFree(g.rootCluster) {
		v.doubt = "the root folder lies in a free cluster"
	}
	if label := v.rootLabel(ctx); label != "" {
		g.label = label
	}
	if g.label == "NO NAME" {
		g.label = ""
	}
	return v, nil
}

// volume is an opened FAT.
type volume struct {
	vol   pipe.Image
	geo   *geometry
	table table
	doubt string

	mu   sync.Mutex
	seen seen
}

// seen is how far the chain of the file that was read last has been followed, so that reading on costs nothing.
type seen struct {
	node fsys.Node
	link link
}

func (v *volume) Info() fsys.Info {
	g := v.geo
	return fsys.Info{
		Kind: "vfat", UUID: fmt.Sprintf("%04x-%04x", g.serial>>16, g.serial&0xFFFF), Label: g.label,
		Size: g.size, BlockSize: g.cluster, Doubt: v.doubt,
	}
}

func (v *volume) Free(ctx context.Context) iter.Seq2[fsys.Range, error] {
	if v.doubt != "" {
		return func(func(fsys.Range, error) bool) {}
	}
	return v.table.runs(ctx)
}

func (v *volume) Root() fsys.Node { return 0 }

// Attributes of an entry.
const (
	attrReadOnly = 0x01
	attrLabel    = 0x08
	attrFolder   = 0x10
	attrLong     = 0x0F
)

const (
	entrySize = 32
	// maxFolder is the longest folder that may be, in bytes: 65,536 entries.
	maxFolder = 2 << 20
)

// record is a short entry.
type record [entrySize]byte

func (r *record) first() uint32 {
	return uint32(binary.LittleEndian.Uint16(r[20:]))<<16 | uint32(binary.LittleEndian.Uint16(r[26:]))
}

func (r *record) size() int64    { return int64(binary.LittleEndian.Uint32(r[28:])) }
func (r *record) isFolder() bool { return r[11]&attrFolder != 0 }

// used reports whether this is the entry of a file or folder: not free, deleted, a label, or a part of a long name.
func (r *record) used() bool { return r[0] != 0 && r[0] != 0xE5 && r[11]&attrLabel == 0 }

func (r *record) mode() fs.FileMode {
	mode := fs.FileMode(0o755)
	if !r.isFolder() {
		mode = 0o644
	}
	if r[11]&attrReadOnly != 0 {
		mode &^= 0o222
	}
	if r.isFolder() {
		mode |= fs.ModeDir
	}
	return mode
}

// modified is when the content was written last. FAT knows no time zones; it is taken for UTC.
func (r *record) modified() time.Time {
	d, t := int(binary.LittleEndian.Uint16(r[24:])), int(binary.LittleEndian.Uint16(r[22:]))
	if d == 0 {
		return time.Time{}
	}
	return time.Date(1980+d>>9, time.Month(d>>5&15), d&31, t>>11, t>>5&63, t&31*2, 0, time.UTC)
}

// record reads the entry that a node names. A node may be any number: it must lie where folders can.
func (v *volume) record(ctx context.Context, n fsys.Node) (r record, err error) {
	off := int64(n) * entrySize
	inRoot := v.geo.kind != fat32 && off >= v.geo.root && off < v.geo.data
	inData := off >= v.geo.data && off < v.geo.data+int64(v.geo.clusters)*v.geo.cluster
	if n >= 1<<58 || !inRoot && !inData || inData && v.table.isFree(uint32((off-v.geo.data)/v.geo.cluster)+2) {
		return r, fmt.Errorf("node %d: %w", n, fs.ErrNotExist)
	}
	if err := readFull(ctx, v.vol, r[:], off); err != nil {
		return r, err
	}
	if !r.used() {
		return r, fmt.Errorf("node %d: %w", n, fs.ErrNotExist)
	}
	return r, nil
}

// pieces yields the parts of a folder, each with its place on the volume.
func (v *volume) pieces(ctx context.Context, dir fsys.Node) iter.Seq2[fsys.Range, error] {
	return func(yield func(fsys.Range, error) bool) {
		first := v.geo.rootCluster
		if dir != 0 {
			r, err := v.record(ctx, dir)
			if err == nil && !r.isFolder() {
				err = fmt.Errorf("node %d is no folder: %w", dir, fs.ErrInvalid)
			}
			if err != nil {
				yield(fsys.Range{}, err)
				return
			}
			first = r.first()
		}
		if v.geo.kind != fat32 {
			if first &= 0xFFFF; dir == 0 {
				yield(fsys.Range{Off: v.geo.root, Len: v.geo.rootLen}, nil)
				return
			}
		}
		for l, err := range v.table.chain(ctx, first, max(maxFolder/v.geo.cluster, 1)) {
			if err != nil {
				yield(fsys.Range{}, err)
				return
			}
			if !yield(fsys.Range{Off: v.geo.where(l.cluster), Len: v.geo.cluster}, nil) {
				return
			}
		}
	}
}

// records yields the entries of a folder up to its end, each with its place; also deleted ones and parts of names.
func (v *volume) records(ctx context.Context, dir fsys.Node) iter.Seq2[placed, error] {
	return func(yield func(placed, error) bool) {
		buf := []byte(nil)
		for piece, err := range v.pieces(ctx, dir) {
			if err == nil {
				if int64(len(buf)) < piece.Len {
					buf = make([]byte, piece.Len)
				}
				err = readFull(ctx, v.vol, buf[:piece.Len], piece.Off)
			}
			if err != nil {
				yield(placed{}, err)
				return
			}
			for i := int64(0); i < piece.Len; i += entrySize {
				r := record(buf[i:])
				if r[0] == 0 || !yield(placed{r, fsys.Node((piece.Off + i) / entrySize)}, nil) {
					return
				}
			}
		}
	}
}

// placed is a record and the node that its place makes it.
type placed struct {
	record
	node fsys.Node
}

func (v *volume) ReadDir(ctx context.Context, dir fsys.Node) iter.Seq2[fsys.Entry, error] {
	return func(yield func(fsys.Entry, error) bool) {
		var long longName
		for r, err := range v.records(ctx, dir) {
			switch {
			case err != nil:
				yield(fsys.Entry{}, err)
				return
			case r.record[0] == 0xE5:
				long.count = 0
				continue
			case r.record[11]&0x3F == attrLong:
				long.add(r.record[:])
				continue
			case !r.used():
				long.count = 0
				continue
			}
			name := long.take(r.record[:])
			if name == "" {
				name = shortName(r.record[:])
			}
			if name == "." || name == ".." {
				continue
			}
			if name == "" || strings.ContainsAny(name, "/\x00") {
				yield(fsys.Entry{}, &fsys.CorruptError{What: "folder entry", Off: int64(r.node) * entrySize, Why: "its name cannot be"})
				return
			}
			if !yield(fsys.Entry{Name: name, Node: r.node, Type: r.mode().Type()}, nil) {
				return
			}
		}
	}
}

// rootLabel is the label in the root folder, which counts before that in the boot sector.
func (v *volume) rootLabel(ctx context.Context) string {
	for r, err := range v.records(ctx, 0) {
		if err != nil {
			return ""
		}
		if r.record[0] != 0xE5 && r.record[11]&0x3F != attrLong && r.record[11]&attrLabel != 0 {
			return strings.TrimRight(decodeOEM(r.record[:11]), " ")
		}
	}
	return ""
}

func (v *volume) Stat(ctx context.Context, n fsys.Node) (fsys.Attr, error) {
	if n == 0 {
		return fsys.Attr{Mode: fs.ModeDir | 0o755, Links: 1}, nil
	}
	r, err := v.record(ctx, n)
	if err != nil {
		return fsys.Attr{}, err
	}
	a := fsys.Attr{Node: n, Mode: r.mode(), Size: r.size(), Links: 1, Mod: r.modified()}
	if r.isFolder() {
		a.Size = 0
	}
	return a, nil
}

// file is the record of a regular file.
func (v *volume) file(ctx context.Context, n fsys.Node) (record, error) {
	if n == 0 {
		return record{}, fmt.Errorf("the root is no file: %w", fs.ErrInvalid)
	}
	r, err := v.record(ctx, n)
	if err == nil && r.isFolder() {
		err = fmt.Errorf("node %d is no file: %w", n, fs.ErrInvalid)
	}
	return r, err
}

// links yields the clusters of a file, from one that is not behind byte off. A chain that ends before the file does is
// corrupt.
func (v *volume) links(ctx context.Context, n fsys.Node, r record, off int64) iter.Seq2[link, error] {
	return func(yield func(link, error) bool) {
		first, need := r.first(), (r.size()+v.geo.cluster-1)/v.geo.cluster
		if v.geo.kind != fat32 {
			first &= 0xFFFF
		}
		have := int64(0)
		v.mu.Lock()
		if s := v.seen; s.node == n && s.link.i > 0 && s.link.i*v.geo.cluster <= off {
			first, have = s.link.cluster, s.link.i
		}
		v.mu.Unlock()
		if first != 0 {
			from := have
			for l, err := range v.table.chain(ctx, first, 4<<30/v.geo.cluster+1-from) {
				l.i += from
				if !yield(l, err) || err != nil {
					return
				}
				have++
			}
		}
		if have < need {
			yield(link{}, &fsys.CorruptError{What: fmt.Sprintf("chain from cluster %d", first), Off: -1, Why: fmt.Sprintf("%d clusters for %d bytes", have, r.size())})
		}
	}
}

func (v *volume) Runs(ctx context.Context, n fsys.Node) iter.Seq2[fsys.Run, error] {
	return v.runs(ctx, n, 0)
}

// runs yields the runs from one that is not behind byte off.
func (v *volume) runs(ctx context.Context, n fsys.Node, off int64) iter.Seq2[fsys.Run, error] {
	return func(yield func(fsys.Run, error) bool) {
		r, err := v.file(ctx, n)
		if err != nil {
			yield(fsys.Run{}, err)
			return
		}
		var run fsys.Run
		for l, err := range v.links(ctx, n, r, off) {
			if err != nil {
				yield(fsys.Run{}, err)
				return
			}
			at := v.geo.where(l.cluster)
			if run.Len > 0 && run.Vol+run.Len == at {
				run.Len += v.geo.cluster
				continue
			}
			if run.Len > 0 && !yield(run, nil) {
				return
			}
			run = fsys.Run{File: l.i * v.geo.cluster, Len: v.geo.cluster, Vol: at, Kind: fsys.Written}
		}
		if run.Len > 0 {
			yield(run, nil)
		}
	}
}

func (v *volume) ReadAt(ctx context.Context, n fsys.Node, p []byte, off int64) (int, error) {
	r, err := v.file(ctx, n)
	switch {
	case err != nil:
		return 0, err
	case off < 0:
		return 0, fmt.Errorf("read at %d: %w", off, fs.ErrInvalid)
	case off >= r.size():
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), r.size()-off)]
	done := 0
	for run, err := range v.runs(ctx, n, off) {
		if err != nil {
			return done, err
		}
		at := off + int64(done)
		if run.File+run.Len <= at {
			continue
		}
		part := want[done:min(int64(len(want)), int64(done)+run.File+run.Len-at)]
		if err := readFull(ctx, v.vol, part, run.Vol+at-run.File); err != nil {
			return done, err
		}
		if done += len(part); done == len(want) {
			i := (off + int64(done) - 1) / v.geo.cluster
			v.mu.Lock()
			v.seen = seen{n, link{uint32((run.Vol-v.geo.data)/v.geo.cluster+i-run.File/v.geo.cluster) + 2, i}}
			v.mu.Unlock()
			break
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

func (v *volume) Readlink(context.Context, fsys.Node) (string, error) {
	return "", fmt.Errorf("FAT has no symbolic links: %w", fs.ErrInvalid)
}
