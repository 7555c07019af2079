package replica

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cespare/xxhash/v2"
)

// OpenBlob implements [pipe.Backend]. A blob that is not as it was written ends in a [*DamagedError] in place of io.EOF.
func (s *Site) OpenBlob(ctx context.Context, point, name string) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, r, err := s.find(point)
	if err != nil {
		return nil, err
	}
	for i, b := range r.Blobs {
		if b.Name == name {
			return openBlob(filepath.Join(dir, blobName(i)), point, b)
		}
	}
	return nil, fmt.Errorf("blob %q of point %s: %w", name, point, fs.ErrNotExist)
}

func openBlob(path, point string, b blobRecord) (*blobReader, error) {
	f, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return nil, &DamagedError{Point: point, Err: err}
	}
	return &blobReader{f: f, point: point, blob: b, sum: xxhash.New()}, nil
}

type blobReader struct {
	f     *os.File
	point string
	blob  blobRecord
	sum   hash.Hash64
	read  int64
}

func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.f.Read(p)
	r.read += int64(n)
	_, _ = r.sum.Write(p[:n]) // never fails
	if r.read > r.blob.Size || err == io.EOF && (r.read != r.blob.Size || r.sum.Sum64() != r.blob.Sum) {
		return 0, &DamagedError{Point: r.point, Err: fmt.Errorf("blob %q: %w", r.blob.Name, errContent)}
	}
	return n, err
}

func (r *blobReader) Close() error { return r.f.Close() }

// checkBlob reads a blob to its end.
func checkBlob(ctx context.Context, path, point string, b blobRecord) error {
	r, err := openBlob(path, point, b)
	if err != nil {
		return err
	}
	p := make([]byte, 256<<10)
	for err == nil {
		if err = ctx.Err(); err == nil {
			_, err = r.Read(p)
		}
	}
	if err == io.EOF {
		err = nil
	}
	return errors.Join(err, r.Close())
}
