//go:build race

package qcow2_test

// slowdown is how much longer loops take under the race detector.
const slowdown = 8
