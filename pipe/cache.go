package pipe

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

// CacheOptions change how [Cache] works. Nil and zero fields are good defaults.
type CacheOptions struct {
	// Bytes is how much is kept. Zero: 16 MiB. At least one chunk is kept.
	Bytes int64
	// ChunkBytes is the unit of reading and keeping. Zero: 64 KiB.
	ChunkBytes int
}

// Cache returns an image that keeps what was read last, in aligned chunks, and reads a chunk once however many ask for
// it at the same time. It is for readers that hop about, such as a file system on an image; a copy gains nothing. Reads
// in flight hold their chunk beside the bound. A read of four chunks or more goes past the cache: it would push out what
// hopping about needs. After Close, reads that are not kept fail.
func Cache(img Image, opts *CacheOptions) Image {
	var o CacheOptions
	if opts != nil {
		o = *opts
	}
	if o.Bytes <= 0 {
		o.Bytes = 16 << 20
	}
	if o.ChunkBytes <= 0 {
		o.ChunkBytes = 64 << 10
	}
	return &cached{
		Image: img, chunkBytes: int64(o.ChunkBytes), room: int(max(1, o.Bytes/int64(o.ChunkBytes))),
		chunks: map[int64]*chunk{}, order: list.New(),
	}
}

type cached struct {
	Image
	chunkBytes int64
	room       int // chunks

	mu     sync.Mutex
	chunks map[int64]*chunk
	order  *list.List // of *chunk that are loaded, the one used last in front
}

// chunk is one aligned range: being read until done is closed, then what was read, or why not.
type chunk struct {
	n       int64
	done    chan struct{}
	data    []byte
	err     error
	element *list.Element // nil while it is being read
}

func (c *cached) Unwrap() Image { return c.Image }

func (c *cached) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &RangeError{Op: "read", Off: off, Len: int64(len(p)), Err: fs.ErrInvalid}
	}
	if int64(len(p)) >= 4*c.chunkBytes {
		return c.Image.ReadAt(ctx, p, off)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= c.Size() {
			return done, io.EOF
		}
		data, err := c.get(ctx, at/c.chunkBytes)
		if err != nil {
			return done, err
		}
		done += copy(p[done:], data[at%c.chunkBytes:])
	}
	return done, nil
}

// get returns the content of chunk n. It waits for another caller's read where there is one; when that read ended only
// because its caller gave up, it reads itself.
func (c *cached) get(ctx context.Context, n int64) ([]byte, error) {
	for {
		ch, mine := c.claim(n)
		if mine {
			c.load(ctx, ch)
			return ch.data, ch.err
		}
		select {
		case <-ch.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		gaveUp := errors.Is(ch.err, context.Canceled) || errors.Is(ch.err, context.DeadlineExceeded)
		if !gaveUp || ctx.Err() != nil {
			return ch.data, ch.err
		}
	}
}

// claim finds chunk n, or makes it the caller's to load.
func (c *cached) claim(n int64) (ch *chunk, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch, ok := c.chunks[n]; ok {
		if ch.element != nil {
			c.order.MoveToFront(ch.element)
		}
		return ch, false
	}
	ch = &chunk{n: n, done: make(chan struct{})}
	c.chunks[n] = ch
	return ch, true
}

func (c *cached) load(ctx context.Context, ch *chunk) {
	off := ch.n * c.chunkBytes
	data := make([]byte, min(c.chunkBytes, c.Size()-off))
	err := readFull(ctx, c.Image, data, off)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(ch.done)
	if err != nil {
		ch.err = fmt.Errorf("cache: %w", err)
		delete(c.chunks, ch.n) // an error is not kept
		return
	}
	ch.data = data
	ch.element = c.order.PushFront(ch)
	for c.order.Len() > c.room {
		last := c.order.Remove(c.order.Back()).(*chunk)
		delete(c.chunks, last.n)
	}
}
