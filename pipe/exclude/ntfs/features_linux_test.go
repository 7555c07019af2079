package ntfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
	"github.com/hikae/hikae/pipe/exclude/ntfs"
)

var le = binary.LittleEndian

// made makes a volume, lets write work on it through the driver, and takes down what is there.
func made(t *testing.T, v variant, opts []string, write func(dir string)) (img string, tree fsystest.Tree) {
	t.Helper()
	img = mkntfs(t, v)
	m := fsystest.Mount(t, "ntfs", img, opts...)
	write(m.Dir)
	require.NoError(t, m.Unmount())
	return img, scanned(t, img)
}

var plain = variant{16 << 20, []string{"-c4096"}}

func write(t *testing.T, path string, p []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, p, 0o600))
}

func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(p)
	return p
}

func kinds(t *testing.T, f fsys.FileSystem, n fsys.Node) map[fsys.RunKind]int64 {
	t.Helper()
	sum := map[fsys.RunKind]int64{}
	for r, err := range f.Runs(t.Context(), n) {
		require.NoError(t, err)
		sum[r.Kind] += r.Len
	}
	return sum
}

// TestCompressed reads what the driver compressed: text, noise, both in one unit, holes, and an end within a unit.
func TestCompressed(t *testing.T) {
	for _, v := range []variant{{24 << 20, []string{"-c512"}}, plain} {
		t.Run(v.String(), func(t *testing.T) {
			text := bytes.Repeat([]byte("what need not be stored, and what must be; "), 1<<14)
			img, tree := made(t, v, append([]string{"compression"}, ntfs3g...), func(dir string) {
				dir += "/packed"
				require.NoError(t, os.Mkdir(dir, 0o700))
				require.NoError(t, unix.Setxattr(dir, "system.ntfs_attrib", []byte{0, 8, 0, 0}, 0))
				write(t, dir+"/text", text)
				write(t, dir+"/noise", noise(300_000))
				write(t, dir+"/both", append(append(text[:100_000:100_000], noise(70_000)...), text[:50_001]...))
				write(t, dir+"/zeros", make([]byte, 500_000))
				write(t, dir+"/small", text[:300])
				f, err := os.Create(dir + "/holes")
				require.NoError(t, err)
				for _, off := range []int64{0, 200_000, 201_000, 900_001} {
					_, err = f.WriteAt(text[:5000], off)
					require.NoError(t, err)
				}
				require.NoError(t, f.Close())
			})
			f := noDoubt(t, img)
			require.NoError(t, fsystest.Compare(t.Context(), f, tree, agreed))
			n := find(t, f, "packed/text")
			require.Equal(t, []fsys.RunKind{fsys.Packed}, keys(kinds(t, f, n)))
			for _, off := range []int64{0, 1, 4095, 65_535, 65_536, 100_000} { // less than a unit at a time
				p := make([]byte, 10_000)
				_, err := f.ReadAt(t.Context(), n, p, off)
				require.NoError(t, err)
				require.True(t, bytes.Equal(text[off:off+10_000], p))
			}
			requireToolsAgree(t, img, f)
		})
	}
}

func keys(m map[fsys.RunKind]int64) (list []fsys.RunKind) {
	for k := range m {
		list = append(list, k)
	}
	return list
}

// TestManyParts: files in so many parts that the run list fills several records, the file table itself among them.
func TestManyParts(t *testing.T) {
	const small = 2000
	img, tree := made(t, variant{12 << 20, []string{"-c512"}}, ntfs3g, func(dir string) {
		path := func(i int) string { return fmt.Sprintf("%s/small%d", dir, i) }
		for i := range small {
			write(t, path(i), noise(1500))
		}
		parts, err := os.Create(dir + "/parts")
		require.NoError(t, err)
		for i := range int64(1000) { // every second cluster, the others are holes
			_, err := parts.WriteAt(noise(512), i*1024)
			require.NoError(t, err)
		}
		require.NoError(t, parts.Close())
		rest, err := os.Create(dir + "/rest")
		require.NoError(t, err)
		_, err = io.Copy(rest, io.LimitReader(rand.NewChaCha8([32]byte{1}), 64<<20)) // to the last cluster
		require.ErrorIs(t, err, unix.ENOSPC)
		require.NoError(t, rest.Close())
		for i := 0; i < small; i += 2 {
			require.NoError(t, os.Remove(path(i)))
		}
		for i := range 2 * small { // the file table grows into the gaps
			if os.WriteFile(path(small+i), nil, 0o600) != nil {
				break // full
			}
		}
	})
	f := noDoubt(t, img)
	require.NoError(t, fsystest.Compare(t.Context(), f, tree, agreed))
	require.Greater(t, len(runsOf(t, f, find(t, f, "parts"))), 1900)
	require.Greater(t, len(runsOf(t, f, 0)), 150)
	attrAt(t, img, 0, 0x20) // the table has an attribute list
	requireToolsAgree(t, img, f)
	requireNothingMissed(t, img, f, tree)
}

// TestStreams: a second stream of a file is not shown, and what it has is not free.
func TestStreams(t *testing.T) {
	second := noise(60_000)
	img := mkntfs(t, plain)
	m := fsystest.Mount(t, "ntfs", img, "streams_interface=xattr")
	write(t, m.Dir+"/file", []byte("first"))
	require.NoError(t, unix.Setxattr(m.Dir+"/file", "user.second", second, 0))
	require.NoError(t, m.Unmount())
	f := noDoubt(t, img)
	attr, err := f.Stat(t.Context(), find(t, f, "file"))
	require.NoError(t, err)
	require.Equal(t, int64(5), attr.Size)
	requireToolsAgree(t, img, f)
	free, err := fsystest.FreeOf(t.Context(), f, f.Info().Size)
	require.NoError(t, err)
	raw, err := os.ReadFile(img)
	require.NoError(t, err)
	at := int64(bytes.Index(raw, second[:4096]))
	require.Positive(t, at)
	_, hit := fsystest.Overlap(free, fsys.Range{Off: at, Len: 4096})
	require.False(t, hit)
}

// TestReparse: links of all kinds, and contents that are elsewhere.
func TestReparse(t *testing.T) {
	units := func(s string) []byte {
		var b []byte
		for _, u := range utf16.Encode([]rune(s)) {
			b = le.AppendUint16(b, u)
		}
		return b
	}
	point := func(tag uint32, data []byte) []byte {
		b := le.AppendUint32(nil, tag)
		return append(le.AppendUint16(b, uint16(len(data))), append([]byte{0, 0}, data...)...)
	}
	link := func(tag uint32, target string, flags ...byte) []byte {
		to := units(target)
		head := le.AppendUint16(le.AppendUint16([]byte{0, 0}, uint16(len(to))), uint16(len(to)))
		return point(tag, append(append(append(head, 0, 0), flags...), to...))
	}
	content := noise(9000)
	img := mkntfs(t, plain)
	m := fsystest.Mount(t, "ntfs", img, ntfs3g...)
	for name, p := range map[string][]byte{
		"relative": link(0xA000000C, `..\a\b`, 1, 0, 0, 0), "absolute": link(0xA000000C, `\??\C:\Users`, 0, 0, 0, 0),
		"wsl": point(0xA000001D, append([]byte{2, 0, 0, 0}, "to/some"...)),
		"wof": point(0x80000017, make([]byte, 16)), "dedup": point(0x80000013, make([]byte, 20)),
		"unknown": point(0x80005A5A, make([]byte, 8)), "cloud": point(0x9000601A, make([]byte, 8)),
	} {
		write(t, m.Dir+"/"+name, content)
		require.NoError(t, unix.Setxattr(m.Dir+"/"+name, "system.ntfs_reparse_data", p, 0), name)
	}
	require.NoError(t, os.Mkdir(m.Dir+"/junction", 0o700))
	require.NoError(t, unix.Setxattr(m.Dir+"/junction", "system.ntfs_reparse_data", link(0xA0000003, `\??\D:\x`), 0))
	require.NoError(t, m.Unmount())

	f := noDoubt(t, img)
	for name, target := range map[string]string{
		"relative": "../a/b", "absolute": "/??/C:/Users", "junction": "/??/D:/x", "wsl": "to/some",
	} {
		n := find(t, f, name)
		attr, err := f.Stat(t.Context(), n)
		require.NoError(t, err)
		require.Equal(t, fs.ModeSymlink, attr.Mode.Type(), name)
		got, err := f.Readlink(t.Context(), n)
		require.NoError(t, err)
		require.Equal(t, target, got)
	}
	for _, name := range []string{"wof", "dedup", "unknown"} {
		n := find(t, f, name)
		_, err := f.ReadAt(t.Context(), n, make([]byte, 10), 0)
		var elsewhere *ntfs.ContentError
		require.ErrorAs(t, err, &elsewhere, name)
		require.NotZero(t, elsewhere.Tag)
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.Equal(t, []fsys.RunKind{fsys.Packed}, keys(kinds(t, f, n)))
	}
	p := make([]byte, 9000)
	_, err := f.ReadAt(t.Context(), find(t, f, "cloud"), p, 0) // all of it is here
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, p))
	requireToolsAgree(t, img, f)
}

// TestHibernated: a page in hiberfil.sys that is not zero keeps the whole volume.
func TestHibernated(t *testing.T) {
	for _, sign := range []string{"hibr", "HIBR", "wake", "RSTR", "", "zero"} {
		page := make([]byte, 8192)
		if sign != "zero" {
			copy(page[copy(page, sign):], "\x01")
		}
		img, _ := made(t, plain, ntfs3g, func(dir string) { write(t, dir+"/HiberFil.sys", page) })
		f := open(t, img, nil)
		require.Equal(t, sign != "zero", f.Info().Hibernated, sign)
		free, err := fsystest.FreeOf(t.Context(), f, f.Info().Size)
		require.NoError(t, err)
		require.Equal(t, sign != "zero", len(free) == 0)
	}
}

// edit changes bytes of an image file where a pattern stands, at a distance from it.
func edit(t *testing.T, img string, at int64, p []byte) {
	t.Helper()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(p, at)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// recordAt is where a file record lies in an image that mkntfs made: the table begins in one piece.
func recordAt(t *testing.T, img string, n fsys.Node) int64 {
	t.Helper()
	raw, err := os.ReadFile(img)
	require.NoError(t, err)
	return int64(le.Uint64(raw[0x30:]))*int64(raw[0x0D])*512 + int64(n)*1024
}

// attrAt is where an attribute of a file record lies in an image.
func attrAt(t *testing.T, img string, n fsys.Node, typ uint32) int64 {
	t.Helper()
	raw, err := os.ReadFile(img)
	require.NoError(t, err)
	rec := recordAt(t, img, n)
	for at := rec + int64(le.Uint16(raw[rec+0x14:])); ; at += int64(le.Uint32(raw[at+4:])) {
		if le.Uint32(raw[at:]) == typ {
			return at
		}
		require.NotEqual(t, uint32(0xFFFFFFFF), le.Uint32(raw[at:]), "no attribute %#x", typ)
	}
}

// TestValidLength: what was never written reads as zero, to the byte.
func TestValidLength(t *testing.T) {
	content := noise(100_000)
	img, _ := made(t, plain, ntfs3g, func(dir string) { write(t, dir+"/file", content) })
	n := find(t, open(t, img, nil), "file")
	edit(t, img, attrAt(t, img, n, 0x80)+0x38, le.AppendUint64(nil, 50_001))
	f := noDoubt(t, img)
	p := make([]byte, 100_000)
	_, err := f.ReadAt(t.Context(), n, p, 0)
	require.NoError(t, err)
	clear(content[50_001:])
	require.True(t, bytes.Equal(content, p))
	require.Equal(t, map[fsys.RunKind]int64{fsys.Written: 50_001, fsys.Unwritten: 102_400 - 50_001}, kinds(t, f, n))
	require.NoError(t, fsystest.CheckFree(t.Context(), f, f.Info().Size))
}

// TestEncrypted: the content of an EFS file is refused by name; where it lies is known.
func TestEncrypted(t *testing.T) {
	img, _ := made(t, plain, ntfs3g, func(dir string) { write(t, dir+"/file", noise(10_000)) })
	n := find(t, open(t, img, nil), "file")
	edit(t, img, attrAt(t, img, n, 0x80)+0x0C, []byte{0, 0x40})
	f := noDoubt(t, img)
	_, err := f.ReadAt(t.Context(), n, make([]byte, 1), 0)
	var e *ntfs.ContentError
	require.ErrorAs(t, err, &e)
	require.True(t, e.Encrypted)
	require.Equal(t, int64(12288), kinds(t, f, n)[fsys.Written]+kinds(t, f, n)[fsys.Unwritten])
}

// TestDoubt: whatever makes the bitmap doubtful keeps everything, and files can still be read.
func TestDoubt(t *testing.T) {
	content := noise(50_000)
	img, _ := made(t, plain, ntfs3g, func(dir string) { write(t, dir+"/file", content) })
	n := find(t, open(t, img, nil), "file")
	raw, err := os.ReadFile(img)
	require.NoError(t, err)
	run := attrAt(t, img, n, 0x80)
	lcn := int64(bytes.Index(raw, content[:4096])) / 4096
	bitmap := runsOf(t, open(t, img, nil), 6)[0].Vol
	cases := []struct {
		name, want string
		at         int64
		p          []byte
		late       bool // shows when the file table is read
	}{
		{"dirty", "marked dirty", attrAt(t, img, 3, 0x70) + 0x18 + 10, []byte{1}, false},
		{"unknown flag", "not known", attrAt(t, img, 3, 0x70) + 0x18 + 10, []byte{0x80}, false},
		{"version", "version 3.7", attrAt(t, img, 3, 0x70) + 0x18 + 9, []byte{7}, false},
		{"mirror", "copy differ", recordAt(t, img, 1) + 0x12, []byte{9}, false},
		{"torn", "torn write", recordAt(t, img, 3) + 510, []byte{0xEE, 0xEE}, false},
		{"boot sector", "backup was used", 0x0D, []byte{3}, false},
		{"backup", "differ", plain.size - 512 + 0x48, []byte("other"), false},
		{"shared", "calls free", bitmap + lcn/8, []byte{raw[bitmap+lcn/8] &^ (1 << (lcn % 8))}, true},
		{"run list", "run list", run + 0x40, []byte{0x4F}, true},
		{"torn file", "torn write", recordAt(t, img, n) + 1022, []byte{0xEE, 0xEE}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			was := bytes.Clone(raw[c.at : c.at+int64(len(c.p))])
			edit(t, img, c.at, c.p)
			defer edit(t, img, c.at, was)
			f := open(t, img, nil)
			free, err := fsystest.FreeOf(t.Context(), f, f.Info().Size)
			if c.late {
				var bad *fsys.CorruptError
				require.ErrorAs(t, err, &bad)
				require.Contains(t, err.Error(), c.want)
				free, err = fsystest.FreeOf(t.Context(), f, f.Info().Size)
			}
			require.NoError(t, err)
			require.Empty(t, free)
			require.Contains(t, f.Info().Doubt, c.want)
			if c.name == "run list" || c.name == "torn file" {
				return
			}
			p := make([]byte, len(content))
			_, err = f.ReadAt(t.Context(), n, p, 0)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, p))
		})
	}
	noDoubt(t, img) // all was put back
}

func runsOf(t *testing.T, f fsys.FileSystem, n fsys.Node) (list []fsys.Run) {
	t.Helper()
	for r, err := range f.Runs(t.Context(), n) {
		require.NoError(t, err)
		list = append(list, r)
	}
	return list
}

// TestSurrogates: half of a pair alone in a name is kept apart from all other names.
func TestSurrogates(t *testing.T) {
	img, _ := made(t, plain, ntfs3g, func(dir string) { write(t, dir+"/aaaa", []byte("x")) })
	raw, err := os.ReadFile(img)
	require.NoError(t, err)
	old, half := []byte("a\x00a\x00a\x00a\x00"), []byte("a\x00\x34\xD8\x00\xDCz\x00")
	half = append(half[:2:2], append([]byte{0x00, 0xDC}, half[2:6]...)...) // a, a low half alone, a pair
	for at := bytes.Index(raw, old); at >= 0; at = bytes.Index(raw, old) {
		copy(raw[at:], half)
	}
	require.NoError(t, os.WriteFile(img, raw, 0o600))
	f := noDoubt(t, img)
	var names []string
	for e, err := range f.ReadDir(t.Context(), f.Root()) {
		require.NoError(t, err)
		names = append(names, e.Name)
	}
	require.Equal(t, []string{"a\xed\xb0\x80\U0001D000"}, names)
}
