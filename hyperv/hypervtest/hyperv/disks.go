package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"github.com/hikae/hikae/hyperv/hypervtest"
)

// addVM makes one with its disks and their first content. In a cluster they are spread over the nodes.
func (f *flags) addVM(ctx context.Context, s *site, i int, bytes int64) (made vm, err error) {
	v := hypervtest.VM{Name: fmt.Sprintf("web%d", i), GuestOS: f.guestOS, Version: f.version}
	for d := range f.disks {
		v.Disks = append(v.Disks, hypervtest.Disk{Size: bytes, Format: f.format, Fixed: f.fixed, Slot: d})
	}
	h := s.hosts[i%len(s.hosts)]
	made = vm{Name: v.Name, Host: h.Name()}
	if s.cluster != nil {
		made.ID = s.cluster.AddVM(h.Name(), v)
	} else {
		made.ID = h.AddVM(v)
	}
	g := h.VM(made.ID)
	for d := range f.disks {
		made.Files = append(made.Files, g.Tip(d))
		if err := f.fillDisk(ctx, g, d, bytes, uint64(i*64+d)); err != nil {
			return made, fmt.Errorf("disk %d: %w", d, err)
		}
	}
	return made, nil
}

// fillDisk gives a disk its first content, as its guest would write it.
func (f *flags) fillDisk(ctx context.Context, g *hypervtest.Guest, disk int, bytes int64, salt uint64) error {
	var source io.Reader
	switch f.fill {
	case "":
		return nil
	case "random":
		seed := f.seed
		if seed == 0 {
			seed = rand.Uint64()
		}
		source = &pages{rng: rand.New(rand.NewPCG(seed, salt))}
	default:
		fd, err := os.Open(f.fill)
		if err != nil {
			return err
		}
		defer fd.Close()
		source = fd
	}
	source = io.LimitReader(source, bytes)
	buf := make([]byte, 1<<20)
	for off := int64(0); ctx.Err() == nil; {
		n, err := io.ReadFull(source, buf)
		if n > 0 {
			if err := g.Write(disk, off, buf[:n]); err != nil {
				return err
			}
			off += int64(n)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return g.Flush(disk)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// pages is content of which about half can be compressed, and some is zero, as on disks.
type pages struct{ rng *rand.Rand }

// Read implements [io.Reader].
func (s *pages) Read(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		page := rest[:min(4096, len(rest))]
		rest = rest[len(page):]
		kind, letter := s.rng.IntN(4), byte(s.rng.Uint32())
		for i := range page {
			switch kind {
			case 0:
				page[i] = 0
			case 1:
				page[i] = letter
			default:
				page[i] = byte(s.rng.Uint32())
			}
		}
	}
	return len(p), nil
}

// maxSize is the largest disk that a VHDX file can have.
const maxSize = 64 << 40

// parseSize reads a length with an optional unit.
func parseSize(text string) (int64, error) {
	digits, by := text, int64(1)
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if rest, ok := strings.CutSuffix(text, unit); ok {
			digits, by = rest, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64/by || n*by > maxSize {
		return 0, fmt.Errorf("size %q: a number of bytes, with KiB, MiB, GiB or TiB after it if wanted, at most 64TiB", text)
	}
	return n * by, nil
}
