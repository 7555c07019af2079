package logs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/internal/bubble"
)

// image is an image point of a VM with one cluster.
func image(id string, processed bool) ImagePoint {
	return ImagePoint{VM: "web", ID: id, Streams: []ImageStream{{Kind: "postgresql", Name: "main", Processed: processed}}}
}

// reports collects what a service tells.
type reports struct {
	mu  sync.Mutex
	all []Report
}

func (r *reports) take(one Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, one)
}

func (r *reports) last() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[len(r.all)-1]
}

func (r *reports) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}

// run runs a service until the test's end, in a bubble.
func run(t *testing.T, s *Service) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}

// R144: the service is idle until there is an image, then goes round every 15 minutes, stands still while an image
// session runs, and starts a container for each image.
func TestRounds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g, m, told := &guest{}, &memory{}, &reports{}
		s := New(g.opener, m, &Options{Report: told.take})
		run(t, s)
		g.write(2, time.Now())
		time.Sleep(time.Hour)
		require.Zero(t, told.count(), "idle until an image")
		_, err := s.Collect(t.Context(), "web")
		require.ErrorIs(t, err, ErrIdle)

		s.Image(image("one", true))
		synctest.Wait()
		require.Equal(t, 1, told.count(), "at once")
		for n := range 4 {
			g.write(1, time.Now())
			time.Sleep(15*time.Minute - time.Second)
			require.Equal(t, n+1, told.count())
			time.Sleep(time.Second)
			synctest.Wait()
			require.Equal(t, n+2, told.count())
		}
		require.Len(t, m.names(), 6)

		require.NoError(t, s.Pause(t.Context(), "web"))
		time.Sleep(time.Hour)
		require.Equal(t, 5, told.count(), "an image session is under way")
		_, err = s.Collect(t.Context(), "web")
		require.ErrorIs(t, err, ErrPaused)
		s.Resume("web")
		synctest.Wait()
		require.Equal(t, 6, told.count(), "it ended without an image")

		require.NoError(t, s.Pause(t.Context(), "web"))
		g.write(1, time.Now())
		s.Image(image("two", true))
		synctest.Wait()
		stored := m.all()
		require.Equal(t, "one", stored[5].Container)
		require.Equal(t, "two", stored[6].Container)
		require.Equal(t, m.names(), slices.Compact(m.names()))

		s.Image(image("three", false)) // the application failed
		synctest.Wait()
		g.write(1, time.Now())
		time.Sleep(time.Hour)
		require.Contains(t, told.last().Streams[0].Waits, "wait for the next one")
		require.Len(t, m.names(), 7)
		s.Image(image("four", true))
		synctest.Wait()
		require.Len(t, m.names(), 8)
		require.Zero(t, g.deployed(), "the component is taken away after each round")
		require.NoError(t, s.Forget(t.Context(), "web"))
		require.Equal(t, 1, g.ended)
	})
}

func TestInterval(t *testing.T) {
	for asked, want := range map[time.Duration]time.Duration{0: 15 * time.Minute, time.Minute: time.Minute, 100 * time.Hour: 480 * time.Minute, 1: time.Second, -5: time.Second} {
		require.Equal(t, want, New(nil, nil, &Options{Every: asked}).opts.Every)
	}
}

// A guest that does not answer holds up its own VM for Limit, and no other one.
func TestRoundHasALimit(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		stuck, well, told := &guest{block: func(ctx context.Context) { <-ctx.Done() }, fail: func(int) error { return context.DeadlineExceeded }}, &guest{}, &reports{}
		well.write(1, time.Now())
		s := New(func(ctx context.Context, vm string) (Keeper, error) {
			if vm == "web" {
				return stuck.opener(ctx, vm)
			}
			return well.opener(ctx, vm)
		}, &memory{}, &Options{Report: told.take, Limit: 10 * time.Minute, Parallel: 2})
		run(t, s)
		s.Image(image("one", true))
		other := image("one", true)
		other.VM = "db"
		s.Image(other)
		synctest.Wait()
		require.Equal(t, 1, told.count())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, s.Pause(ctx, "web"), context.DeadlineExceeded)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Equal(t, 2, told.count())
		require.ErrorIs(t, told.last().Streams[0].Err, context.DeadlineExceeded)
	})
}

// collector is a service whose rounds a test starts.
func collector(g *guest, m *memory) *Service {
	s := New(g.opener, m, nil)
	s.Image(image("one", true))
	return s
}

// R190: each call of a round fails once, in turn; the round comes back once, ends well, and stores each log once. With a
// link that breaks again, what is left is taken in the next round.
func TestLinkBreaksAtEachCall(t *testing.T) {
	for at := 1; ; at++ {
		g, m := &guest{}, &memory{}
		g.write(3, time.Now())
		g.fail = func(call int) error {
			if call == at {
				return errLink
			}
			return nil
		}
		_, err := collector(g, m).Collect(t.Context(), "web")
		require.NoError(t, err, at)
		require.Len(t, m.names(), 3, at)
		require.Zero(t, g.open)
		require.Len(t, g.shipped, 3)
		if g.calls < at {
			require.Equal(t, 1, g.opened)
			break
		}
		require.Equal(t, 2, g.opened)
	}
	for at := 1; at <= 5; at++ {
		g, m := &guest{}, &memory{}
		g.write(3, time.Now())
		broken := true
		g.fail = func(call int) error {
			if broken && call >= at {
				return errLink
			}
			return nil
		}
		s := collector(g, m)
		_, err := s.Collect(t.Context(), "web")
		require.ErrorIs(t, err, errLink)
		require.Equal(t, 2, g.opened, "one reconnection")
		require.Zero(t, g.open)
		broken = false
		_, err = s.Collect(t.Context(), "web")
		require.NoError(t, err)
		require.Len(t, m.names(), 3)
		require.Len(t, g.shipped, 3)
	}
}

// Nothing is told to be safe that is not: a store that fails leaves everything in the guest.
func TestStoreFails(t *testing.T) {
	for _, step := range []string{"begin", "put", "commit"} {
		g, m := &guest{}, &memory{}
		g.write(3, time.Now())
		full := errors.New("full")
		m.fail = func(at string) error {
			if at == step {
				return full
			}
			return nil
		}
		s := collector(g, m)
		_, err := s.Collect(t.Context(), "web")
		require.ErrorIs(t, err, full, step)
		require.Empty(t, g.shipped)
		require.Equal(t, 1, g.opened, "another link would not mend it")
		m.fail = nil
		_, err = s.Collect(t.Context(), "web")
		require.NoError(t, err)
		require.Len(t, m.names(), 3)
	}
}

// A service that was killed between storing and telling goes on by names.
func TestContinuesByName(t *testing.T) {
	g, m := &guest{}, &memory{}
	g.write(3, time.Now())
	g.fail = func(call int) error {
		if call > 4 { // a listing, three fetches
			return errLink
		}
		return nil
	}
	_, err := collector(g, m).Collect(t.Context(), "web")
	require.Error(t, err)
	require.Len(t, m.names(), 3)
	require.Empty(t, g.shipped)
	g.fail = nil
	g.write(2, time.Now())
	r, err := collector(g, m).Collect(t.Context(), "web")
	require.NoError(t, err)
	require.Equal(t, 2, r.Streams[0].Stored)
	require.Len(t, m.names(), 5)
	require.Len(t, g.shipped, 5)
}

// A chain with a hole is told, whoever made the hole.
func TestGaps(t *testing.T) {
	requireGap := func(t *testing.T, err error) *GapError {
		t.Helper()
		var e *GapError
		require.ErrorAs(t, err, &e)
		return e
	}
	t.Run("between what is stored and what is there", func(t *testing.T) {
		g, m := &guest{}, &memory{}
		g.write(3, time.Now())
		s := collector(g, m)
		_, err := s.Collect(t.Context(), "web")
		require.NoError(t, err)
		g.write(3, time.Now())
		lost := g.logs[1].Name
		g.logs = g.logs[2:]
		_, err = s.Collect(t.Context(), "web")
		e := requireGap(t, err)
		require.Less(t, e.After, lost)
		require.Greater(t, e.Before, lost)
		require.NotEmpty(t, m.logs[3].Gap, "it is kept with the log behind it")
		chain, gap, err := Chain(t.Context(), m, Stream{}, "00000001", m.logs[0].Name)
		require.NoError(t, err)
		require.Len(t, chain, 3)
		require.Equal(t, m.logs[2].Name, gap.After)
		_, err = s.Collect(t.Context(), "web")
		require.NoError(t, err, "told once")
	})
	t.Run("within a listing", func(t *testing.T) {
		g, m := &guest{}, &memory{}
		g.write(3, time.Now())
		g.logs = slices.Delete(g.logs, 1, 2)
		_, err := collector(g, m).Collect(t.Context(), "web")
		requireGap(t, err)
		require.Len(t, m.names(), 2, "what is there is stored all the same")
	})
	t.Run("by the guest's word", func(t *testing.T) {
		g := &guest{gap: "the slot was given up"}
		_, err := collector(g, &memory{}).Collect(t.Context(), "web")
		require.Equal(t, "the slot was given up", requireGap(t, err).Words)
	})
	t.Run("right behind the image", func(t *testing.T) {
		g, m := &guest{}, &memory{}
		g.write(3, time.Now())
		s := New(g.opener, m, nil)
		img := image("one", true)
		img.Streams[0].From = "000000010000000000000000"
		s.Image(img)
		_, err := s.Collect(t.Context(), "web")
		require.Contains(t, requireGap(t, err).Words, "the image needs the logs from 000000010000000000000000 on")
		img.Streams[0].From = m.logs[1].Name
		s.Image(img)
		_, err = s.Collect(t.Context(), "web")
		require.NoError(t, err)
	})
	t.Run("a guest that began anew", func(t *testing.T) {
		g, m := &guest{}, &memory{}
		g.write(1, time.Now())
		s := collector(g, m)
		_, err := s.Collect(t.Context(), "web")
		require.NoError(t, err)
		g.logs[0].Size = 4711
		_, err = s.Collect(t.Context(), "web")
		require.Contains(t, requireGap(t, err).Words, "begun anew")
	})
}

// A guest may say anything. Nothing of it is stored that is not what it says it is.
func TestHostileGuest(t *testing.T) {
	one := func(change func(g *guest, l *wire.Log)) func(*guest) {
		return func(g *guest) {
			g.write(2, time.Now())
			change(g, &g.logs[1])
		}
	}
	for name, set := range map[string]func(*guest){
		"a path":          one(func(_ *guest, l *wire.Log) { l.Name = "../../etc/passwd" }),
		"a hidden name":   one(func(_ *guest, l *wire.Log) { l.Name = ".x" }),
		"no name":         one(func(_ *guest, l *wire.Log) { l.Name = "" }),
		"a negative size": one(func(_ *guest, l *wire.Log) { l.Size = -1 }),
		"no time":         one(func(_ *guest, l *wire.Log) { l.Time = "yesterday" }),
		"too little":      one(func(g *guest, _ *wire.Log) { g.bytes = func(l wire.Log) []byte { return content(l)[1:] } }),
		"too much":        one(func(g *guest, _ *wire.Log) { g.bytes = func(l wire.Log) []byte { return append(content(l), 'x') } }),
		"another sum":     one(func(g *guest, _ *wire.Log) { g.sum = func([]byte) []byte { return make([]byte, 32) } }),
		"no sum":          one(func(g *guest, _ *wire.Log) { g.sum = func([]byte) []byte { return nil } }),
	} {
		t.Run(name, func(t *testing.T) {
			g, m := &guest{}, &memory{}
			set(g)
			_, err := collector(g, m).Collect(t.Context(), "web")
			require.ErrorContains(t, err, "web: postgresql/main")
			require.Empty(t, m.names())
			require.Empty(t, g.shipped)
		})
	}
}

func TestManyLogsGoInBatches(t *testing.T) {
	g, m := &guest{}, &memory{}
	g.bytes = func(l wire.Log) []byte { return []byte(l.Name)[:10] }
	g.write(150, time.Now())
	for i := range g.logs {
		g.logs[i].Size = 10
		g.logs[i].Name = fmt.Sprintf("bin.%06d", i+1)
	}
	_, err := collector(g, m).Collect(t.Context(), "web")
	require.NoError(t, err)
	require.Equal(t, 3, m.n)
	require.Equal(t, "bin.000150", m.names()[149])
}
