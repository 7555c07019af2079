package lockd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/repo/store"
)

// Options change how a helper works. Nil and zero fields are good defaults.
type Options struct {
	// MaxFor is the longest time that an object may be locked for, from now. Zero: 400 days. It bounds how long a stolen
	// backup user can keep a disk full.
	MaxFor time.Duration
	// MaxLocks is how many objects can be locked at once. Zero: 4 million, with about 100 bytes of memory each.
	MaxLocks int
	// MaxStep is how far the wall clock may be further on after a restart of the system. Zero: 30 days.
	MaxStep time.Duration
	// ClockVouched: a person says that the wall clock is right.
	ClockVouched bool
	// Adopt is how long a file is kept that is immutable and not in the book. Zero: 30 days.
	Adopt time.Duration
	// Every is how often dates are looked at. Zero: 30 s.
	Every time.Duration
	// Log is told what a person should know. Nil: it is dropped.
	Log func(string)
}

// Keeper locks objects below one folder. It is safe for concurrent use.
type Keeper struct {
	opts     Options
	uid, gid int
	root     *os.File
	held     *os.File
	book     *book
	clock    *clock
	seed     maphash.Seed
	names    [64]sync.Mutex
	step     func(string) // a test's: where it may be killed
}

// Open begins to keep the objects of the repository in dir for the user uid, whose group gid may write there. bookDir is the
// helper's own folder, made where it is missing. What the book has is locked again; what is due is let go.
//
// Errors: fs.ErrInvalid for user 0, fs.ErrPermission where the user could move dir or write to bookDir.
func Open(ctx context.Context, dir, bookDir string, uid, gid int, opts *Options) (_ *Keeper, err error) {
	k := &Keeper{uid: uid, gid: gid, seed: maphash.MakeSeed(), step: func(string) {}}
	if opts != nil {
		k.opts = *opts
	}
	o := &k.opts
	o.MaxFor, o.MaxLocks = cmp.Or(o.MaxFor, 400*24*time.Hour), cmp.Or(o.MaxLocks, 4<<20)
	o.MaxStep, o.Adopt, o.Every = cmp.Or(o.MaxStep, 30*24*time.Hour), cmp.Or(o.Adopt, 30*24*time.Hour), cmp.Or(o.Every, 30*time.Second)
	if o.Log == nil {
		o.Log = func(string) {}
	}
	if uid <= 0 || uid == os.Getuid() {
		return nil, fmt.Errorf("objects are kept from a user other than root and the helper's own, not from %d: %w", uid, fs.ErrInvalid)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("keep %s: %w", dir, err), k.Close())
		}
	}()
	if err := k.openBook(bookDir); err != nil {
		return k, err
	}
	if err := k.openRoot(dir); err != nil {
		return k, err
	}
	return k, k.recover(ctx)
}

func (k *Keeper) openBook(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := k.safe(dir); err != nil {
		return err
	}
	held, err := os.Open(dir)
	if err != nil {
		return err
	}
	k.held = held
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another helper has %s: %w", dir, err)
	}
	b, bad, err := openBook(dir)
	if err != nil {
		return err
	}
	k.book = b
	if bad > 0 {
		k.opts.Log(fmt.Sprintf("%d lines of the book were damaged; what is immutable and not in it is kept for %v", bad, k.opts.Adopt))
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	clock, doubt := startClock(b.last, time.Now().Unix(), strings.TrimSpace(string(boot)), sinceBoot, k.opts.MaxStep, k.opts.ClockVouched)
	if doubt > 0 {
		k.opts.Log(fmt.Sprintf("the clock is %v further on than when the helper last ran; it is not believed, and locks last longer, until a person vouches for it", doubt))
	}
	k.clock = clock
	return b.seen(clock.now())
}

func sinceBoot() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // the kernel has had it since 2.6.39
	}
	return t.Sec
}

// safe says whether the user could move a folder away, or put another into its place.
func (k *Keeper) safe(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	abs, err = filepath.EvalSymlinks(abs)
	if err != nil {
		return err
	}
	for up := abs; ; up = filepath.Dir(up) {
		var st unix.Stat_t
		if err := unix.Stat(up, &st); err != nil {
			return err
		}
		open := st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0
		if int(st.Uid) != os.Getuid() && st.Uid != 0 || open {
			return fmt.Errorf("%s belongs to user %d with mode %04o: who can write there can move what is in it: %w", up, st.Uid, st.Mode&0o7777, fs.ErrPermission)
		}
		if up == filepath.Dir(up) {
			return nil
		}
	}
}

// openRoot takes the repository's folder over, and tries the flag there.
func (k *Keeper) openRoot(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return err
	}
	if err := k.safe(filepath.Dir(abs)); err != nil {
		return err
	}
	fd, err := unix.Open(abs, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	k.root = os.NewFile(uintptr(fd), abs)
	if err := k.takeOver(fd); err != nil {
		return err
	}
	return k.tryFlag()
}

// tryName is of the file on which the flag is tried.
const tryName = ".lockd-try"

func (k *Keeper) tryFlag() (err error) {
	_ = unix.Unlinkat(k.fd(), tryName, 0)
	fd, err := unix.Openat(k.fd(), tryName, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd), unix.Unlinkat(k.fd(), tryName, 0)) }()
	if err := setFlag(fd, true); err != nil {
		return fmt.Errorf("this file system, or this process, cannot make files immutable: %w: %w", errors.ErrUnsupported, err)
	}
	return setFlag(fd, false)
}

func (k *Keeper) fd() int { return int(k.root.Fd()) }

// recover brings the files to what the book says: after a kill at any moment they are again what was promised.
func (k *Keeper) recover(ctx context.Context) error {
	now := k.clock.now().at
	for _, name := range k.book.due(now, true) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if k.book.until(name) <= now {
			continue // tick lets it go
		}
		if err := k.hold(name); err != nil {
			k.opts.Log(fmt.Sprintf("%s is in the book and could not be locked again: %v", name, err))
		}
	}
	if err := k.adopt(ctx, now+int64(k.opts.Adopt/time.Second)); err != nil {
		return err
	}
	return k.tick()
}

// hold makes an object immutable, for the second time perhaps.
func (k *Keeper) hold(name string) error {
	f, err := k.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return k.immutable(name, f)
}

// Lock keeps an object until the given time in seconds since 1970, and returns until when it is kept now. A date is only
// ever extended. Errors: fs.ErrInvalid for a bad name, a time that has passed or one too far away, fs.ErrNotExist,
// [store.ErrForeign], [lockline.ErrBusy].
func (k *Keeper) Lock(name string, until int64) (int64, error) {
	now := k.clock.now().at
	switch {
	case !store.ValidName(name), until <= now:
		return 0, fmt.Errorf("lock %q until %d, at %d: %w", name, until, now, fs.ErrInvalid)
	case until-now > int64(k.opts.MaxFor/time.Second):
		return 0, fmt.Errorf("lock %s for longer than %v: %w", name, k.opts.MaxFor, fs.ErrInvalid)
	}
	mu := k.nameLock(name)
	mu.Lock()
	defer mu.Unlock()
	f, err := k.open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	before := k.book.until(name)
	if before == 0 && k.book.size() >= k.opts.MaxLocks {
		return 0, fmt.Errorf("lock %s: %d objects are locked, and no more can be", name, k.opts.MaxLocks)
	}
	k.step("opened")
	if before < until {
		if err := k.book.lock(name, until); err != nil {
			return 0, err
		}
	}
	k.step("written")
	if err := k.immutable(name, f); err != nil {
		if before == 0 {
			err = errors.Join(err, k.book.free(name))
		}
		return 0, err
	}
	k.step("locked")
	return max(before, until), nil
}

// Locked is until when an object is kept, by the book and by its flag; 0: it is not.
func (k *Keeper) Locked(name string) (int64, error) {
	if !store.ValidName(name) {
		return 0, fs.ErrInvalid
	}
	mu := k.nameLock(name)
	mu.Lock()
	defer mu.Unlock()
	f, err := k.open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if on, err := getFlag(int(f.Fd())); err != nil || !on {
		return 0, err
	}
	return k.book.until(name), nil
}

// Now is the helper's clock.
func (k *Keeper) Now() int64 { return k.clock.now().at }

// tick notes the time and lets go what is due.
func (k *Keeper) tick() error {
	now := k.clock.now()
	if err := k.book.seen(now); err != nil {
		return err
	}
	for _, name := range k.book.due(now.at, false) {
		if err := k.release(name, now.at); err != nil {
			k.opts.Log(fmt.Sprintf("%s is due and could not be let go: %v", name, err))
		}
	}
	return nil
}

func (k *Keeper) release(name string, now int64) error {
	mu := k.nameLock(name)
	mu.Lock()
	defer mu.Unlock()
	if k.book.until(name) > now { // extended meanwhile
		return nil
	}
	f, err := k.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return k.book.free(name)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := setFlag(int(f.Fd()), false); err != nil {
		return err
	}
	k.step("cleared")
	return k.book.free(name)
}

func (k *Keeper) nameLock(name string) *sync.Mutex {
	return &k.names[maphash.String(k.seed, name)%uint64(len(k.names))]
}

// Close ends the helper; what is locked stays locked.
func (k *Keeper) Close() (err error) {
	if k.book != nil {
		err = k.book.close()
	}
	for _, f := range []*os.File{k.root, k.held} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}
