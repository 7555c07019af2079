package vmwaretest

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// compact removes, on each disk, what nothing needs, and merges every delta into the file that it stands on where no snapshot
// holds that file and nothing else stands on it. Files that are open stop it, with a FileLocked fault.
func (v *VM) compact() types.BaseMethodFault {
	var first types.BaseMethodFault
	for _, d := range v.disks {
		for {
			p, c := v.merge(d)
			if p == nil {
				break
			}
			if p.busy() || c != nil && c.busy() {
				if first == nil {
					first = &types.FileLocked{FileFault: types.FileFault{File: p.name.String()}}
				}
				break
			}
			if err := v.absorb(d, p, c); err != nil {
				return fileFault(p.name.String(), err)
			}
		}
	}
	return first
}

// merge is a file of the disk that its only child may be written into, or one without a child that nothing needs; or nil.
func (v *VM) merge(d *Disk) (into, child *layer) {
	for _, l := range d.files {
		if l == d.top || v.pinned(d, l) {
			continue
		}
		switch c := d.childrenOf(l); len(c) {
		case 0:
			return l, nil
		case 1:
			return l, c[0]
		}
	}
	return nil, nil
}

func (v *VM) mergeable() bool {
	for _, d := range v.disks {
		if l, _ := v.merge(d); l != nil {
			return true
		}
	}
	return false
}

// absorb writes a child into the file that it stands on, which takes its place everywhere. Without a child the file goes.
func (v *VM) absorb(d *Disk, p, c *layer) error {
	if c == nil {
		return v.drop(d, p)
	}
	grandchildren := d.childrenOf(c)
	n := c.store.bytes()
	if err := p.absorb(c); err != nil {
		return err
	}
	for _, g := range grandchildren {
		g.parent = p
		if err := g.describe(); err != nil {
			return err
		}
	}
	walk(v.roots, func(s *snapshot) {
		if pin := s.pins[d.key]; pin != nil && pin.layer == c {
			pin.layer = p
		}
	})
	if c == d.top {
		d.top = p
		v.stunned(50*time.Millisecond, n)
	}
	return v.drop(d, c)
}

// stunned adds a stun to what the machine has stood still: a fixed time, and what it takes to write n bytes.
func (v *VM) stunned(fixed time.Duration, n int64) {
	const bytesPerSecond = 200 << 20
	v.stun += fixed + time.Duration(float64(n)/bytesPerSecond*float64(time.Second))
}

func (v *VM) consolidateAll(ctx *simulator.Context) types.BaseMethodFault {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.compact()
	v.consolidate = v.mergeable()
	v.settleTracking()
	v.publish(ctx)
	return f
}

// unsnapAll removes every snapshot of the machine.
func (v *VM) unsnapAll(ctx *simulator.Context, broken types.BaseMethodFault) types.BaseMethodFault {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(v.roots) > 0 {
		v.cut(ctx, v.roots[0], true)
	}
	f := broken
	if f == nil {
		f = v.compact()
	}
	v.consolidate = v.mergeable()
	v.settleTracking()
	v.publish(ctx)
	return f
}

// room is whether the datastores take another delta.
func (v *VM) room() types.BaseMethodFault {
	for _, d := range v.disks {
		ds, ctx := v.s.datastore(d.top.name.Datastore), v.s.context()
		if ds == nil {
			return &types.InvalidDatastore{Name: d.top.name.Datastore}
		}
		var free int64
		ctx.WithLock(ds, func() { free = ds.Summary.FreeSpace })
		if free < 1<<20 && !d.independent() {
			return &types.NoDiskSpace{FileFault: types.FileFault{File: d.top.name.String()}, Datastore: ds.Name}
		}
	}
	return nil
}

func fileFault(file string, err error) types.BaseMethodFault {
	f := &types.FileFault{File: file}
	f.FaultCause = &types.LocalizedMethodFault{Fault: &types.SystemErrorFault{Reason: err.Error()}, LocalizedMessage: err.Error()}
	return f
}
