package pipetest

import (
	"context"
	"io"
	"iter"

	"github.com/hikae/hikae/pipe"
)

// Op is one operation that is about to happen.
type Op struct {
	// Name is the method in lower case: readat, extents (once for each extent), writeat, mark, missing, putblock,
	// commit; for a backend also begin, disk, blob, commitpoint, open, openblob, points.
	Name string
	// Extent is the range, where there is one. Its kind is Data unless something is marked or told.
	pipe.Extent
	ID   pipe.ID // of putblock
	Data []byte  // what is written or put; the hook may replace it
}

// Hook sees an operation before it happens. An error happens in its place.
type Hook func(ctx context.Context, op *Op) error

// HookImage returns img with hook before every read and extent.
func HookImage(img pipe.Image, hook Hook) pipe.Image { return &hookedImage{img, hook} }

type hookedImage struct {
	pipe.Image
	hook Hook
}

func (i *hookedImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	op := Op{Name: "readat", Extent: pipe.Extent{Off: off, Len: int64(len(p)), Kind: pipe.Data}}
	if err := i.hook(ctx, &op); err != nil {
		return 0, err
	}
	return i.Image.ReadAt(ctx, p, off)
}

func (i *hookedImage) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		for e, err := range pipe.Extents(ctx, i.Image, off, n) {
			if err == nil {
				err = i.hook(ctx, &Op{Name: "extents", Extent: e})
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// HookTarget returns t with hook before every operation but Close. It has t's abilities, no more and no fewer.
func HookTarget(t pipe.Target, hook Hook) pipe.Target {
	base := hookedTarget{t, hook}
	switch t := t.(type) {
	case pipe.BlockTarget:
		return &hookedBlockTarget{hookedExtentTarget{base, t}, t}
	case pipe.ExtentTarget:
		return &hookedExtentTarget{base, t}
	}
	return &base
}

type hookedTarget struct {
	pipe.Target
	hook Hook
}

func (t *hookedTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	op := Op{Name: "writeat", Extent: pipe.Extent{Off: off, Len: int64(len(p)), Kind: pipe.Data}, Data: p}
	if err := t.hook(ctx, &op); err != nil {
		return 0, err
	}
	return t.Target.WriteAt(ctx, op.Data, off)
}

func (t *hookedTarget) Commit(ctx context.Context) error {
	if err := t.hook(ctx, &Op{Name: "commit"}); err != nil {
		return err
	}
	return t.Target.Commit(ctx)
}

type hookedExtentTarget struct {
	hookedTarget
	extents pipe.ExtentTarget
}

func (t *hookedExtentTarget) Mark(ctx context.Context, e pipe.Extent) error {
	if err := t.hook(ctx, &Op{Name: "mark", Extent: e}); err != nil {
		return err
	}
	return t.extents.Mark(ctx, e)
}

type hookedBlockTarget struct {
	hookedExtentTarget
	blocks pipe.BlockTarget
}

func (t *hookedBlockTarget) BlockSize() int               { return t.blocks.BlockSize() }
func (t *hookedBlockTarget) Fingerprint(p []byte) pipe.ID { return t.blocks.Fingerprint(p) }

func (t *hookedBlockTarget) Missing(ctx context.Context, ids []pipe.ID) ([]bool, error) {
	if err := t.hook(ctx, &Op{Name: "missing"}); err != nil {
		return nil, err
	}
	return t.blocks.Missing(ctx, ids)
}

func (t *hookedBlockTarget) PutBlock(ctx context.Context, off int64, id pipe.ID, plain int, codec pipe.Codec, data []byte) (pipe.PutResult, error) {
	op := Op{Name: "putblock", Extent: pipe.Extent{Off: off, Len: int64(plain), Kind: pipe.Data}, ID: id, Data: data}
	if err := t.hook(ctx, &op); err != nil {
		return pipe.PutResult{}, err
	}
	return t.blocks.PutBlock(ctx, off, id, plain, codec, op.Data)
}

// HookBackend returns b with hook before every operation of it, its writers, their disks and its images.
func HookBackend(b pipe.Backend, hook Hook) pipe.Backend { return &hookedBackend{b, hook} }

type hookedBackend struct {
	pipe.Backend
	hook Hook
}

func (b *hookedBackend) Points(ctx context.Context, vm string) iter.Seq2[pipe.PointInfo, error] {
	return func(yield func(pipe.PointInfo, error) bool) {
		if err := b.hook(ctx, &Op{Name: "points"}); err != nil {
			yield(pipe.PointInfo{}, err)
			return
		}
		b.Backend.Points(ctx, vm)(yield)
	}
}

func (b *hookedBackend) Open(ctx context.Context, point, disk string) (pipe.Image, error) {
	if err := b.hook(ctx, &Op{Name: "open"}); err != nil {
		return nil, err
	}
	img, err := b.Backend.Open(ctx, point, disk)
	if err != nil {
		return nil, err
	}
	return HookImage(img, b.hook), nil
}

func (b *hookedBackend) OpenBlob(ctx context.Context, point, name string) (io.ReadCloser, error) {
	if err := b.hook(ctx, &Op{Name: "openblob"}); err != nil {
		return nil, err
	}
	return b.Backend.OpenBlob(ctx, point, name)
}

func (b *hookedBackend) Begin(ctx context.Context, vm string, opts *pipe.PointOptions) (pipe.PointWriter, error) {
	if err := b.hook(ctx, &Op{Name: "begin"}); err != nil {
		return nil, err
	}
	w, err := b.Backend.Begin(ctx, vm, opts)
	if err != nil {
		return nil, err
	}
	return &hookedWriter{w, b.hook}, nil
}

type hookedWriter struct {
	pipe.PointWriter
	hook Hook
}

func (w *hookedWriter) Disk(ctx context.Context, key string, size int64) (pipe.Target, error) {
	if err := w.hook(ctx, &Op{Name: "disk", Extent: pipe.Extent{Len: size}}); err != nil {
		return nil, err
	}
	t, err := w.PointWriter.Disk(ctx, key, size)
	if err != nil {
		return nil, err
	}
	return HookTarget(t, w.hook), nil
}

func (w *hookedWriter) Blob(ctx context.Context, name string, r io.Reader) error {
	if err := w.hook(ctx, &Op{Name: "blob"}); err != nil {
		return err
	}
	return w.PointWriter.Blob(ctx, name, r)
}

func (w *hookedWriter) Commit(ctx context.Context, tracking map[string]string) (string, error) {
	if err := w.hook(ctx, &Op{Name: "commitpoint"}); err != nil {
		return "", err
	}
	return w.PointWriter.Commit(ctx, tracking)
}
