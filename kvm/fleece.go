package kvm

import (
	"context"
	"errors"
	"os"

	"github.com/hikae/hikae/pipe/qcow2"
)

// maxSocketPath is the longest path of a unix socket on Linux, in bytes.
const maxSocketPath = 107

// fleeceBytes is the bound of a disk's fleecing image.
func (s *snapshot) fleeceBytes(d disk) (int64, error) {
	limit := s.provider.opts.FleeceBytes
	if limit <= 0 {
		limit = d.Size + d.Size/1024 + 2<<20 // its data, tables and header
		free, err := freeBytes(s.Dir)
		if err != nil {
			return 0, err
		}
		limit = min(limit, free/2/int64(len(s.Disks)))
	}
	return max(limit, 1<<20) &^ 511, nil
}

// makeFleece makes an empty qcow2 image of a disk's size in a file that is limit bytes long already, as a hole: QEMU
// is told that the file never grows.
func makeFleece(ctx context.Context, path string, size, limit int64) error {
	target, err := qcow2.Create(path, size, nil)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := errors.Join(target.Commit(ctx), target.Close()); err != nil {
		return err
	}
	return os.Truncate(path, limit)
}
