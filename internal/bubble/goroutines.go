package bubble

import (
	"bytes"
	"regexp"
	"runtime"
)

// maxStacks bounds what is read of all goroutines' stacks, in bytes.
const maxStacks = 64 << 20

// header begins each goroutine's part of a dump: its state, and the bubble where it is in one.
var header = regexp.MustCompile(`(?m)^goroutine \d+ .*\[.*(synctest bubble \d+).*\]:$`)

// Goroutines is how many goroutines there are in the caller's bubble, with those that run the test. Those of the runtime
// and of other tests, which runtime.NumGoroutine counts too, come and go as they like. It panics outside of a bubble.
func Goroutines() int {
	own := header.FindSubmatch(stacks(false))
	if own == nil {
		panic("bubble: Goroutines is for the inside of a bubble")
	}
	n := 0
	for _, other := range header.FindAllSubmatch(stacks(true), -1) {
		if bytes.Equal(other[1], own[1]) {
			n++
		}
	}
	return n
}

func stacks(all bool) []byte {
	for size := 64 << 10; ; size *= 2 {
		b := make([]byte, size)
		if n := runtime.Stack(b, all); n < size || size >= maxStacks {
			return b[:n]
		}
	}
}
