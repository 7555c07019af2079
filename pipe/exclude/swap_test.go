package exclude_test

import (
	"context"
	"encoding/binary"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/pipetest"
)

// swapArea is the beginning of swap space of 1 MiB.
func swapArea() []byte {
	area := make([]byte, mib)
	copy(area[4086:], "SWAPSPACE2")
	copy(area[1024:], []byte{1, 0, 0, 0, 255})
	return area
}

// R017: the content of a file decides nothing by itself, for whoever may write a file can write a swap header. Only root
// can swap to a file, and a file that others may write, or that has a second name, is none that a system swaps to. A
// user of the guest must not be able to hide anything from the backup, his own files included.
func TestSwapFileIsRoots(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(n *fakeNode)
		want int
	}{
		"root's":            {func(n *fakeNode) { n.attr.Mode = 0o600 }, 1},
		"readable by all":   {func(n *fakeNode) { n.attr.Mode = 0o644 }, 1},
		"a user's":          {func(n *fakeNode) { n.attr.Mode, n.attr.UID = 0o600, 1000 }, 0},
		"writable by group": {func(n *fakeNode) { n.attr.Mode = 0o620 }, 0},
		"writable by all":   {func(n *fakeNode) { n.attr.Mode = 0o602 }, 0},
		"with two names":    {func(n *fakeNode) { n.attr.Links = 2 }, 0},
	} {
		f := newFake("ext4")
		n := f.add("swapfile", 0o600, fsys.Run{Len: mib, Vol: mib, Kind: fsys.Written})
		n.data, n.attr.Size = swapArea(), mib
		c.edit(n)
		plan, v := look(t, f, exclude.Options{Swap: true})
		require.Empty(t, v.Whole, name)
		require.Len(t, taken(plan, pipe.Swap), c.want, name)
	}
}

// A user of the guest who owns the root of a volume, as of a stick or of /tmp, can put an /etc/fstab there. It is not
// the system's.
func TestTableIsRoots(t *testing.T) {
	for name, c := range map[string]struct {
		uid  uint32
		mode fs.FileMode
		want int
	}{
		"root's": {0, 0o644, 1}, "a user's": {1000, 0o644, 0}, "writable by all": {0, 0o666, 0}, "writable by group": {0, 0o664, 0},
	} {
		f := newFake("ext4")
		table := f.add("etc/fstab", c.mode)
		table.data, table.attr.UID = []byte("/srv/mail/ann none swap sw 0 0\n"), c.uid
		table.attr.Size = int64(len(table.data))
		n := f.add("srv/mail/ann", 0o600, fsys.Run{Len: mib, Vol: mib, Kind: fsys.Written})
		n.data, n.attr.Size = swapArea(), mib
		plan, v := look(t, f, exclude.Options{Swap: true})
		require.Empty(t, v.Whole, name)
		require.Len(t, taken(plan, pipe.Swap), c.want, name)
	}
}

// A hard link named pagefile.sys at the root of a volume hides no other file.
func TestPageFileHasOneName(t *testing.T) {
	f := newFake("ntfs")
	n := f.add("accounts.mdb", 0, fsys.Run{Len: mib, Vol: mib, Kind: fsys.Written})
	f.nodes[1].entries = append(f.nodes[1].entries, fsys.Entry{Name: "pagefile.sys", Node: n.attr.Node})
	n.attr.Links = 2
	plan, v := look(t, f, exclude.Options{Swap: true})
	require.Empty(t, v.Whole)
	require.Empty(t, taken(plan, pipe.Swap))
}

// A system that sleeps on a volume which is stored whole for another reason sleeps all the same.
func TestSleeperOnADoubtfulVolume(t *testing.T) {
	f := newFake("ext4")
	f.free = []fsys.Range{{Off: 8 * mib, Len: 2 * mib}}
	good, both := make([]byte, 16*mib), make([]byte, mib)
	for _, p := range [][]byte{good, both} {
		p[1080], p[1081] = 0x53, 0xEF
	}
	o := exclude.Options{Free: true, Readers: []exclude.Reader{{Kind: "ext", Open: func(context.Context, pipe.Image) (fsys.FileSystem, error) { return f, nil }}}}
	free := func() int64 {
		plan := analyse(t, &o, exclude.Disk{Key: "d", Image: pipetest.Bytes(good)}, exclude.Disk{Key: "e", Image: pipetest.Bytes(both)})
		require.NotEmpty(t, volume(t, plan, "e").Whole)
		return volume(t, plan, "d").Free
	}
	copy(both[4086:], "SWAPSPACE2")
	require.Equal(t, int64(2*mib), free(), "what was swap space once says nothing about the others")
	copy(both[4086:], "S1SUSPEND\x00")
	require.Zero(t, free())
}

// A database on a raw partition may have an old header of swap space before it: only the types that swap space is made
// on are believed.
func TestSwapHeaderOnAnotherType(t *testing.T) {
	for typ, want := range map[byte]bool{0x82: true, 0x83: true, 0x07: false, 0xda: false} {
		disk := make([]byte, 9*mib)
		disk[510], disk[511] = 0x55, 0xaa
		disk[450] = typ
		binary.LittleEndian.PutUint32(disk[454:], mib/512)
		binary.LittleEndian.PutUint32(disk[458:], 8*mib/512)
		copy(disk[mib:], swapFile(t, 8*mib))
		plan := analyse(t, &exclude.Options{Swap: true}, exclude.Disk{Key: "d", Image: pipetest.Bytes(disk)})
		v := volume(t, plan, "d:1")
		require.Equal(t, want, v.Swap > 0, "type 0x%02x: %+v", typ, v)
		require.Equal(t, want, v.Whole == "", "type 0x%02x", typ)
	}
}
