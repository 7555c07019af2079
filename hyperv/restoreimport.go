package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
)

// The state of a virtual TPM comes back only with the VM's own configuration files: a VM that had one is imported from these, as a planned
// VM, and loses all of its hardware that is then added as in any other. The files lie in a folder of their own meanwhile.

// imported is what a VM is imported from.
type imported struct {
	names []string // of files in the point, the configuration first
	file  string   // where the host finds that
	was   string   // the VM's recorded name: until the mark is in its notes, the planned VM bears it
	there []string // planned VMs that there were
}

// planImport says whether the VM can be imported: it had a virtual TPM, and all its state is in the point.
func (d *newVM) planImport() {
	if !d.rec.tpm() || d.host.info.Build < build2016 {
		return
	}
	var base string
	for name := range d.vm.Config {
		if stem, ok := strings.CutSuffix(name, ".vmcx"); ok {
			if base != "" || folderName(stem) != stem {
				return // which is the VM's cannot be told
			}
			base = stem
		}
	}
	if _, state := d.vm.Config[base+".vmgs"]; base == "" || !state {
		return
	}
	d.imp = &imported{was: d.vm.Name, file: d.folder.path + folderImport + `\` + base + ".vmcx"}
	for _, ending := range []string{".vmcx", ".vmrs", ".vmgs"} {
		if _, ok := d.vm.Config[base+ending]; ok {
			d.imp.names = append(d.imp.names, base+ending)
			d.folder.files = append(d.folder.files, d.folder.path+folderImport+`\`+base+ending)
		}
	}
	d.notes = append(d.notes, "the VM's virtual TPM is brought back with its state. Its keys are protected by a guardian: a host that does not know that one does not start the VM")
}

// planned are the planned VMs of a host.
func (h *Host) plannedVMs(ctx context.Context) (list []vmSettings, err error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	all, err := cim.All(h.client.Query(ctx, cim.Virtualization, "SELECT * FROM "+settingClass+" WHERE VirtualSystemType = "+cim.Quote(plannedKind), nil))
	if err != nil {
		return nil, err
	}
	for _, in := range all {
		var s vmSettings
		if err := in.Decode(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// facts find the planned VM again, before it has its mark.
func (i *imported) facts(ctx context.Context, h *Host) (map[string]string, error) {
	there, err := h.plannedVMs(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range there {
		i.there = append(i.there, strings.ToLower(s.VM))
	}
	return map[string]string{"imports": i.was, "there": strings.Join(i.there, "\n")}, nil
}

// fresh is the planned VM that was imported and has no mark yet: the only one of the name that is new. None is nil.
func (i *imported) fresh(ctx context.Context, h *Host) (*vmSettings, error) {
	list, err := h.plannedVMs(ctx)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(s vmSettings) bool {
		_, marked := unfinishedOf(s.Notes)
		return marked || s.Name != i.was || slices.Contains(i.there, strings.ToLower(s.VM))
	})
	switch len(list) {
	case 0:
		return nil, nil
	case 1:
		return &list[0], nil
	}
	return nil, &hikae.BusyError{What: "planned VM " + i.was, Owner: fmt.Sprintf("somebody else too: %d of that name are new, and which is ours is not known; none was removed", len(list))}
}

// found is what a call imported: what its job affected, else the one that is new.
func (i *imported) found(ctx context.Context, h *Host, out *cim.Outcome) (*vmSettings, error) {
	if out == nil || out.Out == nil {
		return i.fresh(ctx, h)
	}
	in, err := h.resultOf(ctx, out, "ImportedSystem", cim.Hop{Association: "Msvm_AffectedJobElement", Result: classPlan})
	if err != nil {
		return i.fresh(ctx, h)
	}
	list, err := h.plannedVMs(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		if strings.EqualFold(s.VM, in.Text("Name")) && !slices.Contains(i.there, strings.ToLower(s.VM)) {
			return &s, nil
		}
	}
	return nil, nil
}

// importVM makes the planned VM of the recorded files, and takes its hardware away.
func (d *newVM) importVM(ctx context.Context, notes []string) error {
	if err := d.store.MakeDir(ctx, d.folder.path+folderImport); err != nil {
		return err
	}
	for _, name := range d.imp.names {
		if err := putFile(ctx, d.store, d.folder.path+folderImport+`\`+name, d.vm.Config[name]); err != nil {
			return fmt.Errorf("configuration %s: %w", name, err)
		}
	}
	out, err := d.host.manage(ctx, "ImportSystemDefinition", cim.Property{Name: "SystemDefinitionFile", Value: d.imp.file},
		cim.Property{Name: "SnapshotFolder", Value: ""}, cim.Property{Name: "GenerateNewSystemIdentifier", Value: true})
	var lost *cim.UnknownError
	if err != nil && !errors.As(err, &lost) {
		return fmt.Errorf("import the VM: %w", err)
	}
	s, look := d.imp.found(ctx, d.host, out)
	if look == nil && s == nil {
		look = fmt.Errorf("%w: the VM was imported, and is not there", cim.ErrMalformed)
	}
	if look != nil {
		return errors.Join(err, look)
	}
	b := d.b
	b.set = *s
	b.ref = cim.Ref{Namespace: cim.Virtualization, Class: settingClass, Keys: []cim.Key{{Name: "InstanceID", Value: s.ID}}}
	set := &cim.Instance{Class: settingClass, Properties: slices.Clone(d.spec.system.Properties)}
	set.Set("InstanceID", s.ID)
	set.Set("Notes", notes)
	for _, name := range rootsOfVM {
		set.Set(name, d.folder.path)
	}
	if _, err := d.host.manage(ctx, "ModifySystemSettings", cim.Property{Name: "SystemSettings", Value: set}); err != nil {
		return fmt.Errorf("settings of the VM: %w", err)
	}
	b.set.Notes = notes
	return b.strip(ctx)
}

// strip takes disks, drives, controllers and network cards from a planned VM that was imported: what is on another goes first.
func (b *builder) strip(ctx context.Context) error {
	list, err := b.parts(ctx)
	if err != nil {
		return err
	}
	layers := make([][]cim.Ref, 3)
	for _, in := range list {
		sub, layer := in.Text("ResourceSubType"), -1
		switch {
		case in.Class == classStorage || in.Class == classCable:
			layer = 0
		case in.Class == classCard || in.Class == classOldCard || sub == subDrive || sub == subCDDrive || sub == subPhysical:
			layer = 1
		case sub == subSCSI:
			layer = 2
		}
		if layer < 0 {
			continue
		}
		ref, err := in.Keyed(cim.Virtualization, "InstanceID")
		if err != nil {
			return err
		}
		layers[layer] = append(layers[layer], ref)
	}
	for _, refs := range layers {
		if len(refs) == 0 {
			continue
		}
		if _, err := b.h.manage(ctx, "RemoveResourceSettings", cim.Property{Name: "ResourceSettings", Value: refs}); err != nil {
			return fmt.Errorf("hardware of the imported VM: %w", err)
		}
	}
	return nil
}

// clearImport removes the files that the VM was imported from, once it has its own.
func (d *newVM) clearImport(ctx context.Context) error {
	for _, name := range d.imp.names {
		if err := d.store.Remove(ctx, d.folder.path+folderImport+`\`+name); err != nil {
			return err
		}
	}
	return removeEmpty(ctx, d.store, d.folder.path+folderImport)
}

// destroyFresh destroys a planned VM that was imported by a session which died before it could mark it.
func destroyFresh(ctx context.Context, h *Host, facts map[string]string) error {
	if facts["imports"] == "" {
		return nil
	}
	s, err := (&imported{was: facts["imports"], there: linesOf(facts["there"])}).fresh(ctx, h)
	if err != nil || s == nil {
		return err
	}
	return h.destroyOne(ctx, *s)
}

// putFile makes a small file.
func putFile(ctx context.Context, store Store, name string, content []byte) error {
	f, err := store.Create(ctx, name)
	if err != nil {
		return err
	}
	const most = 1 << 20
	for off := 0; off < len(content) && err == nil; off += most {
		_, err = f.WriteAt(ctx, content[off:min(len(content), off+most)], int64(off))
	}
	if err == nil {
		err = f.Sync(ctx)
	}
	return errors.Join(err, f.Close())
}
