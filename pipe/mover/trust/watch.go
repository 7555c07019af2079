package trust

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// mark is how a file is told from the one that was there before: a book is replaced, never written into.
type mark struct {
	fi  fs.FileInfo // nil: there was none
	sum [sha256.Size]byte
	// fresh files are read again: one written in the same tick of the clock could look the same.
	fresh bool
}

const freshFor = 2 * time.Second

const watchEvery = time.Second

// Watch calls changed soon after every change of the book, by whichever process, until ctx ends: within 2 s, and once for
// several changes that come together. That the book was damaged is a change too. Who has connections open then asks
// [Book.Check] for each.
func (b *Book) Watch(ctx context.Context, changed func()) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	seen := b.turn()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := b.turn(); now != seen {
			seen = now
			changed()
		}
	}
}

func (b *Book) turn() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.look()
	return b.turns
}

// look reads the file if it is not the one that was read last. Callers hold mu.
func (b *Book) look() {
	fi, err := os.Stat(b.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if b.mark.fi != nil || b.pages == nil || b.err != nil {
			b.turnTo(new(pages), nil, mark{})
		}
	case err != nil:
		b.unread(err)
	case b.mark.fi == nil || b.mark.fresh || !sameFile(b.mark.fi, fi):
		b.read()
	}
}

func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode()
}

// read takes the file as it is now.
func (b *Book) read() {
	data, fi, err := readFile(b.path(), maxBook)
	if errors.Is(err, fs.ErrNotExist) {
		b.turnTo(new(pages), nil, mark{})
		return
	}
	if err != nil {
		b.unread(err)
		return
	}
	m := mark{fi: fi, sum: sha256.Sum256(data), fresh: time.Since(fi.ModTime()).Abs() < freshFor}
	if b.mark.fi != nil && b.mark.fi.Mode() == fi.Mode() && m.sum == b.mark.sum {
		b.mark = m
		return
	}
	p, err := b.parse(data, fi)
	b.turnTo(p, err, m)
}

func (b *Book) parse(data []byte, fi fs.FileInfo) (*pages, error) {
	if openTo(fi, 0o022) != 0 {
		return nil, fmt.Errorf("%w: others may write to %s (mode %04o): see that it holds nobody unknown, then chmod 600 it", ErrBook, b.path(), fi.Mode().Perm())
	}
	p, err := decodePages(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBook, b.path(), err)
	}
	return p, nil
}

// unread says that the file could not be read, which the next look may be able to do. It is no change.
func (b *Book) unread(err error) { b.err, b.mark = fmt.Errorf("%w: %w", ErrBook, err), mark{} }

// turnTo takes pages, or the reason why there are none.
func (b *Book) turnTo(p *pages, err error, m mark) {
	b.pages, b.err, b.mark = p, err, m
	b.byPin, b.goneBy = map[Pin]int{}, map[Pin]int{}
	b.turns++
	if p == nil {
		return
	}
	for i, e := range p.Peers {
		b.byPin[e.Pin] = i
		if e.Next != (Pin{}) {
			b.byPin[e.Next] = i
		}
	}
	for i, g := range p.Gone {
		b.goneBy[g.Pin] = i
	}
}
