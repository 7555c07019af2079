package layout_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/layout"
)

// tool runs a program, or skips the test where there is none.
func tool(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path = "/usr/sbin/" + name; !exists(path) {
			if path = "/sbin/" + name; !exists(path) {
				t.Skipf("needs %s", name)
			}
		}
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// blank is a sparse file of size bytes.
func blank(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	require.NoError(t, f.Close())
	return path
}

func openFile(t *testing.T, path string) pipe.Image {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	require.NoError(t, err)
	return pipe.FromReaderAt(f, info.Size())
}

func read(t *testing.T, disks ...layout.Disk) *layout.Layout {
	t.Helper()
	l, err := layout.Read(context.Background(), disks)
	require.NoError(t, err)
	return l
}

func named(t *testing.T, l *layout.Layout, name string) *layout.Volume {
	t.Helper()
	for _, v := range l.Volumes {
		if v.Name == name {
			return v
		}
	}
	require.Failf(t, "no such volume", "%s in %v", name, names(l))
	return nil
}

func names(l *layout.Layout) (out []string) {
	for _, v := range l.Volumes {
		out = append(out, v.Name)
	}
	return out
}

// copyInto writes a file into another at an offset.
func copyInto(t *testing.T, dst string, off int64, src string) {
	t.Helper()
	data, err := os.ReadFile(src)
	require.NoError(t, err)
	f, err := os.OpenFile(dst, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(data, off)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// What parted writes as an MBR is found, with its logical partitions, and each is what it was made.
func TestMBRByParted(t *testing.T) {
	path := blank(t, 64<<20)
	tool(t, "", "parted", "-s", path, "unit", "s", "mklabel", "msdos", "mkpart", "primary", "2048", "18431",
		"mkpart", "primary", "20480", "36863", "mkpart", "extended", "40960", "131071", "mkpart", "logical", "43008", "51199",
		"mkpart", "logical", "53248", "61439", "mkpart", "logical", "63488", "71679")
	swap := blank(t, 8<<20)
	tool(t, "", "mkswap", swap)
	copyInto(t, path, 20480*512, swap)
	ext := blank(t, 4<<20)
	tool(t, "", "mke2fs", "-q", "-F", ext)
	copyInto(t, path, 53248*512, ext)
	l := read(t, layout.Disk{Key: "sda", Image: openFile(t, path)})
	require.Equal(t, []string{"sda:1", "sda:2", "sda:5", "sda:6", "sda:7"}, names(l))
	require.Empty(t, l.Notes)
	for _, v := range l.Volumes {
		require.Empty(t, v.Whole, v.Name)
	}
	require.Equal(t, layout.Swap, named(t, l, "sda:2").Kind)
	v := named(t, l, "sda:6")
	require.Equal(t, layout.Ext, v.Kind)
	require.Equal(t, []layout.Place{{Disk: "sda", Off: 53248 * 512, N: 4 << 20}}, v.Places())
	require.Equal(t, int64(4<<20), v.Image().Size())
	require.Empty(t, named(t, l, "sda:1").Kind)
}

// A GPT by sgdisk or sfdisk; with one copy damaged; with both; with two that differ.
func TestGPTByTools(t *testing.T) {
	for name, make := range map[string]func(t *testing.T, path string){
		"sgdisk": func(t *testing.T, path string) {
			tool(t, "", "sgdisk", "-n", "1:2048:+8M", "-c", "1:EFI system", "-t", "1:ef00", "-n", "3:40960:+16M", "-c", "3:wurzel", path)
		},
		"parted": func(t *testing.T, path string) {
			tool(t, "", "parted", "-s", path, "unit", "s", "mklabel", "gpt", "mkpart", "'EFI system'", "2048", "18431", "set", "1", "esp", "on",
				"mkpart", "x", "20480", "22527", "mkpart", "wurzel", "40960", "73727", "rm", "2")
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := blank(t, 64<<20)
			make(t, path)
			disk := layout.Disk{Key: "d", Image: openFile(t, path)}
			l := read(t, disk)
			require.Len(t, l.Volumes, 2)
			require.Equal(t, []string{"d:1", "d:3"}, names(l))
			require.Empty(t, l.Notes)
			require.Equal(t, "EFI system", l.Volumes[0].Label)
			require.Equal(t, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", l.Volumes[0].Type)
			require.Equal(t, []layout.Place{{Disk: "d", Off: 40960 * 512, N: 16 << 20}}, l.Volumes[1].Places())

			scratch := func(off int64) { patch(t, path, off, []byte{0xAA, 0x55, 0xAA}) }
			scratch(512 + 60)
			l = read(t, disk)
			require.Equal(t, []string{"d:1", "d:3"}, names(l))
			require.Len(t, l.Notes, 1)
			require.Contains(t, l.Notes[0], "the copy at the end was used")
			scratch(64<<20 - 512 + 60)
			l = read(t, disk)
			require.Equal(t, []string{"d"}, names(l))
			require.Contains(t, l.Volumes[0].Whole, "GPT is damaged")
		})
	}
}

func patch(t *testing.T, path string, off int64, p []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(p, off)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// What mkfs and its kin leave on a whole disk.
func TestIdentifyByTools(t *testing.T) {
	for _, c := range []struct {
		kind string
		tool []string
		size int64
	}{
		{layout.Ext, []string{"mke2fs", "-q", "-F", "-t", "ext4"}, 16 << 20},
		{layout.Ext, []string{"mke2fs", "-q", "-F", "-t", "ext2", "-b", "1024"}, 4 << 20},
		{layout.XFS, []string{"mkfs.xfs", "-q", "-f"}, 320 << 20},
		{layout.NTFS, []string{"mkfs.ntfs", "-q", "-F", "-f"}, 16 << 20},
		{layout.FAT, []string{"mkfs.fat", "-F", "12"}, 4 << 20},
		{layout.FAT, []string{"mkfs.fat", "-F", "16"}, 32 << 20},
		{layout.FAT, []string{"mkfs.fat", "-F", "32"}, 64 << 20},
		{layout.Swap, []string{"mkswap"}, 4 << 20},
		{layout.Swap, []string{"mkswap", "-p", "65536"}, 4 << 20},
	} {
		t.Run(strings.Join(c.tool, " "), func(t *testing.T) {
			path := blank(t, c.size)
			tool(t, "", c.tool[0], append(c.tool[1:], path)...)
			l := read(t, layout.Disk{Key: "d", Image: openFile(t, path)})
			require.Len(t, l.Volumes, 1)
			require.Equal(t, "d", l.Volumes[0].Name)
			require.Empty(t, l.Volumes[0].Whole)
			require.Equal(t, c.kind, l.Volumes[0].Kind)
		})
	}
}
