package smbstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// tempDir is where dirstore keeps unfinished files; claims are there too.
const tempDir = ".tmp"

// share is the folder as dirstore wants a file system. Its calls wait for a connection; ctx ends the waits of one call
// (vfs.Binder), and stands in the struct because a file system's methods take none.
type share struct {
	*state
	ctx context.Context
}

// state is what all bound copies share.
type state struct {
	pool    *pool
	opts    Options
	root    string      // the folder's path in the share, with backslashes
	flushes atomic.Bool // the server has flushed a folder before: that it refuses to is then an error

	mu       sync.Mutex
	holds    map[string]*hold         // by folder
	readings map[*reading]bool        // with an open handle
	removing map[string]chan struct{} // closed when it is done
}

var _ interface {
	vfs.FS
	vfs.Binder
} = (*share)(nil)

func newShare(at Address, creds CredentialsFunc, opts Options) *share {
	st := &state{
		pool:     newPool(at, creds, opts),
		opts:     opts,
		root:     strings.ReplaceAll(at.Folder, "/", `\`),
		holds:    map[string]*hold{},
		readings: map[*reading]bool{},
		removing: map[string]chan struct{}{},
	}
	return &share{st, context.Background()}
}

func (s *share) bind(ctx context.Context) *share { return &share{s.state, ctx} }

// Bind gives the same folder, whose waits end with ctx.
func (s *share) Bind(ctx context.Context) vfs.FS { return s.bind(ctx) }

// path is a name as the server knows it. Names are the store's own: no step up, nothing absolute.
func (s *share) path(name string) string {
	if name == "." {
		return s.root
	}
	return strings.TrimPrefix(s.root+`\`+strings.ReplaceAll(name, "/", `\`), `\`)
}

// retry runs a call on a connection, and on another where that was lost, for as long as the options allow.
func (s *share) retry(call func(l *link) error) error {
	var since time.Time
	for rounds := 1; ; rounds++ {
		l, err := s.pool.get(s.ctx)
		if err != nil {
			return err
		}
		err = call(l)
		s.pool.put(l)
		if !s.gone(l, err) {
			return translate(err)
		}
		switch {
		case s.ctx.Err() != nil:
			return s.ctx.Err()
		case errors.Is(err, fs.ErrPermission) && rounds >= 3: // it was no flipped bit
			return translate(err)
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > s.opts.GiveUp:
			return fmt.Errorf("%s: %w: %w", s.pool.at, ErrAway, err)
		}
		if err := s.pool.sleep(s.ctx, min(time.Second, 10*time.Millisecond<<min(rounds, 7))); err != nil {
			return err
		}
	}
}

// gone reports whether a call ended because its connection did, which is then given up. A call whose caller left says
// nothing of its connection.
func (s *share) gone(l *link, err error) bool {
	var other *otherLink
	switch {
	case err == nil, s.ctx.Err() != nil && errors.Is(err, s.ctx.Err()):
		return false
	case errors.As(err, &other):
		return true
	case !lost(err) && !l.dead():
		return false
	}
	l.kill()
	return true
}

// otherLink is the end of another connection than the one that a call was given.
type otherLink struct{ error }

func (o *otherLink) Unwrap() error { return o.error }

// once runs a call that is not repeated unseen: a lost connection is vfs.ErrLost.
func (s *share) once(call func(l *link) error) error {
	l, err := s.pool.get(s.ctx)
	if err != nil {
		return err
	}
	defer s.pool.put(l)
	return s.settle(l, call(l))
}

// settle turns the end of a call on a connection that is kept into an error of the file system.
func (s *share) settle(l *link, err error) error {
	if !s.gone(l, err) {
		return translate(err)
	}
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	return fmt.Errorf("%w: %w", vfs.ErrLost, err)
}

// patient repeats a call while somebody else has the file open.
func (s *share) patient(call func() error) error {
	since := time.Now()
	for pause := 4 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		err := call()
		if meanings[status(err)] != ErrBusy || time.Since(since)+pause > s.opts.BusyWait {
			return err
		}
		if err := s.pool.sleep(s.ctx, pause); err != nil {
			return err
		}
	}
}

// Place says that one server is asked for everything.
func (s *share) Place() vfs.Place { return vfs.Place{Central: true, Kind: "smb"} }

// Close ends every connection.
func (s *share) Close() error {
	s.pool.close()
	return nil
}

// Lstat describes what is at a name. "Not there" is said of the name, not of the whole folder.
func (s *share) Lstat(name string) (fi fs.FileInfo, err error) {
	err = s.retry(func(l *link) error {
		fi, err = s.lstat(l, name)
		if errors.Is(translate(err), fs.ErrNotExist) {
			if _, above := s.lstat(l, "."); errors.Is(above, fs.ErrNotExist) {
				return &fs.PathError{Op: "lstat", Path: name, Err: vfs.ErrGone}
			}
		}
		return err
	})
	return fi, err
}

func (s *share) lstat(l *link, name string) (fs.FileInfo, error) {
	var got fs.FileInfo
	err := s.patient(func() error { // a file that is about to be gone is neither there nor not
		return l.run(s.ctx, func() (err error) {
			got, err = l.share.Lstat(s.path(name))
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	e := newEntry(got)
	if e.reparse && s.isLink(l, name) {
		e.mode = fs.ModeSymlink
	}
	return e, nil
}

// isLink tells links from files that are reparse points for another reason: deduplicated, compressed, or moved to
// slower storage by the server.
func (s *share) isLink(l *link, name string) bool {
	return l.run(s.ctx, func() error {
		_, err := l.share.Readlink(s.path(name))
		return err
	}) == nil
}

// open opens what is there. It waits while somebody removes it or gives it a name.
func (s *share) open(l *link, name string, flag int) (f *smb2.File, err error) {
	err = s.patient(func() (err error) {
		f, err = s.openNow(l, name, flag)
		return err
	})
	return f, err
}

// makeNew makes a file that is not there.
func (s *share) makeNew(l *link, name string) (*smb2.File, error) {
	return s.openNow(l, name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (s *share) openNow(l *link, name string, flag int) (f *smb2.File, err error) {
	err = l.run(s.ctx, func() (err error) {
		f, err = l.share.OpenFile(s.path(name), flag, 0o600)
		return err
	})
	return f, err
}

// Mkdir makes one folder. One whose making was not answered, and that is there, was made.
func (s *share) Mkdir(name string) error {
	tries := 0
	err := s.retry(func(l *link) error {
		tries++
		return l.run(s.ctx, func() error { return l.share.Mkdir(s.path(name), 0o700) })
	})
	if tries > 1 && errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// Rename gives a file a new name, replacing what is there.
func (s *share) Rename(oldname, newname string) error {
	return s.once(func(l *link) error { return s.rename(l, oldname, newname) })
}

func (s *share) rename(l *link, oldname, newname string) error {
	return s.patient(func() error {
		return l.run(s.ctx, func() error { return l.share.Rename(s.path(oldname), s.path(newname)) })
	})
}

// Remove removes a file or an empty folder. One whose removing was not answered, and that is not there, was removed.
func (s *share) Remove(name string) error {
	s.release(name)
	done, err := s.quiet(name)
	if err != nil {
		return err
	}
	defer done()
	tries := 0
	err = s.retry(func(l *link) error {
		tries++
		return s.remove(l, name)
	})
	if tries > 1 && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *share) remove(l *link, name string) error {
	return s.patient(func() error { return s.removeNow(l, name) })
}

func (s *share) removeNow(l *link, name string) error {
	return l.run(s.ctx, func() error { return l.share.Remove(s.path(name)) })
}

// SyncDir flushes a folder.
func (s *share) SyncDir(name string) error {
	err := s.retry(func(l *link) error { return s.flush(l, name) })
	switch {
	case err == nil:
		s.flushes.Store(true)
	case unable(err) && !s.flushes.Load():
		return &fs.PathError{Op: "sync", Path: name, Err: errors.Join(errors.ErrUnsupported, err)}
	}
	return err
}

// flush opens a folder for adding to it, which is what a server demands of who flushes it (MS-SMB2 3.3.5.11).
func (s *share) flush(l *link, name string) error {
	f, err := s.open(l, name, os.O_RDWR)
	if err != nil {
		return err
	}
	return errors.Join(l.run(s.ctx, f.Sync), l.run(s.ctx, f.Close))
}

// Free is what the user may still write, quotas counted where the server counts them.
func (s *share) Free() (int64, error) {
	var free int64
	err := s.retry(func(l *link) error {
		return l.run(s.ctx, func() error {
			info, err := l.share.Statfs(s.root)
			if err != nil {
				return err
			}
			free = product(info.AvailableBlockCount(), info.BlockSize())
			return nil
		})
	})
	return free, err
}

// product multiplies what a server says, without overflow.
func product(count, size uint64) int64 {
	const most = 1 << 62
	if size != 0 && count > most/size {
		return most
	}
	return int64(count * size)
}

// findRoot looks whether the folder is there.
func (s *share) findRoot() error {
	return s.retry(func(l *link) error {
		fi, err := s.lstat(l, ".")
		if err == nil && !fi.IsDir() {
			err = vfs.ErrIrregular
		}
		return err
	})
}

// makeRoot makes the folder and those above it, durably where the server can.
func (s *share) makeRoot() error {
	if s.root == "" {
		return s.findRoot()
	}
	whole := s.root
	defer func() { s.root = whole }()
	s.root = ""
	parts := strings.Split(whole, `\`)
	for i := range parts {
		dir := strings.Join(parts[:i+1], "/")
		if err := s.Mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := s.SyncDir(path.Dir(dir)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	s.root = whole
	return s.findRoot()
}
