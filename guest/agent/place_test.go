package agent

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlace(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, Prefix+"1")
	require.NoError(t, os.Mkdir(dir, 0o700))
	outside := filepath.Join(root, "outside")
	require.NoError(t, os.WriteFile(outside, nil, 0o600))
	require.NoError(t, os.Symlink(root, filepath.Join(dir, "link")))
	p, err := OpenPlace(dir + "/.")
	require.NoError(t, err)
	require.NoError(t, p.Remove())
	require.NoDirExists(t, dir)
	require.FileExists(t, outside, "no link is followed")
	require.NoError(t, p.Remove(), "what is gone is gone")
	require.NoError(t, os.Mkdir(dir, 0o700))
	keep := filepath.Join(root, Prefix+"keep") // so that the number of the first is not used again
	require.NoError(t, os.Mkdir(keep, 0o700))
	if err := p.Remove(); err != nil { // file systems may give the new folder the old one's number
		require.ErrorContains(t, err, "another folder")
		require.DirExists(t, dir)
	}
}

func TestPlaceRefuses(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	name := func(n string) string { return filepath.Join(root, n) }
	require.NoError(t, os.Mkdir(name("other"), 0o700))
	require.NoError(t, os.WriteFile(name(Prefix+"file"), nil, 0o600))
	require.NoError(t, os.Symlink(name("other"), name(Prefix+"link")))
	require.NoError(t, os.Mkdir(name(Prefix+"open"), 0o700))
	require.NoError(t, os.Chmod(name(Prefix+"open"), 0o755))
	bad := []string{"", "/", "/tmp", Prefix + "relative", name("other"), name(Prefix + "file"), name(Prefix + "link"),
		name(Prefix + "missing"), name(Prefix+"link") + "/.."}
	if runtime.GOOS != "windows" {
		bad = append(bad, name(Prefix+"open"))
	}
	for _, dir := range bad {
		_, err := OpenPlace(dir)
		require.Error(t, err, dir)
	}
}
