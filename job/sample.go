package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sort"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

const (
	samplePiece = 256 << 10 // bytes that are compared at one place
	sampleShare = 10_000    // one part in so many
	minSample   = 1 << 20
	maxSample   = 64 << 20
)

// sample reads some of what is said to be unchanged, and compares it with the base. Trackers have forgotten writes before:
// what they say is a hint. Where one is found wrong the answer is why, and the disk is read whole, now and the next time.
func (s *backup) sample(ctx context.Context, d hikae.Disk, img, inc pipe.Image) (wrong string, err error) {
	if s.opts.Sample < 0 {
		return "", nil
	}
	broken := func(err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &baseError{disks: []string{d.Key}, err: err}
	}
	base, err := s.openBase(ctx, d.Key)
	if err != nil {
		return "", broken(err)
	}
	defer base.Close()
	same, err := takenOver(ctx, inc, base)
	if err != nil {
		return "", broken(err)
	}
	for _, e := range same.pick(s.opts.Sample) {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		now, before := make([]byte, e.Len), make([]byte, e.Len)
		if err := readFull(ctx, img, now, e.Off); err != nil {
			return "", err
		}
		if err := readFull(ctx, base, before, e.Off); err != nil {
			switch {
			case ctx.Err() == nil && errors.Is(err, fs.ErrPermission):
				return "", nil // who may only write has nothing to compare with, and knows it
			case ctx.Err() != nil || isDamaged(err):
				return "", broken(err)
			}
			s.note("disk %s: what did not change could not be compared with the base: %v", d.Key, err)
			return "", nil
		}
		s.sampled[d.Key] += e.Len
		if !bytes.Equal(now, before) {
			s.distrust(d.Key)
			s.warn("disk %s: what was said to be unchanged at %d differs from the base; the disk is read whole, now and the next time, and its change tracking should be reset", d.Key, e.Off)
			return fmt.Sprintf("its changes are not told in full: %d bytes at %d differ, and were said to be unchanged", e.Len, e.Off), nil
		}
	}
	return "", nil
}

func readFull(ctx context.Context, img pipe.Image, p []byte, off int64) error {
	n, err := img.ReadAt(ctx, p, off)
	if n == len(p) {
		return nil
	}
	return fmt.Errorf("%d bytes at %d: %w", len(p), off, err)
}

// unchanged are ranges, ascending, with the bytes before each.
type unchanged struct {
	ranges []pipe.Extent
	before []int64
	total  int64
}

// takenOver are the ranges that are taken over from the base, where the base holds what was there: what it left out reads as
// zero and says nothing.
func takenOver(ctx context.Context, inc, base pipe.Image) (*unchanged, error) {
	out, size := &unchanged{}, inc.Size()
	kinds, ok := base.(pipe.ExtentImage)
	if !ok {
		return out, nil
	}
	now, then := walk(ctx, inc, 0, size), walk(ctx, kinds, 0, size)
	defer now.stop()
	defer then.stop()
	for pos := int64(0); pos < size; {
		if err := now.at(pos); err != nil {
			return nil, err
		}
		if err := then.at(pos); err != nil {
			return nil, err
		}
		next := min(now.End(), then.End(), size)
		if now.Kind == pipe.Unchanged && (then.Kind == pipe.Data || then.Kind == pipe.Zero) {
			out.add(pos, next-pos)
		}
		pos = next
	}
	return out, nil
}

func (u *unchanged) add(off, n int64) {
	if last := len(u.ranges) - 1; last >= 0 && u.ranges[last].End() == off {
		u.ranges[last].Len += n
	} else {
		u.ranges = append(u.ranges, pipe.Extent{Off: off, Len: n, Kind: pipe.Unchanged})
		u.before = append(u.before, u.total)
	}
	u.total += n
}

// pick chooses pieces at random, ascending and each once, of about so many bytes together.
func (u *unchanged) pick(want int64) []pipe.Extent {
	if want == 0 {
		want = min(max(u.total/sampleShare, minSample), maxSample)
	}
	chosen := map[pipe.Extent]bool{}
	if want >= u.total {
		for _, r := range u.ranges {
			for off := r.Off; off < r.End(); off += samplePiece {
				chosen[pipe.Extent{Off: off, Len: min(samplePiece, r.End()-off)}] = true
			}
		}
		want = 0
	}
	for ; want > 0; want -= samplePiece {
		n := rand.Int64N(u.total)
		i := sort.Search(len(u.before), func(i int) bool { return u.before[i] > n }) - 1
		r := u.ranges[i]
		off := r.Off + (n-u.before[i])/samplePiece*samplePiece
		chosen[pipe.Extent{Off: off, Len: min(samplePiece, r.End()-off)}] = true
	}
	out := make([]pipe.Extent, 0, len(chosen))
	for e := range chosen {
		out = append(out, e)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Off < out[j].Off })
	return out
}
