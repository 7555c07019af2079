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
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// hostile is a file system that says whatever it likes: what no driver would write, and a broken or made disk may hold.
type hostile struct {
	dirs  map[fsys.Node][]fsys.Entry
	files map[fsys.Node]string
	links map[fsys.Node]string
}

func (h *hostile) Info() fsys.Info { return fsys.Info{Kind: "ext4"} }
func (h *hostile) Root() fsys.Node { return 2 }
func (h *hostile) Free(context.Context) iter.Seq2[fsys.Range, error] {
	return func(func(fsys.Range, error) bool) {}
}

func (h *hostile) ReadDir(_ context.Context, dir fsys.Node) iter.Seq2[fsys.Entry, error] {
	return func(yield func(fsys.Entry, error) bool) {
		for _, e := range h.dirs[dir] {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (h *hostile) Stat(_ context.Context, n fsys.Node) (fsys.Attr, error) {
	a := fsys.Attr{Node: n, Links: 1, Mode: 0o644, Size: int64(len(h.files[n]))}
	if _, ok := h.dirs[n]; ok {
		a.Mode = fs.ModeDir | 0o755
	} else if _, ok := h.links[n]; ok {
		a.Mode = fs.ModeSymlink | 0o777
	} else if _, ok := h.files[n]; !ok {
		return a, fs.ErrNotExist
	}
	return a, nil
}

func (h *hostile) Runs(_ context.Context, n fsys.Node) iter.Seq2[fsys.Run, error] {
	return func(yield func(fsys.Run, error) bool) {
		yield(fsys.Run{Len: int64(len(h.files[n])), Vol: -1, Kind: fsys.Packed}, nil)
	}
}

func (h *hostile) ReadAt(_ context.Context, n fsys.Node, p []byte, off int64) (int, error) {
	return strings.NewReader(h.files[n]).ReadAt(p, off)
}

func (h *hostile) Readlink(_ context.Context, n fsys.Node) (string, error) { return h.links[n], nil }

func plain(name string, n fsys.Node) fsys.Entry { return fsys.Entry{Name: name, Node: n} }
func folder(name string, n fsys.Node) fsys.Entry {
	return fsys.Entry{Name: name, Node: n, Type: fs.ModeDir}
}
func link(name string, n fsys.Node) fsys.Entry {
	return fsys.Entry{Name: name, Node: n, Type: fs.ModeSymlink}
}

// Names and links of a guest never lead out of the folder that files are taken to.
func TestExtractStaysInside(t *testing.T) {
	outside := t.TempDir()
	dir := filepath.Join(outside, "in")
	require.NoError(t, os.Mkdir(dir, 0o700))
	h := &hostile{
		dirs: map[fsys.Node][]fsys.Entry{
			2: {plain("../escape", 10), plain("..", 10), plain("/abs", 10), plain("a\x00b", 10), plain("\xff\xfe", 10),
				link("door", 20), folder("door", 3), link("up", 21), folder("up", 4), folder("same", 5), plain("same", 10)},
			3: {plain("through", 10)},
			4: {plain("through", 10)},
			5: {},
		},
		files: map[fsys.Node]string{10: "payload"},
		links: map[fsys.Node]string{20: outside, 21: ".."},
	}
	into, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer into.Close()
	_, err = FS(t.Context(), h).Extract(t.Context(), ".", into, nil)
	if err != nil { // writing through a door that leads outside is refused by the root itself
		require.ErrorContains(t, err, "escape")
	}
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing appeared beside the folder")
	data, err := os.ReadFile(filepath.Join(dir, `\xff\xfe`))
	require.NoError(t, err)
	require.Equal(t, "payload", string(data))
	require.FileExists(t, filepath.Join(dir, `..\x2fescape`))
	require.FileExists(t, filepath.Join(dir, `\x2e\x2e`))
}

func TestWalkEnds(t *testing.T) {
	h := &hostile{dirs: map[fsys.Node][]fsys.Entry{
		2: {folder("a", 3), folder("b", 3)},
		3: {folder("a", 4), folder("b", 4), folder("self", 3), folder("top", 2)},
		4: {},
	}}
	calls, broken := 0, 0
	require.NoError(t, FS(t.Context(), h).Walk(".", func(_ string, _ fs.DirEntry, err error) error {
		calls++
		if err != nil {
			broken++
		}
		return nil
	}))
	require.Equal(t, 4, broken, "b of the root, b, self and top of a")
	require.Less(t, calls, 20)
}

func TestLinkLoops(t *testing.T) {
	h := &hostile{
		dirs:  map[fsys.Node][]fsys.Entry{2: {link("a", 10), link("b", 11), link("c", 12), plain("f", 13)}},
		links: map[fsys.Node]string{10: "b", 11: "a", 12: strings.Repeat("./f/../", 1000) + "f"},
		files: map[fsys.Node]string{13: "x"},
	}
	tree := FS(t.Context(), h)
	_, err := tree.Open("a")
	require.ErrorIs(t, err, errLoop)
	_, err = tree.Open("c") // a file is no directory to go through
	require.ErrorIs(t, err, fs.ErrNotExist)
	f, err := tree.Open("f")
	require.NoError(t, err)
	data, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, "x", string(data))
	for _, name := range []string{"", "/f", "../f", "f/"} {
		_, err := tree.Open(name)
		require.ErrorIs(t, err, fs.ErrInvalid, name)
	}
}

func FuzzShownName(f *testing.F) {
	for _, s := range []string{"a", "..", "\xff", `\xff`, "a/b", "\x00", `\\x`, "é"} {
		f.Add(s, s+"x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := ShownName(a), ShownName(b)
		require.True(t, utf8.ValidString(x))
		require.False(t, a != b && x == y, "%q and %q are shown alike", a, b)
		if a != "" {
			require.True(t, fs.ValidPath(x), "%q", x)
			require.NotContains(t, x, "/")
		}
	})
}
