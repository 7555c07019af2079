package helper

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync"

	"github.com/hikae/hikae/hyperv/helper/wire"
	"github.com/hikae/hikae/pipe"
)

// piece is what one request asks for: large reads go as several, which are on their way at once.
const piece = 256 << 10

// image is an open file of a shadow copy.
type image struct {
	r    *Requester
	name string
	file uint32
	size int64
	once sync.Once
}

var _ pipe.Image = (*image)(nil)

func newImage(r *Requester, name string, a *wire.OpenAnswer) (*image, error) {
	if a.Size > math.MaxInt64-wire.MaxRead {
		return nil, fmt.Errorf("helper on %s: %s has %d bytes: %w", r.hello.Host, name, a.Size, wire.ErrMalformed)
	}
	return &image{r: r, name: name, file: a.File, size: int64(a.Size)}, nil
}

func (i *image) Size() int64 { return i.size }

// ReadAt implements [pipe.Image].
func (i *image) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%s at %d: %w", i.name, off, fs.ErrInvalid)
	}
	want := int(min(int64(len(p)), max(i.size-off, 0)))
	if n, err := i.readAll(ctx, p[:want], off); err != nil {
		return n, err
	}
	if want < len(p) {
		return want, io.EOF
	}
	return want, nil
}

// readAll reads pieces at once. What is good is what lies before the first that failed.
func (i *image) readAll(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) <= piece {
		return i.read(ctx, p, off)
	}
	count := (len(p) + piece - 1) / piece
	sizes, errs := make([]int, count), make([]error, count)
	var all sync.WaitGroup
	for k := range count {
		all.Go(func() {
			at := k * piece
			sizes[k], errs[k] = i.read(ctx, p[at:min(at+piece, len(p))], off+int64(at))
		})
	}
	all.Wait()
	n := 0
	for k := range count {
		if n += sizes[k]; errs[k] != nil {
			return n, errs[k]
		}
	}
	return n, nil
}

// read reads one piece. Fewer bytes than the file has there are an error: a shadow copy does not change.
func (i *image) read(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	var a wire.ReadAnswer
	err := i.r.conn.ask(ctx, &wire.ReadAt{File: i.file, Offset: uint64(off), Length: uint32(len(p))}, &a, how{limit: fileLimit, since: &i.r.conn.data})
	if err == nil && len(a.Data) > len(p) {
		err = fmt.Errorf("%w: %d bytes where %d were asked for", wire.ErrMalformed, len(a.Data), len(p))
	}
	if err != nil {
		return 0, i.r.explain("read", fmt.Sprintf("%s at %d", i.name, off), err)
	}
	n := copy(p, a.Data)
	if n < len(p) {
		return n, fmt.Errorf("helper on %s: %s at %d: %w: %d of %d bytes", i.r.hello.Host, i.name, off, io.ErrUnexpectedEOF, n, len(p))
	}
	return n, nil
}

// Close implements [pipe.Image]. A link that is gone has nothing open.
func (i *image) Close() error {
	i.once.Do(func() {
		_ = i.r.conn.ask(context.Background(), &wire.Shut{File: i.file}, &wire.Done{Of: wire.KindShut}, how{limit: fileLimit, since: &i.r.conn.data})
	})
	return nil
}
