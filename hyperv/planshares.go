package hyperv

import (
	"slices"
	"strings"
)

// shares says whether a VM whose disks lie on shares can go a way. SMB 3, on whose shares VMs can lie, came with 2012. Production checkpoints
// go everywhere; what a writer needs is a shadow copy of the share, for which its host's own VSS asks the file server by FSRVP. That
// copy the host alone is told of: nobody here brings it elsewhere.
func (f *probed) shares(p *Plan) []Reason {
	list := f.sharesOf()
	if len(list) == 0 || !slices.Contains(Procedures, p.Procedure) {
		return nil
	}
	r := Reason{About: aboutDisks, Rule: "VMs can lie on shares: its host is 2012 or later", Found: f.host.release() + "; " + strings.Join(list, ", "),
		Met: f.host.Build >= build2012}
	if !r.Met {
		r.Hint = "SMB 3 came with 2012: move the disks to a volume of the host"
	}
	out := []Reason{r}
	if p.Mode == OffHost && p.Procedure != Production {
		out = append(out, Reason{About: aboutMode, Rule: "shadow copies that the host's VSS has made can be mounted elsewhere, or no disk lies on a share",
			Found: strings.Join(list, ", "), Hint: "use mode " + string(OnHost) + ": the host reads the shadow copy of the share"})
	}
	return out
}

// sharesOf are the shares that a VM's disks lie on, once each.
func (f *probed) sharesOf() (list []string) {
	for i := range f.machine.Disks {
		d := &f.machine.Disks[i]
		if d.uncovered() != "" || serverOf(d.Path) == "" {
			continue
		}
		if share := volumeOf(d.Path); !slices.Contains(list, share) {
			list = append(list, share)
		}
	}
	return list
}

// transporter says whether anybody can bring elsewhere what the host's own VSS makes: asked before it makes anything.
func (p *Plan) transporter(o *ProviderOptions) []Reason {
	if p.Procedure == Production || len(o.Volumes) == 0 {
		return nil
	}
	able := slices.ContainsFunc(o.Volumes, func(v VolumeSnapshotter) bool { _, ok := v.(SetTransporter); return ok })
	r := Reason{About: aboutMode, Rule: "shadow copies that the host's VSS makes can be mounted elsewhere", Found: "by a storage's own means", Met: able}
	if !able {
		r.Found, r.Hint = "nothing is given that does", "use mode "+string(OnHost)+", or give the provider a SetTransporter of the storage"
	}
	return []Reason{r}
}
