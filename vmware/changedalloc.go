package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"

	"github.com/hikae/hikae/pipe"
)

// everything asks for all that was ever written to a disk. On VMFS that is what is allocated; elsewhere it may be the whole
// disk or an error, and servers have been seen that told far too little.
const everything = "*"

const (
	probes     = 32 // places, of those that are said to be empty, that are read
	probeBytes = 64 << 10
)

// allocated makes a disk's image tell which parts were ever written, by the server's word. That is an optimisation, and only
// taken where nothing speaks against the tracker and places at random that are said to be empty hold nothing.
func (s *snapshot) allocated(ctx context.Context, d pinnedDisk, img pipe.Image) pipe.Image {
	if d.blind != "" || knownBad(d.now, d.now) != "" {
		return img
	}
	list, err := s.client.changedAreas(ctx, s.ref, s.node.ref, d.Disk, everything)
	if err != nil {
		return img
	}
	a := &allocatedImage{Image: img, list: list}
	if err := a.probe(ctx); err != nil {
		return img
	}
	return a
}

// allocatedImage knows which parts of a disk were ever written.
type allocatedImage struct {
	pipe.Image
	list []pipe.Extent // in order
}

func (a *allocatedImage) Unwrap() pipe.Image { return a.Image }

// Extents implements [pipe.ExtentImage]: what was written is what the transport says of it.
func (a *allocatedImage) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || n > a.Size()-off {
			yield(pipe.Extent{}, &pipe.RangeError{Op: "extents", Off: off, Len: n, Err: fs.ErrInvalid})
			return
		}
		cover(a.list, a.Size(), pipe.Zero, func(e pipe.Extent, _ error) bool {
			from, to := max(e.Off, off), min(e.End(), off+n)
			if from >= to {
				return e.Off < off+n
			}
			if e.Kind == pipe.Zero {
				return yield(pipe.Extent{Off: from, Len: to - from, Kind: pipe.Zero}, nil)
			}
			for x, err := range pipe.Extents(ctx, a.Image, from, to-from) {
				if !yield(x, err) || err != nil {
					return false
				}
			}
			return true
		})
	}
}

// probe reads some of what is said to be empty.
func (a *allocatedImage) probe(ctx context.Context) error {
	var empty []pipe.Extent
	total := int64(0)
	cover(a.list, a.Size(), pipe.Zero, func(e pipe.Extent, _ error) bool {
		if e.Kind == pipe.Zero {
			empty = append(empty, e)
			total += e.Len
		}
		return true
	})
	if total == 0 {
		return nil
	}
	p := make([]byte, probeBytes)
	for range probes {
		at := rand.Int64N(total)
		for _, e := range empty {
			if at >= e.Len {
				at -= e.Len
				continue
			}
			off := e.Off + at - at%probeBytes
			part := p[:min(probeBytes, e.End()-off)]
			if err := a.zero(ctx, part, off); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

func (a *allocatedImage) zero(ctx context.Context, p []byte, off int64) error {
	if n, err := a.ReadAt(ctx, p, off); n < len(p) {
		return errors.Join(err, io.ErrUnexpectedEOF)
	}
	for i, b := range p {
		if b != 0 {
			return fmt.Errorf("byte %d was said never to have been written, and is not zero", off+int64(i))
		}
	}
	return nil
}
