package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"sync"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/nfc"
)

// ErrContent is wrapped by a transport's errors that are the disk's own: its host read it and could not. No other transport
// is tried then.
var ErrContent = errors.New("the disk itself cannot be read there")

// DisagreeError says that two transports gave different content for the same range of a pinned disk. One of them is wrong,
// and nobody knows which: nothing that was read of the disk can be trusted.
type DisagreeError struct {
	Disk        string
	First, Then string // transports
	Off, Len    int64  // bytes
}

func (e *DisagreeError) Error() string {
	return fmt.Sprintf("disk %s: [%d, %d) is not the same by %s as it was by %s", e.Disk, e.Off, e.Off+e.Len, e.Then, e.First)
}

// Chosen is an optional ability of a disk's image: how the disk is reached. The answer changes where a transport fails and
// another takes its place.
type Chosen interface{ Choice() Choice }

// chosen is a disk that goes on by another transport where one fails. Each answer is one transport's alone.
//
//	read ── fails ──► next transport opened ── sample of what was read is the same ──► read again, whole
//	                        └── cannot, or gives other content: the one after it
//
// A transport that was left is never gone back to. Where none is left, the last one stays, so that a range that nobody can
// read does not lose the rest of the disk.
type chosen struct {
	pinned  *Pinned
	release func() // of its place among the disks that are read at once

	moving chan struct{} // holds a token while another transport is opened: that may take long, and who waits may leave
	mu     sync.Mutex
	left   []Transport // not tried yet
	now    *opened
	old    []*opened // replaced ones
	choice Choice
	errs   []error
	broken error // final: transports disagree, or the disk is no longer what it was
	sample sample
	closed bool
}

// opened is a disk as one transport shows it.
type opened struct {
	Transport
	img     pipe.Image
	readers sync.WaitGroup

	retired chan struct{} // closed when Close of a replaced one has returned
	err     error         // what it said
}

// retire closes a replaced transport's image as soon as nobody reads from it any more: what it did on the host goes at once,
// and not when the last byte was read by another.
func (o *opened) retire() {
	o.retired = make(chan struct{})
	go func() {
		defer close(o.retired)
		o.readers.Wait()
		o.err = o.img.Close()
	}()
}

func (o *opened) close() error {
	if o.retired == nil {
		o.err = o.img.Close()
	} else {
		<-o.retired
	}
	if o.err != nil {
		return fmt.Errorf("%s: %w", o.Name(), o.err)
	}
	return nil
}

// Choice implements [Chosen].
func (d *chosen) Choice() Choice {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.choice
	c.Tried = slices.Clone(c.Tried)
	return c
}

// Route implements [hikae.Routed].
func (d *chosen) Route() hikae.Route {
	c := d.Choice()
	return hikae.Route{Transport: c.Transport, Tried: c.Tried}
}

// Size implements [pipe.Image].
func (d *chosen) Size() int64 { return d.pinned.Disk.Size }

// Flight is that of the transport in use.
func (d *chosen) Flight() pipe.Flight {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now != nil {
		if far, ok := pipe.As[pipe.Far](d.now.img); ok {
			return far.Flight()
		}
	}
	return pipe.Flight{}
}

// ReadAt implements [pipe.Image].
func (d *chosen) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &pipe.RangeError{Op: "read", Off: off, Len: int64(len(p)), Err: fs.ErrInvalid}
	}
	for {
		by, err := d.begin()
		if err != nil {
			return 0, err
		}
		n, err := by.img.ReadAt(ctx, p, off)
		by.readers.Done()
		if err == io.EOF && n >= 0 && n < len(p) && off+int64(n) < d.Size() {
			err = fmt.Errorf("it ends at %d: %w", off+int64(n), io.ErrUnexpectedEOF)
		}
		if n > 0 && n <= len(p) && (err == nil || err == io.EOF) {
			d.sample.see(p[:n], off)
		}
		if err == nil || !worthMoving(ctx, err) {
			return n, d.doubt(err)
		}
		if moveErr := d.move(ctx, by, err, off); moveErr != nil {
			return n, moveErr
		}
	}
}

// begin takes the transport in use for one answer.
func (d *chosen) begin() (*opened, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, fmt.Errorf("disk %s: %w", d.pinned.Disk.Key, fs.ErrClosed)
	case d.broken != nil:
		return nil, d.broken
	}
	d.now.readers.Add(1)
	return d.now, nil
}

// worthMoving reports whether an error is the transport's, and not the caller's, the disk's or the end of it.
func worthMoving(ctx context.Context, err error) bool {
	return ctx.Err() == nil && err != io.EOF && !errors.Is(err, ErrContent) && !isChanged(err)
}

// isChanged reports whether a transport says that what it reads is no longer what it opened: a pinned disk does not change, so
// nothing that was read of it is of one moment, and no other transport can mend that.
func isChanged(err error) bool {
	var changed *FileChangedError
	return errors.Is(err, nfc.ErrChanged) || errors.As(err, &changed) || errors.Is(err, errShrunk)
}

// doubt keeps an error that is about all that was read.
func (d *chosen) doubt(err error) error {
	if isChanged(err) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.broken = err
	}
	return err
}

// move replaces a transport that failed, unless somebody did so meanwhile. Where no other does it, the error is what the
// failed one said.
func (d *chosen) move(ctx context.Context, from *opened, why error, off int64) error {
	select {
	case d.moving <- struct{}{}:
		defer func() { <-d.moving }()
	case <-ctx.Done():
		return ctx.Err()
	}
	d.mu.Lock()
	switch {
	case d.closed:
		d.mu.Unlock()
		return why
	case d.now != from:
		d.mu.Unlock()
		return nil
	}
	none := len(d.left) == 0
	if !none {
		d.choice.Tried = append(d.choice.Tried, refusal(from, why, off))
		d.errs = append(d.errs, why)
	}
	d.mu.Unlock()
	if none {
		return fmt.Errorf("%s: %w", from.Name(), why)
	}
	if err := d.next(ctx); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", from.Name(), why), err)
	}
	return nil
}

// next opens the disk by the first transport of those that are left. One that was in use is closed when nobody reads from it
// any more; where none can take its place it stays.
func (d *chosen) next(ctx context.Context) error {
	for {
		d.mu.Lock()
		if len(d.left) == 0 {
			err := d.broken
			if err == nil {
				err = &NoTransportError{Choice{d.choice.Disk, "", slices.Clone(d.choice.Tried)}, errors.Join(d.errs...)}
			}
			d.mu.Unlock()
			return err
		}
		t, first := d.left[0], d.now
		d.left = d.left[1:]
		d.mu.Unlock()
		img, err := openBy(ctx, t, d.pinned)
		if err == nil && first != nil {
			if err = d.sample.compare(ctx, img, d.choice.Disk, first.Name(), t.Name()); err != nil {
				err = errors.Join(err, img.Close())
			}
		}
		if ctx.Err() != nil && err != nil { // nobody knows whether it would have done
			d.mu.Lock()
			d.left = slices.Insert(slices.Clone(d.left), 0, t)
			d.mu.Unlock()
			return err
		}
		if err == nil {
			return d.take(&opened{Transport: t, img: img})
		}
		d.refuse(t, err)
	}
}

func (d *chosen) refuse(t Transport, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.choice.Tried = append(d.choice.Tried, refusal(t, err, -1))
	d.errs = append(d.errs, err)
	var disagree *DisagreeError
	if errors.As(err, &disagree) {
		d.broken = disagree
	}
}

// take puts a transport in the place of the one in use. That a third one agrees with the first settles what a second one
// said.
func (d *chosen) take(by *opened) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errors.Join(fs.ErrClosed, by.img.Close())
	}
	if d.now != nil {
		d.now.retire()
		d.old = append(d.old, d.now)
	}
	d.now, d.choice.Transport = by, by.Name()
	var disagree *DisagreeError
	if errors.As(d.broken, &disagree) {
		d.broken = nil
	}
	return d.broken
}

func openBy(ctx context.Context, t Transport, p *Pinned) (pipe.Image, error) {
	if err := t.Check(ctx, p); err != nil {
		return nil, err
	}
	img, err := t.Open(ctx, p)
	if err == nil && p.Client != nil {
		img = p.Client.throttle(img, p.Disk.Datastore)
	}
	if err == nil && img.Size() != p.Disk.Size {
		return nil, errors.Join(sizeError(t, img.Size(), p), img.Close())
	}
	return img, err
}

// Extents implements [pipe.ExtentImage]. What one transport told before it failed holds: the disk is pinned.
func (d *chosen) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || n > d.Size()-off {
			yield(pipe.Extent{}, &pipe.RangeError{Op: "extents", Off: off, Len: n, Err: fs.ErrInvalid})
			return
		}
		for end := off + n; ; {
			by, err := d.begin()
			if err != nil {
				yield(pipe.Extent{}, err)
				return
			}
			at, stopped, err := tell(ctx, by, off, end, yield)
			by.readers.Done()
			if stopped || err == nil {
				return
			}
			if worthMoving(ctx, err) {
				err = d.move(ctx, by, err, at)
			} else {
				err = d.doubt(err)
			}
			if err != nil {
				yield(pipe.Extent{}, err)
				return
			}
			off = at
		}
	}
}

// tell yields what one transport knows, up to its first error. at is how far it came.
func tell(ctx context.Context, by *opened, off, end int64, yield func(pipe.Extent, error) bool) (at int64, stopped bool, err error) {
	at = off
	for e, err := range pipe.Extents(ctx, by.img, off, end-off) {
		if err != nil {
			return at, false, err
		}
		if !yield(e, nil) {
			return at, true, nil
		}
		at = e.End()
	}
	return at, false, nil
}

// Close undoes what all transports did that were in use. It may be called again after an error, for what could not be undone.
func (d *chosen) Close() error {
	d.mu.Lock()
	all := d.old
	if d.now != nil {
		all = append(slices.Clone(all), d.now)
	}
	first := !d.closed
	d.closed, d.old, d.now = true, nil, nil
	d.mu.Unlock()
	if first && d.release != nil {
		defer d.release()
	}
	var errs []error
	for _, o := range all {
		err := o.close()
		if err == nil {
			continue
		}
		errs = append(errs, err)
		d.mu.Lock()
		o.retired = nil // it is closed again the next time
		d.old = append(d.old, o)
		d.mu.Unlock()
	}
	return errors.Join(errs...)
}
