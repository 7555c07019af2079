//go:build unix

package kvm

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
)

func testFootprint(t *testing.T) footprint {
	t.Helper()
	f := newFootprint(filepath.Join(t.TempDir(), "none.sock"))
	f.Dir = filepath.Join(t.TempDir(), f.Mark)
	f.Disks = []disk{{Key: "a", Node: "n", QDev: "/machine/peripheral/a", Size: 5, Base: "hikae-old"}}
	return f
}

// What is written down is enough to find everything again.
func TestEffect(t *testing.T) {
	f := testFootprint(t)
	e, err := f.effect(kindFleece, map[string]string{"agent": "/a"})
	require.NoError(t, err)
	require.Equal(t, "/a", e.Facts["agent"])
	again, err := footprintOf(e)
	require.NoError(t, err)
	require.Equal(t, f, again)
	for i := range 100 {
		for _, name := range []string{f.fleece(i), f.filter(i), f.access(i)} {
			require.LessOrEqual(t, len(name), 31, "the longest name of a node")
			require.True(t, f.mine(name))
		}
	}
	other := testFootprint(t)
	require.False(t, f.mine(other.fleece(0)))
	require.False(t, f.mine(f.Mark+"x"))
}

// A note that makes no sense leads to nothing being done, least of all to a folder being removed.
func TestEffectThatMakesNoSense(t *testing.T) {
	f := testFootprint(t)
	good, err := f.effect(kindFleece, nil)
	require.NoError(t, err)
	precious := t.TempDir()
	for fact, values := range map[string][]string{
		"mark":  {"", "hikae-", "hikae-UPPER", "hikae-aaaaaaaaaaaaaaa", f.Mark + "/..", "other"},
		"qmp":   {"", "qmp.sock"},
		"dir":   {"", precious, "/", f.Mark, f.Dir + "/.."},
		"disks": {"", "{}", "[1]"},
	} {
		for _, value := range values {
			e := hikae.Effect{Kind: kindFleece, Facts: map[string]string{}}
			for k, v := range good.Facts {
				e.Facts[k] = v
			}
			e.Facts[fact] = value
			require.Error(t, New(nil, nil).Undo(t.Context(), e, nil), "%s=%q", fact, value)
		}
	}
	require.DirExists(t, precious)
}

// Where QEMU has ended, files go and all else is gone; bitmaps may be in an image, and wait.
func TestUndoWithoutQEMU(t *testing.T) {
	f := testFootprint(t)
	require.NoError(t, os.MkdirAll(f.Dir, 0o700))
	require.NoError(t, os.WriteFile(f.file(0), []byte("x"), 0o600))
	for _, kind := range []string{kindExport, kindPause, kindFreeze, kindFleece, kindFleece} {
		e, err := f.effect(kind, nil)
		require.NoError(t, err)
		require.NoError(t, New(nil, nil).Undo(t.Context(), e, nil), kind)
	}
	require.NoDirExists(t, f.Dir)
	e, err := f.effect(kindBitmap, nil)
	require.NoError(t, err)
	require.ErrorIs(t, New(nil, nil).Undo(t.Context(), e, nil), fs.ErrNotExist)
}

func TestKeys(t *testing.T) {
	inv := &inventory{disks: make([]disk, 5)}
	require.NoError(t, inv.giveKeys([][]string{
		{"serial", "vd0", "disk0"}, // the serial comes first
		{"twice", "vd1", "disk1"},  // one that two disks share names neither
		{"twice", "vd2", "disk2"},
		{"../x", "", "disk3"}, // one that is not plain is passed over
		{"", "vd3", "#block123"},
	}))
	var keys []string
	for _, d := range inv.disks {
		keys = append(keys, d.Key)
	}
	require.Equal(t, []string{"serial", "vd1", "vd2", "disk3", "vd3"}, keys)
	inv = &inventory{disks: make([]disk, 1)}
	require.Error(t, inv.giveKeys([][]string{{"", "", "#block123"}}))
	require.Equal(t, "vd0", deviceID("/machine/peripheral/vd0/virtio-backend"))
	require.Equal(t, "sd0", deviceID(fullPath("sd0")))
	require.Equal(t, "/machine/x", fullPath("/machine/x"))
	require.True(t, madeUp.MatchString("QM00011"))
	require.Empty(t, deviceID("/machine/peripheral-anon/device[3]/virtio-backend"))
}

func TestUsableBase(t *testing.T) {
	b1, b2 := bitmapOf(newFootprint("").Mark, 0), bitmapOf(newFootprint("").Mark, 0)
	s := &snapshot{reasons: map[string]string{}}
	s.opts.Since = map[string]hikae.ChangeID{"a": hikae.ChangeID(b1), "f": "theirs"}
	inv := func(b ...bitmap) *inventory { return &inventory{nodes: map[string]node{"n": {Bitmaps: b}}} }
	d := disk{Key: "a", Node: "n"}
	require.Equal(t, b1, s.usable(inv(bitmap{Name: b1, Recording: true}), d))
	for want, b := range map[string]bitmap{
		"not there":    {Name: b2, Recording: true},
		"inconsistent": {Name: b1, Inconsistent: true},
		"recording":    {Name: b1},
	} {
		require.Empty(t, s.usable(inv(b), d))
		require.Contains(t, s.reasons["a"], want)
	}
	require.Empty(t, s.usable(inv(), disk{Key: "z", Node: "n"}))
	require.Contains(t, s.reasons["z"], "no change id")
	require.Empty(t, s.usable(inv(bitmap{Name: "theirs", Recording: true}), disk{Key: "f", Node: "n"}))
	require.Contains(t, s.reasons["f"], "not one of this")
	s.Disks = []disk{d}
	for _, err := range s.Changed(t.Context(), "a", hikae.ChangeID(b1)) {
		require.ErrorIs(t, err, hikae.ErrTrackingLost)
	}
	require.True(t, qmp.Refused(&qmp.Error{}))
}
