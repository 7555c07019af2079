package main

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware"
)

// toVSphere reports whether a VM of vSphere is to be made, or written over.
func (f *restoreFlags) toVSphere() bool { return isVSphere(f.to) }

// ofNew are the parameters of a new VM, or of one that is written over, beside those that every address of a server has.
var ofNew = []string{"name", "host", "datastore", "disk", "network", "provisioning", "power", "identity", "empty", "snapshots",
	"takeover", "cpus", "memory", "guest", "firmware", "card"}

// vsphereRestorer restores to an address of a server: with --in-place to the VM that it names, else to a new one.
func (f *restoreFlags) vsphereRestorer(ctx context.Context, t *tool) (r hikae.Restorer, vm, name string, err error) {
	if f.format != "" {
		return nil, "", "", outcome.Usage("", "--format is for files; a VM of vSphere has its own")
	}
	address, own, err := splitParameters(f.to, ofNew)
	if err != nil {
		return nil, "", "", outcome.Usage("For instance --to 'vsphere://backup@vcenter.example.org/?name=web1-again&datastore=fast1'.", "--to: %v", err)
	}
	a, err := vmware.ParseURL(address)
	if err != nil {
		return nil, "", "", outcome.Usage("For instance --to 'vsphere://backup@vcenter.example.org/?name=web1-again&datastore=fast1'.", "--to: %v", err)
	}
	opts, err := targetOptions(a, own)
	if err != nil {
		return nil, "", "", err
	}
	if err := f.vsphereTarget(a, own); err != nil {
		return nil, "", "", err
	}
	v, err := t.vsphereLogin(ctx, a)
	if err != nil {
		return nil, "", "", err
	}
	t.atEnd(v.close)
	t.server = v
	if f.inPlace {
		found, err := v.found(ctx, f.to)
		if err != nil {
			return nil, "", "", err
		}
		if len(found) != 1 {
			return nil, "", "", outcome.Usage("Name it by &vm=.", "--in-place writes over one VM, and %d are meant", len(found))
		}
		vm, f.over = found[0].Ref.Value, found[0].Name
	}
	restorer, err := vmware.NewRestorer(v.Client, opts)
	return restorer, vm, own.Get("name"), err
}

// sameVM refuses to write one VM's point over another VM: in a row of alike machines that is one wrong letter.
func (f *restoreFlags) sameVM(point pipe.PointInfo) error {
	if f.over == "" || f.force {
		return nil
	}
	if f.over != point.VM {
		return outcome.Usage("--force writes over it all the same.", "the point is of VM %s, and --in-place would write over VM %s", point.VM, f.over)
	}
	for _, d := range point.Disks {
		meant := len(f.disks) == 0 || slices.Contains(f.disks, d.Key)
		if meant && len(f.onto) > 0 && !slices.Contains(f.onto, d.Key) {
			return outcome.Usage("--force writes over it all the same.", "disk %s of the point is none of VM %s, which has %s: the point is of another VM of that name, or the disk was replaced",
				d.Key, f.over, strings.Join(f.onto, ", "))
		}
	}
	return nil
}

// vsphereTarget sees that what is asked for goes together.
func (f *restoreFlags) vsphereTarget(a *vmware.Address, own url.Values) error {
	switch {
	case f.inPlace && (len(a.Select.VMs) != 1 || len(a.Select.Patterns)+len(a.Select.Tags) > 0):
		return outcome.Usage("Name the VM: 'vsphere://USER@HOST/?vm=web1'.", "--in-place writes over one VM that &vm= names")
	case !f.inPlace && (len(a.Select.VMs) > 0 || len(a.Select.Patterns)+len(a.Select.Tags) > 0):
		return outcome.Usage("A new VM has its name by &name=; without, it is the one that it had.", "&vm=, &match= and &tag= name VMs that are there: they are for --in-place")
	case f.inPlace && own.Has("name"):
		return outcome.Usage("", "&name= is for a new VM; --in-place keeps the VM's")
	}
	return nil
}

// splitParameters parts what describes the VM, by these parameters, from what describes the server.
func splitParameters(to string, names []string) (address string, own url.Values, err error) {
	u, err := url.Parse(to)
	if err != nil {
		return "", nil, err
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", nil, err
	}
	own = url.Values{}
	for _, name := range names {
		if query.Has(name) {
			own[name] = query[name]
			query.Del(name)
		}
	}
	u.RawQuery = query.Encode()
	return u.String(), own, nil
}

// maxCPUs is more than any vSphere gives a VM.
const maxCPUs = 1024

// targetOptions says where a VM goes, and how.
func targetOptions(a *vmware.Address, own url.Values) (*vmware.RestorerOptions, error) {
	o := &vmware.RestorerOptions{Datacenter: a.Select.Datacenter, Host: own.Get("host"), Datastore: own.Get("datastore"),
		Provisioning: vmware.Provisioning(own.Get("provisioning")), Transports: a.Options.Transports, Scratch: a.Options.Scratch,
		Plain: vmware.PlainHardware{GuestID: own.Get("guest"), Firmware: own.Get("firmware"), Network: own.Get("card")}}
	one := func(name string, values []string, to *string) error {
		if len(values) > 1 {
			return outcome.Usage("", "--to: &%s= is given twice", name)
		}
		if len(values) == 1 {
			*to = values[0]
		}
		return nil
	}
	if err := one("folder", a.Select.Folders, &o.Folder); err != nil {
		return nil, err
	}
	if err := one("pool", a.Select.Pools, &o.Pool); err != nil {
		return nil, err
	}
	for name, values := range own {
		if len(values) > 1 && !slices.Contains([]string{"disk", "network"}, name) || slices.Contains(values, "") {
			return nil, outcome.Usage("", "--to: &%s= is empty, or given twice", name)
		}
	}
	var err error
	if o.DiskDatastores, err = pairsOf(own, "disk", "KEY=DATASTORE"); err != nil {
		return nil, err
	}
	if o.Networks, err = pairsOf(own, "network", "OLD=NEW"); err != nil {
		return nil, err
	}
	if own.Has("cpus") {
		n, err := strconv.ParseInt(own.Get("cpus"), 10, 32)
		if err != nil || n < 1 || n > maxCPUs {
			return nil, outcome.Usage("", "--to: &cpus=%s is no number from 1 to %d", own.Get("cpus"), maxCPUs)
		}
		o.Plain.CPUs = int32(n)
	}
	if own.Has("memory") {
		n, err := parseSize(own.Get("memory"))
		if err != nil {
			return nil, outcome.Usage("For instance &memory=8GiB.", "--to: &memory=: %v", err)
		}
		o.Plain.MemoryMB = n >> 20
	}
	for _, word := range []struct {
		name, value string
		set         *bool
	}{{"power", "on", &o.PowerOn}, {"power", "off", &o.PowerOff}, {"identity", "keep", &o.KeepIdentity}, {"empty", "make", &o.EmptyDisks}, {"snapshots", "under", &o.UnderSnapshots}, {"takeover", "yes", &o.TakeOver}} {
		*word.set = own.Get(word.name) == word.value
	}
	for name, allowed := range map[string]string{"power": "on off", "identity": "keep", "empty": "make", "snapshots": "under", "takeover": "yes"} {
		if own.Has(name) && !slices.Contains(strings.Fields(allowed), own.Get(name)) {
			return nil, outcome.Usage("", "--to: &%s=%s: there is %s", name, own.Get(name), strings.ReplaceAll(allowed, " ", " or "))
		}
	}
	return o, nil
}

// pairsOf are parameters of the form FROM=TO.
func pairsOf(own url.Values, name, form string) (map[string]string, error) {
	if !own.Has(name) {
		return nil, nil
	}
	out := map[string]string{}
	for _, text := range own[name] {
		from, to, ok := strings.Cut(text, "=")
		if !ok || from == "" || to == "" {
			return nil, outcome.Usage("For instance &"+name+"="+url.QueryEscape(form)+".", "--to: &%s=%s is not %s", name, text, form)
		}
		out[from] = to
	}
	return out, nil
}
