package xfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
	"github.com/hikae/hikae/pipe/exclude/xfs"
)

// TestSpeed holds the bars of the analysis: 8 GiB within 300 ms, files at 60 % of the speed of the volume itself, a full log
// within the memory that a reader may take.
func TestSpeed(t *testing.T) {
	if !long() {
		t.Skip("figures are taken in the long tier")
	}
	img := scratch(t)
	mkfsAt(t, img, "-d", "size=8192m", "-m", "rmapbt=1")
	m := fsystest.Mount(t, "xfs", img)
	require.NoError(t, many(m.Dir, 60000))
	require.NoError(t, oneGiB(filepath.Join(m.Dir, "large")))
	require.NoError(t, m.Sync())
	copied := scratch(t)
	require.NoError(t, fsystest.Copy(copied, img))
	require.NoError(t, m.Unmount())

	vol, err := fsystest.Image(copied)
	require.NoError(t, err)
	defer vol.Close()
	var f fsys.FileSystem
	best := time.Hour
	var before, after runtime.MemStats
	for range 5 {
		runtime.GC()
		runtime.ReadMemStats(&before)
		began := time.Now()
		f, err = xfs.Open(t.Context(), vol)
		require.NoError(t, err)
		list, err := fsystest.FreeOf(t.Context(), f, vol.Size())
		require.NoError(t, err)
		require.NotEmpty(t, list, f.Info().Doubt)
		best = min(best, time.Since(began))
		runtime.ReadMemStats(&after)
	}
	t.Logf("8 GiB with 60,000 files: %v, %d bytes of log replayed, %d MiB allocated in all",
		best, f.Info().Replayed, (after.TotalAlloc-before.TotalAlloc)>>20)
	assert.Less(t, best, 300*time.Millisecond)

	node := find(t, f, "large")
	where := map[int64]int64{}
	for r, err := range f.Runs(t.Context(), node) {
		require.NoError(t, err)
		for off := (r.File + 1<<20 - 1) &^ (1<<20 - 1); off < r.File+r.Len; off += 1 << 20 {
			where[off] = r.Vol + off - r.File
		}
	}
	raw := stream(t, func(p []byte, off int64) (int, error) { return vol.ReadAt(t.Context(), p, where[off]) })
	file := stream(t, func(p []byte, off int64) (int, error) { return f.ReadAt(t.Context(), node, p, off) })
	t.Logf("1 GiB: volume %v, file %v", raw, file)
	assert.Less(t, file, raw*10/6)
}

// TestFullLog replays a log that holds all that a storm of new files wrote: its changes are more than its pieces in
// memory may be at once on their way there.
func TestFullLog(t *testing.T) {
	if !long() {
		t.Skip("filling a log of 900 MiB takes a while: in the long tier")
	}
	const files = 120000
	l := newLab(t)
	img := l.path()
	mkfsAt(t, img, "-d", "size=4096m", "-l", "size=900m")
	m := fsystest.Mount(t, "xfs", img, "nouuid")
	require.NoError(t, many(m.Dir, files))
	require.NoError(t, m.Sync())
	snapshot := l.clone(t, img)
	require.NoError(t, m.Unmount())
	require.NoError(t, os.Remove(img))

	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	f, _ := free(t, snapshot)
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	t.Logf("%d bytes replayed in %v, %d MiB allocated in all", f.Info().Replayed, took, (after.TotalAlloc-before.TotalAlloc)>>20)
	assert.Greater(t, f.Info().Replayed, int64(files*500))
	assert.Greater(t, l.checkSnapshot(t, snapshot), 0.9)
}

// stream is the best of a few times that reading 1 GiB takes.
func stream(t *testing.T, read func(p []byte, off int64) (int, error)) time.Duration {
	best := time.Hour
	p := make([]byte, 1<<20)
	for range 4 {
		began := time.Now()
		for off := int64(0); off < 1<<30; off += int64(len(p)) {
			if n, err := read(p, off); n < len(p) && !errors.Is(err, io.EOF) {
				t.Fatal(off, n, err)
			}
		}
		best = min(best, time.Since(began))
	}
	return best
}

// many makes files, and removes every fifth.
func many(dir string, n int) error {
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprint("d", i/500))
		if i%500 == 0 {
			if err := os.Mkdir(sub, 0o700); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), make([]byte, 1+i%9000), 0o600); err != nil {
			return err
		}
	}
	for i := 0; i < n; i += 5 {
		if err := os.Remove(filepath.Join(dir, fmt.Sprint("d", i/500), fmt.Sprint(i))); err != nil {
			return err
		}
	}
	return nil
}

func oneGiB(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	p := bytes.Repeat([]byte("content "), 4<<20/8)
	for i := range int64(256) {
		p[i] = byte(i) + 1
		if _, err := f.WriteAt(p, i<<22); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}
