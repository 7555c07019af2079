//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// checked is what is in a ledger.
type checked struct {
	Records int64  `json:"records"`
	Error   string `json:"error,omitempty"`
}

// check reads ledgers whole, one after another. Nobody may be writing in them.
func check(names []string) error {
	out := map[string]checked{}
	for _, name := range names {
		n, err := checkOne(name)
		c := checked{Records: n}
		if err != nil {
			c.Error = err.Error()
		}
		out[name] = c
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func checkOne(name string) (int64, error) {
	l, err := openLedger(name)
	if err != nil {
		return 0, err
	}
	defer l.close()
	last, err := l.check()
	return last.n, err
}

const madvPageout = 21

// swap writes memory out to the swap area and reads it again.
func swap(size int) error {
	p, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	pattern := []byte("memory that was swapped out. ")
	for at := 0; at < size; at += 4096 {
		copy(p[at:], pattern)
		p[at+4000] = byte(at >> 12)
	}
	before, err := swapUsed()
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(unsafe.Pointer(&p[0])), uintptr(size), madvPageout); errno != 0 {
		return errno
	}
	after, err := swapUsed()
	if err != nil {
		return err
	}
	if after-before < int64(size)/2 {
		return fmt.Errorf("%d bytes were to be swapped out, %d were", size, after-before)
	}
	for at := 0; at < size; at += 4096 {
		if !bytes.HasPrefix(p[at:], pattern) || p[at+4000] != byte(at>>12) {
			return fmt.Errorf("memory at %d came back wrong", at)
		}
	}
	return unix.Munmap(p)
}

// swapUsed is how many bytes of the swap areas are in use.
func swapUsed() (sum int64, err error) {
	areas, err := swapAreas()
	if err == nil && len(areas) == 0 {
		err = errors.New("no swap area is in use")
	}
	for _, used := range areas {
		sum += used
	}
	return sum, err
}

// swapAreas are the areas that the kernel swaps to, and how many bytes of each are in use.
func swapAreas() (map[string]int64, error) {
	text, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return nil, err
	}
	areas := map[string]int64{}
	for _, line := range strings.Split(string(text), "\n") {
		var device, kind string
		var size, used int64
		if n, _ := fmt.Sscan(line, &device, &kind, &size, &used); n == 4 {
			areas[device] = used << 10
		}
	}
	return areas, nil
}
