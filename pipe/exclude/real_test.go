package exclude_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude"
	"github.com/hikae/hikae/pipe/pipetest"
)

const mib = 1 << 20

// has skips a test where a program is missing, and says where the program is.
func has(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if _, err := os.Stat(dir + name); err == nil {
			return dir + name
		}
	}
	t.Skipf("needs %s", name)
	return ""
}

func tool(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), has(t, name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}

// blank is a file of random bytes: what is called free is seen to be dropped. It does not shrink by holes.
func blank(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "volume")
	p := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = r.Read(p)
	require.NoError(t, os.WriteFile(path, p, 0o600))
	return path
}

func load(t *testing.T, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	require.NoError(t, err)
	return p
}

// tree is a folder with files for mke2fs -d. The swap file is left out of what is compared.
func tree(t *testing.T, files map[string][]byte) string {
	t.Helper()
	root := t.TempDir()
	for name, data := range files {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, data, 0o644))
	}
	return root
}

func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(p)
	return p
}

// restored copies an image into a repository in memory as a backup does, and reads it back.
func restored(t *testing.T, img pipe.Image, block int) ([]byte, pipe.Stats) {
	t.Helper()
	b := pipetest.NewBackend(block)
	w, err := b.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	target, err := w.Disk(t.Context(), "d", img.Size())
	require.NoError(t, err)
	stats, err := pipe.Copy(t.Context(), target, img, nil)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	back, err := b.Open(t.Context(), id, "d")
	require.NoError(t, err)
	p := make([]byte, img.Size())
	_, err = back.ReadAt(t.Context(), p, 0)
	require.NoError(t, err)
	return p, stats
}

func volume(t *testing.T, p *exclude.Plan, name string) exclude.Volume {
	t.Helper()
	for _, v := range p.Report.Volumes {
		if v.Name == name {
			return v
		}
	}
	require.Failf(t, "no such volume", "%s in %+v", name, p.Report.Volumes)
	return exclude.Volume{}
}

func analyse(t *testing.T, opts *exclude.Options, disks ...exclude.Disk) *exclude.Plan {
	t.Helper()
	if opts.Deadline == 0 {
		opts.Deadline = time.Minute // machines that test are busy
	}
	p, err := exclude.Analyse(context.Background(), disks, opts)
	require.NoError(t, err)
	return p
}

// swapFile is what mkswap makes of a file.
func swapFile(t *testing.T, size int64) []byte {
	t.Helper()
	path := blank(t, size)
	tool(t, "", "mkswap", "-q", path)
	return load(t, path)
}

// ofRoot gives files of an ext volume to root: mke2fs gives them to whoever runs the test.
func ofRoot(t *testing.T, volume string, paths ...string) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	for _, path := range paths {
		tool(t, "", "debugfs", "-w", "-R", fmt.Sprintf("set_inode_field %q uid 0", path), volume)
	}
}

// Where the volumes of machine lie, and how long they are.
const (
	efiAt, efiLen   = 1 * mib, 9 * mib
	extAt, extLen   = 10 * mib, 24 * mib
	swapAt, swapLen = 34 * mib, 6 * mib
	diskLen         = 41 * mib
)

// machine is a disk as an installer leaves it: EFI system partition, root on ext4 with a swap file, swap partition.
func machine(t *testing.T, fstab string) (disk []byte, root map[string][]byte) {
	t.Helper()
	has(t, "sgdisk")
	vfat := blank(t, efiLen)
	tool(t, "", "mkfs.fat", "-F", "16", "-s", "1", "-n", "EFI", vfat)
	boot := filepath.Join(t.TempDir(), "grubx64.efi")
	require.NoError(t, os.WriteFile(boot, noise(1, 200_000), 0o600))
	tool(t, "", "mmd", "-i", vfat, "::/EFI")
	tool(t, "", "mcopy", "-i", vfat, boot, "::/EFI/grubx64.efi")

	root = map[string][]byte{
		"etc/fstab": []byte(fstab), "etc/hostname": []byte("web1\n"), "swap/area one": swapFile(t, 3*mib), "swapfile": swapFile(t, 2*mib),
		"home/a/document": noise(2, 700_000), "home/a/.cache/big": noise(3, 2*mib), "var/tmp/junk": noise(4, 1*mib),
		"var/tmp/deep/er/junk": noise(5, 600_000), "var/tmp/keep/this": noise(6, 600_000), "not a swap file": noise(7, 400_000),
	}
	volume := blank(t, extLen)
	tool(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "wurzel", "-d", tree(t, root), volume)
	ofRoot(t, volume, "/etc/fstab", "/swap/area one", "/swapfile")
	area := blank(t, swapLen)
	tool(t, "", "mkswap", "-q", "-L", "auslagern", area)

	path := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, diskLen))
	tool(t, "", "sgdisk", "-n", "1:1M:+9M", "-t", "1:ef00", "-n", "2:10M:+24M", "-n", "3:34M:+6M", "-t", "3:8200", path)
	disk = load(t, path)
	copy(disk[efiAt:], load(t, vfat))
	copy(disk[extAt:], load(t, volume))
	copy(disk[swapAt:], load(t, area))
	return disk, root
}

const fstab = "# static\nUUID=0 / ext4 defaults 0 1\n/swap/area\\040one none swap sw 0 0\n/dev/sda3 none swap sw 0 0\n"

// R015, R016, R017, R018: a disk with everything goes through a copy. What comes back has the same files, its file systems
// pass fsck, swap areas have their headers, and what was left out is zero.
func TestRealDisk(t *testing.T) {
	disk, root := machine(t, fstab)
	img := pipetest.Bytes(disk)
	for _, block := range []int64{64 << 10, 4 << 10} {
		plan := analyse(t, &exclude.Options{Swap: true, Free: true, BlockSize: block,
			Files: []string{"/var/tmp/**", "wurzel::**/.cache", "!/var/tmp/keep", "nothing/of/the/kind"}}, exclude.Disk{Key: "d", Image: img})
		efi, ext, swap := volume(t, plan, "d:1"), volume(t, plan, "d:2"), volume(t, plan, "d:3")
		require.Empty(t, efi.Whole+ext.Whole+swap.Whole)
		require.Equal(t, []string{"vfat", "ext4", "swap"}, []string{efi.Kind, ext.Kind, swap.Kind})
		require.Equal(t, []string{"EFI", "wurzel", "auslagern"}, []string{efi.Label, ext.Label, swap.Label})
		require.Greater(t, efi.Free, int64(8*mib))
		require.Greater(t, ext.Free, int64(8*mib))
		require.Equal(t, int64(swapLen-4096), swap.Swap)
		require.Equal(t, int64(5*mib-2*4096), ext.Swap)
		require.Equal(t, int64(3), ext.Files)
		require.Equal(t, int64(2*mib+1*mib+602112), ext.Excluded)
		require.Len(t, plan.Report.Notes, 1)
		require.Contains(t, plan.Report.Notes[0], "nothing/of/the/kind")

		back, stats := restored(t, plan.Image("d", img), int(block))
		require.Greater(t, stats.Skipped[pipe.Free], int64(14*mib))
		require.Greater(t, stats.Skipped[pipe.Swap], int64(10*mib))
		require.Greater(t, stats.Skipped[pipe.Excluded], int64(3*mib))
		require.Equal(t, disk[:efiAt], back[:efiAt])
		require.Equal(t, disk[swapAt:swapAt+4096], back[swapAt:swapAt+4096])
		requireDropped(t, plan, disk, back, block)

		dir := t.TempDir()
		for name, part := range map[string][]byte{"vfat": back[efiAt : efiAt+efiLen], "ext4": back[extAt : extAt+extLen]} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), part, 0o600))
		}
		tool(t, "", "fsck.fat", "-n", filepath.Join(dir, "vfat"))
		tool(t, "", "e2fsck", "-fn", filepath.Join(dir, "ext4"))
		for name, want := range root {
			out := filepath.Join(dir, "out")
			tool(t, "", "debugfs", "-R", fmt.Sprintf("dump %q %s", "/"+name, out), filepath.Join(dir, "ext4"))
			got := load(t, out)
			require.Len(t, got, len(want), name)
			switch {
			case strings.HasPrefix(name, "swap"):
				require.Equal(t, want[:4096], got[:4096], name)
			case strings.Contains(name, "junk") || strings.Contains(name, ".cache"):
			default:
				require.True(t, bytes.Equal(want, got), name)
			}
		}
	}
}

// requireDropped: a byte differs only where the plan lets a whole block go, and then it is zero.
func requireDropped(t *testing.T, plan *exclude.Plan, disk, back []byte, block int64) {
	t.Helper()
	const sector = 512
	allowed := make([]bool, len(disk)/sector)
	for e := range plan.Extents("d", 0, int64(len(disk))) {
		for i := e.Off / sector; i < e.End()/sector; i++ {
			allowed[i] = true
		}
	}
	for at := int64(0); at < int64(len(disk)); at += block {
		end := min(at+block, int64(len(disk)))
		drop := true
		for i := at / sector; i < end/sector && drop; i++ {
			drop = allowed[i]
		}
		want := disk[at:end]
		if drop {
			want = make([]byte, end-at)
		}
		require.True(t, bytes.Equal(want, back[at:end]), "block at %d, dropped %t", at, drop)
	}
}

// Nothing asked for, nothing left out; each option alone takes only its own.
func TestOptionsAlone(t *testing.T) {
	disk, _ := machine(t, fstab)
	d := exclude.Disk{Key: "d", Image: pipetest.Bytes(disk)}
	sums := func(o *exclude.Options) (free, swap, files int64) {
		for _, v := range analyse(t, o, d).Report.Volumes {
			require.Empty(t, v.Whole)
			free, swap, files = free+v.Free, swap+v.Swap, files+v.Excluded
		}
		return free, swap, files
	}
	free, swap, files := sums(&exclude.Options{})
	require.Zero(t, free+swap+files)
	free, swap, files = sums(&exclude.Options{Swap: true})
	require.True(t, free == 0 && files == 0 && swap == swapLen+5*mib-3*4096)
	free, swap, files = sums(&exclude.Options{Free: true})
	require.True(t, free > 14*mib && swap == 0 && files == 0)
	free, swap, files = sums(&exclude.Options{Files: []string{"junk"}})
	require.True(t, free == 0 && swap == 0 && files == 1*mib+602112)
}

// A system that sleeps in its swap space, in a partition or in a file, keeps everything of all its volumes.
func TestSleepingSystem(t *testing.T) {
	for _, where := range []string{"partition", "file"} {
		disk, _ := machine(t, fstab)
		at := swapAt + 4086
		if where == "file" {
			at = extAt + bytes.Index(disk[extAt:extAt+extLen], []byte("SWAPSPACE2"))
		}
		copy(disk[at:], "S1SUSPEND\x00")
		plan := analyse(t, &exclude.Options{Swap: true, Free: true}, exclude.Disk{Key: "d", Image: pipetest.Bytes(disk)},
			exclude.Disk{Key: "other", Image: pipetest.Bytes(load(t, fatVolume(t)))})
		require.Len(t, plan.Report.Volumes, 4)
		for _, v := range plan.Report.Volumes {
			require.Contains(t, v.Whole, "sleep", v.Name)
			require.True(t, v.Caution)
			require.Zero(t, v.Free+v.Swap+v.Excluded)
		}
		for range plan.Extents("d", 0, int64(len(disk))) {
			t.Fatal("something is left out")
		}
	}
}

func fatVolume(t *testing.T) string {
	t.Helper()
	path := blank(t, 8*mib)
	tool(t, "", "mkfs.fat", "-F", "12", path)
	return path
}

// A swap file on another volume than the one whose fstab names it.
func TestSwapFileOnAnotherVolume(t *testing.T) {
	disk, _ := machine(t, "LABEL=wurzel / ext4 defaults 0 1\nLABEL=data /srv/data ext4 defaults 0 2\n/srv/data/sub/area none swap sw 0 0\n")
	data := blank(t, 16*mib)
	tool(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "data", "-d", tree(t, map[string][]byte{"sub/area": swapFile(t, 3*mib), "area": swapFile(t, 2*mib)}), data)
	ofRoot(t, data, "/sub/area", "/area")
	plan := analyse(t, &exclude.Options{Swap: true}, exclude.Disk{Key: "d", Image: pipetest.Bytes(disk)},
		exclude.Disk{Key: "e", Image: pipetest.Bytes(load(t, data))})
	require.Equal(t, int64(3*mib-4096), volume(t, plan, "e").Swap)
	require.Equal(t, int64(2*mib-4096), volume(t, plan, "d:2").Swap)
}

// R017, R018: NTFS as ntfs-3g makes it, with what Windows swaps to. Afterwards its checker finds nothing, and what was not
// left out is the same.
func TestRealNTFS(t *testing.T) {
	for _, name := range []string{"mkfs.ntfs", "ntfscp", "ntfscat", "ntfsfix"} {
		has(t, name)
	}
	path := blank(t, 16*mib)
	tool(t, "", "mkfs.ntfs", "-q", "-F", "-Q", "-L", "Daten", path)
	files := map[string][]byte{"pagefile.sys": noise(11, 3*mib), "Bericht.docx": noise(12, 700_000), "Alt.TMP": noise(13, mib)}
	for _, name := range []string{"pagefile.sys", "Bericht.docx", "Alt.TMP"} {
		src := filepath.Join(t.TempDir(), "src")
		require.NoError(t, os.WriteFile(src, files[name], 0o600))
		tool(t, "", "ntfscp", "-f", path, src, name)
	}
	disk := load(t, path)
	img := pipetest.Bytes(disk)
	plan := analyse(t, &exclude.Options{Swap: true, Free: true, Files: []string{"*.tmp"}, BlockSize: 64 << 10}, exclude.Disk{Key: "d", Image: img})
	v := volume(t, plan, "d")
	require.Empty(t, v.Whole)
	require.Equal(t, []any{"ntfs", "Daten", int64(3*mib - 4096), int64(mib), int64(1)}, []any{v.Kind, v.Label, v.Swap, v.Excluded, v.Files})
	require.Greater(t, v.Free, int64(6*mib))
	back, stats := restored(t, plan.Image("d", img), 64<<10)
	require.Positive(t, stats.Skipped[pipe.Swap])
	requireDropped(t, plan, disk, back, 64<<10)
	require.NoError(t, os.WriteFile(path, back, 0o600))
	tool(t, "", "ntfsfix", "-n", path)
	require.True(t, bytes.Equal(files["Bericht.docx"], []byte(tool(t, "", "ntfscat", "-f", path, "Bericht.docx"))))
	require.Equal(t, files["pagefile.sys"][:4096], []byte(tool(t, "", "ntfscat", "-f", path, "pagefile.sys"))[:4096])
}
