package layout_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/layout"
)

// pv is a physical volume to be made: where its text lies, and what of it is spoilt.
type pv struct {
	id   string
	text string
	at   int64 // of the text in its ring; 0: at its beginning

	noise bool // its extents hold random bytes
}

const (
	extent   = 64 << 10
	pvSize   = peStart + 63*extent
	ringAt   = 4096
	ringSize = 1<<20 - ringAt
	peStart  = 1 << 20
)

func lvmSum(p []byte) uint32 { return ^crc32.Update(^uint32(0xF597A6CF), crc32.IEEETable, p) }

// make writes a physical volume, as the tools lay it out.
func (v pv) make() []byte {
	p := append(v.head(), make([]byte, pvSize-peStart)...)
	if v.noise {
		_, _ = rand.NewChaCha8([32]byte{v.id[0]}).Read(p[peStart:])
	}
	return p
}

// head is what stands before the extents.
func (v pv) head() []byte {
	le := binary.LittleEndian
	p := make([]byte, peStart)
	s := p[512:1024]
	copy(s, "LABELONE")
	le.PutUint64(s[8:], 1)
	le.PutUint32(s[20:], 32)
	copy(s[24:], "LVM2 001")
	copy(s[32:], v.id)
	le.PutUint64(s[64:], pvSize)
	le.PutUint64(s[72:], peStart)
	le.PutUint64(s[104:], ringAt)
	le.PutUint64(s[112:], ringSize)
	le.PutUint32(s[16:], lvmSum(s[20:]))
	h := p[ringAt : ringAt+512]
	copy(h[4:], " LVM2 x[5A%r0N*>")
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[24:], ringAt)
	le.PutUint64(h[32:], ringSize)
	if v.text != "" {
		at := max(v.at, 512)
		le.PutUint64(h[40:], uint64(at))
		le.PutUint64(h[48:], uint64(len(v.text)))
		le.PutUint32(h[56:], lvmSum([]byte(v.text)))
		n := copy(p[ringAt+at:ringAt+ringSize], v.text)
		copy(p[ringAt+512:], v.text[n:])
	}
	le.PutUint32(h, lvmSum(h[4:]))
	return p
}

func id(n int) string { return strings.Repeat(string(rune('a'+n)), 32) }

func dashed(id string) string {
	return strings.Join([]string{id[:6], id[6:10], id[10:14], id[14:18], id[18:22], id[22:26], id[26:]}, "-")
}

// groupText describes a volume group on n physical volumes with extents of 64 KiB.
func groupText(n int, volumes string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# made for a test\nvg0 {\nid = \"%s\"\nseqno = 3\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\"]\nextent_size = 128\nphysical_volumes {\n", dashed(id(9)))
	for i := range n {
		fmt.Fprintf(&b, "pv%d {\nid = \"%s\"\ndevice = \"/dev/sd%c\"\ndev_size = 131072\npe_start = 2048\npe_count = 63\n}\n", i, dashed(id(i)), 'a'+i)
	}
	return b.String() + "}\nlogical_volumes {\n" + volumes + "}\n}\ncontents = \"Text Format Volume Group\"\nversion = 1\n"
}

func lv(name, flags string, segments ...string) string {
	s := fmt.Sprintf("%s {\nid = \"x\"\nstatus = [\"READ\", \"WRITE\"%s]\ncreation_time = 1\nsegment_count = %d\n", name, flags, len(segments))
	for i, g := range segments {
		s += fmt.Sprintf("segment%d {\n%s\n}\n", i+1, g)
	}
	return s + "}\n"
}

const visible = `, "VISIBLE"`

func linear(start, count int, pv string, first int) string {
	return fmt.Sprintf("start_extent = %d\nextent_count = %d\ntype = \"striped\"\nstripe_count = 1\nstripes = [\n\"%s\", %d\n]", start, count, pv, first)
}

func disks(data ...[]byte) (out []layout.Disk) {
	for i, p := range data {
		out = append(out, layout.Disk{Key: fmt.Sprintf("d%d", i), Image: pipe.FromReaderAt(bytes.NewReader(p), int64(len(p)))})
	}
	return out
}

func content(t *testing.T, v *layout.Volume) []byte {
	t.Helper()
	p := make([]byte, v.Size)
	n, err := v.Image().ReadAt(context.Background(), p, 0)
	require.NoError(t, err)
	require.Len(t, p, n)
	return p
}

// Linear volumes in several pieces and striped ones, over two disks, of which one lies in a partition; the text wraps
// around its ring on one of them.
func TestLinearAndStriped(t *testing.T) {
	text := groupText(2, lv("root", visible, linear(0, 3, "pv0", 10), linear(3, 2, "pv1", 0))+
		lv("data", visible, "start_extent = 0\nextent_count = 6\ntype = \"striped\"\nstripe_count = 2\nstripe_size = 128\nstripes = [\n\"pv1\", 20,\n\"pv0\", 30\n]"))
	a, b := pv{id(0), text, 0, true}.make(), pv{id(1), text, ringSize - 100, true}.make()
	disk := append(make([]byte, 1<<20), b...)
	copy(disk[446:], []byte{0, 0, 0, 0, 0x8E, 0, 0, 0, 0, 8, 0, 0, 0x80, 0x27, 0, 0})
	disk[510], disk[511] = 0x55, 0xAA
	l := read(t, disks(a, disk)...)
	require.Equal(t, []string{"vg0/data", "vg0/root"}, sorted(names(l)))
	for _, v := range l.Volumes {
		require.Empty(t, v.Whole, v.Name)
	}
	ext := func(p []byte, n, count int) []byte { return p[peStart+n*extent : peStart+(n+count)*extent] }
	root := named(t, l, "vg0/root")
	require.True(t, bytes.Equal(append(bytes.Clone(ext(a, 10, 3)), ext(b, 0, 2)...), content(t, root)))
	data := named(t, l, "vg0/data")
	var want []byte
	for i := range 3 {
		want = append(want, ext(b, 20, 3)[i*65536:][:65536]...)
		want = append(want, ext(a, 30, 3)[i*65536:][:65536]...)
	}
	require.True(t, bytes.Equal(want, content(t, data)))
	require.Equal(t, []layout.Place{{Disk: "d1", Off: 2<<20 + 20*extent, N: 3 * extent}, {Disk: "d0", Off: peStart + 30*extent, N: 3 * extent}}, data.Places())
}

func sorted(s []string) []string {
	for i := range s {
		for j := i; j > 0 && s[j] < s[j-1]; j-- {
			s[j], s[j-1] = s[j-1], s[j]
		}
	}
	return s
}

// Where a range of a volume lies, byte by byte, by reading both.
func TestLocate(t *testing.T) {
	text := groupText(3, lv("data", visible, linear(0, 1, "pv2", 0),
		"start_extent = 1\nextent_count = 6\ntype = \"striped\"\nstripe_count = 3\nstripe_size = 64\nstripes = [\n\"pv1\", 20,\n\"pv0\", 30,\n\"pv2\", 7\n]"))
	list := disks(pv{id(0), text, 0, true}.make(), pv{id(1), "", 0, true}.make(), pv{id(2), text, 0, true}.make())
	v := named(t, read(t, list...), "vg0/data")
	all := content(t, v)
	byKey := map[string]pipe.Image{}
	for _, d := range list {
		byKey[d.Key] = d.Image
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		off := rnd.Int64N(v.Size) &^ 511
		n := min(1+rnd.Int64N(300_000), v.Size-off)
		var sum int64
		ends := map[int]int64{}
		for i, p := range v.Locate(off, n) {
			sum += p.N
			require.GreaterOrEqual(t, p.Off, ends[i], "later behind earlier")
			ends[i] = p.Off + p.N
			got := make([]byte, p.N)
			_, err := byKey[p.Disk].ReadAt(t.Context(), got, p.Off)
			require.NoError(t, err)
			// The bytes of a place come in the volume's order.
			at := bytes.Index(all[off:off+n], got[:min(512, len(got))])
			require.GreaterOrEqual(t, at, 0)
		}
		require.Equal(t, n, sum)
	}
	// Extents cover it, whatever the stripes.
	pos := int64(0)
	for e, err := range pipe.Extents(t.Context(), v.Image(), 0, v.Size) {
		require.NoError(t, err)
		require.Equal(t, pos, e.Off)
		pos = e.End()
	}
	require.Equal(t, v.Size, pos)
}

// What is not linear or striped, or belongs to something that is not, is stored whole, and says why.
func TestLogicalVolumesThatAreWhole(t *testing.T) {
	thin := "start_extent = 0\nextent_count = 4\ntype = \"thin\"\nthin_pool = \"pool\"\ntransaction_id = 1\ndevice_id = 1"
	pool := "start_extent = 0\nextent_count = 4\ntype = \"thin-pool\"\nmetadata = \"pool_tmeta\"\npool = \"pool_tdata\""
	snap := "start_extent = 0\nextent_count = 2\ntype = \"snapshot\"\nchunk_size = 8\norigin = \"root\"\ncow_store = \"cow\""
	for name, c := range map[string]struct {
		volumes string
		whole   map[string]string // by volume: a part of the reason
	}{
		"thin": {lv("t", visible, thin) + lv("pool", "", pool) + lv("pool_tdata", "", linear(0, 4, "pv0", 0)) + lv("pool_tmeta", "", linear(0, 1, "pv0", 5)) + lv("other", visible, linear(0, 1, "pv0", 9)),
			map[string]string{"t": "thin", "pool": "part of another", "pool_tdata": "part of another", "pool_tmeta": "part of another", "other": ""}},
		"snapshot": {lv("root", visible, linear(0, 2, "pv0", 0)) + lv("cow", visible, linear(0, 1, "pv0", 2)) + lv("snapshot0", "", snap),
			map[string]string{"root": "builds on it", "cow": "builds on it", "snapshot0": "part of another"}},
		"raid":      {lv("r", visible, "start_extent = 0\nextent_count = 2\ntype = \"raid1\"\nraids = [\"x\", \"y\"]"), map[string]string{"r": "raid1"}},
		"cache":     {lv("r", visible, "start_extent = 0\nextent_count = 2\ntype = \"cache\"\ncache_pool = \"p\"\norigin = \"o\""), map[string]string{"r": "cache"}},
		"vdo":       {lv("r", visible, "start_extent = 0\nextent_count = 2\ntype = \"vdo\""), map[string]string{"r": "vdo"}},
		"integrity": {lv("r", visible, "start_extent = 0\nextent_count = 2\ntype = \"integrity\""), map[string]string{"r": "integrity"}},
		"mirror":    {lv("r", visible, "start_extent = 0\nextent_count = 2\ntype = \"mirror\"\nmirror_count = 2"), map[string]string{"r": "mirror"}},
		"stacked":   {lv("r", visible, linear(0, 2, "pvmove0", 0)) + lv("pvmove0", `, "PVMOVE"`, linear(0, 2, "pv0", 0)), map[string]string{"r": "another logical volume", "pvmove0": "part of"}},
		"overlap":   {lv("a", visible, linear(0, 3, "pv0", 0)) + lv("b", visible, linear(0, 3, "pv0", 2)) + lv("c", visible, linear(0, 3, "pv0", 5)), map[string]string{"a": "overlaps", "b": "overlaps", "c": ""}},
		"outside":   {lv("a", visible, linear(0, 3, "pv0", 61)), map[string]string{"a": "no sense"}},
		"gap":       {lv("a", visible, linear(1, 3, "pv0", 0)), map[string]string{"a": "no sense"}},
		"stripes": {lv("a", visible, "start_extent = 0\nextent_count = 3\ntype = \"striped\"\nstripe_count = 2\nstripe_size = 128\nstripes = [\"pv0\", 0, \"pv0\", 9]"),
			map[string]string{"a": "no sense"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := read(t, disks(pv{id(0), groupText(1, c.volumes), 0, false}.make())...)
			for n, part := range c.whole {
				whole := named(t, l, "vg0/"+n).Whole
				require.Contains(t, whole, part)
				require.Equal(t, part == "", whole == "", whole)
			}
		})
	}
}

// A group that contradicts itself, or of which a disk is missing, gives nothing away.
func TestGroupsThatAreDoubtful(t *testing.T) {
	text := groupText(2, lv("root", visible, linear(0, 3, "pv0", 0))+lv("both", visible, linear(0, 1, "pv0", 5), linear(1, 1, "pv1", 5)))
	good := func() ([]byte, []byte) { return pv{id(0), text, 0, false}.make(), pv{id(1), text, 0, false}.make() }
	a, b := good()
	l := read(t, disks(a)...)
	require.Empty(t, named(t, l, "vg0/root").Whole)
	require.Contains(t, named(t, l, "vg0/both").Whole, "not here")
	_, err := named(t, l, "vg0/both").Image().ReadAt(t.Context(), make([]byte, 2<<20), 0)
	require.Error(t, err)

	old := pv{id(1), strings.Replace(text, "seqno = 3", "seqno = 2", 1), 0, false}.make()
	for name, list := range map[string][][]byte{
		"two versions":     {a, old},
		"twin":             {a, b, a},
		"label":            {spoil(a, 512+40), b},
		"metadata header":  {spoil(a, ringAt+30), b},
		"text":             {spoil(a, ringAt+600), b},
		"over its ring":    {pv{id(0), strings.ReplaceAll(text, "pe_start = 2048", "pe_start = 64"), 0, false}.make()},
		"other text":       {pv{id(0), "hello { world = 1 }", 0, false}.make()},
		"no text":          {pv{id(0), "", 0, false}.make()},
		"cut short":        {a[:pvSize/2], b},
		"broken text":      {pv{id(0), text[:len(text)/2], 0, false}.make()},
		"deep text":        {pv{id(0), strings.Repeat("a {", 100), 0, false}.make()},
		"two groups claim": {pv{id(0), text, 0, false}.make(), pv{id(1), strings.Replace(strings.Replace(text, dashed(id(9)), dashed(id(8)), 1), "vg0", "vg1", 1), 0, false}.make()},
	} {
		l := read(t, disks(list...)...)
		require.NotEmpty(t, l.Volumes, name)
		for _, v := range l.Volumes {
			require.NotEmpty(t, v.Whole, "%s: %s", name, v.Name)
		}
	}
}

func spoil(p []byte, at int) []byte {
	p = bytes.Clone(p)
	p[at] ^= 1
	return p
}

// What the real tools write: physical volumes on loop devices, a group on both, linear and striped volumes in it.
func TestGroupByLVM(t *testing.T) {
	for _, name := range []string{"losetup", "pvcreate", "vgcreate", "lvcreate"} {
		if _, err := exec.LookPath(name); err != nil && !exists("/usr/sbin/"+name) && !exists("/sbin/"+name) {
			t.Skipf("needs %s", name)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, for loop devices")
	}
	var loops, paths []string
	for range 2 {
		path := blank(t, 64<<20)
		out, err := exec.CommandContext(t.Context(), "losetup", "-f", "--show", path).Output()
		if err != nil {
			t.Skipf("needs loop devices: %v", err)
		}
		loop := strings.TrimSpace(string(out))
		t.Cleanup(func() { _ = exec.Command("losetup", "-d", loop).Run() })
		loops, paths = append(loops, loop), append(paths, path)
	}
	config := fmt.Sprintf(`devices{filter=["a|^%s$|","a|^%s$|","r|.*|"] use_devicesfile=0} activation{udev_sync=0 udev_rules=0 monitoring=0} backup{backup=0 archive=0}`, loops[0], loops[1])
	lvm := func(name string, args ...string) {
		tool(t, "", name, append([]string{"--driverloaded", "n", "--config", config}, args...)...)
	}
	lvm("pvcreate", loops[0], loops[1])
	lvm("vgcreate", "-s", "1m", "vg-a", loops[0], loops[1])
	lvm("lvcreate", "-an", "-Zn", "-Wn", "-L", "16M", "-n", "root", "vg-a")
	lvm("lvcreate", "-an", "-Zn", "-Wn", "-L", "24M", "-i", "2", "-I", "64k", "-n", "data", "vg-a")
	lvm("lvcreate", "-an", "-Zn", "-Wn", "-L", "60M", "-n", "both", "vg-a")
	l := read(t, layout.Disk{Key: "a", Image: openFile(t, paths[0])}, layout.Disk{Key: "b", Image: openFile(t, paths[1])})
	require.Equal(t, []string{"vg-a/both", "vg-a/data", "vg-a/root"}, sorted(names(l)))
	for _, v := range l.Volumes {
		require.Empty(t, v.Whole, v.Name)
	}
	require.Equal(t, int64(16<<20), named(t, l, "vg-a/root").Size)
	require.Equal(t, []layout.Place{{Disk: "a", Off: 1 << 20, N: 16 << 20}}, named(t, l, "vg-a/root").Places())
	require.Equal(t, []layout.Place{{Disk: "a", Off: 17 << 20, N: 12 << 20}, {Disk: "b", Off: 1 << 20, N: 12 << 20}}, named(t, l, "vg-a/data").Places())
	require.Len(t, named(t, l, "vg-a/both").Places(), 2)
}

// FuzzText: whatever the text of a volume group says, its volumes lie on the disk and not over each other, or are whole.
func FuzzText(f *testing.F) {
	f.Add(groupText(1, lv("root", visible, linear(0, 3, "pv0", 10), linear(3, 2, "pv0", 0))))
	f.Add(groupText(1, lv("data", visible, "start_extent = 0\nextent_count = 6\ntype = \"striped\"\nstripe_count = 2\nstripe_size = 128\nstripes = [\n\"pv0\", 20,\n\"pv0\", 30\n]")))
	blank := make([]byte, pvSize)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > ringSize-1024 {
			return
		}
		head := pv{id(0), text, 0, false}.head()
		img := pipe.FromReaderAt(overlay{head, bytes.NewReader(blank)}, pvSize)
		requireSound(t, []layout.Disk{{Key: "d", Image: img}})
	})
}

type overlay struct {
	head []byte
	rest *bytes.Reader
}

func (o overlay) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.rest.ReadAt(p, off)
	if off < int64(len(o.head)) {
		copy(p[:n], o.head[off:])
	}
	return n, err
}

// requireSound: no volume that is looked into lies outside of the disks or over another.
func requireSound(t *testing.T, list []layout.Disk) {
	t.Helper()
	l, err := layout.Read(t.Context(), list)
	require.NoError(t, err)
	type span struct {
		layout.Place
		v *layout.Volume
	}
	var all []span
	for _, v := range l.Volumes {
		sum := int64(0)
		for _, p := range v.Places() {
			sum += p.N
			if v.Whole != "" {
				continue
			}
			require.True(t, p.Off >= 0 && p.N > 0, "%v", p)
			for _, d := range list {
				if d.Key == p.Disk {
					require.LessOrEqual(t, p.Off+p.N, d.Image.Size())
				}
			}
			for _, s := range all {
				require.False(t, s.Disk == p.Disk && s.Off < p.Off+p.N && p.Off < s.Off+s.N, "%v and %v", s, p)
			}
			all = append(all, span{p, v})
		}
		require.Equal(t, v.Size, sum)
	}
}

// FuzzDisk: the same for the tables at the beginning of a disk.
func FuzzDisk(f *testing.F) {
	p := make([]byte, 4096)
	copy(p[446:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 16, 0, 0, 0, 64, 0, 0, 0})
	p[510], p[511] = 0x55, 0xAA
	f.Add(p)
	f.Add(gptOf())
	f.Add(pv{id(0), groupText(1, lv("root", visible, linear(0, 3, "pv0", 10))), 0, false}.make()[:8192])
	f.Fuzz(func(t *testing.T, head []byte) {
		const size = 1 << 20
		if len(head) > size {
			return
		}
		img := pipe.FromReaderAt(overlay{head, bytes.NewReader(make([]byte, size))}, size)
		requireSound(t, []layout.Disk{{Key: "d", Image: img}})
	})
}

// gptOf is a small GPT with its protective MBR.
func gptOf() []byte {
	le := binary.LittleEndian
	p := make([]byte, 2048)
	copy(p[446:], []byte{0, 0, 0, 0, 0xEE, 0, 0, 0, 1, 0, 0, 0, 0xFF, 7, 0, 0})
	p[510], p[511] = 0x55, 0xAA
	h, e := p[512:1024], p[1024:2048]
	e[0], e[128] = 1, 2
	le.PutUint64(e[32:], 64)
	le.PutUint64(e[40:], 127)
	le.PutUint64(e[160:], 128)
	le.PutUint64(e[168:], 999)
	copy(h, "EFI PART")
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[32:], 2047)
	le.PutUint64(h[40:], 34)
	le.PutUint64(h[48:], 2000)
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 8)
	le.PutUint32(h[84:], 128)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(e))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return p
}
