//go:build linux

package main

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sparseFile writes pieces into a file of the given length.
func sparseFile(t *testing.T, length int64, pieces map[int64]string) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "disk")
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(length))
	for off, text := range pieces {
		_, err := f.WriteAt([]byte(text), off)
		require.NoError(t, err)
	}
	return f.Name()
}

func TestDifferences(t *testing.T) {
	const size = 64 << 20
	a := sparseFile(t, size, map[int64]string{0: "same", 1 << 20: "old", 5 << 20: "gone", size - 1: "x"})
	b := sparseFile(t, size, map[int64]string{0: "same", 1 << 20: "new", 9 << 20: "come", size - 1: "y"})
	got, err := differences(a, b, fsBlock)
	require.NoError(t, err)
	require.Equal(t, []byteRange{{1 << 20, fsBlock}, {5 << 20, fsBlock}, {9 << 20, fsBlock}, {size - fsBlock, fsBlock}}, got)

	got, err = differences(a, a, fsBlock)
	require.NoError(t, err)
	require.NotNil(t, got, "an empty list is [] in JSON, which means unchanged")
	require.Empty(t, got)

	_, err = differences(a, sparseFile(t, size/2, map[int64]string{0: "same"}), fsBlock)
	require.Error(t, err)
}

func TestRanges(t *testing.T) {
	require.Equal(t, []byteRange{{0, 8}, {12, 4}}, alignOut([]byteRange{{1, 1}, {5, 2}, {13, 1}}, 4))
	require.Equal(t, []byteRange{{0, 6}, {8, 2}}, union([]byteRange{{0, 4}, {8, 2}}, []byteRange{{2, 4}}))
	require.EqualValues(t, 12, total([]byteRange{{0, 8}, {12, 4}}))
}

func TestEachChunkSeesTheDataOnly(t *testing.T) {
	disk := sparseFile(t, 100<<20, map[int64]string{3: "a", 50<<20 + 5: "b"})
	var at []int64
	require.NoError(t, eachChunk(disk, 1<<20, func(p []byte, off int64) error {
		at = append(at, off)
		return nil
	}))
	require.Equal(t, []int64{0, 50 << 20}, at)
}

func TestMeasure(t *testing.T) {
	input := filepath.Join(t.TempDir(), "in")
	require.NoError(t, os.WriteFile(input, make([]byte, 8<<20), 0o644))
	spent, out, err := measure(t.Context(), command{args: []string{"sh", "-c", "exec sha256sum " + input}, dir: t.TempDir()})
	require.NoError(t, err)
	require.Contains(t, string(out), input)
	require.Positive(t, spent.Wall)
	require.GreaterOrEqual(t, spent.Read, int64(8<<20))
	require.Less(t, spent.Read, int64(9<<20))

	_, _, err = measure(t.Context(), command{args: []string{"sh", "-c", "echo why >&2; exit 3"}})
	require.ErrorContains(t, err, "why")
	_, _, err = measure(t.Context(), command{args: []string{"sh", "-c", "exit 3"}, ok: []int{3}})
	require.NoError(t, err)
}

// The peak is the child's own, not what this process once had.
func TestMeasureMemory(t *testing.T) {
	ballast := make([]byte, 300<<20)
	for i := 0; i < len(ballast); i += 4096 {
		ballast[i] = 1
	}
	spent, _, err := measure(t.Context(), command{args: []string{"sleep", "0.2"}})
	require.NoError(t, err)
	require.Positive(t, spent.RSS)
	require.Less(t, spent.RSS, int64(50<<20))
	require.EqualValues(t, 1, ballast[0])
}

func TestMeasureStops(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, _, err := measure(ctx, command{args: []string{"sleep", "60"}})
	require.Error(t, err)
	require.Less(t, time.Since(start), 20*time.Second)
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(dir)
	require.NoError(t, err)
	_, err = lock(dir)
	require.ErrorContains(t, err, "another run")
	unlock()
	unlock, err = lock(dir)
	require.NoError(t, err)
	unlock()
}

func TestMedian(t *testing.T) {
	require.Zero(t, median[float64](nil))
	require.EqualValues(t, 3, median([]int64{9, 3, 1}))
	require.InDelta(t, 2.5, median([]float64{4, 1, 2, 3}), 1e-9)
}

func TestParseExtent(t *testing.T) {
	s, ok := parseExtent(" 1/ 1   2/ 40   2048 - 4095   34816 - 36863   2048 ")
	require.True(t, ok)
	require.Equal(t, span{off: partitionStart + 34816*fsBlock, n: 2048 * fsBlock}, s)
	for _, other := range []string{"Level Entries       Logical          Physical Length Flags", "",
		" 0/ 0   1/  1     0 - 16383  557056 -  573439  16384 Uninit"} {
		_, ok := parseExtent(other)
		require.False(t, ok, other)
	}
}

// A small machine goes through the whole making of its disks, checked by e2fsck on the way.
func TestMakeDisks(t *testing.T) {
	for program := range map[string]bool{"mke2fs": true, "debugfs": true, "e2fsck": true} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs " + program)
		}
	}
	dir := t.TempDir()
	m := &machine{name: "tiny", seed: 5, root: filepath.Join(dir, "root"), debs: filepath.Join(dir, "debs")}
	rnd := rand.New(rand.NewPCG(5, 5))
	for name, data := range map[string][]byte{
		"root/etc/hostname": []byte("tiny\n"), "root/usr/bin/program": noise(rnd, 100_000),
		"root/usr/share/text": logText(rnd, 5000, 1), "root/swapfile": noise(rnd, 1<<20),
		"root/var/cache/apt/archives/lock": []byte("x"), "debs/a.deb": noise(rnd, 2<<20),
	} {
		at := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
		require.NoError(t, os.WriteFile(at, data, 0o755))
	}
	day1, day2 := filepath.Join(dir, "day1.raw"), filepath.Join(dir, "day2.raw")
	require.NoError(t, m.makeDisk(t.Context(), day1))
	require.NoError(t, tool(t.Context(), "cp", "--sparse=always", day1, day2))

	fs := &ext4{disk: day2}
	// Not the deleted file again: the new version may well land in the blocks that it left.
	newer := filepath.Join(dir, "newer")
	require.NoError(t, os.WriteFile(newer, noise(rnd, 2<<20), 0o755))
	fs.replace(newer, "/usr/bin/program")
	require.NoError(t, fs.apply(t.Context()))
	require.NoError(t, fs.rewrite(t.Context(), "/swapfile", fsBlock, 3, rnd, func(p []byte) { copy(p, "changed") }))

	list, err := fs.spans(t.Context(), "/usr/bin/program")
	require.NoError(t, err)
	var length int64
	for _, s := range list {
		length += s.n
	}
	require.EqualValues(t, 2<<20, length, "the new version is there under the old name")

	ranges, err := differences(day1, day2, fsBlock)
	require.NoError(t, err)
	require.Greater(t, total(ranges), int64(2<<20))
	require.Less(t, total(ranges), int64(4<<20))
	used, err := dataBytes(day1)
	require.NoError(t, err)
	require.Greater(t, used, int64(66<<20), "the journal and the deleted file are there")
}

// TestLimit checks that each part handles the bytes that it should.
func TestLimit(t *testing.T) {
	rnd := rand.New(rand.NewPCG(6, 6))
	text, random := logText(rnd, blockSize, 1), noise(rnd, blockSize)
	disk := sparseFile(t, 16*blockSize, map[int64]string{
		0: string(text), blockSize: string(text), 2 * blockSize: string(random), 3 * blockSize: strings.Repeat("\x00", blockSize),
	})
	parts, err := measureLimit(disk)
	require.NoError(t, err)
	require.EqualValues(t, 3*blockSize, parts[partHash].Bytes, "zero blocks are not hashed")
	require.EqualValues(t, blockSize, parts[partEncode].Bytes, "the second copy is known, noise is stored as it is")
	require.EqualValues(t, blockSize, parts[partDecode].Bytes)
	require.Equal(t, parts[partSeal].Bytes, parts[partOpen].Bytes)
	require.Greater(t, parts[partSeal].Bytes, int64(blockSize))
	require.Greater(t, parts[partParity].Bytes, parts[partSeal].Bytes, "with the seals' tags")
}

// score1 is a round in which every step of a contestant cost the same.
func score1(c cost, size int64) *score {
	s := &score{Steps: map[string]cost{}, Sizes: map[string]int64{}, Read: map[string]int64{}, Restored: 2 << 30,
		Unique: 4 << 30}
	for _, step := range steps {
		s.Steps[step], s.Sizes[step], s.Read[step] = c, size, 100<<20
	}
	return s
}

func sample(ours cost) *record {
	fx := &fixture{Used: map[string]int64{"day1": 2 << 30, "day2": 2 << 30, "other": 2 << 30}, Blocks: 100 << 20}
	theirs := cost{Wall: 40, CPU: 40, RSS: 100 << 20}
	r := round{nameHikae: score1(ours, 900<<20), nameFast: score1(ours, 900<<20), nameKnown: score1(ours, 900<<20), nameLean: score1(ours, 800<<20),
		nameRestic: score1(theirs, 1000<<20), nameBorg: score1(theirs, 1100<<20)}
	return &record{CPUs: 2, Fixture: fx, Rounds: []round{r, r, r}, Limits: [][]part{{{"all", 1, ours.CPU}}},
		Sparse: &sparse{Small: cost{Wall: 3}, Huge: cost{Wall: 4}},
		Busy: &busy{Clean: skipped{Bytes: map[string]int64{"free": 300 << 20}, Analysis: 0.1},
			InUse: skipped{Bytes: map[string]int64{"free": 290 << 20}, Analysis: 0.2}, Whole: ours, Single: cost{Wall: ours.Wall / 2}},
		Startup: &startup{Blocks: 1e6, Points: cost{Wall: 0.1}, Stats: cost{Wall: 0.1}, Restore: cost{Wall: 0.1}}}
}

func TestBars(t *testing.T) {
	for _, b := range sample(cost{Wall: 2, CPU: 4, RSS: 100 << 20}).bars() {
		require.Equal(t, "met", b.verdict(), "%+v", b)
	}
	slow := sample(cost{Wall: 50, CPU: 50, RSS: 900 << 20})
	short := map[string]bool{}
	for _, b := range slow.bars() {
		short[b.what] = b.verdict() == "**short**"
	}
	require.True(t, short["first full backup, defaults"])
	require.True(t, short["next day, changes known"])
	require.True(t, short["restore to raw"])
	require.True(t, short["memory at the peak, over all commands"])
	require.True(t, short["verify --data all, original bytes"])
	slow.Busy.InUse = skipped{Bytes: map[string]int64{"free": 30 << 20}, Analysis: 0.4}
	for _, b := range slow.bars() {
		short[b.what] = b.verdict() == "**short**"
	}
	require.True(t, short["left out of the same disk mounted and busy"])
	require.True(t, short["analysis of an 8 GiB disk"])
	require.False(t, short["a sparse 8 TiB disk with 1 GiB of data"])
}

// What failed or was not run must neither look met nor stop the page.
func TestPageOfASmallerRun(t *testing.T) {
	res := sample(cost{Wall: 2, CPU: 4})
	res.Startup.Blocks = 1000
	require.Contains(t, page(res), "(1000 blocks) | not measured |", "fewer blocks say nothing about a million")
	for _, r := range res.Rounds {
		r[nameBorg] = score1(cost{Wall: 5, CPU: 5}, 1<<30)
	}
	require.Contains(t, page(res), "that aim cannot be met with these parts")
}

func TestPageOfAFailedRun(t *testing.T) {
	res := sample(cost{Wall: 2, CPU: 4})
	res.Sparse, res.Startup = nil, nil
	for _, r := range res.Rounds {
		delete(r, nameHikae)
	}
	res.fail("round 1, hikae, full", os.ErrPermission)
	text := page(res)
	require.Contains(t, text, "not measured")
	require.Contains(t, text, "round 1, hikae, full: permission denied")
	require.NotContains(t, text, "NaN")
}

// Peers back up the disk and bring it back, through the same code as a real run.
func TestRoundWithPeers(t *testing.T) {
	for _, program := range []string{"restic", "borg", "qemu-img"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs " + program)
		}
	}
	dir := t.TempDir()
	fx := &fixture{dir: dir}
	for i, name := range []string{"day1", "day2", "other"} {
		rnd := rand.New(rand.NewPCG(1, 1))
		disk := sparseFile(t, 8<<20, map[int64]string{0: string(logText(rnd, 1<<20, 1)), 4 << 20: strings.Repeat("x", i+1)})
		require.NoError(t, os.Rename(disk, fx.disk(name)))
	}
	opts, res := options{dir: dir, peers: true}, &record{}
	r, err := runRound(t.Context(), opts, fx, contestants(opts), 0, res)
	require.NoError(t, err)
	require.Empty(t, res.Failures)
	for _, name := range []string{nameRestic, nameBorg} {
		require.Len(t, r[name].Steps, len(steps), name)
		require.Positive(t, r[name].Sizes[stepOther], name)
	}
	_, err = os.Stat(filepath.Join(dir, "work"))
	require.ErrorIs(t, err, os.ErrNotExist, "repositories are removed")
}
