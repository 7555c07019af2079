package xfs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
	"github.com/hikae/hikae/pipe/exclude/xfs"
)

var update = flag.Bool("update", false, "make testdata again: needs root, xfsprogs and an XFS driver")

// samples are small volumes that lie in testdata, packed, each with what the kernel showed of it. So every system can test
// the reader, its replay included.
var samples = []struct {
	name string
	args []string
	busy bool
}{
	{name: "busy", args: []string{"-d", "size=40m", "-m", "rmapbt=1"}, busy: true},
	{name: "busy1k", args: []string{"-d", "size=40m", "-b", "size=1024", "-i", "nrext64=1", "-n", "size=4096"}, busy: true},
	{name: "clean", args: []string{"-d", "size=20m", "-m", "reflink=0,bigtime=0"}},
	{name: "v4", args: []string{"-d", "size=20m", "-m", "crc=0", "-b", "size=512"}},
}

// sample is what a sample must show.
type sample struct {
	Free  []fsys.Range      // ascending
	Files map[string]string // what each path is
}

// seen takes down all that a file system shows.
func seen(ctx context.Context, f fsys.FileSystem) (s sample, err error) {
	if s.Free, err = fsystest.FreeOf(ctx, f, 1<<62); err != nil {
		return s, err
	}
	s.Files = map[string]string{}
	return s, walk(ctx, f, "", f.Root(), func(path string, e fsys.Entry) error {
		a, err := f.Stat(ctx, e.Node)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("%v %d:%d %s", a.Mode, a.UID, a.GID, a.Mod.Format("2006-01-02T15:04:05.999999999"))
		switch {
		case a.Mode.IsRegular():
			h := blake3.New()
			if _, err := io.Copy(h, io.NewSectionReader(reader{ctx, f, e.Node}, 0, a.Size)); err != nil {
				return fmt.Errorf("%q: %w", path, err)
			}
			what += fmt.Sprintf(" %d %x", a.Size, h.Sum(nil)[:8])
		case a.Mode&fs.ModeSymlink != 0:
			target, err := f.Readlink(ctx, e.Node)
			if err != nil {
				return err
			}
			what += " " + target
		}
		s.Files[path] = what
		return nil
	})
}

type reader struct {
	ctx context.Context // an adapter's whole purpose is to carry it
	f   fsys.FileSystem
	n   fsys.Node
}

func (r reader) ReadAt(p []byte, off int64) (int, error) { return r.f.ReadAt(r.ctx, r.n, p, off) }

// walk visits what is below a directory, to a depth that no sample has.
func walk(ctx context.Context, f fsys.FileSystem, path string, dir fsys.Node, visit func(path string, e fsys.Entry) error) error {
	if strings.Count(path, "/") > 200 {
		return errors.New("too deep")
	}
	for e, err := range f.ReadDir(ctx, dir) {
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		below := path + "/" + e.Name
		if err := visit(below, e); err != nil {
			return err
		}
		if e.Type.IsDir() {
			if err := walk(ctx, f, below, e.Node, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

var loaded sync.Map // of each sample's name, its bytes

// load unpacks a sample. Nobody writes to what it returns.
func load(t testing.TB, name string) []byte {
	t.Helper()
	if b, ok := loaded.Load(name); ok {
		return b.([]byte)
	}
	packed, err := os.ReadFile(filepath.Join("testdata", name+".zst"))
	require.NoError(t, err)
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(64<<20))
	require.NoError(t, err)
	defer d.Close()
	b, err := d.DecodeAll(packed, nil)
	require.NoError(t, err)
	loaded.Store(name, b)
	return b
}

func volume(b []byte) pipe.Image { return pipe.FromReaderAt(bytes.NewReader(b), int64(len(b))) }

// TestSamples holds R015 to R018 where there is no XFS at hand.
func TestSamples(t *testing.T) {
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			if *update {
				loaded.Delete(s.name)
				makeSample(t, s.name, s.args, s.busy)
			}
			text, err := os.ReadFile(filepath.Join("testdata", s.name+".json"))
			require.NoError(t, err)
			var want sample
			require.NoError(t, json.Unmarshal(text, &want))
			require.Greater(t, len(want.Files), 20)
			require.NotEmpty(t, want.Free)

			f, err := xfs.Open(t.Context(), volume(load(t, s.name)))
			require.NoError(t, err)
			require.Empty(t, f.Info().Doubt)
			require.Equal(t, s.busy, f.Info().Replayed > 0)
			got, err := seen(t.Context(), f)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

// makeSample makes a sample anew. What it is to show is what the reader shows once that was held against the kernel, by
// the same checks as in TestBusy and TestVariants.
func makeSample(t *testing.T, name string, args []string, busy bool) {
	l := newLab(t)
	img := l.path()
	switch {
	case name == "v4":
		args = append(args, "-p", proto(t))
		mkfsAt(t, img, args...)
	default:
		mkfsAt(t, img, args...)
		m := fsystest.Mount(t, "xfs", img)
		opts := &fsystest.AgeOptions{MaxFile: 3000, MaxFiles: 150}
		require.NoError(t, fsystest.Age(m.Dir, 11, 120, opts))
		require.NoError(t, pieces(m.Dir, 120))
		require.NoError(t, m.Sync())
		if busy {
			require.NoError(t, ageAndMess(m.Dir, 12, 40, opts, nil))
			require.NoError(t, m.Sync())
		}
		snapshot := l.path()
		if busy {
			fsystest.Clone(t, snapshot, img)
		}
		require.NoError(t, m.Unmount())
		if busy {
			img = snapshot
			l.checkSnapshot(t, img)
		}
	}
	f, list := free(t, img)
	require.NoError(t, fsystest.Blank(img, list)) // what is free need not be packed
	s, err := seen(t.Context(), f)
	require.NoError(t, err)
	text, err := json.MarshalIndent(s, "", "\t")
	require.NoError(t, err)
	raw, err := os.ReadFile(img)
	require.NoError(t, err)
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join("testdata", name+".zst"), e.EncodeAll(raw, nil), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join("testdata", name+".json"), append(text, '\n'), 0o644))
}
