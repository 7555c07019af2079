package repo

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// Begin starts a new point of a VM: a writer's lease is taken, and everything that is written belongs to it. The
// returned writer is also a pipe.Accountant.
func (r *Repository) Begin(ctx context.Context, vm string, opts *pipe.PointOptions) (pipe.PointWriter, error) {
	if err := checkName(vm); err != nil {
		return nil, err
	}
	if err := r.writable(ctx); err != nil {
		return nil, err
	}
	if err := r.canLock(ctx); err != nil {
		return nil, err
	}
	if r.keys.tag(vm) == (id16{}) {
		return nil, fmt.Errorf("VM %q is not one that this client may add points of: %w", vm, fs.ErrPermission)
	}
	w := &pointWriter{r: r, vm: vm, disks: map[string]*diskTarget{}}
	if opts != nil {
		w.opts = *opts
	}
	if w.opts.Time.IsZero() {
		w.opts.Time = time.Now()
	}
	var pins []id16
	if w.opts.Base != "" {
		m, err := r.findBase(ctx, w.opts.Base)
		if err != nil {
			return nil, fmt.Errorf("base: %w", err)
		}
		if !r.ofScope(m.Lease, r.keys.scope) {
			return nil, fmt.Errorf("base: point %s was written with another key, whose blocks have other ids: %w", w.opts.Base, ErrNoBase)
		}
		w.base = m
		pins = []id16{m.Point}
	}
	s, err := r.newSession(ctx, pins)
	if err != nil {
		return nil, err
	}
	w.s = s
	return w, nil
}

// pointWriter writes one point in one session.
type pointWriter struct {
	r    *Repository
	vm   string
	opts pipe.PointOptions
	base *manifest
	s    *session

	checkpoint sync.Mutex // one at a time

	locked time.Time // until when the point's objects are; zero: they are not

	mu     sync.Mutex
	disks  map[string]*diskTarget
	order  []string
	blobs  []manifestBlob
	closed bool
}

var _ interface {
	pipe.Accountant
	pipe.Durable
	pipe.Settler
} = (*pointWriter)(nil)

// Stamp counts the blocks that were written. One that was there already gets no number of its own: either it is
// durable, or it was written by this session under a lower one.
func (w *pointWriter) Stamp() uint64 { return w.s.stamp() }

// Durable is how many of them, counted from the first, lie in packs that are durable under their names: a repository
// that is opened anew finds them, whatever becomes of this session and its point. Pages and blobs are not counted.
func (w *pointWriter) Durable() uint64 { return w.s.durable() }

func (w *pointWriter) Usage() pipe.Usage {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.s.usage
}

// Disk starts one disk.
func (w *pointWriter) Disk(ctx context.Context, key string, size int64) (pipe.Target, error) {
	if err := checkName(key); err != nil {
		return nil, err
	}
	if size < 0 || size > maxDiskSize {
		return nil, fmt.Errorf("disk %q of %d bytes: %w", key, size, fs.ErrInvalid)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fs.ErrClosed
	}
	if _, ok := w.disks[key]; ok {
		return nil, fmt.Errorf("disk %q: %w", key, fs.ErrExist)
	}
	if len(w.disks) >= maxDisks {
		return nil, fmt.Errorf("a point has at most %d disks: %w", maxDisks, fs.ErrInvalid)
	}
	d := w.newDisk(key, size)
	w.disks[key] = d
	w.order = append(w.order, key)
	return d, nil
}

// newDisk is a disk of which nothing was said yet.
func (w *pointWriter) newDisk(key string, size int64) *diskTarget {
	s := newShape(size, w.r.header.BlockSize)
	d := &diskTarget{w: w, key: key, shape: s, partial: map[int64]*partialBlock{}}
	var root *entry
	if w.base != nil {
		for i := range w.base.Disks {
			if b := &w.base.Disks[i]; b.Key == key && b.Size == size {
				root = (*entry)(&b.Root)
				d.base = b
			}
		}
	}
	d.tree = newTreeWriter(s, w.s, root)
	return d
}

// Blob stores a blob in chunks of a block.
func (w *pointWriter) Blob(ctx context.Context, name string, rd io.Reader) error {
	if err := checkName(name); err != nil {
		return err
	}
	b := manifestBlob{Name: name, Chunks: []hash{}}
	buf := make([]byte, w.r.header.BlockSize)
	enc, err := pipe.NewEncoder(w.r.header.Compression, len(buf))
	if err != nil {
		return err
	}
	for {
		n, err := fill(rd, buf)
		if n > 0 {
			id := w.r.keys.id(object.TypeChunk, buf[:n])
			data, codec := enc.Encode(nil, buf[:n])
			if _, err := w.s.put(ctx, object.TypeChunk, id, n, codec, data); err != nil {
				return fmt.Errorf("blob %q: %w", name, err)
			}
			b.Chunks = append(b.Chunks, hash(id))
			if b.Size += int64(n); b.Size > maxBlobSize {
				return fmt.Errorf("blob %q is longer than %d bytes: %w", name, int64(maxBlobSize), fs.ErrInvalid)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("blob %q: %w", name, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fs.ErrClosed
	}
	if slices.ContainsFunc(w.blobs, func(o manifestBlob) bool { return o.Name == name }) || len(w.blobs) >= maxBlobs {
		return fmt.Errorf("blob %q: %w", name, fs.ErrExist)
	}
	w.blobs = append(w.blobs, b)
	return nil
}

// Commit publishes the point: packs, manifest, log record, index, in that order. The creation of the log record is
// the commit; whatever fails before leaves nothing of the point, whatever fails after does not take it away. With
// OpenOptions.LockFor everything is locked before Commit returns; *ErrNotLocked comes with the id of a point that is there.
func (w *pointWriter) Commit(ctx context.Context, tracking map[string]string) (string, error) {
	m, err := w.seal(tracking)
	if err != nil {
		return "", err
	}
	if err := w.s.flush(ctx); err != nil {
		return "", err
	}
	m.New = w.Usage().Stored
	if err := w.publish(ctx, m); err != nil {
		return "", err
	}
	notLocked := w.r.lockLog(ctx, m, w.locked)
	if err := w.s.flushIndex(); err != nil {
		w.r.warn(fmt.Sprintf("index: %v", err))
	}
	if err := w.r.client.advance(w.r.log); err != nil {
		w.r.warn(fmt.Sprintf("the high-water mark could not be kept: %v", err))
	}
	if err := w.s.close(ctx); err != nil {
		w.r.warn(fmt.Sprintf("lease %d could not be ended: %v", w.s.lease.n, err))
	}
	return m.Point.String(), notLocked
}

// seal ends writing and describes the point.
func (w *pointWriter) seal(tracking map[string]string) (*manifest, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fs.ErrClosed
	}
	m := w.describe()
	if m.Tracking = maps.Clone(tracking); m.Tracking == nil {
		m.Tracking = map[string]string{}
	}
	m.Blobs = append(m.Blobs, w.blobs...)
	for _, key := range w.order {
		d := w.disks[key].done()
		if d == nil {
			return nil, fmt.Errorf("disk %q was not committed: %w", key, ErrIncomplete)
		}
		m.Disks = append(m.Disks, *d)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	w.closed = true // whatever comes of it, nothing can be added any more
	return m, nil
}

// describe is what was known of the point when it began.
func (w *pointWriter) describe() *manifest {
	m := &manifest{
		Lease: w.s.lease.n, VM: w.vm, Time: w.opts.Time.UTC(), Consistency: w.opts.Consistency,
		Disks: []manifestDisk{}, Blobs: []manifestBlob{}, Tracking: map[string]string{}, Facts: map[string]string{},
	}
	if m.Consistency == "" {
		m.Consistency = "unknown"
	}
	for k, v := range w.opts.Facts { // for people: what is no text is shown as well as can be
		m.Facts[strings.ToValidUTF8(k, "\uFFFD")] = strings.ToValidUTF8(v, "\uFFFD")
	}
	switch {
	case w.base == nil:
	case w.base.Unfinished: // which nobody can look up later
		m.Base = w.base.Base
	default:
		m.Base = &w.base.Point
	}
	return m
}

func (w *pointWriter) publish(ctx context.Context, m *manifest) error {
	digest, err := w.storeManifest(ctx, m)
	if err != nil {
		return err
	}
	if w.locked, err = w.r.lockNew(ctx, m); err != nil {
		return err
	}
	key, err := w.r.signingKey(ctx)
	if err != nil {
		return err
	}
	vm := w.r.keys.tag(w.vm)
	_, err = w.r.log.append(ctx, key, func() (*record, error) {
		if err := w.r.log.live(w.s.lease.n); err != nil {
			return nil, err
		}
		return &record{Kind: recordCommit, Lease: w.s.lease.n, Point: &m.Point, VM: &vm, Object: &digest}, nil
	})
	return err
}

// storeManifest gives the point its id, and stores its manifest in all places. It returns what the log names it by.
func (w *pointWriter) storeManifest(ctx context.Context, m *manifest) (digest hash, err error) {
	key, err := w.r.signingKey(ctx)
	if err != nil {
		return digest, err
	}
	// The object's id is the point's id, and stands in the signed document too: so the object is begun first.
	k := w.r.keys
	b, err := object.NewBuilder(k.repo, k.suite, kindManifest, k.permille, 64<<10, k.wrapsOf(kindManifest))
	if err != nil {
		return digest, err
	}
	m.Point = b.ID()
	body, err := encodeJSON(m)
	if err != nil {
		return digest, err
	}
	doc := sign(key, signManifest, k.repo, body)
	codec, data := pipe.Plain, doc
	if enc, err := pipe.NewEncoder(pipe.Default, 4<<20); err == nil && len(doc) <= 4<<20 {
		data, codec = enc.Encode(nil, doc)
	}
	if _, err := b.Append(object.TypeDocument, hashBytes(doc), uint8(codec), len(doc), data); err != nil {
		return digest, err
	}
	file, err := b.Seal()
	if err != nil {
		return digest, err
	}
	if len(file) > maxVital {
		return digest, fmt.Errorf("the point's description has %d bytes, and at most %d can be read back: %w", len(file), maxVital, fs.ErrInvalid)
	}
	if err := w.r.vital.create(ctx, manifestName(m.Lease, m.Point), file); err != nil {
		return digest, fmt.Errorf("manifest: %w", err)
	}
	return streamHash(file)
}

// Close abandons what was not committed. Packs that were stored stay until a prune finds that nobody needs them.
func (w *pointWriter) Close() error {
	w.s.fail(fs.ErrClosed) // first: a block that waits for room holds its disk's lock
	w.mu.Lock()
	w.closed = true
	for _, d := range w.disks {
		_ = d.Close()
	}
	w.mu.Unlock()
	return w.s.close(context.Background())
}

// fill reads until buf is full. Only io.EOF is an end: io.ErrUnexpectedEOF is a reader's own word for what was cut off, which
// io.ReadFull says of a good end too.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}
