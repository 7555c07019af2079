package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/vhdx"
)

// take2012R2 is the order of 2012 R2 (R064–R079): a backup checkpoint into which the VM goes on writing, an auto-recovery checkpoint
// beside it in which the data are rolled back, and only then the snapshot of the volume.
func (v *hostVSS) take2012R2(ctx context.Context, set *vssSet, recover bool) (status, err error) {
	set.goneRow = "R079"
	defer v.goOn(set)
	var begun []*vssVM
	defer func() { err = errors.Join(err, v.dropRecovery(begun)) }()
	for _, m := range set.vms {
		if m.failed != nil {
			continue
		}
		begun = append(begun, m)
		if err := v.begin2012R2(ctx, set, m, recover); err != nil {
			return nil, err
		}
	}
	if err := v.pinVolumes(ctx, set, "R076", func() {}); err != nil {
		return nil, err
	}
	v.goOn(set)
	for _, m := range begun {
		if m.online() && recover {
			set.markRecovered()
		}
	}
	if err := v.dropRecovery(begun); err != nil {
		return nil, err
	}
	if err := set.failure(); err != nil {
		return err, nil
	}
	v.h.event(Event{Actor: "host", Name: "shadow copy presented", Row: "R078"})
	return nil, nil
}

// begin2012R2 goes from the request to auto-recovery. An error is that of the whole set; where the guest fails, m has failed.
func (v *hostVSS) begin2012R2(ctx context.Context, set *vssSet, m *vssVM, recover bool) error {
	v.say(m, "R064", "requester", "asks the host's VSS")
	if m.offer.method != vssOnline {
		v.stand(m)
		return nil
	}
	if !v.quiesce2012R2(ctx, m) {
		return nil
	}
	if err := v.backupCheckpoint(set, m); err != nil {
		m.failed = vssError("PrepareSnapshot", m.id, requester.WriterNonRetryable, err.Error())
		return nil
	}
	if err := v.recoveryCheckpoint(m); err != nil {
		return err
	}
	if m.offer.linux {
		v.say(m, "R083", "guest", "file systems thaw")
	} else {
		v.say(m, "R072", "guest", "internal snapshot by the integration services' provider")
		v.say(m, "R073", "guest", "internal snapshot handed to the integration components")
	}
	v.say(m, "R074", "guest", "ready")
	if !recover {
		return nil
	}
	return v.recover2012R2(ctx, m)
}

// quiesce2012R2 is R064. A Linux guest stands still from here until its checkpoint is made; in a Windows guest what no writer holds
// goes on.
func (v *hostVSS) quiesce2012R2(ctx context.Context, m *vssVM) bool {
	v.say(m, "R064", "writer", "asks the integration components")
	if m.offer.linux {
		v.say(m, "R083", "guest", "file systems freeze")
		return v.quiesce(ctx, m)
	}
	v.say(m, "R064", "guest", "integration components ask the guest's VSS")
	v.say(m, "R064", "guest", "writers quiesce")
	if !v.quiesce(ctx, m) {
		return false
	}
	m.g.mu.Lock()
	m.pin()
	m.g.mu.Unlock()
	o := v.options()
	if o.InGap != nil {
		o.InGap(m.g)
	}
	return wait(ctx, o.Gap) == nil
}

// backupCheckpoint gives each disk a child that the VM writes into from now on (R065–R067). It is merged when the backup is over.
func (v *hostVSS) backupCheckpoint(set *vssSet, m *vssVM) error {
	h, g := v.h, m.g
	h.Lock()
	defer h.Unlock()
	g.mu.Lock()
	if m.pinned == nil {
		m.pin()
	}
	m.note()
	cp := &checkpoint{id: newGUID(), kind: typeRecovery, above: g.last, level: 1}
	err := v.fork(m, cp)
	if err == nil {
		g.checkpoints, g.last = append(g.checkpoints, cp), cp
		set.after = append(set.after, func(context.Context) error { return v.mergeBackup(m, cp) })
	}
	g.mu.Unlock()
	if err != nil {
		return err
	}
	h.publish(g, cp, nil)
	v.say(m, "R065", "writer", "backup checkpoint")
	for _, p := range cp.disks {
		v.say(m, "R066", "writer", "backup checkpoint's file", p.drive.tip.name)
	}
	v.say(m, "R067", "guest", "writes go to the backup checkpoint")
	return nil
}

// fork makes the children of all disks, or none.
func (v *hostVSS) fork(m *vssVM, cp *checkpoint) error {
	if err := v.h.eventFault(m.id, "checkpoint").err(); err != nil {
		return err
	}
	names := map[*drive]string{}
	for _, d := range m.g.drives {
		if d.shared() {
			continue // no checkpoint of one VM covers it
		}
		name := d.childName(newGUID())
		if err := d.child(name); err != nil {
			for _, made := range names {
				err = errors.Join(err, v.h.remove(made))
			}
			return err
		}
		names[d] = name
	}
	for i, d := range m.g.drives {
		if names[d] == "" {
			continue
		}
		old, err := d.fork(names[d])
		if err != nil {
			return err
		}
		old.named = cp
		cp.disks = append(cp.disks, pinned{drive: d, node: old, content: m.later[i]})
	}
	return nil
}

// recoveryCheckpoint makes the second child of each disk as it is at the backup checkpoint: a chain of its own (R068–R071). A file that
// an earlier backup left in its place fails it.
func (v *hostVSS) recoveryCheckpoint(m *vssVM) error {
	v.say(m, "R068", "writer", "auto-recovery checkpoint")
	m.recovery = map[int]string{}
	for i, tip := range m.tips {
		if m.shared[i] {
			continue
		}
		if err := v.recoveryFile(m, i, tip); err != nil {
			return err
		}
		v.say(m, "R069", "writer", "auto-recovery checkpoint's file", m.recovery[i])
	}
	v.say(m, "R071", "writer", "auto-recovery checkpoint has a chain of its own")
	return nil
}

func (v *hostVSS) recoveryFile(m *vssVM, i int, tip string) error {
	name := m.recoveryAt[i]
	if v.h.exists(name) {
		return vssError("DoSnapshotSet", m.id, requester.AutorecoveryFailed, name+": the file exists (0x80070050)")
	}
	path, err := v.h.volumePath(name)
	if err != nil {
		return err
	}
	parent, err := v.h.volumePath(tip)
	if err != nil {
		return err
	}
	m.recovery[i] = name
	if m.vhds[i] {
		return createChildVHD(path, parent, tip)
	}
	t, err := vhdx.Create(context.Background(), path, 0, &vhdx.CreateOptions{Parent: parent, ParentName: tip, Open: *v.h.openOptions(parent)})
	if err != nil {
		return err
	}
	return errors.Join(t.Commit(context.Background()), os.Chmod(path, 0o644))
}

// recover2012R2 rolls back, in the auto-recovery checkpoint, what was written between the quiescing and the backup checkpoint (R075).
func (v *hostVSS) recover2012R2(ctx context.Context, m *vssVM) error {
	v.say(m, "R075", "writer", "auto-recovery checkpoint mounted to the VM")
	if err := v.recovering(ctx, m); err != nil {
		return err
	}
	pages := 0
	for i, name := range m.recovery {
		path, err := v.h.volumePath(name)
		if err != nil {
			return err
		}
		n, err := rollback(ctx, path, v.h.dir, m.vhds[i], m.pinned[i], m.later[i])
		if err != nil {
			return err
		}
		pages += n
	}
	if m.offer.linux {
		v.say(m, "R075", "writer", "nothing to roll back")
		return nil
	}
	v.say(m, "R075", "writer", "rolled back to the internal snapshot", fmt.Sprintf("%d pages", pages))
	return nil
}

// dropRecovery merges the auto-recovery checkpoints (R077). Nothing that the VM sees changes: its own chain never stood on them. A fault
// called stale leaves the files.
func (v *hostVSS) dropRecovery(vms []*vssVM) error {
	var errs []error
	for _, m := range vms {
		if len(m.recovery) == 0 {
			continue
		}
		if v.h.eventFault(m.id, "stale") == nil {
			for _, name := range m.recovery {
				errs = append(errs, v.h.remove(name))
			}
			v.say(m, "R077", "writer", "auto-recovery checkpoint merged")
		}
		m.recovery = nil
	}
	return errors.Join(errs...)
}

// mergeBackup has the host merge the backup checkpoint (R079), which goes on by itself.
func (v *hostVSS) mergeBackup(m *vssVM, cp *checkpoint) error {
	h := m.lockHost()
	if h == nil {
		return nil // the VM is no more
	}
	defer h.Unlock()
	if cp.gone {
		return nil // somebody else removed it
	}
	var children []*node
	m.g.mu.Lock()
	for _, p := range cp.disks {
		children = append(children, p.drive.children(p.node)...)
	}
	m.g.mu.Unlock()
	if err := m.g.forget(cp, false); err != nil {
		return err
	}
	h.collapse(m.g)
	v.watch(h, m, children)
	return nil
}

// lockHost locks the host that runs the VM now: it may have moved. Nil, and nothing is locked: there is no such VM any more.
func (m *vssVM) lockHost() *Host {
	for {
		m.g.mu.Lock()
		h := m.g.h
		m.g.mu.Unlock()
		h.Lock()
		if h.guests[m.id] == m.g {
			return h
		}
		m.g.mu.Lock()
		moved := m.g.h != h
		m.g.mu.Unlock()
		h.Unlock()
		if !moved {
			return nil
		}
	}
}

// mergePoll is how often a merge is looked after.
const mergePoll = 5 * time.Millisecond

// watch tells when files are merged. The host's lock is held.
func (v *hostVSS) watch(h *Host, m *vssVM, children []*node) {
	m.g.mu.Lock()
	left := false
	for _, n := range children {
		left = left || !n.gone
	}
	m.g.mu.Unlock()
	if left {
		h.later(mergePoll, func() { v.watch(h, m, children) })
		return
	}
	v.say(m, "R079", "writer", "backup checkpoint merged")
}

// markRecovered: a writer has worked on what is in the shadow copies.
func (s *vssSet) markRecovered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.shadows {
		c.recovered.Store(true)
	}
}

// vssConfig are the files of a VM's configuration. The guest's mu may be held.
func (h *Host) vssConfig(g *Guest) (list []string) {
	folder := g.folder + `\Virtual Machines`
	path, err := h.volumePath(folder)
	if err != nil {
		return nil
	}
	entries, _ := os.ReadDir(path) // none: it has no files
	for _, e := range entries {
		if n := e.Name(); e.Type().IsRegular() && len(n) > len(g.id) && strings.EqualFold(n[:len(g.id)], g.id) {
			list = append(list, folder+`\`+n)
		}
	}
	return list
}
