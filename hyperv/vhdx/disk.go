package vhdx

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// Disk is a VHDX file that exists and is written to, in place. Its base is what it holds: Unchanged leaves it alone.
// There is no way back: what Flush has made durable stays, whether or not Commit follows. A file whose writer went away
// opens with all of that, and with some or none of what was written later.
type Disk struct {
	*writer
	file   io.Closer // what is written to
	parent *opener   // holds the files below
}

var _ pipe.ExtentTarget = (*Disk)(nil)

// OpenDisk opens a VHDX file for writing, with the errors of [Open]. A log that is in use is applied to the file. The
// disk's identity changes at the first write: children of it no longer open then. Nobody else may write to the file.
func OpenDisk(ctx context.Context, path string, opts *Options) (*Disk, error) {
	d := &Disk{parent: newOpener(opts)}
	d.parent.opts.Live = true
	if err := d.openLocal(ctx, path); err != nil {
		return nil, errors.Join(err, d.release())
	}
	return d, nil
}

func (d *Disk) openLocal(ctx context.Context, path string) error {
	f, err := diskfile.Open(path, &diskfile.OpenOptions{Live: true}) // it refuses what is no disk file
	if err != nil {
		return err
	}
	d.parent.files = append(d.parent.files, chainFile{f, path})
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return &diskfile.Error{Op: "open", Path: path, Off: -1, Err: err}
	}
	d.file = file
	where, done := d.parent.around(path)
	defer done()
	return d.open(ctx, path, newFileStorage(file), f.Size(), where)
}

// open opens what is written to, of which the length is known, and what is below it.
func (d *Disk) open(ctx context.Context, path string, s storage, size int64, where func() (places, string, error)) error {
	store := &storeImage{storage: s}
	store.size.Store(size)
	var info Info
	var err error
	if d.writer, info, err = openWriter(ctx, path, store, d.parent); err != nil {
		return err
	}
	return d.parent.parents(ctx, where, d.layer, info)
}

// openWriter opens a file for writing: a log that is in use goes to the file first.
func openWriter(ctx context.Context, path string, store *storeImage, o *opener) (*writer, Info, error) {
	o.cache.writable = true
	p := &parser{ctx, path, store}
	head, err := p.read(0, 8)
	if err != nil {
		return nil, Info{}, err
	}
	if string(head) != identifier {
		return nil, Info{}, &UnsupportedError{path, "writing into a file that is no VHDX"}
	}
	h, err := p.header()
	if err != nil {
		return nil, Info{}, err
	}
	if h.logLen == 0 {
		return nil, Info{}, &UnsupportedError{path, "writing into a VHDX without a log"}
	}
	w := &writer{path: path, store: store, h: h, base: inPlace}
	if err := w.applyLog(ctx, p); err != nil {
		return nil, Info{}, err
	}
	l, t, info, err := o.vhdxLayer(p, w.h)
	if err != nil {
		return nil, Info{}, err
	}
	w.size, w.layer, w.table = l.size, l, t
	return w, info, nil
}

// applyLog writes what the log holds to its places, and then a header without log.
func (w *writer) applyLog(ctx context.Context, p *parser) error {
	file, patches, err := p.readLog(w.h, maxLog)
	if err != nil || w.h.log == (GUID{}) {
		return err
	}
	if file.Size() > w.store.Size() {
		if err := w.named("resize", file.Size(), w.store.grow(ctx, file.Size())); err != nil {
			return err
		}
	}
	for _, q := range patches {
		if q.data == nil {
			err = w.named("zero", q.off, w.store.Zero(ctx, q.off, q.end-q.off))
		} else {
			err = w.write(ctx, q.data, q.off)
		}
		if err != nil {
			return err
		}
	}
	if err := w.sync(ctx); err != nil {
		return err
	}
	w.h.log = GUID{}
	return w.writeHeader(ctx)
}

// ReadAt reads what the disk holds now, with the contract of [pipe.Image] but for that.
func (d *Disk) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if d.closed.Load() {
		return 0, d.fail("read", off, fs.ErrClosed)
	}
	if off >= d.size && len(p) > 0 {
		return 0, io.EOF
	}
	return d.layer.ReadAt(ctx, p, off)
}

// Commit implements [pipe.Target]: it flushes, marks the file as closed properly, and closes it.
func (d *Disk) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return errors.Join(err, d.Close())
	}
	if d.closed.Swap(true) {
		return d.fail("commit", -1, fs.ErrClosed)
	}
	return errors.Join(d.seal(ctx), d.release())
}

// Close leaves the file as a crash would: the next who opens it applies its log. It may be called again.
func (d *Disk) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	return d.release()
}

func (d *Disk) release() error {
	err := d.parent.close()
	if d.file != nil {
		err = errors.Join(err, d.file.Close())
	}
	return err
}
