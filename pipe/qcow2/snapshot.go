package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
)

// maxSnapshots bounds what is read of the list, as QEMU does; so does maxListBytes, of bitmaps too.
const (
	maxSnapshots = 65536
	maxListBytes = 16 << 20
)

// Snapshot is an internal snapshot of an image.
type Snapshot struct {
	ID, Name string
	Size     int64 // of the disk at that moment, in bytes
	l1Off    uint64
	l1Len    uint32
}

// info gathers what the image says about itself.
func (l *layer) info(ctx context.Context) (Info, error) {
	h := l.h
	info := Info{
		Version: int(h.version), ClusterSize: h.clusterSize(), Compression: h.compression, Subclusters: h.extended(),
		Dirty: h.incompatible&featDirty != 0, Corrupt: h.incompatible&featCorrupt != 0,
		Backing: h.backing, DataFile: h.dataFile,
	}
	var err error
	if info.Snapshots, err = l.snapshots(ctx); err != nil {
		return Info{}, err
	}
	info.Bitmaps, err = l.bitmaps(ctx)
	return info, err
}

// list reads what may be up to maxListBytes at off of the file.
func (l *layer) list(ctx context.Context, off, n uint64) (*listReader, error) {
	size := uint64(l.file.Size())
	if off > size {
		return nil, l.corrupt(int64(min(off, 1<<62)), "a list is outside of the file of %d bytes", size)
	}
	b := make([]byte, min(n, maxListBytes, size-off))
	if err := readFull(ctx, l.file, b, int64(off)); err != nil {
		return nil, err
	}
	return &listReader{l: l, b: b, off: int64(off)}, nil
}

// listReader takes a list of entries of varying length apart.
type listReader struct {
	l   *layer
	b   []byte
	off int64 // of b in the file
}

// entry takes the next n bytes, and what pads them to 8.
func (r *listReader) entry(n int) ([]byte, error) {
	if n > len(r.b) {
		return nil, r.l.corrupt(r.off, "an entry of %d bytes leaves its list", n)
	}
	e := r.b[:n]
	padded := min((n+7)&^7, len(r.b))
	r.b, r.off = r.b[padded:], r.off+int64(padded)
	return e, nil
}

// peek is a number in the entry that begins here, for its length.
func (r *listReader) peek(at, n int) uint64 {
	var v [8]byte
	if at+n <= len(r.b) {
		copy(v[8-n:], r.b[at:at+n])
	}
	return binary.BigEndian.Uint64(v[:])
}

// snapshots reads the snapshot table.
func (l *layer) snapshots(ctx context.Context) ([]Snapshot, error) {
	if l.h.snapshots == 0 {
		return nil, nil
	}
	if l.h.snapshots > maxSnapshots {
		return nil, l.corrupt(60, "%d snapshots are more than %d", l.h.snapshots, maxSnapshots)
	}
	r, err := l.list(ctx, l.h.snapshotsOff, maxListBytes)
	if err != nil {
		return nil, err
	}
	var all []Snapshot
	for range l.h.snapshots {
		s, err := r.snapshot()
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (r *listReader) snapshot() (Snapshot, error) {
	const fixed = 40
	idLen, nameLen, extra := int(r.peek(12, 2)), int(r.peek(14, 2)), r.peek(36, 4)
	if extra > 1024 {
		return Snapshot{}, r.l.corrupt(r.off+36, "%d extra bytes of a snapshot are more than 1024", extra)
	}
	e, err := r.entry(fixed + int(extra) + idLen + nameLen)
	if err != nil {
		return Snapshot{}, err
	}
	names := e[fixed+extra:]
	s := Snapshot{
		ID: string(names[:idLen]), Name: string(names[idLen:]), Size: r.l.h.size,
		l1Off: binary.BigEndian.Uint64(e), l1Len: binary.BigEndian.Uint32(e[8:]),
	}
	if extra >= 16 {
		s.Size = int64(binary.BigEndian.Uint64(e[fixed+8:]))
	}
	if s.Size < 0 {
		return Snapshot{}, r.l.corrupt(r.off, "the disk size of snapshot %q overflows", s.Name)
	}
	return s, nil
}

// findSnapshot finds a snapshot by its id, else by its name.
func (l *layer) findSnapshot(ctx context.Context, want string) (Snapshot, error) {
	all, err := l.snapshots(ctx)
	if err != nil {
		return Snapshot{}, err
	}
	for _, s := range all {
		if s.ID == want {
			return s, nil
		}
	}
	for _, s := range all {
		if s.Name == want {
			return s, nil
		}
	}
	return Snapshot{}, fmt.Errorf("%s: snapshot %q: %w", l.path, want, fs.ErrNotExist)
}
