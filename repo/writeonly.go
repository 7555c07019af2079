package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"sync"

	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// OpenWriter opens a repository for a write-only client: it adds points of the key's VMs, and that is all. It sees its
// own points, as far as its cache has them, to build on them: what they are, and which parts of their disks hold data.
// Reading any of it, and everything else, is fs.ErrPermission. EnrolWriter of a client that opened a slot makes the key.
//
// The cache is a store on this machine for this repository and key alone. What the client has to read again it finds
// there and nowhere else: its manifests, pages, tables of its packs, all sealed as in the repository. Without what is
// in it the next backup is a full one, for the client then knows neither a base nor a block.
func OpenWriter(ctx context.Context, st, cache store.Store, key WriterKey, opts *OpenOptions) (*Repository, error) {
	if err := key.check(); err != nil {
		return nil, err
	}
	w := &writeOnly{key: key, far: st, cache: cache, tables: map[packRef]string{}, leases: map[uint64]bool{}}
	r := newClosed(w, opts)
	r.writer, w.r = w, r
	if err := r.findHeader(ctx, key.doc.Header); err != nil {
		return nil, err
	}
	keys, err := newWriterKeyring(&r.header, key)
	if err != nil {
		return nil, err
	}
	r.keys = keys
	if err := w.claim(ctx); err != nil {
		return nil, err
	}
	if _, err := r.start(ctx); err != nil {
		return nil, err
	}
	// Before any point is listed: one of which the cache does not count any more is no base.
	// Whoever writes does it again, and is refused where it fails.
	if err := w.catchUp(ctx); err != nil {
		r.warn(fmt.Sprintf("the writer's cache could not be held against the log: %v", err))
	}
	return r, nil
}

// findHeader reads the header that the key was made for. Whoever keeps the store could show another one, with keys of
// his own in it.
func (r *Repository) findHeader(ctx context.Context, want hash) error {
	tried := map[hash]bool{}
	for range maxHeaders {
		if err := r.readHeader(ctx, tried); err != nil {
			if len(tried) > 0 {
				return fmt.Errorf("the header is not the one that the writer's key was made for: %w", ErrSecret)
			}
			return err
		}
		if r.headerHash == want {
			return nil
		}
		tried[r.headerHash] = true
	}
	return errRestless
}

var errWriteOnly = fmt.Errorf("a write-only client reads nothing back: %w", fs.ErrPermission)

// writeOnly is the store of a write-only client: what it may read again comes from the cache, the log from afar, and
// what it creates goes to both.
//
//	          create        read, list
//	data      far           nothing; the cache has (as index/…) its table
//	meta      far, cache    cache
//	index     far, cache    cache
//	manifest  far, cache    cache
//	others    far           far
type writeOnly struct {
	r     *Repository
	key   WriterKey
	far   store.Store
	cache store.Store

	mu     sync.Mutex
	tables map[packRef]string // tables of single packs in the cache, until an index object has them
	leases map[uint64]bool    // whether what the cache has of a lease was written under the lease that the log has
}

var (
	_ store.Store  = (*writeOnly)(nil)
	_ store.Prober = (*writeOnly)(nil)
	_ store.Spacer = (*writeOnly)(nil)
)

// ownerName is an object of the cache that says whose it is.
const ownerName = "owner"

// claim makes sure that the cache is this repository's and this key's.
func (w *writeOnly) claim(ctx context.Context) error {
	public := w.key.Public()
	owner := append(w.r.header.ID[:], public[:]...)
	err := w.cache.Create(ctx, ownerName, owner)
	if errors.Is(err, fs.ErrExist) {
		var got []byte
		if got, err = store.ReadAll(ctx, w.cache, ownerName, 64); err == nil && string(got) != string(owner) {
			err = errors.New("it is that of another repository or key")
		}
	}
	if err != nil {
		return fmt.Errorf("the writer's cache: %w", err)
	}
	return nil
}

// place says where objects of a name live.
func place(name string) (dir string, cached bool) {
	dir, _, _ = strings.Cut(name, "/")
	return dir, dir == "data" || dir == "meta" || dir == "index" || dir == "manifest"
}

// Create stores an object afar, and what has to be read again in the cache too. That something is there already under
// a name that holds a fresh random id, below a lease of this client's own, can only be this very object: a call that
// was carried out and sent again. It cannot be read back to see.
func (w *writeOnly) Create(ctx context.Context, name string, data []byte) error {
	err := w.far.Create(ctx, name, data)
	bare := strings.TrimPrefix(strings.TrimPrefix(name, "copy1/"), "copy2/")
	dir, cached := place(bare)
	if errors.Is(err, fs.ErrExist) && (cached || dir == "anchor") {
		err = nil
	}
	if err == nil && cached && dir != "data" && bare == name {
		w.save(ctx, name, data)
	}
	return err
}

// save puts something into the cache. Losing it costs time and never a byte, so a failure is told and not suffered.
func (w *writeOnly) save(ctx context.Context, name string, data []byte) (ok bool) {
	err := w.cache.Create(ctx, name, data)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		w.r.warn(fmt.Sprintf("the writer's cache lacks %s: %v", name, err))
		return false
	}
	return true
}

// A lease is known by its number, and a number can come again where the store was put back to an older state. Then what
// the cache has below it is about packs that are gone. So the cache holds, for each lease of this client's own,
// the hash of its record: lease/<number>/<hash>.

func leaseMark(n uint64, record hash) string { return fmt.Sprintf("lease/%016x/%x", n, record[:]) }

// began takes note of a lease that this client has just taken. What the cache has of another one with that number goes.
func (w *writeOnly) began(ctx context.Context, n uint64) {
	if err := w.clearLease(ctx, n); err != nil {
		w.r.warn(fmt.Sprintf("the writer's cache cannot be used for lease %d: %v", n, err))
		return
	}
	if w.save(ctx, leaseMark(n, w.r.log.hashOf(n)), []byte{'\n'}) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.leases[n] = true
	}
}

func (w *writeOnly) clearLease(ctx context.Context, n uint64) error {
	var old []string
	for _, dir := range []string{"index", "meta", "lease"} { // the mark goes last
		for info, err := range w.cache.List(ctx, fmt.Sprintf("%s/%016x/", dir, n)) {
			if err != nil {
				return err
			}
			old = append(old, info.Name)
		}
	}
	for _, name := range old {
		if err := w.cache.Remove(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// mine reports whether what the cache has of a lease was written under the lease that the log has.
func (w *writeOnly) mine(ctx context.Context, n uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	is, known := w.leases[n]
	if record := w.r.log.hashOf(n); !known && record != (hash{}) {
		_, err := w.cache.Stat(ctx, leaseMark(n, record))
		if is = err == nil; is || errors.Is(err, fs.ErrNotExist) {
			w.leases[n] = is
		}
	}
	return is
}

// keep takes note of a pack that is durable: its table, sealed for this client. Where that fails, this client will not
// find the pack again.
func (w *writeOnly) keep(ctx context.Context, t packTable) (kept bool) {
	name, err := w.keepTable(ctx, t)
	if err != nil {
		w.r.warn(fmt.Sprintf("the writer's cache lacks the table of %s: %v", t.ref.name(), err))
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tables[t.ref] = name
	return w.leases[t.ref.Lease]
}

func (w *writeOnly) keepTable(ctx context.Context, t packTable) (name string, err error) {
	k := w.r.keys
	b, err := object.NewBuilder(k.repo, k.suite, kindIndex, k.permille, 8<<10, k.wrapsOf(kindIndex))
	if err != nil {
		return "", err
	}
	doc := encodePackTable(t)
	if _, err := b.Append(object.TypeTable, hashBytes(doc), object.CodecPlain, len(doc), doc); err != nil {
		return "", err
	}
	file, err := b.Seal()
	if err != nil {
		return "", err
	}
	name = indexName(objectRef{t.ref.Lease, b.ID()})
	return name, w.cache.Create(ctx, name, file)
}

// forget removes the tables of single packs that an index object has taken over.
func (w *writeOnly) forget(ctx context.Context, tables []packTable) {
	for _, t := range tables {
		w.mu.Lock()
		name, ok := w.tables[t.ref]
		delete(w.tables, t.ref)
		w.mu.Unlock()
		if ok {
			_ = w.cache.Remove(ctx, name) // one too many does no harm
		}
	}
}

// ReadAt reads from where the object lives.
func (w *writeOnly) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	from, err := w.where("read", name)
	if err != nil {
		return 0, err
	}
	return from.ReadAt(ctx, name, p, off)
}

// Stat looks where the object lives.
func (w *writeOnly) Stat(ctx context.Context, name string) (store.Info, error) {
	from, err := w.where("stat", name)
	if err != nil {
		return store.Info{}, err
	}
	return from.Stat(ctx, name)
}

// where is the store that has an object for this client.
func (w *writeOnly) where(op, name string) (store.Store, error) {
	dir, cached := place(name)
	switch {
	case dir == "data" || dir == "anchor":
		return nil, &fs.PathError{Op: op, Path: name, Err: errWriteOnly}
	case strings.HasPrefix(name, "copy1/manifest/") || strings.HasPrefix(name, "copy2/manifest/"):
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	case cached:
		return w.cache, nil
	}
	return w.far, nil
}

// List lists the cache or the store afar, whichever has objects of the prefix. Packs of blocks it does not see.
func (w *writeOnly) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		switch dir, cached := place(prefix); {
		case dir == "data":
		case prefix == "" || dir == "anchor":
			yield(store.Info{}, &fs.PathError{Op: "list", Path: prefix, Err: errWriteOnly})
		case cached:
			w.cache.List(ctx, prefix)(yield)
		default:
			w.far.List(ctx, prefix)(yield)
		}
	}
}

// Remove removes an object afar, where this client may: its own heartbeats.
func (w *writeOnly) Remove(ctx context.Context, name string) error { return w.far.Remove(ctx, name) }

// Close closes neither of the two: they are the caller's.
func (w *writeOnly) Close() error { return nil }

// Probe asks the store afar.
func (w *writeOnly) Probe(ctx context.Context) (store.Abilities, error) {
	if p, ok := store.As[store.Prober](w.far); ok {
		return p.Probe(ctx)
	}
	return store.Abilities{}, nil
}

// Free asks the store afar.
func (w *writeOnly) Free(ctx context.Context) (int64, error) {
	if s, ok := store.As[store.Spacer](w.far); ok {
		return s.Free(ctx)
	}
	return 0, errors.ErrUnsupported
}
