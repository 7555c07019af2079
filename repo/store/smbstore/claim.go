package smbstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
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
// left is removed first. It is for names that hardly anybody else wants; others wait as claim does.
func (s *share) lock(l *link, name string) (*lock, error) {
	for range 8 {
		k, err := s.tryLock(l, name)
		if !errors.Is(err, fs.ErrExist) {
			return k, err
		}
		if err := s.removeNow(l, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, errLocked // others make and leave it all the time
}

var errLocked = &smb2.ResponseError{Code: statusSharingViolation}

// tryLock makes the file, or says fs.ErrExist.
func (s *share) tryLock(l *link, name string) (*lock, error) {
	f, err := s.makeNew(l, name)
	if err != nil {
		return nil, err
	}
	stands, err := s.stands(l, name, f)
	if stands {
		return &lock{l, f, name}, nil
	}
	if err = errors.Join(err, l.run(s.ctx, f.Close)); err == nil {
		err = errLocked
	}
	return nil, err
}

// Locks are marked in one of so many places of so many bytes.
const (
	places    = 1024
	placeSize = 16
)

// stands reports whether what has the lock's name is the file that was just made, and nobody else thinks to have made
// it. Samba makes a file on its disk before it writes down who has it open, and tries a request again that met with
// another's; on a busy machine, while everybody removed at once what could be removed, two writers were told of one
// claim that they had made it, once in some thousands (Samba 4.17). So each writes chance into a place that chance
// chooses, and then reads the whole by name: of two who do so at once, at most one finds nothing but its own.
func (s *share) stands(l *link, name string, f *smb2.File) (bool, error) {
	var mark [placeSize]byte
	var at [2]byte
	rand.Read(mark[:])
	rand.Read(at[:])
	off := int(binary.LittleEndian.Uint16(at[:])) % places * placeSize
	err := l.run(s.ctx, func() error {
		_, err := f.WriteAt(mark[:], int64(off))
		return err
	})
	if err != nil {
		return false, err
	}
	found, err := s.read(l, name)
	if errors.Is(err, fs.ErrNotExist) || meanings[status(err)] == ErrBusy {
		return false, nil
	}
	alone := make([]byte, off+placeSize)
	copy(alone[off:], mark[:])
	return err == nil && bytes.Equal(found, alone), err
}

// read gives the marks in what has a lock's name.
func (s *share) read(l *link, name string) ([]byte, error) {
	f, err := s.openNow(l, name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	found := make([]byte, places*placeSize)
	n := 0
	err = l.run(s.ctx, func() (err error) {
		n, err = f.ReadAt(found, 0)
		if err == io.EOF { // just made
			err = nil
		}
		return err
	})
	return found[:n], errors.Join(err, l.run(s.ctx, f.Close))
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

// A claim is removed by who made it. Another's is taken for a dead writer's only after it was seen unchanged for so
// long, since what has just been made may not be known to the server as open yet.
const claimAge = 300 * time.Millisecond

// claim waits for a name that another writer is about to make. If that makes it, there is nothing to wait for.
func (s *share) claim(l *link, name string) (*lock, error) {
	at := claimOf(name)
	since := time.Now()
	var seen sighting
	for pause := 4 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		k, err := s.tryLock(l, at)
		switch {
		case err == nil:
			return k, nil
		case errors.Is(err, fs.ErrNotExist): // no tempDir: its last writer took it away
			if err := s.Mkdir(tempDir); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, err
			}
		case errors.Is(err, fs.ErrExist):
			if err := s.outlive(l, at, &seen); err != nil {
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

// sighting is what another's claim held, and since when.
type sighting struct {
	marks []byte
	since time.Time
}

// outlive looks at another's claim, and removes it where it did not change for a while and nobody has it open.
func (s *share) outlive(l *link, at string, seen *sighting) error {
	marks, err := s.read(l, at)
	switch {
	case errors.Is(err, fs.ErrNotExist), meanings[status(err)] == ErrBusy:
		*seen = sighting{}
		return nil
	case err != nil:
		return err
	case seen.since.IsZero() || !bytes.Equal(marks, seen.marks):
		*seen = sighting{marks, time.Now()}
		return nil
	case time.Since(seen.since) < min(claimAge, s.opts.BusyWait/2):
		return nil
	}
	err = s.removeNow(l, at)
	if errors.Is(err, fs.ErrNotExist) || meanings[status(err)] == ErrBusy {
		return nil
	}
	return err
}
