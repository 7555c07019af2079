package qcow2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/qcow2"
)

// background is for helpers without a test of their own.
var background = context.Background()

// What a reader of a bad image may take (the bar of issue 2).
const (
	maxTime  = time.Second
	maxBytes = 128 << 20
)

// forged is a small image that a test bends: header, L1 table at 1, L2 table at 2, data at 3, in clusters of 4 KiB
// (16 KiB with subclusters). The disk's first cluster has data, its second is zero, its third is compressed; the rest
// of its 16 clusters is nowhere.
type forged struct {
	b       []byte
	cluster int
	bits    uint32
}

func forge(version uint32, extended bool) *forged {
	if extended {
		return forgeOf(version, 14, true)
	}
	return forgeOf(version, 12, false)
}

func forgeOf(version, bits uint32, extended bool) *forged {
	f := &forged{cluster: 1 << bits, bits: bits}
	f.b = make([]byte, 4*f.cluster)
	copy(f.b, "QFI\xfb")
	f.u32(4, version)
	f.u32(20, bits)
	f.u64(24, uint64(16*f.cluster))
	f.u32(36, 1)
	f.u64(40, uint64(f.cluster))
	if version == 3 {
		f.u32(96, 4)
		f.u32(100, 112)
	}
	f.u64(f.cluster, 1<<63|uint64(2*f.cluster))
	data := uint64(3 * f.cluster)
	copy(f.b[data:], bytes.Repeat([]byte("data"), f.cluster/4))
	switch {
	case extended:
		f.u64(72, 1<<4)
		f.l2(0, 1<<63|data)
		f.l2(1, 0x0000_00f0_0000_000f) // four subclusters with data, four zero
	case version == 3:
		f.l2(0, 1<<63|data)
		f.l2(1, 1)
		f.compressed(2, deflated(f.cluster))
	default:
		f.l2(0, 1<<63|data)
	}
	return f
}

func (f *forged) u32(at int, v uint32) *forged { binary.BigEndian.PutUint32(f.b[at:], v); return f }
func (f *forged) u64(at int, v uint64) *forged { binary.BigEndian.PutUint64(f.b[at:], v); return f }
func (f *forged) l1(i int, v uint64) *forged   { return f.u64(f.cluster+8*i, v) }
func (f *forged) l2(i int, v uint64) *forged   { return f.u64(2*f.cluster+8*i, v) }

// compressed appends data and lets entry i lead to it.
func (f *forged) compressed(i int, data []byte) *forged {
	off := len(f.b)
	f.b = append(f.b, data...)
	sectors := (off+len(data)-1)>>9 - off>>9
	return f.l2(i, 1<<62|uint64(sectors)<<(70-f.bits)|uint64(off))
}

// deflated is n times the letter c, compressed by hand as stored blocks: any inflater takes it.
func deflated(n int) []byte {
	b := []byte{1, byte(n), byte(n >> 8), byte(^n), byte(^n >> 8)}
	return append(b, bytes.Repeat([]byte("c"), n)...)
}

// extension adds a header extension.
func (f *forged) extension(kind uint32, content string) *forged {
	f.u32(112, kind).u32(116, uint32(len(content)))
	copy(f.b[120:], content)
	return f
}

func v3() *forged { return forge(3, false) }

func (f *forged) open() (*qcow2.Image, error) {
	return qcow2.New(background, pipe.FromReaderAt(bytes.NewReader(f.b), int64(len(f.b))), nil)
}

// TestForgedIsRight: unbent, the forged images are good ones. Otherwise what follows would prove nothing.
func TestForgedIsRight(t *testing.T) {
	for name, f := range map[string]*forged{"2": forge(2, false), "3": v3(), "extended": forge(3, true)} {
		img, err := f.open()
		require.NoError(t, err, name)
		got := readAll(t, img, 5000)
		require.Equal(t, "datadata", string(got[:8]), name)
		if name == "3" {
			require.Equal(t, "cccc", string(got[3*4096-4:3*4096]))
		}
	}
}

// TestHostile: images that were made to deceive give a typed error, soon and with little memory, never a panic.
func TestHostile(t *testing.T) {
	corrupt, unsupported, reference := &qcow2.CorruptError{}, &qcow2.UnsupportedError{}, &qcow2.ReferenceError{}
	extended := func() *forged { return forge(3, true) }
	for _, c := range []struct {
		name  string
		image *forged
		want  error
	}{
		{"empty", &forged{}, corrupt},
		{"only magic", &forged{b: []byte("QFI\xfb")}, corrupt},
		{"another magic", v3().u32(0, 0), corrupt},
		{"header cut off", &forged{b: v3().b[:80]}, corrupt},
		{"version 1", v3().u32(4, 1), unsupported},
		{"version 4", v3().u32(4, 4), unsupported},
		{"clusters of 256 bytes", v3().u32(20, 8), corrupt},
		{"clusters of 4 MiB", v3().u32(20, 22), corrupt},
		{"cluster bits that overflow", v3().u32(20, math.MaxUint32), corrupt},
		{"disk size that overflows", v3().u64(24, 1<<63), corrupt},
		{"disk size at the limit", v3().u64(24, math.MaxInt64), corrupt},
		{"disk larger than its L1 table", v3().u64(24, 3<<20), corrupt},
		{"L1 table larger than the file", v3().u64(24, 1<<40).u32(36, math.MaxUint32), corrupt},
		{"L1 table outside", v3().u64(40, 1<<40), corrupt},
		{"L1 table at an offset that overflows", v3().u64(40, 1<<63), corrupt},
		{"L1 table unaligned", v3().u64(40, 4096+8), corrupt},
		{"L1 table on the header", v3().u64(40, 0), corrupt},
		{"L2 table outside", v3().l1(0, 1<<40), corrupt},
		{"L2 table that leaves the file", &forged{b: v3().l1(0, 4*4096).b, cluster: 4096}, corrupt},
		{"L2 table unaligned", v3().l1(0, 2*4096+512), corrupt},
		{"L2 table on the header", v3().l1(0, 512), corrupt},
		{"L2 table on the L1 table", v3().l1(0, 4096), corrupt},
		{"L2 table shared", v3().u64(24, 6<<20).u32(36, 3).l1(2, 2*4096).l1(1, 0), corrupt},
		{"data outside", v3().l2(0, 1<<63|1<<40), corrupt},
		{"data unaligned", v3().l2(0, 1<<63|3*4096+512), corrupt},
		{"zero cluster in version 2", forge(2, false).l2(1, 1), corrupt},
		{"compressed data outside", v3().l2(2, 1<<62|1<<50), corrupt},
		{"compressed data on the header", v3().l2(2, 1<<62|8), corrupt},
		{"compressed data that is noise", v3().compressed(2, bytes.Repeat([]byte{0xff}, 100)), corrupt},
		{"compressed data cut off", v3().compressed(2, deflated(4096)[:2000]), corrupt},
		{"compressed data too short", v3().compressed(2, deflated(100)), corrupt},
		{"zstd that is noise", v3().u64(72, 1<<3).u32(104, 1<<24).compressed(2, make([]byte, 100)), corrupt},
		{"zstd with a window of 2 GiB", v3().u64(72, 1<<3).u32(104, 1<<24).
			compressed(2, []byte("\x28\xb5\x2f\xfd\x00\xa8\x03\xff\xff\x01")), corrupt},
		{"zstd flag without zstd", v3().u64(72, 1<<3), corrupt},
		{"zstd without its flag", v3().u32(104, 1<<24), corrupt},
		{"compression type 7", v3().u64(72, 1<<3).u32(104, 7<<24), unsupported},
		{"unknown feature", v3().u64(72, 1<<17), unsupported},
		{"marked as corrupt", v3().u64(72, 1<<1), corrupt},
		{"AES", v3().u32(32, 1), unsupported},
		{"LUKS", v3().u32(32, 2), unsupported},
		{"encryption 77", v3().u32(32, 77), unsupported},
		{"subclusters in small clusters", v3().u64(72, 1<<4), corrupt},
		{"subclusters both zero and data", extended().l2(1, 0x1_0000_0001), corrupt},
		{"subclusters of no cluster", extended().l2(0, 0), corrupt},
		{"backing name outside", v3().u64(8, 1<<40).u32(16, 10), corrupt},
		{"backing name past the first cluster", v3().u64(8, 4096).u32(16, 10), corrupt},
		{"backing name too long", v3().u64(8, 512).u32(16, 1024), corrupt},
		{"backing name in the header", v3().u64(8, 8).u32(16, 10), corrupt},
		{"backing name", v3().u64(8, 512).u32(16, 10), reference},
		{"header shorter than its fields", v3().u32(100, 72), corrupt},
		{"header longer than a cluster", v3().u32(100, 1<<20), corrupt},
		{"header length that overflows", v3().u32(100, math.MaxUint32), corrupt},
		{"counts of 128 bits", v3().u32(96, 7), corrupt},
		{"extension that overflows", v3().u32(112, 1).u32(116, math.MaxUint32), corrupt},
		{"extension longer than a cluster", v3().u32(112, 1).u32(116, 4096), corrupt},
		{"more snapshots than allowed", v3().u32(60, 65537), corrupt},
		{"snapshots outside", v3().u32(60, 1).u64(64, 1<<60), corrupt},
		{"snapshots that leave the file", v3().u32(60, 65536).u64(64, 4096), corrupt},
		{"snapshot with much extra", v3().u32(60, 1).u64(64, 8192).u32(8192+36, math.MaxUint32), corrupt},
		{"more bitmaps than allowed", v3().u64(88, 1).extension(0x23852875, "\xff\xff\xff\xff"+zeros(20)), corrupt},
		{"bitmaps outside", v3().u64(88, 1).extension(0x23852875, "\x00\x00\x00\x01"+zeros(12)+"\xff"+zeros(7)), corrupt},
		{"data file without a name", v3().u64(72, 1<<2), corrupt},
		{"data file", v3().u64(72, 1<<2).extension(0x44415441, "/etc/passwd"), reference},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := bounded(t, func() error { return readForged(c.image.open()) })
			require.Error(t, err)
			switch want := c.want.(type) {
			case *qcow2.CorruptError:
				require.ErrorAs(t, err, &want)
				require.ErrorIs(t, err, qcow2.ErrCorrupt)
				require.NotEmpty(t, want.Reason)
				require.NotEmpty(t, want.Path)
			case *qcow2.UnsupportedError:
				require.ErrorAs(t, err, &want)
			case *qcow2.ReferenceError:
				require.ErrorAs(t, err, &want)
			}
		})
	}
}

func zeros(n int) string { return string(make([]byte, n)) }

// bounded runs fn and holds it to the bar. Everything that was ever allocated counts, not only what was live at once.
func bounded(t *testing.T, fn func() error) error {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	err := fn()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	t.Logf("%v, %d bytes", took, after.TotalAlloc-before.TotalAlloc)
	require.Less(t, took, maxTime*slowdown)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(maxBytes))
	return err
}

// readForged reads the extents and the first 64 KiB of an image.
func readForged(img *qcow2.Image, err error) error {
	if err != nil {
		return err
	}
	defer img.Close()
	for _, err := range img.Extents(background, 0, img.Size()) {
		if err != nil {
			return err
		}
	}
	_, err = img.ReadAt(background, make([]byte, 64<<10), 0)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// TestUnknownFeatureByName: the image's own word for a feature is in the error.
func TestUnknownFeatureByName(t *testing.T) {
	f := v3().u64(72, 1<<17|1<<18).extension(0x6803f857, "\x00\x11time travel"+zeros(46-11))
	_, err := f.open()
	require.ErrorContains(t, err, `"time travel"`)
	require.ErrorContains(t, err, `"bit 18"`)
}

// TestAllowCorrupt: what is marked as corrupt opens on request.
func TestAllowCorrupt(t *testing.T) {
	f := v3().u64(72, 1<<1|1)
	img, err := qcow2.New(background, pipe.FromReaderAt(bytes.NewReader(f.b), int64(len(f.b))), &qcow2.Options{AllowCorrupt: true})
	require.NoError(t, err)
	require.True(t, img.Info().Corrupt)
	require.True(t, img.Info().Dirty)
}

// TestTruncated: an image that is cut at any length gives its right content or an error.
func TestTruncated(t *testing.T) {
	whole := v3()
	img, err := whole.open()
	require.NoError(t, err)
	want := readAll(t, img, 64<<10)
	step := 61
	if longTier() {
		step = 1
	}
	errs := 0
	for n := 0; n < len(whole.b); n += step {
		img, err := (&forged{b: whole.b[:n]}).open()
		if err == nil {
			got := make([]byte, len(want))
			if _, err = img.ReadAt(background, got, 0); err == nil {
				require.Equal(t, want[4096:], got[4096:], "cut at %d", n)
			}
		}
		if err != nil {
			errs++
			var corrupt *qcow2.CorruptError
			require.ErrorAs(t, err, &corrupt, "cut at %d", n)
		}
	}
	require.Positive(t, errs)
}

// TestHostileLarge: tables as large as the format allows, in sparse files, stay within the bar.
func TestHostileLarge(t *testing.T) {
	dir := t.TempDir()
	// 4 Mi L1 entries in disorder.
	const entries = 4 << 20
	path := filepath.Join(dir, "large")
	file, err := os.Create(path)
	require.NoError(t, err)
	defer file.Close()
	head := forge(3, false).u64(24, entries<<21).u32(36, entries).u64(40, 8192)
	l1 := make([]byte, 0, entries*8)
	for i := range entries {
		l1 = binary.BigEndian.AppendUint64(l1, uint64(64<<20+(i*0x9e3779b1)%entries*4096))
	}
	_, err = file.WriteAt(head.b[:4096], 0)
	require.NoError(t, err)
	_, err = file.WriteAt(l1, 8192)
	require.NoError(t, err)
	require.NoError(t, file.Truncate(64<<20+(entries+1)*4096))
	l1 = nil
	runtime.GC()
	err = bounded(t, func() error {
		img, err := qcow2.Open(background, path, nil)
		if err != nil {
			return err
		}
		return img.Close()
	})
	require.NoError(t, err)

	// And many of them in a chain.
	for i := range 4 {
		b := bytes.Clone(head.b[:4096])
		name := fmt.Sprintf("large%d", i-1)
		copy(b[512:], name)
		if i > 0 {
			binary.BigEndian.PutUint64(b[8:], 512)
			binary.BigEndian.PutUint32(b[16:], uint32(len(name)))
			copy(b[112:], "\xe2\x79\x2a\xca\x00\x00\x00\x05qcow2")
		}
		path := filepath.Join(dir, fmt.Sprintf("large%d", i))
		require.NoError(t, os.WriteFile(path, b, 0o600))
		require.NoError(t, os.Truncate(path, 64<<20))
	}
	err = bounded(t, func() error {
		_, err := qcow2.Open(background, filepath.Join(dir, "large3"), nil)
		return err
	})
	var unsupported *qcow2.UnsupportedError
	require.ErrorAs(t, err, &unsupported)
}
