package s3store

import (
	"context"
	"iter"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/hikae/hikae/repo/store"
)

// List yields the objects, in pages of a thousand. Where the bucket keeps versions it goes through all of them, and yields
// what is hidden behind marks of deletion too. A page that fails is asked for again; what was yielded is not repeated.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		ctx, done, err := s.begin(ctx, store.ValidPrefix(prefix))
		if err != nil {
			yield(store.Info{}, fail("list", prefix, err))
			return
		}
		defer done()
		l := &listing{s: s, prefix: s.key(prefix)}
		err = s.try(ctx, func(ctx context.Context) error {
			return l.run(ctx, func(i store.Info) bool { return yield(i, nil) })
		})
		if err != nil { // then nobody stopped it: that ends it without one
			yield(store.Info{}, fail("list", prefix, err))
		}
	}
}

// listing is how far a listing has come.
type listing struct {
	s      *Store
	prefix string
	after  string // the last key that is done with
	mixed  bool   // keys did not come in their order, so that there is no going on after one

	key     string        // that is looked at
	first   store.Version // its oldest version so far
	present bool

	entries circle
}

// run lists from after to the end, by one try.
func (l *listing) run(ctx context.Context, yield func(store.Info) bool) error {
	l.key, l.present, l.entries = "", false, circle{}
	for o := range l.s.api.ListObjectsIter(paged(ctx), l.s.at.Bucket, minio.ListObjectsOptions{
		Prefix: l.prefix, Recursive: true, WithVersions: l.s.versioned, StartAfter: l.after, FetchOwner: new(bool)}) {
		if o.Err != nil {
			return l.failed(o.Err)
		}
		if !sensible(o.Size, o.VersionID) {
			return errNonsense
		}
		if l.entries.closed(o.Key + " " + o.VersionID) {
			return ErrCircles
		}
		if o.Key != l.key && !l.finish(yield) {
			return nil
		}
		l.key = o.Key
		if !o.IsDeleteMarker { // the newest comes first
			l.first, l.present = store.Version{ID: o.VersionID, Size: o.Size}, true
		}
	}
	if ctx.Err() != nil { // the client library then ends without a word
		return context.Cause(ctx)
	}
	l.finish(yield)
	return nil
}

// finish yields the key that was looked at, if it is an object's.
func (l *listing) finish(yield func(store.Info) bool) bool {
	key, present := l.key, l.present
	l.key, l.present = "", false
	if key == "" {
		return true
	}
	l.mixed = l.mixed || key <= l.after
	l.after = key
	name := strings.TrimPrefix(key, l.s.at.base())
	if !present || !strings.HasPrefix(key, l.prefix) || !store.ValidName(name) {
		return true // another program's
	}
	if l.s.versioned {
		l.s.known.put(name, l.first)
	}
	return yield(store.Info{Name: name, Size: l.first.Size})
}

// failed says of a page that could not be read whether the rest can be asked for.
func (l *listing) failed(err error) error {
	if l.mixed && worthwhile(err) {
		return errMixed
	}
	return err
}

const errMixed = constError("a listing that the server does not sort was cut off: begin anew")
