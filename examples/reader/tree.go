package main

import (
	"context"
	"encoding/binary"
	"fmt"
)

const pageEntries = 256

// walker goes through the tree of one disk, block by block.
type walker struct {
	*repository
	scope  []byte
	blocks uint64 // of the disk
	visit  func(block uint64, id [32]byte) error
	last   byte // kind of the last block, as the pages have it
}

// walk visits every block of a disk that holds data, in order, and holds all counts of the tree against each other.
func (r *repository) walk(ctx context.Context, m *manifest, d disk, visit func(block uint64, id [32]byte) error) error {
	w := &walker{repository: r, scope: m.scope, visit: visit}
	w.blocks = uint64(d.size) / uint64(r.blockSize)
	if d.size%r.blockSize != 0 {
		w.blocks++
	}
	level, span := 0, uint64(pageEntries)
	for span < w.blocks {
		level, span = level+1, span*pageEntries
	}
	if d.root.kind == entryData {
		if w.blocks == 0 {
			return damaged(m.name, -1, "disk %q is empty and has a tree", d.key)
		}
		if err := w.page(ctx, d.root, level, 0); err != nil {
			return fmt.Errorf("disk %q of point %s: %w", d.key, m.id, err)
		}
	} else {
		w.last = d.root.kind
	}
	if w.blocks > 0 && w.last != d.last {
		return damaged(m.name, -1, "the last block of disk %q is not of the kind that the manifest says", d.key)
	}
	return nil
}

// page visits what is below one page, whose first block is first.
func (w *walker) page(ctx context.Context, e entry, level int, first uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	raw, err := w.content(w.scope, typePage, e.id, false)
	if err != nil {
		return err
	}
	each := uint64(1)
	for range level {
		each *= pageEntries
	}
	want := min(pageEntries, (w.blocks-first+each-1)/each)
	entries, err := parsePage(raw, level, int(want))
	if err != nil {
		return fmt.Errorf("page %s: %w", hex32(e.id), err)
	}
	if err := w.sums(entries, e, each, first); err != nil {
		return fmt.Errorf("page %s: %w", hex32(e.id), err)
	}
	for i, child := range entries {
		at := first + uint64(i)*each
		w.last = child.kind
		if child.kind != entryData {
			continue
		}
		if level > 0 {
			err = w.page(ctx, child, level-1, at)
		} else {
			err = w.visit(at, child.id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sums checks that a page holds what the entry above it counts.
func (w *walker) sums(entries []entry, above entry, each, first uint64) error {
	var sum [6]uint64
	same := true
	for i, e := range entries {
		room := min(each, w.blocks-first-uint64(i)*each)
		same = same && e.kind == entries[0].kind && e.kind != entryData
		if each == 1 || e.kind != entryData {
			sum[e.kind] += room
			continue
		}
		var below uint64
		for k, n := range e.counts {
			if n > room {
				return damaged("", -1, "an entry counts more blocks than it stands for")
			}
			below += n
			sum[k] += n
		}
		if below != room {
			return damaged("", -1, "the counts of an entry do not add up")
		}
	}
	if sum != above.counts {
		return damaged("", -1, "it does not hold what is counted above it")
	}
	if same {
		return damaged("", -1, "it is a page of one kind, which is never stored")
	}
	return nil
}

// parsePage takes the runs of a page apart; there must be exactly want entries, in the one encoding that a page has.
func parsePage(raw []byte, level, want int) ([]entry, error) {
	if len(raw) < 4 || int(raw[0]) != level || raw[1] != 0 || int(binary.LittleEndian.Uint16(raw[2:])) != want {
		return nil, damaged("", 0, "it is not a page of level %d with %d entries", level, want)
	}
	rest := raw[4:]
	entries := make([]entry, 0, want)
	before := -1
	for len(rest) > 0 {
		if len(rest) < 3 {
			return nil, damaged("", -1, "a run is cut off")
		}
		kind, count := rest[0], int(binary.LittleEndian.Uint16(rest[1:]))
		rest = rest[3:]
		if kind > entryBad {
			return nil, unsupported("", "entries of kind %d", kind)
		}
		if count == 0 || int(kind) == before || count > want-len(entries) {
			return nil, damaged("", -1, "a run of %d entries that cannot be", count)
		}
		before = int(kind)
		for range count {
			e := entry{kind: kind}
			var ok bool
			if e, rest, ok = parseEntry(e, rest, level); !ok {
				return nil, damaged("", -1, "an entry is cut off")
			}
			entries = append(entries, e)
		}
	}
	if len(entries) != want {
		return nil, damaged("", -1, "%d entries instead of %d", len(entries), want)
	}
	return entries, nil
}

func parseEntry(e entry, rest []byte, level int) (entry, []byte, bool) {
	if e.kind != entryData {
		return e, rest, true
	}
	size := 32
	if level > 0 {
		size += 6 * 8
	}
	if len(rest) < size {
		return e, nil, false
	}
	e.id = [32]byte(rest[:32])
	for i := range e.counts {
		if level > 0 {
			e.counts[i] = binary.LittleEndian.Uint64(rest[32+8*i:])
		}
	}
	return e, rest[size:], true
}

// block gives one block of a disk in its full length.
func (r *repository) block(m *manifest, d disk, block uint64, id [32]byte) ([]byte, int64, error) {
	off := int64(block) * r.blockSize
	plain, err := r.content(m.scope, typeBlock, id, false)
	if err != nil {
		return nil, off, fmt.Errorf("disk %q at %d: %w", d.key, off, err)
	}
	if int64(len(plain)) != min(r.blockSize, d.size-off) {
		return nil, off, damaged(m.name, -1, "the block of disk %q at %d has %d bytes", d.key, off, len(plain))
	}
	return plain, off, nil
}
