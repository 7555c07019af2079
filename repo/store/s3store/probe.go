package s3store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/hikae/hikae/repo/store"
)

// probeDir is where trials are made; no name of an object begins so.
const probeDir = ".probe/"

func isProbe(name string) bool { return strings.HasPrefix(name, probeDir) }

func random() string { return strings.ToLower(rand.Text()) }

// keptProbe is what is tried on where nothing may be removed. It stays, once.
const keptProbe = probeDir + "kept"

// Probe tries whether a name is given to one creator only, one after another and at once, and whether what was made and
// removed is seen so by name and in a listing. Where the credentials may not remove, one small object stays for good.
func (s *Store) Probe(ctx context.Context) (store.Abilities, error) {
	ctx, done, err := s.begin(ctx, true)
	if err != nil {
		return store.Abilities{}, fail("probe", "", err)
	}
	defer done()
	if _, err := s.lockEnabled(ctx); err != nil && !errors.Is(err, fs.ErrPermission) {
		return store.Abilities{}, fail("probe", "", err)
	}
	found, err := s.probe(ctx)
	return found, fail("probe", "", err)
}

func (s *Store) probe(ctx context.Context) (store.Abilities, error) {
	removes, err := s.mayRemove(ctx)
	if err != nil {
		return store.Abilities{}, err
	}
	found := store.Abilities{DurableNames: true}
	name := keptProbe
	if removes {
		name = probeDir + random()
	}
	made, err := s.makeAtOnce(ctx, name)
	if err != nil {
		return store.Abilities{}, err
	}
	found.ExclusiveCreate = made == 1 || made == 0 && !removes
	again, err := s.tryCreate(ctx, name, []byte("second"))
	if err != nil {
		return store.Abilities{}, err
	}
	found.ExclusiveCreate = found.ExclusiveCreate && !again
	s.blind.Store(again || made > 1) // not where it was only unclear who made it
	found.FreshReads, err = s.seen(ctx, name)
	if err == nil && removes {
		if err = s.remove(ctx, name); err == nil {
			var gone bool
			gone, err = s.looks(ctx, name, false)
			found.FreshReads = found.FreshReads && gone
		}
	}
	return found, err
}

// mayRemove tries to remove what is not there: who may remove is told that all is well.
func (s *Store) mayRemove(ctx context.Context) (bool, error) {
	o := minio.RemoveObjectOptions{}
	err := s.try(ctx, func(ctx context.Context) error {
		id := ""
		if s.versioned { // a plain removal leaves a mark of deletion, which is another right
			id = "null"
		}
		o.VersionID = id
		return s.api.RemoveObject(ctx, s.at.Bucket, s.key(probeDir+random()), o)
	})
	switch {
	case errors.Is(err, fs.ErrPermission):
		return false, nil
	case errors.Is(err, fs.ErrNotExist) || answered(err) == 400: // the version is not there, or is none
		return true, nil
	}
	return err == nil, err
}

// atOnce is how many create one name together.
const atOnce = 4

// makeAtOnce lets several requests create a name, and returns how many were told that they did.
func (s *Store) makeAtOnce(ctx context.Context, name string) (made int, err error) {
	var wg sync.WaitGroup
	won, errs := make([]bool, atOnce), make([]error, atOnce)
	for i := range atOnce {
		wg.Go(func() { won[i], errs[i] = s.tryCreate(ctx, name, []byte(fmt.Sprint("first ", i))) })
	}
	wg.Wait()
	for _, w := range won {
		if w {
			made++
		}
	}
	return made, errors.Join(errs...)
}

// tryCreate sends a conditional PUT, whatever is known of the server, and reports whether it was carried out.
func (s *Store) tryCreate(ctx context.Context, name string, data []byte) (made bool, err error) {
	err = s.try(ctx, func(ctx context.Context) error {
		b := newBody(data)
		defer b.end()
		o := minio.PutObjectOptions{UserMetadata: map[string]string{checksumHeader: checksum(data)}, DisableContentSha256: true}
		o.SetMatchETagExcept("*")
		_, err := s.api.PutObject(ctx, s.at.Bucket, s.key(name), b, int64(len(data)), "", s.signedHash(data), o)
		return err
	})
	switch {
	case errors.Is(err, fs.ErrExist):
		return false, nil
	case code(err) == "NotImplemented": // it says so: the condition is not to be had
		return true, s.try(ctx, func(ctx context.Context) error {
			b := newBody(data)
			defer b.end()
			_, err := s.api.PutObject(ctx, s.at.Bucket, s.key(name), b, int64(len(data)), "", s.signedHash(data),
				minio.PutObjectOptions{DisableContentSha256: true})
			return err
		})
	}
	return err == nil, err
}

// seen reports whether an object that was just made is found by name and in a listing.
func (s *Store) seen(ctx context.Context, name string) (bool, error) {
	if there, err := s.looks(ctx, name, true); err != nil || !there {
		return false, err
	}
	listed := false
	err := s.eachProbe(ctx, func(o minio.ObjectInfo) { listed = listed || o.Key == s.key(name) })
	return listed, err
}

// looks reports whether the first look that the server answers shows a name to be there, or not to be.
func (s *Store) looks(ctx context.Context, name string, there bool) (so bool, err error) {
	err = s.try(ctx, func(ctx context.Context) error {
		_, err := s.find(ctx, name)
		gone := errors.Is(s.translate(err), fs.ErrNotExist)
		so = err == nil && there || gone && !there
		if gone || errors.Is(err, errAgain) { // it was found in one way, and not in the other
			return nil
		}
		return err
	})
	return so, err
}

// eachProbe lists what stands where trials are made. A page that fails makes it begin anew.
func (s *Store) eachProbe(ctx context.Context, do func(minio.ObjectInfo)) error {
	return s.try(ctx, func(ctx context.Context) error {
		for o := range s.api.ListObjectsIter(paged(ctx), s.at.Bucket, minio.ListObjectsOptions{Prefix: s.key(probeDir), Recursive: true}) {
			if o.Err != nil {
				return o.Err
			}
			do(o)
		}
		return ctx.Err() // the client library then ends without a word; try gives its cause
	})
}

// deadAfter is how long ago, by the server's clock, an upload or a trial was begun that nobody works on any more. One that
// is stopped for longer and wakes up finds its upload gone, and sends the object anew.
const deadAfter = 24 * time.Hour

func longAgo(now, begun time.Time) bool { return now.Sub(begun) > deadAfter }

// Sweep aborts the uploads that writers left, and removes what died trials left: those of more than a day ago by the
// server's clock, or with alone all but this store's own.
func (s *Store) Sweep(ctx context.Context, alone bool) (swept store.Swept, err error) {
	ctx, done, err := s.begin(ctx, true)
	if err != nil {
		return swept, fail("sweep", "", err)
	}
	defer done()
	now, err := s.Now(ctx)
	if err != nil {
		return swept, fail("sweep", "", err)
	}
	dead := func(begun time.Time) bool { return alone || longAgo(now, begun) }
	return swept, fail("sweep", "", errors.Join(s.sweepUploads(ctx, dead, &swept), s.sweepProbes(ctx, dead, &swept)))
}

func (s *Store) sweepUploads(ctx context.Context, dead func(time.Time) bool, swept *store.Swept) error {
	list, err := s.startedUploads(ctx)
	if noSuchThing[code(err)] || errors.Is(err, fs.ErrPermission) {
		return nil // a server without uploads; a writer that may not list them
	}
	if err != nil {
		return err
	}
	for _, u := range list {
		if _, ours := s.uploads.Load(u.UploadID); ours || !dead(u.Initiated) {
			swept.Kept++
			continue
		}
		err := s.try(ctx, func(ctx context.Context) error {
			err := s.api.AbortMultipartUpload(ctx, s.at.Bucket, u.Key, u.UploadID)
			if code(err) == "NoSuchUpload" {
				return nil
			}
			return err
		})
		if errors.Is(err, fs.ErrPermission) {
			swept.Kept++
			continue
		}
		if err != nil {
			return err
		}
		swept.Removed++
		swept.Bytes += u.Size
	}
	return nil
}

func (s *Store) sweepProbes(ctx context.Context, dead func(time.Time) bool, swept *store.Swept) error {
	left := map[string]bool{}
	err := s.eachProbe(ctx, func(o minio.ObjectInfo) {
		if name := strings.TrimPrefix(o.Key, s.at.base()); name != keptProbe && dead(o.LastModified) {
			left[name] = true
		}
	})
	for name := range left {
		removeErr := s.remove(ctx, name)
		switch {
		case removeErr == nil:
			swept.Removed++
		case errors.Is(removeErr, fs.ErrPermission), errors.Is(removeErr, store.ErrLocked):
			swept.Kept++
		case !errors.Is(removeErr, fs.ErrNotExist):
			err = errors.Join(err, removeErr)
		}
	}
	return err
}
