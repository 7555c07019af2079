// Package s3store keeps a repository's objects in a bucket of an S3-compatible object store. Reach for it where the copy
// is to lie with somebody else, in another building, or under locks that nobody here can lift.
//
//	at, err := s3store.ParseAddress("s3://s3.eu-central-1.amazonaws.com/my-bucket/hikae")
//	st, err := s3store.Open(ctx, at, s3store.Default(), nil)
//
// The bucket has to be there: whether it keeps versions and takes locks is decided when it is made, by a person.
//
// # How a name is given to one writer
//
// An object is one PUT with If-None-Match: * and a checksum, or a multipart upload with the condition at its completion.
// Not every server knows the condition, and some take it and ignore it: [Store.Probe] tries it, one after another and at
// once. Where it does not hold, the repository has one writer.
//
// # Answers that are lost
//
// A request that failed without saying whether it was carried out is settled by reading: what is there byte for byte is
// ours. 503, 429, 500 and broken connections are tried again with growing, random pauses for up to [Options.GiveUp].
//
// # Versions
//
// In a bucket that keeps versions, whoever has the credentials of a writer can write over an object, or mark it as
// deleted, and every plain reader then sees that. This store shows each object's oldest version (see [store.Versioned]),
// and lists what is hidden behind marks of deletion. It costs a listing for each object that is read or created and was
// not listed before. [Store.Remove] removes every version.
//
// # Locks
//
// [Store.Lock] keeps an object's oldest version under Object Lock. Locks follow what points need; a retention that the
// bucket puts on everything by itself would keep heartbeats and unfinished sessions as well, and Probe refuses it.
//
// # Durability and freshness
//
// A PUT that was answered is durable and is seen by every later request: S3 promises both. Probe looks whether what was
// created, and what was removed, is seen so at once over another connection.
//
// # Security
//
// Secrets stand in no address, no error and no log. Without TLS each body is signed; with it the channel guards it.
// Redirects to other hosts are not followed.
package s3store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/hikae/hikae/repo/store"
)

// Mode is how strong a lock is.
type Mode string

const (
	Compliance Mode = "COMPLIANCE" // nobody lifts it, the account's owner included
	Governance Mode = "GOVERNANCE" // who has the right to bypass governance lifts it
)

// Options change how a bucket is used. Nil and zero fields are good defaults.
type Options struct {
	// CA are certificates in PEM that servers are held against instead of the system's.
	CA []byte
	// Connections is how many requests run at once, at most 256. Zero: 16.
	Connections int
	// Timeout is how long a connection may show no progress. Zero: 60 s.
	Timeout time.Duration
	// GiveUp is how long a call tries again where the server is busy or away. Zero: 10 minutes; negative: not at all.
	GiveUp time.Duration
	// PartSize is the size of the parts of large objects, in bytes, from 5 MiB to 1 GiB. Objects of up to four parts are
	// sent whole. Zero: 16 MiB.
	PartSize int
	// Lock is the mode of locks. Empty: Compliance.
	Lock Mode
}

func (o *Options) withDefaults() (Options, error) {
	var d Options
	if o != nil {
		d = *o
	}
	if d.Connections <= 0 {
		d.Connections = 16
	}
	d.Connections = min(d.Connections, 256)
	d.Timeout = orElse(d.Timeout, time.Minute)
	d.GiveUp = orElse(d.GiveUp, 10*time.Minute)
	d.PartSize = orElse(d.PartSize, 16<<20)
	d.Lock = orElse(d.Lock, Compliance)
	switch {
	case d.PartSize < 5<<20 || d.PartSize > 1<<30:
		return d, fmt.Errorf("parts of %d bytes are not between 5 MiB and 1 GiB: %w", d.PartSize, fs.ErrInvalid)
	case d.Lock != Compliance && d.Lock != Governance:
		return d, fmt.Errorf("no mode of locks %.20q: %w", d.Lock, fs.ErrInvalid)
	case d.Timeout < 0:
		return d, fmt.Errorf("a timeout of %v: %w", d.Timeout, fs.ErrInvalid)
	}
	return d, nil
}

func orElse[T comparable](v, zero T) T {
	var z T
	if v == z {
		return zero
	}
	return v
}

// Store is a folder of a bucket.
type Store struct {
	at   Address
	opts Options
	api  *minio.Core
	line *line

	creds   *credentials.Credentials
	renewal sync.Mutex
	renewed time.Time // when the credentials were last asked for anew

	versioned bool
	known     *knownVersions // oldest versions by name
	uploads   sync.Map       // ids of the uploads of this store that are under way
	blind     atomic.Bool    // the server does not hold to If-None-Match

	over context.Context
	end  context.CancelFunc
}

var (
	_ store.Store     = (*Store)(nil)
	_ store.Prober    = (*Store)(nil)
	_ store.Sweeper   = (*Store)(nil)
	_ store.Versioned = (*Store)(nil)
	_ store.Locker    = (*Store)(nil)
)

// Open opens a folder of a bucket; it makes nothing. Errors: [ErrNoBucket], [ErrCredentials], [ErrClock], [ErrAway] where
// the server cannot be reached (it is not waited for here), fs.ErrPermission where the credentials do not suffice.
func Open(ctx context.Context, at Address, creds CredentialsFunc, opts *Options) (*Store, error) {
	s, err := newStore(at, creds, opts)
	if err == nil {
		s.versioned, err = s.keepsVersions(ctx)
	}
	if err != nil {
		if s != nil {
			_ = s.Close()
		}
		return nil, fmt.Errorf("open store at %s: %w", at, err)
	}
	return s, nil
}

func newStore(at Address, creds CredentialsFunc, opts *Options) (*Store, error) {
	o, err := opts.withDefaults()
	if err == nil {
		err = at.check()
	}
	if err == nil && creds == nil {
		err = fmt.Errorf("no credentials: %w", fs.ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	s := &Store{at: at, opts: o, known: newKnownVersions(), creds: credentials.New(&provider{from: creds, timeout: o.Timeout})}
	if s.line, err = newLine(at, o); err != nil {
		return nil, err
	}
	s.api, err = minio.NewCore(at.Host, &minio.Options{
		Creds: s.creds, Secure: !at.Plain, Transport: s.line, Region: at.region(), BucketLookup: at.lookup(),
		MaxRetries: 1, // what may be tried again is decided here
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	s.over, s.end = context.WithCancel(context.Background())
	return s, nil
}

// keepsVersions asks whether the bucket keeps versions, or once did.
func (s *Store) keepsVersions(ctx context.Context) (bool, error) {
	var status string
	err := s.once(ctx, func(ctx context.Context) error {
		c, err := s.api.GetBucketVersioning(ctx, s.at.Bucket)
		status = c.Status
		return err
	})
	switch code(err) {
	case "NotImplemented", "MethodNotAllowed", "VersioningNotConfigured":
		// A server that has no versions may know no such question. Whether the bucket is there, it does.
		return false, s.once(ctx, func(ctx context.Context) error {
			ok, err := s.api.BucketExists(ctx, s.at.Bucket)
			if err == nil && !ok {
				err = ErrNoBucket
			}
			return err
		})
	}
	return status != "", err
}

// Close ends the store; requests under way fail with fs.ErrClosed.
func (s *Store) Close() error {
	s.end()
	s.line.close()
	return nil
}

// Address is where the store is.
func (s *Store) Address() Address { return s.at }

// KeepsVersions reports whether the bucket keeps versions.
func (s *Store) KeepsVersions() bool { return s.versioned }

// key is an object's name in the bucket.
func (s *Store) key(name string) string { return s.at.base() + name }

// begin says whether a call with these arguments may start, and gives it a context that ends with the store.
func (s *Store) begin(ctx context.Context, valid bool) (context.Context, func(), error) {
	switch {
	case !valid:
		return ctx, func() {}, fs.ErrInvalid
	case s.over.Err() != nil:
		return ctx, func() {}, fs.ErrClosed
	case ctx.Err() != nil:
		return ctx, func() {}, context.Cause(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.over, func() { cancel(fs.ErrClosed) })
	return ctx, func() { stop(); cancel(nil) }, nil
}

// fail adds what was done, and to what.
func fail(op, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case name == "":
		return fmt.Errorf("%s: %w", op, err)
	}
	var pe *fs.PathError
	if errors.As(err, &pe) && pe.Path == name {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}
