package vmware

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"

	"github.com/hikae/hikae/pipe"
)

const (
	samplePieces = 16
	sampleBytes  = 64 << 10 // of one piece
)

// sample remembers by their digests a few pieces of what was read, each read being as likely as any other to be among
// them. Another transport is then held to them. The zero value is ready.
type sample struct {
	mu     sync.Mutex
	reads  int64
	pieces []piece
}

type piece struct {
	off, len int64
	sum      [sha256.Size]byte
}

// see is told of a read that went well.
func (s *sample) see(p []byte, off int64) {
	s.mu.Lock()
	s.reads++
	at := s.reads - 1
	if at >= samplePieces {
		at = rand.Int64N(s.reads)
	}
	s.mu.Unlock()
	if at >= samplePieces {
		return
	}
	if extra := len(p) - sampleBytes; extra > 0 {
		skip := rand.IntN(extra + 1)
		p, off = p[skip:skip+sampleBytes], off+int64(skip)
	}
	got := piece{off, int64(len(p)), sha256.Sum256(p)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at < int64(len(s.pieces)) {
		s.pieces[at] = got
	} else {
		s.pieces = append(s.pieces, got)
	}
}

// compare reads the pieces by another transport. Other content is a *DisagreeError.
func (s *sample) compare(ctx context.Context, img pipe.Image, disk, first, then string) error {
	s.mu.Lock()
	pieces := append([]piece(nil), s.pieces...)
	s.mu.Unlock()
	buf := make([]byte, sampleBytes)
	for _, want := range pieces {
		p := buf[:want.len]
		if n, err := img.ReadAt(ctx, p, want.off); n != len(p) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read again at %d what was read before: %w", want.off, err)
		}
		if sum := sha256.Sum256(p); !bytes.Equal(sum[:], want.sum[:]) {
			return &DisagreeError{Disk: disk, First: first, Then: then, Off: want.off, Len: want.len}
		}
	}
	return nil
}
