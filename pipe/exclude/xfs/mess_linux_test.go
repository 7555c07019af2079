package xfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// scratch is the path of an empty file that lies in memory, so that tests that sync a lot do not wait for a disk. It goes
// with the process, however that ends.
func scratch(t testing.TB) string {
	t.Helper()
	fd, err := unix.MemfdCreate("xfs", unix.MFD_CLOEXEC)
	if err != nil {
		return filepath.Join(t.TempDir(), "xfs.img")
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
}

// mess does with the files of a tree what is peculiar to XFS: files that share blocks and are written to then, attributes
// of all sizes, devices, files that are unlinked while open. What a variant cannot do is left out. The files that stay
// open are closed by the caller.
func mess(dir string, seed uint64, ops int) (open []*os.File, err error) {
	rng := rand.New(rand.NewPCG(seed, 99))
	var files []string
	err = filepath.WalkDir(dir+"/.", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	for i := 0; i < ops && err == nil && len(files) > 0; i++ {
		from := files[rng.IntN(len(files))]
		switch rng.IntN(6) {
		case 0, 1:
			to := filepath.Join(dir, fmt.Sprintf("twin%d-%d", seed, i))
			files = append(files, to)
			err = share(to, from)
		case 2, 3:
			err = rewrite(from, rng)
		case 4:
			value := bytes.Repeat([]byte{byte(i)}, 1+rng.IntN(1<<rng.IntN(16)))
			err = unix.Setxattr(from, fmt.Sprint("user.", rng.IntN(20)), value, 0)
		case 5:
			path := filepath.Join(dir, fmt.Sprintf("device%d-%d", seed, i))
			err = unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))
			if err == nil && len(open) < 8 {
				path = filepath.Join(dir, fmt.Sprintf("gone%d-%d", seed, i))
				var f *os.File
				if f, err = os.Create(path); err == nil {
					open = append(open, f)
					_, err = f.Write(make([]byte, 1+rng.IntN(200<<10)))
					err = errors.Join(err, os.Remove(path))
				}
			}
		}
		if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSPC) {
			err = nil
		}
	}
	return open, err
}

// share makes a file of the blocks of another.
func share(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	return errors.Join(unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())), dst.Close())
}

// rewrite writes to a few places of a file.
func rewrite(path string, rng *rand.Rand) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	for i := 0; i < 4 && err == nil; i++ {
		_, err = f.WriteAt(bytes.Repeat([]byte{byte(rng.Uint32())}, 1+rng.IntN(20<<10)), rng.Int64N(fi.Size()+1))
	}
	return errors.Join(err, f.Close())
}

// grow makes a mounted file system longer, to so many blocks.
func grow(dir string, blocks uint64) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	arg := struct {
		blocks uint64
		imax   uint32
		_      uint32
	}{blocks, 25, 0}
	const growData = 0x4010586e // _IOW('X', 110, 16 bytes), of XFS's ioctl page xfsctl(3)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), growData, uintptr(unsafe.Pointer(&arg))); e != 0 {
		return e
	}
	return nil
}

func setAttribute(path, name string, value []byte) error { return unix.Setxattr(path, name, value, 0) }

// fileNumber is that of a file's inode.
func fileNumber(fi os.FileInfo) uint64 { return fi.Sys().(*syscall.Stat_t).Ino }
