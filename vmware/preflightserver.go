package vmware

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	freePercent = 10       // of a datastore that must be free, where nobody says
	deltaMost   = 64 << 30 // that is expected of one VM on one datastore, where nobody says
)

// stores looks at the datastores that the snapshot will grow on.
func (f *preflight) stores(ctx context.Context) error {
	grow := f.growth()
	refs := make([]types.ManagedObjectReference, 0, len(grow))
	for ref := range grow {
		refs = append(refs, ref)
	}
	slices.SortFunc(refs, func(a, b types.ManagedObjectReference) int { return strings.Compare(a.Value, b.Value) })
	for _, ref := range refs {
		var ds mo.Datastore
		switch err := f.c.properties(ctx, ref, []string{"summary"}, &ds); {
		case isGone(err) || cannot(err):
			f.found(Weak, "datastore "+ref.Value, "it cannot be looked at", "")
		case err != nil:
			return fmt.Errorf("datastore %s: %w", ref.Value, err)
		default:
			f.store(ref, ds.Summary, grow[ref])
		}
	}
	return nil
}

// growth is how much is expected to be written to each datastore.
func (f *preflight) growth() map[types.ManagedObjectReference]int64 {
	total := int64(0)
	sizes := map[types.ManagedObjectReference]int64{}
	for _, d := range f.m.disks {
		if d.Skip == "" && d.Datastore.Value != "" && d.Size > 0 && d.Size < math.MaxInt64/1024 {
			sizes[d.Datastore] += d.Size
			total += d.Size
		}
	}
	for ref, size := range sizes {
		switch {
		case !f.m.on():
			sizes[ref] = 0 // nothing writes
		case f.o.DeltaBytes > 0:
			sizes[ref] = int64(float64(f.o.DeltaBytes) * float64(size) / float64(total))
		default:
			sizes[ref] = min(size/10, deltaMost)
		}
	}
	return sizes
}

func (f *preflight) store(ref types.ManagedObjectReference, s types.DatastoreSummary, grow int64) {
	object := fmt.Sprintf("datastore %s (%s)", s.Name, ref.Value)
	switch {
	case !s.Accessible:
		f.found(Stop, object, "it is not accessible", "")
	case s.MaintenanceMode != "" && s.MaintenanceMode != string(types.DatastoreSummaryMaintenanceModeStateNormal):
		f.found(Weak, object, "it is in maintenance mode: "+bounded(s.MaintenanceMode), "")
	case s.FreeSpace < grow:
		f.found(Stop, object, fmt.Sprintf("%d bytes are free, and the snapshot is expected to need %d", s.FreeSpace, grow), "free some, or expect less (DeltaBytes)")
	case s.Capacity > 0 && float64(s.FreeSpace) < float64(s.Capacity)*float64(f.o.FreePercent)/100:
		f.found(Stop, object, fmt.Sprintf("%d of %d bytes are free, less than %d %%: a snapshot that fills it stops its VMs", s.FreeSpace, s.Capacity, f.o.FreePercent), "free some")
	}
}

// licence looks for the one of the free ESXi, which lets nobody change anything by the API.
func (f *preflight) licence(ctx context.Context) error {
	if f.c.vim.ServiceContent.LicenseManager == nil || f.c.IsVCenter() {
		return nil // a vCenter takes no host with that licence
	}
	var manager mo.LicenseManager
	err := f.c.properties(ctx, *f.c.vim.ServiceContent.LicenseManager, []string{"licenses"}, &manager)
	switch {
	case cannot(err) || isGone(err):
		f.found(Note, f.c.Address(), "its licence cannot be looked at", "")
		return nil
	case err != nil:
		return fmt.Errorf("licence: %w", err)
	}
	for _, l := range manager.Licenses {
		if l.EditionKey == "esxBasic" {
			f.found(Stop, f.c.Address(), "its licence ("+bounded(l.Name)+") is that of the free ESXi: its API changes nothing and takes no snapshots", "")
		}
	}
	return nil
}

// rights looks for privileges that are missing.
func (f *preflight) rights(ctx context.Context) error {
	uses := slices.Concat([]string{ForBackup, ForRelocation}, f.o.Transports, f.o.For)
	if f.out.Tracking == TrackingPossible && !f.o.KeepTracking {
		uses = append(uses, ForTracking)
	}
	if f.encrypted() {
		uses = append(uses, ForEncrypted)
	}
	var wanted []Privilege
	for _, p := range privileges {
		if slices.ContainsFunc(p.For, func(use string) bool { return slices.Contains(uses, use) }) {
			wanted = append(wanted, p)
		}
	}
	missing, err := f.c.lacking(ctx, f.objects(), wanted)
	switch {
	case cannot(err):
		f.found(Weak, f.c.Address(), "privileges cannot be looked at: "+bounded(err.Error()), "")
		return nil
	case err != nil:
		return fmt.Errorf("privileges: %w", err)
	}
	f.judge(missing, uses)
	return nil
}

// objects are where privileges are wanted.
func (f *preflight) objects() map[string][]types.ManagedObjectReference {
	out := map[string][]types.ManagedObjectReference{
		OnVM:   {f.m.Self},
		OnRoot: {f.c.vim.ServiceContent.RootFolder},
	}
	if f.o.Proxy.Value != "" {
		out[OnProxy] = []types.ManagedObjectReference{f.o.Proxy}
	}
	for _, d := range f.m.disks {
		if d.Datastore.Value != "" && !slices.Contains(out[OnDatastore], d.Datastore) {
			out[OnDatastore] = append(out[OnDatastore], d.Datastore)
		}
	}
	// A new VM goes where this one is, where nobody says otherwise.
	for _, ref := range []*types.ManagedObjectReference{f.m.Parent, f.m.ResourcePool} {
		if ref != nil {
			out[OnWhere] = append(out[OnWhere], *ref)
		}
	}
	return out
}

// judge says what each missing privilege is good for. One that only a transport needs stops nothing while there is another
// transport.
func (f *preflight) judge(missing []missingPrivilege, uses []string) {
	without := map[string]bool{}
	for _, m := range missing {
		object := f.named(m.object)
		var needed []string
		for _, use := range m.For {
			if slices.Contains(uses, use) {
				needed = append(needed, use)
				without[use] = true
			}
		}
		f.out.Missing = append(f.out.Missing, MissingRight{Privilege: m.ID, Name: m.Name, Object: object, For: needed})
		severity := Weak
		if slices.ContainsFunc(needed, func(use string) bool { return use == ForBackup || slices.Contains(f.o.For, use) }) || slices.Contains(needed, ForEncrypted) {
			severity = Stop
		} else if slices.Equal(needed, []string{ForRelocation}) {
			severity = Note
		}
		f.found(severity, object, fmt.Sprintf("the user lacks the privilege %s, needed for: %s", m.ID, strings.Join(needed, ", ")), "in the vSphere Client: "+m.Name)
		f.told() // where it is missed: a transport says why it was not taken
	}
	if !slices.ContainsFunc(f.o.Transports, func(t string) bool { return !without[t] }) {
		f.vm(Stop, "the user may use none of the transports: "+strings.Join(f.o.Transports, ", "), "grant the privileges of one of them")
	}
}

func (f *preflight) named(ref types.ManagedObjectReference) string {
	switch ref.Type {
	case "VirtualMachine":
		if ref == f.m.Self {
			return f.object()
		}
		return "VM " + ref.Value
	case "Datastore":
		return "datastore " + ref.Value
	}
	return strings.ToLower(ref.Type) + " " + ref.Value
}
