package nbd_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
	"github.com/hikae/hikae/pipe/pipetest"
)

// Client and server together are an image and a target like any other, in every form of the protocol.
func TestConformance(t *testing.T) {
	for form := range nbd.Forms {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			t.Run("image", func(t *testing.T) { testImage(t, form) })
			t.Run("target", func(t *testing.T) { testTarget(t, form) })
		})
	}
}

func testImage(t *testing.T, form string) {
	for _, size := range []int64{0, 1, 511, 4096, 65537, 1<<20 + 513} {
		src := sparse(uint64(size), size)
		uri := serve(t, nil, nbd.Export{Name: "disk0", Image: src})
		for _, opts := range []nbd.Options{{}, {Connections: 1, InFlight: 1, RequestBytes: 4096}} {
			c := dial(t, uri("disk0"), opts.AtMost(form))
			require.Equal(t, form, c.FormName())
			require.True(t, c.ReadOnly())
			pipetest.TestImage(t, c, src)
		}
	}
}

func testTarget(t *testing.T, form string) {
	pipetest.TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
		disk := nbd.Disk(memoryDisk{pipe.NewMemory(size)})
		if form == "extended" || longTier() { // once through a file, which waits for the disk at each flush
			overlay, err := nbd.OpenOverlay(filepath.Join(t.TempDir(), "scratch"), pipe.NewMemory(size), nil)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, overlay.Close()) })
			disk = overlay
		}
		uri := serve(t, nil, nbd.Export{Image: disk})
		target, err := nbd.DialTarget(t.Context(), uri(""), nbd.Options{RequestBytes: 100_000}.AtMost(form), nil)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, target.Close()) })
		return target, func() pipe.Image {
			c, err := nbd.Dial(t.Context(), uri(""), nbd.Options{}.AtMost(form))
			require.NoError(t, err)
			return c
		}
	})
}

// Zeros that were told of arrive as extents, and dropped ranges of a restore point do too; others are data.
func TestExtentsOverTheWire(t *testing.T) {
	var layout []pipe.Extent
	kinds := []pipe.Kind{pipe.Data, pipe.Zero, pipe.Data, pipe.Free, pipe.Swap, pipe.Data, pipe.Excluded}
	for i, k := range kinds {
		layout = append(layout, pipe.Extent{Off: int64(i) << 20, Len: 1 << 20, Kind: k})
	}
	src := pipetest.NewPattern(1, int64(len(kinds))<<20, layout...)
	uri := serve(t, nil, nbd.Export{Name: "live", Image: src}, nbd.Export{Name: "point", Image: src.Blank(), DroppedIsZero: true})
	for form := range nbd.Forms {
		require.Equal(t, map[string]string{
			"simple": "data [0, 7340032)", "structured": "data [0, 1048576) zero [1048576, 2097152) data [2097152, 7340032)",
			"extended": "data [0, 1048576) zero [1048576, 2097152) data [2097152, 7340032)",
		}[form], extents(t, dial(t, uri("live"), nbd.Options{}.AtMost(form))), form)
	}
	require.Equal(t, "data [0, 1048576) zero [1048576, 2097152) data [2097152, 3145728) zero [3145728, 5242880) "+
		"data [5242880, 6291456) zero [6291456, 7340032)", extents(t, dial(t, uri("point"), nil)))
	_, err := nbd.Dial(t.Context(), uri("nobody"), nil)
	require.ErrorContains(t, err, "no such export")
}

// extents lists the extents of an image, neighbours of one kind joined.
func extents(t testing.TB, img pipe.Image) string {
	t.Helper()
	var list []pipe.Extent
	for e, err := range pipe.Extents(t.Context(), img, 0, img.Size()) {
		require.NoError(t, err)
		if last := len(list) - 1; last >= 0 && list[last].Kind == e.Kind {
			list[last].Len += e.Len
			continue
		}
		list = append(list, e)
	}
	s := fmt.Sprint(list)
	return s[1 : len(s)-1]
}

// More than 4 GiB in one status answer: compact headers cannot, extended ones can.
func TestWideDisk(t *testing.T) {
	const size = 9 << 40
	disk := pipe.NewMemory(size)
	_, err := disk.WriteAt(t.Context(), []byte{1}, 8<<40)
	require.NoError(t, err)
	uri := serve(t, nil, nbd.Export{Image: disk})
	for _, form := range []string{"structured", "extended"} {
		c := dial(t, uri(""), nbd.Options{}.AtMost(form))
		require.Equal(t, "zero [0, 8796093022208) data [8796093022208, 8796093087744) zero [8796093087744, 9895604649984)", extents(t, c), form)
	}
}

// Each export is listed, and its one metadata context.
func TestList(t *testing.T) {
	uri := serve(t, nil, nbd.Export{Name: "a", Description: "the first", Image: sparse(1, 5000)}, nbd.Export{Name: "b", Image: sparse(2, 6000)})
	list, err := nbd.List(t.Context(), uri(""), nil)
	require.NoError(t, err)
	require.Equal(t, []nbd.Listed{{Name: "a", Description: "the first"}, {Name: "b"}}, list)
	for _, queries := range [][]string{nil, {"base:"}, {"base:allocation"}, {"x-none:", "base:allocation"}} {
		names, err := nbd.ListContexts(t.Context(), uri("b"), nil, queries...)
		require.NoError(t, err)
		require.Equal(t, []string{"base:allocation"}, names, "%v", queries)
	}
	_, err = nbd.ListContexts(t.Context(), uri("c"), nil)
	require.ErrorContains(t, err, "no such export")
	c := dial(t, uri("b"), &nbd.Options{Contexts: []string{"qemu:dirty-bitmap:none"}})
	require.Equal(t, []string{"base:allocation"}, c.Contexts())
	for _, err := range c.BlockStatus(t.Context(), "qemu:dirty-bitmap:none", 0, 10) {
		require.ErrorIs(t, err, nbd.ErrNoContext)
	}
	_, err = c.Target(nil)
	require.ErrorContains(t, err, "read-only")
}
