package fstab

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	list := Parse([]byte("#x\nLABEL=\"a\\040b\" /mnt/c\\040d xfs rw 0 0\n/dev/vda2 / ext4\nbroken\n"))
	require.Equal(t, []Line{{"LABEL=a b", "/mnt/c d", "xfs"}, {"/dev/vda2", "/", "ext4"}}, list)
	require.Len(t, Parse([]byte(strings.Repeat("a b c\n", 5000))), maxLines)
	require.Empty(t, Parse(nil))
}

func TestMeans(t *testing.T) {
	root := Names{Volume: "my-vg/root", UUID: "AB-cd", Label: "sys"}
	part := Names{Volume: "disk0:2", PartLabel: "esp", Partition: 2}
	for _, c := range []struct {
		what string
		n    Names
		want bool
	}{
		{"UUID=ab-CD", root, true}, {"LABEL=sys", root, true}, {"LABEL=SYS", root, false},
		{"/dev/disk/by-uuid/AB-cd", root, true}, {"/dev/my-vg/root", root, true},
		{"/dev/mapper/my--vg-root", root, true}, {"/dev/mapper/my-vg-root", root, false},
		{"PARTLABEL=esp", part, true}, {"UUID=", part, false}, {"LABEL=", part, false}, {"TYPE=esp", part, false},
		{"/dev/vda2", part, true}, {"/dev/vda12", part, false}, {"/dev/nvme0n1p2", part, true}, {"/dev/nvme0n2", part, false},
		{"/dev/vda2", Names{Volume: "disk0:2"}, false}, {"/dev/dm-2", part, false}, {"vda2", part, false},
	} {
		require.Equal(t, c.want, Line{What: c.what}.Means(c.n), "%+v", c)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("UUID=x / ext4 defaults 0 1\n/dev/sda9999999999999999999 /x y\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, l := range Parse([]byte(text)) {
			l.Means(Names{Volume: "a/b", UUID: "x", Partition: 2})
		}
	})
}
