package vmdk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/hikae/hikae/pipe"
)

// what says where the bytes of a range are.
type what uint8

const (
	isAbsent what = iota // in the parent, or zero without one
	isZero
	isData   // in a file
	isPacked // in a file, compressed
)

// run is a range of an extent, or of a disk, whose bytes are in one place.
type run struct {
	off, len int64
	what     what
	from     pipe.Image // for data
	host     int64      // in from; of a packed grain the place of its marker
	grains   *grains    // for packed
	grain    int64      // its first byte in the extent
}

func (r run) end() int64 { return r.off + r.len }

// grains is an extent whose bytes are found by a directory of tables of grains. Nothing of it is kept but pages in the
// cache, so that what a header claims costs no memory.
type grains struct {
	path     string
	file     pipe.Image
	cache    *cache
	size     int64 // of the extent, in bytes
	grain    int64 // bytes
	perTable int64 // entries of a table
	entry    int64 // bytes of an entry, in directory and tables: 4 or 8
	dir      int64 // where the directory is in the file
	spareDir int64 // where its copy is; 0 for none
	packed   bool
	coder    coder
}

// coder knows the entries of one format.
type coder interface {
	// table is the place of a table in the file by its directory entry; ok is false where there is none.
	table(entry uint64) (off int64, ok bool, err error)
	// grain is the place of a grain in the file by its table entry.
	grain(entry uint64) (w what, off int64, err error)
}

const pageLen = 16 << 10

func (g *grains) corrupt(off int64, format string, args ...any) error {
	return &CorruptError{Path: g.path, Offset: off, Reason: fmt.Sprintf(format, args...)}
}

// check looks at what a header said, before anything is looked up by it.
func (g *grains) check() error {
	switch {
	case g.grain < sector || g.grain > 1<<30 || g.packed && g.grain > 16<<20:
		return g.corrupt(0, "grains of %d bytes", g.grain)
	case g.perTable < 1 || g.perTable > 1<<16:
		return g.corrupt(0, "tables of %d grains", g.perTable)
	}
	n := g.tables() * g.entry
	if g.dir < sector || g.dir > g.file.Size()-n {
		return g.corrupt(g.dir, "its directory of %d bytes leaves the file of %d", n, g.file.Size())
	}
	if g.spareDir != 0 && (g.spareDir < sector || g.spareDir > g.file.Size()-n) {
		return g.corrupt(g.spareDir, "the copy of its directory leaves the file")
	}
	return nil
}

func (g *grains) tables() int64 {
	covers := g.grain * g.perTable
	return g.size/covers + min(g.size%covers, 1)
}

// entries are the entries from the one at off in the file to the end of its page. There is at least one.
func (g *grains) entries(ctx context.Context, off int64) ([]byte, error) {
	start := off / pageLen * pageLen
	key := cacheKey{file: g.file, off: start}
	page, ok := g.cache.get(key)
	if !ok {
		page = make([]byte, min(pageLen, g.file.Size()-start))
		if err := readFull(ctx, g.file, page, start); err != nil {
			return nil, fmt.Errorf("%s: table at %d: %w", g.path, start, err)
		}
		g.cache.put(key, page)
	}
	if at := off - start; at+g.entry <= int64(len(page)) {
		return page[at:], nil
	}
	return nil, g.corrupt(off, "the file ends within a table")
}

func (g *grains) value(p []byte) uint64 {
	if g.entry == 8 {
		return binary.LittleEndian.Uint64(p)
	}
	return uint64(binary.LittleEndian.Uint32(p))
}

// tableAt finds a table, by the copy of the directory where the directory leads nowhere: that is what it is there for.
func (g *grains) tableAt(ctx context.Context, i int64) (off int64, ok bool, err error) {
	off, ok, err = g.tableBy(ctx, g.dir, i)
	if errors.Is(err, ErrCorrupt) && g.spareDir != 0 {
		if spare, ok, spareErr := g.tableBy(ctx, g.spareDir, i); spareErr == nil && ok {
			return spare, true, nil
		}
	}
	return off, ok, err
}

func (g *grains) tableBy(ctx context.Context, dir, i int64) (off int64, ok bool, err error) {
	at := dir + i*g.entry
	p, err := g.entries(ctx, at)
	if err != nil {
		return 0, false, err
	}
	off, ok, err = g.coder.table(g.value(p))
	if err != nil {
		return 0, false, g.corrupt(at, "directory entry %d: %v", i, err)
	}
	n := g.used(i) * g.entry
	dirLen := g.tables() * g.entry
	switch {
	case !ok:
		return 0, false, nil
	case off < sector || off > g.file.Size()-n:
		return 0, false, g.corrupt(at, "directory entry %d: its table at %d leaves the file of %d", i, off, g.file.Size())
	case overlap(off, n, g.dir, dirLen):
		return 0, false, g.corrupt(at, "directory entry %d: its table at %d lies in the directory", i, off)
	}
	return off, true, nil
}

// used is how many entries of a table stand for something.
func (g *grains) used(table int64) int64 {
	left := g.size - table*g.grain*g.perTable
	return min(g.perTable, left/g.grain+min(left%g.grain, 1))
}

func overlap(a, n, b, m int64) bool { return a < b+m && b < a+n }

// next is the run at off, which goes on to end at most.
func (g *grains) next(ctx context.Context, off, end int64) (run, error) {
	covers := g.grain * g.perTable
	i := off / covers
	end = min(end, (i+1)*covers)
	table, ok, err := g.tableAt(ctx, i)
	if err != nil || !ok {
		return run{off: off, len: end - off}, err
	}
	r := run{off: off}
	var page []byte
	for at := off; at < end; at = r.end() {
		entryAt := table + at%covers/g.grain*g.entry
		if page == nil || int64(len(page)) < g.entry {
			if page, err = g.entries(ctx, entryAt); err != nil {
				return run{}, err
			}
		}
		p, err := g.one(g.value(page), entryAt, table, at, end)
		if err != nil && at > off {
			return r, nil // whoever reads on finds it
		}
		if err != nil {
			return run{}, err
		}
		if at == off {
			r = p
		} else if !r.joins(p) {
			return r, nil
		} else {
			r.len += p.len
		}
		page = page[g.entry:]
	}
	return r, nil
}

// joins reports whether p, which begins where r ends, has its bytes there too.
func (r run) joins(p run) bool {
	switch {
	case r.what != p.what || r.what == isPacked:
		return false
	case r.what == isData:
		return r.from == p.from && r.host+r.len == p.host
	}
	return true
}

// one is the part of a run that lies in the grain of one entry.
func (g *grains) one(entry uint64, entryAt, table, off, end int64) (run, error) {
	w, host, err := g.coder.grain(entry)
	if err != nil {
		return run{}, g.corrupt(entryAt, "table entry: %v", err)
	}
	start := off / g.grain * g.grain
	r := run{off: off, len: min(end, start+g.grain) - off, what: w, grain: start}
	if w != isData {
		return r, nil
	}
	need := min(g.grain, g.size-start)
	if g.packed {
		need = markerLen
	}
	switch {
	case host < sector || host > g.file.Size()-need:
		return run{}, g.corrupt(entryAt, "the grain at %d leaves the file of %d", host, g.file.Size())
	case overlap(host, need, table, g.used(off/g.grain/g.perTable)*g.entry), overlap(host, need, g.dir, g.tables()*g.entry):
		return run{}, g.corrupt(entryAt, "the grain at %d lies in the tables", host)
	case g.packed:
		r.what, r.host, r.grains = isPacked, host, g
	default:
		r.from, r.host = g.file, host+off-start
	}
	return r, nil
}

// readFull fills p. That a file ends early is told as io.ErrUnexpectedEOF.
func readFull(ctx context.Context, img pipe.Image, p []byte, off int64) error {
	n, err := img.ReadAt(ctx, p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}
