package vmwaretest

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// QueryChangedDiskAreas answers what of a disk changed between a change id and a snapshot, or with "*" what was ever written.
func (c *vmCalls) QueryChangedDiskAreas(_ *simulator.Context, req *types.QueryChangedDiskAreas) soap.HasFault {
	body := &methods.QueryChangedDiskAreasBody{}
	v := c.s.VMByRef(req.This)
	if v == nil {
		body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: req.This})
		return body
	}
	on := v.PoweredOn()
	v.mu.Lock()
	defer v.mu.Unlock()
	info, f := v.changes(req, on)
	if f != nil {
		body.Fault_ = simulator.Fault(faultName(f), f)
		return body
	}
	body.Res = &types.QueryChangedDiskAreasResponse{Returnval: *info}
	return body
}

func (v *VM) changes(req *types.QueryChangedDiskAreas, on bool) (*types.DiskChangeInfo, types.BaseMethodFault) {
	d := v.diskBy(req.DeviceKey)
	if d == nil {
		return nil, &types.InvalidArgument{InvalidProperty: "deviceKey"}
	}
	if d.lost != "" {
		return nil, d.trackingFault(d.lost)
	}
	at, to, f := v.asked(d, req, on)
	if f != nil {
		return nil, f
	}
	if req.StartOffset < 0 || req.StartOffset >= at.size {
		return nil, &types.InvalidArgument{InvalidProperty: "startOffset"}
	}
	if req.ChangeId == "*" {
		return v.page(at.size, req.StartOffset, written(at)), nil
	}
	uuid, from, ok := parseChangeID(req.ChangeId)
	switch {
	case !ok:
		return nil, &types.InvalidArgument{InvalidProperty: "changeId"}
	case uuid != d.tracker.uuid || from > to:
		return nil, d.trackingFault(NoEpoch)
	}
	var grains []int64
	for g := range d.tracker.between(from, to) {
		grains = append(grains, g)
	}
	slices.Sort(grains)
	return v.page(at.size, req.StartOffset, grains), nil
}

// asked is the state that a question is about, and the generation that had ended there.
func (v *VM) asked(d *Disk, req *types.QueryChangedDiskAreas, on bool) (*layer, int, types.BaseMethodFault) {
	if req.Snapshot == nil {
		switch {
		case on:
			return nil, 0, &types.InvalidPowerState{
				RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: types.VirtualMachinePowerStatePoweredOn,
			}
		case d.tracker == nil:
			return nil, 0, d.trackingFault(NoTrack)
		}
		return d.top, d.tracker.current + 1, nil
	}
	s := v.snapshotBy(*req.Snapshot)
	if s == nil {
		return nil, 0, &types.NotFound{}
	}
	p := s.pins[d.key]
	if p == nil || p.changeID == "" || d.tracker == nil {
		return nil, 0, d.trackingFault(NoTrack)
	}
	uuid, n, ok := parseChangeID(p.changeID)
	if !ok || uuid != d.tracker.uuid {
		return nil, 0, d.trackingFault(NoEpoch)
	}
	return p.layer, n, nil
}

func (d *Disk) trackingFault(key string) types.BaseMethodFault {
	f := &types.FileFault{File: d.top.name.String()}
	f.FaultMessage = []types.LocalizableMessage{{Key: key, Message: "Change tracking cannot tell: " + key}}
	return f
}

// written are the grains that hold data.
func written(l *layer) (out []int64) {
	for off := int64(0); off < l.size; {
		n, yes := l.allocated(off, l.size)
		if yes {
			for g := off / trackGrain; g*trackGrain < off+n; g++ {
				if len(out) == 0 || out[len(out)-1] < g {
					out = append(out, g)
				}
			}
		}
		off += n
	}
	return out
}

// page is one answer: so many areas at most, and how far they reach.
func (v *VM) page(size, start int64, grains []int64) *types.DiskChangeInfo {
	info := &types.DiskChangeInfo{StartOffset: start, Length: size - start}
	for _, g := range grains {
		off, end := max(g*trackGrain, start), min((g+1)*trackGrain, size)
		if off >= end {
			continue
		}
		areas := info.ChangedArea
		if n := len(areas); n > 0 && areas[n-1].Start+areas[n-1].Length == off {
			areas[n-1].Length += end - off
			continue
		}
		if len(areas) == v.s.opts.PageAreas {
			info.Length = areas[len(areas)-1].Start + areas[len(areas)-1].Length - start
			return info
		}
		info.ChangedArea = append(areas, types.DiskChangeExtent{Start: off, Length: end - off})
	}
	return info
}
