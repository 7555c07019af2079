package ext

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

const (
	inodeBatchBytes = 1 << 20 // of inodes that are read and looked at together; at least one block of 64 KiB
	claimers        = 8       // groups under way at a time, most of which wait for the disk
)

// checkOnce holds what all files have against what is free, until that has come to an end once. It reports whether the
// bitmaps can be believed; a contradiction is returned to the caller that finds it, and is a doubt from then on.
func (f *FS) checkOnce(ctx context.Context) (bool, error) {
	select {
	case f.checking <- struct{}{}:
		defer func() { <-f.checking }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if f.checked || f.Info().Doubt != "" {
		return f.checked && f.Info().Doubt == "", nil
	}
	if err := f.check(ctx); err != nil {
		return false, f.noted(err)
	}
	f.checked = f.Info().Doubt == ""
	return f.checked, nil
}

// check works through the volume in windows: as many groups as their free clusters fit into memory, and for each window
// all inodes. A volume of 2 TiB in blocks of 4 KiB is one window.
func (f *FS) check(ctx context.Context) error {
	deleted, err := f.orphanNodes(ctx)
	if err != nil {
		return err
	}
	for first := uint32(0); first < f.s.groups; {
		free, err := f.freeFrom(ctx, first)
		if err != nil {
			return err
		}
		c := &claims{f: f, free: free, deleted: deleted}
		if err := c.groups(ctx); err != nil {
			return err
		}
		first += uint32(len(free.used))
	}
	return nil
}

// claims is one walk over all inodes in use, whose blocks are held against the free clusters of a window.
type claims struct {
	f       *FS
	free    *freeMap
	deleted []uint32 // inodes without a name that are in use all the same, ascending

	next  atomic.Uint32 // the next group
	total atomic.Uint64 // blocks that files have
}

// groups walks all groups, some at a time.
func (c *claims) groups(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range min(claimers, int(c.f.s.groups)) {
		g.Go(func() (err error) {
			// What guards a caller against a panic, be it the image's, does not reach other goroutines than its own.
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("read inodes: %v", p)
				}
			}()
			r := newClaimer(c)
			for {
				n := c.next.Add(1) - 1
				if n >= c.f.s.groups {
					return nil
				}
				if err := r.group(ctx, n); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// claimer looks at one inode after the other. Everything in it is used again for the next.
type claimer struct {
	*claims
	buf   []byte
	i     inode
	m     mapper
	taken error // the claim that contradicts the bitmaps
}

func newClaimer(c *claims) *claimer {
	r := &claimer{claims: c}
	r.m = mapper{v: &c.f.view, i: &r.i}
	r.m.emit = func(x mapped) bool { return r.claim(x.vol, x.n) }
	r.m.node = func(b uint64) { r.claim(b, 1) }
	return r
}

// claim notes that the inode has n blocks from b on, and answers whether they are all in use.
func (r *claimer) claim(b, n uint64) bool {
	if at, free := r.free.first(b, n); free && r.taken == nil {
		r.taken = r.i.corrupt("it has block %d, which the bitmap of group %d calls free", at, r.f.s.groupOf(at))
	}
	return r.taken == nil
}

// group looks at the inodes of one group that may ever have been used, which are read in large pieces.
func (r *claimer) group(ctx context.Context, n uint32) error {
	s, g := r.f.s, r.f.groups[n]
	if g.flags&groupInodesUninit != 0 {
		return ctx.Err()
	}
	used, err := r.f.inodeBitmap(ctx, n)
	if err != nil {
		return err
	}
	count, batch := s.inodesPerGroup-min(g.unused, s.inodesPerGroup), inodeBatchBytes/s.inodeSize
	if r.buf == nil {
		r.buf = make([]byte, min(batch, s.inodesPerGroup)*s.inodeSize)
	}
	for from := uint32(0); from < count; from += batch {
		p := r.buf[:min(batch, count-from)*s.inodeSize]
		off := int64(g.table<<s.blockBits) + int64(from)*int64(s.inodeSize)
		if err := r.f.d.bytes(ctx, p, off); err != nil {
			return err
		}
		for k := from; len(p) > 0; k, p, off = k+1, p[s.inodeSize:], off+int64(s.inodeSize) {
			marked := used[k/8]&(1<<(k%8)) != 0
			if err := r.inode(ctx, n*s.inodesPerGroup+k+1, p[:s.inodeSize:s.inodeSize], off, marked); err != nil {
				return err
			}
		}
	}
	return nil
}

// inode looks at one inode; marked is what the bitmap of inodes says of it. Without a name it is in use only where the
// lists of deleted files have it. The file system's own inodes are in use as far as they have blocks.
func (r *claimer) inode(ctx context.Context, n uint32, p []byte, off int64, marked bool) error {
	inUse := le.Uint16(p) != 0 && le.Uint16(p[0x1a:]) != 0
	switch {
	case n < r.f.s.firstInode && n != inodeRoot:
		if !inUse && le.Uint32(p[0x68:]) == 0 && len(bytes.TrimLeft(p[0x28:0x64], "\x00")) == 0 {
			return nil
		}
	case !inUse && !marked:
		return nil
	case !inUse:
		if _, known := slices.BinarySearch(r.deleted, n); !known {
			return wrongInode(n, off, "its bitmap says that it is in use, and it is not")
		}
	case !marked:
		return wrongInode(n, off, "it is in use, and its bitmap says that it is not")
	}
	if err := r.f.readInode(&r.i, n, p, off); err != nil {
		return err
	}
	return r.blocks(ctx)
}

// wrongInode is an error about an inode whose place is known.
func wrongInode(n uint32, off int64, format string, args ...any) error {
	return &fsys.CorruptError{What: fmt.Sprintf("inode %d", n), Off: off, Why: fmt.Sprintf(format, args...)}
}

// blocks claims all blocks of the inode: those of its content, of its map, and of its attributes.
func (r *claimer) blocks(ctx context.Context) error {
	r.taken, r.m.total, r.m.blank = nil, 0, 0
	if b := r.f.attrBlock(&r.i); b != 0 {
		if b < r.f.s.first || !r.f.d.holds(b, 1) {
			return r.i.corrupt("its attributes are in block %d of %d", b, r.f.s.blocks)
		}
		r.claim(b, 1)
	}
	if r.f.hasMap(&r.i) {
		if err := r.m.walk(ctx); err != nil && r.taken == nil {
			return err
		}
	}
	if r.taken == nil && r.total.Add(r.m.total) > r.f.s.blocks {
		return r.i.corrupt("with it files have more blocks than the file system") // and so some have the same ones
	}
	return r.taken
}

// hasMap reports whether an inode has a block map: devices have a number in its place, short links their target.
func (v *view) hasMap(i *inode) bool {
	switch i.mode & modeType {
	case modeRegular, modeDir:
		return true
	case modeLink:
		return !v.fastLink(i)
	}
	return i.mode == 0 // one of the file system's own: the list of bad blocks
}

// attrBlock is the block of an inode's attributes; 0 where it has none.
func (v *view) attrBlock(i *inode) uint64 {
	b := uint64(le.Uint32(i.raw[0x68:]))
	if v.s.incompat&incompat64bit != 0 {
		b |= uint64(le.Uint16(i.raw[0x76:])) << 32
	}
	return b
}

// inodeBitmap reads and checks a group's bitmap of inodes. The descriptor is read again for it, for only this needs to know
// where it is.
func (v *view) inodeBitmap(ctx context.Context, n uint32) (bitmap, error) {
	block, err := v.d.block(ctx, v.s.descBlock(n/v.s.descPerBlock()))
	if err != nil {
		return nil, err
	}
	p := block[n%v.s.descPerBlock()*v.s.descSize:]
	at := v.s.parseGroup(p).inodes
	used, err := v.d.block(ctx, at)
	if err != nil || !v.s.metaSums() {
		return used, err
	}
	stored, want := uint32(le.Uint16(p[0x1a:])), crc32c(v.s.seed, used[:v.s.inodesPerGroup/8])
	if v.s.descSize >= 64 {
		stored |= uint32(le.Uint16(p[0x3a:])) << 16
	} else {
		want &= 0xffff
	}
	if stored != want {
		return nil, &fsys.CorruptError{
			What: fmt.Sprintf("bitmap of the inodes of group %d", n), Off: int64(at << v.s.blockBits),
			Why: fmt.Sprintf("checksum %#x, not %#x", want, stored),
		}
	}
	return used, nil
}

const (
	orphanMagic = 0x0b10ca04
	maxOrphans  = 1 << 20
)

// orphanNodes are the inodes that have lost their last name and were still open, or were just being truncated: ascending,
// from both places where drivers note them.
func (f *FS) orphanNodes(ctx context.Context) ([]uint32, error) {
	list, err := f.orphanList(ctx)
	if err == nil && f.s.orphans != 0 {
		list, err = f.orphanFile(ctx, list)
	}
	slices.Sort(list)
	return list, err
}

func (f *FS) orphan(list []uint32, n uint32) ([]uint32, error) {
	if n < f.s.firstInode || n > f.s.inodes || len(list) >= min(maxOrphans, int(f.s.inodes)) {
		return nil, &fsys.CorruptError{What: "list of deleted files", Off: -1, Why: fmt.Sprintf("inode %d after %d others", n, len(list))}
	}
	return append(list, n), nil
}

// orphanList follows the list that begins in the superblock. Each inode has the next one's number where otherwise the time of
// its deletion is.
func (f *FS) orphanList(ctx context.Context) (list []uint32, err error) {
	for n := f.s.lastOrphan; n != 0; {
		if list, err = f.orphan(list, n); err != nil {
			return nil, err
		}
		p, _, err := f.storedInode(ctx, n)
		if errors.Is(err, fs.ErrNotExist) {
			err = &fsys.CorruptError{What: "list of deleted files", Off: -1, Why: err.Error()}
		}
		if err != nil {
			return nil, err
		}
		n = le.Uint32(p[0x14:])
	}
	return list, nil
}

// orphanFile adds what the file of orphans lists: blocks full of inode numbers, with a magic number and a checksum at the end
// of each.
func (f *FS) orphanFile(ctx context.Context, list []uint32) ([]uint32, error) {
	i, err := f.inode(ctx, fsys.Node(f.s.orphans))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &fsys.CorruptError{What: "superblock", Off: superOff, Why: "its file of deleted files: " + err.Error()}
	}
	if err != nil {
		return nil, err
	}
	var failed error
	m := &mapper{v: &f.view, i: i, emit: func(x mapped) bool {
		for k := uint64(0); k < x.n && failed == nil; k++ {
			list, failed = f.orphanBlock(ctx, i, x.vol+k, list)
		}
		return failed == nil
	}}
	if err := m.walk(ctx); failed == nil {
		failed = err
	}
	return list, failed
}

func (f *FS) orphanBlock(ctx context.Context, i *inode, b uint64, list []uint32) ([]uint32, error) {
	p, err := f.d.block(ctx, b)
	if err != nil {
		return nil, err
	}
	end := len(p) - 8
	why := ""
	if le.Uint32(p[end:]) != orphanMagic {
		why = fmt.Sprintf("magic %#x", le.Uint32(p[end:]))
	} else if f.s.metaSums() {
		at := le.AppendUint64(nil, b)
		if stored, want := le.Uint32(p[end+4:]), crc32c(crc32c(i.seed, at), p[:end]); stored != want {
			why = fmt.Sprintf("checksum %#x, not %#x", want, stored)
		}
	}
	if why != "" {
		return nil, &fsys.CorruptError{What: "file of deleted files", Off: int64(b << f.s.blockBits), Why: why}
	}
	for ; end > 0 && err == nil; p, end = p[4:], end-4 {
		if n := le.Uint32(p); n != 0 {
			list, err = f.orphan(list, n)
		}
	}
	return list, err
}

const freeMapBytes = 64 << 20 // 2 TiB of blocks of 4 KiB

// freeMap is what of a window of groups is free. A group that is full has no bitmap, others have one as long as they need.
type freeMap struct {
	s     *super
	group uint32 // the first
	used  []bitmap
	room  int // bytes that bitmaps may take
}

// freeFrom fills a window from a group on, with at least one group.
func (f *FS) freeFrom(ctx context.Context, first uint32) (*freeMap, error) {
	m := &freeMap{s: f.s, group: first, room: f.window}
	return m, f.freeBatches(ctx, first, m.add)
}

func (m *freeMap) add(n uint32, used bitmap) bool {
	const header = 3 * bits.UintSize / 8
	count := m.s.clusters(n)
	if used.next(0, count, false) == count {
		used = nil
	} else {
		used = slices.Clone(used[:(count+63)/64*8])
	}
	m.used = append(m.used, used)
	m.room -= header + len(used)
	return m.room > 0
}

// first finds the first block of n from b on that is free.
func (m *freeMap) first(b, n uint64) (uint64, bool) {
	lo := m.s.groupStart(m.group)
	hi := m.s.groupStart(m.group + uint32(len(m.used)))
	b, end := max(b, lo), min(b+n, hi, m.s.blocks)
	for b < end {
		g := m.s.groupOf(b)
		start, stop := m.s.groupStart(g), min(end, m.s.groupEnd(g))
		if used := m.used[g-m.group]; used != nil {
			from, to := uint32((b-start)>>m.s.clusterBits), uint32((stop-start-1)>>m.s.clusterBits)+1
			if k := used.next(from, to, false); k < to {
				return max(b, start+uint64(k)<<m.s.clusterBits), true
			}
		}
		b = stop
	}
	return 0, false
}
