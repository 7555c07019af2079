package xfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// TestVariants holds what is free on clean file systems against xfs_db, block by block (R016, R018).
func TestVariants(t *testing.T) {
	for i, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			if v.v4 {
				checkV4(t, v)
				return
			}
			img := mkfs(t, v.args...)
			f, list := free(t, img)
			require.Equal(t, toolFree(t, img, f), list, "fresh")
			if i%4 != 0 && !long() {
				return // the long tier ages all of them
			}
			m := fsystest.Mount(t, "xfs", img)
			require.NoError(t, fsystest.Age(m.Dir, uint64(i), 150, &fsystest.AgeOptions{MaxFile: 256 << 10, RawNames: true}))
			require.NoError(t, extremes(m.Dir))
			tree, err := fsystest.Scan(m.Dir)
			require.NoError(t, err)
			require.NoError(t, m.Unmount())
			f, list = free(t, img)
			require.Equal(t, toolFree(t, img, f), list, "aged")
			require.Zero(t, f.Info().Replayed)
			require.NoError(t, fsystest.Compare(t.Context(), f, tree, nil))
			require.NoError(t, fsystest.CheckFree(t.Context(), f, size(t, img)))
		})
	}
}

// extremes makes what aging does not: a file in a great many pieces, targets of all lengths, a directory deep in blocks.
func extremes(dir string) error {
	if err := pieces(dir, 600); err != nil {
		return err
	}
	for _, n := range []int{1, 59, 300, 336, 500, 1000, 1023} {
		if err := os.Symlink(strings.Repeat("s", n), filepath.Join(dir, fmt.Sprint("link", n))); err != nil {
			return err
		}
	}
	crowd := filepath.Join(dir, "crowd")
	if err := os.Mkdir(crowd, 0o700); err != nil {
		return err
	}
	for i := range 1200 {
		if err := os.Symlink("x", filepath.Join(crowd, fmt.Sprintf("%0120d", i))); err != nil {
			return err
		}
	}
	for i := 0; i < 1200; i += 3 {
		if err := os.Remove(filepath.Join(crowd, fmt.Sprintf("%0120d", i))); err != nil {
			return err
		}
	}
	return nil
}

// pieces makes a file in so many pieces.
func pieces(dir string, n int64) error {
	f, err := os.Create(filepath.Join(dir, "pieces"))
	for i := int64(0); i < n && err == nil; i++ {
		_, err = f.WriteAt([]byte{byte(i)}, i*3*64<<10)
	}
	return errors.Join(err, f.Close())
}

// checkV4 fills a version 4 file system by mkfs itself, for the kernel may not mount it.
func checkV4(t *testing.T, v variant) {
	img := mkfs(t, append([]string{"-p", proto(t)}, v.args...)...)
	f, list := free(t, img)
	require.Equal(t, toolFree(t, img, f), list)
	require.NoError(t, fsystest.CheckFree(t.Context(), f, size(t, img)))
	nodes := map[string]fsys.Entry{}
	for e, err := range f.ReadDir(t.Context(), f.Root()) {
		require.NoError(t, err)
		nodes[e.Name] = e
	}
	require.Len(t, nodes, 42)
	for i := range 40 {
		name := fmt.Sprint("file", i)
		want := strings.Repeat(name, i*1000)
		a, err := f.Stat(t.Context(), nodes[name].Node)
		require.NoError(t, err)
		assert.Equal(t, fs.FileMode(0o640), a.Mode)
		require.Equal(t, int64(len(want)), a.Size)
		got := make([]byte, a.Size)
		_, err = f.ReadAt(t.Context(), a.Node, got, 0)
		if a.Size > 0 {
			require.NoError(t, err)
		}
		require.Equal(t, want, string(got))
	}
	target, err := f.Readlink(t.Context(), nodes["long"].Node)
	require.NoError(t, err)
	assert.Equal(t, strings.Repeat("t", 900), target)
	count := 0
	for e, err := range f.ReadDir(t.Context(), nodes["sub"].Node) {
		require.NoError(t, err)
		assert.Equal(t, fs.ModeSymlink, e.Type)
		count++
	}
	assert.Equal(t, 400, count)
}

// proto writes a list of files from which mkfs fills a file system.
func proto(t testing.TB) string {
	src := t.TempDir()
	list := filepath.Join(src, "proto")
	var b strings.Builder
	b.WriteString("/\n0 0\nd--755 3 4\n")
	for i := range 40 {
		name := fmt.Sprint("file", i)
		require.NoError(t, os.WriteFile(filepath.Join(src, name), []byte(strings.Repeat(name, i*1000)), 0o600))
		fmt.Fprintf(&b, "%s ---640 1 2 %s\n", name, filepath.Join(src, name))
	}
	b.WriteString("long l--777 0 0 " + strings.Repeat("t", 900) + "\nsub d--700 0 0\n")
	for i := range 400 {
		fmt.Fprintf(&b, "%040d l--777 0 0 target\n", i)
	}
	b.WriteString("$\n$\n")
	require.NoError(t, os.WriteFile(list, []byte(b.String()), 0o600))
	return list
}
