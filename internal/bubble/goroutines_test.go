package bubble

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Only the bubble's own goroutines count: whatever they wait for, and none that has ended.
func TestGoroutines(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	for range 50 {
		go func() { <-stop }()
	}
	Test(t, func(t *testing.T) {
		alone := Goroutines()
		ctx := t.Context()
		var wg sync.WaitGroup
		for i := range 1000 { // more stacks than the first buffer holds
			wg.Go(func() {
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(i+1) * time.Second):
				}
			})
		}
		synctest.Wait()
		require.Equal(t, alone+1000, Goroutines())
		time.Sleep(999*time.Second + time.Millisecond)
		synctest.Wait()
		require.Equal(t, alone+1, Goroutines())
		wg.Wait()
		synctest.Wait()
		require.Equal(t, alone, Goroutines())
	})
	require.Panics(t, func() { Goroutines() })
}
