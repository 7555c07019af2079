package ext_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// scanned is what the kernel shows of a copy of an image, and the copy is what the kernel leaves of it.
func scanned(t testing.TB, img, copied string, opts ...string) fsystest.Tree {
	t.Helper()
	require.NoError(t, fsystest.Copy(copied, img))
	m := fsystest.Mount(t, "ext4", copied, opts...)
	tree, err := fsystest.Scan(m.Dir)
	require.NoError(t, err)
	require.NoError(t, m.Unmount())
	return tree
}

// check holds what we say of an image, as busy as it may be, against what the real tools and the kernel make of it:
//
//   - the files are those that the kernel shows after its replay;
//   - what is free is what dumpe2fs calls free both before and after e2fsck's replay;
//   - with garbage and then zeros in what is free, the kernel shows the same files, and e2fsck finds nothing.
func check(t testing.TB, img string) fsys.Info {
	t.Helper()
	dir := t.TempDir()
	f := open(t, img)
	require.Empty(t, f.Info().Doubt)
	free := freeOf(t, f)
	require.NoError(t, fsystest.CheckFree(t.Context(), f, f.Info().Size))

	replayed := filepath.Join(dir, "replayed")
	require.NoError(t, fsystest.Copy(replayed, img))
	fsystest.Tool(t, []int{0, 1}, "e2fsck", "-y", "-E", "journal_only", replayed)
	want := dumped(t, replayed)
	require.Equal(t, common(free, want), free, "something is free that is in use after replay")
	if !torn(t, img) {
		require.Equal(t, common(dumped(t, img), want), free)
	}
	require.NoError(t, os.Remove(replayed))

	kernel := filepath.Join(dir, "kernel")
	tree := scanned(t, img, kernel)
	require.NoError(t, os.Remove(kernel))
	require.NoError(t, fsystest.Compare(t.Context(), f, tree, nil))

	fillers := []fsystest.Filler{fsystest.Garbage, fsystest.Zero}
	for _, filler := range fillers[:seeds(1, 2)] {
		blank := filepath.Join(dir, "blank")
		require.NoError(t, fsystest.Copy(blank, img))
		require.NoError(t, fsystest.BlankWith(blank, free, filler))
		require.NoError(t, tree.Diff(scanned(t, blank, kernel)))
		out := fsystest.Tool(t, nil, "e2fsck", "-fn", kernel)
		require.NotContains(t, out, "WARNING")
		require.NoError(t, os.Remove(kernel))
		require.NoError(t, os.Remove(blank))
	}
	return f.Info()
}

// torn reports whether dumpe2fs cannot make sense of all groups of an image before its replay: the driver was just
// writing them.
func torn(t testing.TB, img string) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dumpe2fs", img).CombinedOutput()
	return err != nil || strings.Contains(string(out), "EXPECTED")
}

// age works on a mounted file system, holds some of the files that it deletes open, and returns what lets go of them.
func age(t testing.TB, dir string, seed uint64, ops int) (release func()) {
	t.Helper()
	opts := &fsystest.AgeOptions{MaxFile: 1 << 20, MaxFiles: 1500, RawNames: true}
	require.NoError(t, fsystest.Age(dir, seed, ops, opts))
	var held []*os.File
	for i := range 5 {
		path := fmt.Sprintf("%s/held%d-%d", dir, seed, i)
		require.NoError(t, os.WriteFile(path, make([]byte, 100<<10), 0o600))
		f, err := os.Open(path)
		require.NoError(t, err)
		require.NoError(t, os.Remove(path))
		held = append(held, f)
	}
	return func() {
		for _, f := range held {
			require.NoError(t, f.Close())
		}
	}
}

// still copies the image of a mounted file system at a moment at which the driver does not write: two copies, one after
// the other, are alike.
func still(t testing.TB, img string) string {
	t.Helper()
	busy, again := img+".busy", img+".again"
	defer os.Remove(again)
	for range 20 {
		require.NoError(t, fsystest.Copy(busy, img))
		require.NoError(t, fsystest.Copy(again, img))
		if err := exec.CommandContext(t.Context(), "cmp", "-s", busy, again).Run(); err == nil {
			return busy
		}
	}
	t.Fatal("the driver writes all the time")
	return ""
}

// R016: mounted, aged and synced: most of it is in the log only. Every feature set that this kernel mounts.
func TestMounted(t *testing.T) {
	for _, s := range shapes {
		if s.noMount != "" || !longTier() && fewer[s.name] {
			continue
		}
		for seed := range uint64(seeds(1, 8)) {
			t.Run(fmt.Sprintf("%s/%d", s.name, seed), func(t *testing.T) {
				t.Parallel()
				img := s.make(t, "")
				m := fsystest.Mount(t, "ext4", img)
				release := age(t, m.Dir, seed, seeds(80, 300))
				require.NoError(t, m.Sync())
				busy := still(t, img)
				release()
				require.NoError(t, m.Unmount())
				check(t, img)
				f := open(t, busy)
				if !strings.Contains(f.Info().Kind, "ext2") && !strings.Contains(s.args, "^has_journal") {
					if s.name == "fast_commit" && f.Info().Doubt != "" {
						require.Contains(t, f.Info().Doubt, "fast commits")
						return
					}
					info := check(t, busy)
					require.Positive(t, info.Replayed, "the log was not looked at")
					return
				}
				require.Contains(t, f.Info().Doubt, "not cleanly unmounted")
				require.Empty(t, freeOf(t, f))
			})
		}
	}
}

// fewer are left to the long tier: each shows nothing that another does not.
var fewer = map[string]bool{
	"ext2 2K without sparse_super": true, "2K blocks": true, "uninit_bg without 64bit": true,
	"meta_bg 1K": true, "sparse_super2 with resize": true, "bigalloc uninit_bg": true, "encrypt": true, "odd size": true,
	"metadata_csum_seed": true, "mmp": true, "without 64bit": true, "no flex_bg": true, "quota project": true, "no checksums": true,
	"large_dir ea_inode": true, "inline_data 1K large inodes": true,
}

// host mounts a file system in which a file can be cloned in one moment, as a snapshot of a disk is made.
func host(t testing.TB, size int64) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "host")
	require.NoError(t, os.WriteFile(img, nil, 0o600))
	require.NoError(t, os.Truncate(img, size))
	fsystest.Tool(t, nil, "mkfs.xfs", "-q", "-m", "reflink=1", img)
	return fsystest.Mount(t, "xfs", img).Dir
}

// clone takes n clones of an image while work goes on with it: three rounds of work, then a clone in the middle of the next.
func clone(t testing.TB, dir, img string, n int, work func(round uint64) error) (clones []string) {
	t.Helper()
	took, ended := make(chan struct{}, n), make(chan error, 1)
	go func() {
		defer close(took)
		var err error
		for round := range uint64(3*n + 1) {
			if err = errors.Join(err, work(round)); round%3 == 2 {
				took <- struct{}{}
			}
		}
		ended <- err
	}()
	for range took {
		clones = append(clones, fmt.Sprintf("%s/clone%d", dir, len(clones)))
		fsystest.Clone(t, clones[len(clones)-1], img)
	}
	require.NoError(t, <-ended)
	require.Len(t, clones, n)
	return clones
}

// R016: snapshots of a disk that is written to all the time, without a freeze: whatever is in the log, and whatever is just
// being put into its place.
func TestBusy(t *testing.T) {
	for name, opts := range map[string][]string{
		"default":        {"-t ext4"},
		"1K blocks":      {"-t ext4 -b 1024 -J size=1"},
		"ext3":           {"-t ext3"},
		"checksum":       {"-t ext4 -O ^metadata_csum,uninit_bg", "journal_checksum"},
		"async commit":   {"-t ext4 -O ^metadata_csum,uninit_bg", "journal_async_commit", "data=writeback"},
		"csum async":     {"-t ext4", "journal_async_commit", "data=writeback"},
		"data=journal":   {"-t ext4", "data=journal"},
		"data=writeback": {"-t ext4", "data=writeback"},
		"often":          {"-t ext4 -O orphan_file", "commit=1"},
		"bigalloc":       {"-t ext4 -O bigalloc -C 16384", "nodelalloc"},
	} {
		if !longTier() && (name == "often" || name == "data=writeback" || name == "bigalloc") {
			continue
		}
		for seed := range uint64(seeds(1, 4)) {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				t.Parallel()
				dir := host(t, 2<<30)
				s := shape{name: name, size: 96, args: opts[0]}
				img := filepath.Join(dir, "img")
				require.NoError(t, fsystest.Copy(img, s.make(t, "")))
				m := fsystest.Mount(t, "ext4", img, opts[1:]...)
				clones := clone(t, dir, img, seeds(2, 5), func(round uint64) error {
					return fsystest.Age(m.Dir, seed*100+round, seeds(60, 120), &fsystest.AgeOptions{MaxFile: 1 << 20, MaxFiles: 1000, Fsync: 3})
				})
				require.NoError(t, m.Unmount())
				for _, from := range clones {
					clone := filepath.Join(t.TempDir(), "clone")
					require.NoError(t, fsystest.Copy(clone, from))
					if doubt := open(t, clone).Info().Doubt; strings.Contains(doubt, "the copy of block") && strings.Contains(name, "csum async") {
						// Neither does the kernel: with asynchronous commits a block of the last transaction may be missing.
						_, err := fsystest.TryMount(t, "ext4", clone)
						require.Error(t, err)
						continue
					}
					check(t, clone)
				}
			})
		}
	}
}

// Frozen, as for a consistent snapshot: nothing is in the log.
func TestFrozen(t *testing.T) {
	t.Parallel()
	img := shapes[0].make(t, "")
	m := fsystest.Mount(t, "ext4", img)
	release := age(t, m.Dir, 5, 150)
	require.NoError(t, m.Freeze())
	frozen := img + ".frozen"
	copied := fsystest.Copy(frozen, img)
	require.NoError(t, m.Thaw())
	require.NoError(t, copied)
	release()
	require.Zero(t, check(t, frozen).Replayed)
}

// Content that is nowhere else than in the log is read from there.
func TestDataInTheLog(t *testing.T) {
	t.Parallel()
	img := shapes[0].make(t, "")
	m := fsystest.Mount(t, "ext4", img, "data=journal")
	content := []byte("\xc0\x3b\x39\x98 begins like a block of the log" + strings.Repeat(".", 5000))
	require.NoError(t, os.WriteFile(m.Dir+"/file", content, 0o600))
	require.NoError(t, m.Sync())
	f := open(t, img)
	var got []byte
	for e, err := range f.ReadDir(t.Context(), f.Root()) {
		require.NoError(t, err)
		if e.Type == fs.FileMode(0) {
			got = make([]byte, len(content))
			_, err := f.ReadAt(t.Context(), e.Node, got, 0)
			require.NoError(t, err)
		}
	}
	require.Equal(t, content, got)
	check(t, img)
}
