package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/hikae/hikae/internal/freespace"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// scratchReserve is what a scratch file leaves free for everybody else.
const scratchReserve = 256 << 20

// ScratchError says that a folder of this machine has too little room for what a transport must keep.
type ScratchError struct {
	Folder     string
	Need, Free int64 // bytes
}

func (e *ScratchError) Error() string {
	return fmt.Sprintf("%s has %d bytes free, and %d are needed", e.Folder, e.Free, e.Need)
}

// Is makes it the standard library's word for a full disk.
func (e *ScratchError) Is(target error) bool { return target == diskfile.ErrNoSpace }

// scratch is a file of this machine that holds a disk for as long as it is open. Where the system can, it has no name from
// the start, so that it goes with the process however that ends.
type scratch struct {
	*diskfile.Image
	file    *os.File
	folder  string
	written atomic.Int64 // bytes, at most: what was written twice counts twice
	looked  atomic.Int64 // at how many bytes the room was looked at
}

// newScratch makes a file of size bytes, all holes, where at least need bytes can be written.
func newScratch(folder string, size, need int64) (_ *scratch, err error) {
	if folder == "" {
		folder = os.TempDir()
	}
	s := &scratch{folder: folder}
	if err := s.room(need); err != nil {
		return nil, err
	}
	if s.file, err = os.CreateTemp(folder, "hikae-*.disk"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.file.Close()
		}
		_ = os.Remove(s.file.Name()) // where an open file keeps its name, Close removes it
	}()
	if err = s.file.Truncate(size); err != nil {
		return nil, err
	}
	s.Image, err = diskfile.Open(s.file.Name(), &diskfile.OpenOptions{Live: true})
	return s, err
}

// room looks whether so much may be written.
func (s *scratch) room(need int64) error {
	_, free, err := freespace.Of(s.folder)
	if has := int64(min(free, 1<<62)); err == nil && has-scratchReserve < need {
		err = &ScratchError{s.folder, need + scratchReserve, has}
	}
	return err
}

// put writes p at off. Now and then it looks whether there still is room.
func (s *scratch) put(p []byte, off int64) error {
	if off < 0 || int64(len(p)) > s.Size()-off {
		return &pipe.RangeError{Op: "write", Off: off, Len: int64(len(p)), Err: fs.ErrInvalid}
	}
	total, looked := s.written.Add(int64(len(p))), s.looked.Load()
	if total-looked > scratchReserve/4 && s.looked.CompareAndSwap(looked, total) {
		if err := s.room(0); err != nil {
			return err
		}
	}
	_, err := s.file.WriteAt(p, off)
	return err
}

// reader reads all of the file.
func (s *scratch) reader(ctx context.Context) io.Reader {
	return io.NewSectionReader(pipe.ReaderAt(ctx, s.Image), 0, s.Size())
}

// Close gives the file up.
func (s *scratch) Close() error {
	err := errors.Join(s.Image.Close(), s.file.Close())
	if gone := os.Remove(s.file.Name()); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

// privateFolder makes a folder below parent that only this user can look into.
func privateFolder(parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, "hikae-")
	if err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}
