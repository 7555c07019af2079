package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// find gives the point that a whole id or the beginning of one names.
func (r *repository) find(point string) (*commit, error) {
	var found *commit
	for _, c := range r.log.points {
		if point == "" || !strings.HasPrefix(c.point.String(), point) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("point %q: more than one begins so", point)
		}
		found = c
	}
	if found == nil && r.log.broken != nil {
		return nil, fmt.Errorf("point %q is not in the part of the log that can be read: %w", point, r.log.broken)
	}
	if found == nil {
		return nil, &fault{fmt.Sprintf("point %q", point), -1, errMissing, ""}
	}
	return found, nil
}

// restore writes a disk to a file that does not exist yet. It appears under its name whole or not at all.
func (r *repository) restore(ctx context.Context, point, key, out string) error {
	c, err := r.find(point)
	if err != nil {
		return err
	}
	m, err := r.manifest(c)
	if err != nil {
		return err
	}
	for _, d := range m.disks {
		if d.key == key {
			return r.restoreDisk(ctx, m, d, out)
		}
	}
	return &fault{fmt.Sprintf("disk %q of point %s", key, m.id), -1, errMissing, ""}
}

func (r *repository) restoreDisk(ctx context.Context, m *manifest, d disk, out string) (err error) {
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", out, fs.ErrExist)
	}
	f, err := os.OpenFile(out+".part", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err == nil {
			err = os.Rename(out+".part", out)
		}
		if err != nil {
			_ = os.Remove(out + ".part")
		}
	}()
	if err := f.Truncate(d.size); err != nil {
		return err
	}
	err = r.walk(ctx, m, d, func(block uint64, id [32]byte) error {
		plain, off, err := r.block(m, d, block, id)
		if err != nil {
			return err
		}
		return writeSparse(f, plain, off)
	})
	if err != nil {
		return err
	}
	if n := d.unreadable(); n > 0 {
		r.note("disk %q: the source could not read all of it when the point was made; those parts are zero", d.key)
	}
	return f.Sync()
}

// writeSparse leaves out what is zero: the file is one hole before.
func writeSparse(f *os.File, p []byte, off int64) error {
	const page = 4096
	for len(p) > 0 {
		n := min(page, len(p))
		if !allZero(p[:n]) {
			for n < len(p) && !allZero(p[n:min(n+page, len(p))]) {
				n = min(n+page, len(p))
			}
			if _, err := f.WriteAt(p[:n], off); err != nil {
				return err
			}
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
