package hypervtest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const leftoverLimit = time.Minute

// Leftovers is what clients left behind on the host, in words: checkpoints for backup, AVHDX files that no VM uses, and those that are
// still to be merged, reference points where a VM has more than one (the base of its last point stays: see ReferencePoints), planned VMs,
// jobs and enumerations under way, services, folders and open files over SMB, shadow copies and their requesters, and snapshots of
// volumes. It is empty after a clean cycle. What users made is not among it: their checkpoints, and the files of these.
func (h *Host) Leftovers() []string {
	ctx, cancel := context.WithTimeout(context.Background(), leftoverLimit)
	defer cancel()
	return h.leftovers(ctx)
}

func (h *Host) leftovers(ctx context.Context) (out []string) {
	h.Lock()
	h.tick(time.Now())
	out = append(out, h.objectLeftovers()...)
	if n := len(h.contexts); n > 0 {
		out = append(out, fmt.Sprintf("%d enumerations under way", n))
	}
	for _, j := range h.jobs {
		if j.object != nil {
			caption, _ := j.object.text("Caption")
			out = append(out, "job under way: "+caption)
		}
	}
	for _, g := range h.guests {
		out = append(out, g.unmerged()...)
	}
	h.Unlock()
	out = append(out, h.strayFiles()...)
	out = append(out, h.shadowLeftovers()...)
	out = append(out, h.smbLeftovers(ctx)...)
	slices.Sort(out)
	return out
}

// objectLeftovers are those of the manager.
func (h *Host) objectLeftovers() (out []string) {
	points := map[string]int{}
	for _, o := range h.objects {
		name, _ := o.text("ElementName")
		id, _ := o.text("InstanceID")
		kind, _ := o.text("VirtualSystemType")
		switch {
		case o.Class == "Msvm_VirtualSystemSettingData" && kind == typeRecovery:
			out = append(out, fmt.Sprintf("checkpoint %q (%s)", name, id))
		case o.Class == "Msvm_PlannedComputerSystem":
			out = append(out, fmt.Sprintf("planned VM %q", name))
		case o.Class == "Msvm_ReferencePointOfVirtualSystem":
			if vm, ok := o.Values["Antecedent"].(*Object); ok {
				id, _ := vm.text("Name")
				points[strings.ToLower(id)]++
			}
		}
	}
	for vm, n := range points {
		if n > 1 { // the base of the last point stays
			out = append(out, fmt.Sprintf("VM %s: %d reference points", vm, n))
		}
	}
	return out
}

// unmerged are the merges that are still to come: below a file that no checkpoint names there stands another.
func (g *Guest) unmerged() (out []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.drives {
		for _, n := range d.nodes {
			if n.named != nil || n == d.tip {
				continue
			}
			for _, c := range d.children(n) {
				out = append(out, fmt.Sprintf("VM %s: %s is not merged", g.id, c.name))
			}
		}
	}
	return out
}

// shadowLeftovers are those of the host's VSS, and of the array that its volumes lie on.
func (h *Host) shadowLeftovers() (out []string) {
	for _, s := range h.Shadows() {
		out = append(out, fmt.Sprintf("shadow copy %s of %s, set %s", s.ID, s.Volume, s.Set))
	}
	if n := h.Requesters(); n > 0 {
		out = append(out, fmt.Sprintf("%d requesters that were not released", n))
	}
	if c := h.Storage().Counts(); c.Held > 0 {
		out = append(out, fmt.Sprintf("%d volume snapshots, %d of them mounted", c.Held, c.Mounted))
	}
	return out
}

// ReferencePoints are the InstanceIDs of a VM's reference points, in order.
func (h *Host) ReferencePoints(vm string) (ids []string) {
	h.Lock()
	defer h.Unlock()
	for _, o := range h.objects {
		if owner, _ := o.text("VirtualSystemIdentifier"); o.Class == "Msvm_VirtualSystemReferencePoint" && strings.EqualFold(owner, vm) {
			id, _ := o.text("InstanceID")
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// knownFiles are the files of this machine that VMs' disks are made of: of a cluster's, wherever they are now.
func (h *Host) knownFiles() map[string]bool {
	known := map[string]bool{}
	hosts := []*Host{h}
	if c := h.beside.cluster; c != nil {
		hosts = c.hosts
	}
	for _, o := range hosts {
		o.Lock()
		for _, g := range o.guests {
			g.mu.Lock()
			for _, d := range g.drives {
				for _, n := range d.nodes {
					if path, err := o.volumePath(n.name); err == nil {
						known[path] = true
					}
				}
			}
			g.mu.Unlock()
		}
		o.Unlock()
	}
	return known
}

// strayFiles are differencing files that belong to no VM. The volumes of a cluster are the first node's to look through.
func (h *Host) strayFiles() (out []string) {
	var found []string
	look := func(dir string) {
		_ = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && slices.Contains(differencing, strings.ToLower(filepath.Ext(p))) {
				found = append(found, p) // a file that goes meanwhile is none that stays
			}
			return nil
		})
	}
	look(h.dir)
	c := h.beside.cluster
	if c != nil && c.hosts[0] == h {
		look(c.shared())
	}
	known := h.knownFiles() // after the look: a file that came meanwhile is known
	for _, p := range found {
		if known[p] {
			continue
		}
		if _, err := os.Lstat(p); err == nil {
			out = append(out, "stray file "+h.nameThere(p))
		}
	}
	return out
}

// nameThere is how the host calls a file of this machine.
func (h *Host) nameThere(path string) string {
	if c := h.beside.cluster; c != nil {
		if rel, err := filepath.Rel(c.shared(), path); err == nil && filepath.IsLocal(rel) {
			return `C:\ClusterStorage\` + strings.ReplaceAll(rel, string(filepath.Separator), `\`)
		}
	}
	return h.nameOf(path, `C:\x`)
}

var differencing = []string{".avhdx", ".avhd"}
