package xfs_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
	"github.com/hikae/hikae/pipe/exclude/xfs"
)

// mkfs makes a sparse image file with a file system in it, of 320 MiB unless the first arguments say another size.
func mkfs(t testing.TB, args ...string) string {
	t.Helper()
	img := scratch(t)
	mkfsAt(t, img, args...)
	return img
}

// mkfsAt asks for what is not supported too, where xfsprogs know that word: newer ones make nothing below 300 MiB, with
// one group or a small log otherwise, though such file systems are in use.
func mkfsAt(t testing.TB, img string, args ...string) {
	t.Helper()
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "size=") && strings.HasSuffix(a, "m") }) {
		args = append([]string{"-d", "size=320m"}, args...)
	}
	args = append([]string{"-q", "-f", "-d", "file,name=" + img}, args...)
	out := fsystest.Tool(t, []int{0, 1, 2}, "mkfs.xfs", append([]string{"--unsupported"}, args...)...)
	if strings.Contains(out, "unrecognized option") {
		out = fsystest.Tool(t, nil, "mkfs.xfs", args...)
	}
	require.NotContains(t, out, "Usage")
}

// open opens an image with the reader.
func open(t testing.TB, img string) (fsys.FileSystem, int64) {
	t.Helper()
	vol, err := fsystest.Image(img)
	require.NoError(t, err)
	t.Cleanup(func() { _ = vol.Close() })
	f, err := xfs.Open(t.Context(), vol)
	require.NoError(t, err)
	return f, vol.Size()
}

// free opens an image that must not be doubtful, and collects what is free.
func free(t testing.TB, img string) (fsys.FileSystem, []fsys.Range) {
	t.Helper()
	f, size := open(t, img)
	require.Empty(t, f.Info().Doubt)
	list, err := fsystest.FreeOf(t.Context(), f, size)
	require.NoError(t, err)
	return f, list
}

// toolFree is what xfs_db finds in the trees by block. It does not look at the log. Of each group it prints the blocks
// that are set aside first, which are not free.
func toolFree(t testing.TB, img string, f fsys.FileSystem) (list []fsys.Range) {
	t.Helper()
	out := fsystest.Tool(t, nil, "xfs_db", "-r", "-c", "sb 0", "-c", "p agblocks", "-c", "p agcount", img)
	var agBlocks, agCount int64
	_, err := fmt.Sscanf(out, "agblocks = %d\nagcount = %d", &agBlocks, &agCount)
	require.NoError(t, err, out)
	args := []string{"-r"}
	for ag := range agCount {
		args = append(args, "-c", fmt.Sprintf("agf %d", ag), "-c", "p flcount")
	}
	args = append(args, "-c", "freesp -d", img)
	var aside []int
	for _, line := range strings.Split(fsystest.Tool(t, nil, "xfs_db", args...), "\n") {
		var ag, block, n int64
		if _, err := fmt.Sscanf(line, "flcount = %d", &n); err == nil {
			aside = append(aside, int(n))
		} else if _, err := fmt.Sscanf(line, "%d %d %d", &ag, &block, &n); err != nil {
			continue
		} else if len(strings.Fields(line)) != 3 {
			continue // the table after the list
		} else if aside[ag] > 0 {
			aside[ag]--
		} else {
			r := fsys.Range{Off: (ag*agBlocks + block) * f.Info().BlockSize, Len: n * f.Info().BlockSize}
			if k := len(list); k > 0 && list[k-1].End() == r.Off {
				list[k-1].Len += r.Len
			} else {
				list = append(list, r)
			}
		}
	}
	return list
}

func total(list []fsys.Range) (n int64) {
	for _, r := range list {
		n += r.Len
	}
	return n
}

// recovered mounts a copy of an image so that the kernel replays the log, and scans it.
func recovered(t testing.TB, img string) (fsystest.Tree, error) {
	t.Helper()
	m, err := fsystest.TryMount(t, "xfs", img, "nouuid")
	if err != nil {
		return nil, err
	}
	tree, err := fsystest.Scan(m.Dir)
	require.NoError(t, err)
	require.NoError(t, m.Unmount())
	return tree, nil
}

// long says whether there is time for more.
func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

func size(t testing.TB, img string) int64 {
	fi, err := os.Stat(img)
	require.NoError(t, err)
	return fi.Size()
}
