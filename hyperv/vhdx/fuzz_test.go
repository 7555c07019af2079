package vhdx_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/vhdx"
)

var writeSeeds = flag.Bool("write-seeds", false, "write the seeds of the fuzz targets anew")

// requireSeeds fails on an empty corpus, which would leave a target with nothing.
func requireSeeds(f *testing.F, name string, least int) {
	f.Helper()
	seeds, err := filepath.Glob("testdata/fuzz/" + name + "/*")
	if err != nil || len(seeds) < least {
		f.Fatalf("the corpus is missing: %d seeds, %v", len(seeds), err)
	}
}

// tables are the parts of a VHDX that a fuzzer may change: the rest is data or nothing. It takes each at its place, and
// puts the checksums right, without which nothing behind them would ever be reached.
var tables = []struct{ at, len int }{
	{atHeader0, 80}, {atHeader1, 80}, {atRegions0, 112}, {atLog, 160}, {atMeta, 256}, {atMeta + 64<<10, 512}, {atBAT, 64},
}

func pick(b []byte) (out []byte) {
	for _, p := range tables {
		out = append(out, b[p.at:p.at+p.len]...)
	}
	return out
}

func place(base, picked []byte) []byte {
	b := append([]byte(nil), base...)
	for _, p := range tables {
		n := copy(b[p.at:p.at+p.len], picked)
		picked = picked[n:]
	}
	seal(b[atHeader0:][:headerLen])
	seal(b[atHeader1:][:headerLen])
	seal(b[atRegions0:][:regionsLen])
	if n := int(le.Uint32(b[atLog+8:])); n >= 4096 && n <= 1<<20 {
		seal(b[atLog : atLog+n])
	}
	return b
}

// FuzzVHDX changes the tables of a file with good checksums. Whatever they say: no panic, errors of the known types,
// extents without gaps, and zeros where extents say so.
func FuzzVHDX(f *testing.F) {
	requireSeeds(f, "FuzzVHDX", 4)
	base := sample(f, true)
	f.Add(pick(base))
	f.Fuzz(func(t *testing.T, picked []byte) {
		if err := readSome(t, place(base, picked)); err != nil {
			requireKnown(t, err)
		}
	})
}

// FuzzOpen opens any bytes, as VHDX or VHD.
func FuzzOpen(f *testing.F) {
	requireSeeds(f, "FuzzOpen", 4)
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := readSome(t, b); err != nil {
			requireKnown(t, err)
			return
		}
		if len(b) >= 2048 && string(b[:8]) == "conectix" { // once more, with the checksums right and other numbers
			for _, s := range []struct{ at, len, sum int }{{0, 512, 64}, {len(b) - 512, 512, 64}, {512, 1024, 36}} {
				vhdSum(b[s.at:s.at+s.len], s.sum)
			}
			if err := readSome(t, b); err != nil {
				requireKnown(t, err)
			}
		}
	})
}

// The seeds can be made anew from what we write; the test holds that they are what the targets read.
func TestSeeds(t *testing.T) {
	vhd := func(size int64, opts *vhdx.CreateOptions) []byte {
		path := filepath.Join(t.TempDir(), "d.vhd")
		target, err := vhdx.CreateVHD(t.Context(), path, size, opts)
		require.NoError(t, err)
		put(t, target, noise(rand.New(rand.NewPCG(1, 1)), 600), size/2)
		require.NoError(t, target.Commit(t.Context()))
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return b
	}
	dynamic := vhd(150_000, &vhdx.CreateOptions{BlockSize: 64 << 10, DiskID: vhdx.GUID{1}})
	clean, dirty := sample(t, false), sample(t, true)
	twoSequences := pick(dirty)
	copy(twoSequences[8:16], "\x00\x00\x00\x00\x00\x00\x00\x01")
	badBlock := pick(clean)
	le.PutUint64(badBlock[len(badBlock)-56:], 9<<40|7)
	for name, seeds := range map[string][][]byte{
		"FuzzVHDX": {pick(clean), pick(dirty), twoSequences, badBlock},
		"FuzzOpen": {dynamic, vhd(1500, &vhdx.CreateOptions{Type: vhdx.Fixed, DiskID: vhdx.GUID{2}}), dynamic[:2048], []byte("vhdxfile")},
	} {
		for i, b := range seeds {
			if err := readSome(t, b); name == "FuzzOpen" && err != nil {
				requireKnown(t, err)
			}
			if !*writeSeeds {
				continue
			}
			dir := filepath.Join("testdata", "fuzz", name)
			require.NoError(t, os.MkdirAll(dir, 0o755))
			text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", b)
			require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("seed-%d", i)), []byte(text), 0o644))
		}
	}
}
