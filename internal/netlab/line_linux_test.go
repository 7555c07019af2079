package netlab

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newModel() *model { return &model{rnd: rand.New(rand.NewPCG(7, 7))} }

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestLossIsWhatWasAskedFor(t *testing.T) {
	m, gone := newModel(), 0
	for range 10_000 {
		if f, _, _ := m.packet(&Line{Loss: 0.01}, 1500, noon); f == lost {
			gone++
		}
	}
	assert.InDelta(t, 100, gone, 20)
}

func TestSameSeedSameFates(t *testing.T) {
	a, b := newModel(), newModel()
	line := &Line{Loss: 0.1, Duplicate: 0.1, Reorder: 0.1, Jitter: time.Millisecond}
	for i := range 1_000 {
		now := noon.Add(time.Duration(i) * time.Millisecond)
		fa, aa, ta := a.packet(line, 1500, now)
		fb, ab, tb := b.packet(line, 1500, now)
		require.Equal(t, []any{fa, aa, ta}, []any{fb, ab, tb})
	}
}

// A line that is always full sends exactly its rate, and the queue in front of it is one and a half times what is under
// way.
func TestRateAndQueue(t *testing.T) {
	line := &Line{Rate: 20_000_000, Delay: 50 * time.Millisecond}
	require.EqualValues(t, 375_000, line.queue())
	m, carried, longest := newModel(), 0, time.Duration(0)
	for i := range 100_000 { // ten seconds of 120 Mbit/s
		now := noon.Add(time.Duration(i) * 100 * time.Microsecond)
		f, at, _ := m.packet(line, 1500, now)
		if f == passes && at.at.Before(noon.Add(10*time.Second)) {
			carried += 1500
		}
		if f == passes {
			longest = max(longest, at.at.Sub(now))
		}
	}
	assert.InEpsilon(t, 25_000_000*0.995, carried, 0.005) // the first arrives after 50 ms
	assert.InDelta(t, 200, longest.Milliseconds(), 1)     // 150 ms of queue, 50 of line
}

func TestJitterKeepsTheOrderAndReorderDoesNot(t *testing.T) {
	m, last := newModel(), time.Time{}
	for i := range 10_000 {
		_, at, _ := m.packet(&Line{Delay: time.Millisecond, Jitter: 20 * time.Millisecond}, 100, noon.Add(time.Duration(i)*time.Millisecond))
		require.False(t, at.at.Before(last))
		last = at.at
	}
	overtaken := 0
	m, last = newModel(), time.Time{}
	for i := range 10_000 {
		_, at, _ := m.packet(&Line{Reorder: 0.05}, 100, noon.Add(time.Duration(i)*time.Millisecond))
		if at.at.Before(last) {
			overtaken++
		}
		last = at.at
	}
	assert.InDelta(t, 500, overtaken, 75)
}

func TestLargePacketsVanish(t *testing.T) {
	f, _, _ := newModel().packet(&Line{MaxPacket: 1400}, 1401, noon)
	require.Equal(t, tooLarge, f)
	f, _, _ = newModel().packet(&Line{MaxPacket: 1400}, 1400, noon)
	require.Equal(t, passes, f)
}
