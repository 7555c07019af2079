package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/pipe/qcow2"
)

// TestLikeQEMU reads images of random layout, made by QEMU, and compares content and extents with what QEMU says.
func TestLikeQEMU(t *testing.T) {
	needs(t, "qemu-img", "qemu-io")
	first, count := uint64(1), 60
	if longTier() {
		first, count = rand.Uint64N(1<<40), 2000 // wants -timeout 30m
	}
	for i := range count {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			compareLayout(t, newLayout(t, seed))
		})
	}
}

func compareLayout(t *testing.T, l *layout) {
	img, err := qcow2.Open(t.Context(), l.path, nil)
	if errors.Is(err, qcow2.ErrCorrupt) && brokenByQEMU(t, l.path) {
		t.Log("QEMU broke this image of its own, and marked it: it is refused, as it should be")
		return
	}
	require.NoError(t, err, "%s", l.story)
	defer func() { require.NoError(t, img.Close()) }()

	want := qemuContent(t, l.path, "qcow2")
	require.Equal(t, int64(len(want)), img.Size(), "%s", l.story)
	for _, piece := range []int{1 << 20, 4096*l.rng.IntN(40) + 512 + l.rng.IntN(9999)} {
		got := readAll(t, img, piece)
		if at := firstDifference(want, got); at >= 0 {
			t.Fatalf("differs at %d, read by %d\n%s", at, piece, l.story)
		}
	}
	pipetest.TestImage(t, img, pipetest.Bytes(want))
	all := extents(t, img, 0, img.Size())
	agree(t, qemuExtents(t, l.path, "qcow2"), all, want, l.story)
	for range 10 {
		off := l.rng.Int64N(img.Size() + 1)
		n := l.rng.Int64N(img.Size() - off + 1)
		require.Equal(t, clip(all, off, n), extents(t, img, off, n), "%d bytes at %d\n%s", n, off, l.story)
	}
}

// brokenByQEMU: QEMU 7.2 now and then loses count of the clusters of an image with small clusters, zstd and lazy
// refcounts, finds out at the next write, and marks the image as corrupt (seed 393254340847 is one).
func brokenByQEMU(t *testing.T, path string) bool {
	out, err := exec.Command("qemu-img", "info", "--output=json", path).Output()
	require.NoError(t, err)
	return regexp.MustCompile(`"corrupt":\s*true`).Match(out)
}

// agree holds our extents against QEMU's and the content: what QEMU calls zero we call zero, and what we call zero is.
// We may know more: QEMU looks for holes below data only in images with preallocated tables.
func agree(t *testing.T, qemu, ours []pipe.Extent, content []byte, story string) {
	for _, e := range ours {
		if e.Kind == pipe.Zero {
			require.True(t, diskfile.IsZero(content[e.Off:e.End()]), "%v is not\n%s", e, story)
			continue
		}
		for _, q := range clip(qemu, e.Off, e.Len) {
			require.Equal(t, q.Kind, e.Kind, "%v\nqemu %v\nours %v\n%s", q, qemu, ours, story)
		}
	}
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func clip(all []pipe.Extent, off, n int64) []pipe.Extent {
	var out []pipe.Extent
	for _, e := range all {
		from, to := max(e.Off, off), min(e.End(), off+n)
		if from < to {
			out = append(out, pipe.Extent{Off: from, Len: to - from, Kind: e.Kind})
		}
	}
	return out
}

// layout is a chain of images with a random history, and the story of how it came to be.
type layout struct {
	t     *testing.T
	rng   *rand.Rand
	dir   string
	path  string // of the top
	noise string // a file of bytes that are all different in place
	story string
}

func newLayout(t *testing.T, seed uint64) *layout {
	l := &layout{t: t, rng: rand.New(rand.NewPCG(seed, 7)), dir: t.TempDir()}
	l.noise = filepath.Join(l.dir, "noise")
	b := make([]byte, 300_001) // no multiple of anything: it falls differently into every write
	for i := range b {
		b[i] = byte(l.rng.Uint32())
	}
	require.NoError(t, os.WriteFile(l.noise, b, 0o600))

	backing, format := "", ""
	if l.rng.IntN(3) == 0 {
		backing, format = l.rawBase(), "raw"
	}
	for i := range 1 + l.rng.IntN(4) {
		backing = l.image(i, backing, format)
		format = "qcow2"
	}
	l.path = filepath.Join(l.dir, backing)
	return l
}

func (l *layout) size() int64 {
	return max(512*(1+l.rng.Int64N(1<<l.rng.IntN(15))), 512)
}

func (l *layout) tell(format string, args ...any) {
	l.story += fmt.Sprintf(format+"\n", args...)
}

// rawBase is a raw file with holes.
func (l *layout) rawBase() string {
	path := filepath.Join(l.dir, "base.raw")
	size := l.size()
	t, err := diskfile.Create(path, size, nil)
	require.NoError(l.t, err)
	defer t.Close()
	for range 3 {
		off := l.rng.Int64N(size)
		p := bytes.Repeat([]byte{byte(1 + l.rng.IntN(255))}, int(min(size-off, 1+l.rng.Int64N(300_000))))
		_, err := t.WriteAt(l.t.Context(), p, off)
		require.NoError(l.t, err)
	}
	require.NoError(l.t, t.Commit(l.t.Context()))
	l.tell("base.raw %d", size)
	return "base.raw"
}

func (l *layout) pick(from ...string) string { return from[l.rng.IntN(len(from))] }

// image makes one image of the chain and writes to it.
func (l *layout) image(i int, backing, format string) string {
	name := fmt.Sprintf("image%d.qcow2", i)
	path := filepath.Join(l.dir, name)
	clusterBits := 9 + l.rng.IntN(13)
	options := fmt.Sprintf("cluster_size=%d", 1<<clusterBits)
	compressed := true
	if l.rng.IntN(4) == 0 {
		options += ",compat=0.10"
	} else {
		options += ",compat=1.1,compression_type=" + l.pick("zlib", "zstd") + ",lazy_refcounts=" + l.pick("on", "off")
		if clusterBits >= 14 && l.rng.IntN(2) == 0 {
			options += ",extended_l2=on"
		}
		if l.rng.IntN(5) == 0 {
			options += ",data_file=" + filepath.Join(l.dir, name+".data")
			compressed = false
			if backing == "" {
				options += ",data_file_raw=" + l.pick("on", "off")
			}
		}
	}
	if backing == "" {
		options += ",preallocation=" + l.pick("off", "off", "metadata", "falloc")
	}
	args := []string{"qemu-img", "create", "-q", "-f", "qcow2", "-o", options}
	if backing != "" {
		args = append(args, "-b", backing, "-F", format)
	}
	size := l.size()
	run(l.t, append(args, path, fmt.Sprint(size))...)
	l.tell("%s %d %s (on %q)", name, size, options, backing)

	var commands []string
	for range l.rng.IntN(25) {
		commands = append(commands, l.command(size, 1<<clusterBits, compressed))
	}
	if len(commands) > 0 {
		l.tell("  %q", commands)
		qemuIO(l.t, path, commands...)
	}
	if l.rng.IntN(6) == 0 {
		size = l.resized(size)
		_, err := tryRun("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", path, fmt.Sprint(size))
		l.tell("  resized to %d: %v", size, err) // version 2 images cannot grow over a longer backing file
	}
	return name
}

func (l *layout) resized(size int64) int64 { return size + 512*l.rng.Int64N(2000) }

// command is one qemu-io command on a random range, often aligned.
func (l *layout) command(size, cluster int64, compressed bool) string {
	align := []int64{512, 512, 4096, cluster, cluster / 32}[l.rng.IntN(5)]
	align = max(align, 512)
	off := l.rng.Int64N(size) / align * align
	n := min(align*(1+l.rng.Int64N(1<<l.rng.IntN(7))), size-off, 1<<20)
	if n < align || n%512 != 0 {
		n = size - off
	}
	n = min(n, 4<<20)
	switch l.rng.IntN(9) {
	case 0:
		return fmt.Sprintf("write -z %d %d", off, n)
	case 1:
		return fmt.Sprintf("write -z -u %d %d", off, n)
	case 2:
		return fmt.Sprintf("discard %d %d", off, n)
	case 3, 4:
		if off = off / cluster * cluster; compressed && size-off >= cluster {
			return fmt.Sprintf("write -c -P %d %d %d", 1+l.rng.IntN(255), off, cluster)
		}
		return fmt.Sprintf("write -P %d %d 512", 1+l.rng.IntN(255), off)
	case 5:
		return fmt.Sprintf("write -P 0 %d %d", off, n)
	case 6, 7:
		return fmt.Sprintf("write -s %s %d %d", l.noise, off, n)
	}
	return fmt.Sprintf("write -P %d %d %d", 1+l.rng.IntN(255), off, n)
}
