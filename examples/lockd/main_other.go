//go:build !linux

// Lockd is the helper of a hardened directory repository; it needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "lockd: files are made immutable on Linux only")
	os.Exit(1)
}
