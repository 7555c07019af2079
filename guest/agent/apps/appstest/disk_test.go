//go:build linux

package appstest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A disk that is frozen does not change, its copy has what was written before, and a thaw lets the writer go on.
func TestDisk(t *testing.T) {
	d := NewDisk(t, 32)
	Write(t, filepath.Join(d.Mount, "before"), []byte("before"))
	d.Freeze(t)
	defer d.Thaw()
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(filepath.Join(d.Mount, "after"), nil, 0o600) }()
	select {
	case <-written:
		require.Fail(t, "a frozen disk was written to")
	case <-time.After(200 * time.Millisecond):
	}
	image := d.Copy(t)
	d.Thaw()
	d.Thaw()
	require.NoError(t, <-written)

	c := Mount(t, image)
	b, err := os.ReadFile(filepath.Join(c.Mount, "before"))
	require.NoError(t, err)
	require.Equal(t, "before", string(b))
	require.NoFileExists(t, filepath.Join(c.Mount, "after"))
}
