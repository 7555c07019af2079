//go:build !race

package qcow2_test

const slowdown = 1
