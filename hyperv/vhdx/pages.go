package vhdx

import (
	"context"
	"slices"
	"sync"

	"github.com/hikae/hikae/pipe"
)

const (
	pageLen     = 64 << 10
	defaultTabs = 32 << 20
)

// cache holds pages of tables and bitmaps of all files of a chain. A page that was changed stays until it is written.
type cache struct {
	mu    sync.Mutex
	max   int
	pages map[pageKey]*page
}

type pageKey struct {
	file int
	off  int64
}

// page is pageLen bytes of a file, zeros past its end. dirty has a bit for each sector of the log.
type page struct {
	b     [pageLen]byte
	dirty uint16
}

func newCache(bytes int) *cache {
	if bytes <= 0 {
		bytes = defaultTabs
	}
	return &cache{max: max(bytes/pageLen, 4), pages: map[pageKey]*page{}}
}

// view calls use with a page, under the lock.
func (c *cache) view(ctx context.Context, file int, img pipe.Image, off int64, use func(*page)) error {
	key := pageKey{file, off}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.pages[key]
	if !ok {
		p = new(page)
		if n := min(pageLen, img.Size()-off); n > 0 {
			if err := readFull(ctx, img, p.b[:n], off); err != nil {
				return err
			}
		}
		c.evict()
		c.pages[key] = p
	}
	use(p)
	return nil
}

// evict makes room for one page. Which one goes is left to chance: no order of reading is bad for that.
func (c *cache) evict() {
	if len(c.pages) < c.max {
		return
	}
	for k, p := range c.pages {
		if p.dirty == 0 {
			delete(c.pages, k)
			return
		}
	}
}

// set changes bytes within one page and marks the sectors. It returns how many sectors became dirty.
func (p *page) set(in int64, b []byte) (sectors int) {
	copy(p.b[in:], b)
	for s := in / sectorLog; s <= (in+int64(len(b))-1)/sectorLog; s++ {
		if p.dirty&(1<<s) == 0 {
			sectors++
		}
		p.dirty |= 1 << s
	}
	return sectors
}

// changed are copies of up to limit dirty sectors, in the order of their places.
func (c *cache) changed(limit int) (out []logged) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var keys []int64
	for k, p := range c.pages {
		if p.dirty != 0 {
			keys = append(keys, k.off)
		}
	}
	slices.Sort(keys)
	for _, off := range keys {
		p := c.pages[pageKey{0, off}]
		for s := range pageLen / sectorLog {
			if p.dirty&(1<<s) != 0 && len(out) < limit {
				out = append(out, logged{off + int64(s)*sectorLog, slices.Clone(p.b[s*sectorLog : (s+1)*sectorLog])})
			}
		}
	}
	return out
}

// clean says that sectors are in the file.
func (c *cache) clean(done []logged) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range done {
		c.pages[pageKey{0, l.off &^ (pageLen - 1)}].dirty &^= 1 << (l.off % pageLen / sectorLog)
	}
}
