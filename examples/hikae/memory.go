package main

import (
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// boundMemory has the collector keep this process within three quarters of the memory that it may have: of the machine's, or of its
// control group's where that is less. Where GOMEMLIMIT says something, that counts. It is a bound on garbage alone: what is in use is not refused.
func boundMemory() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if have := memoryOf("/"); have > 0 {
		debug.SetMemoryLimit(have / 4 * 3)
	}
}

// memoryOf is how much memory this process may have, in bytes, by the files below root; zero where the system does not tell.
func memoryOf(root string) int64 {
	least := int64(0)
	take := func(n int64) {
		if n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	take(machineMemory(smallFile(root, "proc/meminfo")))
	for line := range strings.Lines(smallFile(root, "proc/self/cgroup")) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		if parts[1] == "memory" {
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		} else if parts[1] != "" {
			continue
		}
		for at := path.Clean("/" + parts[2]); ; at = path.Dir(at) { // a group above bounds those in it
			n, _ := strconv.ParseInt(strings.TrimSpace(smallFile(root, path.Join(mount, at, file))), 10, 64) // "max" is no bound
			take(n)
			if at == "/" {
				break
			}
		}
	}
	return least
}

// machineMemory is what /proc/meminfo says of the whole machine.
func machineMemory(text string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return n << 10
		}
	}
	return 0
}

func smallFile(root, name string) string {
	data, err := readSmall(filepath.Join(root, filepath.FromSlash(name)), 1<<20)
	if err != nil {
		return "" // another system, or another version of it
	}
	return string(data)
}
