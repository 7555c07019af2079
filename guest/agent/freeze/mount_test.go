package freeze

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const sample = `22 26 0:20 / /proc rw,nosuid - proc proc rw
26 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw,errors=remount-ro
27 26 8:3 / /var rw,relatime - xfs /dev/sda3 rw
28 27 8:4 / /var/lib/with\040space rw - ext4 /dev/sda4 rw
29 26 8:3 /log /log rw - xfs /dev/sda3 rw
30 26 0:40 / /mnt/nfs rw - nfs4 server:/x rw
31 26 0:41 / /merged rw - overlay overlay rw,lowerdir=/a
32 26 7:0 / /snap ro - squashfs /dev/loop0 ro
33 26 0:42 / /data rw - btrfs /dev/sdb rw,subvol=/
34 26 0:43 / /tank rw - zfs tank rw
35 26 0:44 / /run rw - tmpfs tmpfs rw
36 26 0:45 / /home/u/remote rw - fuse.sshfs u@h:/ rw
37 26 0:46 / /auto rw - autofs systemd-1 rw
38 26 8:9 / /media rw - fuseblk /dev/sda9 rw
39 26 8:2 /etc/hosts /run/hosts rw - ext4 /dev/sda2 rw
`

func TestChoose(t *testing.T) {
	t.Parallel()
	mounts, err := Mounts(strings.NewReader(sample))
	require.NoError(t, err)
	require.Len(t, mounts, 15)
	targets, skipped, err := choose(mounts)
	require.NoError(t, err)
	var points []string
	for _, x := range order(targets, func(*target) []Device { return nil }) {
		points = append(points, x.point())
	}
	require.Equal(t, []string{"/var/lib/with space", "/var", "/data", "/"}, points, "deepest first, each device once")
	why := map[string]string{}
	for _, v := range skipped {
		why[v.Mount] = v.Skip
	}
	require.Equal(t, map[string]string{"/mnt/nfs": skipNetwork, "/merged": skipOverlay, "/snap": skipReadOnly, "/tank": skipZFS,
		"/run": skipMemory, "/home/u/remote": skipProgram, "/auto": skipAuto, "/media": skipProgram}, why)
	require.True(t, targets[1].has("/log"))
	picked, err := pick(targets, skipped, []string{"/log", "/var/", "/"})
	require.NoError(t, err)
	require.Len(t, picked, 2, "two places of one file system are one")
}

func TestMountsRefuses(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"x", "a b c d e f", "22 26 0:20 / /p rw proc proc rw", "22 26 0 / /p rw - ext4 /dev/sda rw",
		"22 26 1:x / /p rw - ext4 /dev/sda rw", "x 26 1:2 / /p rw - ext4 /dev/sda rw", "22 26 1:2 / relative rw - ext4 /dev/sda rw",
		"22 26 1:4294967296 / /p rw - ext4 /dev/sda rw", "22 26 1:2 / /p rw - ext4 /dev/sda", strings.Repeat("x", maxMountLine+1)} {
		_, err := Mounts(strings.NewReader(bad + "\n"))
		require.Error(t, err, "%.80s", bad)
	}
	_, err := Mounts(strings.NewReader(strings.Repeat("1 2 0:3 / / rw - proc p rw\n", maxMountRows+1)))
	require.Error(t, err)
	many := &strings.Builder{}
	for i := range maxTargets + 1 {
		fmt.Fprintf(many, "1 2 8:%d / /m%d rw - ext4 /dev/x rw\n", i, i)
	}
	mounts, err := Mounts(strings.NewReader(many.String()))
	require.NoError(t, err)
	_, _, err = choose(mounts)
	require.Error(t, err)
}

// However many containers run, the answer stays small.
func TestManyOverlays(t *testing.T) {
	t.Parallel()
	text := &strings.Builder{}
	for i := range 20000 {
		fmt.Fprintf(text, "1 2 0:%d / /var/lib/containers/%064d/merged rw - overlay overlay rw\n", i, i)
	}
	mounts, err := Mounts(strings.NewReader(text.String()))
	require.NoError(t, err)
	_, skipped, err := choose(mounts)
	require.NoError(t, err)
	require.Len(t, skipped, maxSkipped+1)
	require.Contains(t, skipped[maxSkipped].Skip, "19744 more")
}

func TestUnescape(t *testing.T) {
	t.Parallel()
	for in, out := range map[string]string{`a`: `a`, `\040`: ` `, `a\134b`: `a\b`, `\`: `\`, `\04`: `\04`, `\999`: `\999`, `\012`: "\n"} {
		require.Equal(t, out, unescape(in))
	}
}

// Whatever lies on whatever: a file system is frozen before those that hold its bytes.
func TestOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "n")
		var targets []*target
		holds := map[Device][]Device{}
		for i := range n {
			d := Device{8, uint32(i)}
			deep := rapid.IntRange(0, 3).Draw(t, "depth")
			targets = append(targets, &target{Device: d, Mounts: []Mount{{Point: strings.Repeat("/m", deep) + fmt.Sprintf("/%d", i), Device: d}}})
			for j := range i { // of an earlier one: no rings
				if rapid.IntRange(0, 4).Draw(t, "on") == 0 {
					holds[d] = append(holds[d], Device{8, uint32(j)})
				}
			}
		}
		targets = rapid.Permutation(targets).Draw(t, "order")
		out := order(targets, func(x *target) []Device { return holds[x.Device] })
		require.Len(t, out, n)
		at := map[Device]int{}
		for i, x := range out {
			at[x.Device] = i
		}
		require.Len(t, at, n)
		for d, below := range holds {
			for _, b := range below {
				require.Less(t, at[d], at[b])
			}
		}
		for i := 1; i < n && len(holds) == 0; i++ {
			require.GreaterOrEqual(t, depth(out[i-1].point()), depth(out[i].point()))
		}
	})
}

// A ring, which cannot be, does not hang us.
func TestOrderRing(t *testing.T) {
	t.Parallel()
	a, b := Device{7, 0}, Device{7, 1}
	targets := []*target{{Device: a, Mounts: []Mount{{Point: "/a"}}}, {Device: b, Mounts: []Mount{{Point: "/b"}}}}
	out := order(targets, func(x *target) []Device {
		if x.Device == a {
			return []Device{b}
		}
		return []Device{a}
	})
	require.Len(t, out, 2)
}

func TestHolder(t *testing.T) {
	t.Parallel()
	mounts, err := Mounts(strings.NewReader(sample))
	require.NoError(t, err)
	for file, point := range map[string]string{"/x": "/", "/var/x": "/var", "/variant": "/", "/var/lib/with space/x": "/var/lib/with space"} {
		m, ok := holder(mounts, file)
		require.True(t, ok)
		require.Equal(t, point, m.Point, file)
	}
	_, ok := holder(mounts, "relative")
	require.False(t, ok)
}
