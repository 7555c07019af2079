package hypervtest

import (
	"context"
	"fmt"
)

// take2008 is the order of 2008 R2 and 2012 (R041–R060): a snapshot inside the guest, then, while the guest writes on, one of the
// volume, and then auto-recovery in that.
func (v *hostVSS) take2008(ctx context.Context, set *vssSet, recover bool) (status, err error) {
	set.goneRow = "R052"
	defer v.goOn(set)
	for _, m := range set.vms {
		if m.failed == nil {
			v.begin2008(ctx, m)
		}
	}
	if set.failure() == nil {
		if err := v.gap2008(ctx, set); err != nil {
			return nil, err
		}
	}
	if err := v.pinVolumes(ctx, set, "R048", func() {
		for _, m := range set.vms {
			if m.failed == nil {
				m.note()
			}
		}
	}); err != nil {
		return nil, err
	}
	v.goOn(set)
	if err := set.failure(); err != nil {
		return err, nil
	}
	for _, m := range set.vms {
		if !m.online() || !recover {
			continue
		}
		if err := v.recover2008(ctx, set, m); err != nil {
			return nil, err
		}
	}
	v.h.event(Event{Actor: "host", Name: "shadow copy presented", Row: "R050"})
	return nil, nil
}

// begin2008 goes from the request to a VM that is ready.
func (v *hostVSS) begin2008(ctx context.Context, m *vssVM) {
	v.say(m, "R041", "requester", "asks the host's VSS")
	if m.offer.method != vssOnline {
		v.stand(m)
		return
	}
	v.say(m, "R042", "writer", "asks the integration components")
	v.say(m, "R043", "guest", "integration components ask the guest's VSS")
	v.say(m, "R044", "guest", "writers quiesce")
	if !v.quiesce(ctx, m) {
		return
	}
	m.g.mu.Lock()
	m.pin()
	v.say(m, "R045", "guest", "internal snapshot by the software provider")
	m.g.mu.Unlock()
	v.say(m, "R046", "guest", "writes again")
	v.say(m, "R046", "guest", "internal snapshot handed to the integration components")
	v.say(m, "R047", "guest", "ready")
}

// gap2008 is the time in which guests write on, before the volume is pinned.
func (v *hostVSS) gap2008(ctx context.Context, set *vssSet) error {
	o, any := v.options(), false
	for _, m := range set.vms {
		if !m.online() {
			continue
		}
		any = true
		v.say(m, "R053", "guest", "writes in the gap")
		if o.InGap != nil {
			o.InGap(m.g)
		}
	}
	if !any {
		return ctx.Err()
	}
	return wait(ctx, o.Gap)
}

// recover2008 rolls a VM in the shadow copy back to its internal snapshot.
func (v *hostVSS) recover2008(ctx context.Context, set *vssSet, m *vssVM) error {
	v.say(m, "R049", "host", "auto-recovery begins")
	set.open(true)
	defer set.open(false)
	v.say(m, "R056", "host", "shadow copy writable for the writer")
	v.say(m, "R057", "writer", "shadow copy mounted read-write")
	if err := v.recovering(ctx, m); err != nil {
		return err
	}
	pages, err := v.rollbackShadow(ctx, set, m)
	if err != nil {
		return err
	}
	v.say(m, "R058", "writer", "rolled back to the internal snapshot", fmt.Sprintf("%d pages", pages))
	v.say(m, "R059", "guest", "internal snapshot deleted")
	set.open(false)
	v.say(m, "R056", "host", "shadow copy read-only for good")
	v.say(m, "R060", "writer", "auto-recovery done")
	return nil
}

// rollbackShadow writes old content into the files as they are in the shadow copy.
func (v *hostVSS) rollbackShadow(ctx context.Context, set *vssSet, m *vssVM) (pages int, err error) {
	m.g.mu.Lock()
	names, vhds := m.tips, m.vhds
	m.g.mu.Unlock()
	for i := range m.pinned {
		path, root, ok := set.pathOf(v, names[i])
		if !ok {
			continue // it lies on a volume that is not in the set: the requester left it out
		}
		n, err := rollback(ctx, path, root, vhds[i], m.pinned[i], m.later[i])
		if err != nil {
			return 0, err
		}
		pages += n
	}
	return pages, nil
}
