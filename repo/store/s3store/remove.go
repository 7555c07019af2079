package s3store

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/minio/minio-go/v7"

	"github.com/hikae/hikae/repo/store"
)

// Remove removes an object, with all its versions where the bucket keeps them. What is locked gives [store.ErrLocked].
func (s *Store) Remove(ctx context.Context, name string) error {
	ctx, done, err := s.begin(ctx, store.ValidName(name))
	if err == nil {
		defer done()
		err = s.remove(ctx, name)
	}
	return fail("remove", name, err)
}

func (s *Store) remove(ctx context.Context, name string) error {
	doubt := false // whether an earlier try was carried out
	err := s.try(ctx, func(ctx context.Context) error {
		ids, err := s.everything(ctx, name)
		if doubt && errors.Is(s.translate(err), fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer s.known.forget(name)
		for _, id := range ids {
			err := s.api.RemoveObject(ctx, s.at.Bucket, s.key(name), minio.RemoveObjectOptions{VersionID: id})
			if err != nil {
				doubt = doubt || unclear(err)
				return err
			}
			doubt = true // of several versions some may be gone
		}
		return nil
	})
	if errors.Is(err, fs.ErrPermission) { // S3 answers to both alike
		if until, lockErr := s.Locked(ctx, name); lockErr == nil && !until.IsZero() {
			return errors.Join(store.ErrLocked, err)
		}
	}
	return err
}

// everything gives the ids of all that stands under a name, the newest first: while any of it is left, so is the object.
func (s *Store) everything(ctx context.Context, name string) ([]string, error) {
	if !s.versioned {
		_, err := s.find(ctx, name)
		return []string{""}, err
	}
	all, err := s.entries(ctx, name)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(all, func(e entry) bool { return !e.mark }) {
		return nil, fs.ErrNotExist
	}
	var ids []string
	for _, e := range slices.Backward(all) {
		ids = append(ids, e.ID)
	}
	return ids, nil
}
