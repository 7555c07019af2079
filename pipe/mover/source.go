package mover

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// Source is what a source service offers: images by name, and the embedder's way to run a backup of them.
type Source interface {
	// Images are the images that peers may read.
	Images(ctx context.Context) ([]wire.NamedImage, error)
	// Open opens one by its name, fs.ErrNotExist where there is none.
	Open(ctx context.Context, name string) (pipe.Image, error)
	// Collect brings what the order names to the target that ordered it. The result is a document of the embedding
	// program, of at most wire.MaxResult bytes. It returns when ctx ends, which is when the session does.
	Collect(ctx context.Context, order *wire.Collect, to pipe.Backend) (result []byte, err error)
}

func (h *handler) sourceImages(ctx context.Context) (wire.Message, error) {
	list, err := h.host.source.Images(ctx)
	if err != nil {
		return nil, err
	}
	if len(list) > wire.MaxDisks {
		return nil, fmt.Errorf("%d images, and a list holds %d: %w", len(list), wire.MaxDisks, errors.ErrUnsupported)
	}
	return &wire.ImageList{Images: slices.Clone(list)}, nil
}

func (h *handler) openSource(ctx context.Context, m *wire.OpenSource) (wire.Message, error) {
	img, err := h.host.source.Open(ctx, m.Name)
	if err != nil {
		return nil, err
	}
	return h.keepImage(img, m.Name)
}

// collect brings what a target orders, by calls of our own on the session that the order came by.
func (h *handler) collect(ctx context.Context, m *wire.Collect) (wire.Message, error) {
	if h.back == nil {
		return nil, &wire.Fail{Code: wire.CodeInvalid, Text: "a collection is ordered in a session that was opened for it"}
	}
	to, err := h.back(ctx)
	if err != nil {
		return nil, err
	}
	result, err := h.host.source.Collect(ctx, m, to)
	if err = errors.Join(err, to.Close()); err != nil {
		return nil, err
	}
	if len(result) > wire.MaxResult {
		return nil, fmt.Errorf("a result of %d bytes, at most %d go over the wire: %w", len(result), wire.MaxResult, errors.ErrUnsupported)
	}
	return &wire.Collected{Result: result}, nil
}
