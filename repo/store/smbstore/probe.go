package smbstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/hikae/hikae/repo/store"
)

// probe tries with two connections of its own what the claims stand on: what the one has open, the other cannot make
// and cannot remove; what the one has closed, it can; and it sees at once what the one has made.
func (s *share) probe(ctx context.Context) (exclusive, fresh bool, err error) {
	one, err := connect(ctx, s.pool.at, s.pool.creds, s.opts)
	if err != nil {
		return false, false, err
	}
	defer one.close()
	two, err := connect(ctx, s.pool.at, s.pool.creds, s.opts)
	if err != nil {
		return false, false, err
	}
	defer two.close()
	if err := s.Mkdir(tempDir); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, false, err
	}
	defer s.tidy()
	name := claimOf(fmt.Sprint("a probe of ", time.Now().UnixNano(), " by ", os.Getpid()))
	_, unseen := s.lstat(two, name)
	k, err := s.lock(one, name)
	if err != nil {
		return false, false, translate(err)
	}
	_, seen := s.lstat(two, name)
	_, made := s.makeNew(two, name)
	taken := s.removeNow(two, name)
	if err := one.run(ctx, k.f.Close); err != nil {
		return false, false, translate(err)
	}
	left := s.removeNow(two, name)
	if taken == nil {
		left = nil
	}
	exclusive = errors.Is(made, fs.ErrExist) && meanings[status(taken)] == ErrBusy && left == nil
	fresh = errors.Is(translate(unseen), fs.ErrNotExist) && seen == nil
	return exclusive, fresh, translate(left)
}

// sweepClaims removes the claims of dead writers.
func (s *share) sweepClaims(swept *store.Swept) error {
	for fi, err := range s.ReadDir(tempDir) {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !strings.HasPrefix(fi.Name(), claimPrefix) || !fi.Mode().IsRegular():
			continue
		}
		err := s.retry(func(l *link) error { return s.removeNow(l, tempDir+"/"+fi.Name()) })
		switch {
		case err == nil:
			swept.Removed++
		case errors.Is(err, ErrBusy):
			swept.Kept++
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	s.tidy()
	return nil
}

// tidy removes tempDir where nobody uses it.
func (s *share) tidy() {
	_ = s.retry(func(l *link) error { return s.removeNow(l, tempDir) })
}
