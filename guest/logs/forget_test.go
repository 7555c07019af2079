package logs

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/internal/bubble"
)

// A service that knows of nothing asks the guest for whatever there is.
func TestForgetAfterRestart(t *testing.T) {
	g := &guest{}
	k, err := g.opener(t.Context(), "web")
	require.NoError(t, err)
	require.NoError(t, Begin(t.Context(), k, "web", ImageStream{Kind: "postgresql", Name: "main"}))
	require.NoError(t, k.Close())
	require.NoError(t, New(g.opener, &memory{}, nil).Forget(t.Context(), "web"))
	require.Equal(t, 1, g.swept)
	require.Zero(t, g.open)
}

// Forget that failed is to be called again, and knows then what it knew.
func TestForgetAgain(t *testing.T) {
	g, down := &guest{}, true
	s := New(func(ctx context.Context, vm string) (Keeper, error) {
		if down {
			return nil, errLink
		}
		return g.opener(ctx, vm)
	}, &memory{}, nil)
	s.Image(image("one", true))
	require.ErrorIs(t, s.Forget(t.Context(), "web"), errLink)
	down = false
	g.fail = func(call int) error {
		if call == 1 {
			return errLink
		}
		return nil
	}
	require.ErrorIs(t, s.Forget(t.Context(), "web"), errLink)
	require.NoError(t, s.Forget(t.Context(), "web"))
	require.Equal(t, 1, g.ended)
	require.Empty(t, s.vms)
}

// A stream that the newest image does not have is forgotten too.
func TestForgetFormerStream(t *testing.T) {
	g := &guest{}
	s := New(g.opener, &memory{}, nil)
	two := image("one", true)
	two.Streams = append(two.Streams, ImageStream{Kind: "postgresql", Name: "other", Processed: true})
	s.Image(two)
	s.Image(image("two", true))
	require.NoError(t, s.Forget(t.Context(), "web"))
	require.Equal(t, 2, g.ended)
}

// A guest that hangs takes one turn: others have theirs.
func TestHungGuestStarvesNobody(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := &guest{}
		var mu sync.Mutex
		rounds := map[string]int{}
		s := New(func(ctx context.Context, vm string) (Keeper, error) {
			if vm == "hung" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return g.opener(ctx, vm)
		}, &memory{}, &Options{Parallel: 2, Report: func(r Report) {
			mu.Lock()
			defer mu.Unlock()
			rounds[r.VM]++
		}})
		run(t, s)
		img := image("h", true)
		img.VM = "hung"
		s.Image(img)
		s.Image(image("w", true))
		time.Sleep(24*time.Hour + time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, 97, rounds["web"])
		require.InDelta(t, 19, rounds["hung"], 1, "an hour that hangs, a quarter that is waited")
	})
}

// R190: a guest that cannot be reached is tried twice in a round, however many streams it has.
func TestUnreachableGuest(t *testing.T) {
	n := 0
	s := New(func(context.Context, string) (Keeper, error) { n++; return nil, errLink }, &memory{}, nil)
	img := image("one", true)
	for _, x := range []string{"a", "b", "c", "d"} {
		img.Streams = append(img.Streams, ImageStream{Kind: "postgresql", Name: x, Processed: true})
	}
	s.Image(img)
	r, err := s.Collect(t.Context(), "web")
	require.ErrorIs(t, err, errLink)
	require.Equal(t, 2, n)
	for _, st := range r.Streams {
		require.ErrorIs(t, st.Err, errLink)
	}
}

// R190: a link that does not open is tried once more.
func TestFirstOpenIsTriedAgain(t *testing.T) {
	g, n := &guest{}, 0
	s := New(func(ctx context.Context, vm string) (Keeper, error) {
		if n++; n == 1 {
			return nil, errLink
		}
		return g.opener(ctx, vm)
	}, &memory{}, nil)
	s.Image(image("one", true))
	_, err := s.Collect(t.Context(), "web")
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

// Retention goes by the order of batches, and not by the clocks of guests.
func TestRetentionOfASlowClock(t *testing.T) {
	day := 24 * time.Hour
	images := []Image{{"A", noon}, {"C", noon.Add(2 * day)}} // B, of the day between, was deleted
	var st []Log
	for i, c := range []string{"A", "B", "C"} {
		st = append(st, Log{Name: record.SegmentName("00000001", int64(5+i), segment), Timeline: "00000001", Size: segment,
			Batch: "batch-" + c, Container: c, Time: noon.Add(time.Duration(i)*day + time.Hour - 30*time.Hour)})
	}
	require.Empty(t, Retention{}.Expired(st, images, noon.Add(10*day)), "image A needs every log since")
	require.Equal(t, []string{"batch-A", "batch-B"}, Retention{}.Expired(st, images[1:], noon.Add(10*day)))
	// An image without logs of its own, as yet: what was stored since is kept for it, by the store's clock.
	for i := range st {
		st[i].Stored = noon.Add(time.Duration(i) * day)
	}
	require.Equal(t, []string{"batch-A"}, Retention{}.Expired(st, []Image{{"D", noon.Add(time.Hour)}}, noon.Add(10*day)))
	require.Equal(t, []string{"batch-A"}, Retention{Days: 9}.Expired(st, images, noon.Add(10*day-time.Hour)))
}
