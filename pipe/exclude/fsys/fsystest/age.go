package fsystest

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// AgeOptions shape what Age does. Nil and zero fields are good defaults.
type AgeOptions struct {
	MaxFile  int64 // the largest file in bytes; 4 MiB
	MaxFiles int   // how many files there may be; 4000
	RawNames bool  // also names that are no UTF-8, and names that differ in nothing a person sees
	Fsync    int   // one file in so many is synced after it was written; 0: none

	// NoLinks and NoSpecial leave out what a driver cannot do: hard and symbolic links; FIFOs and modes.
	NoLinks, NoSpecial bool
	// NoHoles leaves out what makes holes in files, and blocks that nobody wrote.
	NoHoles bool
}

// Age works on the folder dir and all below it, as years of use would: ops random operations from a seed. The same seed
// on the same folder does the same. What the file system cannot do (no punching, no links) is left out, and where it is
// full something is removed.
func Age(dir string, seed uint64, ops int, opts *AgeOptions) error {
	a := newAger(dir, seed, opts)
	if err := a.discover(); err != nil {
		return err
	}
	for i := range ops {
		if err := a.step(); err != nil {
			return fmt.Errorf("seed %d, operation %d: %w", seed, i, err)
		}
	}
	return nil
}

// ager is the state of one aging: the names that are there, in an order that only the seed decides.
type ager struct {
	dir  string
	opts AgeOptions
	rng  *rand.Rand
	fill *rand.ChaCha8
	made int // numbers names, so that none is given twice

	dirs  []string // dir itself comes first
	files []string // regular files
	other []string // links, FIFOs
}

func newAger(dir string, seed uint64, opts *AgeOptions) *ager {
	a := &ager{dir: dir}
	if opts != nil {
		a.opts = *opts
	}
	if a.opts.MaxFile == 0 {
		a.opts.MaxFile = 4 << 20
	}
	if a.opts.MaxFiles == 0 {
		a.opts.MaxFiles = 4000
	}
	key := [32]byte{}
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	a.fill = rand.NewChaCha8(key)
	a.rng = rand.New(rand.NewPCG(seed, 0x6167_6572))
	return a
}

// discover finds what an earlier Age left, sorted, so that the order of the directory plays no part.
func (a *ager) discover() error {
	a.dirs = []string{a.dir}
	for at := 0; at < len(a.dirs); at++ {
		entries, err := os.ReadDir(a.dirs[at]) // sorted by name
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := a.dirs[at] + "/" + e.Name()
			a.made = max(a.made, numberOf(e.Name()))
			switch {
			case e.Name() == "lost+found" && at == 0:
			case e.IsDir():
				a.dirs = append(a.dirs, path)
			case e.Type().IsRegular():
				a.files = append(a.files, path)
			default:
				a.other = append(a.other, path)
			}
		}
	}
	return nil
}

// steps are what Age does, each as often as its weight says.
var steps = []struct {
	weight int
	do     func(*ager) error
}{
	{20, (*ager).create}, {12, (*ager).extend}, {12, (*ager).overwrite}, {8, (*ager).truncate}, {8, (*ager).rename},
	{12, (*ager).remove}, {6, (*ager).mkdir}, {2, (*ager).rmdir}, {4, (*ager).symlink}, {4, (*ager).hardlink},
	{4, (*ager).sparse}, {4, (*ager).allocate}, {4, (*ager).punch}, {3, (*ager).attributes}, {1, (*ager).special},
	{1, (*ager).crowd}, {1, (*ager).removeAll}, {1, (*ager).deepen},
}

func (a *ager) step() error {
	err := a.pick()(a)
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return a.makeRoom()
	case cannot(err):
		return nil
	}
	return err
}

func (a *ager) pick() func(*ager) error {
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	n := a.rng.IntN(total)
	for _, s := range steps {
		if n -= s.weight; n < 0 {
			return s.do
		}
	}
	panic("the weights do not add up")
}

// cannot tells what a file system does not offer from what went wrong.
func cannot(err error) bool {
	for _, e := range []syscall.Errno{syscall.ENOSYS, syscall.EOPNOTSUPP, syscall.ENOTSUP, syscall.EMLINK, syscall.ENAMETOOLONG, syscall.EFBIG} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// makeRoom removes files until there is some room again.
func (a *ager) makeRoom() error {
	for range 1 + len(a.files)/8 {
		if err := a.remove(); err != nil {
			return err
		}
	}
	return nil
}

// fresh is a name that was not there before, in some directory.
func (a *ager) fresh() string {
	a.made++
	return a.dirs[a.rng.IntN(len(a.dirs))] + "/" + a.name(a.made)
}

func (a *ager) file() (string, bool) {
	if len(a.files) == 0 {
		return "", false
	}
	return a.files[a.rng.IntN(len(a.files))], true
}

// size is small more often than large: each power of two is as likely as the others.
func (a *ager) size() int64 {
	if a.rng.IntN(12) == 0 {
		return 0
	}
	bits := 1
	for m := a.opts.MaxFile; m > 1; m >>= 1 {
		bits++
	}
	return min(a.opts.MaxFile, a.rng.Int64N(int64(1)<<a.rng.IntN(bits)+1))
}

func (a *ager) create() error {
	if len(a.files) >= a.opts.MaxFiles {
		return a.remove()
	}
	path := a.fresh()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	a.files = append(a.files, path)
	return a.write(f, 0, a.size())
}

// write puts n bytes at off and closes the file.
func (a *ager) write(f *os.File, off, n int64) error {
	buf := make([]byte, min(n, 256<<10))
	for n > 0 {
		p := buf[:min(n, int64(len(buf)))]
		_, _ = a.fill.Read(p) // a ChaCha8 never fails
		if _, err := f.WriteAt(p, off); err != nil {
			return errors.Join(err, f.Close())
		}
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	if a.opts.Fsync > 0 && a.rng.IntN(a.opts.Fsync) == 0 {
		if err := f.Sync(); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// change opens some file for writing and gives it to do with its size; do closes it.
func (a *ager) change(do func(f *os.File, size int64) error) error {
	path, ok := a.file()
	if !ok {
		return a.create()
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return do(f, fi.Size())
}

func (a *ager) extend() error {
	return a.change(func(f *os.File, size int64) error {
		return a.write(f, size, min(a.size(), max(0, a.opts.MaxFile-size)))
	})
}

func (a *ager) overwrite() error {
	return a.change(func(f *os.File, size int64) error {
		return a.write(f, a.rng.Int64N(size+1), min(a.size(), 256<<10))
	})
}

func (a *ager) truncate() error {
	return a.change(func(f *os.File, size int64) error {
		room := size + size/4 + 2
		if a.opts.NoHoles {
			room = size + 1
		}
		err := f.Truncate(a.rng.Int64N(room))
		return errors.Join(err, f.Close())
	})
}

// sparse writes a little far behind the end, which indirect blocks and extents take differently.
func (a *ager) sparse() error {
	if a.opts.NoHoles {
		return nil
	}
	return a.change(func(f *os.File, size int64) error {
		far := size + a.rng.Int64N(a.opts.MaxFile*16)
		return a.write(f, far, 1+a.rng.Int64N(20<<10))
	})
}

// allocate reserves blocks inside and beyond the end.
func (a *ager) allocate() error {
	if a.opts.NoHoles {
		return nil
	}
	return a.change(func(f *os.File, size int64) error {
		err := fallocate(f, a.rng.IntN(2) == 0, a.rng.Int64N(size+64<<10), 1+a.size()/2)
		return errors.Join(err, f.Close())
	})
}

func (a *ager) punch() error {
	if a.opts.NoHoles {
		return nil
	}
	return a.change(func(f *os.File, size int64) error {
		err := punch(f, a.rng.Int64N(size+1), 1+a.rng.Int64N(size/2+1))
		return errors.Join(err, f.Close())
	})
}

func (a *ager) remove() error {
	list := &a.files
	if len(a.other) > 0 && a.rng.IntN(8) == 0 {
		list = &a.other
	}
	if len(*list) == 0 {
		return nil
	}
	i := a.rng.IntN(len(*list))
	path := (*list)[i]
	(*list)[i] = (*list)[len(*list)-1]
	*list = (*list)[:len(*list)-1]
	return os.Remove(path)
}

func (a *ager) mkdir() error {
	if len(a.dirs) > a.opts.MaxFiles/8+4 {
		return a.removeAll()
	}
	path := a.fresh()
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	a.dirs = append(a.dirs, path)
	return nil
}

// deepen makes a chain of directories.
func (a *ager) deepen() error {
	path := a.fresh()
	for range 12 {
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		a.dirs = append(a.dirs, path)
		if len(path) > 2000 { // a path that no system call takes cannot be cleaned up either
			return nil
		}
		a.made++
		path += "/" + fmt.Sprintf("d%d", a.made)
	}
	return nil
}

// rmdir removes a directory if it is empty.
func (a *ager) rmdir() error {
	if len(a.dirs) < 2 {
		return nil
	}
	i := 1 + a.rng.IntN(len(a.dirs)-1)
	err := os.Remove(a.dirs[i])
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return nil
	}
	if err == nil {
		a.dirs = slices.Delete(a.dirs, i, i+1)
	}
	return err
}

// removeAll removes a directory with all below it, unless that is nearly everything.
func (a *ager) removeAll() error {
	if len(a.dirs) < 6 {
		return nil
	}
	path := a.dirs[1+a.rng.IntN(len(a.dirs)-1)]
	below := func(p string) bool { return p == path || strings.HasPrefix(p, path+"/") }
	files := len(slices.DeleteFunc(slices.Clone(a.files), below))
	if files < len(a.files)/2 {
		return nil
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	a.dirs, a.files, a.other = slices.DeleteFunc(a.dirs, below), slices.DeleteFunc(a.files, below), slices.DeleteFunc(a.other, below)
	return nil
}

// rename moves a file, sometimes over another one, or a directory with all below it.
func (a *ager) rename() error {
	if len(a.dirs) > 3 && a.rng.IntN(4) == 0 {
		return a.renameDir()
	}
	if len(a.files) < 2 {
		return nil
	}
	i := a.rng.IntN(len(a.files))
	to := a.fresh()
	over := -1
	if a.rng.IntN(4) == 0 {
		if over = a.rng.IntN(len(a.files)); over == i {
			return nil
		}
		to = a.files[over]
	}
	if err := os.Rename(a.files[i], to); err != nil {
		return err
	}
	if over >= 0 && sameLater(a.files[i]) {
		return nil // two names of one file: a rename of one onto the other leaves both
	}
	a.files[i] = to
	if over >= 0 {
		a.files = slices.Delete(a.files, over, over+1)
	}
	return nil
}

// sameLater reports whether a name is still there after it was renamed.
func sameLater(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (a *ager) renameDir() error {
	from := a.dirs[1+a.rng.IntN(len(a.dirs)-1)]
	to := a.fresh()
	if strings.HasPrefix(to, from+"/") {
		return nil
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	for _, list := range [][]string{a.dirs, a.files, a.other} {
		for i, p := range list {
			if p == from || strings.HasPrefix(p, from+"/") {
				list[i] = to + p[len(from):]
			}
		}
	}
	return nil
}

func (a *ager) symlink() error {
	if a.opts.NoLinks {
		return nil
	}
	path := a.fresh()
	target := strings.Repeat("to/", a.rng.IntN(1+a.rng.IntN(300))) + a.name(0)
	if err := os.Symlink(target, path); err != nil {
		return err
	}
	a.other = append(a.other, path)
	return nil
}

func (a *ager) hardlink() error {
	from, ok := a.file()
	if !ok || a.opts.NoLinks {
		return nil
	}
	path := a.fresh()
	if err := os.Link(from, path); err != nil {
		return err
	}
	a.files = append(a.files, path)
	return nil
}

func (a *ager) special() error {
	if a.opts.NoSpecial {
		return nil
	}
	path := a.fresh()
	if err := mkfifo(path); err != nil {
		return err
	}
	a.other = append(a.other, path)
	return nil
}

// attributes changes modes and times, of years that not all file systems can name.
func (a *ager) attributes() error {
	path, ok := a.file()
	if !ok || a.opts.NoSpecial {
		return nil
	}
	mode := fs.FileMode(a.rng.IntN(0o1000))
	if a.rng.IntN(4) == 0 {
		mode |= fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	}
	when := time.Unix(a.rng.Int64N(5e9)-1e9, a.rng.Int64N(1e9))
	return errors.Join(os.Chmod(path, mode|0o600), os.Chtimes(path, when, when))
}

// crowd makes a directory with more entries than one block holds.
func (a *ager) crowd() error {
	if len(a.files) > a.opts.MaxFiles/2 {
		return a.removeAll()
	}
	dir := a.fresh()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	a.dirs = append(a.dirs, dir)
	for range 50 + a.rng.IntN(250) {
		a.made++
		name := a.name(a.made)
		path := dir + "/" + name
		if err := os.WriteFile(path, []byte(name)[:a.rng.IntN(len(name))], 0o600); err != nil {
			return err
		}
		a.files = append(a.files, path)
	}
	return nil
}
