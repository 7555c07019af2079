package kvm

import (
	"fmt"
	"os"
	"strings"
)

// processStart tells a process from others that had or will have its number; empty where that cannot be known.
func processStart(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // one line of the kernel's
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	fields := strings.Fields(after)
	const started = 19 // of those behind the name: in ticks since the machine was started
	if len(fields) <= started {
		return ""
	}
	return fmt.Sprintf("%d@%s", pid, fields[started])
}
