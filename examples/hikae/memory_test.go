package main

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

// The least of what the machine has and of what the control groups allow counts, also that of a group further up.
func TestMemoryThatThereIs(t *testing.T) {
	const meminfo = "MemTotal:       2097152 kB\nMemFree:           1 kB\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"nothing is known": {nil, 0},
		"the machine":      {map[string]string{"proc/meminfo": meminfo}, 2 << 30},
		"no bound": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/job.slice/hikae.service\n",
			"sys/fs/cgroup/job.slice/hikae.service/memory.max": "max\n"}, 2 << 30},
		"a group": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/job.slice/hikae.service\n",
			"sys/fs/cgroup/job.slice/hikae.service/memory.max": "536870912\n"}, 512 << 20},
		"a group above": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/job.slice/hikae.service\n",
			"sys/fs/cgroup/job.slice/memory.max": "268435456\n", "sys/fs/cgroup/job.slice/hikae.service/memory.max": "536870912\n"}, 256 << 20},
		"the first version": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "5:cpu,cpuacct:/x\n9:memory:/docker/1\n",
			"sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "1073741824\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 1 << 30},
		"what is no cgroup file": {map[string]string{"proc/meminfo": "MemTotal: much\n", "proc/self/cgroup": "x\n0::\n"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range c.files {
				require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(file)), 0o700))
				require.NoError(t, os.WriteFile(filepath.Join(root, file), []byte(text), 0o600))
			}
			require.Equal(t, c.want, memoryOf(root))
		})
	}
}

// The environment's word counts; without it the bound is below what there is.
func TestMemoryIsBound(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	debug.SetMemoryLimit(math.MaxInt64)
	t.Setenv("GOMEMLIMIT", "off")
	boundMemory()
	require.Equal(t, int64(math.MaxInt64), debug.SetMemoryLimit(-1))
	t.Setenv("GOMEMLIMIT", "")
	boundMemory()
	if have := memoryOf("/"); have > 0 {
		require.Equal(t, have/4*3, debug.SetMemoryLimit(-1))
	}
}
