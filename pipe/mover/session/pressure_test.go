package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/wire"
)

func TestWorth(t *testing.T) {
	const s = time.Second
	for name, tc := range map[string]struct {
		e     epoch
		lanes int
		rtt   time.Duration
		full  bool
		want  int
	}{
		"far, writes stand":              {epoch{took: s, writing: s}, 1, 100 * time.Millisecond, true, 2},
		"far, four lanes stand":          {epoch{took: s, writing: 4 * s}, 4, 100 * time.Millisecond, true, 8},
		"far, enough":                    {epoch{took: s, writing: 8 * s}, 8, 100 * time.Millisecond, true, 8},
		"far, half of the lanes flow":    {epoch{took: s, writing: s}, 4, 100 * time.Millisecond, true, 4},
		"far, nobody waits":              {epoch{took: s, writing: s}, 1, 100 * time.Millisecond, false, 1},
		"far, what is on its way stays":  {epoch{took: s, reading: s}, 2, 100 * time.Millisecond, false, 4},
		"far, most lanes have no call":   {epoch{took: s, reading: s}, 3, 100 * time.Millisecond, false, 3},
		"middling":                       {epoch{took: s, writing: 3 * s}, 3, 3 * time.Millisecond, true, 4},
		"middling, enough":               {epoch{took: s, writing: 4 * s}, 4, 3 * time.Millisecond, true, 4},
		"near":                           {epoch{took: s, writing: s}, 1, time.Millisecond, true, 2},
		"near, enough":                   {epoch{took: s, writing: 2 * s}, 2, time.Millisecond, true, 2},
		"near, what comes is no reason":  {epoch{took: s, reading: s}, 1, time.Millisecond, false, 1},
		"not known how far":              {epoch{took: s, writing: s}, 1, 0, true, 1},
		"the processor is what is short": {epoch{took: s, writing: s / 4}, 1, 100 * time.Millisecond, true, 1},
	} {
		require.Equal(t, tc.want, tc.e.worth(tc.lanes, tc.rtt, tc.full), name)
	}
}

// On a slow line one write takes longer than an epoch; an idle hour is no wait for the line.
func TestEpochs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var seen []epoch
		p := pressure{judge: func(e epoch) { seen = append(seen, e) }}
		p.went(10, 0)
		p.went(10, time.Millisecond)
		require.Empty(t, seen)
		time.Sleep(5 * time.Second)
		p.went(10, 5*time.Second-time.Millisecond)
		require.Equal(t, []epoch{{took: 5*time.Second + time.Millisecond, writing: 5 * time.Second}}, seen)
		time.Sleep(time.Hour)
		p.came(wire.HeaderSize, time.Hour)
		require.Len(t, seen, 1, "an idle hour")
		time.Sleep(time.Second)
		p.came(16<<10, time.Second)
		require.Len(t, seen, 2)
		require.Equal(t, 2, seen[1].worth(1, time.Second, false))
	})
}
