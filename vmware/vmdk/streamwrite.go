package vmdk

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// StreamOptions change how a stream is written. Nil and zero fields are good defaults.
type StreamOptions struct {
	// Name is what the descriptor calls the file. Empty: disk.vmdk.
	Name string
	// Adapter and DDB are as in [CreateOptions].
	Adapter string
	DDB     map[string]string
}

// WriteStream writes img to w as a streamOptimized disk, in one pass and in the order of the disk, and returns how many
// bytes that were. It reads what img knows to hold data, and leaves grains out that are zero. The error of w comes back
// as it is. The bounds of a stream are those of [Create].
func WriteStream(ctx context.Context, w io.Writer, img pipe.Image, opts *StreamOptions) (int64, error) {
	var o StreamOptions
	if opts != nil {
		o = *opts
	}
	if o.Name == "" {
		o.Name = "disk.vmdk"
	}
	if img.Size() > maxCreate {
		return 0, fmt.Errorf("a stream of a disk of %d bytes: %w", img.Size(), fs.ErrInvalid)
	}
	c := CreateOptions{Type: StreamOptimized, Adapter: o.Adapter, DDB: o.DDB}
	d, err := c.describe(o.Name, img.Size())
	if err != nil {
		return 0, err
	}
	desc, err := d.embed()
	if err != nil {
		return 0, err
	}
	s := newStreamer(w, img.Size())
	if err := s.begin(desc); err != nil {
		return s.next * sector, err
	}
	if err := s.image(ctx, img); err != nil {
		return s.next * sector, err
	}
	return s.next * sector, s.finish()
}

// image appends the grains of an image, a batch at a time.
func (s *streamer) image(ctx context.Context, img pipe.Image) error {
	buf := make([]byte, min(int64(16*runtime.GOMAXPROCS(0)), 256)*grainBytes)
	done := int64(0) // up to where grains were looked at
	for e, err := range pipe.Extents(ctx, img, 0, img.Size()) {
		if err != nil {
			return err
		}
		if e.Kind == pipe.Zero || e.Kind.Dropped() {
			continue
		}
		done = max(done, e.Off/grainBytes*grainBytes)
		for done < e.End() {
			n := min(img.Size(), (e.End()+grainBytes-1)/grainBytes*grainBytes, done+int64(len(buf))) - done
			if err := readFull(ctx, img, buf[:n], done); err != nil {
				return err
			}
			if err := s.batch(done/grainBytes, buf[:n]); err != nil {
				return err
			}
			done += n
		}
	}
	return ctx.Err()
}

// batch compresses grains at once, and appends them in order.
func (s *streamer) batch(first int64, b []byte) error {
	packed := make([][]byte, (len(b)+grainBytes-1)/grainBytes)
	var group sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), len(packed))
	for k := range workers {
		group.Go(func() {
			for i := k; i < len(packed); i += workers {
				if p := b[i*grainBytes : min((i+1)*grainBytes, len(b))]; !diskfile.IsZero(p) {
					packed[i] = pack(first+int64(i), p)
				}
			}
		})
	}
	group.Wait()
	for i, p := range packed {
		if p == nil {
			continue
		}
		if err := s.packed(first+int64(i), p); err != nil {
			return err
		}
	}
	return nil
}
