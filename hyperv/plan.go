package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/hikae/hikae/hyperv/cim"
)

// probed is all that a plan is made from. It was looked at before, so that the choice itself asks nobody.
type probed struct {
	host        HostInfo
	cluster     *Cluster // nil: the host is by itself
	machine     *Machine
	collections []string // guest clusters that the VM is in
}

// plan looks at a VM where it runs now, and chooses how it is backed up.
func (s *Site) plan(ctx context.Context, vm string, o *ProviderOptions) (*planned, error) {
	f, h, err := s.probe(ctx, vm)
	if err != nil {
		return nil, err
	}
	p, err := f.choose(o)
	if err != nil {
		return nil, err
	}
	return &planned{plan: p, host: h, machine: f.machine}, nil
}

// probe asks for all that a plan is made from.
func (s *Site) probe(ctx context.Context, vm string) (*probed, *Host, error) {
	h, err := s.Owner(ctx, vm)
	if err != nil {
		return nil, nil, err
	}
	f := &probed{host: h.Info()}
	if f.machine, err = h.Machine(ctx, vm); err != nil {
		return nil, nil, fmt.Errorf("host %s: %w", f.host.Name, err)
	}
	s.trustFiles(f.machine)
	if f.cluster, err = s.Cluster(ctx); err != nil {
		return nil, nil, err
	}
	if f.collections, err = h.collections(ctx, f.machine.ID); err != nil {
		return nil, nil, fmt.Errorf("host %s: guest clusters: %w", f.host.Name, err)
	}
	return f, h, nil
}

// collections are the groups of VMs that are backed up together only: those that share disks.
func (h *Host) collections(ctx context.Context, vm string) (names []string, err error) {
	if h.info.Build < build2016 {
		return nil, nil // none are there yet
	}
	ref := cim.Ref{Namespace: cim.Virtualization, Class: "Msvm_ComputerSystem",
		Keys: []cim.Key{{Name: "CreationClassName", Value: "Msvm_ComputerSystem"}, {Name: "Name", Value: strings.ToUpper(vm)}}}
	list, err := cim.All(h.client.Associators(ctx, ref, cim.Hop{Result: "Msvm_VirtualSystemCollection"}, nil))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, cim.ErrQuery) {
		return nil, nil // this host does not know the class
	}
	for _, in := range list {
		names = append(names, in.Text("ElementName"))
	}
	return names, err
}

// choose makes the plan, or says in a *PlanError what is in the way. It depends on nothing but its arguments (R037, R085–R089).
func (f *probed) choose(o *ProviderOptions) (*Plan, error) {
	p := &Plan{VM: f.machine.ID, Name: f.machine.Name, Host: f.host.Name, Mode: o.Mode}
	asked := "a backup"
	if p.Mode == "" {
		p.Mode = OnHost
	}
	if p.Procedure = o.Procedure; p.Procedure == Auto {
		p.Procedure = f.procedure(p)
	} else {
		asked = fmt.Sprintf("procedure %q", o.Procedure)
		p.Reasons = append(p.Reasons, f.conditions(p.Procedure)...)
	}
	must := slices.Clone(p.Reasons)
	if o.Procedure == Auto {
		must = f.conditions(p.Procedure) // what ruled others out is no obstacle
	}
	rest := slices.Concat(f.asker(p.Procedure, o), f.covered(o), f.shares(p), f.mode(p, o))
	p.Reasons = append(p.Reasons, rest...)
	if unmet := slices.DeleteFunc(append(must, rest...), func(r Reason) bool { return r.Met }); len(unmet) > 0 {
		return nil, &PlanError{VM: p.VM, Name: p.Name, Asked: asked, Unmet: unmet}
	}
	f.tracking(p, o)
	return p, nil
}

// procedure is the one that conditions lead to: R037 by the host, and on a late one R089 by all the rest. Its reasons go into the plan.
func (f *probed) procedure(p *Plan) Procedure {
	chosen := Writer2012
	switch {
	case f.host.Build >= build2016:
		p.Reasons = append(p.Reasons, f.conditions(Production)...)
		if chosen = Production; slices.ContainsFunc(p.Reasons, func(r Reason) bool { return !r.Met }) {
			chosen = Writer2012R2
			p.Reasons = append(p.Reasons, f.conditions(chosen)...)
		}
		return chosen
	case f.host.Build >= build2012R2:
		chosen = Writer2012R2
	}
	p.Reasons = append(p.Reasons, f.conditions(chosen)...)
	return chosen
}

const aboutProcedure, aboutMode, aboutTracking, aboutDisks = "procedure", "mode", "tracking", "disks"

// conditions are those of a procedure, met or not.
func (f *probed) conditions(p Procedure) []Reason {
	host := func(rule string, met bool, hint string) Reason {
		return Reason{About: aboutProcedure, Rule: rule, Found: f.host.release(), Met: met, Hint: hint}
	}
	switch build := f.host.Build; p {
	case Production:
		r := []Reason{host("its host is 2016 or later", build >= build2016, "move the VM to such a host, and upgrade its configuration there"), f.configuration()} // R086, R085
		return append(r, f.clusterConditions()...)
	case Writer2012R2:
		if build < build2016 {
			return []Reason{host("its host is 2012 R2", build >= build2012R2, "")}
		}
		return []Reason{f.behind()}
	case Writer2012:
		return []Reason{host("its host is 2008 R2 or 2012", build >= build2008R2 && build < build2012R2, "")}
	case Requested:
		return []Reason{host("its host is 2008 R2 or later", build >= build2008R2, "")}
	}
	return []Reason{{About: aboutProcedure, Rule: "the procedure is known", Found: string(p), Hint: "use one of " + wordList(Procedures)}}
}

// configuration is R085.
func (f *probed) configuration() Reason {
	v := f.machine.ConfigVersion
	return Reason{About: aboutProcedure, Rule: "configuration version at least 8.0", Found: orUnknown(v), Met: versionAtLeast(v, 8),
		Hint: "shut the VM down and run Update-VMVersion: it cannot go back to an older host then"}
}

// clusterConditions are R087 and R088.
func (f *probed) clusterConditions() []Reason {
	c := f.cluster
	if c == nil {
		return []Reason{{About: aboutProcedure, Rule: "in a cluster: all nodes 2016 or later, functional level raised", Found: "the host is in no cluster", Met: true}}
	}
	nodes := Reason{About: aboutProcedure, Rule: "all nodes of the cluster are 2016 or later", Hint: "upgrade the other nodes, or remove them from the cluster"}
	nodes.Found, nodes.Met = c.nodesFound()
	level := Reason{About: aboutProcedure, Rule: "the cluster's functional level is that of 2016 or later", Found: c.levelFound(), Met: c.Level >= level2016,
		Hint: "run Update-ClusterFunctionalLevel when all nodes are upgraded: it cannot be lowered again"}
	return []Reason{nodes, level}
}

// behind: a late host's writer does as 2012 R2's did for what is still of that time, in configuration or in cluster.
func (f *probed) behind() Reason {
	var found []string
	for _, r := range append(f.clusterConditions(), f.configuration()) {
		if !r.Met {
			found = append(found, r.Found)
		}
	}
	if len(found) == 0 {
		return Reason{About: aboutProcedure, Rule: "its host, configuration or cluster is of 2012 R2", Found: "all are of " + f.host.release(),
			Hint: fmt.Sprintf("use procedure %q, or %q to go by the host's writer", Production, Requested)}
	}
	return Reason{About: aboutProcedure, Rule: "its host, configuration or cluster is of 2012 R2", Found: strings.Join(found, "; "), Met: true}
}

// asker: what goes by a host's writer needs somebody on that host who asks it.
func (f *probed) asker(p Procedure, o *ProviderOptions) []Reason {
	if p == Production || !slices.Contains(Procedures, p) {
		return nil
	}
	r := Reason{About: aboutProcedure, Rule: "the host's VSS can be asked", Found: "by the helper", Met: o.Requester != nil}
	if !r.Met {
		r.Found, r.Hint = "there is no helper", "give one to the provider: see package hyperv/helper"
	}
	return []Reason{r}
}

// covered: no disk vanishes quietly from a backup. Those that nothing can pin are left out where that was asked for by name.
func (f *probed) covered(o *ProviderOptions) (list []Reason) {
	for i := range f.machine.Disks {
		d := &f.machine.Disks[i]
		why := d.uncovered()
		if why == "" {
			continue
		}
		r := Reason{About: aboutDisks, Rule: fmt.Sprintf("disk %s can be pinned, or is left out by name", d.place()), Found: why, Hint: "name it by ignore=" + d.Key}
		if r.Met = o.ignores(d); r.Met {
			r.Found, r.Hint = why+"; it is left out", ""
		}
		list = append(list, r)
	}
	if len(f.collections) > 0 {
		list = append(list, Reason{About: aboutDisks, Rule: "it is in no guest cluster", Found: "it is in " + strings.Join(f.collections, ", "),
			Hint: "back it up from within its guests: VMs that share disks can only be pinned together"})
	}
	return list
}

// ignores says whether a disk was named to be left out, by key or by place.
func (o *ProviderOptions) ignores(d *Disk) bool {
	return slices.ContainsFunc(o.IgnoreDisks, func(name string) bool { return strings.EqualFold(name, d.Key) || strings.EqualFold(name, d.place()) })
}

// uncovered says why no checkpoint and no writer pins a disk; empty where they do.
func (d *Disk) uncovered() string {
	switch {
	case d.Physical:
		return "a physical disk that is passed through: no checkpoint covers it"
	case d.Format == FormatVHDSet:
		return "a VHD set, which VMs share"
	case d.Shared:
		return "a disk that VMs share"
	}
	return d.Problem
}

// mode is R093 and R196.
func (f *probed) mode(p *Plan, o *ProviderOptions) []Reason {
	switch p.Mode {
	case OnHost:
		return []Reason{{About: aboutMode, Rule: "files are read from the host", Found: f.host.Name, Met: true}}
	case OffHost:
		r := Reason{About: aboutMode, Rule: "volumes can be pinned and mounted elsewhere", Met: len(o.Volumes) > 0}
		var names []string
		for _, v := range o.Volumes {
			names = append(names, v.Name())
		}
		if r.Found = "by " + strings.Join(names, ", "); !r.Met {
			r.Found, r.Hint = "nothing is given that does", "use mode "+string(OnHost)+", or give the provider a VolumeSnapshotter of the storage"
		}
		return append([]Reason{r}, p.transporter(o)...)
	}
	return []Reason{{About: aboutMode, Rule: "the mode is known", Found: string(p.Mode), Hint: "use one of " + wordList(Modes)}}
}

// tracking says whether changes will be known. Without, each backup reads all: that stops nothing.
func (f *probed) tracking(p *Plan, o *ProviderOptions) {
	add := func(rule, found string, met bool, hint string) {
		p.Reasons = append(p.Reasons, Reason{About: aboutTracking, Rule: rule, Found: found, Met: met, Hint: hint})
	}
	if p.Procedure != Production {
		add("the procedure keeps track of changes", string(p.Procedure)+" does not", false, "")
		return
	}
	add("the procedure keeps track of changes", string(p.Procedure), true, "")
	if o.NoTracking {
		add("tracking is wanted", "it was turned off", false, "")
		return
	}
	for i := range f.machine.Disks {
		d := &f.machine.Disks[i]
		switch {
		case d.uncovered() != "":
		case d.Format == FormatVHD:
			add("disk "+d.place()+" is a VHDX", "VHD: "+d.Path, false, "convert it by Convert-VHD while the VM is off")
		default:
			p.Tracking = true
		}
	}
}

// release names a host's version: 2019 (build 17763).
func (i HostInfo) release() string {
	name := "before 2008 R2"
	for _, r := range releases {
		if i.Build >= r.build {
			name = r.name
		}
	}
	return fmt.Sprintf("%s (build %d)", name, i.Build)
}

var releases = []struct {
	build int
	name  string
}{{build2008R2, "2008 R2"}, {build2012, "2012"}, {build2012R2, "2012 R2"}, {build2016, "2016"}, {17763, "2019"}, {20348, "2022"}, {26100, "2025"}}

// versionAtLeast compares the first number of a version; one that is not of that form is not.
func versionAtLeast(version string, major int) bool {
	first, rest, _ := strings.Cut(version, ".")
	n, err := strconv.ParseUint(first, 10, 16)
	if rest != "" && err == nil {
		_, err = strconv.ParseUint(rest, 10, 16)
	}
	return err == nil && int(n) >= major
}

func orUnknown(s string) string {
	if s == "" {
		return "not known"
	}
	return s
}
