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

// builder makes a planned VM, part by part.
type builder struct {
	h    *Host
	mark string
	set  vmSettings // of the planned VM
	ref  cim.Ref    // of its settings

	controllers map[string]cim.Ref // ide0, scsi1 …
	taken       map[string]bool    // places of drives
	scsi        int
}

// define makes the planned VM, with its mark in its notes. A configuration version that the host does not take is left to it.
func (b *builder) define(ctx context.Context, s *spec, folder string, notes []string) (string, error) {
	set := &cim.Instance{Class: settingClass, Properties: slices.Clone(s.system.Properties)}
	if b.h.info.Build >= build2012R2 {
		set.Set("VirtualSystemSubType", subType+strconv.Itoa(s.generation))
	}
	for _, name := range rootsOfVM {
		set.Set(name, folder)
	}
	set.Set("Notes", notes)
	note := ""
	if s.version != "" && b.h.info.Build >= build2016 {
		set.Set("Version", s.version)
	}
	err := b.ask(ctx, set)
	if refused(err) && s.version != "" {
		set.Set("Version", nil)
		set.Properties = slices.DeleteFunc(set.Properties, func(p cim.Property) bool { return p.Name == "Version" })
		note = fmt.Sprintf("the VM has this host's configuration version: it does not take the recorded one, %s (%v)", s.version, err)
		err = b.ask(ctx, set)
	}
	if err != nil {
		return "", err
	}
	return note, b.correct(ctx, set)
}

// rootsOfVM are the settings that name folders of a VM's own files.
var rootsOfVM = []string{"ConfigurationDataRoot", "SnapshotDataRoot", "SuspendDataRoot", "SwapFileDataRoot"}

// refused: the host answered, and did not do it.
func refused(err error) bool {
	var method *cim.ReturnError
	var job *cim.JobError
	return errors.As(err, &method) || errors.As(err, &job)
}

// ask has the planned VM defined. Where the answer is lost the mark tells whether it is there.
func (b *builder) ask(ctx context.Context, set *cim.Instance) error {
	_, err := b.h.manage(ctx, "DefinePlannedSystem", cim.Property{Name: "SystemSettings", Value: set}, cim.Property{Name: "ResourceSettings", Value: []string{}},
		cim.Property{Name: "ReferenceConfiguration", Value: nil})
	var lost *cim.UnknownError
	if err != nil && !errors.As(err, &lost) {
		return fmt.Errorf("define the VM: %w", err)
	}
	found, look := b.h.bearing(ctx, b.mark)
	switch {
	case look != nil:
		return errors.Join(err, look)
	case len(found) != 1:
		return errors.Join(err, fmt.Errorf("%w: %d VMs bear the mark of the one that was defined", cim.ErrMalformed, len(found)))
	}
	b.set = found[0]
	if b.set.Type != plannedKind {
		return fmt.Errorf("%w: the VM that was defined is of type %.80q", cim.ErrMalformed, b.set.Type)
	}
	b.ref = cim.Ref{Namespace: cim.Virtualization, Class: settingClass, Keys: []cim.Key{{Name: "InstanceID", Value: b.set.ID}}}
	return nil
}

// correct sets again what the host did not take when the VM was defined.
func (b *builder) correct(ctx context.Context, want *cim.Instance) error {
	is, err := b.h.client.Get(ctx, b.ref)
	if err != nil {
		return err
	}
	left := unlike(want, is, systemSettings)
	if len(left.Properties) == 0 {
		return nil
	}
	left.Set("InstanceID", b.set.ID)
	if _, err := b.h.manage(ctx, "ModifySystemSettings", cim.Property{Name: "SystemSettings", Value: left}); err != nil {
		return fmt.Errorf("settings of the VM: %w", err)
	}
	return nil
}

// hardware sets memory and processors, which every VM has, and finds the controllers that the host gave it.
func (b *builder) hardware(ctx context.Context, s *spec) error {
	list, err := b.parts(ctx)
	if err != nil {
		return err
	}
	b.controllers, b.taken = map[string]cim.Ref{}, map[string]bool{}
	var change []*cim.Instance
	for _, in := range list {
		want, table := s.memory, memorySettings
		switch {
		case in.Class == classCPU:
			want, table = s.cpu, cpuSettings
		case in.Text("ResourceSubType") == subIDE:
			ref, err := in.Keyed(cim.Virtualization, "InstanceID")
			if err != nil {
				return err
			}
			b.controllers["ide"+in.Text("Address")] = ref
			continue
		case in.Class != classMemory:
			continue
		}
		if left := unlike(want, in, table); len(left.Properties) > 0 {
			left.Set("InstanceID", in.Text("InstanceID"))
			change = append(change, left)
		}
	}
	if len(change) == 0 {
		return nil
	}
	if _, err := b.h.manage(ctx, "ModifyResourceSettings", cim.Property{Name: "ResourceSettings", Value: change}); err != nil {
		return fmt.Errorf("memory and processors: %w", err)
	}
	return nil
}

// parts are what the planned VM is made of.
func (b *builder) parts(ctx context.Context) ([]*cim.Instance, error) {
	ctx, cancel := b.h.bounded(ctx)
	defer cancel()
	return cim.All(b.h.client.Associators(ctx, b.ref, cim.Hop{Association: "Msvm_VirtualSystemSettingDataComponent"}, nil))
}

// add adds a part, and says how it is called.
func (b *builder) add(ctx context.Context, in *cim.Instance) (cim.Ref, error) {
	out, err := b.h.manage(ctx, "AddResourceSettings", cim.Property{Name: "AffectedConfiguration", Value: b.ref}, cim.Property{Name: "ResourceSettings", Value: []*cim.Instance{in}})
	if err != nil {
		return cim.Ref{}, err
	}
	v, _ := out.Out.Value("ResultingResourceSettings")
	if list, ok := v.([]any); ok && len(list) == 1 {
		v = list[0]
	}
	ref, ok := v.(cim.Ref)
	if !ok {
		return cim.Ref{}, fmt.Errorf("%w: the host does not name the %s that it added", cim.ErrMalformed, in.Class)
	}
	return ref, nil
}

func part(class, sub string, kind uint16, pairs ...any) *cim.Instance {
	in := &cim.Instance{Class: class}
	in.Set("ResourceType", kind)
	in.Set("ResourceSubType", sub)
	for i := 0; i+1 < len(pairs); i += 2 {
		in.Set(pairs[i].(string), pairs[i+1])
	}
	return in
}

// path is how a setting names another.
func (b *builder) path(ref cim.Ref) string { return ref.Path(b.h.info.Name) }

// Numbers of ResourceType.
const (
	kindSCSI, kindCard = uint16(6), uint16(10)
	kindCD, kindDrive  = uint16(16), uint16(17)
	kindDisk, kindWire = uint16(31), uint16(33)
)

const maxSCSI, slotsOfSCSI, slotsOfIDE = 4, 64, 2

// controller is one of a name (ide1, scsi0). SCSI ones are added up to it.
func (b *builder) controller(ctx context.Context, name string) (cim.Ref, error) {
	bus, err := strconv.Atoi(strings.TrimPrefix(name, "scsi"))
	if err != nil || !strings.HasPrefix(name, "scsi") {
		ref, ok := b.controllers[name]
		if !ok {
			return ref, fmt.Errorf("controller %s: the VM has none: %w", name, fs.ErrNotExist)
		}
		return ref, nil
	}
	if bus < 0 || bus >= maxSCSI {
		return cim.Ref{}, fmt.Errorf("controller %s: a VM has %d at most: %w", name, maxSCSI, fs.ErrInvalid)
	}
	for ; b.scsi <= bus; b.scsi++ {
		ref, err := b.add(ctx, part(classResource, subSCSI, kindSCSI))
		if err != nil {
			return ref, fmt.Errorf("controller scsi%d: %w", b.scsi, err)
		}
		b.controllers[fmt.Sprintf("scsi%d", b.scsi)] = ref
	}
	return b.controllers[name], nil
}

// drive adds a drive at a place (scsi0-1).
func (b *builder) drive(ctx context.Context, place string, cd bool) (cim.Ref, error) {
	on, slot, _ := strings.Cut(place, "-")
	c, err := b.controller(ctx, on)
	if err != nil {
		return c, err
	}
	sub, kind := subDrive, kindDrive
	if cd {
		sub, kind = subCDDrive, kindCD
	}
	b.taken[place] = true
	ref, err := b.add(ctx, part(classResource, sub, kind, "AddressOnParent", slot, "Parent", b.path(c)))
	if err != nil {
		return ref, fmt.Errorf("drive %s: %w", place, err)
	}
	return ref, nil
}

// free is a place where nothing is: a VM of generation 1 starts from IDE.
func (b *builder) free(generation int, keep map[string]bool) string {
	for bus := 0; generation == 1 && bus < 2; bus++ {
		for slot := range slotsOfIDE {
			if place := fmt.Sprintf("ide%d-%d", bus, slot); !b.taken[place] && !keep[place] {
				return place
			}
		}
	}
	for bus := range maxSCSI {
		for slot := range slotsOfSCSI {
			if place := fmt.Sprintf("scsi%d-%d", bus, slot); !b.taken[place] && !keep[place] {
				return place
			}
		}
	}
	return "scsi0-0"
}

// attach puts a disk's file into a drive.
func (b *builder) attach(ctx context.Context, drive cim.Ref, file string) error {
	_, err := b.add(ctx, part(classStorage, subFile, kindDisk, "Parent", b.path(drive), "HostResource", []string{file}))
	if err != nil {
		return fmt.Errorf("attach %s: %w", file, err)
	}
	return nil
}

// card adds a network card, plugged into a switch or not.
func (b *builder) card(ctx context.Context, c *recordedCard, mac string, to *netSwitch) (note string, err error) {
	sub := subCard
	if c.in.Class == classOldCard {
		sub = subOldCard
	}
	in := part(c.in.Class, sub, kindCard, "ElementName", c.name, "StaticMacAddress", mac != "")
	if mac != "" {
		in.Set("Address", mac)
	}
	ref, err := b.add(ctx, in)
	if err == nil && to != nil {
		if ref, err = b.add(ctx, part(classCable, subCable, kindWire, "Parent", b.path(ref), "HostResource", []string{b.path(to.ref)})); err == nil {
			note, err = b.tag(ctx, c, ref)
		}
	}
	if err != nil {
		return "", fmt.Errorf("network card %q: %w", c.name, err)
	}
	return note, nil
}

// macOf is a card's own hardware address, where it had one that was set by a person and no other VM has it.
func (h *Host) macOf(ctx context.Context, c *recordedCard) (mac, note string, err error) {
	mac = c.in.Text("Address")
	if !strings.EqualFold(c.in.Text("StaticMacAddress"), "true") || len(mac) != 12 || strings.Trim(mac, "0123456789abcdefABCDEF") != "" {
		return "", "", nil
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	for _, class := range []string{classCard, classOldCard} {
		list, err := cim.All(h.client.Query(ctx, cim.Virtualization, "SELECT * FROM "+class+" WHERE Address = "+cim.Quote(mac), nil))
		if err != nil {
			return "", "", err
		}
		if len(list) > 0 {
			return "", fmt.Sprintf("network card %q has an address that the host chooses: its own, %s, is another VM's", c.name, mac), nil
		}
	}
	return mac, "", nil
}

// planRef is the planned VM as methods take it.
func (b *builder) planRef(ctx context.Context) (cim.Ref, error) {
	_, ref, err := b.h.systemOf(ctx, b.set)
	return ref, err
}

// validate asks the host whether the planned VM would run here.
func (b *builder) validate(ctx context.Context) error {
	ref, err := b.planRef(ctx)
	if err == nil {
		_, err = b.h.manage(ctx, "ValidatePlannedSystem", cim.Property{Name: "PlannedSystem", Value: ref})
	}
	if err != nil {
		return fmt.Errorf("the host does not take the VM: %w", err)
	}
	return nil
}

// realize makes the planned VM one. Where the answer is lost the mark tells.
func (b *builder) realize(ctx context.Context) error {
	ref, err := b.planRef(ctx)
	if err != nil {
		return err
	}
	_, err = b.h.manage(ctx, "RealizePlannedSystem", cim.Property{Name: "PlannedSystem", Value: ref})
	var lost *cim.UnknownError
	if err != nil && !errors.As(err, &lost) {
		return fmt.Errorf("realize the VM: %w", err)
	}
	found, look := b.h.bearing(ctx, b.mark)
	if look != nil {
		return errors.Join(err, look)
	}
	if len(found) != 1 || found[0].Type != realized {
		return errors.Join(err, fmt.Errorf("%w: the VM was realized, and is not there as such", cim.ErrMalformed))
	}
	b.set = found[0]
	b.ref.Keys = []cim.Key{{Name: "InstanceID", Value: b.set.ID}}
	return nil
}

// noted sets a VM's notes.
func (h *Host) noted(ctx context.Context, instance string, notes []string) error {
	set := &cim.Instance{Class: settingClass}
	set.Set("InstanceID", instance)
	if len(notes) == 0 {
		notes = []string{""} // an array of nothing is left as it was
	}
	set.Set("Notes", notes)
	_, err := h.manage(ctx, "ModifySystemSettings", cim.Property{Name: "SystemSettings", Value: set})
	return err
}
