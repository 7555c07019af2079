// Package bubble runs tests in a bubble of [testing/synctest] in a way that the race detector bears.
//
// A bubble's channel timers are fired by whichever goroutine finds them due, and the runtime has one context of the race
// detector for all of them in a bubble. Two goroutines that find a timer due at the same moment use it at once: the
// process ends with "ThreadSanitizer: CHECK failed" or with a segmentation fault and a dump of registers, in a test that
// is right (go.dev/issue/78156, seen with Go 1.26.8 in one of 20 runs of a package's tests; the test here brings it
// about in five runs of six). [Test] has all goroutines take turns on one processor while a bubble runs under the race
// detector. What races is still found: that depends on what happens before what, not on what happens at once.
//
// Tests of this module call [Test] where they would call synctest.Test. Everything else of that package they use as it is.
package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// turns counts the bubbles that need the goroutines to take turns.
var turns struct {
	mu      sync.Mutex
	bubbles int
	procs   int // as it was before the first of them
}

// Test is synctest.Test.
func Test(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if raced {
		enter()
		defer leave()
	}
	synctest.Test(t, f)
}

func enter() {
	turns.mu.Lock()
	defer turns.mu.Unlock()
	if turns.bubbles++; turns.bubbles == 1 {
		turns.procs = runtime.GOMAXPROCS(1)
	}
}

func leave() {
	turns.mu.Lock()
	defer turns.mu.Unlock()
	if turns.bubbles--; turns.bubbles == 0 {
		runtime.GOMAXPROCS(turns.procs)
	}
}
