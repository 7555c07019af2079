//go:build linux && !race

package mover_test

const raced = false
