package dirstore

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// To mend is to look whether the damaged object is there and then to put another file over it: two steps. If somebody removed
// the object in between it would come back, and if a third one created it anew, that would be lost. So whoever mends or
// removes holds the object's folder from the look to the step, in this process by a mutex and on a local file system
// against other processes by a lock that ends with them. On a mounted folder there is one writer anyhow.

const (
	stillWait  = 10 * time.Second // how long another process may hold a folder: it does so for two calls of the system
	stillPause = 2 * time.Millisecond
)

// still runs step while nobody else mends or removes what is in the object's folder.
func (s *Store) still(ctx context.Context, name string, step func() error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if !s.fs.Place().Local {
		return step()
	}
	for deadline := time.Now().Add(stillWait); ; {
		hold, err := s.fs.Hold(path.Dir(name))
		switch {
		case err == nil:
			defer hold.Close() // what it could fail at ends with the process
			return step()
		case !errors.Is(err, vfs.ErrHeld):
			return step() // no locks here, or no such folder: then the step says so
		case time.Now().After(deadline):
			return fmt.Errorf("somebody else has been changing its folder for %v: %w", stillWait, err)
		}
		select {
		case <-time.After(stillPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
