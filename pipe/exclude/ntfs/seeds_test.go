package ntfs_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
	"github.com/hikae/hikae/pipe/exclude/ntfs"
)

// long reports whether tests may take their time.
func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// TestSeeds ages volumes of all kinds by the real driver: nothing that is in use is called free, and every file reads as
// the driver reads it (R017, R018).
func TestSeeds(t *testing.T) {
	seeds, ops := 2, 100
	if long() {
		seeds, ops = 160, 250
	}
	for seed := range uint64(seeds) {
		v := variants[seed%9]
		t.Run(fmt.Sprintf("%d %v", seed, v), func(t *testing.T) {
			img := mkntfs(t, v)
			for part := range uint64(2) { // twice, so that the second finds what the first left behind
				m := fsystest.Mount(t, "ntfs", img, ntfs3g...)
				dir := fmt.Sprintf("%s/part%d", m.Dir, part)
				require.NoError(t, os.Mkdir(dir, 0o700))
				age(t, dir, 100*seed+part, ops, v)
				require.NoError(t, m.Unmount())
				tree := scanned(t, img)
				f := noDoubt(t, img)
				require.NoError(t, fsystest.Compare(t.Context(), f, tree, agreed))
				requireToolsAgree(t, img, f)
				requireNothingMissed(t, img, f, tree)
			}
		})
	}
}

// big makes a volume of 8 GiB with a number of files, and one of a GiB.
func big(t testing.TB, files int) string {
	img := mkntfs(t, variant{8 << 30, []string{"-c4096"}})
	m := fsystest.Mount(t, "ntfs", img, "big_writes")
	for i := range files {
		dir := fmt.Sprintf("%s/%d", m.Dir, i/500)
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, os.WriteFile(fmt.Sprintf("%s/file%d", dir, i), make([]byte, i%9000), 0o600))
	}
	f, err := os.Create(m.Dir + "/large")
	require.NoError(t, err)
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(rand.NewChaCha8([32]byte{}), 1<<30), make([]byte, 1<<20))
	require.NoError(t, errors.Join(err, f.Close()))
	require.NoError(t, m.Unmount())
	return img
}

// TestSpeed: a volume of 8 GiB is analysed in 300 ms, and a file of a GiB streamed at 60 % of reading the image.
func TestSpeed(t *testing.T) {
	if !long() {
		t.Skip("takes a minute: in the long tier")
	}
	img := big(t, 20_000)
	best := time.Hour
	for range 5 {
		begin := time.Now()
		f := open(t, img, nil)
		_, err := fsystest.FreeOf(t.Context(), f, f.Info().Size)
		require.NoError(t, err)
		best = min(best, time.Since(begin))
	}
	t.Logf("analysis of 8 GiB with 20,000 files: %v", best)
	require.Less(t, best, 300*time.Millisecond)

	vol, err := fsystest.Image(img)
	require.NoError(t, err)
	defer vol.Close()
	f, err := ntfs.Open(t.Context(), vol)
	require.NoError(t, err)
	n := find(t, f, "large")
	var runs []fsys.Run
	for r, err := range f.Runs(t.Context(), n) {
		require.NoError(t, err)
		runs = append(runs, r)
	}
	direct := func(p []byte, off int64) (n int, err error) { // the same bytes of the image, by nobody but the test
		for _, r := range runs {
			from, to := max(off, r.File), min(off+int64(len(p)), r.File+r.Len)
			if from < to && err == nil {
				n, err = vol.ReadAt(t.Context(), p[from-off:to-off], r.Vol+from-r.File)
			}
		}
		return n, err
	}
	raw, file := time.Hour, time.Hour
	for range 5 {
		raw = min(raw, stream(t, 1<<30, direct))
		file = min(file, stream(t, 1<<30, func(p []byte, off int64) (int, error) { return f.ReadAt(t.Context(), n, p, off) }))
	}
	t.Logf("a GiB of the image: %v, of a file: %v", raw, file)
	require.Greater(t, float64(raw)/float64(file), 0.6)
}

func stream(t testing.TB, size int64, read func(p []byte, off int64) (int, error)) time.Duration {
	p := make([]byte, 1<<20)
	begin := time.Now()
	for off := int64(0); off < size; off += int64(len(p)) {
		_, err := read(p, off)
		require.NoError(t, err)
	}
	return time.Since(begin)
}
