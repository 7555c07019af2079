package vhdx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/pipetest"
)

// elsewhere is a folder that is the drive C: of a machine, and notes what is asked for.
type elsewhere struct {
	dir string

	mu    sync.Mutex
	asked []string
	open  int
}

func (e *elsewhere) path(name string) (string, error) {
	rest, ok := strings.CutPrefix(name, `C:\`)
	if !ok {
		return "", fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return filepath.Join(e.dir, strings.ReplaceAll(rest, `\`, "/")), nil
}

func (e *elsewhere) name(path string) string {
	rel, err := filepath.Rel(e.dir, path)
	if err != nil {
		panic(err)
	}
	return `C:\` + strings.ReplaceAll(rel, "/", `\`)
}

func (e *elsewhere) Open(_ context.Context, name string) (pipe.Image, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, name)
	path, err := e.path(name)
	if err != nil {
		return nil, err
	}
	img, err := diskfile.Open(path, &diskfile.OpenOptions{Live: true})
	if err != nil {
		return nil, err
	}
	e.open++
	return counted{img, e}, nil
}

// counted is an image whose Close is counted.
type counted struct {
	pipe.Image
	e *elsewhere
}

func (c counted) Close() error {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.e.open--
	return c.Image.Close()
}

func (c counted) Unwrap() pipe.Image { return c.Image }

// remote is a file of this machine as one of another is written to.
type remote struct {
	f      *os.File
	sent   atomic.Int64
	closed int
	syncs  int
}

func newRemote(t testing.TB, path string, flag int) *remote {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|flag, 0o600)
	require.NoError(t, err)
	return &remote{f: f}
}

func (r *remote) Size() int64 {
	fi, err := r.f.Stat()
	if err != nil {
		return 0
	}
	return fi.Size()
}

func (r *remote) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return r.f.ReadAt(p, off)
}

func (r *remote) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	r.sent.Add(int64(len(p)))
	return r.f.WriteAt(p, off)
}

func (r *remote) Truncate(_ context.Context, size int64) error { return r.f.Truncate(size) }
func (r *remote) Sync(context.Context) error                   { r.syncs++; return nil }
func (r *remote) Close() error                                 { r.closed++; return r.f.Close() }

// Disks in files elsewhere hold what every target holds.
func TestConformanceElsewhere(t *testing.T) {
	dir := t.TempDir()
	n := 0
	for name, opts := range map[string]vhdx.CreateOptions{
		"dynamic": {BlockSize: 1 << 20}, "fixed": {Type: vhdx.Fixed, BlockSize: 1 << 20}, "4096": {SectorSize: 4096, BlockSize: 2 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			pipetest.TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
				n++
				file := filepath.Join(dir, fmt.Sprintf("%d.vhdx", n))
				target, err := vhdx.CreateOn(t.Context(), newRemote(t, file, os.O_CREATE), size, "disk", &opts)
				require.NoError(t, err)
				return target, func() pipe.Image {
					img, err := vhdx.OpenIn(t.Context(), &elsewhere{dir: dir}, `C:\`+filepath.Base(file), nil)
					require.NoError(t, err)
					if img.Size() == size {
						return img
					}
					return clipped{img, size}
				}
			})
		})
	}
}

// A parent elsewhere is found by every way that a child names it; places that no file can be at are not asked for. R092.
func TestParentPlacesElsewhere(t *testing.T) {
	for name, test := range map[string]struct{ parent, child, moved, absolute string }{
		"beside":                       {"VMs/p.vhdx", "VMs/c.avhdx", "", ""},
		"in the folder above":          {"VMs/p.vhdx", "VMs/snapshots/c.avhdx", "", ""},
		"in another folder":            {"disks/p.vhdx", "VMs/snapshots/c.avhdx", "", ""},
		"by the absolute path":         {"disks/p.vhdx", "VMs/c.avhdx", "store/p.vhdx", `C:\store\p.vhdx`},
		"by a long path":               {"disks/p.vhdx", "VMs/c.avhdx", "store/p.vhdx", `\\?\C:\store\.\p.vhdx`},
		"by a volume's path":           {"disks/p.vhdx", "VMs/c.avhdx", "store/p.vhdx", `\\?\Volume{1234}\store\p.vhdx`},
		"by the bare name, moved here": {"disks/p.vhdx", "VMs/c.avhdx", "VMs/p.vhdx", `X:\gone\p.vhdx`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			parent, child := filepath.Join(dir, test.parent), filepath.Join(dir, test.child)
			want := pair(t, parent, child, vhdx.CreateOptions{ParentName: test.absolute})
			if strings.Contains(test.absolute, "Volume") {
				renameKey(t, child, "absolute_win32_path", "volume_path")
			}
			if test.moved != "" {
				moved := filepath.Join(dir, test.moved)
				require.NoError(t, os.MkdirAll(filepath.Dir(moved), 0o700))
				require.NoError(t, os.Rename(parent, moved))
			}
			e := &elsewhere{dir: dir}
			img, err := vhdx.OpenIn(t.Context(), e, e.name(child), nil)
			require.NoError(t, err)
			requireContent(t, img, want)
			require.Equal(t, 2, img.Info().Depth)
			require.Equal(t, e.name(child), img.Files()[0])
			require.Len(t, img.Files(), 2)
			require.NoError(t, img.Changed())
			require.NoError(t, img.Close())
			require.Zero(t, e.open)
		})
	}
}

// renameKey gives an entry of a child's locator another key, of which the old one must be at least as long.
func renameKey(t *testing.T, path, old, key string) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	wide := func(s string) (out []byte) {
		for _, c := range s {
			out = le.AppendUint16(out, uint16(c))
		}
		return out
	}
	at := bytes.Index(b, wide(old))
	require.Positive(t, at)
	copy(b[at:], append(wide(key), make([]byte, 2*(len(old)-len(key)))...))
	require.NoError(t, os.WriteFile(path, b, 0o600))
}

// What is not the parent is never read, whoever's files they are, and a locator leads nowhere but to clean names.
func TestParentRefusedElsewhere(t *testing.T) {
	dir := t.TempDir()
	parent, child := filepath.Join(dir, "VMs", "p.vhdx"), filepath.Join(dir, "VMs", "s", "c.avhdx")
	pair(t, parent, child, vhdx.CreateOptions{ParentName: `\\evil\share\..\..\p.vhdx:stream`})
	e := &elsewhere{dir: dir}
	refused := func(want error) {
		t.Helper()
		_, err := vhdx.OpenIn(t.Context(), e, `C:\VMs\s\c.avhdx`, nil)
		var p *vhdx.ParentError
		require.ErrorAs(t, err, &p)
		require.ErrorIs(t, err, want)
		require.Zero(t, e.open)
	}
	require.NoError(t, os.Rename(parent, parent+".away"))
	refused(vhdx.ErrParentMissing)
	require.Equal(t, []string{`C:\VMs\s\c.avhdx`, `C:\VMs\p.vhdx`, `C:\VMs\s\p.vhdx`}, e.asked)
	create(t, parent, smallDisk, &vhdx.CreateOptions{BlockSize: 1 << 20}, nil)
	refused(vhdx.ErrParentMismatch)
	require.NoError(t, os.WriteFile(parent, []byte("vhdxfile and nothing else"), 0o600))
	refused(vhdx.ErrCorrupt)
	require.NoError(t, os.Rename(parent+".away", parent))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := vhdx.OpenIn(ctx, e, `C:\VMs\s\c.avhdx`, nil)
	require.ErrorIs(t, err, context.Canceled)
	_, err = vhdx.OpenIn(t.Context(), e, `VMs\s\c.avhdx`, nil)
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = vhdx.OpenDiskIn(t.Context(), newRemote(t, child, 0), `C:\VMs\s\c.avhdx`, nil)
	require.ErrorIs(t, err, vhdx.ErrParentMissing, "without Parents it may have none")

	info, err := vhdx.InspectIn(t.Context(), e, `C:\VMs\s\c.avhdx`)
	require.NoError(t, err)
	require.Equal(t, vhdx.Differencing, info.Type)
	require.Equal(t, 1, info.Depth)
	require.Equal(t, int64(smallDisk), info.Size)
	below, err := vhdx.InspectIn(t.Context(), e, `C:\VMs\p.vhdx`)
	require.NoError(t, err)
	require.Equal(t, info.DiskID, below.DiskID)
	require.Equal(t, info.Locator["parent_linkage"], below.DataWrite.String())
	_, err = vhdx.InspectIn(t.Context(), e, `C:\nowhere`)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Zero(t, e.open)
}

// A chain elsewhere that leads into itself ends, and so does one that is too deep.
func TestParentLoopElsewhere(t *testing.T) {
	dir := t.TempDir()
	path := func(i int) string { return filepath.Join(dir, fmt.Sprintf("%d.vhdx", i)) }
	create(t, path(0), smallDisk, &vhdx.CreateOptions{BlockSize: 1 << 20}, nil)
	create(t, path(1), 0, &vhdx.CreateOptions{Parent: path(0)}, nil)
	create(t, path(2), 0, &vhdx.CreateOptions{Parent: path(1)}, nil)
	identity := open(t, path(0), nil).Info().DataWrite
	b, err := os.ReadFile(path(2))
	require.NoError(t, err)
	for _, at := range []int{atHeader0, atHeader1} {
		copy(b[at+32:], identity[:])
		seal(b[at : at+headerLen])
	}
	loop := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(loop, "0.vhdx"), b, 0o600))
	one, err := os.ReadFile(path(1))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(loop, "1.vhdx"), one, 0o600))
	e := &elsewhere{dir: loop}
	for _, name := range []string{`C:\0.vhdx`, `c:\0.VHDX`} {
		_, err = vhdx.OpenIn(t.Context(), alias{e}, name, nil)
		require.ErrorIs(t, err, vhdx.ErrChain)
	}
	_, err = vhdx.OpenIn(t.Context(), &elsewhere{dir: dir}, `C:\2.vhdx`, &vhdx.Options{Depth: 2})
	require.ErrorIs(t, err, vhdx.ErrChain)
	require.Zero(t, e.open)
}

// alias is files whose names have no case.
type alias struct{ *elsewhere }

func (a alias) Open(ctx context.Context, name string) (pipe.Image, error) {
	return a.elsewhere.Open(ctx, `C:\`+strings.ToLower(name[3:]))
}

// A disk that is being made in a file elsewhere is none before its Commit; zeros are not sent; the file is closed once.
func TestCreateOn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.vhdx")
	const size = 64 << 20
	for _, kind := range []vhdx.Type{vhdx.Dynamic, vhdx.Fixed} {
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		f := newRemote(t, path, 0)
		target, err := vhdx.CreateOn(t.Context(), f, size, "disk", &vhdx.CreateOptions{Type: kind, BlockSize: 1 << 20})
		require.NoError(t, err)
		put(t, target, []byte("data"), 5<<20)
		require.NoError(t, target.Mark(t.Context(), pipe.Extent{Off: 6 << 20, Len: size - 6<<20, Kind: pipe.Zero}))
		put(t, target, make([]byte, 10<<20), 20<<20)
		put(t, target, []byte("gone"), 40<<20)
		require.NoError(t, target.Mark(t.Context(), pipe.Extent{Off: 40 << 20, Len: 1 << 20, Kind: pipe.Free}))
		_, err = vhdx.OpenIn(t.Context(), &elsewhere{dir: dir}, `C:\disk.vhdx`, nil)
		require.ErrorIs(t, err, vhdx.ErrCorrupt)
		require.NoError(t, target.Commit(t.Context()))
		require.NoError(t, target.Close())
		require.Equal(t, 1, f.closed)
		require.GreaterOrEqual(t, f.syncs, 2)
		require.Less(t, f.sent.Load(), int64(3<<20), "%v", kind)
		want := make([]byte, size)
		copy(want[5<<20:], "data")
		requireContent(t, open(t, path, &vhdx.Options{Live: true}), want)
		require.Equal(t, kind, open(t, path, &vhdx.Options{Live: true}).Info().Type)

		full := newRemote(t, path, 0)
		_, err = vhdx.CreateOn(t.Context(), full, size, "disk", nil)
		require.ErrorIs(t, err, fs.ErrInvalid, "it holds something")
		require.Equal(t, 1, full.closed)
		requireContent(t, open(t, path, &vhdx.Options{Live: true}), want)
	}
	f := newRemote(t, filepath.Join(dir, "abandoned"), os.O_CREATE)
	target, err := vhdx.CreateOn(t.Context(), f, size, "disk", nil)
	require.NoError(t, err)
	require.NoError(t, target.Close())
	require.Equal(t, 1, f.closed)
	_, err = vhdx.OpenIn(t.Context(), &elsewhere{dir: dir}, `C:\abandoned`, nil)
	require.ErrorIs(t, err, vhdx.ErrCorrupt)
	_, err = vhdx.CreateOn(t.Context(), newRemote(t, filepath.Join(dir, "child"), os.O_CREATE), size, "disk", &vhdx.CreateOptions{Parent: path})
	require.ErrorIs(t, err, fs.ErrInvalid)
}

// Whoever leaves in the middle leaves an error, and what was durable before.
func TestOpenDiskInCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.vhdx")
	create(t, path, smallDisk, &vhdx.CreateOptions{BlockSize: 1 << 20}, nil)
	f := newRemote(t, path, 0)
	d, err := vhdx.OpenDiskIn(t.Context(), f, "disk", nil)
	require.NoError(t, err)
	put(t, d, []byte("sure"), 0)
	require.NoError(t, d.Flush(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = d.WriteAt(ctx, []byte("late"), 0)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, d.Close())
	require.Equal(t, 1, f.closed)
	got := make([]byte, 4)
	_, err = open(t, path, nil).ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.Equal(t, "sure", string(got))
	path = filepath.Join(t.TempDir(), "none")
	require.NoError(t, os.WriteFile(path, []byte("no disk at all"), 0o600))
	f = newRemote(t, path, 0)
	_, err = vhdx.OpenDiskIn(t.Context(), f, "disk", nil)
	require.Error(t, err)
	require.Equal(t, 1, f.closed)
}

func TestWindowsPath(t *testing.T) {
	for name, want := range map[string]string{
		`C:\VMs\web1.vhdx`: `C:\VMs\web1.vhdx`, `c:/VMs//a/../web1.vhdx`: `C:\VMs\web1.vhdx`, `\\?\d:\x`: `D:\x`, `C:\`: `C:\`,
		`\\fs1\vms\x`: `\\fs1\vms\x`, `\\?\unc\fs1\vms\.\x`: `\\fs1\vms\x`, `//10.0.0.1/C$/x`: `\\10.0.0.1\C$\x`, `\\fs1.corp\v m\`: `\\fs1.corp\v m\`,
		`\\fs1\vms`: `\\fs1\vms\`, `C:\ClusterStorage\Volume1\Größe 1.avhdx`: `C:\ClusterStorage\Volume1\Größe 1.avhdx`,
		`C:\com.vhdx`: `C:\com.vhdx`, `C:\nullen`: `C:\nullen`,
	} {
		got, err := vhdx.WindowsPath(name)
		require.NoError(t, err, name)
		require.Equal(t, want, got)
	}
	for _, name := range []string{
		"", `C:`, `C:x`, `x`, `\x`, `..\x`, `C:\..\x`, `C:\a\..\..\x`, `\\`, `\\fs1`, `\\fs1\`, `\\\vms\x`, `\\fs1\..\x`, `\\fs1\vms\..\x`, `\\.\C:\x`,
		`\\?\Volume{1}\x`, `\\?\GLOBALROOT\Device\x`, `\??\C:\x`, `\\f:s\vms\x`, `\\..\vms\x`, `\\-\vms\x`, `1:\x`, `CC:\x`,
		`C:\a:b`, `C:\a*`, `C:\a?`, `C:\a|b`, `C:\"a"`, `C:\<a>`, "C:\\a\x00", "C:\\a\nb", `C:\a.`, `C:\a `, `C:\ .\x`, `C:\con`, `C:\Nul.txt`, `C:\COM7`,
		`C:\x\lpt0.vhdx`, `C:\prn .x`, "C:\\\xff", `C:\` + strings.Repeat("a", 5000), `C:\` + strings.Repeat(`a\`, 200), `C:\` + strings.Repeat("a", 800),
	} {
		got, err := vhdx.WindowsPath(name)
		require.ErrorIs(t, err, fs.ErrInvalid, "%q gives %q", name, got)
	}
}

// What is taken is taken once more as it is, and holds nothing that Windows reads otherwise.
func FuzzWindowsPath(f *testing.F) {
	for _, name := range []string{`C:\VMs\web1.vhdx`, `\\?\UNC\fs1\vms\.\x`, `//10.0.0.1/C$/x/../y`, `\\?\c:\a\b`, `C:\..`, `\\.\x`} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		clean, err := vhdx.WindowsPath(name)
		if err != nil {
			require.ErrorIs(t, err, fs.ErrInvalid)
			return
		}
		again, err := vhdx.WindowsPath(clean)
		require.NoError(t, err)
		require.Equal(t, clean, again)
		require.NotContains(t, clean+`\`, `\..\`)
		require.NotContains(t, clean[2:], `:`)
		require.LessOrEqual(t, len(clean), 4098)
	})
}

// elsewhereHistory continues a chain that history made: it is read over Files, and its last file is written to there.
func elsewhereHistory(t testing.TB, r *rand.Rand, dir, path string, m *model, sector int64) error {
	e := &elsewhere{dir: dir}
	img, err := vhdx.OpenIn(t.Context(), e, e.name(path), nil)
	if err != nil {
		return err
	}
	if err := errors.Join(m.compare(t, img), img.Close()); err != nil {
		return fmt.Errorf("elsewhere: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	d, err := vhdx.OpenDiskIn(t.Context(), &remote{f: f}, e.name(path), &vhdx.Options{Parents: e})
	if err != nil {
		return err
	}
	for range r.IntN(6) {
		m.step(t, r, d, nil, sector)
	}
	if r.IntN(2) == 0 {
		err = d.Commit(t.Context())
	} else {
		err = errors.Join(d.Flush(t.Context()), d.Close())
	}
	if err != nil {
		return err
	}
	if img, err = vhdx.OpenIn(t.Context(), e, e.name(path), nil); err != nil {
		return err
	}
	err = errors.Join(m.compare(t, img), img.Close())
	if e.open != 0 {
		err = errors.Join(err, fmt.Errorf("%d files are left open", e.open))
	}
	return err
}
