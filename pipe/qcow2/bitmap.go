package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
)

// Bitmap is a dirty bitmap that is kept in an image: which parts of the disk were written to while it was enabled.
type Bitmap struct {
	Name        string
	Granularity int64 // bytes that one bit stands for
	InUse       bool  // it was not saved properly: its content cannot be trusted
	Auto        bool  // QEMU goes on tracking with it when it opens the image
}

const (
	maxBitmaps     = 65535     // of an image, as QEMU bounds it
	maxBitmapBytes = 512 << 20 // of one bitmap's content, as QEMU bounds it
	bitmapExtLen   = 24        // of the header extension

	bitmapInUse      = 1 << 0
	bitmapAuto       = 1 << 1
	bitmapCompatible = 1 << 2 // extra data may be ignored
	bitmapKnown      = bitmapInUse | bitmapAuto | bitmapCompatible

	bitmapDirtyTracking = 1 // the one type that there is
	minGranularityBits  = 9
	maxGranularityBits  = 31
)

// bitmapEntry is a bitmap as the directory has it.
type bitmapEntry struct {
	Bitmap
	at       int64 // of the entry in the file
	tableOff uint64
	tableLen uint32 // entries
	flags    uint32
	kind     uint8
	extra    uint32 // bytes
}

// bitmaps lists the dirty bitmaps.
func (l *layer) bitmaps(ctx context.Context) ([]Bitmap, error) {
	entries, err := l.bitmapEntries(ctx)
	var all []Bitmap
	for _, e := range entries {
		all = append(all, e.Bitmap)
	}
	return all, err
}

// bitmapEntries reads the directory of dirty bitmaps. Without its autoclear bit the extension is stale and counts for
// nothing: a program that knows no bitmaps has written to the image, and cleared the bit.
func (l *layer) bitmapEntries(ctx context.Context) ([]bitmapEntry, error) {
	ext := l.h.bitmaps
	if l.h.autoclear&autoclearBitmaps == 0 || len(ext) < bitmapExtLen {
		return nil, nil
	}
	count := binary.BigEndian.Uint32(ext)
	if count > maxBitmaps {
		return nil, l.corrupt(0, "%d bitmaps are more than %d", count, maxBitmaps)
	}
	r, err := l.list(ctx, binary.BigEndian.Uint64(ext[16:]), binary.BigEndian.Uint64(ext[8:]))
	if err != nil {
		return nil, err
	}
	var all []bitmapEntry
	for range count {
		e, err := r.bitmap()
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

func (r *listReader) bitmap() (bitmapEntry, error) {
	const fixed = 24
	at, bits, nameLen, extra := r.off, r.peek(17, 1), int(r.peek(18, 2)), r.peek(20, 4)
	if bits > maxGranularityBits || extra > maxListBytes {
		return bitmapEntry{}, r.l.corrupt(at, "a bitmap of granularity 2^%d with %d extra bytes", bits, extra)
	}
	b, err := r.entry(fixed + int(extra) + nameLen)
	if err != nil {
		return bitmapEntry{}, err
	}
	flags := binary.BigEndian.Uint32(b[12:])
	return bitmapEntry{
		Bitmap: Bitmap{
			Name: string(b[fixed+extra:]), Granularity: 1 << bits,
			InUse: flags&bitmapInUse != 0, Auto: flags&bitmapAuto != 0,
		},
		at: at, tableOff: binary.BigEndian.Uint64(b), tableLen: binary.BigEndian.Uint32(b[8:]),
		flags: flags, kind: b[16], extra: uint32(extra),
	}, nil
}

// findBitmap finds the bitmap of a name. Two of one name are damage: nobody could say which is meant.
func (l *layer) findBitmap(ctx context.Context, name string) (found bitmapEntry, err error) {
	entries, err := l.bitmapEntries(ctx)
	if err != nil {
		return found, err
	}
	count := 0
	for _, e := range entries {
		if e.Name == name {
			found, count = e, count+1
		}
	}
	switch count {
	case 0:
		return found, fmt.Errorf("%s: bitmap %q: %w", l.path, name, fs.ErrNotExist)
	case 1:
		return found, nil
	}
	return found, l.corrupt(found.at, "%d bitmaps have the name %q", count, name)
}
