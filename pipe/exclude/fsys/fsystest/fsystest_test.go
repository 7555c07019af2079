package fsystest_test

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// folder shows a folder of this machine as a file system, in which nothing but the last MiB is free.
type folder struct {
	dir   string
	paths []string      // a node is an index
	infos []fs.FileInfo // of paths[1:]
	free  []fsys.Range
}

const folderSize = 4 << 20

func (f *folder) Info() fsys.Info { return fsys.Info{Kind: "folder", Size: folderSize, BlockSize: 512} }
func (f *folder) Root() fsys.Node { return 0 }

func (f *folder) Free(context.Context) iter.Seq2[fsys.Range, error] {
	return func(yield func(fsys.Range, error) bool) {
		for _, r := range f.free {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (f *folder) path(n fsys.Node) string { return f.dir + "/" + f.paths[n] }

// node gives all names of a file one number, as a driver does.
func (f *folder) node(path string) fsys.Node {
	fi, err := os.Lstat(f.dir + "/" + path)
	if err == nil {
		if i := slices.IndexFunc(f.infos, func(o fs.FileInfo) bool { return os.SameFile(fi, o) }); i >= 0 {
			return fsys.Node(i + 1)
		}
	}
	f.paths, f.infos = append(f.paths, path), append(f.infos, fi)
	return fsys.Node(len(f.paths) - 1)
}

func (f *folder) ReadDir(_ context.Context, dir fsys.Node) iter.Seq2[fsys.Entry, error] {
	return func(yield func(fsys.Entry, error) bool) {
		entries, err := os.ReadDir(f.path(dir))
		if err != nil {
			yield(fsys.Entry{}, err)
			return
		}
		for _, e := range entries {
			n := f.node(strings.TrimPrefix(f.paths[dir]+"/"+e.Name(), "/"))
			if !yield(fsys.Entry{Name: e.Name(), Node: n, Type: e.Type()}, nil) {
				return
			}
		}
	}
}

func (f *folder) Stat(_ context.Context, n fsys.Node) (fsys.Attr, error) {
	stat := os.Lstat
	if n == 0 {
		stat = os.Stat
	}
	fi, err := stat(f.path(n))
	if err != nil {
		return fsys.Attr{}, err
	}
	return fsys.Attr{Node: n, Mode: fi.Mode(), Size: fi.Size(), Mod: fi.ModTime()}, nil
}

func (f *folder) Runs(ctx context.Context, n fsys.Node) iter.Seq2[fsys.Run, error] {
	return func(yield func(fsys.Run, error) bool) {
		if a, err := f.Stat(ctx, n); err != nil || a.Size > 0 {
			yield(fsys.Run{Len: (a.Size + 511) / 512 * 512, Vol: 1 << 20}, err)
		}
	}
}

func (f *folder) ReadAt(_ context.Context, n fsys.Node, p []byte, off int64) (int, error) {
	file, err := os.Open(f.path(n))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return io.NewSectionReader(file, 0, 1<<40).ReadAt(p, off)
}

func (f *folder) Readlink(_ context.Context, n fsys.Node) (string, error) {
	return os.Readlink(f.path(n))
}

func aged(t *testing.T, seed uint64, opts *fsystest.AgeOptions) (string, fsystest.Tree) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the names are those of POSIX")
	}
	dir := t.TempDir()
	require.NoError(t, fsystest.Age(dir, seed, 200, opts))
	tree, err := fsystest.Scan(dir)
	require.NoError(t, err)
	return dir, tree
}

var small = &fsystest.AgeOptions{MaxFile: 32 << 10, MaxFiles: 600}

// whatever leaves out what folder does not know.
var whatever = &fsystest.CompareOptions{NoOwner: true, NoLinks: true}

func TestAgeIsTheSeeds(t *testing.T) {
	t.Parallel()
	_, a := aged(t, 7, small)
	_, b := aged(t, 7, small)
	_, c := aged(t, 8, small)
	require.Greater(t, len(a), 50)
	require.Equal(t, slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b)))
	require.NotEqual(t, slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(c)))
	for path := range a {
		require.Equal(t, a[path].Sum, b[path].Sum, path)
	}
}

func TestCompareFindsEveryDifference(t *testing.T) {
	t.Parallel()
	dir, tree := aged(t, 1, small)
	f := &folder{dir: dir, paths: []string{""}}
	require.NoError(t, fsystest.Compare(t.Context(), f, tree, whatever))

	var file, link string
	for path, it := range tree {
		if it.Mode.IsRegular() && it.Size > 100 && it.Links == 1 {
			file = path
		}
		if it.Mode.Type() == fs.ModeSymlink {
			link = path
		}
	}
	for name, change := range map[string]func(fsystest.Tree){
		"gone":    func(t fsystest.Tree) { delete(t, file) },
		"new":     func(t fsystest.Tree) { t["else"] = fsystest.Item{} },
		"size":    func(t fsystest.Tree) { it := t[file]; it.Size--; t[file] = it },
		"content": func(t fsystest.Tree) { it := t[file]; it.Sum[31]++; t[file] = it },
		"mode":    func(t fsystest.Tree) { it := t[file]; it.Mode ^= 1; t[file] = it },
		"time":    func(t fsystest.Tree) { it := t[file]; it.Mod = it.Mod.Add(1); t[file] = it },
		"target":  func(t fsystest.Tree) { it := t[link]; it.Target += "x"; t[link] = it },
	} {
		other := maps.Clone(tree)
		change(other)
		require.Error(t, fsystest.Compare(t.Context(), f, other, whatever), name)
		require.Error(t, tree.Diff(other), name)
	}
	require.NoError(t, tree.Diff(maps.Clone(tree)))
	require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte("changed"), 0o600))
	require.Error(t, fsystest.Compare(t.Context(), f, tree, whatever))
}

func TestCheckFree(t *testing.T) {
	t.Parallel()
	dir, _ := aged(t, 2, small)
	last := fsys.Range{Off: 3 << 20, Len: 1 << 20}
	check := func(inUse []fsys.Range, free ...fsys.Range) error {
		return fsystest.CheckFree(t.Context(), &folder{dir: dir, paths: []string{""}, free: free}, folderSize, inUse...)
	}
	require.NoError(t, check(nil, fsys.Range{Off: 0, Len: 512}, last))
	require.Error(t, check(nil, fsys.Range{Off: 3 << 20, Len: 2 << 20}), "over the end")
	require.Error(t, check(nil, last, fsys.Range{Off: 0, Len: 512}), "descending")
	require.Error(t, check(nil, fsys.Range{Off: 0, Len: 512}, fsys.Range{Off: 512, Len: 512}), "adjacent")
	require.Error(t, check(nil, fsys.Range{Off: 1 << 20, Len: 512}), "where files lie")
	require.Error(t, check([]fsys.Range{{Off: folderSize - 1, Len: 1}}, last), "what the test knows of")
}

func TestBlank(t *testing.T) {
	t.Parallel()
	img := filepath.Join(t.TempDir(), "img")
	require.NoError(t, os.WriteFile(img, []byte(strings.Repeat("x", 100)), 0o600))
	require.NoError(t, fsystest.Blank(img, []fsys.Range{{Off: 10, Len: 80}}))
	copied := img + ".copy"
	require.NoError(t, fsystest.Copy(copied, img))
	got, err := os.ReadFile(copied)
	require.NoError(t, err)
	require.Equal(t, "xxxxxxxxxx"+strings.Repeat("\x00", 80)+"xxxxxxxxxx", string(got))
}

// Every kind can be mounted, aged, synced, copied while it is busy, frozen, and mounted again with the same files.
func TestMount(t *testing.T) {
	t.Parallel()
	for kind, mkfs := range map[string][]string{
		"ext4": {"mke2fs", "-q", "-F", "-t", "ext4"},
		"xfs":  {"mkfs.xfs", "-q"},
		"ntfs": {"mkntfs", "-q", "-F", "-f"},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			img := filepath.Join(t.TempDir(), "img")
			require.NoError(t, os.WriteFile(img, nil, 0o600))
			require.NoError(t, os.Truncate(img, 320<<20))
			fsystest.Tool(t, nil, mkfs[0], append(mkfs[1:], img)...)
			m := fsystest.Mount(t, kind, img)
			require.NoError(t, fsystest.Age(m.Dir, 3, 120, &fsystest.AgeOptions{MaxFile: 128 << 10, NoSpecial: kind == "ntfs"}))
			require.NoError(t, m.Sync())
			before, err := fsystest.Scan(m.Dir)
			require.NoError(t, err)
			if kind != "ntfs" {
				require.NoError(t, m.Freeze())
				require.NoError(t, m.Thaw())
			}
			require.NoError(t, m.Unmount())
			m = fsystest.Mount(t, kind, img)
			after, err := fsystest.Scan(m.Dir)
			require.NoError(t, err)
			require.NoError(t, before.Diff(after))
			require.WithinDuration(t, time.Now(), after[""].Mod, time.Hour)
		})
	}
}

func TestOverlap(t *testing.T) {
	t.Parallel()
	list := []fsys.Range{{Off: 10, Len: 10}, {Off: 40, Len: 1}}
	for off := range int64(50) {
		for n := int64(1); n < 40; n++ {
			want := off < 20 && off+n > 10 || off < 41 && off+n > 40
			_, got := fsystest.Overlap(list, fsys.Range{Off: off, Len: n})
			require.Equal(t, want, got, "%d+%d", off, n)
		}
	}
}

// Age goes on where an earlier one ended: no number is given twice, whatever was removed between.
func TestAgeGoesOn(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("the names are those of POSIX")
	}
	dir := t.TempDir()
	for seed := range uint64(12) {
		require.NoError(t, fsystest.Age(dir, seed%3, 80, &fsystest.AgeOptions{MaxFile: 1 << 10, RawNames: true}))
	}
}
