package vfs_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/dirstore/vfs"
	"github.com/hikae/hikae/repo/store/dirstore/vfs/vfstest"
)

func TestFS(t *testing.T) {
	t.Run("directory", func(t *testing.T) {
		vfstest.TestFS(t, func(t testing.TB) vfs.FS {
			fsys, err := vfs.Open(t.TempDir())
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, fsys.Close()) })
			return fsys
		})
	})
	t.Run("memory", func(t *testing.T) {
		vfstest.TestFS(t, func(testing.TB) vfs.FS { return vfstest.NewMem() })
	})
	t.Run("faulty without a fault", func(t *testing.T) {
		vfstest.TestFS(t, func(testing.TB) vfs.FS { return vfstest.NewFaulty(vfstest.NewMem()) })
	})
}
