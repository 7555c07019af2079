package nfc

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
)

// callEmpty makes a host say that nothing is allocated from that byte on.
func (h *host) callEmpty(from uint64) {
	h.mangle = func(a *answer) []answer {
		if a.kind == kindAllocated {
			for i := from / chunk; i < uint64(8*len(a.extra)); i++ {
				a.extra[i/8] &^= 1 << (i % 8)
			}
		}
		return []answer{*a}
	}
}

// What a host calls empty is read here and there: one that is wrong, or that we understand wrongly, would make a copy of zeros.
func TestEmptyIsProbed(t *testing.T) {
	disk := noise(4, 4<<20)
	h := newHost(t, disk)
	d := h.open(t, false, nil)
	h.callEmpty(0)
	to := pipe.NewMemory(4 << 20)
	_, err := pipe.Copy(t.Context(), to, d, nil)
	require.NoError(t, err)
	got := make([]byte, len(disk))
	_, err = to.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(disk, got))
	var wrong *MistoldError
	require.ErrorAs(t, d.Untold(), &wrong)
	require.ErrorIs(t, wrong, ErrChanged)
	require.NotZero(t, disk[wrong.Off])
}

// One byte at the end of what is called empty is found, since the last chunk is always read.
func TestLastEmptyChunkIsProbed(t *testing.T) {
	disk := make([]byte, 64<<20)
	disk[len(disk)-1] = 1
	h := newHost(t, disk)
	d := h.open(t, false, nil)
	h.callEmpty(0)
	for e, err := range d.Extents(t.Context(), 0, d.Size()) {
		require.NoError(t, err)
		require.Equal(t, pipe.Extent{Len: d.Size(), Kind: pipe.Data}, e)
	}
	require.ErrorContains(t, d.Untold(), "nothing is allocated at 67108863")
}

// What was called zero cannot be taken back: a host that turns out to be wrong afterwards is an error, once told.
func TestMistoldAfterZero(t *testing.T) {
	h := newHost(t, noise(5, 1<<20))
	d := h.open(t, false, nil)
	h.callEmpty(0)
	d.told.empty = true // as after an earlier GiB
	var wrong *MistoldError
	told := 0
	for _, err := range d.Extents(t.Context(), 0, d.Size()) {
		require.ErrorAs(t, err, &wrong)
		require.ErrorIs(t, err, ErrChanged)
		told++
	}
	require.Equal(t, 1, told)
}

// An empty disk of many TiB is not read at every GiB: probes are bounded by disk and by answer.
func TestProbesAreBounded(t *testing.T) {
	for _, size := range []int64{chunk, 1 << 30, 16 << 30, 2 << 40, 62 << 40} {
		d := &Disk{size: size}
		total := 0
		for start := int64(0); start < size; start += mostChunks * chunk {
			w := window{start: start, count: int(min(mostChunks, (size-start)/chunk))}
			w.bits = make([]byte, bitmapLen(w.count))
			// as someEmpty has it, without looking at all bitmaps of 62 TiB
			total += min(w.count, d.probesEach(), max(leastProbes, min(mostProbes, w.count/probeEvery)))
		}
		require.LessOrEqual(t, total, diskProbes*3/2, "%d bytes", size)
		require.Greater(t, total, 0, "%d bytes", size)
	}
	w := window{count: mostChunks, bits: make([]byte, mostChunks/8)}
	w.bits[0], w.bits[mostChunks/8-1] = 1, 0x80
	some := w.someEmpty(diskProbes)
	require.Len(t, some, mostProbes)
	require.Subset(t, some, []int{1, mostChunks - 2}, "the first and the last")
	require.NotContains(t, some, 0)
	seen := map[int]bool{}
	for _, i := range some {
		require.False(t, seen[i], "%d is read twice", i)
		seen[i] = true
	}
	w = window{count: 3, bits: []byte{0b111, 0, 0, 0}}
	require.Empty(t, w.someEmpty(diskProbes))
}

// Who waits for a host that is being asked leaves when its own context is over.
func TestExtentsLeave(t *testing.T) {
	h := newHost(t, noise(6, 1<<20))
	d := h.open(t, false, &Options{Timeout: 20 * time.Second})
	h.mangle = func(a *answer) []answer {
		a.silent = a.kind == kindAllocated
		return []answer{*a}
	}
	first, stop := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		for range d.Extents(first, 0, d.Size()) {
		}
	}()
	require.Eventually(t, func() bool { return len(d.told.turn) == 1 }, 5*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	for _, err := range d.Extents(ctx, 0, d.Size()) {
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	require.Less(t, time.Since(begun), 5*time.Second)
	require.NoError(t, d.Untold(), "and who only asks what is known does not wait")
	stop()
	<-over
}

// A host that answers one read in tiny pieces that do not touch is refused before our work grows with their square.
func TestTinyPieces(t *testing.T) {
	c := newRead(1, make([]byte, 1<<20), 0)
	piece := func(at, n uint32) ioFrame {
		return ioFrame{handle: 1, dir: dirRead, total: 1 << 20, at: at, n: n, wire: n}
	}
	var broke *ProtocolError
	require.ErrorAs(t, c.accept(piece(2, 1)), &broke)
	require.ErrorAs(t, c.accept(piece(0, 513)), &broke)
	require.ErrorAs(t, c.accept(piece(1<<20-1, 1)), &broke)
	require.ErrorAs(t, c.accept(piece(1<<20-512, 500)), &broke)
	require.NoError(t, c.accept(piece(1<<20-512, 512)))
	require.NoError(t, c.accept(piece(0, 512)))

	var parts cover
	for i := range uint32(mostParts) {
		require.True(t, parts.add(span{2 * i, 2*i + 1}))
	}
	require.False(t, parts.add(span{2 * mostParts, 2*mostParts + 1}))
	require.True(t, parts.add(span{1, 2}), "what fills a gap is no further part")
	require.Len(t, parts.parts, mostParts-1)
	require.EqualValues(t, mostParts+1, parts.n)
}
