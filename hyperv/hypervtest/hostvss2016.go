package hypervtest

import "context"

// take2016 is the order of 2016 and later where the writer is asked (R100–R103): the guest stands still while the volume is pinned.
// No checkpoint is there at any time.
func (v *hostVSS) take2016(ctx context.Context, set *vssSet) (status, err error) {
	set.goneRow = "R100"
	defer v.goOn(set)
	for _, m := range set.vms {
		if m.failed == nil {
			v.begin2016(ctx, m)
		}
	}
	if err := v.pinVolumes(ctx, set, "R100", func() {
		for _, m := range set.vms {
			if m.online() {
				m.pin()
			}
		}
	}); err != nil {
		return nil, err
	}
	for _, m := range set.vms {
		switch {
		case !m.online():
		case m.offer.linux:
			v.say(m, "R083", "guest", "file systems thaw")
		default:
			v.say(m, "R101", "guest", "writes again")
		}
	}
	v.goOn(set)
	if err := set.failure(); err != nil {
		return err, nil
	}
	v.h.event(Event{Actor: "host", Name: "shadow copy presented", Row: "R103"})
	return nil, nil
}

func (v *hostVSS) begin2016(ctx context.Context, m *vssVM) {
	v.say(m, "R100", "requester", "asks the host's VSS")
	if m.offer.method != vssOnline {
		v.stand(m)
		return
	}
	v.say(m, "R101", "writer", "asks the integration components")
	if m.offer.linux {
		v.say(m, "R083", "guest", "file systems freeze")
	} else {
		v.say(m, "R101", "guest", "integration components ask the guest's VSS")
		v.say(m, "R101", "guest", "writers quiesce")
	}
	v.quiesce(ctx, m)
}
