package index

import (
	"errors"
	"fmt"
	"io"

	"github.com/hikae/hikae/guest/index/list"
)

// Build makes an index of a list, as a component sends it. A list that is too long for an index is cut, and the index says
// so; the stream is read to its end all the same. Errors wrap [list.ErrMalformed], or are those of the two streams.
func Build(from io.Reader, to io.Writer, opts *Options) error {
	w, err := NewWriter(to, opts)
	if err != nil {
		return err
	}
	r, full := list.NewReader(from), false
	for {
		v, e, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			if opts != nil && opts.Incomplete != nil {
				w.incomplete(opts.Incomplete)
			}
			return w.Close()
		case err != nil:
			return err
		case full:
			continue
		case v != nil:
			err = w.Volume(*v)
		default:
			err = w.Add(e)
		}
		if errors.Is(err, ErrFull) {
			full, err = true, nil
			w.Cut(fmt.Sprintf("the list was cut after %d files: it was longer than an index may be", w.Entries()))
		}
		if err != nil {
			return err
		}
	}
}

// FromList is a stream with the index of a list that comes on another: it is what is put into a point as [BlobName]. Its
// end is io.EOF, or the error of [Build]. It must be closed, which also ends what reads the list as soon as that gives
// something.
func FromList(from io.Reader, opts *Options) io.ReadCloser {
	r, w := io.Pipe()
	go func() { w.CloseWithError(Build(from, w, opts)) }()
	return r
}
