package ext

import (
	"context"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Places are the bytes of a volume at which the tests do damage: one in each kind of structure.
func Places(ctx context.Context, f fsys.FileSystem, file, dir, link fsys.Node) map[string]int64 {
	x := f.(*FS)
	at := func(b uint64) int64 { return int64(b << x.s.blockBits) }
	inode := func(n fsys.Node) int64 {
		g := x.groups[(uint32(n)-1)/x.s.inodesPerGroup]
		return at(g.table) + int64((uint32(n)-1)%x.s.inodesPerGroup)*int64(x.s.inodeSize)
	}
	out := map[string]int64{
		"superblock": superOff + 0x30, "descriptor": at(x.s.descBlock(0)) + 0xc, "bitmap": at(x.groups[0].bitmap) + 40,
		"inode of the root": inode(inodeRoot) + 0x10, "inode of a file": inode(file) + 0x10, "inode of a link": inode(link) + 0x10,
	}
	for name, n := range map[string]fsys.Node{"map of a file": file, "map of a directory": dir} {
		i, err := x.inode(ctx, n)
		if err != nil {
			continue
		}
		m := &mapper{v: &x.view, i: i, emit: func(m mapped) bool {
			if n == dir && m.file == 0 {
				out["index of a directory"] = at(m.vol) + 44
				out["block of a directory"] = at(m.vol+m.n-1) + 20
			}
			return true
		}, node: func(b uint64) { out[name] = at(b) + 20 }}
		_ = m.walk(ctx)
	}
	return out
}

// OneGroup makes a file system check its bitmaps group by group, as a volume does that is much too large for one window.
func OneGroup(f fsys.FileSystem) { f.(*FS).window = 1 }

// GroupOf is a block's group, and how many clusters its descriptor calls free.
func GroupOf(f fsys.FileSystem, block uint64) (group, free uint32) {
	n := f.(*FS).s.groupOf(block)
	return n, f.(*FS).groups[n].free
}

// AttrBlock is the block of an inode's attributes.
func AttrBlock(ctx context.Context, f fsys.FileSystem, n fsys.Node) uint64 {
	i, err := f.(*FS).inode(ctx, n)
	if err != nil {
		panic(err)
	}
	return f.(*FS).attrBlock(i)
}

// Replayed reads blocks as they are after replay.
func Replayed(ctx context.Context, f fsys.FileSystem, block uint64, n int) []byte {
	x := f.(*FS)
	p := make([]byte, n<<x.s.blockBits)
	if err := x.d.bytes(ctx, p, int64(block<<x.s.blockBits)); err != nil {
		panic(err)
	}
	return p
}

// LogPlaces are bytes of a volume within the parts of its log.
func LogPlaces(ctx context.Context, vol pipe.Image) map[string]int64 {
	s, err := readSuper(ctx, vol)
	if err != nil {
		panic(err)
	}
	f := &FS{view: view{d: newDisk(vol, s, nil), s: s}}
	j, err := f.openLog(ctx)
	if err != nil {
		panic(err)
	}
	records, end, err := j.scan(ctx)
	if err != nil {
		panic(err)
	}
	at := func(n uint32, in int64) int64 {
		b, _ := j.place(n)
		return int64(b<<s.blockBits) + in
	}
	out := map[string]int64{"superblock": at(0, 0x14)}
	var last uint32
	p := make([]byte, f.d.blockSize())
	for _, r := range records {
		if r.revokes {
			out["revocation"] = at(r.at, 0x14)
			continue
		}
		out["descriptor"], out["block"] = at(r.at, 0x11), at(j.after(r.at, 1), 100)
		if err := j.read(ctx, p, r.at); err != nil {
			panic(err)
		}
		n := uint32(0)
		for range j.tags(p) {
			n++
		}
		last = j.after(r.at, n+1)
	}
	for { // revocations may stand between
		if err := j.read(ctx, p, last); err != nil {
			panic(err)
		}
		if be.Uint32(p[4:]) == logCommit && be.Uint32(p[8:]) == end-1 {
			break
		}
		last = j.after(last, 1)
	}
	out["last commit"], out["magic of the last commit"] = at(last, 0x38), at(last, 0)
	return out
}
