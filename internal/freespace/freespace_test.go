package freespace

import (
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOf(t *testing.T) {
	dir := t.TempDir()
	size, free, err := Of(dir)
	require.NoError(t, err)
	require.Positive(t, free)
	require.GreaterOrEqual(t, size, free)
	_, _, err = Of(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}
