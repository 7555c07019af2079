// Package dirstore keeps a repository's objects in a directory: a local disk, or a mounted share.
//
// # Layout
//
// An object is one file, named as the object, in folders named as the parts before it. Unfinished files are in ".tmp",
// one folder for each open store, held by a lock that ends with the process. Nothing else is written; whatever else
// lies in the directory is ignored.
//
// # How an object comes to be
//
//	.tmp/<writer>/<n>   created exclusively, written, size checked, fsync, close
//	      │ rename without replacing (or a hard link)
//	      ▼
//	pack/7f/3a…         fsync of pack/7f, and once of pack and of the directory itself where folders are new
//
// A file that failed to sync is removed and never tried again: a second fsync of the same file may succeed and mean
// nothing, since the system drops the pages that it could not write. A folder that failed to sync is given up for as
// long as the store is open ([store.ErrNotDurable]); open it again after looking at the file system.
//
// A file whose close failed, or whose connection was cut, is removed as well and written once more under another name,
// and what then stands there is read back before it gets the object's name: NFS and SMB may tell of a lost write only
// when the file is closed.
//
// # Mounted folders
//
// On NFS and SMB as the system mounts them, and on FUSE, rename without replacing and hard links may be missing
// ([Store.Probe] tells), names may be seen late (lookups are cached, also that a name is not there), a handle may go
// stale (it is opened again, once), and a file that is removed while it is open leaves a ".nfs…" or ".fuse_hidden…"
// beside it for as long (it is no object; a sweep leaves it while it is busy). Objects are never changed, so a cached
// page is never wrong; that another machine's new object is not seen yet is why such folders have one writer.
// Mount with "hard", so that a server that is away does not become an error of the disk.
//
// # What to know first
//
// System calls cannot be interrupted: a context is looked at between them. A share that hangs makes its callers hang;
// mount shares so that they give errors in bounded time. Several stores may be open on one directory, in as many
// processes as [Store.Probe] says.
package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// Options change how a store works. Nil and zero fields are good defaults.
type Options struct {
	// OpenFiles is how many objects are kept open for reading. Zero: 64.
	OpenFiles int
}

// Store is a directory. It has the optional abilities [store.Prober], [store.Settler], [store.Spacer],
// [store.Sweeper], and, where a helper runs, [store.Locker].
type Store struct {
	fs      vfs.FS
	folders *folders
	scratch *scratch
	handles *handles
	*life
}

// life is what a store and its bound copies share.
type life struct {
	base *Store // not bound to any call
	dir  string // where it is on this machine; empty: elsewhere

	solo sync.Mutex // where the file system cannot publish exclusively, this process at least does

	changing sync.Mutex // see still

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup // calls that change something
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Prober  = (*Store)(nil)
	_ store.Settler = (*Store)(nil)
	_ store.Spacer  = (*Store)(nil)
	_ store.Sweeper = (*Store)(nil)
)

// Init makes the directory where it does not exist, durably, and opens it.
func Init(dir string) (*Store, error) {
	if err := vfs.Make(dir); err != nil {
		return nil, fmt.Errorf("init store: %w", err)
	}
	return Open(dir)
}

// Open opens a directory. It makes and removes nothing. A directory that is not there is fs.ErrNotExist.
func Open(dir string) (*Store, error) {
	fsys, err := vfs.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := OpenFS(fsys, nil)
	s.dir = dir
	return s, nil
}

// OpenFS opens a store on another file system. The store closes fsys.
func OpenFS(fsys vfs.FS, opts *Options) *Store {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.OpenFiles <= 0 {
		o.OpenFiles = 64
	}
	s := &Store{
		fs:      fsys,
		folders: newFolders(fsys),
		scratch: newScratch(fsys),
		handles: newHandles(fsys, o.OpenFiles),
		life:    new(life),
	}
	s.base = s
	return s
}

// on is the store whose waits end with ctx, where the file system knows such waits.
func (s *Store) on(ctx context.Context) *Store {
	b, ok := s.fs.(vfs.Binder)
	if !ok {
		return s
	}
	fsys := b.Bind(ctx)
	return &Store{
		fs:      fsys,
		folders: &folders{fs: fsys, folderState: s.folders.folderState},
		scratch: &scratch{fs: fsys, scratchState: s.scratch.scratchState},
		handles: &handles{fs: fsys, handleState: s.handles.handleState},
		life:    s.life,
	}
}

// Mounted says how the directory is reached where that is not a disk of this machine: "nfs", "smb", "fuse", "9p",
// "ceph"; "" for a disk and where it is not known. Such folders belong to one writer at a time, see [Store.Probe].
func (s *Store) Mounted() string { return s.fs.Place().Kind }

// Free is how many bytes the file system still takes from this user.
func (s *Store) Free(ctx context.Context) (int64, error) {
	if err := s.alive(ctx); err != nil {
		return 0, fail("free", ".", err)
	}
	n, err := s.on(ctx).fs.Free()
	return n, fail("free", ".", err)
}

// Close waits for what is being written, removes this store's folder of unfinished files, and closes all files.
func (s *Store) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if again {
		return nil
	}
	s.work.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), discardWait) // what then stays is for a sweep
	defer cancel()
	return errors.Join(s.on(ctx).scratch.close(), s.handles.close(), s.fs.Close())
}

// alive says whether a call may start.
func (s *Store) alive(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fs.ErrClosed
	}
	return ctx.Err()
}

// begin is alive for a call that Close waits for; it ends with s.work.Done.
func (s *Store) begin(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fs.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.work.Add(1)
	return nil
}

// fail names the object in an error.
func fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, vfs.ErrIrregular) {
		err = fmt.Errorf("%w: %w", store.ErrForeign, err)
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// opaque keeps an error's words and hides its identity, where it would be taken for an answer about the object.
func opaque(err error) error { return errors.New(err.Error()) }

// crowded reports whether a call failed only because too many files are open.
func crowded(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// stale reports whether what was open, or what the system remembered of a name, is good no more while the object may
// be as it was: a file handle that an NFS server does not know (ESTALE), a connection that was cut.
func stale(err error) bool {
	return errors.Is(err, syscall.ESTALE) || errors.Is(err, vfs.ErrLost)
}

// fresh runs a call by name, and once more where what the system remembered was stale.
func fresh(call func() error) error {
	err := call()
	if stale(err) {
		err = call()
	}
	return err
}

// room runs a call that opens files, and once more without the files that are open only to be read again.
func (s *Store) room(call func() error) error {
	err := call()
	if crowded(err) && s.handles.shrink() {
		err = call()
	}
	return err
}
