package s3store

import (
	"context"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/hikae/hikae/repo/store"
)

// ReadAt asks for a range of an object.
func (s *Store) ReadAt(ctx context.Context, name string, p []byte, off int64) (n int, err error) {
	return s.readAt(ctx, name, "", p, off)
}

// ReadVersionAt asks for a range of one version of an object.
func (s *Store) ReadVersionAt(ctx context.Context, name, id string, p []byte, off int64) (n int, err error) {
	if id == "" || len(id) > store.MaxVersionID {
		return 0, fail("read", name, fs.ErrInvalid)
	}
	return s.readAt(ctx, name, id, p, off)
}

// readAt reads of one version; empty: of the object.
func (s *Store) readAt(ctx context.Context, name, version string, p []byte, off int64) (n int, err error) {
	ctx, done, err := s.begin(ctx, store.ValidName(name) && off >= 0)
	if err != nil {
		return 0, fail("read", name, err)
	}
	defer done()
	if len(p) == 0 {
		_, err := s.Stat(ctx, name)
		return 0, err
	}
	end := false
	err = s.try(ctx, func(ctx context.Context) error {
		if version != "" || !s.versioned {
			n, end, err = s.get(ctx, name, version, p, off)
			return err
		}
		v, known := s.known.get(name)
		if !known {
			if v, err = s.oldest(ctx, name); err != nil {
				return err
			}
		}
		n, end, err = s.get(ctx, name, v.ID, p, off)
		if known && answered(err) == http.StatusNotFound {
			s.known.forget(name)
			return errAgain
		}
		return err
	})
	if err == nil && end {
		return n, io.EOF
	}
	return n, fail("read", name, err)
}

// get reads by one try; end says that the object ended before p was full.
func (s *Store) get(ctx context.Context, name, version string, p []byte, off int64) (n int, end bool, err error) {
	if len(p) == 0 {
		return 0, false, nil
	}
	o := minio.GetObjectOptions{VersionID: version}
	o.Set("Range", "bytes="+strconv.FormatInt(off, 10)+"-"+strconv.FormatInt(off+int64(len(p))-1, 10))
	content, info, header, err := s.api.GetObject(ctx, s.at.Bucket, s.key(name), o)
	if answered(err) == http.StatusRequestedRangeNotSatisfiable {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer content.Close()
	size, skip := info.Size, off // a server may answer a question for a range with the whole
	if r := header.Get("Content-Range"); r != "" {
		first, whole, ok := parseRange(r)
		if !ok || first != off {
			return 0, false, errRange
		}
		size, skip = whole, 0
	}
	if size < 0 { // a server that does not say how long it is says nothing about where it ends
		return 0, false, errNonsense
	}
	want := p[:max(0, min(int64(len(p)), size-off))]
	if _, err := io.CopyN(io.Discard, content, min(skip, size)); err != nil {
		return 0, false, short(err)
	}
	if n, err = io.ReadFull(content, want); err != nil {
		return 0, false, short(err)
	}
	return n, n < len(p), nil
}

// parseRange reads "bytes FIRST-LAST/SIZE".
func parseRange(s string) (first, size int64, ok bool) {
	rest, isBytes := strings.CutPrefix(s, "bytes ")
	span, whole, _ := strings.Cut(rest, "/")
	from, _, hasSpan := strings.Cut(span, "-")
	first, err1 := strconv.ParseInt(from, 10, 64)
	size, err2 := strconv.ParseInt(whole, 10, 64)
	return first, size, isBytes && hasSpan && err1 == nil && err2 == nil && size > first
}

type constError string

func (e constError) Error() string { return string(e) }

const errRange = constError("the server answered with another range than was asked for")

// Stat asks for an object's size.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	ctx, done, err := s.begin(ctx, store.ValidName(name))
	if err != nil {
		return store.Info{}, fail("stat", name, err)
	}
	defer done()
	var v store.Version
	err = s.try(ctx, func(ctx context.Context) (err error) {
		v, err = s.find(ctx, name)
		return err
	})
	if err != nil {
		return store.Info{}, fail("stat", name, err)
	}
	return store.Info{Name: name, Size: v.Size}, nil
}

// find looks an object up by one try: its oldest version where the bucket keeps them.
func (s *Store) find(ctx context.Context, name string) (store.Version, error) {
	if s.versioned {
		return s.oldest(ctx, name)
	}
	info, err := s.api.StatObject(ctx, s.at.Bucket, s.key(name), minio.StatObjectOptions{})
	if answered(err) == http.StatusNotFound {
		return store.Version{}, s.absent(ctx, name)
	}
	if err == nil && !sensible(info.Size, "") {
		err = errNonsense
	}
	return store.Version{Size: info.Size}, err
}

// absent says of an object that a HEAD did not find whether it is not there, or the bucket is not, or somebody between us
// and the server said so: an answer to HEAD has no body that tells.
func (s *Store) absent(ctx context.Context, name string) error {
	content, _, _, err := s.api.GetObject(ctx, s.at.Bucket, s.key(name), minio.GetObjectOptions{})
	if err == nil {
		content.Close()
		return errAgain // it has just come
	}
	return err
}
