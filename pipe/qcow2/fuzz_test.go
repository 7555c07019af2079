package qcow2_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/qcow2"
)

var writeSeeds = flag.Bool("write-seeds", false, "write the seeds of FuzzOpen anew")

const corpus = "testdata/fuzz/FuzzOpen"

// FuzzOpen opens any bytes as an image and reads of it what can be read in bounded time. Whatever the bytes are: no
// panic, errors of the known types, extents without gaps, and zeros where extents say so.
func FuzzOpen(f *testing.F) {
	seeds, err := filepath.Glob(corpus + "/*")
	if err != nil || len(seeds) < 10 {
		f.Fatalf("the corpus is missing: %d seeds, %v", len(seeds), err)
	}
	f.Add(forge(3, true).b) // too long for a file
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := qcow2.New(t.Context(), pipe.FromReaderAt(bytes.NewReader(b), int64(len(b))), &qcow2.Options{AllowCorrupt: true})
		if err != nil {
			requireKnown(t, err)
			return
		}
		defer img.Close()
		for _, s := range img.Info().Snapshots {
			if old, err := qcow2.New(t.Context(), pipe.FromReaderAt(bytes.NewReader(b), int64(len(b))), &qcow2.Options{Snapshot: s.ID}); err == nil {
				readSome(t, old)
			}
		}
		readSome(t, img)
		readBitmaps(t, img)
	})
}

// readBitmaps walks a thousand extents of a few bitmaps. A walk that ends by itself has covered the disk.
func readBitmaps(t *testing.T, img *qcow2.Image) {
	for i, b := range img.Info().Bitmaps {
		at, count, failed := int64(0), 0, false
		for e, err := range img.BitmapExtents(t.Context(), b.Name) {
			if failed = err != nil; failed {
				if !errors.Is(err, qcow2.ErrBitmapInUse) {
					requireKnown(t, err)
				}
				break
			}
			require.Equal(t, at, e.Off)
			require.Positive(t, e.Len)
			if at, count = e.End(), count+1; count > 1000 {
				return
			}
		}
		require.True(t, failed || at == img.Size(), "bitmap %q ends at %d of %d", b.Name, at, img.Size())
		if i > 10 {
			return
		}
	}
}

func requireKnown(t *testing.T, err error) {
	var (
		corrupt     *qcow2.CorruptError
		unsupported *qcow2.UnsupportedError
		reference   *qcow2.ReferenceError
	)
	if !errors.As(err, &corrupt) && !errors.As(err, &unsupported) && !errors.As(err, &reference) {
		t.Fatalf("an error of no known type: %T %v", err, err)
	}
}

// readSome walks a thousand extents and reads the start of fifty of them.
func readSome(t *testing.T, img *qcow2.Image) {
	at, count := int64(0), 0
	for e, err := range img.Extents(t.Context(), 0, img.Size()) {
		if err != nil {
			requireKnown(t, err)
			break
		}
		require.Equal(t, at, e.Off)
		require.Positive(t, e.Len)
		if at = e.End(); count < 50 {
			readExtent(t, img, e)
		}
		if count++; count > 1000 {
			break
		}
	}
	require.LessOrEqual(t, at, img.Size())
}

func readExtent(t *testing.T, img *qcow2.Image, e pipe.Extent) {
	whole := make([]byte, min(e.Len, 64<<10))
	n, err := img.ReadAt(t.Context(), whole, e.Off)
	if err != nil {
		requireKnown(t, err)
		return
	}
	require.Equal(t, len(whole), n)
	if e.Kind == pipe.Zero {
		require.True(t, diskfile.IsZero(whole), "%v", e)
	}
	half := len(whole) / 2 // the same bytes by another way
	parts := make([]byte, len(whole))
	_, err = img.ReadAt(t.Context(), parts[:half], e.Off)
	require.NoError(t, err)
	_, err = img.ReadAt(t.Context(), parts[half:], e.Off+int64(half))
	require.NoError(t, err)
	require.Equal(t, whole, parts)
}

// TestSeeds holds the committed corpus against what the code here makes, so that it cannot be lost or grow stale.
func TestSeeds(t *testing.T) {
	for name, b := range seeds(t) {
		want := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", b)
		path := filepath.Join(corpus, name)
		if *writeSeeds {
			require.NoError(t, os.MkdirAll(corpus, 0o755))
			require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
		}
		got, err := os.ReadFile(path)
		require.NoError(t, err, "run: go test -run TestSeeds -write-seeds")
		if strings.HasPrefix(name, "written") {
			continue // another version of the compressor may give other bytes
		}
		require.Equal(t, want, strings.ReplaceAll(string(got), "\r\n", "\n"), "%s: run: go test -run TestSeeds -write-seeds", name)
	}
}

// seeds are small images: some by our writer, some by hand.
func seeds(t *testing.T) map[string][]byte {
	tiny := func() *forged { return forgeOf(3, 9, false) }
	withBits, _, _ := forgedBits()
	all := map[string][]byte{
		"forged-v2":       forgeOf(2, 9, false).b,
		"forged-v3":       tiny().b,
		"forged-zstd":     tiny().u64(72, 1<<3).u32(104, 1<<24).compressed(2, []byte("\x28\xb5\x2f\xfd\x60\x00\x01\x03\x10\x00c")).b,
		"forged-backing":  tiny().u64(8, 400).u32(16, 4).b,
		"forged-datafile": tiny().u64(72, 1<<2).extension(0x44415441, "data").b,
		"forged-bitmap":   tiny().u64(88, 1).extension(0x23852875, "\x00\x00\x00\x01"+zeros(11)+"\x20"+zeros(6)+"\x06\x00").b,
		"forged-bits":     withBits.b,
		"forged-snapshot": tiny().u32(60, 1).u64(64, 1536).u64(1536, 512).u32(1544, 1).u32(1548, 1<<16|1).u32(1536+40, 'i'<<24|'n'<<16).b,
		"forged-features": tiny().u64(72, 1<<9).extension(0x6803f857, "\x00\x09later"+zeros(41)).b,
	}
	for name, opts := range map[string]*qcow2.CreateOptions{
		"written-512":  {ClusterSize: 512},
		"written-zlib": {ClusterSize: 512, Compress: true},
		"written-zstd": {ClusterSize: 512, Compress: true, Compression: qcow2.Zstd},
	} {
		path := filepath.Join(t.TempDir(), name)
		target, err := qcow2.Create(path, 4<<10, opts)
		require.NoError(t, err)
		_, err = target.WriteAt(t.Context(), bytes.Repeat([]byte("seed"), 300), 1024)
		require.NoError(t, err)
		require.NoError(t, target.Mark(t.Context(), pipe.Extent{Off: 1536, Len: 512, Kind: pipe.Zero}))
		require.NoError(t, target.Commit(t.Context()))
		all[name], err = os.ReadFile(path)
		require.NoError(t, err)
	}
	return all
}
