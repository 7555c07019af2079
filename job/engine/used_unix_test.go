//go:build unix

package engine_test

import "golang.org/x/sys/unix"

// used is the processor time of this program so far, in seconds, and the most memory that it had at once, in bytes.
func used() (seconds float64, resident int64) {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0, 0
	}
	of := func(t unix.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return of(u.Utime) + of(u.Stime), int64(u.Maxrss) << 10
}
