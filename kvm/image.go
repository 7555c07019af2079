package kvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
)

// OpenDisk implements [hikae.Snapshot]. Reads after the snapshot broke wrap [ErrBroken].
func (s *snapshot) OpenDisk(ctx context.Context, key string) (pipe.Image, error) {
	i, err := s.index(key)
	if err != nil {
		return nil, err
	}
	c, err := nbd.Dial(ctx, s.uri(i), nil)
	if err != nil {
		return nil, err
	}
	return &image{c, s}, nil
}

func (s *snapshot) index(key string) (int, error) {
	for i, d := range s.Disks {
		if d.Key == key {
			return i, nil
		}
	}
	return 0, fmt.Errorf("disk %q: %w", key, fs.ErrNotExist)
}

func (s *snapshot) uri(i int) string {
	return "nbd+unix:///" + s.exportID(i) + "?" + url.Values{"socket": {s.socket()}}.Encode()
}

// image is a disk of the snapshot.
type image struct {
	*nbd.Client
	snapshot *snapshot
}

// ReadAt tells a broken snapshot from other errors: QEMU says EACCES for it, which NBD has no number for and gives as
// EINVAL.
func (m *image) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := m.Client.ReadAt(ctx, p, off)
	if err := m.snapshot.failure(); err != nil {
		return 0, err // what came may be newer than the snapshot
	}
	return n, explain(err)
}

// Extents is the export's allocation: a range that became zero is Zero.
func (m *image) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		for e, err := range m.Client.Extents(ctx, off, n) {
			if given := m.snapshot.failure(); given != nil {
				yield(pipe.Extent{}, given)
				return
			}
			if !yield(e, explain(err)) {
				return
			}
		}
	}
}

func explain(err error) error {
	var server *nbd.ServerError
	if err == nil || err == io.EOF || !errors.As(err, &server) {
		return err
	}
	if server.Errno == nbd.EINVAL || server.Errno == nbd.EPERM {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return err
}

const dirty = 1 // of qemu:dirty-bitmap

// Changed implements [hikae.Snapshot].
func (s *snapshot) Changed(ctx context.Context, key string, since hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		i, err := s.index(key)
		if err != nil {
			yield(pipe.Extent{}, err)
			return
		}
		if base := s.Disks[i].Base; base == "" || base != string(since) {
			yield(pipe.Extent{}, lost("%s", cmpOr(s.reasons[key], "the snapshot was not asked to keep bitmap "+string(since))))
			return
		}
		name := "qemu:dirty-bitmap:" + s.copyName()
		c, err := nbd.Dial(ctx, s.uri(i), &nbd.Options{Contexts: []string{name}, Connections: 1})
		if err != nil {
			yield(pipe.Extent{}, err)
			return
		}
		defer c.Close()
		for status, err := range c.BlockStatus(ctx, name, 0, c.Size()) {
			e := pipe.Extent{Off: status.Off, Len: status.Len, Kind: pipe.Unchanged}
			if status.Flags&dirty != 0 {
				e.Kind = pipe.Data
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}
