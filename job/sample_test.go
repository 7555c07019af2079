package job

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// A tracker that forgets a write is found out where what it forgot is looked at: the point is right, the next run is whole,
// and the one after it is an increment again.
func TestForgottenWriteIsFound(t *testing.T) {
	h := filled(3, 40*block, 9*block)
	b := pipetest.NewBackend(block)
	run(t, h, b, nil)
	h.write("d0", []byte("told"), 7*block)
	copy(h.disks["d0"].data[31*block+100:], "forgotten")

	res := run(t, h, b, &BackupOptions{Sample: 1 << 40})
	requirePoint(t, b, res.Point, h)
	require.Equal(t, Allocated, res.Disks[0].Method)
	require.Equal(t, Changed, res.Disks[1].Method)
	require.Positive(t, res.Disks[1].Sampled)
	require.Len(t, res.Fallbacks, 1)
	require.Contains(t, res.Fallbacks[0].Reason, "not told in full")
	require.Len(t, res.Warnings, 1)

	next := run(t, h, b, nil)
	require.Equal(t, Allocated, next.Disks[0].Method, "the tracker is not believed")
	require.Equal(t, Changed, next.Disks[1].Method)
	after := run(t, h, b, nil)
	require.Equal(t, Changed, after.Disks[0].Method)
	requirePoint(t, b, after.Point, h)
}

// A sample of a part finds it in the end.
func TestForgottenWriteIsFoundSoonerOrLater(t *testing.T) {
	h := filled(4, 4<<20)
	b := pipetest.NewBackend(block)
	run(t, h, b, nil)
	copy(h.disks["d0"].data[3<<20:], "forgotten")
	for n := 1; ; n++ {
		require.LessOrEqual(t, n, 400, "one place of sixteen is looked at each time")
		if res := run(t, h, b, &BackupOptions{Sample: samplePiece}); res.Disks[0].Method != Changed {
			requirePoint(t, b, res.Point, h)
			return
		}
	}
}

func TestSampleIsBounded(t *testing.T) {
	h := filled(5, 40*block)
	b := pipetest.NewBackend(block)
	run(t, h, b, nil)
	require.Zero(t, run(t, h, b, &BackupOptions{Sample: -1}).Disks[0].Sampled)
	require.LessOrEqual(t, run(t, h, b, nil).Disks[0].Sampled, int64(minSample))

	u, r := &unchanged{}, rand.New(rand.NewPCG(1, 2))
	for off := int64(0); off < 1<<40; {
		n := 1 + r.Int64N(1<<34)
		u.add(off, n)
		off += n + 1 + r.Int64N(1<<20)
	}
	var sum int64
	last := pipe.Extent{}
	for _, e := range u.pick(0) {
		require.True(t, e.Off >= last.End() && e.Len <= samplePiece && e.Len > 0)
		last = e
		sum += e.Len
	}
	require.LessOrEqual(t, sum, int64(maxSample)+samplePiece)
	require.Greater(t, sum, int64(maxSample)/2)
}
