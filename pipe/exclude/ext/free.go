package ext

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math/bits"
	"slices"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

const (
	freeBatchBytes = 1 << 20 // of bitmaps that are read and checked together
	freeAhead      = 4       // batches under way
)

// Free implements [fsys.FileSystem]. Before the first answer it reads all inodes in use and holds what they have against the
// bitmaps, as e2fsck would: a block that is free although a file has it makes the volume doubtful, and ends the sequence
// with a [*fsys.CorruptError]. The bitmaps are read in large pieces, some of them ahead.
func (f *FS) Free(ctx context.Context) iter.Seq2[fsys.Range, error] {
	return func(yield func(fsys.Range, error) bool) {
		if f.Info().Doubt != "" {
			return
		}
		if believed, err := f.checkOnce(ctx); err != nil {
			yield(fsys.Range{}, err)
			return
		} else if !believed {
			return
		}
		j := &joiner{f: f, yield: yield}
		if err := f.freeBatches(ctx, 0, j.group); err != nil {
			yield(fsys.Range{}, f.noted(err))
			return
		}
		j.flush()
	}
}

// batch is what some groups have in use.
type batch struct {
	first uint32 // group
	used  []bitmap
	err   error
}

// freeBatches hands on what the groups from first on have in use until each answers false, with some batches under way at
// a time. It does not return before they have ended.
func (f *FS) freeBatches(ctx context.Context, first uint32, each func(n uint32, used bitmap) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	size := uint32(max(1, freeBatchBytes/f.d.blockSize()))
	var ahead []chan batch
	defer func() {
		cancel()
		for _, c := range ahead {
			<-c
		}
	}()
	for next := first; next < f.s.groups || len(ahead) > 0; {
		for next < f.s.groups && len(ahead) < freeAhead {
			c, first, end := make(chan batch, 1), next, min(next+size, f.s.groups)
			go func() { c <- f.usedOf(ctx, first, end) }()
			ahead, next = append(ahead, c), end
		}
		b := <-ahead[0]
		ahead = ahead[1:]
		if b.err != nil {
			return b.err
		}
		for k, used := range b.used {
			if !each(b.first+uint32(k), used) {
				return nil
			}
		}
	}
	return nil
}

// usedOf says what the groups from first up to end have in use, before the log's replay or after it. It runs in a goroutine
// of its own, where a panic, be it the image's, would end the whole program: it is an error of the batch.
func (f *FS) usedOf(ctx context.Context, first, end uint32) (b batch) {
	defer func() {
		if p := recover(); p != nil {
			b.err = fmt.Errorf("read bitmaps of groups %d to %d: %v", first, end-1, p)
		}
	}()
	b = batch{first: first, used: make([]bitmap, end-first)}
	if b.err = f.readBitmaps(ctx, &b); b.err != nil {
		return b
	}
	for k := range b.used {
		if b.err = f.settle(ctx, first+uint32(k), b.used[k]); b.err != nil {
			return b
		}
	}
	return b
}

// readBitmaps reads the bitmaps of a batch as they are after replay, those that lie side by side at once. A group without
// one gets an empty one.
func (f *FS) readBitmaps(ctx context.Context, b *batch) error {
	bs := f.d.blockSize()
	all := make([]byte, len(b.used)*bs)
	var wanted []int
	for k := range b.used {
		if f.groups[b.first+uint32(k)].flags&groupBlocksUninit != 0 {
			b.used[k], all = all[:bs:bs], all[bs:]
			continue
		}
		wanted = append(wanted, k)
	}
	at := func(k int) uint64 { return f.groups[b.first+uint32(k)].bitmap }
	slices.SortFunc(wanted, func(x, y int) int { return cmp.Compare(at(x), at(y)) })
	for len(wanted) > 0 {
		n := 1
		for n < len(wanted) && at(wanted[n]) == at(wanted[0])+uint64(n) {
			n++
		}
		p := all[:n*bs]
		if err := f.d.bytes(ctx, p, int64(at(wanted[0])<<f.d.bits)); err != nil {
			return err
		}
		for i, k := range wanted[:n] {
			b.used[k] = p[i*bs : (i+1)*bs : (i+1)*bs]
		}
		all, wanted = all[n*bs:], wanted[n:]
	}
	return nil
}

// settle checks a group's bitmap and adds what is in use whatever it says.
func (f *FS) settle(ctx context.Context, n uint32, used bitmap) error {
	g, count := f.groups[n], f.s.clusters(n)
	uninit := g.flags&groupBlocksUninit != 0
	if f.s.metaSums() && !uninit {
		mask := ^uint32(0)
		if f.s.descSize < 64 {
			mask = 0xffff
		}
		if want := crc32c(f.s.seed, used[:f.s.perGroup>>f.s.clusterBits/8]) & mask; want != g.sum {
			return f.corruptBitmap(n, fmt.Sprintf("checksum %#x, not %#x", want, g.sum))
		}
	}
	start := f.s.groupStart(n)
	for _, m := range f.meta.within(start, f.s.groupEnd(n)) {
		from := uint32((max(m.at, start) - start) >> f.s.clusterBits)
		to := uint32((min(m.end, f.s.groupEnd(n)) - start - 1) >> f.s.clusterBits)
		if set := used.set(from, to+1); !set && !uninit {
			return f.corruptBitmap(n, fmt.Sprintf("it says that metadata at block %d is free", max(m.at, start)))
		}
	}
	if free := used.clear(count); free != g.free {
		return f.corruptBitmap(n, fmt.Sprintf("%d clusters are free, and the descriptor says %d", free, g.free))
	}
	return f.addBefore(ctx, n, used)
}

func (f *FS) corruptBitmap(n uint32, why string) error {
	at := f.groups[n].bitmap
	return &fsys.CorruptError{What: fmt.Sprintf("bitmap of group %d", n), Off: int64(at << f.s.blockBits), Why: why}
}

// addBefore adds what was in use before the replay, where that can be something else.
func (f *FS) addBefore(ctx context.Context, n uint32, used bitmap) error {
	g := f.groups[n]
	none := g.flags&groupBlocksUninit != 0
	if g.flags&groupWasUninit != 0 || !none && !f.d.log.has(g.bitmap) {
		return nil
	}
	before := make([]byte, len(used))
	if err := f.d.raw(ctx, before, int64(g.bitmap<<f.d.bits)); err != nil {
		return err
	}
	for i, b := range before {
		used[i] |= b
	}
	return nil
}

// bitmap says for each cluster of a group whether it is in use, the lowest bit of the first byte first.
type bitmap []byte

// set marks clusters as used and reports whether all of them were before.
func (b bitmap) set(from, end uint32) bool {
	all := true
	for i := from; i < end; {
		if i%8 == 0 && end-i >= 8 {
			all = all && b[i/8] == 0xff
			b[i/8] = 0xff
			i += 8
			continue
		}
		all = all && b[i/8]&(1<<(i%8)) != 0
		b[i/8] |= 1 << (i % 8)
		i++
	}
	return all
}

// clear counts the unused of the first n clusters.
func (b bitmap) clear(n uint32) (free uint32) {
	for i := uint32(0); i < n; i += 64 {
		w := ^le.Uint64(b[i/8:])
		if n-i < 64 {
			w &= 1<<(n-i) - 1
		}
		free += uint32(bits.OnesCount64(w))
	}
	return free
}

// next finds the first cluster from i on, below n, that is used or is not; n where there is none.
func (b bitmap) next(i, n uint32, used bool) uint32 {
	for i < n {
		w := le.Uint64(b[i/64*8:])
		if !used {
			w = ^w
		}
		if w >>= i % 64; w != 0 {
			return min(n, i+uint32(bits.TrailingZeros64(w)))
		}
		i += 64 - i%64
	}
	return n
}

// joiner makes ranges of bitmaps, across the borders of groups.
type joiner struct {
	f       *FS
	yield   func(fsys.Range, error) bool
	last    fsys.Range
	stopped bool
}

// group adds the free clusters of one group; it answers whether to go on.
func (j *joiner) group(n uint32, used bitmap) bool {
	s := j.f.s
	count, start, end := s.clusters(n), s.groupStart(n), s.groupEnd(n)
	for i := used.next(0, count, false); i < count; {
		to := used.next(i, count, true)
		from, until := start+uint64(i)<<s.clusterBits, min(end, start+uint64(to)<<s.clusterBits)
		r := fsys.Range{Off: int64(from << s.blockBits), Len: int64((until - from) << s.blockBits)}
		switch {
		case j.last.Len > 0 && j.last.End() == r.Off:
			j.last.Len += r.Len
		case j.last.Len > 0 && !j.yield(j.last, nil):
			j.stopped = true
			return false
		default:
			j.last = r
		}
		i = used.next(to, count, false)
	}
	return true
}

func (j *joiner) flush() {
	if j.last.Len > 0 && !j.stopped {
		j.yield(j.last, nil)
	}
}
