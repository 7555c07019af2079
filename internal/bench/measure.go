//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/internal/netlab"
)

// cost is what one run of a program took.
type cost struct {
	Wall float64 `json:"wall"` // seconds
	CPU  float64 `json:"cpu"`  // seconds, user and system
	RSS  int64   `json:"rss"`  // bytes at the peak
	Read int64   `json:"read"` // bytes that it read by read(2) and its kin, from whatever file
}

// command is one program to run and measure.
type command struct {
	env  []string
	args []string
	dir  string
	ok   []int // exit codes besides 0 that are no failure

	space *netlab.Space // the network that it runs in; nil: the machine's
}

// measure runs c and returns what it cost and printed. One run may take half an hour.
func measure(ctx context.Context, c command) (cost, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.WaitDelay = &stdout, &stderr, c.dir, 10*time.Second
	cmd.Env = append(os.Environ(), c.env...)

	start := time.Now()
	begin := cmd.Start
	if c.space != nil {
		begin = func() error { return c.space.Start(cmd) }
	}
	if err := begin(); err != nil {
		return cost{}, nil, err
	}
	peak := watchMemory(cmd.Process.Pid)
	err := waitUnreaped(cmd.Process.Pid)
	wall := time.Since(start)
	read := readChars(cmd.Process.Pid) // the kernel keeps the account until the process is reaped
	rss := peak()
	waitErr := cmd.Wait()
	if err != nil {
		return cost{}, nil, fmt.Errorf("wait for %s: %w", c.args[0], err)
	}
	if waitErr != nil && !slices.Contains(c.ok, cmd.ProcessState.ExitCode()) {
		return cost{}, stdout.Bytes(), fmt.Errorf("%s: %w\n%s%s", strings.Join(c.args, " "), waitErr,
			tail(stdout.Bytes()), tail(stderr.Bytes()))
	}
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return cost{wall.Seconds(), cpu.Seconds(), rss, read}, stdout.Bytes(), nil
}

// waitUnreaped waits until a child has ended and leaves it to be reaped.
func waitUnreaped(pid int) error {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err
		}
	}
}

// watchMemory looks at a process's high-water mark every 10 ms until the function that it returns is called.
// The rusage of a child cannot be used: it starts at the parent's own peak.
func watchMemory(pid int) (peak func() int64) {
	stop, done := make(chan struct{}), make(chan int64)
	go func() {
		most := int64(0)
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				done <- most
				return
			case <-tick.C:
				most = max(most, procField(pid, "status", "VmHWM:")<<10)
			}
		}
	}()
	return func() int64 { close(stop); return <-done }
}

func readChars(pid int) int64 { return procField(pid, "io", "rchar:") }

// procField reads one number of a file in /proc; 0 where it is not there.
func procField(pid int, file, field string) int64 {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	return 0
}

// folderSize adds up the lengths of all files below dir.
func folderSize(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// median of a list; 0 for none.
func median[T int64 | float64](list []T) T {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	mid := len(list) / 2
	if len(list)%2 == 1 {
		return list[mid]
	}
	return (list[mid-1] + list[mid]) / 2
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
