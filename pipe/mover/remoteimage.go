package mover

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// closeWait is how long a Close waits for the other side to hear of it. It goes on behind the caller's back.
const closeWait = 5 * time.Second

// Open is as pipe.Backend has it. An append peer may ask for the extents of its own points and read nothing.
func (c *Client) Open(ctx context.Context, point, disk string) (pipe.Image, error) {
	if len(point) > wire.MaxName || len(disk) > wire.MaxName {
		return nil, fmt.Errorf("disk %.40q of point %.40q: %w", disk, point, fs.ErrNotExist)
	}
	return c.openImage(ctx, &wire.OpenDisk{Point: point, Disk: disk})
}

// Images are the images that a source service lets this peer read.
func (c *Client) Images(ctx context.Context) ([]wire.NamedImage, error) {
	a, err := ask[*wire.ImageList](ctx, c, &wire.Images{})
	if err != nil {
		return nil, err
	}
	return a.Images, nil
}

// OpenImage opens an image of a source service by its name.
func (c *Client) OpenImage(ctx context.Context, name string) (pipe.Image, error) {
	if len(name) > wire.MaxName {
		return nil, fmt.Errorf("image %.40q: %w", name, fs.ErrNotExist)
	}
	return c.openImage(ctx, &wire.OpenSource{Name: name})
}

func (c *Client) openImage(ctx context.Context, req wire.Message) (pipe.Image, error) {
	i := &remoteImage{c: c, req: req, size: -1, opening: make(chan struct{}, 1)}
	for try := 1; ; try++ {
		_, _, err := i.handle(ctx)
		switch {
		case err == nil && i.extents:
			return &remoteExtentImage{i}, nil
		case err == nil:
			return i, nil
		case !isLost(err) || try > c.settings.Replays:
			return nil, err
		}
	}
}

// remoteImage is an image on the other side: a disk of a point, or of a source. Where its session was lost, it is
// opened again in the next; what it holds cannot have changed, and its size must not.
type remoteImage struct {
	c       *Client
	req     wire.Message // opens it
	size    int64
	extents bool

	opening chan struct{} // held by who opens it; a lock that a context ends the wait for

	mu     sync.Mutex // held over no call
	in     *epoch
	ref    wire.Ref
	closed bool
}

// remoteExtentImage is one that knows which parts hold data.
type remoteExtentImage struct{ *remoteImage }

var (
	_ pipe.ExtentImage = (*remoteExtentImage)(nil)
	_ pipe.Far         = (*remoteImage)(nil)
)

// handle is the open image in the current session. It is opened where it is not, by one caller while others wait.
func (i *remoteImage) handle(ctx context.Context) (*epoch, wire.Ref, error) {
	e, err := i.c.session(ctx)
	if err != nil {
		return nil, 0, err
	}
	if ref, ok, err := i.opened(e); ok || err != nil {
		return e, ref, err
	}
	select {
	case i.opening <- struct{}{}:
		defer func() { <-i.opening }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	if ref, ok, err := i.opened(e); ok || err != nil {
		return e, ref, err
	}
	ref, err := i.openIn(ctx, e)
	if isLost(err) {
		i.c.lost(e)
	}
	if err != nil {
		return nil, 0, err
	}
	return e, ref, nil
}

// opened is the image's number in a session, if it has one there.
func (i *remoteImage) opened(e *epoch) (ref wire.Ref, ok bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return 0, false, errImageClosed
	}
	return i.ref, i.in == e, nil
}

var errImageClosed = fmt.Errorf("the image is closed: %w", fs.ErrClosed)

// openIn opens the image in a session. Where it was closed meanwhile, so is what was opened.
func (i *remoteImage) openIn(ctx context.Context, e *epoch) (wire.Ref, error) {
	undo := func(a *wire.ImageOpened) wire.Message { return &wire.CloseImage{Image: a.Image} }
	a, err := openCall(ctx, e, i.req, undo)
	if err != nil {
		return 0, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.closed:
		err = errImageClosed
	case i.size >= 0 && (a.Size != i.size || a.Extents != i.extents):
		err = malformed("an image of %d bytes has %d when it is opened again", i.size, a.Size)
	}
	if err != nil {
		i.c.goOn(func() { i.c.tell(e, undo(a)) })
		return 0, err
	}
	if i.size < 0 { // nobody else has the image yet
		i.size, i.extents = a.Size, a.Extents
	}
	i.in, i.ref = e, a.Image
	return a.Image, nil
}

// askImage makes a call about an open image.
func askImage[A wire.Message](ctx context.Context, i *remoteImage, req func(wire.Ref) wire.Message) (A, error) {
	for try := 1; ; try++ {
		e, ref, err := i.handle(ctx)
		var a A
		if err == nil {
			a, err = call[A](ctx, e, req(ref))
		}
		if !isLost(err) {
			return a, err
		}
		if e != nil {
			i.c.lost(e)
		}
		if try > i.c.settings.Replays {
			return a, err
		}
	}
}

func (i *remoteImage) Size() int64 { return i.size }

// ReadAt is as pipe.Image has it.
func (i *remoteImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, fs.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	want := p[:max(0, min(int64(len(p)), i.size-off))]
	done, err := i.readParts(ctx, want, off)
	if err == nil && len(want) < len(p) {
		err = io.EOF
	}
	return done, err
}

// readParts reads the parts of a range side by side: so they come on several connections, and a packet that is lost on one
// holds up a part and not the whole. It returns how many bytes from the start on are there, and why no more.
func (i *remoteImage) readParts(ctx context.Context, p []byte, off int64) (int, error) {
	ends := cut(off, len(p), i.partBytes())
	if len(ends) == 1 {
		return i.readPart(ctx, p, off)
	}
	failures := make([]error, len(ends))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	begin := 0
	for part, end := range ends {
		p, off := p[begin:end], off+int64(begin)
		begin = end
		g.Go(func() error {
			_, failures[part] = i.readPart(ctx, p, off)
			return failures[part]
		})
	}
	err := g.Wait() // the first; the others were cancelled for it
	done := 0
	for part, end := range ends {
		if failures[part] != nil {
			return done, err
		}
		done = end
	}
	return done, nil
}

// How a read is divided. Where the way is short a part is as large as a copy reads at once: fewer calls, and large blocks
// of the other side are read once for all of it.
const (
	partNear    = 1 << 20
	partFar     = 256 << 10
	partsAtOnce = 16 // of one read; a longer one takes several turns
	farAway     = 5 * time.Millisecond
)

func (i *remoteImage) partBytes() int64 {
	if e := i.c.current.Load(); e != nil {
		if l, ok := e.line.(interface{ Stats() session.Stats }); ok && l.Stats().RTT < farAway {
			return partNear
		}
	}
	return partFar
}

// cut is where the parts of a range end, counted from its start: at multiples of size of the image, so that no block of
// that size or less is read for two of them.
func cut(off int64, n int, size int64) []int {
	ends := make([]int, 0, int64(n)/size+2)
	for at := 0; at < n; {
		at += int(min(int64(n-at), size-(off+int64(at))%size))
		ends = append(ends, at)
	}
	return ends
}

// Flight makes a copy read far ahead: see [pipe.Far].
func (i *remoteImage) Flight() pipe.Flight { return pipe.Flight{Reads: 16, Bytes: 64 << 20} }

// readPart reads one part, all of it.
func (i *remoteImage) readPart(ctx context.Context, p []byte, off int64) (int, error) {
	a, err := askImage[*wire.Content](ctx, i, func(ref wire.Ref) wire.Message {
		return &wire.ReadImage{Image: ref, Off: off, Len: uint32(len(p))}
	})
	if err != nil {
		return 0, err
	}
	if int(a.Plain) != len(p) {
		return 0, malformed("%d bytes at %d of an image of %d, where %d were asked for", a.Plain, off, i.size, len(p))
	}
	out, err := pipe.Decode(p[:0], a.Data, a.Codec, len(p))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", wire.ErrMalformed, err)
	}
	return copy(p, out), nil // for the plain codec out is the message's own memory
}

// Extents is as pipe.ExtentImage has it. What the other side says is believed only as far as it makes sense.
func (i *remoteExtentImage) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || n > i.size-off {
			yield(pipe.Extent{}, fmt.Errorf("extents of [%d, %d) of %d: %w", off, off+n, i.size, fs.ErrInvalid))
			return
		}
		for end := off + n; off < end; {
			list, err := i.page(ctx, off, end)
			if err != nil {
				yield(pipe.Extent{}, err)
				return
			}
			for _, e := range list {
				if !yield(e, nil) {
					return
				}
				off = e.End()
			}
		}
	}
}

// page is the next part of the extents: at least one, gap-free from off, none beyond end.
func (i *remoteExtentImage) page(ctx context.Context, off, end int64) ([]pipe.Extent, error) {
	a, err := askImage[*wire.ExtentList](ctx, i.remoteImage, func(ref wire.Ref) wire.Message {
		return &wire.ImageExtents{Image: ref, Off: off, Len: end - off}
	})
	if err != nil {
		return nil, err
	}
	if len(a.Extents) == 0 {
		return nil, malformed("%w: none from %d on", pipe.ErrExtents, off)
	}
	for _, e := range a.Extents {
		if e.Off != off || e.Len <= 0 || e.Len > end-off || e.Kind > pipe.Unchanged {
			return nil, malformed("%w: %v where [%d, %d) is left", pipe.ErrExtents, e, off, end)
		}
		off = e.End()
	}
	return a.Extents, nil
}

// Close is as pipe.Image has it.
func (i *remoteImage) Close() error {
	i.mu.Lock()
	e, ref, was := i.in, i.ref, i.closed
	i.closed = true
	i.mu.Unlock()
	if was || e == nil || e.gone.Load() {
		return nil
	}
	i.c.afterwards(closeWait, func(ctx context.Context) { _, _ = call[*wire.OK](ctx, e, &wire.CloseImage{Image: ref}) })
	return nil
}
