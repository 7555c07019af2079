package fat_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/fatdisk"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fat"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if err != nil {
			if _, e := os.Stat(dir + name); e == nil {
				path, err = dir+name, nil
			}
		}
	}
	if err != nil {
		t.Skipf("needs %s", name)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}

// made is a volume by mkfs.fat.
func made(t *testing.T, size int64, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fat")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, size))
	tool(t, "mkfs.fat", append(args, path)...)
	return path
}

func openFile(t *testing.T, path string) fsys.FileSystem {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	f, err := fat.Open(t.Context(), image(data))
	require.NoError(t, err)
	return f
}

func image(data []byte) pipe.Image { return pipe.FromReaderAt(bytes.NewReader(data), int64(len(data))) }

// files are the content of all files below a folder, by path.
func files(t require.TestingT, f fsys.FileSystem, dir fsys.Node, prefix string, into map[string][]byte) {
	for e, err := range f.ReadDir(context.Background(), dir) {
		require.NoError(t, err)
		path := prefix + e.Name
		if e.Type.IsDir() {
			files(t, f, e.Node, path+"/", into)
			continue
		}
		a, err := f.Stat(context.Background(), e.Node)
		require.NoError(t, err)
		require.True(t, a.Mode.IsRegular())
		p := make([]byte, a.Size+1)
		n, err := f.ReadAt(context.Background(), e.Node, p, 0)
		require.ErrorIs(t, err, io.EOF)
		into[path] = p[:n]
	}
}

func freeBytes(t require.TestingT, f fsys.FileSystem) (n int64, list []fsys.Range) {
	pos := int64(-1)
	for r, err := range f.Free(context.Background()) {
		require.NoError(t, err)
		require.Greater(t, r.Off, pos, "ascending and not adjacent")
		require.Positive(t, r.Len)
		pos = r.End()
		n += r.Len
		list = append(list, r)
	}
	require.LessOrEqual(t, pos, f.Info().Size)
	return n, list
}

// Every width by mkfs.fat, filled and aged by mtools: all files are there byte for byte, and what is free is what
// fsck.fat counts; every free cluster can be overwritten and no file minds.
func TestVolumesByMtools(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		args []string
	}{
		{"FAT12", 4 << 20, []string{"-F", "12", "-n", "KLEIN"}},
		{"FAT16", 24 << 20, []string{"-F", "16", "-n", "MITTE"}},
		{"FAT16 4096-byte sectors", 64 << 20, []string{"-F", "16", "-S", "4096"}},
		{"FAT32", 40 << 20, []string{"-F", "32", "-s", "1", "-i", "12ab34cd", "-n", "EFI"}},
		{"FAT32 one table", 40 << 20, []string{"-F", "32", "-f", "1", "-s", "1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := made(t, c.size, c.args...)
			want := map[string][]byte{}
			rnd := rand.New(rand.NewPCG(5, uint64(len(c.name))))
			tool(t, "mmd", "-i", path, "::/efi", "::/efi/Ein langer Name für einen Ordner")
			for i := range 24 {
				name := []string{"SHORT%d.TXT", "lower%d.cfg", "efi/grub%dx64.efi", "efi/Ein langer Name für einen Ordner/und eine lange Datei mit Ümläuten Nummer %d.dat"}[i%4]
				name = fmt.Sprintf(name, i)
				data := make([]byte, rnd.IntN(60_000))
				for j := range data {
					data[j] = byte(rnd.Uint32())
				}
				src := filepath.Join(t.TempDir(), "src")
				require.NoError(t, os.WriteFile(src, data, 0o600))
				tool(t, "mcopy", "-i", path, src, "::/"+name)
				want[name] = data
			}
			for i := range 24 {
				if i%3 == 1 {
					for name := range want {
						if strings.Contains(name, fmt.Sprint(i)) && !strings.Contains(name, "1"+fmt.Sprint(i)) && !strings.Contains(name, "2"+fmt.Sprint(i)) {
							tool(t, "mdel", "-i", path, "::/"+name)
							delete(want, name)
						}
					}
				}
			}
			f := openFile(t, path)
			require.Empty(t, f.Info().Doubt)
			got := map[string][]byte{}
			files(t, f, f.Root(), "", got)
			require.Len(t, got, len(want))
			for name, data := range want {
				require.True(t, bytes.Equal(data, got[name]), name)
			}
			n, list := freeBytes(t, f)
			var used, total int64
			out := tool(t, "fsck.fat", "-n", path)
			_, err := fmt.Sscanf(out[strings.LastIndex(strings.TrimSpace(out), "files, ")+len("files, "):], "%d/%d clusters", &used, &total)
			require.NoError(t, err, out)
			require.Equal(t, (total-used)*f.Info().BlockSize, n)

			data, err := os.ReadFile(path)
			require.NoError(t, err)
			for _, r := range list {
				for i := r.Off; i < r.End(); i++ {
					data[i] = 0xAA
				}
			}
			require.NoError(t, os.WriteFile(path, data, 0o600))
			tool(t, "fsck.fat", "-n", path)
			again := map[string][]byte{}
			files(t, openFile(t, path), 0, "", again)
			require.Equal(t, got, again)
		})
	}
}

func TestInfo(t *testing.T) {
	i := openFile(t, made(t, 40<<20, "-F", "32", "-i", "12AB34CD", "-n", "EFI")).Info()
	require.Equal(t, fsys.Info{Kind: "vfat", UUID: "12ab-34cd", Label: "EFI", Size: 40 << 20, BlockSize: i.BlockSize}, i)
}

// What speaks against a volume is a doubt, and nothing of it is called free.
func TestDoubts(t *testing.T) {
	path := made(t, 40<<20, "-F", "32", "-s", "1")
	clean, err := os.ReadFile(path)
	require.NoError(t, err)
	table := int(clean[14]) * 512
	second := table + (int(clean[36])|int(clean[37])<<8)*512
	for name, spoil := range map[string]func(p []byte){
		"tables differ":       func(p []byte) { p[second+4000] ^= 1 },
		"dirty boot sector":   func(p []byte) { p[65] |= 1 },
		"dirty table":         func(p []byte) { p[table+7] &^= 0x08; p[second+7] &^= 0x08 },
		"read errors":         func(p []byte) { p[table+7] &^= 0x04; p[second+7] &^= 0x04 },
		"root folder is free": func(p []byte) { clear(p[table+8 : table+12]); clear(p[second+8 : second+12]) },
	} {
		p := bytes.Clone(clean)
		spoil(p)
		f, err := fat.Open(t.Context(), image(p))
		require.NoError(t, err, name)
		require.NotEmpty(t, f.Info().Doubt, name)
		n, _ := freeBytes(t, f)
		require.Zero(t, n, name)
	}
	for name, spoil := range map[string]func(p []byte){
		"truncated volume": func(p []byte) { p[33], p[34] = 0xFF, 0xFF },
		"short table":      func(p []byte) { p[36], p[37] = 1, 0 },
		"root cluster":     func(p []byte) { p[44] = 1 },
		"version":          func(p []byte) { p[42] = 1 },
	} {
		p := bytes.Clone(clean)
		spoil(p)
		_, err := fat.Open(t.Context(), image(p))
		var damage *fsys.CorruptError
		require.ErrorAs(t, err, &damage, name)
	}
	_, err = fat.Open(t.Context(), image(make([]byte, 1<<20)))
	require.ErrorIs(t, err, fsys.ErrOther)
	_, err = fat.Open(t.Context(), image(nil))
	require.ErrorIs(t, err, fsys.ErrOther)
}

// Our own sample disks, of which every write is known.
func TestSampleDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	d, err := fatdisk.Create(path, 16<<20, &fatdisk.Options{Label: "HIKAE", Serial: 7})
	require.NoError(t, err)
	require.NoError(t, d.Close())
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	f, err := fat.Open(t.Context(), image(data[1<<20:]))
	require.NoError(t, err)
	require.Equal(t, "HIKAE", f.Info().Label)
	require.Empty(t, f.Info().Doubt)
}

func TestNodesThatAreNone(t *testing.T) {
	f := openFile(t, made(t, 4<<20, "-F", "12"))
	for _, n := range []fsys.Node{1, 100, 1 << 20, 1 << 57, ^fsys.Node(0)} {
		_, err := f.Stat(t.Context(), n)
		require.ErrorIs(t, err, fs.ErrNotExist, "%d", n)
		_, err = f.ReadAt(t.Context(), n, make([]byte, 10), 0)
		require.Error(t, err)
	}
	a, err := f.Stat(t.Context(), f.Root())
	require.NoError(t, err)
	require.True(t, a.Mode.IsDir())
	_, err = f.Readlink(t.Context(), 0)
	require.ErrorIs(t, err, fs.ErrInvalid)
}

// FuzzVolume: whatever stands on a volume, nothing panics, runs for ever or leaves it, and no file that can be read lies in
// what is called free.
func FuzzVolume(f *testing.F) {
	small := func(kind int) []byte {
		p := make([]byte, 64<<10)
		copy(p, "\xEB\x3C\x90MSDOS5.0")
		p[12], p[13], p[14], p[16], p[21], p[510], p[511] = 2, 1, 1, 2, 0xF8, 0x55, 0xAA
		p[19] = 128
		if kind == 12 {
			p[17], p[22] = 16, 1
			copy(p[512:], "\xF8\xFF\xFF\xFF\xFF\xFF")
			copy(p[1024:], p[512:1024])
			copy(p[1536:], "A       TXT \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x10\x00\x00\x00")
		} else {
			p[36], p[44] = 1, 2
			copy(p[512:], "\xF8\xFF\xFF\x0F\xFF\xFF\xFF\x0F\xFF\xFF\xFF\x0F\xFF\xFF\xFF\x0F")
			copy(p[1024:], p[512:1024])
			copy(p[1536:], "A       TXT \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x10\x00\x00\x00")
		}
		return p
	}
	f.Add(small(12))
	f.Add(small(32))
	f.Fuzz(func(t *testing.T, p []byte) {
		v, err := fat.Open(t.Context(), image(p))
		if err != nil {
			return
		}
		_, free := freeBytes(t, v)
		budget := 1000
		var walk func(dir fsys.Node, depth int)
		walk = func(dir fsys.Node, depth int) {
			for e, err := range v.ReadDir(t.Context(), dir) {
				if budget--; err != nil || budget < 0 {
					return
				}
				if e.Type.IsDir() {
					if depth < 4 {
						walk(e.Node, depth+1)
					}
					continue
				}
				for run, err := range v.Runs(t.Context(), e.Node) {
					if err != nil {
						break
					}
					require.LessOrEqual(t, run.Vol+run.Len, int64(len(p)))
					for _, r := range free {
						require.False(t, run.Vol < r.End() && r.Off < run.Vol+run.Len, "%v is free and used by %v", r, run)
					}
				}
				buf := make([]byte, 3000)
				if n, err := v.ReadAt(t.Context(), e.Node, buf, 100); err == nil && n != len(buf) {
					t.Fatal("short without an error")
				} else if err != nil && errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
			}
		}
		walk(v.Root(), 0)
	})
}
