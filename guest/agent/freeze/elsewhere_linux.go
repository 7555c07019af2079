package freeze

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hikae/hikae/guest/agent/wire"
)

// Bounds of a look at other processes.
const (
	maxProcesses  = 1 << 16
	maxNamespaces = 256
)

// Why a file system is named that this process does not see.
const (
	skipElsewhere = "mounted in another mount namespace only"
	skipUnknown   = "there are more mount namespaces than are looked at"
)

// elsewhere names what could be frozen and is mounted in other namespaces alone: a container's, or a service's. It is
// written to while what we see stands still. A process that is gone, or may not be looked at, is passed over.
func elsewhere(ctx context.Context, mounts []Mount) (out []wire.Volume) {
	seen, known := map[string]bool{}, map[Device]bool{}
	for _, m := range mounts {
		known[m.Device] = true
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil
	}
	seen[own] = true
	for _, pid := range processes() {
		dir := filepath.Join("/proc", pid)
		ns, err := os.Readlink(dir + "/ns/mnt")
		if err != nil || seen[ns] {
			continue
		}
		if len(seen) > maxNamespaces || ctx.Err() != nil {
			return append(out, wire.Volume{Skip: skipUnknown})
		}
		seen[ns] = true
		out = append(out, foreign(dir, known)...)
		if len(out) >= maxSkipped {
			return append(out[:maxSkipped], wire.Volume{Skip: fmt.Sprintf("more than %d are %s", maxSkipped, skipElsewhere)})
		}
	}
	return out
}

// processes are the numbers of those that run.
func processes() (pids []string) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(maxProcesses)
	for _, name := range names {
		if _, err := strconv.Atoi(name); err == nil {
			pids = append(pids, name)
		}
	}
	return pids
}

// foreign are those of one namespace that are not known yet.
func foreign(dir string, known map[Device]bool) (out []wire.Volume) {
	f, err := os.Open(dir + "/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	mounts, err := Mounts(f)
	if err != nil {
		return []wire.Volume{{Skip: fmt.Sprintf("the mounts of process %s: %v", filepath.Base(dir), err)}}
	}
	for _, m := range mounts {
		if !virtual[m.Type] && skip(m) == "" && !known[m.Device] {
			known[m.Device] = true
			out = append(out, volume(m, skipElsewhere))
		}
	}
	return out
}
