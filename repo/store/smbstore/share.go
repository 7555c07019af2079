package smbstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
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
		if err == nil || !lost(err) && !l.dead() {
			return translate(err)
		}
		l.kill()
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
	if err == nil || !lost(err) && !l.dead() {
		return translate(err)
	}
	l.kill()
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

// maxEntries bounds what a server may say is in one folder.
const maxEntries = 4 << 20

// ReadDir yields what is in a folder. It is read to its end first, so that a lost connection is not seen.
func (s *share) ReadDir(name string) iter.Seq2[fs.FileInfo, error] {
	return func(yield func(fs.FileInfo, error) bool) {
		var found []fs.FileInfo
		err := s.retry(func(l *link) (err error) {
			found, err = s.readDir(l, name)
			return err
		})
		for _, fi := range found {
			if err == nil && !yield(fi, nil) {
				return
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

func (s *share) readDir(l *link, name string) (found []fs.FileInfo, err error) {
	fi, err := s.lstat(l, name)
	switch {
	case err != nil:
		return nil, err
	case !fi.IsDir():
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: vfs.ErrIrregular}
	}
	f, err := s.open(l, name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.run(s.ctx, f.Close)) }()
	for {
		var part []os.FileInfo
		err := l.run(s.ctx, func() (err error) {
			part, err = f.Readdir(1000)
			return err
		})
		for _, fi := range part {
			if e, ok := s.entry(l, name, fi); ok {
				found = append(found, e)
			}
		}
		switch {
		case err == io.EOF:
			return found, nil
		case err != nil:
			return nil, err
		case len(found) > maxEntries:
			return nil, fmt.Errorf("%s: more than %d entries", name, maxEntries)
		}
	}
}

// entry is one line of a listing. Where the server does not tell "PACK" from "pack", what is listed as the one is what
// the other name opens, and is listed under that.
func (s *share) entry(l *link, dir string, fi os.FileInfo) (e *entry, ok bool) {
	e = newEntry(fi)
	if strings.ContainsAny(e.name, `\/`) || e.name == "" || e.name == holdName {
		return nil, false
	}
	if lower := strings.ToLower(e.name); lower != e.name {
		if _, err := s.lstat(l, path.Join(dir, lower)); err == nil && s.same(l, path.Join(dir, lower), e.id) {
			e.name = lower
		}
	}
	return e, true
}

// same reports whether a name opens the file that the server knows by the number.
func (s *share) same(l *link, name string, id uint64) bool {
	f, err := s.open(l, name, os.O_RDONLY)
	if err != nil {
		return false
	}
	var fi os.FileInfo
	err = errors.Join(l.run(s.ctx, func() (err error) {
		fi, err = f.Stat()
		return err
	}), l.run(s.ctx, f.Close))
	if err != nil {
		return false
	}
	return id != 0 && newEntry(fi).id == id
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

// quiet lets this process's readers of a file that is to be removed close it, and not open it again until done.
func (s *share) quiet(name string) (done func(), err error) {
	if err := s.awaitRemoval(name); err != nil {
		return nil, err
	}
	end := make(chan struct{})
	var idle []*reading
	s.mu.Lock()
	s.removing[name] = end
	for r := range s.readings {
		if r.name == name {
			idle = append(idle, r)
		}
	}
	s.mu.Unlock()
	for _, r := range idle {
		r.expire()
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.removing[name] == end {
			delete(s.removing, name)
		}
		close(end)
	}, nil
}

// awaitRemoval waits while a file is being removed, which BusyWait bounds.
func (s *share) awaitRemoval(name string) error {
	s.mu.Lock()
	end := s.removing[name]
	s.mu.Unlock()
	if end == nil {
		return nil
	}
	select {
	case <-end:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-s.pool.over.Done():
		return fs.ErrClosed
	}
}

// goes reports whether a file is being removed.
func (s *state) goes(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removing[name] != nil
}

// note remembers which readings have a handle.
func (s *state) note(r *reading, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if open {
		s.readings[r] = true
		return
	}
	delete(s.readings, r)
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

// entry is what a server says of a file.
type entry struct {
	name    string
	size    int64
	mode    fs.FileMode
	time    time.Time
	id      uint64
	reparse bool
}

func newEntry(fi os.FileInfo) *entry {
	e := &entry{name: fi.Name(), size: fi.Size(), time: fi.ModTime()}
	if e.size < 0 {
		e.mode = fs.ModeIrregular
	}
	st, ok := fi.Sys().(*smb2.FileStat)
	if !ok {
		return e
	}
	e.id = st.FileId
	e.reparse = st.Mode()&fs.ModeSymlink != 0
	const surrogate = 0x20000000 // the tag stands for another file (MS-FSCC 2.1.2.1)
	switch {
	case e.reparse && st.ReparsePointTag&surrogate != 0:
		e.mode = fs.ModeSymlink
	case st.Mode()&fs.ModeDir != 0:
		e.mode = fs.ModeDir
	}
	return e
}

func (e *entry) Name() string       { return e.name }
func (e *entry) Size() int64        { return e.size }
func (e *entry) Mode() fs.FileMode  { return e.mode }
func (e *entry) ModTime() time.Time { return e.time }
func (e *entry) IsDir() bool        { return e.mode.IsDir() }
func (e *entry) Sys() any           { return nil }
