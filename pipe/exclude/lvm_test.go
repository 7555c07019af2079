package exclude_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/pipetest"
)

const groupText = `vg0 {
id = "GGGGGG-GGGG-GGGG-GGGG-GGGG-GGGG-GGGGGG"
seqno = 7
status = ["RESIZEABLE", "READ", "WRITE"]
format = "lvm2"
extent_size = 2048
physical_volumes {
pv0 {
id = "aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa"
pe_start = 2048
pe_count = 30
}
pv1 {
id = "bbbbbb-bbbb-bbbb-bbbb-bbbb-bbbb-bbbbbb"
pe_start = 2048
pe_count = 30
}
}
logical_volumes {
root {
id = "r"
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 2
segment1 {
start_extent = 0
extent_count = 10
type = "striped"
stripe_count = 1
stripes = [
"pv1", 3
]
}
segment2 {
start_extent = 10
extent_count = 14
type = "striped"
stripe_count = 2
stripe_size = 128
stripes = [
"pv0", 1,
"pv1", 14
]
}
}
swap {
id = "s"
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1
segment1 {
start_extent = 0
extent_count = 4
type = "striped"
stripe_count = 1
stripes = [
"pv0", 20
]
}
}
}
}
`

// physical is a disk that is a physical volume of 31 MiB, full of noise where its extents are.
func physical(id byte) []byte {
	le, sum := binary.LittleEndian, func(p []byte) uint32 { return ^crc32.Update(^uint32(0xF597A6CF), crc32.IEEETable, p) }
	p := append(make([]byte, mib), noise(uint64(id), 30*mib)...)
	s, h := p[512:1024], p[4096:4608]
	copy(s, "LABELONE")
	copy(s[24:], "LVM2 001"+strings.Repeat(string(id), 32))
	le.PutUint64(s[8:], 1)
	le.PutUint32(s[20:], 32)
	le.PutUint64(s[64:], uint64(len(p)))
	le.PutUint64(s[72:], mib)
	le.PutUint64(s[104:], 4096)
	le.PutUint64(s[112:], mib-4096)
	le.PutUint32(s[16:], sum(s[20:]))
	copy(h[4:], " LVM2 x[5A%r0N*>")
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[24:], 4096)
	le.PutUint64(h[32:], mib-4096)
	le.PutUint64(h[40:], 512)
	le.PutUint64(h[48:], uint64(len(groupText)))
	le.PutUint32(h[56:], sum([]byte(groupText)))
	copy(p[4608:], groupText)
	le.PutUint32(h, sum(h[4:]))
	return p
}

// rootParts are the pieces of vg0/root: the disk, where they lie on it, in the order of the volume.
func rootParts() (parts []fsys.Range, disk []int) {
	parts, disk = append(parts, fsys.Range{Off: 4 * mib, Len: 10 * mib}), append(disk, 1)
	for i := int64(0); i < 14*16; i++ {
		parts = append(parts, fsys.Range{Off: []int64{2 * mib, 15 * mib}[i%2] + i/2*65536, Len: 65536})
		disk = append(disk, int(i%2))
	}
	return parts, disk
}

// R017, R018: on logical volumes, one of them over two disks and in part striped. What is left out is so in the right
// places: the restored volume has nothing that e2fsck would mend, and all of its files.
func TestLogicalVolumes(t *testing.T) {
	volume24 := blank(t, 24*mib)
	files := map[string][]byte{"keep": noise(1, 3*mib), "tmp/junk": noise(2, 6*mib), "also": noise(3, 5*mib)}
	tool(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "wurzel", "-d", tree(t, files), volume24)
	content := load(t, volume24)
	disks := [][]byte{physical('a'), physical('b')}
	parts, on := rootParts()
	at := int64(0)
	for i, p := range parts {
		copy(disks[on[i]][p.Off:p.End()], content[at:at+p.Len])
		at += p.Len
	}
	area := blank(t, 4*mib)
	tool(t, "", "mkswap", "-q", area)
	copy(disks[0][21*mib:], load(t, area)[:4096])

	var list []exclude.Disk
	for i, d := range disks {
		list = append(list, exclude.Disk{Key: fmt.Sprint("d", i), Image: pipetest.Bytes(d)})
	}
	plan := analyse(t, &exclude.Options{Swap: true, Free: true, Files: []string{"tmp"}, BlockSize: 16 << 10}, list...)
	root, swap := volume(t, plan, "vg0/root"), volume(t, plan, "vg0/swap")
	require.Equal(t, []any{"ext4", "wurzel", "", int64(1)}, []any{root.Kind, root.Label, root.Whole, root.Files})
	require.Greater(t, root.Free, int64(4*mib))
	require.Equal(t, []any{"", int64(4*mib - 4096)}, []any{swap.Whole, swap.Swap})

	back := make([][]byte, 2)
	for i, d := range list {
		var stats pipe.Stats
		back[i], stats = restored(t, plan.Image(d.Key, d.Image), 16<<10)
		require.Positive(t, stats.Skipped[pipe.Free]+stats.Skipped[pipe.Excluded])
		require.True(t, bytes.Equal(disks[i][:mib], back[i][:mib]), "labels and metadata")
		require.True(t, bytes.Equal(disks[i][26*mib:], back[i][26*mib:]), "extents of no volume")
	}
	got := []byte(nil)
	for i, p := range parts {
		got = append(got, back[on[i]][p.Off:p.End()]...)
	}
	require.NoError(t, os.WriteFile(volume24, got, 0o600))
	tool(t, "", "e2fsck", "-fn", volume24)
	for _, name := range []string{"keep", "also"} {
		out := blank(t, 0)
		tool(t, "", "debugfs", "-R", "dump /"+name+" "+out, volume24)
		require.True(t, bytes.Equal(files[name], load(t, out)), name)
	}
	require.True(t, bytes.Equal(disks[0][21*mib:21*mib+4096], back[0][21*mib:21*mib+4096]), "the header of the swap space")
}
