package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Without turns this ends the process under the race detector: many goroutines find timers due at the same moment.
func TestTimersThatAreDueAtOnce(t *testing.T) {
	for range 5 {
		Test(t, func(*testing.T) {
			var wg sync.WaitGroup
			for range 400 {
				wg.Go(func() {
					for range 40 {
						<-time.After(0)
					}
				})
			}
			wg.Wait()
		})
	}
}

// Processors are given back when the last of several bubbles has ended, also where a test is skipped in the middle.
func TestProcessorsAreGivenBack(t *testing.T) {
	before := runtime.GOMAXPROCS(3)
	defer runtime.GOMAXPROCS(before)
	inside := 3
	if raced {
		inside = 1
	}
	t.Run("two at once", func(t *testing.T) {
		for _, d := range []time.Duration{time.Second, time.Hour} {
			t.Run(d.String(), func(t *testing.T) {
				t.Parallel()
				Test(t, func(t *testing.T) {
					time.Sleep(d)
					require.Equal(t, inside, runtime.GOMAXPROCS(0))
				})
			})
		}
	})
	require.Equal(t, 3, runtime.GOMAXPROCS(0))
	t.Run("skipped", func(t *testing.T) {
		Test(t, func(t *testing.T) {
			synctest.Wait()
			t.SkipNow()
		})
	})
	require.Equal(t, 3, runtime.GOMAXPROCS(0))
}
