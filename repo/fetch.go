package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"weak"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// buffers are one goroutine's scratch memory for one piece of content.
type buffers struct {
	cells, frame, plain []byte
	hashes              []uint64
}

func (r *Repository) buffer() *buffers {
	if b, ok := r.buffers.Get().(*buffers); ok {
		return b
	}
	n := r.header.BlockSize
	return &buffers{
		cells: make([]byte, 0, n+n/32+3*cell.Size),
		frame: make([]byte, 0, n+1024),
		plain: make([]byte, 0, n),
	}
}

// cipherCache keeps the opened keys of packs: opening one costs a read and a key derivation.
type cipherCache struct {
	mu sync.Mutex
	m  map[packRef]*object.Cipher
}

const maxCiphers = 4096

func (c *cipherCache) get(p packRef) *object.Cipher {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[p]
}

func (c *cipherCache) put(p packRef, x *object.Cipher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= maxCiphers {
		c.m = map[packRef]*object.Cipher{}
	}
	c.m[p] = x
}

// lostPacks remembers what this process found beyond repair, and why.
type lostPacks struct {
	mu sync.Mutex
	m  map[packRef]error
}

const maxLost = 1024

func (l *lostPacks) get(p packRef) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.m[p]
}

func (l *lostPacks) put(p packRef, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil || len(l.m) >= maxLost {
		l.m = map[packRef]error{}
	}
	l.m[p] = err
}

func (r *Repository) cipher(ctx context.Context, p packRef) (*object.Cipher, error) {
	if c := r.ciphers.get(p); c != nil {
		return c, nil
	}
	head := make([]byte, cell.Size)
	if _, err := r.st.ReadAt(ctx, p.name(), head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, storeError(err)
	}
	first := make([]byte, cell.Payload)
	cell.Strip(first, head, 0, len(first))
	h, err := object.ParseHeader(first)
	if err != nil {
		return nil, err
	}
	if err := h.Matches(cell.Ident{Kind: p.Kind, Repo: r.header.ID, Object: p.ID}); err != nil {
		return nil, err
	}
	c, err := object.Unwrap(h, r.keys.unwraps...)
	if err != nil {
		return nil, err
	}
	r.ciphers.put(p, c)
	return c, nil
}

// content fetches a page or chunk by id.
func (r *Repository) content(ctx context.Context, idx *index, typ uint8, id pipe.ID) ([]byte, error) {
	b, err := r.contentOf(ctx, idx, id, func(l location) bool { return l.typ == typ }, false)
	if b == nil && err == nil {
		err = &ErrCorrupt{Object: "content " + id.String(), Reason: "no pack holds it"}
	}
	return b, err
}

// contentOf fetches content whose length is not known: places that do not agree on it are tried one length after the
// other. Nil without an error says that no pack claims to hold it.
func (r *Repository) contentOf(ctx context.Context, idx *index, id pipe.ID, fits func(location) bool, whole bool) ([]byte, error) {
	loc, ok, err := r.seek(ctx, idx, id, fits)
	tried := map[uint32]bool{}
	for ok && err == nil {
		out := make([]byte, loc.plain)
		failure := r.fetchAny(ctx, idx, id, loc, out, whole)
		if failure == nil || ctx.Err() != nil || isFailure(failure) {
			return out, failure
		}
		tried[loc.plain] = true
		loc, ok, _, err = idx.find(id, func(l location) bool { return fits(l) && !tried[l.plain] })
		if !ok || err != nil {
			return nil, errors.Join(failure, err)
		}
	}
	return nil, err
}

// fetch reads content into dst, which is exactly as long as the content, and proves it by its id. What does not open
// is mended from its pack's parity on the way, or had from another pack; what cannot be is *ErrCorrupt, and never reused
// by this process. A failure of the store is returned as it is: it says nothing about the content.
func (r *Repository) fetch(ctx context.Context, idx *index, id pipe.ID, loc location, dst []byte) error {
	return r.fetchAny(ctx, idx, id, loc, dst, false)
}

// fetchAny is fetch; what a recipe needs is had from whole blocks only.
func (r *Repository) fetchAny(ctx context.Context, idx *index, id pipe.ID, loc location, dst []byte, whole bool) error {
	err := r.fetchFrom(ctx, idx, id, loc, dst)
	if err == nil || ctx.Err() != nil || isFailure(err) {
		return err
	}
	idx.markBad(id, loc.pack)
	fits := func(l location) bool { return l.typ == loc.typ && l.plain == loc.plain && (!whole || l.whole()) }
	tried := map[location]bool{loc: true}
	for deepened, renewed := idx.trusted, false; ; {
		others, lookupErr := idx.others(id, tried, fits)
		if lookupErr == nil && len(others) == 0 && !renewed {
			renewed = true
			r.look(ctx, idx)
			continue
		}
		if lookupErr == nil && len(others) == 0 && !deepened {
			deepened = true
			if lookupErr = r.deepen(ctx, idx); lookupErr == nil {
				continue
			}
		}
		if lookupErr != nil || len(others) == 0 {
			return errors.Join(err, lookupErr)
		}
		for _, other := range others {
			tried[other] = true
			if err = r.fetchFrom(ctx, idx, id, other, dst); err == nil || ctx.Err() != nil || isFailure(err) {
				return err
			}
			idx.markBad(id, other.pack)
		}
	}
}

func (r *Repository) fetchFrom(ctx context.Context, idx *index, id pipe.ID, loc location, dst []byte) error {
	p := idx.pack(loc.pack)
	first := r.fetchFrame(ctx, idx, p, id, loc, dst)
	if first == nil || ctx.Err() != nil || isSourceError(first) { // of another pack: this one is not to be mended
		return first
	}
	off, n := cell.StreamSpan(int(loc.offset), int(loc.stored))
	if errors.Is(first, errOtherContent) && idx.isLiar(loc.pack) { // its seal is whole, so there is nothing to mend
		return &ErrCorrupt{Object: p.name(), Offset: int64(off), Length: int64(n), Reason: "a frame holds something else", Err: first}
	}
	err := r.fetchMended(ctx, idx, p, id, loc, dst)
	if err == nil {
		r.warn(fmt.Sprintf("%s is damaged; what was needed of it was mended from its parity: %v", p.name(), first))
		return nil
	}
	if ctx.Err() != nil || isFailure(err) || isSourceError(err) {
		return fmt.Errorf("%s: %w", p.name(), err)
	}
	if errors.Is(err, errOtherContent) {
		idx.lies(loc.pack)
	}
	return &ErrCorrupt{Object: p.name(), Offset: int64(off), Length: int64(n), Reason: "a frame cannot be read", Err: errors.Join(first, err)}
}

func (r *Repository) fetchFrame(ctx context.Context, idx *index, p packRef, id pipe.ID, loc location, dst []byte) error {
	c, err := r.cipher(ctx, p)
	if err != nil {
		return err
	}
	buf := r.buffer()
	defer r.buffers.Put(buf)
	sealed, err := r.readFrame(ctx, p, loc, buf)
	if err != nil {
		return err
	}
	return r.openInto(ctx, idx, dst, c, sealed, id, loc, buf)
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// openInto opens, decodes and proves one frame.
func (r *Repository) openInto(ctx context.Context, idx *index, dst []byte, c *object.Cipher, sealed []byte, id pipe.ID, loc location, buf *buffers) error {
	encoded, err := c.OpenFrame(buf.frame, sealed, loc.ref())
	if err != nil {
		return err
	}
	buf.frame = encoded
	if err := r.decode(ctx, idx, dst, encoded, loc.codec); err != nil {
		return err
	}
	if idx.ids.id(loc.typ, dst) != id {
		return errOtherContent
	}
	return nil
}

// errOtherContent says that a frame opened, and holds something else than what its id names.
var errOtherContent = errors.New("the content does not match its id")

// decode fills dst with the content of an opened frame.
func (r *Repository) decode(ctx context.Context, idx *index, dst, encoded []byte, codec pipe.Codec) error {
	if codec == codecAssembled {
		return r.assemble(ctx, idx, encoded, dst)
	}
	content, err := pipe.Decode(dst, encoded, codec, len(dst))
	if err != nil {
		return err
	}
	if len(dst) > 0 && &content[0] != &dst[0] {
		copy(dst, content)
	}
	return nil
}

// fetchRecipe reads the recipe of an assembled block, mending its pack in memory where it must.
func (r *Repository) fetchRecipe(ctx context.Context, p packRef, id pipe.ID, loc location) (*recipe, error) {
	encoded, err := r.openFrame(ctx, p, loc)
	if err != nil {
		o, i, err := r.openPack(ctx, p, id, loc)
		if err != nil {
			return nil, err
		}
		if encoded, err = o.Frame(i); err != nil {
			return nil, err
		}
	}
	return decodeRecipe(encoded, int(loc.plain))
}

// openFrame reads and opens one frame, into new memory.
func (r *Repository) openFrame(ctx context.Context, p packRef, loc location) ([]byte, error) {
	c, err := r.cipher(ctx, p)
	if err != nil {
		return nil, err
	}
	buf := r.buffer()
	defer r.buffers.Put(buf)
	sealed, err := r.readFrame(ctx, p, loc, buf)
	if err != nil {
		return nil, err
	}
	return c.OpenFrame(nil, sealed, loc.ref())
}

// readFrame reads one sealed frame into buf.cells.
func (r *Repository) readFrame(ctx context.Context, p packRef, loc location, buf *buffers) ([]byte, error) {
	off, n := cell.StreamSpan(int(loc.offset), int(loc.stored))
	buf.cells = grow(buf.cells, n)
	if got, err := r.st.ReadAt(ctx, p.name(), buf.cells, int64(off)); got < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, storeError(err)
	}
	cell.Strip(buf.cells, buf.cells, int(loc.offset), int(loc.stored))
	return buf.cells[:loc.stored], nil
}

// ref is the frame's place and kind, as its object has it.
func (l location) ref() object.FrameRef {
	return object.FrameRef{Ordinal: l.ordinal, Offset: l.offset, Stored: l.stored, Plain: l.plain, Type: l.typ, Codec: uint8(l.codec)}
}

// fetchMended reads the whole pack and repairs it in memory.
func (r *Repository) fetchMended(ctx context.Context, idx *index, p packRef, id pipe.ID, loc location, dst []byte) error {
	o, i, err := r.openPack(ctx, p, id, loc)
	if err != nil {
		return err
	}
	encoded, err := o.Frame(i)
	if err != nil {
		return err
	}
	if err := r.decode(ctx, idx, dst, encoded, loc.codec); err != nil {
		return err
	}
	if idx.ids.id(loc.typ, dst) != id {
		return errOtherContent
	}
	return nil
}

// openPack reads and mends a whole pack that should have that content, and says which frame it is: by the pack's own
// table, not by the index. One that has lost more than its parity
// mends is not tried again: a salvage asks for every sector of it.
func (r *Repository) openPack(ctx context.Context, p packRef, id pipe.ID, loc location) (*object.Object, int, error) {
	if err := r.lost.get(p); err != nil {
		return nil, 0, err
	}
	file, err := readAll(ctx, r.st, p.name(), maxPackFile)
	if err != nil {
		return nil, 0, err
	}
	want := cell.Ident{Kind: p.Kind, Repo: r.header.ID, Object: p.ID}
	o, _, err := object.OpenFile(file, want, r.keys.unwraps)
	if err != nil {
		if o = r.otherPack(ctx, p, want); o == nil {
			r.lost.put(p, err)
			return nil, 0, err
		}
	}
	i := slices.IndexFunc(o.Entries(), func(e object.Entry) bool {
		return e.ID == id && e.Type == loc.typ && e.Plain == loc.plain && e.Codec == uint8(loc.codec)
	})
	if i < 0 {
		return nil, 0, errors.New("the pack's table does not name this content")
	}
	return o, i, nil
}

// maxPackFile bounds a pack's file: the largest stream, half of it again as parity, and trailers.
const maxPackFile = 100 << 20

// loadedIndex is the index of one scope, and how far it was loaded.
type loadedIndex struct {
	idx  *index
	at   uint64          // number of the log's last record when it was brought up to date
	read map[string]bool // index objects that were read
}

// index loads what the repository holds of one scope: the tables in index objects, and for packs that none of them
// names, the packs' own. A later call finds it loaded, and adds what has come since.
func (r *Repository) index(ctx context.Context, s scope) (*index, error) {
	r.indexMu.Lock()
	defer r.indexMu.Unlock()
	if r.indexClosed {
		return nil, fmt.Errorf("repository: %w", fs.ErrClosed)
	}
	for {
		known := r.indexes[s] != nil
		x, err := r.currentIndex(ctx, s)
		switch {
		case err == nil && !known:
			x.goneFirst = x.gone
			return x, nil
		case err == nil && !(r.writer == nil && x.outlived()):
			return x, nil
		case err != nil && !errors.Is(err, errStaleIndex):
			return nil, err
		}
		r.retired = slices.DeleteFunc(r.retired, func(w weak.Pointer[index]) bool { return w.Value() == nil })
		r.retired = append(r.retired, weak.Make(x)) // sessions and disks may be using it
		delete(r.indexes, s)
	}
}

// currentIndex brings the index up to date, or makes it. The caller holds indexMu.
func (r *Repository) currentIndex(ctx context.Context, s scope) (*index, error) {
	var head, epoch uint64
	r.log.view(func(l *ledger) { head, epoch = l.n, l.epoch })
	l := r.indexes[s]
	if l == nil {
		x, err := r.newIndex(s)
		if err != nil {
			return nil, err
		}
		x.epoch = epoch
		if r.writer != nil {
			if x.dead, err = r.writer.bury(ctx); err != nil {
				return nil, errors.Join(fmt.Errorf("the writer's cache: %w", err), x.close())
			}
		}
		l = &loadedIndex{idx: x, read: map[string]bool{}}
		if err := r.loadIndex(ctx, l); err != nil {
			return nil, errors.Join(err, x.close())
		}
		l.at, r.indexes[s] = head, l
	}
	if l.idx.epoch == epoch && l.at != head {
		// The log has moved: another client's point may need packs that were not there yet.
		if err := r.loadIndex(ctx, l); err != nil {
			return nil, err
		}
		l.at = head
	}
	return l.idx, r.catchUp(l.idx)
}

// newIndex makes an empty index for one scope.
func (r *Repository) newIndex(s scope) (*index, error) {
	ids, err := r.keys.contentsOf(s)
	if err != nil {
		return nil, err
	}
	x, err := newIndex(r.opts.CacheDir)
	if err != nil && r.opts.CacheDir != "" {
		r.warn(fmt.Sprintf("the system's folder for temporary files is used for the index: %v", err))
		x, err = newIndex("")
	}
	if err != nil {
		return nil, err
	}
	x.scope, x.ids = s, ids
	x.trusted = s == scope{} && r.keys.suite != object.SuiteClear
	return x, nil
}

func (r *Repository) loadIndex(ctx context.Context, l *loadedIndex) error {
	x := l.idx
	present, err := r.packsOf(ctx, x.scope)
	if err != nil {
		return err
	}
	cache, whole := r.indexCache(x), false
	if x.len() > 0 || len(l.read) > 0 || len(present) == 0 {
		cache = nil // only the first look at the repository is kept
	}
	if cache != nil {
		whole = cache.load(x, present)
	}
	if !x.hasAll(present) {
		if err := r.loadPacks(ctx, l, present); err != nil {
			return err
		}
	}
	if cache != nil && x.worthSaving(whole) {
		cache.save(x, present)
	}
	return nil
}

// loadPacks enters the packs that are not in the index yet: by what index objects say, and by their own tables.
func (r *Repository) loadPacks(ctx context.Context, l *loadedIndex, present map[packRef]int64) error {
	x := l.idx
	r.sweepUnfinished(ctx)
	news := map[uint64]bool{} // by lease of packs that are there: some are new
	for ref := range present {
		news[ref.Lease] = news[ref.Lease] || !x.has(ref)
	}
	var names []string
	for info, err := range r.st.List(ctx, "index/") {
		if err != nil {
			return err
		}
		if l.read[info.Name] {
			continue
		}
		ref, ok := parseRef(strings.TrimPrefix(info.Name, "index/"), "/")
		if !ok || !r.ofScope(ref.Lease, x.scope) {
			continue
		}
		some, there := news[ref.Lease]
		if r.writer == nil && x.cached() && !some { // it speaks for no pack that is not known
			if !there {
				x.doubt()
			}
			continue
		}
		names = append(names, info.Name)
	}
	for _, name := range names {
		l.read[name] = true
		if err := r.loadIndexObject(ctx, x, name, present); err != nil {
			if ctx.Err() != nil || errors.Is(err, fs.ErrClosed) {
				return err
			}
			r.warn(fmt.Sprintf("%s cannot be used, the packs' own tables are read instead: %v", name, err))
		}
	}
	return r.loadTables(ctx, x, present)
}

// hasAll reports whether every pack is in the index.
func (x *index) hasAll(present map[packRef]int64) bool {
	for p := range present {
		if !x.has(p) {
			return false
		}
	}
	return len(present) > 0
}

// packs lists the packs that are there, with the sizes of their files.
func (r *Repository) packs(ctx context.Context) (map[packRef]int64, error) {
	present := map[packRef]int64{}
	for _, prefix := range []string{"data/", "meta/"} {
		for info, err := range r.st.List(ctx, prefix) {
			if err != nil {
				return nil, err
			}
			if p, ok := parsePack(info.Name); ok {
				present[p] = info.Size
			}
		}
	}
	return present, nil
}

// packsOf lists the packs of one scope.
func (r *Repository) packsOf(ctx context.Context, s scope) (map[packRef]int64, error) {
	present, err := r.packs(ctx)
	if err != nil {
		return nil, err
	}
	r.log.view(func(l *ledger) {
		maps.DeleteFunc(present, func(p packRef, _ int64) bool {
			of, known := l.scopeOf(p.Lease)
			return !known || of != s
		})
	})
	if r.writer != nil {
		maps.DeleteFunc(present, func(p packRef, _ int64) bool { return !r.writer.mine(ctx, p.Lease) })
	}
	return present, nil
}

// sweepUnfinished removes what dead writers left that never became an object.
func (r *Repository) sweepUnfinished(ctx context.Context) {
	if r.writable(ctx) != nil {
		return
	}
	if s, ok := store.As[store.Sweeper](r.st); ok {
		if _, err := s.Sweep(ctx, false); err != nil {
			r.warn(fmt.Sprintf("what dead writers left could not be removed: %v", err))
		}
	}
}

func (r *Repository) loadIndexObject(ctx context.Context, x *index, name string, present map[packRef]int64) error {
	ref, ok := parseRef(strings.TrimPrefix(name, "index/"), "/")
	if !ok {
		return nil // a foreign file
	}
	file, err := store.ReadAll(ctx, r.st, name, maxPackFile)
	if err != nil {
		return err
	}
	o, _, err := object.OpenFile(file, cell.Ident{Kind: kindIndex, Repo: r.header.ID, Object: ref.ID}, r.keys.indexKeys(x.scope))
	if err != nil {
		return err
	}
	for i, e := range o.Entries() {
		doc, err := o.Content(i)
		if err != nil {
			return err
		}
		if e.Type != object.TypeTable || hashBytes(doc) != hash(e.ID) {
			return fmt.Errorf("frame %d is no pack's table", i)
		}
		t, err := decodePackTable(doc)
		if err != nil {
			return err
		}
		if t.ref.Lease != ref.Lease {
			x.doubt() // nobody says anything of another session's packs
			continue
		}
		if err := r.checkTable(t.ref, t.entries); err != nil {
			return err
		}
		// A write-only client cannot look whether a pack of blocks is there. It stored it, and its own seal says so.
		blind := r.writer != nil && t.ref.Kind == kindData && r.ofScope(t.ref.Lease, x.scope) && r.writer.mine(ctx, t.ref.Lease)
		if !blind && present[t.ref] != packFileSize(t.stream, r.header.ParityPermille) {
			x.doubt() // removed, or not what it was: then its own table is asked
			continue
		}
		if x.has(t.ref) {
			continue
		}
		if err := r.addTable(x, t.ref, t.entries); err != nil {
			return err
		}
		if num, ok := x.number(t.ref); ok {
			x.tell(num, toldTable{hash(e.ID), t.stream})
		}
	}
	return nil
}

// loadTables asks the packs that no index object named.
func (r *Repository) loadTables(ctx context.Context, x *index, present map[packRef]int64) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for p, size := range present {
		if x.has(p) {
			continue
		}
		g.Go(func() error {
			t, err := r.readTable(ctx, p, size)
			if err == nil {
				err = r.checkTable(p, t)
			}
			if err != nil {
				if ctx.Err() != nil {
					return err
				}
				x.doubt()
				r.warn(fmt.Sprintf("%s cannot be used: %v", p.name(), err))
				return nil
			}
			return r.addTable(x, p, t)
		})
	}
	return g.Wait()
}

// readTable reads a pack's own table, mending the pack in memory where it is damaged.
func (r *Repository) readTable(ctx context.Context, p packRef, size int64) ([]object.Entry, error) {
	want := cell.Ident{Kind: p.Kind, Repo: r.header.ID, Object: p.ID}
	read := func(off, n int) ([]byte, error) {
		b := make([]byte, n)
		got, err := r.st.ReadAt(ctx, p.name(), b, int64(off))
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return b[:got], err
	}
	t, err := object.ReadTable(read, size, want, r.keys.unwraps)
	if err == nil {
		r.ciphers.put(p, t.Cipher)
		return t.Entries, nil
	}
	file, readErr := store.ReadAll(ctx, r.st, p.name(), maxPackFile)
	if readErr != nil {
		return nil, errors.Join(err, storeError(readErr))
	}
	o, _, openErr := object.OpenFile(file, want, r.keys.unwraps)
	if openErr != nil {
		if o = r.otherPack(ctx, p, want); o == nil {
			return nil, errors.Join(err, openErr)
		}
		return o.Entries(), nil
	}
	r.warn(fmt.Sprintf("%s is damaged; its table was mended from its parity", p.name()))
	return o.Entries(), nil
}

// packFileSize is how long the file of a pack with that much stream is (FORMAT.md section 2).
func packFileSize(stream, permille int) int64 {
	n := max(1, (stream+cell.Payload-1)/cell.Payload)
	m := max(2, (n*permille+999)/1000)
	return int64(n+m) * cell.Size
}

func (x *index) has(p packRef) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	_, ok := x.packNum[p]
	return ok
}

// addTable enters a durable pack into the index.
func (r *Repository) addTable(x *index, p packRef, entries []object.Entry) error {
	if err := r.checkTable(p, entries); err != nil {
		return err
	}
	num, known := x.addPack(p)
	if known {
		return nil
	}
	if err := x.reserve(len(entries)); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type != object.TypeBlock && e.Type != object.TypePage && e.Type != object.TypeChunk {
			continue
		}
		err := x.add(e.ID, location{
			pack: num, ordinal: e.Ordinal, offset: e.Offset, stored: e.Stored, plain: e.Plain, typ: e.Type, codec: pipe.Codec(e.Codec),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// The table of one pack in an index object: kind (1), lease (8), id (16), stream length (4), count (4), and count
// entries of kind (1), codec (1), stored (4), plain (4), offset (4), id (32).

const (
	packTableHead  = 1 + 8 + 16 + 4 + 4
	packTableEntry = 1 + 1 + 4 + 4 + 4 + 32
)

func encodePackTable(t packTable) []byte {
	b := make([]byte, 0, packTableHead+len(t.entries)*packTableEntry)
	b = append(b, t.ref.Kind)
	b = binary.LittleEndian.AppendUint64(b, t.ref.Lease)
	b = append(b, t.ref.ID[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(t.stream))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(t.entries)))
	for _, e := range t.entries {
		b = append(b, e.Type, e.Codec)
		b = binary.LittleEndian.AppendUint32(b, e.Stored)
		b = binary.LittleEndian.AppendUint32(b, e.Plain)
		b = binary.LittleEndian.AppendUint32(b, e.Offset)
		b = append(b, e.ID[:]...)
	}
	return b
}

func decodePackTable(b []byte) (packTable, error) {
	var t packTable
	if len(b) < packTableHead {
		return t, fmt.Errorf("a pack's table of %d bytes", len(b))
	}
	t.ref.Kind, t.ref.Lease = b[0], binary.LittleEndian.Uint64(b[1:])
	copy(t.ref.ID[:], b[9:])
	t.stream = int(binary.LittleEndian.Uint32(b[25:]))
	count := int(binary.LittleEndian.Uint32(b[29:]))
	b = b[packTableHead:]
	if t.ref.Kind != kindData && t.ref.Kind != kindMeta || t.stream > cell.MaxStream || count > len(b)/packTableEntry || len(b) != count*packTableEntry {
		return t, fmt.Errorf("a pack's table with %d entries in %d bytes", count, len(b))
	}
	t.entries = make([]object.Entry, count)
	for i := range t.entries {
		e := &t.entries[i]
		e.Type, e.Codec = b[0], b[1]
		e.Ordinal = uint32(i)
		e.Stored, e.Plain, e.Offset = binary.LittleEndian.Uint32(b[2:]), binary.LittleEndian.Uint32(b[6:]), binary.LittleEndian.Uint32(b[10:])
		copy(e.ID[:], b[14:])
		if int64(e.Offset)+int64(e.Stored) > int64(t.stream) || e.Plain > object.MaxPlain {
			return t, fmt.Errorf("entry %d of a pack's table lies outside the pack", i)
		}
		b = b[packTableEntry:]
	}
	return t, nil
}
