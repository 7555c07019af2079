package nbd

import (
	"container/list"
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"

	"github.com/hikae/hikae/pipe"
)

// AheadOptions change how [Ahead] works. Nil and zero fields are good defaults.
type AheadOptions struct {
	// Bytes is how much content is kept. Zero: 64 MiB. A chunk that is being read stands beside it.
	Bytes int64
	// ChunkBytes is the unit of reading and keeping, a power of two. Zero: 256 KiB, a repository's block.
	ChunkBytes int
	// Chunks is how many chunks are read ahead of a reader that goes straight on. Zero: 4.
	Chunks int
}

// Ahead returns an image for the clients of a server, whose content is dear to read, such as a restore point's. It keeps
// chunks of which only a part was asked for, since the rest will be: a machine that boots hops about. It reads ahead of a
// single reader that goes straight on, so that decoding does not wait for the wire, nor the wire for decoding. And it
// stands aside where whole chunks are asked for by many requests at once, as programs do that copy: they would pay for a
// cache and gain nothing.
//
// Close ends what is being read ahead, and closes img.
func Ahead(img pipe.Image, opts *AheadOptions) pipe.Image {
	o := AheadOptions{}
	if opts != nil {
		o = *opts
	}
	if o.Bytes <= 0 {
		o.Bytes = 64 << 20
	}
	if o.ChunkBytes <= 0 {
		o.ChunkBytes = 256 << 10
	}
	if o.Chunks <= 0 {
		o.Chunks = 4
	}
	a := &ahead{Image: img, unit: int64(o.ChunkBytes), depth: int64(o.Chunks), room: int(max(1, o.Bytes/int64(o.ChunkBytes))),
		chunks: map[int64]*kept{}, order: list.New()}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

type ahead struct {
	pipe.Image
	unit, depth int64
	room        int // chunks

	ctx    context.Context // of what is read ahead
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	chunks  map[int64]*kept
	order   *list.List // of *kept that are loaded, the one used last in front
	spare   [][]byte   // buffers of chunks that went
	readers int        // in ReadAt
	streams [8]int64   // where reads ended
	oldest  int        // of the streams
}

// kept is one chunk: being read until done is closed, then what was read, or why not. users hold it; its buffer goes to
// the spare ones when it is neither used nor kept.
type kept struct {
	n       int64
	done    chan struct{}
	data    []byte
	err     error
	users   int
	element *list.Element // nil while it is being read, and when it went
}

// Unwrap lets the abilities of the image show.
func (a *ahead) Unwrap() pipe.Image { return a.Image }

// Close implements [pipe.Image].
func (a *ahead) Close() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	a.group.Wait()
	return a.Image.Close()
}

// ReadAt implements [pipe.Image].
func (a *ahead) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &pipe.RangeError{Op: "read", Off: off, Len: int64(len(p)), Err: fs.ErrInvalid}
	}
	end := min(off+int64(len(p)), a.Size())
	a.enter(off, end)
	defer a.leave(end)
	done := 0
	for at := off; at < end; at = off + int64(done) {
		n, err := a.readPart(ctx, p[done:end-off], at)
		done += n
		if err != nil {
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// readPart reads the start of a range: the rest of a chunk, or as many whole chunks as nobody keeps.
func (a *ahead) readPart(ctx context.Context, p []byte, at int64) (int, error) {
	n := at / a.unit
	if direct := a.direct(n, at, int64(len(p))); direct > 0 {
		return a.through(ctx, p[:direct], at)
	}
	c, err := a.hold(ctx, n)
	if err != nil {
		return 0, err
	}
	defer a.release(c)
	return copy(p, c.data[at-n*a.unit:]), nil
}

// direct is how much of a range goes past the cache: whole chunks from its start that are not there.
func (a *ahead) direct(n, at, length int64) (bytes int64) {
	if at != n*a.unit {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for ; a.chunks[n] == nil; n++ {
		whole := min(a.unit, a.Size()-n*a.unit)
		if whole <= 0 || bytes+whole > length {
			break
		}
		bytes += whole
	}
	return bytes
}

// through reads without keeping. An image that returns less than was asked for is no end: the caller asks for the rest.
func (a *ahead) through(ctx context.Context, p []byte, at int64) (int, error) {
	n, err := a.Image.ReadAt(ctx, p, at)
	if n == len(p) && err == io.EOF {
		err = nil
	}
	if n < len(p) && err == nil {
		err = pipe.ErrBroken
	}
	return n, err
}

// hold returns a chunk that is loaded, by this caller or another one. Where the other's read ended only because it gave
// up, it is read again.
func (a *ahead) hold(ctx context.Context, n int64) (*kept, error) {
	for {
		c, mine := a.claim(n)
		if mine {
			a.load(ctx, c)
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			a.release(c)
			return nil, ctx.Err()
		}
		if c.err == nil {
			return c, nil
		}
		err := c.err
		a.release(c)
		gaveUp := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
		if mine || !gaveUp || ctx.Err() != nil {
			return nil, err
		}
	}
}

// claim finds a chunk, or makes it the caller's to load. The caller releases it.
func (a *ahead) claim(n int64) (c *kept, mine bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.chunks[n]
	if !ok {
		c = &kept{n: n, done: make(chan struct{}), data: a.bufferLocked(n)}
		a.chunks[n] = c
	}
	if c.element != nil {
		a.order.MoveToFront(c.element)
	}
	c.users++
	return c, !ok
}

// bufferLocked is room for a chunk.
func (a *ahead) bufferLocked(n int64) []byte {
	size := min(a.unit, a.Size()-n*a.unit)
	if last := len(a.spare) - 1; last >= 0 {
		b := a.spare[last]
		a.spare = a.spare[:last]
		return b[:size]
	}
	return make([]byte, size, a.unit)
}

func (a *ahead) load(ctx context.Context, c *kept) {
	n, err := a.through(ctx, c.data, c.n*a.unit)
	if err == nil && n < len(c.data) {
		err = io.ErrUnexpectedEOF
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	defer close(c.done)
	if err != nil {
		c.err = err
		delete(a.chunks, c.n) // an error is not kept
		return
	}
	c.element = a.order.PushFront(c)
	for a.order.Len() > a.room {
		last := a.order.Remove(a.order.Back()).(*kept)
		last.element = nil
		delete(a.chunks, last.n)
		a.spareLocked(last)
	}
}

func (a *ahead) release(c *kept) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.users--
	a.spareLocked(c)
}

// maxSpare bounds the buffers that nobody uses.
const maxSpare = 8

// spareLocked takes the buffer of a chunk that nobody uses, keeps or reads.
func (a *ahead) spareLocked(c *kept) {
	if c.users > 0 || c.element != nil || c.data == nil {
		return
	}
	if len(a.spare) < maxSpare {
		a.spare = append(a.spare, c.data[:cap(c.data)])
	}
	c.data = nil
}

// enter notes a read. Where it goes on where an earlier one ended, and no other is under way, what comes next is read
// ahead.
func (a *ahead) enter(off, end int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.readers++
	if a.readers > 1 || a.closed || end <= off {
		return
	}
	for _, at := range a.streams {
		if at == off && off > 0 {
			a.aheadLocked(end)
			return
		}
	}
}

// aheadLocked begins to read chunks that lie ahead of a byte.
func (a *ahead) aheadLocked(end int64) {
	first := (end + a.unit - 1) / a.unit
	for n := first; n < first+a.depth && n*a.unit < a.Size(); n++ {
		if a.chunks[n] != nil {
			continue
		}
		c := &kept{n: n, done: make(chan struct{}), data: a.bufferLocked(n), users: 1}
		a.chunks[n] = c
		a.group.Go(func() {
			a.load(a.ctx, c)
			a.release(c)
		})
	}
}

// leave notes where a read ended.
func (a *ahead) leave(end int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.readers--
	a.streams[a.oldest] = end
	a.oldest = (a.oldest + 1) % len(a.streams)
}
