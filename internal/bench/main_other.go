//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: needs Linux: it makes an ext4 disk and reads the kernel's accounts of processes")
	os.Exit(2)
}
