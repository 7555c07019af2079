package hypervtest

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// Values of SnapshotType.
const (
	snapshotUser     = "2"
	snapshotRecovery = "32768"
)

// checkpoint is a state that a VM was in.
type checkpoint struct {
	id     string // GUID, in capital letters
	kind   string // VirtualSystemType
	name   string // that was asked for; empty: the host gives one
	object *Object
	above  *checkpoint // that it was made on
	disks  []pinned
	level  uint8 // ConsistencyLevel that was reached
	gone   bool
}

// pinned is one disk of a checkpoint.
type pinned struct {
	drive   *drive
	node    *node
	content *content
	file    *Object // its settings in the checkpoint
}

// wish is what is asked of a checkpoint.
type wish struct {
	kind   string
	level  uint8 // 1 application, 2 crash; 0: the first that is possible
	full   bool  // the guest's logs may be truncated
	ignore bool  // what no checkpoint covers is left out
	name   string
	late   time.Duration
}

// createSnapshot is Msvm_VirtualSystemSnapshotService's.
func createSnapshot(c *Call) (uint32, []any) {
	h, vm := c.Host, c.Refs["AffectedSystem"]
	if vm == nil || vm.Class != "Msvm_ComputerSystem" || vm == h.machine {
		return 32773, nil
	}
	id, _ := vm.text("Name")
	g := h.guests[strings.ToLower(id)]
	w, ok := h.wished(c)
	if g == nil || !ok {
		return 32773, nil
	}
	if g.status() != 0 && g.status() != statusMerging {
		return 32775, nil
	}
	h.event(Event{Actor: "requester", Name: "request", VM: g.id, Detail: fmt.Sprintf("checkpoint of kind %s, level %d", w.kind[strings.LastIndexByte(w.kind, ':')+1:], w.level), Row: "R090"})
	g.setStatus(statusCreating)
	var job *Object
	job = h.startJob(c.Method, g.id, "Creating a checkpoint", h.opts.JobTime, func() error {
		cp, err := g.take(w)
		if err != nil {
			return fmt.Errorf("checkpoint operation for '%s' failed (virtual machine ID %s): %w", g.name, id, err)
		}
		h.list(g, cp, w.late, job)
		return nil
	}, func() { g.setStatus(0); h.collapse(g) })
	return 4096, []any{"ResultingSnapshot", nil, "Job", job}
}

// wished reads what is asked for. What the generation does not know is refused.
func (h *Host) wished(c *Call) (w wish, ok bool) {
	switch c.text("SnapshotType") {
	case snapshotUser:
		w.kind = typeUser
	case snapshotRecovery:
		w.kind = typeRecovery
		if ok = h.gen.since("2016"); !ok {
			return w, false
		}
	default:
		return w, false
	}
	w.late = h.opts.Late
	text := c.text("SnapshotSettings")
	if text == "" {
		return w, true
	}
	in, err := parseEmbedded(text)
	if err != nil || !strings.EqualFold(in.Class, "Msvm_VirtualSystemSnapshotSettingData") || !h.gen.since("2016") {
		return w, false
	}
	known := []string{"InstanceID", "Caption", "Description", "ElementName", "ConsistencyLevel", "IgnoreNonSnapshottableDisks", "GuestBackupType"}
	for _, n := range in.Names {
		if !slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, n) }) || strings.EqualFold(n, "GuestBackupType") && !h.gen.since("2019") {
			return w, false
		}
	}
	level, _ := in.text("ConsistencyLevel")
	kind, _ := in.text("GuestBackupType")
	if w.name, _ = in.text("ElementName"); h.opts.DropNames {
		w.name = ""
	}
	ignore, _ := in.text("IgnoreNonSnapshottableDisks")
	w.ignore, w.full = strings.EqualFold(ignore, "true"), kind == "" || kind == "0" || kind == "1"
	switch level {
	case "", "0":
	case "1":
		w.level = 1
	case "2":
		w.level = 2
	default:
		return w, false
	}
	return w, true
}

// take makes a checkpoint: the guest is quiesced, each disk gets a child, and what was the tip is only read from then on.
func (g *Guest) take(w wish) (*checkpoint, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.coverable(w); err != nil {
		return nil, err
	}
	cp := &checkpoint{id: newGUID(), kind: w.kind, name: w.name, above: g.last, level: 2}
	if w.level != 2 {
		err := g.quiesce()
		switch {
		case err == nil:
			cp.level = 1
		case w.level == 1:
			return nil, fmt.Errorf("production checkpoints cannot be created: %w", err)
		}
	}
	if cp.level == 2 {
		g.pin()
	}
	err := g.branch(cp)
	if cp.level == 1 {
		if thawed := g.thaw(); err == nil && thawed != nil {
			err = errors.Join(thawed, g.unbranch(cp))
		}
	}
	if err != nil {
		return nil, err
	}
	if cp.level == 1 && g.on && g.os == "windows" && w.kind == typeRecovery {
		kind := "copy: logs are left alone"
		if w.full {
			kind = "full: logs may be truncated"
		}
		g.h.event(Event{Actor: "guest", Name: "backup type", VM: g.id, Detail: kind})
	}
	g.checkpoints = append(g.checkpoints, cp)
	g.last = cp
	return cp, nil
}

// coverable: no checkpoint covers a disk that is passed through, and a shared one is in none of a single VM.
func (g *Guest) coverable(w wish) error {
	for _, o := range g.h.parts(g.set) {
		sub, _ := o.text("ResourceSubType")
		if sub == subPhysical && !w.ignore {
			return &FaultError{Code: 32768, Reason: "a physical disk that is attached cannot be in a checkpoint"}
		}
		if shared, _ := o.text("PersistentReservationsSupported"); shared == "true" && !w.ignore {
			return &FaultError{Code: 32768, Reason: "a shared virtual disk cannot be in a checkpoint of a single virtual machine"}
		}
	}
	return nil
}

func (d *drive) shared() bool {
	v, _ := d.resource.text("PersistentReservationsSupported")
	return v == "true"
}

// branch makes the children of all disks, or none.
func (g *Guest) branch(cp *checkpoint) error {
	if err := g.h.eventFault(g.id, "checkpoint").err(); err != nil {
		return err
	}
	names := map[*drive]string{}
	for _, d := range g.drives {
		if d.shared() {
			continue
		}
		name := d.childName(newGUID())
		if err := d.child(name); err != nil {
			for _, made := range names {
				err = errors.Join(err, g.h.remove(made))
			}
			return err
		}
		names[d] = name
	}
	for _, d := range g.drives {
		if names[d] == "" {
			continue
		}
		old, err := d.fork(names[d])
		if err != nil {
			return err
		}
		old.named = cp
		if cp.kind == typeRecovery && !d.vhd && g.h.gen.tracks(g.version()) {
			if !g.h.tracked(d) { // somebody took its record away
				d.track.reset()
			}
			old.mark = d.track.mark()
			g.h.touchTracking(d)
		}
		cp.disks = append(cp.disks, pinned{drive: d, node: old, content: d.frozen})
		g.h.event(Event{Actor: "host", Name: "checkpoint", VM: g.id, Detail: names[d], Row: "R092"})
	}
	return nil
}

// unbranch takes a checkpoint back that was just made, with nothing written since.
func (g *Guest) unbranch(cp *checkpoint) error {
	var err error
	for _, p := range cp.disks {
		d := p.drive
		err = errors.Join(err, d.shut(), d.drop(d.tip))
		d.tip = p.node
		err = errors.Join(err, d.remember())
		p.node.named = nil
		d.track.forget(p.node.mark)
		p.node.mark = ""
		d.show()
	}
	cp.disks = nil
	return err
}

func (g *Guest) version() string {
	v, _ := g.set.text("Version")
	return v
}

// list makes a checkpoint's settings, from those of the VM as it is now, and lets it be found after a while.
func (h *Host) list(g *Guest, cp *checkpoint, late time.Duration, job *Object) {
	if f := h.eventFault(g.id, "late"); f != nil {
		late += f.Delay
		if f.Hang {
			late = 1000 * time.Hour
		}
	}
	if late <= 0 {
		h.publish(g, cp, job)
		return
	}
	h.laterOf(g.id, late, func() { h.publish(g, cp, job) })
}

func (h *Host) publish(g *Guest, cp *checkpoint, job *Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if cp.gone {
		return
	}
	from, to := "Microsoft:"+strings.ToUpper(g.id), "Microsoft:"+cp.id
	if v, ok := g.set.text("InstanceID"); ok {
		from = v
	}
	set := copyOf(g.set, from, to)
	name := cp.name
	if name == "" {
		name = g.name + " - (" + time.Now().UTC().Format("1/2/2006 - 3:04:05 PM") + ")"
	}
	set.Set("ElementName", name)
	set.Set("VirtualSystemType", cp.kind)
	set.Set("ConfigurationID", cp.id)
	set.Set("ConfigurationFile", `Snapshots\`+cp.id+h.configEnding())
	set.Set("CreationTime", time.Now().UTC().Truncate(time.Microsecond))
	set.Set("Notes", []string{})
	set.Set("Parent", nil)
	if cp.above != nil && cp.above.object != nil {
		set.Set("Parent", h.Path(h.opts.Name, cp.above.object))
	}
	if _, ok := set.Values["GuestStateFile"]; ok {
		set.Set("GuestStateFile", `Snapshots\`+cp.id+".vmgs")
	}
	cp.object = h.Add(V2, set)
	for _, p := range h.parts(g.set) {
		o := h.part(set, copyOf(p, from, to))
		for _, f := range h.features(p) {
			h.feature(o, copyOf(f, from, to))
		}
		for i := range cp.disks {
			if cp.disks[i].drive.resource == p {
				cp.disks[i].file = o
				o.Set("HostResource", []string{cp.disks[i].node.name})
			}
		}
	}
	h.leaveOut(set, cp)
	h.Add(V2, NewObject("Msvm_SnapshotOfVirtualSystem", "Antecedent", g.object, "Dependent", set))
	g.relink()
	if job != nil {
		h.affects(job, set)
	}
	if err := g.saveSnapshotConfig(cp); err != nil {
		h.event(Event{Actor: "host", Name: "configuration not saved", VM: g.id, Detail: err.Error()})
	}
}

// leaveOut takes disks that no checkpoint covers from its settings.
func (h *Host) leaveOut(set *Object, cp *checkpoint) {
	for _, o := range h.parts(set) {
		sub, _ := o.text("ResourceSubType")
		shared, _ := o.text("PersistentReservationsSupported")
		if sub == subPhysical || shared == "true" {
			h.Remove(o)
		}
	}
}

// copyOf is an object of other settings.
func copyOf(o *Object, from, to string) *Object {
	c := &Object{Class: o.Class, Names: slices.Clone(o.Names), Values: map[string]any{}}
	for n, v := range o.Values {
		switch s := v.(type) {
		case string:
			if n == "InstanceID" || n == "Parent" {
				v = replaceFold(replaceFold(s, from, to), strings.ReplaceAll(from, `\`, `\\`), to)
			}
		case []string:
			v = slices.Clone(s)
		}
		c.Values[n] = v
	}
	return c
}

func replaceFold(s, from, to string) string {
	i := strings.Index(strings.ToLower(s), strings.ToLower(from))
	if i < 0 || from == "" {
		return s
	}
	return s[:i] + to + s[i+len(from):]
}

// relink tells which checkpoint the present state stands on.
func (g *Guest) relink() {
	h := g.h
	for _, o := range slices.Clone(h.objects) {
		if (o.Class == "Msvm_MostCurrentSnapshotInBranch" || o.Class == "Msvm_LastAppliedSnapshot") && o.leadsTo(g.object) {
			h.Remove(o)
		}
	}
	last := g.last
	for last != nil && last.object == nil {
		last = last.above
	}
	g.set.Set("Parent", nil)
	if last == nil {
		return
	}
	g.set.Set("Parent", h.Path(h.opts.Name, last.object))
	for _, class := range []string{"Msvm_MostCurrentSnapshotInBranch", "Msvm_LastAppliedSnapshot"} {
		h.Add(V2, NewObject(class, "Antecedent", g.object, "Dependent", last.object))
	}
}

// checkpointOf finds a checkpoint by its settings.
func (h *Host) checkpointOf(set *Object) (*Guest, *checkpoint) {
	if set == nil {
		return nil, nil
	}
	for _, g := range h.guests {
		for _, cp := range g.checkpoints {
			if cp.object == set {
				return g, cp
			}
		}
	}
	return nil, nil
}

// destroySnapshot is Msvm_VirtualSystemSnapshotService's. The files are merged after its job's end.
func destroySnapshot(c *Call) (uint32, []any) {
	h := c.Host
	g, cp := h.checkpointOf(c.Refs["AffectedSnapshot"])
	if g == nil {
		return 32773, nil
	}
	if s := g.status(); s != 0 && s != statusMerging {
		return 32775, nil
	}
	h.event(Event{Actor: "requester", Name: "destroy", VM: g.id, Detail: cp.id})
	g.setStatus(statusDeleting)
	return 4096, []any{"Job", h.startJob(c.Method, g.id, "Removing a checkpoint", h.opts.JobTime, func() error {
		return g.forget(cp, false)
	}, func() { g.setStatus(0); h.collapse(g) })}
}

// forget removes a checkpoint, but not yet what its files hold. A mark that is kept goes on as the id of a reference point.
func (g *Guest) forget(cp *checkpoint, keep bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if cp.gone {
		return &FaultError{Code: 32773, Reason: "the checkpoint is not there any more"}
	}
	cp.gone = true
	for _, p := range cp.disks {
		p.node.named = nil
		for _, n := range p.drive.nodes {
			n.stuck = false
		}
		if p.node.mark != "" && !keep {
			p.drive.track.forget(p.node.mark)
			p.node.mark = ""
		}
	}
	g.checkpoints = slices.DeleteFunc(g.checkpoints, func(o *checkpoint) bool { return o == cp })
	for _, o := range g.checkpoints {
		if o.above == cp {
			o.above = cp.above
			if o.object != nil {
				o.object.Set("Parent", nil)
				if cp.above != nil && cp.above.object != nil {
					o.object.Set("Parent", g.h.Path(g.h.opts.Name, cp.above.object))
				}
			}
		}
	}
	if g.last == cp {
		g.last = cp.above
	}
	if cp.object != nil {
		g.h.removeSettings(cp.object)
	}
	g.relink()
	return g.removeSnapshotConfig(cp)
}

// removeSettings removes settings with their parts.
func (h *Host) removeSettings(set *Object) {
	for _, o := range h.parts(set) {
		h.Remove(o)
	}
	h.Remove(set)
}

// applySnapshot is Msvm_VirtualSystemSnapshotService's: the VM is off, or goes off, and stands where the checkpoint was.
func applySnapshot(c *Call) (uint32, []any) {
	h := c.Host
	g, cp := h.checkpointOf(c.Refs["Snapshot"])
	if g == nil {
		return 32773, nil
	}
	if g.running() {
		return 32775, nil
	}
	g.setStatus(statusApplying)
	return 4096, []any{"Job", h.startJob(c.Method, g.id, "Applying a checkpoint", h.opts.JobTime, func() error { return g.revert(cp) },
		func() { g.setStatus(0); h.collapse(g) })}
}

// revert goes back to a checkpoint. What change tracking makes of that is not known of real hosts. This one takes the worse: ids stay
// known, and the lists do not tell that the content went back.
func (g *Guest) revert(cp *checkpoint) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if cp.gone {
		return &FaultError{Code: 32773, Reason: "the checkpoint is not there any more"}
	}
	for _, p := range cp.disks {
		d := p.drive
		if err := d.shut(); err != nil {
			return err
		}
		was := d.tip
		d.tip = p.node
		name := d.childName(newGUID())
		if err := d.child(name); err != nil {
			d.tip = was
			return err
		}
		if _, err := d.fork(name); err != nil {
			return err
		}
		d.model, d.size = p.content.clone(), p.content.size
		g.h.event(Event{Actor: "host", Name: "apply", VM: g.id, Detail: name})
	}
	g.last = cp
	g.relink()
	return nil
}

var errNoCheckpoint = fmt.Errorf("no such checkpoint: %w", fs.ErrNotExist)
