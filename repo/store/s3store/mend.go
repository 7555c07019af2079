package s3store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/minio/minio-go/v7"

	"github.com/hikae/hikae/repo/store"
)

var _ store.Mender = (*Store)(nil)

// errReadBack says that what was stored is not what is read.
const errReadBack = constError("what was stored reads otherwise")

// errOvertaken says that somebody mended or removed an object while it was being mended.
const errOvertaken = constError("somebody else changed it meanwhile")

// Mend replaces an object by an unconditional PUT, which takes effect whole or not at all. In a bucket that keeps versions
// the new one is read back first and then the older ones go, so that it becomes the oldest; a locked one cannot go, and
// nothing is changed. Of several clients that mend one object at once each removes what is older than its own, and so the
// last one's stays.
func (s *Store) Mend(ctx context.Context, name string, data []byte) error {
	ctx, done, err := s.begin(ctx, store.ValidName(name))
	if err == nil {
		defer done()
		err = s.mend(ctx, name, data)
	}
	return fail("mend", name, err)
}

func (s *Store) mend(ctx context.Context, name string, data []byte) error {
	if s.versioned {
		until, err := s.Locked(ctx, name)
		if err != nil {
			return err
		}
		if now, err := s.Now(ctx); err != nil || until.After(now) {
			return errors.Join(err, store.ErrLocked)
		}
	}
	var id string
	err := s.try(ctx, func(ctx context.Context) error {
		if _, err := s.find(ctx, name); err != nil {
			return err
		}
		b := newBody(data)
		defer b.end()
		info, err := s.api.PutObject(ctx, s.at.Bucket, s.key(name), b, int64(len(data)), "", s.signedHash(data), minio.PutObjectOptions{
			UserMetadata: map[string]string{checksumHeader: checksum(data)}, DisableContentSha256: true})
		id = info.VersionID
		return err
	})
	if err != nil {
		return err
	}
	return s.try(ctx, func(ctx context.Context) error {
		got := make([]byte, len(data)+1)
		n, _, err := s.get(ctx, name, id, got, 0)
		if err == nil && !bytes.Equal(got[:n], data) {
			err = errReadBack
		}
		if err != nil || !s.versioned {
			return err
		}
		return s.removeOlder(ctx, name, id)
	})
}

// removeOlder removes what stands under a name and is older than one version, the newest first: until the last is gone, the
// oldest is what it was. Where that version is not there any more, somebody has mended or removed the object since, and nothing
// is touched.
func (s *Store) removeOlder(ctx context.Context, name, keep string) error {
	ids, err := s.everything(ctx, name)
	if err != nil {
		return err
	}
	switch {
	case keep == "": // then nobody could tell which to keep
		return fs.ErrInvalid
	case !slices.Contains(ids, keep):
		return errOvertaken
	}
	defer s.known.forget(name)
	for _, id := range ids[slices.Index(ids, keep)+1:] {
		if err := s.api.RemoveObject(ctx, s.at.Bucket, s.key(name), minio.RemoveObjectOptions{VersionID: id}); err != nil {
			return err
		}
	}
	return nil
}
