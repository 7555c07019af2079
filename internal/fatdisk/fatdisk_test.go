package fatdisk

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// check lets fsck.fat look at the volume, where it is installed. It takes a volume, not a disk.
func check(t *testing.T, path string) {
	t.Helper()
	if _, err := exec.LookPath("fsck.fat"); err != nil {
		t.Log("fsck.fat is not installed: the volume is checked by this package alone")
		return
	}
	disk, err := os.Open(path)
	require.NoError(t, err)
	defer disk.Close()
	info, err := disk.Stat()
	require.NoError(t, err)
	vol := filepath.Join(t.TempDir(), "volume")
	out, err := os.Create(vol)
	require.NoError(t, err)
	defer out.Close()
	_, err = io.Copy(out, io.NewSectionReader(disk, partition, (info.Size()-partition)>>20<<20))
	require.NoError(t, err)
	said, err := exec.Command("fsck.fat", "-n", "-v", vol).CombinedOutput()
	require.NoError(t, err, "%s", said)
}

func TestSampleIsAVolume(t *testing.T) {
	for _, size := range []int64{MinSize, 32<<20 + 513, 64 << 20, 132 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.raw")
			d, err := Sample(path, size, 1)
			require.NoError(t, err)
			defer d.Close()
			check(t, path)
			for n := 1; n <= 3; n++ {
				require.NoError(t, d.Pass(n))
			}
			check(t, path)
			info, err := os.Stat(path)
			require.NoError(t, err)
			assert.Equal(t, size, info.Size())
		})
	}
}

func TestSampleIsRepeatable(t *testing.T) {
	sums := map[[32]byte]bool{}
	for i, seed := range []uint64{1, 1, 2} {
		path := filepath.Join(t.TempDir(), fmt.Sprint(i))
		d, err := Sample(path, 16<<20, seed)
		require.NoError(t, err)
		require.NoError(t, d.Pass(1))
		require.NoError(t, d.Close())
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		sums[sha256.Sum256(data)] = true
	}
	assert.Len(t, sums, 2)
}

func TestMtoolsReadsFiles(t *testing.T) {
	if _, err := exec.LookPath("mcopy"); err != nil {
		t.Skip("needs mcopy and mdir (package mtools)")
	}
	path := filepath.Join(t.TempDir(), "disk.raw")
	d, err := Sample(path, 64<<20, 7)
	require.NoError(t, err)
	defer d.Close()
	want := bytes.Repeat([]byte("grows "), 5000)
	require.NoError(t, d.WriteFile("a/deep/er/place/file.txt", want))
	got, err := exec.Command("mcopy", "-n", "-i", path+"@@1M", "::A/DEEP/ER/PLACE/FILE.TXT", "-").CombinedOutput()
	require.NoError(t, err, "%s", got)
	assert.Equal(t, want, got)
	listing, err := exec.Command("mdir", "-i", path+"@@1M", "-b", "-/", "::").CombinedOutput()
	require.NoError(t, err, "%s", listing)
	files, err := d.Files()
	require.NoError(t, err)
	for _, f := range files {
		assert.Contains(t, string(listing), "::/"+f.Name)
	}
}

// TestHistory compares a disk with a map through a random history, and after opening it again.
func TestHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	d, err := Create(path, 9<<20, nil)
	require.NoError(t, err)
	defer func() { d.Close() }()
	r := rand.New(rand.NewPCG(3, 3))
	model := map[string][]byte{}
	full := 0
	for step := range 600 {
		name := fmt.Sprintf("D%d/E%d/F%d.BIN", r.IntN(2), r.IntN(2), r.IntN(40))
		if r.IntN(4) == 0 {
			err := d.Remove(name)
			if _, ok := model[name]; ok {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, fs.ErrNotExist)
			}
			delete(model, name)
			continue
		}
		data := noise(r, []int{0, 1, 511, 512, 513, 30000, 400000}[r.IntN(7)])
		err := d.WriteFile(name, data)
		if err != nil {
			require.ErrorIs(t, err, ErrFull)
			full++
			continue
		}
		model[name] = data
		if step%100 == 99 {
			require.NoError(t, d.Close())
			d, err = Open(path)
			require.NoError(t, err)
		}
	}
	files, err := d.Files()
	require.NoError(t, err)
	assert.Len(t, files, len(model))
	for name, want := range model {
		got, err := d.ReadFile(name)
		require.NoError(t, err, name)
		assert.True(t, bytes.Equal(want, got), name)
	}
	assert.NotZero(t, full, "the history never filled the disk")
	check(t, path)
}

// TestWritten holds that Written names every byte that changed.
func TestWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	d, err := Sample(path, 16<<20, 1)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	d, err = Open(path)
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Pass(1))
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	total, last := int64(0), int64(-1)
	for _, r := range d.Written() {
		assert.Greater(t, r.Off, last)
		last = r.Off + r.Len
		total += r.Len
		copy(before[r.Off:], after[r.Off:r.Off+r.Len])
	}
	assert.True(t, bytes.Equal(before, after))
	assert.Less(t, total, int64(len(after))/4)
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.raw")
	for _, size := range []int64{-1, 0, MinSize - 1, MaxSize + 1} {
		_, err := Create(path, size, nil)
		assert.Error(t, err)
	}
	_, err := Create(path, MinSize, &Options{Label: "twelve chars"})
	assert.ErrorIs(t, err, fs.ErrInvalid)
	assert.NoFileExists(t, path)

	d, err := Create(path, MinSize, nil)
	require.NoError(t, err)
	defer d.Close()
	_, err = Create(path, MinSize, nil)
	assert.ErrorIs(t, err, fs.ErrExist)
	for _, name := range []string{"", ".", "..", "/A", "A//B", "toolongname.txt", "A.TEXT", "A.", ".A", "A B", "Ä", "A\x00"} {
		assert.ErrorIs(t, d.WriteFile(name, nil), fs.ErrInvalid, "%q", name)
	}
	require.NoError(t, d.WriteFile("a/b", nil))
	assert.ErrorIs(t, d.WriteFile("A", nil), fs.ErrExist)
	assert.ErrorIs(t, d.WriteFile("A/B/C", nil), fs.ErrInvalid)
	assert.ErrorIs(t, d.Remove("A"), fs.ErrNotExist)
	_, err = d.ReadFile("A/C")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	for i := range rootEntries {
		if err = d.WriteFile(fmt.Sprint("F", i), nil); err != nil {
			break
		}
	}
	assert.ErrorIs(t, err, ErrFull)
	check(t, path)
}

func TestOpenRefusesForeignDisks(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int64{"empty": 0, "zeros": 16 << 20} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		require.NoError(t, os.Truncate(path, size))
		_, err := Open(path)
		assert.Error(t, err)
		assert.True(t, strings.Contains(err.Error(), path))
	}
	_, err := Open(filepath.Join(dir, "absent"))
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

// TestBrokenChains: a disk with a damaged FAT gives errors, and never a loop without end.
func TestBrokenChains(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	d, err := Create(path, MinSize, nil)
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.WriteFile("F", make([]byte, 5000)))
	d.set(3, 2)
	_, err = d.ReadFile("F")
	assert.ErrorContains(t, err, "chain")
	d.set(3, 1)
	_, err = d.ReadFile("F")
	assert.ErrorContains(t, err, "cluster 1")
	d.set(3, 60000)
	assert.ErrorContains(t, d.Remove("F"), "cluster 60000")
}
