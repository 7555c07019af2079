package xfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
	"github.com/hikae/hikae/pipe/exclude/xfs"
)

// patient is a sample that is damaged and healed again.
type patient struct {
	img  []byte
	used []int // sectors that hold anything
	old  []backup
}

type backup struct {
	at int
	b  []byte
}

func newPatient(t testing.TB, name string) *patient {
	p := &patient{img: slices.Clone(load(t, name))}
	zero := make([]byte, 512)
	for s := range len(p.img) / 512 {
		if !bytes.Equal(p.img[s*512:][:512], zero) {
			p.used = append(p.used, s)
		}
	}
	return p
}

// reach is how many sectors around the damage sealing may change: a record of the log.
const reach = 700

// hit writes b into a sector, and seals what holds it so that no checksum tells.
func (p *patient) hit(sector, off int, b []byte, seal bool) {
	from, to := max(0, sector-reach)*512, min(len(p.img), (sector+reach)*512)
	p.old = append(p.old, backup{from, slices.Clone(p.img[from:to])})
	copy(p.img[sector*512+off:(sector+1)*512], b)
	if seal {
		xfs.Reseal(p.img, sector)
	}
}

func (p *patient) heal() {
	for _, o := range slices.Backward(p.old) {
		copy(p.img[o.at:], o.b)
	}
	p.old = p.old[:0]
}

// damage does what each five bytes say: which sector, where in it, and with what.
func (p *patient) damage(data []byte, seal bool) {
	for range 12 {
		if len(data) < 5 {
			return
		}
		sector := p.used[int(binary.BigEndian.Uint16(data))%len(p.used)]
		off, v := int(binary.BigEndian.Uint16(data[2:])), data[4]
		b := []byte{v}
		switch off >> 9 & 7 { // fields are rarely single bytes
		case 1:
			b = []byte{0xff, 0xff, 0xff, 0xff}
		case 2:
			b = []byte{0, 0, 0, v}
		case 3:
			b = []byte{0, v}
		case 4: // what stands elsewhere
			b = slices.Clone(p.img[p.used[int(v)*7%len(p.used)]*512:][:512])
			off = 0
		}
		p.hit(sector, off%512, b, seal)
		data = data[5:]
	}
}

// survive opens a hostile volume and uses all of it, within the bounds that a volume of its size may have.
func survive(t *testing.T, img []byte) (doubt string) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	vol := &fsystest.Counted{Image: volume(img)}
	f, err := xfs.Open(t.Context(), vol)
	if err != nil {
		require.True(t, errors.Is(err, fsys.ErrOther) || errors.As(err, new(*fsys.CorruptError)), "%v", err)
		return err.Error()
	}
	if list, err := fsystest.FreeOf(t.Context(), f, int64(len(img))); err != nil {
		require.ErrorAs(t, err, new(*fsys.CorruptError))
		require.NotEmpty(t, f.Info().Doubt)
		require.Empty(t, list)
	}
	left := 3000
	_ = walk(t.Context(), f, "", f.Root(), func(_ string, e fsys.Entry) error {
		if left--; left < 0 {
			return errors.New("enough")
		}
		p := make([]byte, 8<<10)
		_, _ = f.Stat(t.Context(), e.Node)
		_, _ = f.ReadAt(t.Context(), e.Node, p, 0)
		_, _ = f.Readlink(t.Context(), e.Node)
		runs := 0
		for range f.Runs(t.Context(), e.Node) {
			if runs++; runs > 1000 {
				break
			}
		}
		return nil
	})
	runtime.ReadMemStats(&after)
	require.Less(t, vol.Bytes.Load(), int64(512<<20), "it reads too much")
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(512<<20), "it allocates too much")
	require.Less(t, time.Since(began), 10*time.Second) // a second, on a machine that has other work too
	return f.Info().Doubt
}

// FuzzOpen damages small volumes, with and without putting the checksums right. The first byte chooses one.
func FuzzOpen(f *testing.F) {
	patients := []*patient{}
	for _, s := range samples {
		patients = append(patients, newPatient(f, s.name))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 24 {
		data := []byte{byte(i)}
		for range 5 * (1 + rng.IntN(6)) {
			data = append(data, byte(rng.Uint32()))
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		p := patients[int(data[0])%len(patients)]
		defer p.heal()
		p.damage(data[1:], data[0]&0x80 == 0)
		survive(t, p.img)
	})
}

// TestDamage changes what says which blocks are free, and what proves it: every change is a doubt, and nothing is free.
func TestDamage(t *testing.T) {
	p := newPatient(t, "clean")
	sector := func(magic string, n int) int {
		for _, s := range p.used {
			if string(p.img[s*512:][:len(magic)]) == magic {
				if n--; n < 0 {
					return s
				}
			}
		}
		t.Fatalf("no %q", magic)
		return 0
	}
	be32 := func(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
	for _, c := range []struct {
		name  string
		magic string
		off   int
		b     []byte
		seal  bool
		doubt string
	}{
		{name: "a bit of the superblock", magic: "XFSB", off: 300, b: []byte{1}, doubt: "superblock's checksum"},
		{name: "an unknown incompatible feature", magic: "XFSB", off: 216, b: be32(0x80000001), seal: true, doubt: "unknown incompatible features"},
		{name: "an unknown feature for writers", magic: "XFSB", off: 212, b: be32(0x101), seal: true, doubt: "unknown features for writing"},
		{name: "an unknown log feature", magic: "XFSB", off: 220, b: be32(6), seal: true, doubt: "unknown log features"},
		{name: "in need of repair", magic: "XFSB", off: 216, b: be32(0x11), seal: true, doubt: "in need of repair"},
		{name: "a realtime section", magic: "XFSB", off: 16, b: be32(1), seal: true, doubt: "realtime"},
		{name: "an external log", magic: "XFSB", off: 48, b: make([]byte, 8), seal: true, doubt: "on another device"},
		{name: "not finished", magic: "XFSB", off: 126, b: []byte{1}, seal: true, doubt: "under way"},
		{name: "a bit of an AGF", magic: "XAGF", off: 100, b: []byte{1}, doubt: "wrong checksum"},
		{name: "another count of free blocks", magic: "XAGF", off: 52, b: be32(77), seal: true, doubt: "77 free blocks"},
		{name: "another group's AGF", magic: "XAGF", off: 8, b: be32(1), seal: true, doubt: "group 1"},
		{name: "another file system's AGF", magic: "XAGF", off: 64, b: be32(1), seal: true, doubt: "another file system"},
		{name: "an AGF from the future", magic: "XAGF", off: 208, b: be32(1000), seal: true, doubt: "newer than the log"},
		{name: "a root that is none", magic: "XAGF", off: 16, b: be32(3), seal: true, doubt: "free space by block"},
		{name: "too many levels", magic: "XAGF", off: 28, b: be32(1 << 30), seal: true, doubt: "levels"},
		{name: "a list of blocks set aside", magic: "XAGF", off: 48, b: be32(1 << 20), seal: true, doubt: "its list"},
		{name: "a block set aside that is free", magic: "XAFL", off: 36, b: bytes.Repeat(be32(2000), 20), seal: true, doubt: "set aside"},
		{name: "a bit of a tree", magic: "AB3B", off: 400, b: []byte{1}, doubt: "wrong checksum"},
		{name: "a longer extent", magic: "AB3B", off: 60, b: be32(1 << 20), seal: true, doubt: "free space by block"},
		{name: "an extent at the group's headers", magic: "AB3B", off: 56, b: be32(0), seal: true, doubt: "free"},
		{name: "a tree's block of another place", magic: "AB3B", off: 16, b: be32(9), seal: true, doubt: "written for byte"},
		{name: "a tree's block of another owner", magic: "AB3B", off: 48, b: be32(9), seal: true, doubt: "belongs to 9"},
		{name: "a neighbour that is not reached", magic: "AB3B", off: 12, b: be32(9), seal: true, doubt: "not reached"},
		{name: "trees that differ", magic: "AB3C", off: 56, b: be32(11), seal: true, doubt: "by length"},
		{name: "inodes in free blocks", magic: "IAB3", off: 56, b: be32(2000 * 8), seal: true, doubt: "inodes"},
		{name: "an AGI of another length", magic: "XAGI", off: 12, b: be32(5), seal: true, doubt: "5 blocks"},
		{name: "another count of inodes", magic: "XAGI", off: 16, b: be32(64), seal: true, doubt: "64 inodes"},
		{name: "another count of free inodes", magic: "XAGI", off: 28, b: be32(1), seal: true, doubt: "1 free"},
		{name: "a bit of an inode", magic: "IN", off: 300, b: []byte{1}, doubt: "wrong checksum"},
		{name: "an inode in use that is not", magic: "IN", off: 2, b: []byte{0, 0}, seal: true, doubt: "it is in use, and it is not"},
		{name: "a fork in an unknown format", magic: "IN", off: 5, b: []byte{9}, seal: true, doubt: "content in format 9"},
		{name: "attributes without a fork", magic: "IN", off: 80, b: []byte{0, 1, 0, 2}, seal: true, doubt: "1 extents in 0 bytes"},
		{name: "a torn log", magic: "\xfe\xed\xba\xbe", off: 0, b: be32(0), doubt: "log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer p.heal()
			p.hit(sector(c.magic, 0), c.off, c.b, c.seal)
			doubt := survive(t, p.img)
			assert.Contains(t, doubt, c.doubt)
		})
	}
	t.Run("healed", func(t *testing.T) { assert.Empty(t, survive(t, p.img)) })
}

// TestShort cuts volumes off everywhere.
func TestShort(t *testing.T) {
	p := newPatient(t, "busy1k")
	for _, n := range []int{0, 1, 511, 512, 513, 1024, 4095, 4096, 64 << 10, 1 << 20, len(p.img) / 2, len(p.img) - 1} {
		assert.NotEmpty(t, survive(t, p.img[:n]), n)
	}
	_, err := xfs.Open(t.Context(), volume(bytes.Repeat([]byte("ext4"), 4096)))
	require.ErrorIs(t, err, fsys.ErrOther)
}
