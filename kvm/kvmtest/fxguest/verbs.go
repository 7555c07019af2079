//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"unsafe"
)

const (
	blkZeroOut = 0x127f
	blkDiscard = 0x1277
	fiTrim     = 0xc0185879
)

// verb does one thing for a test. Offsets and lengths are bytes.
func verb(name string, args []string) error {
	switch name { // of the server
	case "write", "meter", "moment", "check", "swap", "start", "written":
		return serverVerb(name, args)
	}
	want := map[string]int{"state": 0, "reset": 0, "sync": 0, "trim": 1, "sum": 1, "rm": 1,
		"fill": 4, "zero": 3, "discard": 3, "print": 1}
	n, known := want[name]
	if !known || n != len(args) {
		return fmt.Errorf("%s with %d arguments", name, len(args))
	}
	switch name {
	case "state":
		return printFile(statePath)
	case "reset":
		if _, err := os.Stat(serverFlag); err == nil {
			return resetLogs()
		}
		return os.WriteFile(statePath+".reset", nil, 0o644)
	case "sync":
		syscall.Sync()
		return nil
	case "trim":
		return trim(args[0])
	case "sum":
		return sum(args[0])
	case "rm":
		return os.Remove(args[0])
	case "print":
		return spout(args[0])
	}
	numbers, err := parse(args[1:])
	if err != nil {
		return err
	}
	switch name {
	case "fill":
		return fill(args[0], numbers[0], numbers[1], numbers[2])
	case "zero":
		return rangeIoctl(args[0], blkZeroOut, numbers[0], numbers[1])
	default:
		return rangeIoctl(args[0], blkDiscard, numbers[0], numbers[1])
	}
}

// serverVerb does one thing in a server.
func serverVerb(name string, args []string) error {
	switch {
	case name == "write" && len(args) == 1:
		return write(args[0])
	case name == "start" && len(args) == 1: // the same, and it goes on when this has ended
		console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		cmd := exec.Command("/bin/fx", "write", args[0])
		cmd.Stdout, cmd.Stderr = console, console
		return cmd.Start()
	case name == "meter" && len(args) == 2:
		return meter(args[0], args[1])
	case name == "moment" && len(args) == 0:
		return printMoment()
	case name == "written" && len(args) == 1:
		return printWritten(args[0])
	case name == "check":
		return check(args)
	case name == "swap" && len(args) == 1:
		size, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		return swap(size)
	}
	return fmt.Errorf("%s with %d arguments", name, len(args))
}

func parse(args []string) (out []int64, err error) {
	for _, a := range args {
		n, err := strconv.ParseInt(a, 10, 64)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

func printFile(path string) error {
	text, err := os.ReadFile(path)
	fmt.Print(string(text))
	return err
}

// spout prints so many bytes.
func spout(count string) error {
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		return err
	}
	_, err = io.CopyN(os.Stdout, letters{}, n)
	return err
}

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

// fill writes bytes that follow from the seed and their place, and syncs.
func fill(path string, off, n, seed int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, 64<<10)
	x := uint64(seed)*0x9e3779b97f4a7c15 + uint64(off)
	for done := int64(0); done < n; done += int64(len(p)) {
		p = p[:min(int64(len(p)), n-done)]
		for i := 0; i+8 <= len(p); i += 8 {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			binary.LittleEndian.PutUint64(p[i:], x|1)
		}
		if _, err := f.WriteAt(p, off+done); err != nil {
			return err
		}
	}
	return f.Sync()
}

func rangeIoctl(path string, request uintptr, off, n int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	r := [2]uint64{uint64(off), uint64(n)}
	if err := ioctl(f.Fd(), request, unsafe.Pointer(&r)); err != nil {
		return err
	}
	return f.Sync()
}

// trim tells the disk what a file system does not use.
func trim(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	r := [3]uint64{0, 1 << 62, 0}
	return ioctl(f.Fd(), fiTrim, unsafe.Pointer(&r))
}

func ioctl(fd, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// finitModule loads a kernel module from an open file.
func finitModule(fd uintptr) error {
	const sysFinitModule = 313 // amd64
	none := []byte{0}
	_, _, errno := syscall.Syscall(sysFinitModule, fd, uintptr(unsafe.Pointer(&none[0])), 0)
	if errno != 0 && errno != syscall.EEXIST {
		return errno
	}
	return nil
}

// sum prints a checksum that is quick also under emulation: FNV-1a with words of 8 bytes instead of bytes.
func sum(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h, p := uint64(0xcbf29ce484222325), make([]byte, 256<<10)
	for {
		n, err := io.ReadFull(f, p)
		clear(p[n:])
		for i := 0; i < n; i += 8 {
			h = (h ^ binary.LittleEndian.Uint64(p[i:])) * 0x100000001b3
		}
		if err != nil {
			fmt.Printf("%016x\n", h)
			return nil
		}
	}
}
