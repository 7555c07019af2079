package s3store

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/hikae/hikae/repo/store"
)

// Place is the bucket, and where in it.
func (s *Store) Place() string { return s.at.Host + "/" + s.at.Bucket + "/" + s.at.Prefix }

// CanLock reports whether the bucket has Object Lock, and tries it on an object of its own: locked for two seconds, it
// must not go before and must go after.
func (s *Store) CanLock(ctx context.Context) (bool, error) {
	ctx, done, err := s.begin(ctx, true)
	if err != nil {
		return false, fail("try locks", "", err)
	}
	defer done()
	enabled, err := s.lockEnabled(ctx)
	if err != nil || !enabled || !s.versioned {
		return false, fail("try locks", "", err)
	}
	holds, err := s.tryLock(ctx)
	return holds, fail("try locks", "", err)
}

// lockEnabled asks for the bucket's setting. A default retention is an error.
func (s *Store) lockEnabled(ctx context.Context) (enabled bool, err error) {
	err = s.try(ctx, func(ctx context.Context) error {
		lock, mode, _, _, err := s.api.GetObjectLockConfig(ctx, s.at.Bucket)
		if answered(err) == http.StatusNotFound && code(err) != "NoSuchBucket" || noSuchThing[code(err)] {
			return nil
		}
		enabled = lock == "Enabled"
		if err == nil && mode != nil && *mode != "" {
			err = ErrDefaultRetention
		}
		return err
	})
	return enabled, err
}

// noSuchThing are the answers of servers that know no locks, or of buckets that have none.
var noSuchThing = map[string]bool{"NotImplemented": true, "MethodNotAllowed": true, "InvalidBucketObjectLockConfiguration": true,
	"ObjectLockConfigurationNotFoundError": true}

// tryFor is how long the lock of a trial lasts; S3 counts in seconds.
const tryFor = 2 * time.Second

func (s *Store) tryLock(ctx context.Context) (bool, error) {
	name := probeDir + random()
	if err := s.create(ctx, name, []byte(name)); err != nil {
		return false, err
	}
	now, err := s.Now(ctx)
	if err != nil {
		return false, errors.Join(err, s.remove(ctx, name))
	}
	until := now.Add(tryFor).Truncate(time.Second).Add(time.Second)
	lockErr := s.lock(ctx, name, until)
	if lockErr != nil {
		return false, errors.Join(lockErr, s.remove(ctx, name))
	}
	switch err := s.remove(ctx, name); {
	case err == nil: // it went, lock or not
		return false, nil
	case !errors.Is(err, store.ErrLocked):
		return false, err
	}
	if err := sleep(ctx, until.Sub(now)+time.Second); err != nil {
		return false, err
	}
	return true, s.remove(ctx, name)
}

// Lock keeps an object's oldest version until the given time, rounded up to the second. A lock is only ever extended.
func (s *Store) Lock(ctx context.Context, name string, until time.Time) error {
	ctx, done, err := s.begin(ctx, store.ValidName(name))
	if err == nil {
		defer done()
		err = s.lock(ctx, name, until)
	}
	return fail("lock", name, err)
}

func (s *Store) lock(ctx context.Context, name string, until time.Time) error {
	until = roundUp(until)
	return s.try(ctx, func(ctx context.Context) error {
		v, err := s.find(ctx, name)
		if err != nil {
			return err
		}
		before, err := s.lockedUntil(ctx, name, v.ID)
		if err != nil || !before.Before(until) {
			return err
		}
		mode := minio.RetentionMode(s.opts.Lock)
		err = s.api.PutObjectRetention(ctx, s.at.Bucket, s.key(name), minio.PutObjectRetentionOptions{
			Mode: &mode, RetainUntilDate: &until, VersionID: v.ID})
		if err != nil {
			return err
		}
		after, err := s.lockedUntil(ctx, name, v.ID)
		if err == nil && after.Before(until) {
			err = fmt.Errorf("it was asked to be kept until %s, and the server says until %s: %w", until.Format(time.RFC3339), after.Format(time.RFC3339), errLock)
		}
		return err
	})
}

const errLock = constError("the lock does not hold")

func roundUp(t time.Time) time.Time {
	if whole := t.UTC().Truncate(time.Second); whole.Equal(t) {
		return whole
	}
	return t.UTC().Truncate(time.Second).Add(time.Second)
}

// Locked returns the time until which an object's oldest version is kept; zero: it is not.
func (s *Store) Locked(ctx context.Context, name string) (until time.Time, err error) {
	ctx, done, err := s.begin(ctx, store.ValidName(name) || isProbe(name))
	if err != nil {
		return time.Time{}, fail("look at the lock of", name, err)
	}
	defer done()
	err = s.try(ctx, func(ctx context.Context) error {
		v, err := s.find(ctx, name)
		if err == nil {
			until, err = s.lockedUntil(ctx, name, v.ID)
		}
		return err
	})
	return until, fail("look at the lock of", name, err)
}

// lockedUntil asks by one try.
func (s *Store) lockedUntil(ctx context.Context, name, version string) (time.Time, error) {
	_, until, err := s.api.GetObjectRetention(ctx, s.at.Bucket, s.key(name), version)
	var unread xml.UnmarshalError
	switch {
	case errors.As(err, &unread): // the Versity gateway names the answer's element otherwise than S3 does
		return s.lockedByHead(ctx, name, version)
	case code(err) == "NoSuchObjectLockConfiguration" || code(err) == "InvalidRequest" || noSuchThing[code(err)] || err == nil && until == nil:
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, err
	}
	return until.UTC(), nil
}

// lockedByHead asks for the same in another way.
func (s *Store) lockedByHead(ctx context.Context, name, version string) (time.Time, error) {
	info, err := s.api.StatObject(ctx, s.at.Bucket, s.key(name), minio.StatObjectOptions{VersionID: version})
	if err != nil {
		return time.Time{}, err
	}
	date := info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date")
	if date == "" {
		return time.Time{}, nil
	}
	until, err := time.Parse(time.RFC3339Nano, date)
	return until.UTC(), err
}

// Now is the server's clock, by the date of an answer: to the second, and as old as the way back is long.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	ctx, done, err := s.begin(ctx, true)
	if err != nil {
		return time.Time{}, fail("ask for the time", "", err)
	}
	defer done()
	before := s.line.answers.Load()
	err = s.try(ctx, func(ctx context.Context) error {
		_, err := s.api.BucketExists(ctx, s.at.Bucket)
		switch dated := s.line.answers.Load() > before; {
		case dated && !passing[code(err)]: // whatever the answer is
			return nil
		case err == nil:
			err = errNoDate
		}
		return err
	})
	return time.Now().Add(time.Duration(s.line.skew.Load())).UTC().Truncate(time.Second), fail("ask for the time", "", err)
}

const errNoDate = constError("the server's answers have no date")
