package repo

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hikae/hikae/pipe"
)

// indexCache keeps an index from one run to the next, in a folder of the client's own. It is never an authority: it speaks for
// packs that the store lists, with the length that they had, and for no others; it is written by who holds the keys, for this
// repository alone, and a file that does not fit in any byte is as good as none. So the worst that it can do is to be of no use.
//
// Files are never changed. A newer one has a higher number, is made under another name, and removes those before it; of two
// processes that do so at once, one makes a file that nobody reads. Nothing is synced: what a power cut leaves is found to be torn.
type indexCache struct {
	dir  string
	who  cacheIdentity
	warn func(string)
}

const (
	cacheSuffix  = ".index"
	maxCaches    = 16   // files that are looked at; more than one are there only while two processes are at it
	cacheWorthIt = 4096 // new records below which no newer file is made
)

// indexCache is that of an index; nil where it has none. What others may lie in, and what is protected by no key, is made anew.
func (r *Repository) indexCache(x *index) *indexCache {
	if r.opts.CacheDir == "" || r.writer != nil || !x.trusted {
		return nil
	}
	return &indexCache{
		dir:  filepath.Join(r.opts.CacheDir, "indexes", r.ID()),
		who:  cacheIdentity{r.header.ID, r.headerHash, x.scope, derive(r.keys.slot.IDKey, "hikae/1/cache/index")},
		warn: r.opts.Warn,
	}
}

// names are the files, the newest first.
func (c *indexCache) names() []string {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if _, ok := cacheNumber(e.Name()); ok {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	slices.Reverse(names)
	return names[:min(len(names), maxCaches)]
}

// cacheNumber reads a name: 16 hexadecimal digits that count up, and 16 by chance.
func cacheNumber(name string) (n uint64, ok bool) {
	s, ok := strings.CutSuffix(name, cacheSuffix)
	if !ok || len(s) != 33 || s[16] != '-' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:16], 16, 64)
	return n, err == nil
}

// load enters into an empty index what the cache has of packs that are there. whole says that it had nothing else, so
// that there is nothing to be written anew for that.
func (c *indexCache) load(x *index, present map[packRef]int64) (whole bool) {
	for _, name := range c.names() {
		path := filepath.Join(c.dir, name)
		whole, err := c.loadFile(x, path, present)
		if err == nil {
			x.mu.Lock()
			x.fromCache = true
			x.mu.Unlock()
			return whole
		}
		if errors.Is(err, errCacheFile) {
			c.warn(fmt.Sprintf("%s is not used, and is made anew: %v", path, err))
			_ = os.Remove(path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			c.warn(fmt.Sprintf("the index cache cannot be read: %v", err))
		}
	}
	return false
}

func (c *indexCache) loadFile(x *index, path string, present map[packRef]int64) (whole bool, err error) {
	f, err := openCacheFile(path, &c.who)
	if err != nil {
		return false, err
	}
	keep := false
	defer func() {
		if !keep {
			_ = f.close()
		}
	}()
	packs, err := f.readPacks()
	if err != nil {
		return false, err
	}
	aside, err := f.check()
	if err != nil {
		return false, err
	}
	here := func(p *cachedPack) bool { size, ok := present[p.ref]; return ok && size == p.size }
	if all := !slices.ContainsFunc(packs, func(p cachedPack) bool { return !here(&p) }); all {
		keep, err = x.adopt(f, packs, aside)
		return true, err
	}
	if err := x.copyFrom(f, packs, here); err != nil {
		return false, errors.Join(err, x.clear())
	}
	x.doubt() // something that was here is gone
	return false, nil
}

// clear makes an index empty that nobody has seen yet.
func (x *index) clear() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.records
	f, err := scratchFile(filepath.Dir(old.file.Name()))
	if err != nil {
		return err
	}
	x.table.free()
	x.records = newRecords(f)
	x.packs, x.packNum, x.told, x.more = nil, map[packRef]uint32{}, nil, nil
	return old.close()
}

// byContent turns numbers of records to lists, each in the order of entry.
func byContent(aside map[uint32]pipe.ID) map[pipe.ID][]uint32 {
	if len(aside) == 0 {
		return nil
	}
	more := map[pipe.ID][]uint32{}
	for n, id := range aside {
		more[id] = append(more[id], n)
	}
	for _, list := range more {
		slices.Sort(list)
	}
	return more
}

// adopt takes a cache as it is, for an index that has nothing yet.
func (x *index) adopt(f *indexCacheFile, packs []cachedPack, aside map[pipe.ID][]uint32) (bool, error) {
	table, err := f.readTable()
	if err != nil {
		return false, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.table.free()
	x.table, x.more, x.doubts = table, aside, x.doubts || f.doubts
	x.records.base, x.records.n = f, f.records
	x.packs = make([]packRef, len(packs))
	x.packNum = make(map[packRef]uint32, len(packs))
	x.told = make(map[uint32]toldTable, len(packs))
	for i := range packs {
		x.enter(uint32(i), &packs[i])
	}
	return true, nil
}

func (x *index) enter(num uint32, p *cachedPack) {
	x.packs[num], x.packNum[p.ref] = p.ref, num
	if p.told {
		x.told[num] = p.toldTable
	}
}

// copyFrom enters those packs of a cache that are there, record by record.
func (x *index) copyFrom(f *indexCacheFile, packs []cachedPack, here func(*cachedPack) bool) error {
	const none = ^uint32(0)
	nums := make([]uint32, len(packs))
	for i := range packs {
		p := &packs[i]
		nums[i] = none
		if !here(p) {
			continue
		}
		num, known := x.addPack(p.ref)
		if known {
			return fmt.Errorf("%w: it names %s twice", errCacheFile, p.ref.name())
		}
		nums[i] = num
		if p.told {
			x.tell(num, p.toldTable)
		}
	}
	if err := x.reserve(int(f.records)); err != nil {
		return err
	}
	return f.eachRun(func(b []byte) error {
		for ; len(b) > 0; b = b[recordSize:] {
			id, loc := parseRecord(b)
			if loc.pack = nums[loc.pack]; loc.pack == none {
				continue
			}
			if err := x.add(id, loc); err != nil {
				return err
			}
		}
		return nil
	})
}

// worthSaving reports whether an index holds so much more than the cache that a newer one pays.
func (x *index) worthSaving(whole bool) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	base := x.records.first()
	return len(x.packs) > 0 && (!whole || x.records.n-base > max(base/16, cacheWorthIt))
}

// save writes the index down. present are the packs that were listed when it was loaded. A cache that cannot be written costs
// time and nothing else.
func (c *indexCache) save(x *index, present map[packRef]int64) {
	if err := c.write(x, present); err != nil {
		c.warn(fmt.Sprintf("the index is not kept for the next run: %v", err))
	}
}

func (c *indexCache) write(x *index, present map[packRef]int64) (err error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	before := c.names()
	next := uint64(1)
	if len(before) > 0 {
		n, _ := cacheNumber(before[0])
		next = n + 1
	}
	c.sweep()
	f, err := os.CreateTemp(c.dir, newCachePrefix+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	x.mu.RLock()
	err = writeCache(f, &c.who, x, present)
	x.mu.RUnlock()
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	var chance [8]byte
	_, _ = rand.Read(chance[:])
	name := fmt.Sprintf("%016x-%016x%s", next, binary.LittleEndian.Uint64(chance[:]), cacheSuffix)
	if err := os.Rename(f.Name(), filepath.Join(c.dir, name)); err != nil {
		return err
	}
	for _, old := range before {
		_ = os.Remove(filepath.Join(c.dir, old)) // where it is open and that hinders, the next one does it
	}
	return nil
}
