package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// OpenerBy is an optional ability of this package's snapshots: a disk is opened by the transport of a name, or not at all. What
// that transport reads can so be held against what another one does.
type OpenerBy interface {
	OpenDiskBy(ctx context.Context, key, transport string) (pipe.Image, error)
}

// OpenDisk implements [hikae.Snapshot], by the first transport that can. The image is a [Chosen].
func (s *snapshot) OpenDisk(ctx context.Context, key string) (pipe.Image, error) {
	return s.open(ctx, key, s.provider.openDisk)
}

// OpenDiskBy implements [OpenerBy]. A transport that does not reach the disk is a *NoTransportError.
func (s *snapshot) OpenDiskBy(ctx context.Context, key, transport string) (pipe.Image, error) {
	var o TransportOptions
	if s.provider.opts.Transports != nil {
		o = *s.provider.opts.Transports
	}
	o.Order = []string{transport}
	by, err := newChooser(&o)
	if err != nil {
		return nil, err
	}
	return s.open(ctx, key, by.open)
}

func (s *snapshot) open(ctx context.Context, key string, by func(context.Context, *Pinned) (pipe.Image, Choice, error)) (pipe.Image, error) {
	d, ok := s.disks[key]
	if !ok {
		return nil, fmt.Errorf("disk %q of VM %s: %w", key, s.ref.Value, fs.ErrNotExist)
	}
	p := &Pinned{
		Client: s.client, VM: s.ref, Snapshot: s.node.ref, Name: s.was.Name, Disk: d.Disk, PoweredOn: s.was.on(),
		Journal: s.opts.Journal, Scratch: s.provider.opts.Scratch, placed: true,
	}
	if s.was.Runtime.Host != nil {
		p.Host = *s.was.Runtime.Host
	}
	if err := s.reading.enter(ctx, p); err != nil {
		return nil, err
	}
	img, _, err := by(ctx, p)
	if err != nil {
		s.reading.leave(nil)
		return nil, err
	}
	if s.provider.opts.TrustAllocation {
		img = s.allocated(ctx, d, img)
	}
	return s.reading.keep(img), nil
}

// reading is the open images of a snapshot, and the one place that they have among what is read from the host. It is one for
// all of them: a VM whose disks are open at once must not wait for places that others hold who wait as well.
type reading struct {
	turn chan struct{} // holds a token while nobody enters or leaves

	release func() // gives the place back; nil: there is none
	guests  int    // images that are open, or being opened

	mu     *sync.Mutex
	images map[*openImage]bool
}

func newReading() reading {
	r := reading{turn: make(chan struct{}, 1), mu: &sync.Mutex{}, images: map[*openImage]bool{}}
	r.turn <- struct{}{}
	return r
}

func (r *reading) enter(ctx context.Context, p *Pinned) error {
	select {
	case <-r.turn:
		defer func() { r.turn <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.release == nil {
		release, err := p.Client.acquireDisk(ctx, p.Host, p.Disk.Datastore)
		if err != nil {
			return err
		}
		r.release = release
	}
	r.guests++
	return nil
}

// leave is called when an image is closed, or nil where it could not be opened.
func (r *reading) leave(o *openImage) {
	r.mu.Lock()
	delete(r.images, o)
	r.mu.Unlock()
	<-r.turn
	defer func() { r.turn <- struct{}{} }()
	if r.guests--; r.guests == 0 {
		r.release()
		r.release = nil
	}
}

// openImage is an image that Release closes if nobody else did, or could: no disk may be attached when the snapshot is removed.
type openImage struct {
	pipe.Image
	of *reading

	closing sync.Mutex
	closed  bool
}

func (r *reading) keep(img pipe.Image) pipe.Image {
	o := &openImage{Image: img, of: r}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[o] = true
	return o
}

func (o *openImage) Unwrap() pipe.Image { return o.Image }

// Close closes the image. After an error it is still open, and may be closed again: Release does.
func (o *openImage) Close() error {
	o.closing.Lock()
	defer o.closing.Unlock()
	if o.closed {
		return nil
	}
	if err := o.Image.Close(); err != nil {
		return err
	}
	o.closed = true
	o.of.leave(o)
	return nil
}

// close closes what is open.
func (r *reading) close() error {
	r.mu.Lock()
	var open []*openImage
	for img := range r.images {
		open = append(open, img)
	}
	r.mu.Unlock()
	var errs []error
	for _, img := range open {
		if err := img.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close a disk before the snapshot is removed: %w", err))
		}
	}
	return errors.Join(errs...)
}

var (
	_ hikae.Snapshot = (*snapshot)(nil)
	_ OpenerBy       = (*snapshot)(nil)
)
