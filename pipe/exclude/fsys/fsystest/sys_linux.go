package fsystest

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// fallocate reserves blocks; keep leaves the size as it is.
func fallocate(f *os.File, keep bool, off, n int64) error {
	mode := uint32(0)
	if keep {
		mode = unix.FALLOC_FL_KEEP_SIZE
	}
	return unix.Fallocate(int(f.Fd()), mode, off, n)
}

func punch(f *os.File, off, n int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func mkfifo(path string) error { return unix.Mkfifo(path, 0o640) }

// ownership fills in what a FileInfo does not say by itself.
func ownership(it *Item, fi fs.FileInfo) {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		it.Node, it.Links, it.UID, it.GID = st.Ino, uint32(st.Nlink), st.Uid, st.Gid
	}
}

// nextData is the first byte from off on that is not in a hole; the file's end where there is none.
func nextData(f *os.File, off int64) int64 {
	at, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return 1 << 62
	case err != nil:
		return off
	}
	return at
}
