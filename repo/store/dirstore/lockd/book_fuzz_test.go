package lockd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
)

// Whatever the book's file holds, it opens with names that objects can have, and what it says is the same the next time.
func FuzzBook(f *testing.F) {
	f.Add([]byte(summed("lock 1900000000 data/x") + summed("free data/y") + summed("time 5 boot 7")))
	f.Add([]byte(summed("lock 99999999999999999999 data/x")))
	f.Add([]byte(summed("lock 7 data/x")[:5]))
	f.Add([]byte("\n\n\x00"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, bookName), b, 0o600))
		book, _, err := openBook(dir)
		require.NoError(t, err)
		for name := range book.dates {
			require.True(t, store.ValidName(name))
		}
		require.NoError(t, book.close())
		again, bad, err := openBook(dir)
		require.NoError(t, err)
		require.Zero(t, bad, "it was written anew")
		require.Equal(t, book.dates, again.dates)
		require.Equal(t, book.last, again.last)
		require.NoError(t, again.close())
	})
}
