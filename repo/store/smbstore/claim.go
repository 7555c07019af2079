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
	"time"

	"github.com/cloudsoda/go-smb2"
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
