package smbstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// A lock is a file that was created exclusively and is open without sharing deletion: it ends with its connection.
type lock struct {
	l    *link
	f    *smb2.File // kept, since the library closes what is forgotten
	name string
}

// lock makes a file that is ours alone, or says that it is somebody's (statusSharingViolation). One that a dead writer
// left is removed first.
func (s *share) lock(l *link, name string) (*lock, error) {
	for range 8 {
		f, err := s.makeNew(l, name)
		if err == nil {
			stands, err := s.stands(l, name, f)
			if stands {
				return &lock{l, f, name}, nil
			}
			if err := errors.Join(err, l.run(s.ctx, f.Close)); err != nil {
				return nil, err
			}
			continue
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := s.removeNow(l, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, &smb2.ResponseError{Code: statusSharingViolation} // others make and leave it all the time
}

// stands reports whether what has the lock's name is the file that was just made. Samba makes a file on its disk before
// it writes down who has it open; between the two another writer may take it for a dead one's, open it and remove it,
// and both go on (seen with Samba 4.17 once in some 5,000 claims on a busy machine). From now on that is not possible:
// who wants to remove the file has to open it. So chance is written into it, and read by name.
func (s *share) stands(l *link, name string, f *smb2.File) (bool, error) {
	var mark [16]byte
	rand.Read(mark[:])
	err := l.run(s.ctx, func() error {
		_, err := f.WriteAt(mark[:], 0)
		return err
	})
	if err != nil {
		return false, err
	}
	named, err := s.openNow(l, name, os.O_RDONLY)
	switch {
	case errors.Is(err, fs.ErrNotExist), meanings[status(err)] == ErrBusy:
		return false, nil
	case err != nil:
		return false, err
	}
	var found [len(mark)]byte
	err = l.run(s.ctx, func() error {
		_, err := named.ReadAt(found[:], 0)
		if err == io.EOF { // another's, just made
			err = nil
		}
		return err
	})
	err = errors.Join(err, l.run(s.ctx, named.Close))
	return err == nil && found == mark, err
}

// release closes the lock and removes its file. What then stays is nobody's.
func (k *lock) release(s *share) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), s.opts.Timeout)
	defer cancel()
	free := s.bind(ctx)
	if k.l.run(ctx, k.f.Close) == nil {
		_ = free.removeNow(k.l, k.name) // somebody may have it already
	}
}

const claimPrefix = "claim-"

// claimOf is where a name is claimed.
func claimOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return tempDir + "/" + claimPrefix + hex.EncodeToString(sum[:16])
}

// Publish gives a file its name under a claim, as the package comment shows.
func (s *share) Publish(oldname, newname string) error {
	return s.once(func(l *link) error {
		claim, err := s.claim(l, newname)
		if err != nil {
			return &os.LinkError{Op: "publish", Old: oldname, New: newname, Err: err}
		}
		defer claim.release(s)
		if _, err := s.lstat(l, newname); !errors.Is(translate(err), fs.ErrNotExist) {
			return exist(err)
		}
		return s.rename(l, oldname, newname)
	})
}

func exist(err error) error {
	if err == nil {
		return fs.ErrExist
	}
	return err
}

// claim waits for a name that another writer is about to make. If that makes it, there is nothing to wait for.
func (s *share) claim(l *link, name string) (*lock, error) {
	since := time.Now()
	for pause := 4 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		k, err := s.lock(l, claimOf(name))
		switch {
		case err == nil:
			return k, nil
		case errors.Is(err, fs.ErrNotExist): // no tempDir: its last writer took it away
			if err := s.Mkdir(tempDir); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, err
			}
		case meanings[status(err)] != ErrBusy:
			return nil, err
		}
		if _, err := s.lstat(l, name); err == nil {
			return nil, fs.ErrExist
		}
		if time.Since(since)+pause > s.opts.BusyWait {
			return nil, fmt.Errorf("claimed by another writer: %w", ErrBusy)
		}
		if err := s.pool.sleep(s.ctx, pause); err != nil {
			return nil, err
		}
	}
}

// holdName is the file in a folder that says that its writer lives.
const holdName = ".hold"

// hold is a folder that is in use. It is locked again when the connection that it was locked on is lost; a sweep in
// between may take the folder, and its writer makes another.
type hold struct {
	s   *state
	dir string
	k   *lock // nil: to be locked again
}

// Hold locks a folder.
func (s *share) Hold(name string) (io.Closer, error) {
	h := &hold{s: s.state, dir: name}
	err := s.retry(func(l *link) (err error) {
		h.k, err = s.lock(l, path.Join(name, holdName))
		return err
	})
	if errors.Is(err, ErrBusy) {
		return nil, &fs.PathError{Op: "hold", Path: name, Err: vfs.ErrHeld}
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds[name] = h
	return h, nil
}

// Close lets the folder go.
func (h *hold) Close() error {
	(&share{h.s, context.Background()}).release(h.dir)
	return nil
}

// release ends a hold of ours on a folder, if there is one.
func (s *share) release(dir string) {
	s.mu.Lock()
	h := s.holds[dir]
	delete(s.holds, dir)
	s.mu.Unlock()
	if h != nil && h.k != nil && !h.k.l.dead() {
		h.k.release(s)
	}
}

// renewHolds locks what a lost connection let go.
func (s *share) renewHolds() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.holds {
		if h.k != nil && !h.k.l.dead() {
			continue
		}
		h.k = nil
		l, err := s.pool.take(true)
		if err != nil || l == nil {
			return // the next call tries
		}
		if k, err := s.lock(l, path.Join(h.dir, holdName)); err == nil {
			h.k = k
		}
		s.pool.put(l)
	}
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
