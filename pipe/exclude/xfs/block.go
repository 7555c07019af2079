package xfs

import (
	"context"
	"fmt"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// seal is where a version 5 structure keeps what proves it: that it is whole, in its place, and of this file system.
type seal struct {
	sum   int // checksum
	place int // its own address, in units of 512 bytes; 0: it has none
	lsn   int // the log's position at its last change
	uuid  int
	owner int  // 0: it has none
	wide  bool // the owner has 64 bits
}

var (
	shortSeal   = seal{sum: 52, place: 16, lsn: 24, uuid: 32, owner: 48}
	longSeal    = seal{sum: 64, place: 24, lsn: 32, uuid: 40, owner: 56, wide: true}
	dirSeal     = seal{sum: 4, place: 8, lsn: 16, uuid: 24, owner: 40, wide: true}
	symlinkSeal = seal{sum: 12, place: 40, lsn: 48, uuid: 16, owner: 32, wide: true}
	agfSeal     = seal{sum: 216, lsn: 208, uuid: 64}
	agiSeal     = seal{sum: 312, lsn: 320, uuid: 296}
	agflSeal    = seal{sum: 32, lsn: 24, uuid: 8}
)

// checkSeal verifies a version 5 structure that was read from byte off. An owner that is anyOwner is not looked at.
func (f *FS) checkSeal(b []byte, s *seal, what string, off int64, owner uint64, patched bool) error {
	bad := func(format string, args ...any) error {
		return &fsys.CorruptError{What: what, Off: off, Why: fmt.Sprintf(format, args...)}
	}
	if !patched && !sumOK(b, s.sum) {
		return bad("wrong checksum")
	}
	if [16]byte(b[s.uuid:]) != f.sb.metaUUID {
		return bad("it belongs to another file system")
	}
	if s.place > 0 && be.Uint64(b[s.place:]) != uint64(off/512) {
		return bad("it was written for byte %d", be.Uint64(b[s.place:])*512)
	}
	if s.owner > 0 && owner != anyOwner {
		has := uint64(be.Uint32(b[s.owner:]))
		if s.wide {
			has = be.Uint64(b[s.owner:])
		}
		if has != owner {
			return bad("it belongs to %d, not to %d", has, owner)
		}
	}
	if at := be.Uint64(b[s.lsn:]); f.head != 0 && at != nullLSN && at > f.head {
		return bad("it is newer than the log: %d:%d after %d:%d", at>>32, uint32(at), f.head>>32, uint32(f.head))
	}
	return nil
}

const (
	anyOwner = ^uint64(0)
	nullLSN  = ^uint64(0)
)

// readSealed reads a structure of n bytes and verifies it where it can be verified.
func (f *FS) readSealed(ctx context.Context, v view, b []byte, s *seal, what string, off int64, owner uint64) error {
	patched, err := v.read(ctx, b, off)
	if err != nil || !f.sb.v5 {
		return err
	}
	return f.checkSeal(b, s, what, off, owner, patched)
}
