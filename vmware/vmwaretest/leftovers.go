package vmwaretest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
)

// Leftovers is what clients left behind, in words: snapshots, files that nothing refers to, machines that need consolidation,
// methods that are disabled, tasks under way, sessions, and what the services tell. It is empty after a clean cycle.
func (s *Server) Leftovers() []string {
	var out []string
	for _, v := range s.VMs() {
		out = append(out, v.leftovers()...)
	}
	out = append(out, s.strayFiles()...)
	for _, u := range s.sessionList() {
		out = append(out, "session of "+u.UserName)
	}
	s.mu.Lock()
	if n := len(s.jobs); n > 0 {
		out = append(out, fmt.Sprintf("%d tasks under way", n))
	}
	services := slices.Clone(s.services)
	s.mu.Unlock()
	for _, p := range services {
		out = append(out, p.leftovers()...)
	}
	slices.Sort(out)
	return out
}

func (v *VM) leftovers() (out []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	add := func(format string, args ...any) {
		out = append(out, fmt.Sprintf("VM %s: ", v.name)+fmt.Sprintf(format, args...))
	}
	walk(v.roots, func(s *snapshot) { add("snapshot %q (%s)", s.name, s.ref.Value) })
	if v.consolidate {
		add("its disks need consolidation")
	}
	for m, by := range v.disabled {
		add("method %s is disabled by %s", m, by)
	}
	for _, d := range v.disks {
		for _, l := range d.files {
			if l.opens > 0 {
				add("%s is open", l.name.String())
			}
		}
	}
	return out
}

// strayFiles are those of the datastores that belong to no machine.
func (s *Server) strayFiles() (out []string) {
	known := s.knownFiles()
	for _, e := range s.reg.All("Datastore") {
		ds, ok := e.(*simulator.Datastore)
		if !ok {
			continue
		}
		_ = filepath.WalkDir(ds.Summary.Url, func(p string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() || known[p] || !slices.Contains(diskFiles, filepath.Ext(p)) {
				return nil // a file that goes meanwhile is none that stays
			}
			rel, _ := filepath.Rel(ds.Summary.Url, p)
			out = append(out, fmt.Sprintf("stray file [%s] %s", ds.Name, filepath.ToSlash(rel)))
			return nil
		})
	}
	return out
}

var diskFiles = []string{".vmdk", ".vmsn", ".tmp"}

func (s *Server) knownFiles() map[string]bool {
	known := map[string]bool{}
	for _, v := range s.VMs() {
		v.mu.Lock()
		for _, d := range v.disks {
			for _, l := range d.files {
				known[l.local], known[l.extent()] = true, true
			}
		}
		walk(v.roots, func(n *snapshot) { known[n.local] = true })
		v.mu.Unlock()
	}
	return known
}

// Folder is the folder of the machine's files: "[datastore] name".
func (v *VM) Folder() string {
	vm, ctx := v.sim(), v.s.context()
	if vm == nil {
		return ""
	}
	var p object.DatastorePath
	ctx.WithLock(vm, func() { p.FromString(vm.Config.Files.VmPathName) })
	if i := strings.LastIndexByte(p.Path, '/'); i >= 0 {
		p.Path = p.Path[:i]
	}
	return p.String()
}
