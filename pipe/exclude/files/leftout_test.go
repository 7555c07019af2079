package files

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/ext"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/layout"
)

// lossy is a disk of a restore point from which a range was left out: it reads as zero there.
type lossy struct {
	pipe.Image
	out pipe.Extent
}

func (l *lossy) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := l.Image.ReadAt(ctx, p, off)
	for i := max(off, l.out.Off); i < min(off+int64(n), l.out.End()); i++ {
		p[i-off] = 0
	}
	return n, err
}

func (l *lossy) Extents(_ context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		for _, e := range []pipe.Extent{{Off: 0, Len: l.out.Off, Kind: pipe.Data}, l.out, {Off: l.out.End(), Len: l.Size() - l.out.End(), Kind: pipe.Data}} {
			from, to := max(e.Off, off), min(e.End(), off+n)
			if from < to && !yield(pipe.Extent{Off: from, Len: to - from, Kind: e.Kind}, nil) {
				return
			}
		}
	}
}

// Zeros in place of what was left out of a point are not the file's content: a file that a rule excluded, or of which a
// part could not be read, is refused, and never handed out as if it were whole.
func TestWhatWasLeftOutIsNotHandedOut(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	makeExt(t, name, sourceTree(t, "/dev/x / ext4 defaults 0 1\n"), "11111111-2222-3333-4444-555555555555", 0, 64<<20)
	disk := openDisk(t, name)
	vol, err := ext.Open(t.Context(), disk)
	require.NoError(t, err)
	info, err := FS(t.Context(), vol).Stat("var/big")
	require.NoError(t, err)
	var run fsys.Run
	for r, err := range vol.Runs(t.Context(), info.Sys().(fsys.Attr).Node) {
		require.NoError(t, err)
		if r.Kind == fsys.Written {
			run = r
		}
	}
	for _, kind := range []pipe.Kind{pipe.Excluded, pipe.Bad, pipe.Free} {
		img := &lossy{disk, pipe.Extent{Off: run.Vol + run.Len - 8192, Len: 4096, Kind: kind}}
		m, err := Open(t.Context(), []layout.Disk{{Key: "d", Image: img}}, ext.Open)
		require.NoError(t, err)
		for _, volume := range []string{"", "d"} {
			tree, err := m.Tree(volume)
			require.NoError(t, err)
			f, err := tree.Open("var/big")
			require.NoError(t, err, "that it is there can be seen")
			_, err = io.Copy(io.Discard, f)
			var out *LeftOutError
			require.ErrorAs(t, err, &out)
			require.Equal(t, LeftOutError{Kind: kind, Off: run.File + run.Len - 8192}, *out)
			_, err = fs.ReadFile(tree, "etc/hostname")
			require.NoError(t, err, "the rest can be read")

			dir := t.TempDir()
			into, err := os.OpenRoot(dir)
			require.NoError(t, err)
			x, err := tree.Extract(t.Context(), ".", into, nil)
			require.NoError(t, err)
			require.NoError(t, into.Close())
			require.NoFileExists(t, filepath.Join(dir, "var/big"))
			require.FileExists(t, filepath.Join(dir, "var/sparse"))
			require.Len(t, x.Skipped, 2, "both of its names")
			require.Contains(t, x.Skipped[0].Reason, kind.String())
		}
	}
}

// A name or a link that the folder's file system cannot take is that file's problem, and not that of all others. Windows
// allows names of 255 letters, which are more bytes than Linux has for a name; and a made volume has any.
func TestNamesThatCannotBeMade(t *testing.T) {
	long := strings.Repeat("名", 200)
	h := &hostile{
		dirs: map[fsys.Node][]fsys.Entry{
			2: {plain(long, 10), plain(strings.Repeat("\xe9", 100), 10), folder(long+"d", 3), link("long link", 20), link("empty link", 21), link("zero link", 22),
				plain("dir", 10), folder("dir", 4), link("door", 23), folder("door", 5), plain("last", 10)},
			3: {plain("in it", 10)},
			4: {plain("below a file", 10)},
			5: {plain("beyond", 10)},
		},
		files: map[fsys.Node]string{10: "payload"},
		links: map[fsys.Node]string{20: strings.Repeat("x/", 20_000), 21: "", 22: "a\x00b", 23: t.TempDir()},
	}
	dir := t.TempDir()
	into, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer into.Close()
	x, err := FS(t.Context(), h).Extract(t.Context(), ".", into, nil)
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "last"), "what comes behind them is there")
	require.FileExists(t, filepath.Join(dir, "dir"))
	require.GreaterOrEqual(t, len(x.Skipped), 9)
}
