package kvm

import (
	"fmt"
	"io"
	"os"
)

// commandLine is what a process was started with, where it can be read.
func commandLine(pid int, ok bool) []byte {
	if !ok {
		return nil
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	defer f.Close()
	line, err := io.ReadAll(io.LimitReader(f, maxCommandLine+1))
	if err != nil {
		return nil
	}
	return line
}
