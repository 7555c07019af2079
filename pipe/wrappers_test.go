package pipe_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/stretchr/testify/require"
)

// Every wrapper is an image like the one inside, and loses none of its abilities.
func TestWrappersAreImages(t *testing.T) {
	src := pipetest.NewPattern(3, 1<<20+77, pipe.Extent{Off: 5000, Len: 200_000, Kind: pipe.Zero})
	for name, img := range map[string]pipe.Image{
		"limit": pipe.Limit(src, pipe.NewLimiter(0)),
		"retry": pipe.Retry(src, nil),
		"check": pipe.Check(src, &pipe.CheckOptions{Sample: 1}),
		"meter": pipe.Meter(src),
		"cache": pipe.Cache(src, &pipe.CacheOptions{Bytes: 100_000, ChunkBytes: 5000}),
		"all":   pipe.Cache(pipe.Retry(pipe.Check(pipe.Meter(src), nil), nil), nil),
	} {
		t.Run(name, func(t *testing.T) {
			pipetest.TestImage(t, img, src)
			_, ok := pipe.As[*pipetest.Pattern](img)
			require.True(t, ok, "abilities are not lost behind it")
			_, ok = pipe.As[pipe.ExtentImage](img)
			require.True(t, ok)
		})
	}
	whole, err := pipe.Section(src, 0, src.Size())
	require.NoError(t, err)
	pipetest.TestImage(t, whole, src)
}

func TestSection(t *testing.T) {
	content := randomBytes(100_000)
	img := pipetest.WithExtents(pipetest.Bytes(content), pipe.Extent{Len: 30_000, Kind: pipe.Data}, pipe.Extent{Off: 30_000, Len: 70_000, Kind: pipe.Free})
	part, err := pipe.Section(img, 20_001, 50_000)
	require.NoError(t, err)
	pipetest.TestImage(t, part, pipetest.Bytes(content[20_001:70_001]))
	for _, bad := range [][2]int64{{-1, 5}, {0, 100_001}, {100_000, 1}, {5, -1}, {1 << 62, 1 << 62}} {
		_, err := pipe.Section(img, bad[0], bad[1])
		require.ErrorIs(t, err, fs.ErrInvalid, "%v", bad)
	}
}

func TestLimitKeepsToItsRate(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		src := pipetest.Bytes(make([]byte, 40<<20))
		limiter := pipe.NewLimiter(4 << 20) // bursts of one read, 1 MiB
		a, b := pipe.Limit(src, limiter), pipe.Limit(src, limiter)
		start := time.Now()
		p := make([]byte, 5<<20) // more than the burst
		for i := range int64(4) {
			for _, img := range []pipe.Image{a, b} {
				_, err := img.ReadAt(t.Context(), p, i*5<<20)
				require.NoError(t, err)
			}
		}
		require.InDelta(t, 39.0/4, time.Since(start).Seconds(), 0.1)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := a.ReadAt(ctx, p, 0)
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestRetryResumesAndGivesUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		src := pipetest.NewPattern(1, 100_000)
		flaky := &flakyImage{Image: src, fails: 3}
		p := make([]byte, 50_000)
		n, err := pipe.Retry(flaky, nil).ReadAt(t.Context(), p, 10)
		require.NoError(t, err)
		require.Equal(t, len(p), n)
		want := make([]byte, len(p))
		_, err = src.ReadAt(t.Context(), want, 10)
		require.NoError(t, err)
		require.Equal(t, want, p)
		require.Equal(t, []int64{10, 1010, 2010, 3010}, flaky.asked, "from the first byte that is missing")

		start := time.Now()
		flaky.fails = 100
		_, err = pipe.Retry(flaky, &pipe.RetryOptions{Tries: 5, Wait: time.Second, MaxWait: 2 * time.Second}).ReadAt(t.Context(), p, 0)
		require.ErrorIs(t, err, pipetest.ErrFault)
		require.ErrorContains(t, err, "5 times")
		require.InDelta(t, 5.25, time.Since(start).Seconds(), 1.75, "1, 2, 2, 2 seconds less up to a half")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = pipe.Retry(flaky, &pipe.RetryOptions{Tries: 100, Wait: time.Hour, MaxWait: time.Hour}).ReadAt(ctx, p, 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestRetryLeavesFinalErrors(t *testing.T) {
	for _, final := range []error{context.Canceled, io.EOF, fs.ErrClosed, fs.ErrNotExist, fs.ErrPermission, fs.ErrInvalid} {
		flaky := &flakyImage{Image: pipetest.NewPattern(1, 1000), fails: 100, err: final}
		_, err := pipe.Retry(flaky, nil).ReadAt(t.Context(), make([]byte, 500), 0)
		require.ErrorIs(t, err, final)
		require.Len(t, flaky.asked, 1, "%v", final)
	}
}

// flakyImage returns 1000 bytes at most and an error, a number of times.
type flakyImage struct {
	pipe.Image
	fails int
	err   error
	asked []int64
}

func (f *flakyImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	f.asked = append(f.asked, off)
	if f.fails == 0 {
		return f.Image.ReadAt(ctx, p, off)
	}
	f.fails--
	n, err := f.Image.ReadAt(ctx, p[:min(1000, len(p)-1)], off)
	if err == nil {
		err = pipetest.ErrFault
		if f.err != nil {
			err = f.err
		}
	}
	return n, err
}

func TestCheckFindsBrokenPromises(t *testing.T) {
	src := pipetest.NewPattern(1, 10_000)
	p := make([]byte, 1000)
	_, err := pipe.Check(pipetest.Flip(src, 1234, 2), &pipe.CheckOptions{Sample: 1}).ReadAt(t.Context(), p, 1000)
	require.ErrorIs(t, err, pipe.ErrUnstable)
	var where *pipe.RangeError
	require.ErrorAs(t, err, &where)
	require.Equal(t, int64(1234), where.Off)
	for _, answer := range []error{nil, io.EOF} {
		_, err = pipe.Check(pipetest.ShortReads(src, 1500, answer), nil).ReadAt(t.Context(), p, 1000)
		require.ErrorIs(t, err, pipe.ErrBroken)
	}
	_, err = pipe.Check(src, nil).ReadAt(t.Context(), p, -5)
	require.ErrorIs(t, err, fs.ErrInvalid)
	meter := pipe.Meter(src)
	checked := pipe.Check(meter, &pipe.CheckOptions{Sample: 10})
	for range 100 {
		_, err := checked.ReadAt(t.Context(), p, 0)
		require.NoError(t, err)
	}
	require.Equal(t, int64(110), meter.Counts().Reads, "one in ten is read twice")
}

func TestCacheReadsOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		src := pipetest.NewPattern(1, 1<<20)
		meter := pipe.Meter(pipetest.HookImage(src, func(context.Context, *pipetest.Op) error {
			time.Sleep(time.Second)
			return nil
		}))
		img := pipe.Cache(meter, &pipe.CacheOptions{Bytes: 128 << 10, ChunkBytes: 64 << 10})
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				p := make([]byte, 100)
				_, err := img.ReadAt(t.Context(), p, 70_000)
				require.NoError(t, err)
			})
		}
		group.Wait()
		require.Equal(t, int64(1), meter.Counts().Reads)
		read := func(off int64) {
			_, err := img.ReadAt(t.Context(), make([]byte, 10), off)
			require.NoError(t, err)
		}
		read(0)
		read(70_000)
		require.Equal(t, int64(2), meter.Counts().Reads)
		read(200_000) // the third chunk: the one used longest ago, the first, goes
		read(70_000)
		require.Equal(t, int64(3), meter.Counts().Reads)
		read(0)
		require.Equal(t, int64(4), meter.Counts().Reads)
		_, err := img.ReadAt(t.Context(), make([]byte, 256<<10), 300_000) // goes past, and pushes nothing out
		require.NoError(t, err)
		require.Equal(t, int64(5), meter.Counts().Reads)
		read(0)
		require.Equal(t, int64(5), meter.Counts().Reads)
	})
}

// A reader that gives up does not fail those that wait for the same chunk, and errors are not kept.
func TestCacheSurvivesAReaderThatGivesUp(t *testing.T) {
	src := pipetest.NewPattern(1, 1<<20)
	started := make(chan struct{}, 10)
	var fail atomic.Bool
	img := pipe.Cache(pipetest.HookImage(src, func(ctx context.Context, op *pipetest.Op) error {
		started <- struct{}{}
		if fail.Load() {
			return pipetest.ErrFault
		}
		if ctx.Value(gaveUp{}) != nil {
			<-ctx.Done()
		}
		return ctx.Err()
	}), nil)
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), gaveUp{}, true))
	var group sync.WaitGroup
	group.Go(func() {
		_, err := img.ReadAt(ctx, make([]byte, 10), 0)
		require.ErrorIs(t, err, context.Canceled)
	})
	<-started
	group.Go(func() {
		_, err := img.ReadAt(t.Context(), make([]byte, 10), 5)
		require.NoError(t, err)
	})
	time.Sleep(5 * time.Millisecond)
	cancel()
	group.Wait()
	fail.Store(true)
	_, err := img.ReadAt(t.Context(), make([]byte, 10), 500_000)
	require.ErrorIs(t, err, pipetest.ErrFault)
	fail.Store(false)
	_, err = img.ReadAt(t.Context(), make([]byte, 10), 500_000)
	require.NoError(t, err)
}

type gaveUp struct{}

func TestMeterCounts(t *testing.T) {
	m := pipe.Meter(pipetest.NewPattern(1, 1000))
	p := make([]byte, 600)
	_, _ = m.ReadAt(t.Context(), p, 0)
	_, _ = m.ReadAt(t.Context(), p, 600)
	c := m.Counts()
	require.Equal(t, int64(2), c.Reads)
	require.Equal(t, int64(1000), c.Bytes)
	require.Equal(t, int64(1), c.Failed)
	require.Positive(t, c.Busy)
}

func collect(t *testing.T, img pipe.Image, off, n int64) (list []pipe.Extent) {
	t.Helper()
	for e, err := range pipe.Extents(t.Context(), img, off, n) {
		require.NoError(t, err)
		list = append(list, e)
	}
	return list
}

func TestChangedRefinesWhatChanged(t *testing.T) {
	img := pipetest.WithExtents(pipetest.Bytes(make([]byte, 1000)), pipe.Extent{0, 300, pipe.Data}, pipe.Extent{300, 200, pipe.Zero},
		pipe.Extent{500, 100, pipe.Free}, pipe.Extent{600, 100, pipe.Unchanged}, pipe.Extent{700, 300, pipe.Data})
	c := pipe.Changed(img, sequence(pipe.Extent{0, 250, pipe.Unchanged}, pipe.Extent{250, 400, pipe.Data}, pipe.Extent{650, 350, pipe.Unchanged}))
	want := []pipe.Extent{
		{0, 250, pipe.Unchanged}, {250, 50, pipe.Data}, {300, 200, pipe.Zero}, {500, 100, pipe.Free},
		{600, 50, pipe.Data}, // unchanged against another base says nothing
		{650, 350, pipe.Unchanged},
	}
	require.Equal(t, want, collect(t, c, 0, 1000))
	require.Equal(t, []pipe.Extent{{240, 10, pipe.Unchanged}, {250, 20, pipe.Data}}, collect(t, c, 240, 30))
	require.Equal(t, []pipe.Extent{{640, 10, pipe.Data}, {650, 5, pipe.Unchanged}}, collect(t, c, 640, 15))
	require.Equal(t, []pipe.Extent{{700, 1, pipe.Unchanged}}, collect(t, c, 700, 1))
	require.Empty(t, collect(t, c, 1000, 0))
	_, ok := pipe.As[pipe.ExtentImage](pipe.Meter(c))
	require.True(t, ok)
}

// An error in a list of changes, or its early end, voids all of it: nothing is taken for unchanged.
func TestChangedVoidsABrokenList(t *testing.T) {
	img := pipetest.NewPattern(1, 1000)
	boom := errors.New("boom")
	for name, list := range map[string]func(context.Context) seq{
		"short":   sequence(pipe.Extent{0, 999, pipe.Unchanged}),
		"nothing": sequence(),
		"long":    sequence(pipe.Extent{0, 1001, pipe.Unchanged}),
		"zero":    sequence(pipe.Extent{0, 1000, pipe.Zero}),
		"error": func(context.Context) seq {
			return func(yield func(pipe.Extent, error) bool) {
				_ = yield(pipe.Extent{0, 999, pipe.Unchanged}, nil) && yield(pipe.Extent{}, boom)
			}
		},
	} {
		var got []pipe.Extent
		var failed error
		for e, err := range pipe.Extents(t.Context(), pipe.Changed(img, list), 0, 1000) {
			if failed = err; err == nil {
				got = append(got, e)
			}
		}
		require.Error(t, failed, name)
		require.Empty(t, got, name)
		_, err := pipe.Copy(t.Context(), pipe.NewMemory(1000), pipe.Changed(img, list), nil)
		require.Error(t, err, name)
	}
}

// A list of more ranges than are kept becomes coarser: more is called changed, never less.
func TestChangedBoundsItsList(t *testing.T) {
	const size, step = 8 << 30, 8 << 10
	list := func(context.Context) seq {
		return func(yield func(pipe.Extent, error) bool) {
			for off := int64(0); off < size; off += step {
				kind := []pipe.Kind{pipe.Data, pipe.Unchanged}[off/step%2]
				if off >= size/2 && off < size/2+1<<30 {
					kind = pipe.Unchanged
				}
				if !yield(pipe.Extent{off, step, kind}, nil) {
					return
				}
			}
		}
	}
	// More than 2^20 steps, and nearly every second of them changed: over the bound of 2^18.
	c := pipe.Changed(pipetest.NewPattern(1, size), list)
	var unchanged int64
	count := 0
	for e, err := range c.Extents(t.Context(), 0, size) {
		require.NoError(t, err)
		count++
		if e.Kind == pipe.Unchanged {
			unchanged += e.Len
		} else if e.Off >= size/2+1<<20 {
			require.False(t, e.Off < size/2+1<<30-1<<20, "%v", e)
		}
	}
	require.Positive(t, unchanged)
	require.LessOrEqual(t, count, 2<<18)
}

func TestMemoryIsSparse(t *testing.T) {
	m := pipe.NewMemory(1 << 50)
	_, err := m.WriteAt(t.Context(), []byte("x"), 1<<49)
	require.NoError(t, err)
	require.Equal(t, []pipe.Extent{{0, 1 << 49, pipe.Zero}, {1 << 49, 64 << 10, pipe.Data}, {1<<49 + 64<<10, 1<<49 - 64<<10, pipe.Zero}},
		collect(t, m, 0, 1<<50))
	p := []byte{1, 1, 1}
	_, err = m.ReadAt(t.Context(), p, 1<<49-1)
	require.NoError(t, err)
	require.True(t, bytes.Equal(p, []byte{0, 'x', 0}))
}
