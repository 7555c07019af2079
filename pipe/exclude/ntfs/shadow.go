package ntfs

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// A shadow copy keeps of what changes the blocks as they were, and nothing of what does not. A file that was deleted
// since, and whose clusters nobody has written to, is in the shadow copy by lying where it lay: in what the bitmap calls
// free. So where there are shadow copies that outlive a restart, nothing is free.
//
//	$Boot at 0x1E00: mark, version, kind 1, …, catalog ──► block: mark, version, kind 2, …, next block; then entries:
//	                                                        2: a shadow copy; 3: its store ──► block: kind 4, …, attributes
//
// The layout is what J. Metz found out and published as "Volume Shadow Snapshot (VSS) format".
const (
	shadowAt      = 0x1E00
	shadowBlock   = 16 << 10
	shadowHead    = 128 // bytes of a block before its content, and of an entry
	shadowBlocks  = 64
	shadowMark    = "\x6B\x87\x08\x38\x76\xC1\x48\x4E\xB7\xAE\x04\x04\x6E\x6C\xC7\x52"
	shadowHeader  = 1 // kinds of blocks
	shadowCatalog = 2
	shadowStore   = 4

	shadowPersistent = 1 // of a store's attributes: it is there after a restart
)

var errShadow = errors.New("its catalog of shadow copies makes no sense")

// findShadows looks for shadow copies.
func (v *volume) findShadows(ctx context.Context) error {
	has, err := v.disk.shadows(ctx)
	switch {
	case errors.Is(err, errShadow):
		v.doubt(err.Error())
	case err != nil:
		return err
	case has:
		v.doubt("it holds shadow copies, which also need what the bitmap calls free")
	}
	return nil
}

// shadows reports whether the catalog has a shadow copy that outlives a restart.
func (w *view) shadows(ctx context.Context) (bool, error) {
	h, err := w.shadow(ctx, shadowAt, 512, 0)
	if err != nil || string(h[:16]) != shadowMark {
		return false, err
	}
	if le.Uint32(h[20:]) != shadowHeader {
		return false, errShadow
	}
	copies, stores := 0, 0
	for n, at := 0, le.Uint64(h[48:]); at != 0; n++ {
		if n == shadowBlocks {
			return false, errShadow
		}
		p, err := w.shadow(ctx, at, shadowBlock, shadowCatalog)
		if err != nil {
			return false, err
		}
		at = le.Uint64(p[40:])
		for e := p[shadowHead:]; len(e) >= shadowHead; e = e[shadowHead:] {
			switch le.Uint64(e) {
			case 0, 1: // nothing, or nothing any more
			case 2:
				copies++
			case 3:
				stores++
				s, err := w.shadow(ctx, le.Uint64(e[32:]), 512, shadowStore)
				if err != nil || le.Uint32(s[shadowHead+56:])&shadowPersistent != 0 {
					return true, err
				}
			default:
				return false, errShadow
			}
		}
	}
	return copies != stores, nil
}

// shadow reads a block, or the beginning of one, that must be of a kind; 0: anything.
func (w *view) shadow(ctx context.Context, at uint64, n int64, kind uint32) ([]byte, error) {
	size := uint64(w.sectors) * uint64(w.sector)
	if at > size || uint64(n) > size-at {
		return nil, fmt.Errorf("%w: a block at byte %d of %d", errShadow, at, size)
	}
	p := make([]byte, n)
	if k, err := w.src.ReadAt(ctx, p, int64(at)); k < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = errShadow
		}
		return nil, err
	}
	if kind != 0 && (string(p[:16]) != shadowMark || le.Uint32(p[20:]) != kind) {
		return nil, fmt.Errorf("%w: at byte %d", errShadow, at)
	}
	return p, nil
}
