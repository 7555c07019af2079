package ext_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/ext"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// shape is how mke2fs makes a file system.
type shape struct {
	name string
	size int64 // MiB
	args string
	kind string
	// noMount is why it is not mounted in the tests; most kernels here are built without, or have pages smaller than its blocks.
	noMount string
}

// shapes are the feature sets that every test goes through (R016: what is free in each of them need not be stored).
var shapes = []shape{
	{"default", 64, "-t ext4", "ext4", ""},
	{"ext2", 32, "-t ext2", "ext2", ""},
	{"ext2 revision 0", 32, "-t ext2 -r 0 -O none", "ext2", "the kernel puts types into its directories, and e2fsck 1.47.0 complains"},
	{"ext2 2K without sparse_super", 64, "-t ext2 -b 2048 -O ^sparse_super,^resize_inode", "ext2", ""},
	{"ext3", 64, "-t ext3", "ext3", ""},
	{"ext3 1K 128-byte inodes", 64, "-t ext3 -b 1024 -I 128", "ext3", ""},
	{"1K blocks", 64, "-t ext4 -b 1024", "ext4", ""},
	{"2K blocks", 64, "-t ext4 -b 2048", "ext4", ""},
	{"64K blocks", 256, "-t ext4 -b 65536", "ext4", "blocks larger than pages"},
	{"16K blocks", 128, "-t ext4 -b 16384", "ext4", "blocks larger than pages"},
	{"without 64bit", 64, "-t ext4 -O ^64bit", "ext4", ""},
	{"uninit_bg", 160, "-t ext4 -O ^metadata_csum,uninit_bg", "ext4", ""},
	{"uninit_bg without 64bit", 160, "-t ext4 -O ^metadata_csum,uninit_bg,^64bit,^flex_bg", "ext4", ""},
	{"no checksums", 64, "-t ext4 -O ^metadata_csum,^uninit_bg", "ext4", ""},
	{"no flex_bg", 160, "-t ext4 -O ^flex_bg", "ext4", ""},
	{"meta_bg", 160, "-t ext4 -O meta_bg,^resize_inode", "ext4", ""},
	{"meta_bg 1K", 300, "-t ext4 -b 1024 -O meta_bg,^resize_inode,^flex_bg", "ext4", ""},
	{"sparse_super2", 160, "-t ext4 -O sparse_super2,^resize_inode", "ext4", ""},
	{"sparse_super2 with resize", 160, "-t ext4 -O sparse_super2", "ext4", ""},
	{"inline_data", 64, "-t ext4 -O inline_data", "ext4", ""},
	{"inline_data 1K large inodes", 64, "-t ext4 -b 1024 -I 1024 -O inline_data", "ext4", ""},
	{"bigalloc 64K", 160, "-t ext4 -O bigalloc -C 65536", "ext4", ""},
	{"bigalloc 1K blocks", 160, "-t ext4 -b 1024 -O bigalloc -C 16384", "ext4", ""},
	{"bigalloc uninit_bg", 160, "-t ext4 -O bigalloc,^metadata_csum,uninit_bg -C 32768", "ext4", ""},
	{"large_dir ea_inode", 64, "-t ext4 -O large_dir,ea_inode", "ext4", ""},
	{"quota project", 64, "-t ext4 -O quota,project", "ext4", ""},
	{"casefold", 64, "-t ext4 -O casefold", "ext4", "no Unicode in the kernel"},
	{"encrypt verity stable_inodes", 64, "-t ext4 -O encrypt,verity,stable_inodes", "ext4", "no verity in the kernel"},
	{"encrypt", 64, "-t ext4 -O encrypt", "ext4", ""},
	{"orphan_file", 64, "-t ext4 -O orphan_file", "ext4", ""},
	{"metadata_csum_seed", 64, "-t ext4 -O metadata_csum_seed", "ext4", ""},
	{"mmp", 64, "-t ext4 -O mmp -E mmp_update_interval=1", "ext4", ""},
	{"fast_commit", 64, "-t ext4 -O fast_commit", "ext4", ""},
	{"no journal", 64, "-t ext4 -O ^has_journal", "ext4", ""},
	{"no extents", 64, "-t ext4 -O ^extent,^64bit", "ext4", ""},
	{"many small groups", 64, "-t ext4 -g 1024", "ext4", ""},
	{"odd size", 0, "-t ext4 -b 1024", "ext4", ""},
}

// seeds are how many are tried in the long tier; in the fast one it is some.
func seeds(some, long int) int {
	if longTier() {
		return long
	}
	return some
}

// make writes an empty file system of this shape, with what is in the folder from if one is named.
func (s shape) make(t testing.TB, from string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	require.NoError(t, os.WriteFile(img, nil, 0o600))
	size := s.size << 20
	if size == 0 {
		size = 33<<20 + 5<<10 + 512
	}
	require.NoError(t, os.Truncate(img, size))
	args := append([]string{"-q", "-F", "-L", "label", "-U", "0d1c2b3a-4958-6776-8594-a3b2c1d0e0f0"}, strings.Fields(s.args)...)
	if from != "" {
		args = append(args, "-d", from)
	}
	fsystest.Tool(t, nil, "mke2fs", append(args, img)...)
	return img
}

func volume(t testing.TB, path string) pipe.Image {
	t.Helper()
	img, err := fsystest.Image(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, img.Close()) })
	return img
}

func open(t testing.TB, path string) fsys.FileSystem {
	t.Helper()
	f, err := ext.Open(t.Context(), volume(t, path))
	require.NoError(t, err)
	return f
}

func freeOf(t testing.TB, f fsys.FileSystem) []fsys.Range {
	t.Helper()
	free, err := fsystest.FreeOf(t.Context(), f, f.Info().Size)
	require.NoError(t, err)
	return free
}

var (
	freeLine    = regexp.MustCompile(`(?m)^  Free blocks: (.*)$`)
	blockSize   = regexp.MustCompile(`(?m)^Block size: +(\d+)$`)
	clusterSize = regexp.MustCompile(`(?m)^Cluster size: +(\d+)$`)
	blockCount  = regexp.MustCompile(`(?m)^Block count: +(\d+)$`)
)

// number finds a number in what a tool says; 0 where it does not say it.
func number(t testing.TB, re *regexp.Regexp, out string) int64 {
	t.Helper()
	m := re.FindStringSubmatch(out)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	require.NoError(t, err)
	return n
}

// dumped is what dumpe2fs calls free, joined.
func dumped(t testing.TB, img string) []fsys.Range {
	t.Helper()
	out := fsystest.Tool(t, nil, "dumpe2fs", img)
	bs, cluster, end := number(t, blockSize, out), number(t, clusterSize, out), number(t, blockCount, out)
	require.NotZero(t, bs, out)
	var list []fsys.Range
	for _, line := range freeLine.FindAllStringSubmatch(out, -1) {
		for _, part := range strings.Fields(strings.ReplaceAll(line[1], ",", " ")) {
			var from, to int64
			if n, _ := fmt.Sscanf(part, "%d-%d", &from, &to); n == 1 {
				to = from
			}
			if cluster > bs { // of the last cluster it names the first block
				to = min(end-1, to+cluster/bs-1)
			}
			r := fsys.Range{Off: from * bs, Len: (to - from + 1) * bs}
			if k := len(list); k > 0 && list[k-1].End() == r.Off {
				list[k-1].Len += r.Len
				continue
			}
			list = append(list, r)
		}
	}
	return list
}

// common are the parts that are in both lists.
func common(a, b []fsys.Range) (out []fsys.Range) {
	for len(a) > 0 && len(b) > 0 {
		from, to := max(a[0].Off, b[0].Off), min(a[0].End(), b[0].End())
		if from < to {
			out = append(out, fsys.Range{Off: from, Len: to - from})
		}
		if a[0].End() < b[0].End() {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}
