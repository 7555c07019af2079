//go:build !unix

package engine_test

// used is not known here.
func used() (seconds float64, resident int64) { return 0, 0 }
