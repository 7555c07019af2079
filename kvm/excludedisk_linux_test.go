package kvm

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/exclude"
	"github.com/hikae/hikae/pipe/exclude/files"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
	"github.com/hikae/hikae/pipe/exclude/layout"
)

// What is on the NTFS disk, in bytes.
const (
	ntfsSize = 96 * mib
	ntfsBig  = 16 * mib // excluded
	ntfsOld  = 16 * mib // deleted
)

// makeNTFS makes a disk without partitions whose free space holds what was deleted, by the real driver, and returns what
// must come back.
func makeNTFS(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(ntfsSize))
	require.NoError(t, f.Close())
	out, err := exec.CommandContext(t.Context(), "mkntfs", "-F", "-q", "-Q", "-L", "store", "-p", "0", "-H", "0", "-S", "0", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	m := fsystest.Mount(t, "ntfs", path)
	files := map[string][]byte{}
	for i, name := range []string{"keep/one.bin", "keep/two.bin", "old.bin", "three.bin", "tmp/big.bin", "small.txt"} {
		p := make([]byte, []int{5 * mib, 333_333, ntfsOld, 2*mib + 1, ntfsBig, 99}[i])
		rand.NewChaCha8([32]byte{byte(i)}).Read(p)
		require.NoError(t, os.MkdirAll(filepath.Join(m.Dir, filepath.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(m.Dir, name), p, 0o644))
		files[name] = p
	}
	require.NoError(t, os.Remove(filepath.Join(m.Dir, "old.bin")))
	delete(files, "old.bin")
	delete(files, "tmp/big.bin")
	require.NoError(t, m.Unmount())
	return files
}

// requireNTFS reads a restored disk through the real driver.
func requireNTFS(t *testing.T, path string, files map[string][]byte) {
	t.Helper()
	m := fsystest.Mount(t, "ntfs", path, "ro")
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(m.Dir, name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), name)
	}
	big, err := os.ReadFile(filepath.Join(m.Dir, "tmp/big.bin"))
	require.NoError(t, err)
	require.Len(t, big, ntfsBig)
	require.Greater(t, bytes.Count(big, []byte{0}), ntfsBig*3/4, "it was excluded")
	require.NoFileExists(t, filepath.Join(m.Dir, "old.bin"))
	require.NoError(t, m.Unmount())
}

// requireOnlyZeros compares a restored disk with what was backed up. What differs must have been left out: it is zero.
func requireOnlyZeros(t *testing.T, original, restored string) {
	t.Helper()
	a, b := openRaw(t, original), openRaw(t, restored)
	require.Equal(t, a.Size(), b.Size())
	p, q, zero := make([]byte, mib), make([]byte, mib), make([]byte, 4096)
	var dropped int64
	for off := int64(0); off < a.Size(); off += mib {
		n := readRaw(t, a, p, off)
		require.Equal(t, n, readRaw(t, b, q, off))
		for i := 0; i < n; i += len(zero) {
			x, y := p[i:min(i+len(zero), n)], q[i:min(i+len(zero), n)]
			if !bytes.Equal(x, y) {
				require.True(t, bytes.Equal(y, zero[:len(y)]), "%s differs from %s at %d, and is not zero", restored, original, off+int64(i))
				dropped += int64(len(y))
			}
		}
	}
	require.Positive(t, dropped, "what was deleted is still there")
	t.Logf("figure: %s: %d KiB of %d MiB that were not zero are zero now, all else is equal", filepath.Base(original), dropped>>10, a.Size()/mib)
}

func openRaw(t *testing.T, path string) pipe.Image {
	t.Helper()
	img, err := diskfile.Open(path, &diskfile.OpenOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { img.Close() })
	return img
}

func readRaw(t *testing.T, img pipe.Image, p []byte, off int64) int {
	t.Helper()
	n, err := img.ReadAt(t.Context(), p, off)
	if !errors.Is(err, io.EOF) {
		require.NoError(t, err)
	}
	return n
}

// volume copies a volume of a disk into a file of its own, for programs that know nothing of volume groups.
func (s *installed) volume(disk, name string) string {
	s.t.Helper()
	img := openRaw(s.t, disk)
	defer img.Close()
	l, err := layout.Read(s.t.Context(), []layout.Disk{{Key: lvmDisk, Image: img}})
	require.NoError(s.t, err)
	to := filepath.Join(filepath.Dir(disk), strings.NewReplacer("/", "-", ":", "-").Replace(name)+"."+filepath.Base(disk))
	for _, v := range l.Volumes {
		if v.Name == name {
			copyOut(s.t, v.Image(), to)
			return to
		}
	}
	require.Failf(s.t, "no such volume", "%s on %s", name, disk)
	return ""
}

func copyOut(t *testing.T, img pipe.Image, to string) {
	t.Helper()
	f, err := os.Create(to)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(img.Size()))
	p, zero := make([]byte, mib), make([]byte, mib)
	for off := int64(0); off < img.Size(); off += mib {
		if n := readRaw(t, img, p, off); !bytes.Equal(p[:n], zero[:n]) {
			_, err := f.WriteAt(p[:n], off)
			require.NoError(t, err)
		}
	}
}

// requireRoot: the root has no fault when its log was put into its place by e2fsck, without a kernel.
func (s *installed) requireRoot(disk string) {
	s.t.Helper()
	status, said := s.fsck(disk)
	require.Zero(s.t, status, said)
}

// requireBusy: on a disk as it stood under a running guest, both logs wait to be replayed.
func (s *installed) requireBusy(disk string) {
	s.t.Helper()
	_, said := s.fsck(disk)
	require.Contains(s.t, said, "recovering journal")
	data := s.volume(disk, "vg0/data")
	defer os.Remove(data)
	status, said := s.status("xfs_repair", "-f", data)
	require.Equal(s.t, 2, status, "xfs_repair refuses to go on while there is a log to replay: %s", said)
}

// fsck puts the log of a disk's root into its place and asks what is wrong then.
func (s *installed) fsck(disk string) (status int, said string) {
	s.t.Helper()
	root := s.volume(disk, "vg0/root")
	defer os.Remove(root)
	if status, said = s.status("e2fsck", "-y", "-E", "journal_only", root); status > 1 {
		return status, said
	}
	status, more := s.status("e2fsck", "-fn", root)
	return status, said + more
}

// status runs a program that may complain.
func (s *installed) status(name string, args ...string) (status int, said string) {
	s.t.Helper()
	out, err := exec.CommandContext(s.t.Context(), name, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), string(out)
	}
	require.NoError(s.t, err)
	return 0, string(out)
}

// requireSwapPage: the first page of a swap volume is there, and what follows is zero.
func (s *installed) requireSwapPage(disk, name, uuid string) {
	s.t.Helper()
	path := s.volume(disk, name)
	defer os.Remove(path)
	content, err := os.ReadFile(path)
	require.NoError(s.t, err)
	requireSwapPage(s.t, content, uuid)
}

// requireLeftOutFiles: on a restored disk an excluded file has its name and length, and a swap file its first page.
func (s *installed) requireLeftOutFiles(disk string) {
	s.t.Helper()
	img := openRaw(s.t, disk)
	m, err := files.Open(s.t.Context(), []layout.Disk{{Key: lvmDisk, Image: img}}, exclude.Open)
	require.NoError(s.t, err)
	tree, err := m.Tree("")
	require.NoError(s.t, err)
	for _, path := range []string{"tmp/big", "data/tmp/big"} {
		big, err := fs.ReadFile(tree, path)
		require.NoError(s.t, err)
		require.Len(s.t, big, bigFile)
		require.Greater(s.t, bytes.Count(big, []byte{0}), bigFile*3/4, "it was excluded")
	}
	area, err := fs.ReadFile(tree, "swapfile")
	require.NoError(s.t, err)
	require.Len(s.t, area, 32*mib)
	requireSwapPage(s.t, area, kvmtest.LVMFileUUID)
}

const (
	swapUUIDAt  = 1036
	swapMagicAt = 4086
)

func requireSwapPage(t *testing.T, area []byte, uuid string) {
	t.Helper()
	id, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	require.NoError(t, err)
	require.Equal(t, id, area[swapUUIDAt:][:16])
	require.Equal(t, "SWAPSPACE2", string(area[swapMagicAt:4096]))
	require.Greater(t, bytes.Count(area, []byte{0}), len(area)*9/10, "what was swapped out was left out")
}

func md5Of(p []byte) string {
	sum := md5.Sum(p)
	return hex.EncodeToString(sum[:])
}
