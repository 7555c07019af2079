package main

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/hyperv"
)

// toHyperV reports whether a VM of Hyper-V is to be made, or written over.
func (f *restoreFlags) toHyperV() bool { return isHyperV(f.to) }

// ofNewHyperV are the parameters of a new VM, or of one that is written over, beside those that every address of a host has.
var ofNewHyperV = []string{"name", "host", "path", "switch", "network", "provisioning", "power", "identity", "cpus", "memory", "generation",
	"checkpoints", "takeover"}

const hypervTargetExample = `For instance --to 'hyperv://backup@hv1.example.org/?name=web1-again&path=D:\VMs'.`

// hypervRestorer restores to an address of a host: with --in-place to the VM that it names, else to a new one.
func (f *restoreFlags) hypervRestorer(ctx context.Context, t *tool) (r hikae.Restorer, vm, name string, err error) {
	if f.format != "" {
		return nil, "", "", outcome.Usage("", "--format is for files; a VM of Hyper-V has its own")
	}
	address, own, err := splitParameters(f.to, ofNewHyperV)
	if err != nil {
		return nil, "", "", outcome.Usage(hypervTargetExample, "--to: it is no address of a host")
	}
	a, err := hyperv.ParseURL(address)
	if err != nil {
		return nil, "", "", outcome.Usage(hypervTargetExample+" For a restore there are also "+strings.Join(ofNewHyperV, ", ")+".", "--to: %v", err)
	}
	opts, err := hypervTargetOptions(own)
	if err != nil {
		return nil, "", "", err
	}
	if err := errors.Join(f.hypervTarget(a, own), onlyForBackups(address)); err != nil {
		return nil, "", "", err
	}
	s, err := t.hypervLogin(ctx, a)
	if err != nil {
		return nil, "", "", err
	}
	if f.inPlace {
		over, err := s.one(ctx, "--in-place writes over one")
		if err != nil {
			return nil, "", "", err
		}
		vm, f.over = over.id, over.name
		if f.onto, err = s.disksOf(ctx, vm); err != nil {
			return nil, "", "", err
		}
	}
	if !f.inPlace {
		if f.names, err = s.names(ctx); err != nil {
			return nil, "", "", err
		}
	}
	restorer, err := hyperv.NewRestorer(s.Site, opts)
	return restorer, vm, own.Get("name"), err
}

// onlyForBackups refuses what an address may have, and what means nothing to a restore: who says it expects something of it.
func onlyForBackups(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return outcome.Usage(hypervTargetExample, "--to: it is no address of a host")
	}
	query := u.Query()
	for _, name := range []string{"mode", "procedure", "quiesce", "full", "rct", "ignore", "check"} {
		if query.Has(name) {
			return outcome.Usage("For a restore there are "+strings.Join(ofNewHyperV, ", ")+".", "--to: &%s= is for backups", name)
		}
	}
	return nil
}

// freeName refuses a second VM of one name, which hosts take: no address would tell the two apart by it any more.
func (f *restoreFlags) freeName(name string) error {
	if f.force || !slices.Contains(f.names, name) {
		return nil
	}
	return outcome.Usage("Name the new one: &name="+name+"-again. --force makes it all the same.", "a VM called %s is there already", name)
}

// names are those of all VMs that can be asked for. What cannot is no reason not to bring a VM back.
func (s *hypervSite) names(ctx context.Context) (names []string, err error) {
	p, err := hyperv.New(s.Site, nil, nil)
	if err != nil {
		return nil, err
	}
	for vm, err := range p.VMs(ctx) {
		if err == nil {
			names = append(names, vm.Name)
		}
	}
	return names, ctx.Err()
}

// disksOf are the keys of a VM's disks.
func (s *hypervSite) disksOf(ctx context.Context, vm string) (keys []string, err error) {
	h, err := s.Owner(ctx, vm)
	if err != nil {
		return nil, &outcome.Error{Object: s.address.Host, Text: "VM " + vm, Err: err}
	}
	m, err := h.Machine(ctx, vm)
	if err != nil {
		return nil, &outcome.Error{Object: s.address.Host, Text: "VM " + vm, Err: err}
	}
	for _, d := range m.Disks {
		keys = append(keys, d.Key)
	}
	return keys, nil
}

// hypervTarget sees that what is asked for goes together.
func (f *restoreFlags) hypervTarget(a *hyperv.Address, own url.Values) error {
	switch {
	case f.inPlace && (len(a.Select.VMs) != 1 || len(a.Select.Patterns) > 0):
		return outcome.Usage("Name the VM: 'hyperv://USER@HOST/?vm=web1'.", "--in-place writes over one VM that &vm= names")
	case !f.inPlace && len(a.Select.VMs)+len(a.Select.Patterns) > 0:
		return outcome.Usage("A new VM has its name by &name=; without, it is the one that it had.", "&vm= and &match= name VMs that are there: they are for --in-place")
	}
	only, what := []string{"checkpoints", "takeover"}, "is for --in-place"
	if f.inPlace {
		only, what = []string{"name", "host", "path", "switch", "network", "provisioning", "identity", "cpus", "memory", "generation"}, "is for a new VM; --in-place keeps what the VM has"
	}
	for _, name := range only {
		if own.Has(name) {
			return outcome.Usage("", "--to: &%s= %s", name, what)
		}
	}
	if own.Get("power") == "off" && !f.inPlace {
		return outcome.Usage("", "--to: &power=off is for --in-place; a new VM stays off unless &power=on is said")
	}
	return nil
}

// hypervTargetOptions says where a VM goes, and how.
func hypervTargetOptions(own url.Values) (*hyperv.RestorerOptions, error) {
	for name, values := range own {
		if len(values) > 1 && name != "switch" || slices.Contains(values, "") {
			return nil, outcome.Usage("", "--to: &%s= is empty, or given twice", name)
		}
	}
	o := &hyperv.RestorerOptions{Host: own.Get("host"), Path: own.Get("path")}
	var err error
	if o.Switches, err = pairsOf(own, "switch", "OLD=NEW"); err != nil {
		return nil, err
	}
	for _, number := range []struct {
		name string
		most int
		set  *int
	}{{"cpus", 4096, &o.CPUs}, {"generation", 2, &o.Generation}} {
		if !own.Has(number.name) {
			continue
		}
		n, err := strconv.Atoi(own.Get(number.name))
		if err != nil || n < 1 || n > number.most {
			return nil, outcome.Usage("", "--to: &%s=%s is no number from 1 to %d", number.name, own.Get(number.name), number.most)
		}
		*number.set = n
	}
	if own.Has("memory") {
		n, err := parseSize(own.Get("memory"))
		if err != nil || n < 1<<20 {
			return nil, outcome.Usage("", "--to: &memory= is a size of at least 1MiB, for instance &memory=8GiB")
		}
		o.MemoryMB = int(n >> 20)
	}
	return o, hypervTargetWords(own, o)
}

// hypervTargetWords takes the parameters that have a few words each.
func hypervTargetWords(own url.Values, o *hyperv.RestorerOptions) error {
	for _, word := range []struct {
		name    string
		allowed []string
	}{
		{"power", []string{"on", "off"}}, {"identity", []string{"keep", "new"}}, {"network", []string{"off"}}, {"checkpoints", []string{"under"}},
		{"takeover", []string{"yes"}}, {"provisioning", []string{"dynamic", "fixed"}},
	} {
		if own.Has(word.name) && !slices.Contains(word.allowed, own.Get(word.name)) {
			return outcome.Usage("", "--to: &%s=%s: there is %s", word.name, own.Get(word.name), strings.Join(word.allowed, " or "))
		}
	}
	o.PowerOn, o.PowerOff = own.Get("power") == "on", own.Get("power") == "off"
	o.NewIDs, o.NoNetwork = own.Get("identity") == "new", own.Get("network") == "off"
	o.UnderCheckpoints, o.TakeOver = own.Has("checkpoints"), own.Has("takeover")
	o.Provisioning = hyperv.Provisioning(own.Get("provisioning"))
	return nil
}
