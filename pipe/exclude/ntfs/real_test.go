package ntfs_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
	"github.com/hikae/hikae/pipe/exclude/ntfs"
)

// variant is one way to make a volume.
type variant struct {
	size int64
	args []string
}

func (v variant) String() string { return strings.Trim(strings.Join(v.args, ""), "-") }

// variants are what mkntfs offers: sizes of clusters and sectors, and file records of 4 KiB with large sectors.
var variants = []variant{
	{24 << 20, []string{"-c512"}}, {24 << 20, []string{"-c1024"}}, {24 << 20, []string{"-c2048"}}, {32 << 20, []string{"-c4096"}},
	{32 << 20, []string{"-c8192"}}, {48 << 20, []string{"-c16384"}}, {48 << 20, []string{"-c32768"}}, {64 << 20, []string{"-c65536"}},
	{96 << 20, []string{"-c131072"}}, {96 << 20, []string{"-c1048576"}}, {128 << 20, []string{"-c2097152"}},
	{32 << 20, []string{"-s1024", "-c1024"}}, {32 << 20, []string{"-s2048", "-c4096"}}, {48 << 20, []string{"-s4096", "-c4096"}},
	{64 << 20, []string{"-s4096", "-c65536"}}, {40<<20 + 7*512, []string{"-c4096"}}, {24<<20 + 512, []string{"-c8192", "-C"}},
}

// mkntfs makes an image file, or skips.
func mkntfs(t testing.TB, v variant) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "volume.raw")
	f, err := os.Create(img)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(v.size))
	require.NoError(t, f.Close())
	fsystest.Tool(t, nil, "mkntfs", append([]string{"-F", "-q", "-Q", "-L", "Tröger 控", "-p", "0", "-H", "0", "-S", "0"}, append(v.args, img)...)...)
	return img
}

// open opens an image file for the length of the test.
func open(t testing.TB, img string, opts *ntfs.Options) fsys.FileSystem {
	t.Helper()
	vol, err := fsystest.Image(img)
	require.NoError(t, err)
	t.Cleanup(func() { vol.Close() })
	f, err := ntfs.OpenWith(t.Context(), vol, opts)
	require.NoError(t, err)
	return f
}

// noDoubt opens an image and wants nothing wrong with it.
func noDoubt(t testing.TB, img string) fsys.FileSystem {
	t.Helper()
	f := open(t, img, nil)
	require.Empty(t, f.Info().Doubt)
	return f
}

// ntfs3g are the options under which the driver shows what is there.
var ntfs3g = []string{"streams_interface=none", "hide_dot_files"}

// agreed is what the driver makes up.
var agreed = &fsystest.CompareOptions{NoMode: true, NoOwner: true, Times: 100}

func TestVariants(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			img := mkntfs(t, v)
			f := noDoubt(t, img)
			require.Equal(t, "ntfs", f.Info().Kind)
			require.Equal(t, "Tröger 控", f.Info().Label)
			require.False(t, f.Info().Hibernated)
			require.Equal(t, v.size, f.Info().Size)
			requireToolsAgree(t, img, f)

			m := fsystest.Mount(t, "ntfs", img, ntfs3g...)
			age(t, m.Dir, 2, 60, v)
			require.NoError(t, m.Unmount())
			tree := scanned(t, img)
			require.Greater(t, len(tree), 20)

			f = noDoubt(t, img)
			require.NoError(t, fsystest.Compare(t.Context(), f, tree, agreed))
			requireToolsAgree(t, img, f)
			requireNothingMissed(t, img, f, tree)
		})
	}
}

// scanned takes down what is there, by a mount of its own: to FUSE every name of a file is another file with a cache of
// its own, so that under the mount that wrote it a file's other names may still show what it was.
func scanned(t testing.TB, img string) fsystest.Tree {
	t.Helper()
	m := fsystest.Mount(t, "ntfs", img, append(slices.Clone(ntfs3g), "ro")...)
	tree, err := fsystest.Scan(m.Dir)
	require.NoError(t, err)
	require.NoError(t, m.Unmount())
	return tree
}

func age(t testing.TB, dir string, seed uint64, ops int, v variant) {
	t.Helper()
	require.NoError(t, fsystest.Age(dir, seed, ops, &fsystest.AgeOptions{MaxFile: v.size / 64, NoSpecial: true}))
}

// requireToolsAgree holds the free ranges against the bitmap as ntfscat reads it, and against what other tools count.
func requireToolsAgree(t testing.TB, img string, f fsys.FileSystem) {
	t.Helper()
	free, err := fsystest.FreeOf(t.Context(), f, f.Info().Size)
	require.NoError(t, err)
	size, sum := f.Info().BlockSize, int64(0)
	bitmap := []byte(fsystest.Tool(t, nil, "ntfscat", "-i", "6", img))
	clusters := number(t, fsystest.Tool(t, nil, "ntfsinfo", "-m", img), `Volume Size in Clusters: (\d+)`)
	inUse := func(k int64) bool { return k < 8192/size || bitmap[k/8]>>(k%8)&1 == 1 }
	for _, r := range free {
		sum += r.Len / size
		for k := r.Off / size; k < r.End()/size; k++ {
			require.False(t, inUse(k), "cluster %d", k)
		}
	}
	want := int64(0)
	for k := range clusters {
		if !inUse(k) {
			want++
		}
	}
	require.Equal(t, want, sum, "free clusters by ntfscat")
	require.Equal(t, sum, number(t, fsystest.Tool(t, nil, "ntfsinfo", "-m", img), `Free Clusters: (\d+)`), "by ntfsinfo")
	require.Equal(t, sum, number(t, fsystest.Tool(t, nil, "ntfscluster", "-i", img), `clusters of free space\s*: (\d+)`), "by ntfscluster")
}

// number finds a number in what a tool said.
func number(t testing.TB, said, pattern string) int64 {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(said)
	require.NotNil(t, found, said)
	n, err := strconv.ParseInt(found[1], 10, 64)
	require.NoError(t, err)
	return n
}

// requireNothingMissed blanks what is free: nobody may notice.
func requireNothingMissed(t testing.TB, img string, f fsys.FileSystem, tree fsystest.Tree) {
	t.Helper()
	require.NoError(t, fsystest.CheckFree(t.Context(), f, f.Info().Size))
	free, err := fsystest.FreeOf(t.Context(), f, f.Info().Size)
	require.NoError(t, err)
	for _, filler := range []fsystest.Filler{fsystest.Garbage, fsystest.Zero} {
		require.NoError(t, fsystest.BlankWith(img, free, filler))
	}
	fsystest.Tool(t, nil, "ntfsfix", "-n", img)
	fsystest.Tool(t, nil, "ntfsresize", "-i", "-f", img)
	require.NoError(t, tree.Diff(scanned(t, img)))
	require.NoError(t, fsystest.Compare(context.WithoutCancel(t.Context()), open(t, img, nil), tree, agreed))
}

// find is the node of a path.
func find(t testing.TB, f fsys.FileSystem, path string) fsys.Node {
	t.Helper()
	at := f.Root()
next:
	for _, name := range strings.Split(path, "/") {
		for e, err := range f.ReadDir(t.Context(), at) {
			require.NoError(t, err)
			if e.Name == name {
				at = e.Node
				continue next
			}
		}
		t.Fatalf("%q is not there", path)
	}
	return at
}
