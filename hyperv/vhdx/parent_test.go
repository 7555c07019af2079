package vhdx_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

const smallDisk = 2 << 20

// pair is a parent with data and a child on it; it returns what the child holds.
func pair(t *testing.T, parent, child string, opts vhdx.CreateOptions) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 5))
	want := make([]byte, smallDisk)
	require.NoError(t, os.MkdirAll(filepath.Dir(parent), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Dir(child), 0o700))
	create(t, parent, smallDisk, &vhdx.CreateOptions{BlockSize: 1 << 20}, func(w pipe.ExtentTarget) {
		copy(want[5000:], noise(r, 1<<20))
		put(t, w, want[5000:5000+1<<20], 5000)
	})
	opts.Parent, opts.Open.Folder = parent, filepath.Dir(parent)
	create(t, child, 0, &opts, func(w pipe.ExtentTarget) {
		copy(want[9000:], noise(r, 3000))
		put(t, w, want[9000:12000], 9000)
	})
	return want
}

func requireParentError(t *testing.T, path string, opts *vhdx.Options, want error) {
	t.Helper()
	_, err := vhdx.Open(t.Context(), path, opts)
	var parent *vhdx.ParentError
	require.ErrorAs(t, err, &parent)
	require.ErrorIs(t, err, want)
}

// A parent is found by every way that a child names it, below the folder that the caller names. R092.
func TestParentPlaces(t *testing.T) {
	for name, test := range map[string]struct{ parent, child, moved, absolute string }{
		"beside":                       {"p.vhdx", "c.avhdx", "", ""},
		"in the folder above":          {"p.vhdx", "snapshots/c.avhdx", "", ""},
		"in another folder":            {"disks/p.vhdx", "snapshots/c.avhdx", "", ""},
		"by the end of absolute path":  {"disks/p.vhdx", "c.avhdx", "VMs/web1/p.vhdx", `D:\VMs\web1\p.vhdx`},
		"by a volume's path":           {"disks/p.vhdx", "c.avhdx", "web1/p.vhdx", `\\?\Volume{1234}\VMs\web1\p.vhdx`},
		"by a share's path":            {"disks/p.vhdx", "c.avhdx", "web1/p.vhdx", `\\server\share\web1\p.vhdx`},
		"by the bare name, moved here": {"disks/p.vhdx", "snap/c.avhdx", "snap/p.vhdx", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			parent, child := filepath.Join(dir, test.parent), filepath.Join(dir, test.child)
			want := pair(t, parent, child, vhdx.CreateOptions{ParentName: test.absolute})
			if test.moved != "" {
				moved := filepath.Join(dir, test.moved)
				require.NoError(t, os.MkdirAll(filepath.Dir(moved), 0o700))
				require.NoError(t, os.Rename(parent, moved))
			}
			img := open(t, child, &vhdx.Options{Folder: dir})
			requireContent(t, img, want)
			require.Equal(t, 2, img.Info().Depth)
			require.Len(t, img.Files(), 2)
			infos := img.Infos()
			require.Len(t, infos, 2)
			require.Equal(t, img.Info(), infos[0])
			require.NotEqual(t, vhdx.Differencing, infos[1].Type)
			require.Equal(t, vhdx.Differencing, img.Info().Type)
		})
	}
}

// What is not the parent is never read, and zeros are never read in its place.
func TestParentRefused(t *testing.T) {
	dir := t.TempDir()
	parent, child := filepath.Join(dir, "vms", "p.vhdx"), filepath.Join(dir, "vms", "s", "c.avhdx")
	pair(t, parent, child, vhdx.CreateOptions{})
	requireParentError(t, child, nil, vhdx.ErrParentMissing) // it lies above the child's folder
	requireParentError(t, child, &vhdx.Options{Folder: filepath.Join(dir, "vms", "s")}, vhdx.ErrParentMissing)
	requireParentError(t, child, &vhdx.Options{Folder: t.TempDir()}, vhdx.ErrParentMissing)
	opts := &vhdx.Options{Folder: dir}
	requireContentSize(t, child, opts)

	file, err := os.Open(child)
	require.NoError(t, err)
	defer file.Close()
	fi, err := file.Stat()
	require.NoError(t, err)
	_, err = vhdx.New(t.Context(), pipe.FromReaderAt(io.NewSectionReader(file, 0, fi.Size()), fi.Size()), nil)
	require.ErrorIs(t, err, vhdx.ErrParentMissing)

	require.NoError(t, os.Rename(parent, parent+".away"))
	requireParentError(t, child, opts, vhdx.ErrParentMissing)
	create(t, parent, smallDisk, &vhdx.CreateOptions{BlockSize: 1 << 20}, nil)
	requireParentError(t, child, opts, vhdx.ErrParentMismatch)
	require.NoError(t, os.WriteFile(parent, []byte("vhdxfile and nothing else"), 0o600))
	_, err = vhdx.Open(t.Context(), child, opts)
	require.ErrorIs(t, err, vhdx.ErrCorrupt)
	require.NoError(t, os.Remove(parent))
	require.NoError(t, os.Symlink(filepath.Join("..", "..", "outside.vhdx"), parent))
	_, err = vhdx.Open(t.Context(), child, opts)
	require.Error(t, err)
	require.NoError(t, os.Remove(parent))
	require.NoError(t, os.Mkdir(parent, 0o700))
	_, err = vhdx.Open(t.Context(), child, opts)
	require.ErrorIs(t, err, diskfile.ErrNotDisk)
	require.NoError(t, os.Remove(parent))

	require.NoError(t, os.Rename(parent+".away", parent))
	d, err := vhdx.OpenDisk(t.Context(), parent, nil)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context()))
	requireContentSize(t, child, opts) // opened for writing, and not written to
	d, err = vhdx.OpenDisk(t.Context(), parent, nil)
	require.NoError(t, err)
	put(t, d, []byte{1}, 7)
	require.NoError(t, d.Commit(t.Context()))
	requireParentError(t, child, opts, vhdx.ErrParentMismatch)
}

func requireContentSize(t *testing.T, path string, opts *vhdx.Options) {
	t.Helper()
	img, err := vhdx.Open(t.Context(), path, opts)
	require.NoError(t, err)
	require.Equal(t, int64(smallDisk), img.Size())
	require.NoError(t, img.Close())
}

// A chain that leads back into itself ends, and so does one that is too deep.
func TestParentLoop(t *testing.T) {
	dir := t.TempDir()
	path := func(i int) string { return filepath.Join(dir, fmt.Sprintf("%d.vhdx", i)) }
	create(t, path(0), smallDisk, &vhdx.CreateOptions{BlockSize: 1 << 20}, nil)
	for i := 1; i < 6; i++ {
		create(t, path(i), 0, &vhdx.CreateOptions{Parent: path(i - 1)}, nil)
	}
	require.Equal(t, 6, open(t, path(5), nil).Info().Depth)
	requireParentError(t, path(5), &vhdx.Options{Depth: 5}, vhdx.ErrChain)
	// The disk at the bottom becomes the one at the top, by its bytes: its parent's parent… is itself.
	b, err := os.ReadFile(path(2))
	require.NoError(t, err)
	identity := open(t, path(0), nil).Info().DataWrite
	for _, at := range []int{atHeader0, atHeader1} {
		copy(b[at+32:], identity[:])
		seal(b[at : at+headerLen])
	}
	loop := filepath.Join(t.TempDir(), "0.vhdx")
	require.NoError(t, os.WriteFile(loop, b, 0o600))
	one, err := os.ReadFile(path(1))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(loop), "1.vhdx"), one, 0o600))
	requireParentError(t, loop, nil, vhdx.ErrChain)
}

// vhdSum is the checksum of a VHD's footer or header, which lies at byte at.
func vhdSum(b []byte, at int) {
	sum := uint32(0)
	be.PutUint32(b[at:], 0)
	for _, c := range b {
		sum += uint32(c)
	}
	be.PutUint32(b[at:], ^sum)
}

// forgeVHDChild writes a differencing VHD on the file parent, and says what of want it holds itself.
func forgeVHDChild(t *testing.T, r *rand.Rand, parent string, want []byte, block int, platform string) []byte {
	t.Helper()
	pb, err := os.ReadFile(parent)
	require.NoError(t, err)
	pf := pb[len(pb)-512:]
	blocks := (len(want) + block - 1) / block
	footer, head, table := make([]byte, 512), make([]byte, 1024), make([]byte, (blocks*4+511)/512*512)
	copy(footer, pf)
	be.PutUint64(footer[16:], 512)
	be.PutUint32(footer[60:], 4)
	footer[83]++ // another identity
	vhdSum(footer, 64)
	copy(head, "cxsparse")
	be.PutUint64(head[8:], 1<<64-1)
	be.PutUint64(head[16:], 1536)
	be.PutUint32(head[24:], 0x10000)
	be.PutUint32(head[28:], uint32(blocks))
	be.PutUint32(head[32:], uint32(block))
	copy(head[40:56], pf[68:84])
	for i, c := range utf16.Encode([]rune(filepath.Base(parent))) {
		be.PutUint16(head[64+2*i:], c)
	}
	var name []byte
	if platform != "" {
		text := `.\` + filepath.Base(parent)
		if platform == "W2ku" {
			text = `C:\VMs\` + filepath.Base(parent)
		}
		for _, c := range utf16.Encode([]rune(text)) {
			name = le.AppendUint16(name, c)
		}
		copy(head[576:], platform)
		be.PutUint32(head[580:], 512)
		be.PutUint32(head[584:], uint32(len(name)))
		be.PutUint64(head[592:], uint64(1536+len(table)))
	}
	vhdSum(head, 36)
	name = append(name, make([]byte, 512-len(name))...)
	at := 1536 + len(table) + 512
	var body []byte
	bitmap := (block/512/8 + 511) / 512 * 512
	for i := range blocks {
		be.PutUint32(table[4*i:], 1<<32-1)
		if r.IntN(3) == 0 {
			continue
		}
		be.PutUint32(table[4*i:], uint32((at+len(body))/512))
		b := noise(r, bitmap+block) // what the bitmap does not name is not to be read
		clear(b[:bitmap])
		for s := range block / 512 {
			if off := i*block + s*512; s/(1+i)%3 != 1 && off < len(want) {
				b[s/8] |= 0x80 >> (s % 8)
				copy(want[off:off+512], b[bitmap+s*512:])
			}
		}
		body = append(body, b...)
	}
	var file []byte
	for _, part := range [][]byte{footer, head, table, name, body, footer} {
		file = append(file, part...)
	}
	return file
}

// Differencing VHDs, which nothing here but this test writes: on fixed and dynamic parents, by all names, three deep.
func TestVHDChains(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 9))
		dir := t.TempDir()
		want := make([]byte, 1<<20+512*(1+r.IntN(300)))
		path := filepath.Join(dir, "base.vhd")
		target, err := vhdx.CreateVHD(t.Context(), path, int64(len(want)), &vhdx.CreateOptions{Type: vhdx.Type(seed % 2), BlockSize: 64 << 10})
		require.NoError(t, err)
		for range 5 {
			off := r.IntN(len(want) - 90_000)
			copy(want[off:], noise(r, 1+r.IntN(90_000)))
		}
		put(t, target, want, 0)
		require.NoError(t, target.Commit(t.Context()))
		for depth := range 3 {
			block := 64 << (10 + r.IntN(4))
			b := forgeVHDChild(t, r, path, want, block, []string{"W2ru", "W2ku", ""}[r.IntN(3)])
			path = filepath.Join(dir, fmt.Sprintf("child%d.avhd", depth))
			require.NoError(t, os.WriteFile(path, b, 0o600))
			img, err := vhdx.Open(t.Context(), path, nil)
			require.NoError(t, err)
			requireContent(t, img, want)
			require.Equal(t, depth+2, img.Info().Depth)
			require.NoError(t, img.Close())
		}
		require.NoError(t, os.Remove(filepath.Join(dir, "child0.avhd")))
		requireParentError(t, path, nil, vhdx.ErrParentMissing)
	}
}

// Hostile VHDs: typed errors, within bounds; at every length too.
func TestHostileVHD(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.vhd")
	target, err := vhdx.CreateVHD(t.Context(), path, 1<<20, &vhdx.CreateOptions{BlockSize: 64 << 10})
	require.NoError(t, err)
	put(t, target, noise(rand.New(rand.NewPCG(1, 1)), 300_000), 0)
	require.NoError(t, target.Commit(t.Context()))
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, readSome(t, good))
	head := func(change func([]byte)) func([]byte) {
		return func(b []byte) { change(b[512:1536]); vhdSum(b[512:1536], 36) }
	}
	foot := func(change func([]byte)) func([]byte) {
		return func(b []byte) { f := b[len(b)-512:]; change(f); vhdSum(f, 64) }
	}
	for name, change := range map[string]func([]byte){
		"no footer":         func(b []byte) { b[len(b)-500]++; b[12]++ },
		"block size 0":      head(func(h []byte) { be.PutUint32(h[32:], 0) }),
		"block size 2^32-1": head(func(h []byte) { be.PutUint32(h[32:], 1<<32-1) }),
		"table far away":    head(func(h []byte) { be.PutUint64(h[16:], 1<<63) }),
		"table too small":   head(func(h []byte) { be.PutUint32(h[28:], 1) }),
		"header damaged":    func(b []byte) { b[700]++ },
		"header far away":   foot(func(f []byte) { be.PutUint64(f[16:], 1<<62) }),
		"disk of 2^63":      foot(func(f []byte) { be.PutUint64(f[48:], 1<<63) }),
		"disk of nothing":   foot(func(f []byte) { be.PutUint64(f[48:], 0) }),
		"type 9":            foot(func(f []byte) { be.PutUint32(f[60:], 9) }),
		"fixed, too long":   foot(func(f []byte) { be.PutUint32(f[60:], 2); be.PutUint64(f[48:], 1<<40) }),
		"child, no parent":  foot(func(f []byte) { be.PutUint32(f[60:], 4) }),
		"block far away":    func(b []byte) { be.PutUint32(b[1536:], 1<<31) },
		"block on header":   func(b []byte) { be.PutUint32(b[1536:], 1) },
	} {
		b := append([]byte(nil), good...)
		change(b)
		err := bounded(t, func() error { return readSome(t, b) })
		require.Error(t, err, name)
		requireKnown(t, err)
	}
	for n := 0; n < len(good); n += 509 { // the copy in front may serve, but then what is missing is missed
		img, err := vhdx.New(t.Context(), fromBytes(good[:n]), nil)
		if err == nil {
			_, err = img.ReadAt(t.Context(), make([]byte, 1<<20), 0)
		}
		if n >= len(good)-512 {
			continue // only the footer at the end is missing
		}
		require.Error(t, err, "%d bytes", n)
		requireKnown(t, err)
	}
}

// The table of formats opens and makes both, and knows them apart.
func TestFormats(t *testing.T) {
	table := diskfile.Formats{vhdx.Format(nil, nil), vhdx.VHDFormat(nil, nil), diskfile.Raw()}
	for _, name := range []string{"vhdx", "vhd"} {
		path := filepath.Join(t.TempDir(), "disk")
		f, err := table.ByName(name)
		require.NoError(t, err)
		target, err := f.Create(t.Context(), path, smallDisk, nil)
		require.NoError(t, err)
		put(t, target, []byte("here"), 1<<20)
		require.NoError(t, target.Commit(t.Context()))
		found, err := table.Detect(t.Context(), path)
		require.NoError(t, err)
		require.Equal(t, name, found.Name())
		img, err := table.Open(t.Context(), path, "", nil)
		require.NoError(t, err)
		want := make([]byte, smallDisk)
		copy(want[1<<20:], "here")
		requireContent(t, img, want)
		require.NoError(t, img.Close())
	}
}
