package repo

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/pipe"
)

// The file of the lasting index cache, little-endian:
//
//	head     magic (8) | version (4) | doubts (4) | repository (16) | header's hash (32) | scope (32) | nonce (32)
//	         | packs (4) | records (4) | slots (8) | tag (32)
//	packs    pages of 720 packs: kind (1), told (1), 2 zero bytes, stream length (4), lease (8), id (16), file size (8), digest (32)
//	parts    one page: how many slots each of the table's 256 parts has, 4 bytes each
//	slots    pages of 8192 slots, 8 bytes each: part after part as it is in memory
//	records  pages of 72 records, as in the scratch file
//
// A page ends in a tag of 16 bytes; the last one of a section may be short. The tag is keyed BLAKE3 over the page, its section
// and its number. The key is of this file alone: it is derived from the keys of the repository and from the head.
const (
	cacheMagic   = "hikaeidx"
	cacheVersion = 2
	cacheHead    = 8 + 4 + 4 + 16 + 32 + 32 + 32 + 4 + 4 + 8
	cacheHeadTag = 32
	cacheTag     = 16
	cachePack    = 1 + 1 + 2 + 4 + 8 + 16 + 8 + 32

	packPage = 720 * cachePack
	partPage = 4 * tableParts
	slotPage = 8192 * 8
	runPages = 64 // of records, that are read at once

	maxCachePacks = 1 << 26
)

const (
	sectionPacks = iota
	sectionParts
	sectionSlots
	sectionRecords
	sections
)

// errCacheFile says that a file is no cache of this repository's index, or none any more.
var errCacheFile = errors.New("the index cache does not fit")

// cacheIdentity is whose index a cache holds.
type cacheIdentity struct {
	repo   id16
	header hash
	scope  scope
	key    [32]byte
}

// cacheHeader is what the head says.
type cacheHeader struct {
	doubts  bool
	nonce   [32]byte
	packs   uint32
	records uint32
	slots   uint64
}

func (h *cacheHeader) encode(who *cacheIdentity) []byte {
	b := append(make([]byte, 0, cacheHead+cacheHeadTag), cacheMagic...)
	b = binary.LittleEndian.AppendUint32(b, cacheVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(flag(h.doubts)))
	b = append(b, who.repo[:]...)
	b = append(b, who.header[:]...)
	b = append(b, who.scope[:]...)
	b = append(b, h.nonce[:]...)
	b = binary.LittleEndian.AppendUint32(b, h.packs)
	b = binary.LittleEndian.AppendUint32(b, h.records)
	b = binary.LittleEndian.AppendUint64(b, h.slots)
	k := keyedHasher(who.key)
	_, _ = k.Write(b)
	return k.Sum(b)
}

// decode takes the numbers from a head that is that of who: all else of it, and its tag, follow from them.
func (h *cacheHeader) decode(b []byte, who *cacheIdentity) error {
	const numbers = cacheHead - 16
	h.doubts = b[12] != 0
	copy(h.nonce[:], b[numbers-32:])
	h.packs = binary.LittleEndian.Uint32(b[numbers:])
	h.records = binary.LittleEndian.Uint32(b[numbers+4:])
	h.slots = binary.LittleEndian.Uint64(b[numbers+8:])
	if subtle.ConstantTimeCompare(b, h.encode(who)) != 1 {
		return fmt.Errorf("%w: the head is of another one", errCacheFile)
	}
	if h.packs > maxCachePacks || h.slots > tableParts*maxPartSlots {
		return fmt.Errorf("%w: %d packs, %d records, %d slots", errCacheFile, h.packs, h.records, h.slots)
	}
	return nil
}

// section is where pages of one kind are.
type section struct {
	at   int64 // offset in the file
	size int64 // of what is in them, without tags
	page int   // bytes of a whole one, without its tag
}

func (s section) pages() int64 { return (s.size + int64(s.page) - 1) / int64(s.page) }
func (s section) end() int64   { return s.at + s.size + s.pages()*cacheTag }

func (h *cacheHeader) layout() (l [sections]section) {
	at := int64(cacheHead + cacheHeadTag)
	for i, s := range [sections]section{
		{size: int64(h.packs) * cachePack, page: packPage},
		{size: partPage, page: partPage},
		{size: int64(h.slots) * 8, page: slotPage},
		{size: int64(h.records) * recordSize, page: pageSize},
	} {
		s.at = at
		l[i], at = s, s.end()
	}
	return l
}

// pageSealer makes the tags of one file's pages.
type pageSealer struct{ h *blake3.Hasher }

func newPageSealer(who *cacheIdentity, head []byte) *pageSealer {
	k := keyedHasher(who.key)
	_, _ = k.Write(head)
	_, _ = k.Write([]byte("pages"))
	return &pageSealer{keyedHasher([32]byte(k.Sum(nil)))}
}

func (s *pageSealer) clone() *pageSealer { return &pageSealer{s.h.Clone()} }

func (s *pageSealer) tag(dst []byte, section int, page int64, b []byte) []byte {
	var where [9]byte
	where[0] = byte(section)
	binary.LittleEndian.PutUint64(where[1:], uint64(page))
	s.h.Reset()
	_, _ = s.h.Write(b)
	_, _ = s.h.Write(where[:])
	var sum [32]byte
	return append(dst, s.h.Sum(sum[:0])[:cacheTag]...)
}

func (s *pageSealer) fits(section int, page int64, b, tag []byte) bool {
	var want [cacheTag]byte
	return subtle.ConstantTimeCompare(s.tag(want[:0], section, page, b), tag) == 1
}

// indexCacheFile is an open cache. It never changes: a newer one is another file. It is read, not mapped: whoever cuts a
// mapped file short kills the process that reads it.
type indexCacheFile struct {
	cacheHeader
	f      *os.File
	parts  [sections]section
	sealer *pageSealer
	pool   sync.Pool // of *pageReader
}

type pageReader struct {
	s   *pageSealer
	buf [pageSize + cacheTag]byte
}

// openCacheFile opens a cache and looks at its head only.
func openCacheFile(path string, who *cacheIdentity) (c *indexCacheFile, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	c = &indexCacheFile{f: f}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	head := make([]byte, cacheHead+cacheHeadTag)
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: no file", errCacheFile)
	}
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", errCacheFile, err)
	}
	if err := c.decode(head, who); err != nil {
		return nil, err
	}
	c.parts = c.layout()
	if end := c.parts[sectionRecords].end(); info.Size() != end {
		return nil, fmt.Errorf("%w: %d bytes are %d", errCacheFile, end, info.Size())
	}
	c.sealer = newPageSealer(who, head)
	c.pool.New = func() any { return &pageReader{s: c.sealer.clone()} }
	return c, nil
}

func (c *indexCacheFile) close() error { return c.f.Close() }

// readPage reads one page of records.
func (c *indexCacheFile) readPage(b []byte, page uint32) error {
	r := c.pool.Get().(*pageReader)
	defer c.pool.Put(r)
	s := c.parts[sectionRecords]
	n := min(int64(s.page), s.size-int64(page)*int64(s.page))
	buf := r.buf[:n+cacheTag]
	if _, err := c.f.ReadAt(buf, s.at+int64(page)*int64(s.page+cacheTag)); err != nil {
		return fmt.Errorf("%w: %w", errCacheFile, err)
	}
	if !r.s.fits(sectionRecords, int64(page), buf[:n], buf[n:]) {
		return fmt.Errorf("%w: it was changed while it was open, at page %d", errCacheFile, page)
	}
	copy(b, buf[:n])
	return nil
}

// eachPage calls f for the pages of a section from one on until another, in turn. What f is given is checked, and changes
// after its return.
func (c *indexCacheFile) eachPage(part int, from, until int64, f func(page int64, b []byte) error) error {
	s, seal := c.parts[part], c.sealer.clone()
	stride := int64(s.page + cacheTag)
	run := max(1, runPages*pageSize/int64(s.page))
	buf := make([]byte, min(run, max(1, until-from))*stride)
	for page := from; page < until; page += run {
		b := buf[:min(run*stride, (until-page)*stride, s.end()-s.at-page*stride)]
		if _, err := c.f.ReadAt(b, s.at+page*stride); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %w", errCacheFile, err)
		}
		for i := page; len(b) > 0; i++ {
			n := min(len(b), int(stride)) - cacheTag
			if !seal.fits(part, i, b[:n], b[n:n+cacheTag]) {
				return fmt.Errorf("%w: page %d of section %d is damaged", errCacheFile, i, part)
			}
			if err := f(i, b[:n]); err != nil {
				return err
			}
			b = b[n+cacheTag:]
		}
	}
	return nil
}

func (c *indexCacheFile) eachRun(f func([]byte) error) error {
	return c.eachPage(sectionRecords, 0, c.parts[sectionRecords].pages(), func(_ int64, b []byte) error { return f(b) })
}

// checkers is how many parts of a file are checked at once.
const checkers = 4

// inParts is eachPage by several goroutines, each with pages of its own.
func (c *indexCacheFile) inParts(part int, f func(page int64, b []byte) error) error {
	var g errgroup.Group
	pages := c.parts[part].pages()
	for i := range int64(checkers) {
		g.Go(func() error { return c.eachPage(part, pages*i/checkers, pages*(i+1)/checkers, f) })
	}
	return g.Wait()
}

// cachedPack is a pack of the cache.
type cachedPack struct {
	ref  packRef
	size int64 // of its file when it was entered
	told bool
	toldTable
}

func (p *cachedPack) encode(b []byte) []byte {
	b = append(b, p.ref.Kind, flag(p.told), 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(p.stream))
	b = binary.LittleEndian.AppendUint64(b, p.ref.Lease)
	b = append(b, p.ref.ID[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(p.size))
	return append(b, p.digest[:]...)
}

func (p *cachedPack) decode(b []byte) {
	p.ref.Kind, p.told = b[0], b[1] != 0
	p.stream = int(binary.LittleEndian.Uint32(b[4:]))
	p.ref.Lease = binary.LittleEndian.Uint64(b[8:])
	copy(p.ref.ID[:], b[16:])
	p.size = int64(binary.LittleEndian.Uint64(b[32:]))
	copy(p.digest[:], b[40:])
}

// readPacks reads which packs the cache knows.
func (c *indexCacheFile) readPacks() ([]cachedPack, error) {
	list := make([]cachedPack, 0, c.packs)
	err := c.eachPage(sectionPacks, 0, c.parts[sectionPacks].pages(), func(_ int64, b []byte) error {
		for ; len(b) > 0; b = b[cachePack:] {
			var p cachedPack
			p.decode(b)
			list = append(list, p)
		}
		return nil
	})
	return list, err
}

// readTable reads the table. It is the caller's to free.
func (c *indexCacheFile) readTable() (*slotTable, error) {
	t := &slotTable{}
	err := c.fill(t)
	if err == nil {
		err = t.count()
	}
	if err != nil {
		t.free()
		return nil, err
	}
	return t, nil
}

func (c *indexCacheFile) fill(t *slotTable) error {
	first, err := c.readParts(t)
	if err != nil {
		return err
	}
	return c.inParts(sectionSlots, func(page int64, b []byte) error {
		at := page * (slotPage / 8)
		i, _ := slices.BinarySearch(first[1:], at+1) // the part that ends behind it
		for ; len(b) > 0; b, at = b[8:], at+1 {
			for at == first[i+1] {
				i++
			}
			s := binary.LittleEndian.Uint64(b)
			if uint32(s) > c.records {
				return fmt.Errorf("%w: a slot names record %d of %d", errCacheFile, uint32(s), c.records)
			}
			t.parts[i].slots[at-first[i]] = s
		}
		return nil
	})
}

// readParts makes the parts of the table, and says at which slot of all each begins, and where the last one ends.
func (c *indexCacheFile) readParts(t *slotTable) (first []int64, err error) {
	first = make([]int64, tableParts+1)
	err = c.eachPage(sectionParts, 0, 1, func(_ int64, b []byte) (err error) {
		for i := range t.parts {
			n := binary.LittleEndian.Uint32(b[4*i:])
			if first[i+1] = first[i] + int64(n); n > maxPartSlots || first[i+1] > int64(c.slots) {
				return fmt.Errorf("%w: part %d has %d slots of %d", errCacheFile, i, n, c.slots)
			}
			if t.parts[i].slots, err = allocSlots(int(n)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && first[tableParts] != int64(c.slots) {
		err = fmt.Errorf("%w: the parts have %d slots of %d", errCacheFile, first[tableParts], c.slots)
	}
	return first, err
}

// count counts the slots of a table that was read.
func (t *slotTable) count() error {
	for i := range t.parts {
		p := &t.parts[i]
		for _, s := range p.slots {
			if s != 0 {
				p.used++
			}
		}
		if len(p.slots) > 0 && p.used == len(p.slots) {
			return fmt.Errorf("%w: part %d of the table has no empty slot", errCacheFile, i)
		}
	}
	return nil
}

// check reads all records, and returns those that stand in no slot.
func (c *indexCacheFile) check() (map[pipe.ID][]uint32, error) {
	var mu sync.Mutex
	aside := map[uint32]pipe.ID{}
	err := c.inParts(sectionRecords, func(page int64, b []byte) error {
		for n := uint32(page * pageRecords); len(b) > 0; b, n = b[recordSize:], n+1 {
			if binary.LittleEndian.Uint32(b[32:]) >= c.packs {
				return fmt.Errorf("%w: record %d is in no pack", errCacheFile, n)
			}
			if b[55] != 0 {
				mu.Lock()
				aside[n] = pipe.ID(b[:32])
				mu.Unlock()
			}
		}
		return nil
	})
	return byContent(aside), err
}
