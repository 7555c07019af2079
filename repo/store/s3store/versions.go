package s3store

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"sync"

	"github.com/minio/minio-go/v7"

	"github.com/hikae/hikae/repo/store"
)

// maxVersions bounds how many versions and marks of deletion of one name are looked through. Whoever put more over an
// object than that has made it slow to find, and no more: it is named, and a person deletes them.
const maxVersions = 100_000

// entry is one version or mark of deletion, as a listing has it.
type entry struct {
	store.Version
	mark bool // of deletion
}

// Versions yields the versions of an object, the oldest first. In a bucket without versions there is one, without an id.
func (s *Store) Versions(ctx context.Context, name string) iter.Seq2[store.Version, error] {
	return func(yield func(store.Version, error) bool) {
		all, err := s.versionsOf(ctx, name)
		if err != nil {
			yield(store.Version{}, fail("list versions", name, err))
			return
		}
		for _, e := range all {
			if !e.mark && !yield(e.Version, nil) {
				return
			}
		}
	}
}

// versionsOf gives everything that stands under a name, the oldest first.
func (s *Store) versionsOf(ctx context.Context, name string) (all []entry, err error) {
	ctx, done, err := s.begin(ctx, store.ValidName(name))
	if err != nil {
		return nil, err
	}
	defer done()
	if !s.versioned {
		return nil, nil
	}
	err = s.try(ctx, func(ctx context.Context) (err error) {
		all, err = s.entries(ctx, name)
		return err
	})
	return all, err
}

// entries looks by one try. The server gives the newest first.
func (s *Store) entries(ctx context.Context, name string) (all []entry, err error) {
	key := s.key(name)
	for o := range s.api.ListObjectsIter(paged(ctx), s.at.Bucket, minio.ListObjectsOptions{Prefix: key, Recursive: true, WithVersions: true}) {
		switch {
		case o.Err != nil:
			return nil, o.Err
		case o.Key > key:
			slices.Reverse(all)
			return all, nil
		case o.Key != key:
			continue
		case len(all) >= maxVersions:
			return nil, fmt.Errorf("it has more than %d versions: %w", maxVersions, store.ErrForeign)
		}
		if !sensible(o.Size, o.VersionID) {
			return nil, errNonsense
		}
		all = append(all, entry{store.Version{ID: o.VersionID, Size: o.Size}, o.IsDeleteMarker})
	}
	if ctx.Err() != nil { // the client library then ends without a word
		return nil, context.Cause(ctx)
	}
	slices.Reverse(all)
	return all, nil
}

// sensible says whether a size and an id can be an object's.
func sensible(size int64, id string) bool { return size >= 0 && len(id) <= store.MaxVersionID }

// oldest finds the oldest version of an object by one try.
func (s *Store) oldest(ctx context.Context, name string) (store.Version, error) {
	all, err := s.entries(ctx, name)
	if err != nil {
		return store.Version{}, err
	}
	for _, e := range all {
		if !e.mark {
			s.known.put(name, e.Version)
			return e.Version, nil
		}
	}
	s.known.forget(name)
	return store.Version{}, fs.ErrNotExist
}

// knownVersions remembers oldest versions for reading: an object keeps its first version for as long as it is there, and
// a version that is gone is looked for anew.
type knownVersions struct {
	mu  sync.Mutex
	one map[string]store.Version
	two map[string]store.Version // what was put before
}

func newKnownVersions() *knownVersions { return &knownVersions{one: map[string]store.Version{}} }

// maxKnown bounds each of the two generations: some 20 MB.
const maxKnown = 1 << 16

func (k *knownVersions) get(name string) (store.Version, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, ok := k.one[name]
	if !ok {
		v, ok = k.two[name]
	}
	return v, ok
}

func (k *knownVersions) put(name string, v store.Version) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.one) >= maxKnown {
		k.one, k.two = map[string]store.Version{}, k.one
	}
	k.one[name] = v
}

func (k *knownVersions) forget(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.one, name)
	delete(k.two, name)
}
