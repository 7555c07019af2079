package mover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// openImage is an image that a session reads: a point's disk, or an image of a source.
type openImage struct {
	pipe.Image
	name string
	gate gate
	once sync.Once
}

// close closes the image once no read is under way.
func (i *openImage) close() {
	i.once.Do(func() {
		i.gate.end(fs.ErrClosed)
		ctx, stop := context.WithTimeout(context.Background(), teardown)
		defer stop()
		_ = i.gate.wait(ctx)
		_ = i.Image.Close()
	})
}

func (h *handler) openDisk(ctx context.Context, m *wire.OpenDisk) (wire.Message, error) {
	if h.who != byFull {
		if _, err := h.own(ctx, m.Point); err != nil {
			return nil, err
		}
	}
	img, err := h.host.backend.Open(ctx, m.Point, m.Disk)
	if err != nil {
		return nil, err
	}
	return h.keepImage(img, m.Point+"/"+m.Disk)
}

// keepImage gives an image its number.
func (h *handler) keepImage(img pipe.Image, name string) (wire.Message, error) {
	ref, err := h.images.add(&openImage{Image: img, name: name})
	if err != nil {
		return nil, errors.Join(err, img.Close())
	}
	_, extents := pipe.As[pipe.ExtentImage](img)
	return &wire.ImageOpened{Image: ref, Size: img.Size(), Extents: extents}, nil
}

// enterImage begins a call on an image; done is called after it.
func (h *handler) enterImage(ref wire.Ref) (img *openImage, done func(), err error) {
	if img, err = h.images.get(ref); err != nil {
		return nil, nil, err
	}
	if err := img.gate.enter(); err != nil {
		return nil, nil, err
	}
	return img, img.gate.leave, nil
}

func (h *handler) readImage(ctx context.Context, m *wire.ReadImage) (wire.Message, error) {
	img, done, err := h.enterImage(m.Image)
	if err != nil {
		return nil, err
	}
	defer done()
	size := img.Size()
	if m.Len > wire.MaxContent || m.Off > size {
		return nil, fmt.Errorf("%s: %d bytes at %d of %d: %w", img.name, m.Len, m.Off, size, fs.ErrInvalid)
	}
	p := make([]byte, min(int64(m.Len), size-m.Off))
	n, err := img.ReadAt(ctx, p, m.Off)
	if n != len(p) || err != nil && err != io.EOF {
		if err == nil || err == io.EOF {
			err = fmt.Errorf("%d of %d bytes: %w", n, len(p), io.ErrUnexpectedEOF)
		}
		return nil, fmt.Errorf("%s: %w", img.name, &pipe.RangeError{Op: "read", Off: m.Off, Len: int64(len(p)), Err: err})
	}
	if err := h.host.busy(ctx); err != nil {
		return nil, err
	}
	data, codec := h.host.encoder.Encode(nil, p)
	h.host.idle()
	return &wire.Content{Plain: uint32(len(p)), Codec: codec, Data: data}, nil
}

// imageExtents answers as many extents as one message holds; the caller goes on from there. Neighbours of one kind are
// one.
func (h *handler) imageExtents(ctx context.Context, m *wire.ImageExtents) (wire.Message, error) {
	img, done, err := h.enterImage(m.Image)
	if err != nil {
		return nil, err
	}
	defer done()
	if m.Off > img.Size() || m.Len > img.Size()-m.Off {
		return nil, fmt.Errorf("%s: extents of %d bytes at %d of %d: %w", img.name, m.Len, m.Off, img.Size(), fs.ErrInvalid)
	}
	list := []pipe.Extent{}
	for e, err := range pipe.Extents(ctx, img.Image, m.Off, m.Len) {
		if err != nil {
			return nil, fmt.Errorf("%s: extents: %w", img.name, err)
		}
		if n := len(list); n > 0 && list[n-1].Kind == e.Kind && list[n-1].End() == e.Off {
			list[n-1].Len += e.Len
			continue
		}
		if len(list) == wire.MaxExtents {
			break
		}
		list = append(list, e)
	}
	return &wire.ExtentList{Extents: list}, nil
}

func (h *handler) closeImage(m *wire.CloseImage) error {
	img, err := h.images.take(m.Image)
	if err != nil {
		return err
	}
	img.close()
	return nil
}
