package repo

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// manifest is one restore point, as it is signed, sealed and stored.
type manifest struct {
	Point       id16              `json:"point"`
	Lease       uint64            `json:"lease"`
	VM          string            `json:"vm"`
	Time        time.Time         `json:"time"`
	Consistency string            `json:"consistency"`
	Disks       manifestDisks     `json:"disks"`
	Blobs       manifestBlobs     `json:"blobs"`
	Tracking    map[string]string `json:"tracking"`
	Facts       map[string]string `json:"facts"`
	Base        *id16             `json:"base,omitempty"` // the point that unchanged ranges were taken from: for people
	New         int64             `json:"new"`            // bytes stored for this point, without parity

	// Unfinished says that this is no point: see unfinished.go. No reader that does not know the field opens it.
	Unfinished bool `json:"unfinished,omitempty"`
}

type manifestDisk struct {
	Key  string     `json:"key"`
	Size int64      `json:"size"`
	Root rootEntry  `json:"root"`
	Last string     `json:"last"`          // kind of the last block, which may be short: so that sums give exact bytes; "" for size 0
	Bad  [][2]int64 `json:"bad,omitempty"` // offset and length of what the source could not read
	// Pending is what was to be read and was not, as Bad: only where the manifest is unfinished.
	Pending [][2]int64 `json:"pending,omitempty"`
}

type manifestBlob struct {
	Name   string         `json:"name"`
	Size   int64          `json:"size"`
	Chunks manifestChunks `json:"chunks"` // ids, in order; each chunk but the last is a block long
}

// rootEntry is the root of a disk's tree: `data:<page id>:<sums>` or the name of the one kind that all of it is.
type rootEntry entry

func (e rootEntry) MarshalText() ([]byte, error) {
	if e.kind != pipe.Data {
		return []byte(e.kind.String()), nil
	}
	s := "data:" + e.id.String()
	for _, n := range e.sums {
		s += ":" + strconv.FormatUint(n, 10)
	}
	return []byte(s), nil
}

func (e *rootEntry) UnmarshalText(b []byte) error {
	*e = rootEntry{}
	parts := strings.Split(string(b), ":")
	if parts[0] != "data" {
		for k := range kinds {
			if kind := pipe.Kind(k); kind != pipe.Data && kind.String() == string(b) {
				e.kind = kind
				return nil
			}
		}
		return fmt.Errorf("root of a disk is %q", b)
	}
	if len(parts) != 2+kinds {
		return fmt.Errorf("root of a disk has %d parts", len(parts))
	}
	e.kind = pipe.Data
	if err := decodeHex(e.id[:], []byte(parts[1])); err != nil {
		return err
	}
	for k := range e.sums {
		n, err := strconv.ParseUint(parts[2+k], 10, 63)
		if err != nil {
			return err
		}
		e.sums[k] = n
	}
	return nil
}

// Bounds of a point.
const (
	maxDisks    = 1024
	maxBlobs    = 4096
	maxBlobSize = 256 << 20
	maxName     = 1024    // bytes of a VM's name, a disk's key, a blob's name
	maxDiskSize = 1 << 62 // bytes; sums of any two offsets of a disk stay within an int64
)

func (m *manifest) check() error {
	if len(m.Disks) > maxDisks || len(m.Blobs) > maxBlobs || checkName(m.VM) != nil {
		return fmt.Errorf("a point of VM %q with %d disks and %d blobs is out of bounds", m.VM, len(m.Disks), len(m.Blobs))
	}
	seen := map[string]bool{}
	for _, d := range m.Disks {
		if checkName(d.Key) != nil || d.Size < 0 || d.Size > maxDiskSize || seen[d.Key] {
			return fmt.Errorf("disk %q of %d bytes", d.Key, d.Size)
		}
		seen[d.Key] = true
	}
	if err := m.checkPending(); err != nil {
		return err
	}
	clear(seen)
	for _, b := range m.Blobs {
		if checkName(b.Name) != nil || b.Size < 0 || b.Size > maxBlobSize || seen[b.Name] {
			return fmt.Errorf("blob %q of %d bytes", b.Name, b.Size)
		}
		seen[b.Name] = true
	}
	for _, texts := range []map[string]string{m.Tracking, m.Facts, {"consistency": m.Consistency}} {
		for k, v := range texts {
			if !utf8.ValidString(k) || !utf8.ValidString(v) { // JSON would change it: a change id would read back as another
				return fmt.Errorf("%q: %q is not text: %w", k, v, fs.ErrInvalid)
			}
		}
	}
	return nil
}

// checkShapes holds the claims of a manifest that was read against each other: the counts in a root against the disk's
// size, a blob's chunks against its length.
func (m *manifest) checkShapes(blockSize int) error {
	for i := range m.Disks {
		d := &m.Disks[i]
		s := newShape(d.Size, blockSize)
		left := uint64(s.blocks)
		total := sumsOf(entry(d.Root), s.height+1, s.blocks)
		for _, n := range total {
			if n > left {
				return fmt.Errorf("disk %q counts more blocks than it has", d.Key)
			}
			left -= n
		}
		last, known := kindNamed(d.Last)
		if left != 0 || known != (s.blocks > 0) || known && total[last] == 0 || !known && d.Last != "" {
			return fmt.Errorf("disk %q counts its blocks wrongly", d.Key)
		}
	}
	for _, b := range m.Blobs {
		if int64(len(b.Chunks)) != (b.Size+int64(blockSize)-1)/int64(blockSize) {
			return fmt.Errorf("blob %q of %d bytes has %d chunks", b.Name, b.Size, len(b.Chunks))
		}
	}
	return nil
}

// kindNamed finds the kind of an entry by its name.
func kindNamed(name string) (pipe.Kind, bool) {
	for k := range kinds {
		if pipe.Kind(k).String() == name {
			return pipe.Kind(k), true
		}
	}
	return 0, false
}

func checkName(s string) error {
	if s == "" || len(s) > maxName || strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
		return fmt.Errorf("%q cannot name a VM, disk or blob: %w", s, fs.ErrInvalid)
	}
	return nil
}

func (r *Repository) shapeOf(d *manifestDisk) shape { return newShape(d.Size, r.header.BlockSize) }

// info is what callers see of a point.
func (r *Repository) info(m *manifest) pipe.PointInfo {
	p := pipe.PointInfo{
		ID: m.Point.String(), VM: m.VM, Time: m.Time, Consistency: m.Consistency,
		Tracking: m.Tracking, Facts: m.Facts, New: m.New,
	}
	for _, d := range m.Disks {
		info := pipe.DiskInfo{Key: d.Key, Size: d.Size}
		for k, n := range r.bytesOf(&d) {
			switch kind := pipe.Kind(k); {
			case kind == pipe.Data:
				info.Data = n
			case n > 0 && info.Absent == nil:
				info.Absent = map[string]int64{kind.String(): n}
			case n > 0:
				info.Absent[kind.String()] = n
			}
		}
		p.Disks = append(p.Disks, info)
	}
	for _, b := range m.Blobs {
		p.Blobs = append(p.Blobs, pipe.BlobInfo{Name: b.Name, Size: b.Size})
	}
	return p
}

// bytesOf are a disk's bytes by kind, from the sums in its root.
func (r *Repository) bytesOf(d *manifestDisk) [kinds]int64 {
	s := r.shapeOf(d)
	total := sumsOf(entry(d.Root), s.height+1, s.blocks)
	last, _ := kindNamed(d.Last)
	return s.bytesIn(total, last)
}

// readManifest finds the manifest that a commit record names, in any of its three places. Only the one whose hash the
// record holds, signed by a key that the log has enrolled, counts.
func (r *Repository) readManifest(ctx context.Context, c committed) (*manifest, error) {
	name := manifestName(c.lease, c.point)
	v, err := r.vital.read(ctx, name, kindManifest, r.header.ID, r.keys.unwraps, func(v *vital) error {
		if v.digest != c.manifest {
			return errors.New("it is not the one that was committed")
		}
		return nil
	})
	if err != nil {
		if _, damaged := errors.AsType[*ErrCorrupt](err); r.writer != nil && (damaged || errors.Is(err, fs.ErrNotExist)) {
			return nil, fmt.Errorf("this machine's cache does not have %s: %w", name, fs.ErrNotExist)
		}
		if errors.Is(err, fs.ErrNotExist) && r.log.refresh(ctx) == nil && r.log.damage() == nil && r.forgotten(c.point) { // and pruned
			return nil, fmt.Errorf("point %s: %w", c.point, ErrForgotten)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &ErrCorrupt{Object: name, Reason: "it is missing in all three places"}
		}
		if r.writer == nil && errors.Is(err, object.ErrNoKey) && !r.ofScope(c.lease, scope{}) { // the identity that it is sealed for never changes
			return nil, &ErrCorrupt{Object: name, Reason: "a write-only client did not seal it for this repository", Err: err}
		}
		return nil, err
	}
	fail := func(reason string, err error) (*manifest, error) {
		return nil, &ErrCorrupt{Object: name, Reason: reason, Err: err}
	}
	s, err := openSigned(v.content, signManifest, r.header.ID)
	if err != nil {
		return fail("not a signed manifest", err)
	}
	enrolled := false
	r.log.view(func(l *ledger) { _, enrolled = l.keys[s.key] })
	if !enrolled {
		return fail("its signer is not enrolled", nil)
	}
	m := new(manifest)
	if err := decodeJSON(s.body, m); err != nil {
		return fail("not a manifest", err)
	}
	if m.Point != c.point || m.Lease != c.lease || r.keys.tag(m.VM) != c.vm {
		return fail("it says another point than its commit", nil)
	}
	if m.Unfinished != c.unfinished {
		return fail("it is unfinished, and its record says that it is not, or the other way", nil)
	}
	if err := errors.Join(m.check(), m.checkShapes(r.header.BlockSize)); err != nil {
		return fail("out of bounds", err)
	}
	return m, nil
}

// committed lists the points that the log knows, brought up to date.
func (r *Repository) committed(ctx context.Context) ([]committed, error) {
	if err := r.log.refresh(ctx); err != nil {
		return nil, err
	}
	if err := r.client.advance(r.log); err != nil {
		r.warn(fmt.Sprintf("the high-water mark could not be kept: %v", err))
	}
	var list []committed
	r.log.view(func(l *ledger) { list = slices.Clone(l.points) })
	if r.writer != nil {
		list = slices.DeleteFunc(list, func(c committed) bool { return !r.ofScope(c.lease, r.keys.scope) })
	}
	return list, nil
}

// Points yields the committed points of a VM, or of all where vm is empty, in the order of the log. A point whose
// manifest cannot be read is yielded as an error, *PointError around *ErrCorrupt; the sequence goes on after it.
func (r *Repository) Points(ctx context.Context, vm string) iter.Seq2[pipe.PointInfo, error] {
	return func(yield func(pipe.PointInfo, error) bool) {
		list, err := r.committed(ctx)
		if err != nil {
			yield(pipe.PointInfo{}, err)
			return
		}
		tag := r.keys.tag(vm)
		for _, c := range list {
			if vm != "" && c.vm != tag {
				continue
			}
			m, err := r.readManifest(ctx, c)
			if r.writer != nil && errors.Is(err, fs.ErrNotExist) {
				continue // it could not build on it: as good as not there
			}
			if errors.Is(err, ErrForgotten) {
				continue // between the look at the log and now
			}
			err = r.pointError(c, err)
			var p pipe.PointInfo
			if err == nil {
				p = r.info(m)
				r.place(&p, c)
			}
			if !yield(p, err) {
				return
			}
		}
		if err := r.log.damage(); err != nil {
			yield(pipe.PointInfo{}, err) // there may be more
		}
	}
}

// pointError names the point where the error is damage of its manifest.
func (r *Repository) pointError(c committed, err error) error {
	if _, damaged := errors.AsType[*ErrCorrupt](err); damaged {
		return &PointError{Point: c.point.String(), WriteOnly: !r.ofScope(c.lease, scope{}), Err: err}
	}
	return err
}

// place adds what the log says of a point.
func (r *Repository) place(p *pipe.PointInfo, c committed) {
	p.Log = c.n
	r.log.view(func(l *ledger) {
		if why, held := l.held[c.point]; held {
			p.Held = cmp.Or(why, "held")
		}
	})
}

// find returns a point's manifest by its full id.
func (r *Repository) find(ctx context.Context, point string) (*manifest, error) {
	var id id16
	if err := decodeHex(id[:], []byte(point)); err != nil {
		return nil, fmt.Errorf("point %q: %w", point, fs.ErrNotExist)
	}
	list, err := r.committed(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		if c.point == id {
			return r.readManifest(ctx, c)
		}
	}
	if err := r.log.damage(); err != nil {
		return nil, err // it may be among what cannot be seen
	}
	return nil, fmt.Errorf("point %s: %w", point, fs.ErrNotExist)
}

// Resolve finds a point by what a person writes: a full id, a unique prefix of at least 4 digits, VM@latest, or
// VM@latest~N for the Nth before it. Errors: fs.ErrNotExist, ErrAmbiguous, *PointError where it is found and cannot be read.
func (r *Repository) Resolve(ctx context.Context, spec string) (pipe.PointInfo, error) {
	list, err := r.committed(ctx)
	if err != nil {
		return pipe.PointInfo{}, err
	}
	var match []committed
	damage := r.log.damage()
	if vm, back, ok := parseLatest(spec); ok {
		if damage != nil {
			return pipe.PointInfo{}, damage // there may be a later one
		}
		tag := r.keys.tag(vm)
		for _, c := range slices.Backward(list) {
			if c.vm == tag {
				if back == 0 {
					match = append(match, c)
					break
				}
				back--
			}
		}
	} else if len(spec) >= 4 {
		for _, c := range list {
			if strings.HasPrefix(hex.EncodeToString(c.point[:]), strings.ToLower(spec)) {
				match = append(match, c)
			}
		}
	}
	switch len(match) {
	case 0:
		if damage != nil {
			return pipe.PointInfo{}, damage
		}
		return pipe.PointInfo{}, fmt.Errorf("point %q: %w", spec, fs.ErrNotExist)
	case 1:
		m, err := r.readManifest(ctx, match[0])
		if err != nil {
			return pipe.PointInfo{}, r.pointError(match[0], err)
		}
		p := r.info(m)
		r.place(&p, match[0])
		return p, nil
	}
	return pipe.PointInfo{}, fmt.Errorf("point %q: %w: %d", spec, ErrAmbiguous, len(match))
}

// parseLatest reads VM@latest and VM@latest~N.
func parseLatest(spec string) (vm string, back int, ok bool) {
	at := strings.LastIndex(spec, "@latest")
	if at <= 0 {
		return "", 0, false
	}
	vm, rest := spec[:at], spec[at+len("@latest"):]
	if rest == "" {
		return vm, 0, true
	}
	n, err := strconv.Atoi(strings.TrimPrefix(rest, "~"))
	if err != nil || rest[0] != '~' || n < 0 {
		return "", 0, false
	}
	return vm, n, true
}

// OpenBlob opens a blob of a point. Errors: fs.ErrNotExist.
func (r *Repository) OpenBlob(ctx context.Context, point, name string) (io.ReadCloser, error) {
	m, err := r.find(ctx, point)
	if err != nil {
		return nil, err
	}
	if r.writer != nil {
		return nil, errWriteOnly
	}
	i := slices.IndexFunc(m.Blobs, func(b manifestBlob) bool { return b.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("blob %q of point %s: %w", name, point, fs.ErrNotExist)
	}
	x, err := r.indexFor(ctx, m.Lease)
	if err != nil {
		return nil, err
	}
	return &blobReader{ctx: ctx, r: r, idx: x, chunks: m.Blobs[i].Chunks, left: m.Blobs[i].Size}, nil
}

// blobReader reads a blob chunk by chunk.
type blobReader struct {
	ctx    context.Context
	r      *Repository
	idx    *index
	chunks []hash
	chunk  []byte
	left   int64 // of the blob, after chunk
}

func (b *blobReader) Read(p []byte) (int, error) {
	for len(b.chunk) == 0 {
		if len(b.chunks) == 0 {
			if b.left != 0 {
				return 0, io.ErrUnexpectedEOF
			}
			return 0, io.EOF
		}
		c, err := b.r.content(b.ctx, b.idx, object.TypeChunk, pipe.ID(b.chunks[0]))
		if err != nil {
			return 0, err
		}
		if want := min(b.left, int64(b.r.header.BlockSize)); int64(len(c)) != want {
			return 0, &ErrCorrupt{Object: "chunk " + pipe.ID(b.chunks[0]).String(), Reason: fmt.Sprintf("%d bytes where %d belong", len(c), want)}
		}
		b.chunk, b.chunks, b.left = c, b.chunks[1:], b.left-int64(len(c))
	}
	n := copy(p, b.chunk)
	b.chunk = b.chunk[n:]
	return n, nil
}

func (b *blobReader) Close() error { return nil }
