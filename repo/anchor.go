package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// Anchors find content that the repository holds at another offset. A block is looked at in cells of 4 KiB, the unit
// in which file systems place files; of the cells that are not zero, the one in eight whose hash says so is an anchor,
// so that the same content always chooses the same cells. A new block whose anchors are known is compared, byte by
// byte, with the blocks that they point to, and what is equal around them is taken from there.
//
// A wrong anchor costs a comparison, never a byte: xxHash is enough here.

const (
	anchorCell   = 4 << 10
	anchorSample = 8 // one cell in eight
	maxTries     = 16
	// minGain: a recipe is stored only if it is at most this share of the block as it would be stored otherwise.
	minGainPercent = 70
)

// anchor is one sampled cell of a block.
type anchor struct {
	hash  uint64
	block pipe.ID
	cell  uint16 // in the block
}

// anchorTable finds a record of the index, and a cell, by a cell's hash. A slot does not hold enough of a hash to move
// to a larger table, so the table is made as large as the repository calls for, up to a bound; once it is full, what
// comes later is not found. It is safe for concurrent use.
type anchorTable struct {
	mu    sync.RWMutex
	slots []uint64 // tag (22) | cell (10) | record number + 1 (32)
	n     int
}

const (
	maxAnchorSlots = 8 << 20 // 64 MiB
	maxProbes      = 64      // slots that one hash is looked for in: a guest can choose cells whose hashes collide
)

// home is the slot at which the search for a hash begins. The lowest four bits of every anchor's hash are the same.
func (a *anchorTable) home(hash uint64) uint64 { return hash >> 4 & uint64(len(a.slots)-1) }

func anchorTag(hash uint64) uint64 { return hash >> 42 }

// get finds the place that a hash points to.
func (a *anchorTable) get(hash uint64) (record uint32, cell int, ok bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	mask := uint64(len(a.slots) - 1)
	at := a.home(hash)
	for probes := 0; probes < maxProbes && a.slots[at] != 0; probes, at = probes+1, (at+1)&mask {
		if s := a.slots[at]; s>>42 == anchorTag(hash) {
			return uint32(s) - 1, int(s >> 32 & 1023), true
		}
	}
	return 0, 0, false
}

func (a *anchorTable) add(hash uint64, record uint32, cell uint16) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n*10 > len(a.slots)*6 {
		return
	}
	mask := uint64(len(a.slots) - 1)
	at := a.home(hash)
	for probes := 0; a.slots[at] != 0; probes, at = probes+1, (at+1)&mask {
		if probes == maxProbes-1 || a.slots[at]>>42 == anchorTag(hash) {
			return // the first one stays
		}
	}
	a.slots[at] = anchorTag(hash)<<42 | uint64(cell&1023)<<32 | uint64(record+1)
	a.n++
}

// newAnchorTable makes a table for n anchors, as far as its bound allows.
func newAnchorTable(n int) *anchorTable {
	size := 1 << 16
	for size < maxAnchorSlots && size*5 < n*10 {
		size *= 2
	}
	return &anchorTable{slots: make([]uint64, size)}
}

// cellHashes are the hashes of a block's cells; 0 for those that are zero or not whole.
func cellHashes(dst []uint64, block []byte) []uint64 {
	dst = dst[:0]
	for ; len(block) >= anchorCell; block = block[anchorCell:] {
		if c := block[:anchorCell]; string(c) == string(zeros[:anchorCell]) {
			dst = append(dst, 0)
		} else {
			dst = append(dst, xxhash.Sum64(c)|1)
		}
	}
	return dst
}

func sampledCell(hash uint64) bool { return hash != 0 && (hash>>1)%anchorSample == 0 }

// anchorsOf are the anchors of a block that was stored whole.
func anchorsOf(dst []anchor, hashes []uint64, block pipe.ID) []anchor {
	for i, h := range hashes {
		if sampledCell(h) {
			dst = append(dst, anchor{h, block, uint16(i)})
		}
	}
	return dst
}

// match is a range of the new block that another block has too.
type match struct {
	lo, hi int // cells of the new block
	from   pipe.ID
	offset int // bytes in the other block, of cell lo
	stored int // about what it would take as a part of a whole block: as much as in the other one
}

// tryRecipe looks for the parts of a new block in blocks that the repository has. It answers false where that does not
// save enough.
func (s *session) tryRecipe(ctx context.Context, content []byte, hashes []uint64) (encoded []byte, copied int, ok bool) {
	matches := s.findMatches(ctx, content, hashes)
	if len(matches) == 0 {
		return nil, 0, false
	}
	var r recipe
	var literal []byte
	at, whole := 0, 0 // whole: about what the block would take otherwise
	for _, m := range matches {
		if lo := m.lo * anchorCell; lo > at {
			r.pieces = append(r.pieces, piece{length: lo - at})
			literal = append(literal, content[at:lo]...)
		}
		n := (m.hi - m.lo) * anchorCell
		r.pieces = append(r.pieces, piece{length: n, from: m.from, offset: m.offset, copied: true})
		at, copied, whole = m.hi*anchorCell, copied+n, whole+m.stored
	}
	if at < len(content) {
		r.pieces = append(r.pieces, piece{length: len(content) - at})
		literal = append(literal, content[at:]...)
	}
	// Every piece costs a read and a seek at the restore: a few kilobytes here and there are not worth one.
	if copied < len(content)/8 || len(r.pieces) > maxPieces {
		return nil, 0, false
	}
	r.plain = len(literal)
	r.literal, r.codec = literal, pipe.Plain
	if len(literal) > 0 {
		enc, err := s.encoder()
		if err != nil {
			return nil, 0, false
		}
		r.literal, r.codec = enc.Encode(nil, literal)
		whole += len(r.literal)
	}
	encoded = r.encode()
	return encoded, copied, len(encoded)*100 <= whole*minGainPercent
}

// findMatches compares the block, around each of its anchors that is known, with the block that the anchor points to.
// The matches are ascending and do not overlap.
func (s *session) findMatches(ctx context.Context, content []byte, hashes []uint64) (out []match) {
	tried := map[pipe.ID]bool{} // whether they match or not: each costs a read
	done := 0                   // cells up to here are settled
	for c := 0; c < len(hashes) && ctx.Err() == nil; c++ {
		if c < done || !sampledCell(hashes[c]) {
			continue
		}
		rec, at, ok := s.anchors.get(hashes[c])
		if !ok {
			continue
		}
		id, _, err := s.idx.record(rec)
		if err != nil {
			continue
		}
		loc, _, good, err := s.idx.whole(id)
		if err != nil || !good || (at+1)*anchorCell > int(loc.plain) {
			continue
		}
		if !tried[id] && len(tried) >= min(maxTries, maxRecipeIDs) {
			continue
		}
		tried[id] = true
		other, err := s.r.wholeBlock(ctx, s.idx, id)
		if err != nil {
			continue // damaged, or gone: then it is stored again
		}
		m := stretch(content, other, done, c, at)
		if m.hi == m.lo {
			continue
		}
		if s.rely(ctx, loc.pack) != nil {
			continue
		}
		m.from = id
		m.stored = int(int64(m.hi-m.lo) * anchorCell * int64(loc.stored) / int64(loc.plain))
		out = append(out, m)
		done = m.hi
	}
	return out
}

// stretch finds the largest run of equal cells around cell c of content and cell at of other, from cell floor on.
func stretch(content, other []byte, floor, c, at int) match {
	same := func(c, at int) bool {
		return at >= 0 && (c+1)*anchorCell <= len(content) && (at+1)*anchorCell <= len(other) &&
			bytes.Equal(content[c*anchorCell:(c+1)*anchorCell], other[at*anchorCell:(at+1)*anchorCell])
	}
	if !same(c, at) {
		return match{}
	}
	lo, hi := c, c+1
	for lo > floor && same(lo-1, at-(c-lo)-1) {
		lo--
	}
	for same(hi, at+(hi-c)) {
		hi++
	}
	return match{lo: lo, hi: hi, offset: (at - (c - lo)) * anchorCell}
}

// addAnchors enters the anchors of durable blocks.
func (t *anchorTable) addAll(x *index, list []anchor) error {
	for i := 0; i < len(list); {
		rec, ok, err := x.recordOf(list[i].block)
		if err != nil {
			return err
		}
		for block := list[i].block; i < len(list) && list[i].block == block; i++ {
			if ok {
				t.add(list[i].hash, rec, list[i].cell)
			}
		}
	}
	return nil
}

// Anchor objects keep the anchors of durable blocks: a cache for writers. Losing one costs only what would have been
// found. A frame holds, block by block: id (32), count (2), and count times hash (8) and cell (2).

func encodeAnchors(list []anchor) []byte {
	var b []byte
	for i := 0; i < len(list); {
		j := i
		for j < len(list) && list[j].block == list[i].block {
			j++
		}
		b = append(b, list[i].block[:]...)
		b = binary.LittleEndian.AppendUint16(b, uint16(j-i))
		for ; i < j; i++ {
			b = binary.LittleEndian.AppendUint64(b, list[i].hash)
			b = binary.LittleEndian.AppendUint16(b, list[i].cell)
		}
	}
	return b
}

func decodeAnchors(b []byte) (list []anchor, err error) {
	list = make([]anchor, 0, len(b)/10)
	for len(b) > 0 {
		if len(b) < 34 {
			return nil, fmt.Errorf("anchors end within a block's head")
		}
		id, count := pipe.ID(b[:32]), int(binary.LittleEndian.Uint16(b[32:]))
		b = b[34:]
		if count == 0 || len(b) < 10*count {
			return nil, fmt.Errorf("a block with %d anchors in %d bytes", count, len(b))
		}
		for ; count > 0; count-- {
			list = append(list, anchor{binary.LittleEndian.Uint64(b), id, binary.LittleEndian.Uint16(b[8:])})
			b = b[10:]
		}
	}
	return list, nil
}

// dropAnchors lets the table go: it is megabytes, and somebody may hold a repository that is closed.
func (r *Repository) dropAnchors() {
	r.anchorMu.Lock()
	defer r.anchorMu.Unlock()
	r.anchors = nil
}

// loadAnchors reads all anchor objects. The table is shared by the repository's sessions.
func (r *Repository) loadAnchors(ctx context.Context, x *index) (*anchorTable, error) {
	r.anchorMu.Lock()
	defer r.anchorMu.Unlock()
	if r.anchors != nil {
		return r.anchors, nil
	}
	var names []string
	total := int64(0)
	for info, err := range r.st.List(ctx, "anchor/") {
		if err != nil {
			return nil, err
		}
		names = append(names, info.Name)
		total += info.Size
	}
	t := newAnchorTable(int(total/14)*2 + 256<<10) // what is there, as much again, and room for a first full backup
	for _, name := range names {
		if err := r.loadAnchorObject(ctx, x, t, name); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			r.warn(fmt.Sprintf("%s cannot be used: %v", name, err))
		}
	}
	r.anchors = t
	return t, nil
}

func (r *Repository) loadAnchorObject(ctx context.Context, x *index, t *anchorTable, name string) error {
	ref, ok := parseRef(strings.TrimPrefix(name, "anchor/"), "/")
	if !ok || !r.ofScope(ref.Lease, x.scope) {
		return nil
	}
	file, err := store.ReadAll(ctx, r.st, name, maxPackFile)
	if err != nil {
		return err
	}
	o, _, err := object.OpenFile(file, cell.Ident{Kind: object.KindAnchor, Repo: r.header.ID, Object: ref.ID}, r.keys.indexKeys(x.scope))
	if err != nil {
		return err
	}
	for i := range o.Entries() {
		doc, err := o.Content(i)
		if err != nil {
			return err
		}
		list, err := decodeAnchors(doc)
		if err == nil {
			err = t.addAll(x, list)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeAnchors keeps the anchors of durable packs. A failure is told and not suffered.
func (s *session) writeAnchors(tables []packTable) {
	if err := s.createAnchors(tables); err != nil && s.ctx.Err() == nil {
		s.r.warn(fmt.Sprintf("anchor object: %v", err))
	}
}

func (s *session) createAnchors(tables []packTable) error {
	k := s.r.keys
	b, err := object.NewBuilder(k.repo, k.suite, object.KindAnchor, k.permille, 1<<20, k.wraps)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if len(t.anchors) == 0 {
			continue
		}
		doc := encodeAnchors(t.anchors)
		if _, err := b.Append(object.TypeAnchors, hashBytes(doc), object.CodecPlain, len(doc), doc); err != nil {
			return err
		}
	}
	if b.Frames() == 0 {
		return nil
	}
	file, err := b.Seal()
	if err != nil {
		return err
	}
	return s.r.st.Create(s.ctx, "anchor/"+objectRef{s.lease.n, b.ID()}.String(), file)
}
