package hypervtest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// convertSnapshot is Msvm_VirtualSystemSnapshotService's ConvertToReferencePoint: the checkpoint goes, and the ids of its moment stay.
func convertSnapshot(c *Call) (uint32, []any) {
	h := c.Host
	g, cp := h.checkpointOf(c.Refs["AffectedSnapshot"])
	if g == nil || cp.kind != typeRecovery {
		return 32773, nil
	}
	if s := g.status(); s != 0 && s != statusMerging {
		return 32775, nil
	}
	h.event(Event{Actor: "requester", Name: "convert", VM: g.id, Detail: cp.id})
	g.setStatus(statusDeleting)
	var job *Object
	job = h.startJob(c.Method, g.id, "Converting a checkpoint to a reference point", h.opts.JobTime, func() error {
		point, err := h.pointOf(g, cp)
		if err != nil {
			return err
		}
		if err := g.forget(cp, true); err != nil {
			return err
		}
		h.Add(V2, point)
		h.Add(V2, NewObject("Msvm_ReferencePointOfVirtualSystem", "Antecedent", g.object, "Dependent", point))
		h.affects(job, point)
		return nil
	}, func() { g.setStatus(0); h.collapse(g) })
	return 4096, []any{"ResultingReferencePoint", nil, "Job", job}
}

// pointOf makes the object. Its two arrays go together, and are in no order of the VM's disks.
func (h *Host) pointOf(g *Guest, cp *checkpoint) (*Object, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if cp.gone {
		return nil, &FaultError{Code: 32773, Reason: "the checkpoint is not there any more"}
	}
	var disks, ids []string
	for _, p := range slices.Backward(cp.disks) {
		if p.node.mark == "" {
			continue
		}
		id, err := h.diskID(p.node.name)
		if err != nil {
			return nil, err
		}
		disks, ids = append(disks, id), append(ids, p.node.mark)
	}
	if len(ids) == 0 {
		return nil, &FaultError{Code: 32768, Reason: fmt.Sprintf("'%s' has no disk whose changes are tracked: a reference point cannot be made", g.name)}
	}
	o := NewObject("Msvm_VirtualSystemReferencePoint", "InstanceID", "Microsoft:"+newGUID(), "ElementName", g.name, "ReferencePointType", uint16(2),
		"ConsistencyLevel", cp.level, "VirtualSystemIdentifier", strings.ToUpper(g.id), "VirtualDiskIdentifiers", disks, "ResilientChangeTrackingIdentifiers", ids,
		"CreationTime", time.Now().UTC().Truncate(time.Microsecond))
	return o, nil
}

// destroyReference is Msvm_VirtualSystemReferencePointService's: nobody can ask for changes since its ids then.
func destroyReference(c *Call) (uint32, []any) {
	h, point := c.Host, c.Refs["AffectedReferencePoint"]
	if point == nil || point.Class != "Msvm_VirtualSystemReferencePoint" {
		return 32773, nil
	}
	vm := h.vmOf(point)
	h.event(Event{Actor: "requester", Name: "destroy reference point", VM: vm})
	return 4096, []any{"Job", h.startJob(c.Method, vm, "Removing a reference point", h.opts.JobTime, func() error {
		if !slices.Contains(h.objects, point) {
			return &FaultError{Code: 32773, Reason: "the reference point is not there any more"}
		}
		h.forgetPoint(point)
		return nil
	}, nil)}
}

func (h *Host) forgetPoint(point *Object) {
	h.Remove(point)
	g := h.guests[h.vmOf(point)]
	ids, _ := point.Values["ResilientChangeTrackingIdentifiers"].([]string)
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.drives {
		for _, id := range ids {
			d.track.forget(id)
		}
	}
}

// LoseTracking has a host forget all changes of a VM's disk, as after a failed migration: reference points stay, and their ids are unknown.
func (g *Guest) LoseTracking(disk int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d, err := g.drive(disk); err == nil {
		d.track.reset()
	}
}
