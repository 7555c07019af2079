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
	mu      sync.Mutex
	max     int
	pages   map[pageKey]*page
	loading map[pageKey]chan struct{} // closed when it is done
	// writable says that the first file changes: then pages are loaded under the lock, as one that was read before a change and put
	// here after it would undo that.
	writable bool
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
	return &cache{max: max(bytes/pageLen, 4), pages: map[pageKey]*page{}, loading: map[pageKey]chan struct{}{}}
}

// view calls use with a page, under the lock. Of those who want a page that is not there, one reads it.
func (c *cache) view(ctx context.Context, file int, img pipe.Image, off int64, use func(*page)) error {
	key := pageKey{file, off}
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if p, ok := c.pages[key]; ok {
			use(p)
			return nil
		}
		done, others := c.loading[key]
		if !others {
			break
		}
		c.mu.Unlock()
		err := wait(ctx, done)
		c.mu.Lock()
		if err != nil {
			return err
		}
	}
	p, err := c.load(ctx, key, img)
	if err != nil {
		return err
	}
	c.evict()
	c.pages[key] = p
	use(p)
	return nil
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// load reads a page. It is called under the lock, which it lets go of meanwhile where nothing can change.
func (c *cache) load(ctx context.Context, key pageKey, img pipe.Image) (*page, error) {
	p := new(page)
	n := min(pageLen, img.Size()-key.off)
	if n <= 0 {
		return p, nil
	}
	if !c.writable {
		done := make(chan struct{})
		c.loading[key] = done
		c.mu.Unlock()
		defer func() {
			c.mu.Lock()
			delete(c.loading, key)
			close(done)
		}()
	}
	return p, readFull(ctx, img, p.b[:n], key.off)
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
