package layout_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/layout"
)

// extMark makes p look like the beginning of ext.
func extMark(p []byte) { p[1080], p[1081] = 0x53, 0xEF }

// partition makes a table with one partition in the first sector of p.
func partition(p []byte, start, n byte) {
	copy(p[446:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, start, 0, 0, 0, n, 0, 0, 0})
	p[510], p[511] = 0x55, 0xAA
}

// A logical volume is looked into like a partition: what is on it has a kind, and two kinds are a contradiction.
func TestLogicalVolumesHaveKinds(t *testing.T) {
	p := pv{id(0), groupText(1, lv("root", visible, linear(0, 3, "pv0", 0))+lv("swap", visible, linear(0, 2, "pv0", 3))+
		lv("both", visible, linear(0, 2, "pv0", 5))+lv("blank", visible, linear(0, 2, "pv0", 7))+lv("crypt", visible, linear(0, 1, "pv0", 9))), 0, false}.make()
	extMark(p[peStart:])
	copy(p[peStart+3*extent+4086:], "SWAPSPACE2")
	extMark(p[peStart+5*extent:])
	copy(p[peStart+5*extent:], "XFSB")
	copy(p[peStart+9*extent:], "LUKS\xBA\xBE")
	l := read(t, disks(p)...)
	for name, want := range map[string][2]string{"root": {layout.Ext, ""}, "swap": {layout.Swap, ""}, "blank": {"", ""}} {
		v := named(t, l, "vg0/"+name)
		require.Equal(t, want, [2]string{v.Kind, v.Whole}, name)
	}
	require.Contains(t, named(t, l, "vg0/both").Whole, "signatures of")
	require.Contains(t, named(t, l, "vg0/crypt").Whole, "LUKS")
}

// A partition or logical volume that became a disk of its own, as of a machine within the machine, keeps the signature of
// the ext that was there before: a partition table touches no byte of it. What that ext calls free is the inner disk's.
func TestTableInsideOfAVolume(t *testing.T) {
	p := make([]byte, 1<<20)
	partition(p, 8, 200)
	inner := p[8*512:]
	extMark(inner)
	v := named(t, read(t, disks(p)...), "d0:1")
	require.Equal(t, layout.Ext, v.Kind)
	require.Empty(t, v.Whole)
	partition(inner, 63, 100)
	require.Contains(t, named(t, read(t, disks(p)...), "d0:1").Whole, "partition table")

	p = pv{id(0), groupText(1, lv("guest", visible, linear(0, 3, "pv0", 0))), 0, false}.make()
	extMark(p[peStart:])
	partition(p[peStart:], 63, 100)
	require.Contains(t, named(t, read(t, disks(p)...), "vg0/guest").Whole, "partition table")
}
