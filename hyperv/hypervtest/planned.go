package hypervtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// importSystem is ImportSystemDefinition: a planned system of a configuration's file.
func importSystem(c *Call) (uint32, []any) {
	h, file := c.Host, c.text("SystemDefinitionFile")
	if file == "" {
		return 32773, nil
	}
	anew := strings.EqualFold(c.text("GenerateNewSystemIdentifier"), "true")
	var job *Object
	job = h.startJob(c.Method, "", "Importing a configuration", h.opts.JobTime, func() error {
		if err := h.eventFault("", "import").err(); err != nil {
			return err
		}
		g, err := h.plan(file, anew)
		if err != nil {
			return fmt.Errorf("the import of '%s' failed: %w", file, err)
		}
		h.affects(job, g.object)
		return nil
	}, nil)
	return 4096, []any{"ImportedSystem", nil, "Job", job}
}

// plan makes a planned system of a configuration's file.
func (h *Host) plan(file string, anew bool) (*Guest, error) {
	if !h.exists(file) {
		return nil, errNoFile
	}
	b, err := h.read(file)
	if err != nil {
		return nil, err
	}
	c, err := decodeConfig(b)
	if err != nil {
		return nil, err
	}
	if !h.supports(c.Version) {
		return nil, &FaultError{Code: 32768, Reason: "configuration version " + c.Version + " is not supported on this host"}
	}
	id := c.ID
	if anew {
		id = newGUID()
	}
	if h.guests[strings.ToLower(id)] != nil {
		return nil, &FaultError{Code: 32768, Reason: "a virtual machine with this identifier exists already: " + id}
	}
	g := &Guest{h: h, id: strings.ToLower(id), name: c.Name, os: c.OS, secret: newGUID(), integration: true, planned: true}
	base, _ := stem(file)
	g.recall(base + ".vmgs")
	g.object = h.system(VM{ID: id, Name: c.Name}, true)
	var from string
	for i := range c.Objects {
		o := c.Objects[i].object()
		if i == 0 {
			from, _ = o.text("InstanceID")
		}
		o = copyOf(o, from, "Microsoft:"+id)
		if i > 0 {
			if h.classes[key(V2, o.Class)] == nil {
				continue
			}
			h.part(g.set, o)
			continue
		}
		g.folder, _ = o.text("ConfigurationDataRoot")
		o.Set("VirtualSystemIdentifier", id)
		o.Set("VirtualSystemType", typePlanned)
		o.Set("ElementName", c.Name)
		o.Set("ConfigurationID", id)
		o.Set("ConfigurationFile", `Virtual Machines\`+id+h.configEnding())
		o.Set("Parent", nil)
		if _, ok := o.Values["GuestStateFile"]; ok {
			o.Set("GuestStateFile", `Virtual Machines\`+id+".vmgs")
		}
		g.set = h.Add(V2, o)
	}
	h.Add(V2, NewObject("Msvm_SettingsDefineState", "ManagedElement", g.object, "SettingData", g.set))
	h.enrol(g)
	return g, nil
}

// plannedIn is the planned system that a method is called with.
func (c *Call) plannedIn() *Guest {
	o := c.Refs["PlannedSystem"]
	if o == nil {
		return nil
	}
	id, _ := o.text("Name")
	if g := c.Host.guests[strings.ToLower(id)]; g != nil && g.planned && g.object == o {
		return g
	}
	return nil
}

// validatePlanned is ValidatePlannedSystem: its job fails with the first thing that is wrong, and tells all.
func validatePlanned(c *Call) (uint32, []any) {
	g := c.plannedIn()
	if g == nil {
		return 32773, nil
	}
	return 4096, []any{"Job", c.Host.startJob(c.Method, g.id, "Validating a planned virtual machine", c.Host.opts.JobTime, func() error { return g.valid() }, nil)}
}

// valid says what a planned system lacks on this host.
func (g *Guest) valid() error {
	var wrong []error
	for _, o := range g.h.parts(g.set) {
		sub, _ := o.text("ResourceSubType")
		name := firstOf(o.Values["HostResource"])
		switch {
		case sub == subDisk && !g.h.exists(name):
			wrong = append(wrong, fmt.Errorf("attachment '%s' not found: %w", name, errNoFile))
		case sub == subDisk:
			if other := g.h.ownerOf(name); other != nil && other != g && other.running() {
				wrong = append(wrong, fmt.Errorf("'%s': %w", name, ErrSharing))
			} else if _, _, err := g.h.imageInfo(name); err != nil {
				wrong = append(wrong, fmt.Errorf("attachment '%s': %w", name, err))
			}
		case sub == "Microsoft:Hyper-V:Ethernet Connection" && name != "":
			if _, err := g.h.byPath(V2, name); err != nil {
				wrong = append(wrong, fmt.Errorf("could not find the Ethernet switch '%s'", name))
			}
		}
	}
	return errors.Join(wrong...)
}

// realizePlanned is RealizePlannedSystem.
func realizePlanned(c *Call) (uint32, []any) {
	h, g := c.Host, c.plannedIn()
	if g == nil {
		return 32773, nil
	}
	var job *Object
	job = h.startJob(c.Method, g.id, "Realizing a planned virtual machine", h.opts.JobTime, func() error {
		if err := h.eventFault(g.id, "realize").err(); err != nil {
			return err
		}
		if err := g.realize(); err != nil {
			return fmt.Errorf("'%s' cannot be realized: %w", g.name, err)
		}
		h.affects(job, g.object)
		return nil
	}, nil)
	return 4096, []any{"ResultingSystem", nil, "Job", job}
}

func (g *Guest) realize() error {
	h := g.h
	if !g.planned {
		return &FaultError{Code: 32775, Reason: "it is no planned system any more"}
	}
	if err := g.valid(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	plan := g.object
	g.object = h.system(VM{ID: g.id, Name: g.name}, false)
	h.Remove(plan)
	h.Add(V2, NewObject("Msvm_SettingsDefineState", "ManagedElement", g.object, "SettingData", g.set))
	g.set.Set("VirtualSystemType", typeRealized)
	g.planned = false
	if root, _ := g.set.text("ConfigurationDataRoot"); root != "" {
		g.folder = strings.TrimSuffix(root, `\`)
	}
	if g.folder == "" {
		g.folder = `C:\VMs\` + fileName(g.name, g.id)
	}
	if err := g.attachDrives(); err != nil {
		return err
	}
	h.event(Event{Actor: "host", Name: "realized", VM: g.id})
	return g.saveConfig()
}

// exportSystem is ExportSystemDefinition of a configuration: disks are not copied here, whoever wants them reads their files.
func exportSystem(c *Call) (uint32, []any) {
	h, o := c.Host, c.Refs["ComputerSystem"]
	dir := strings.TrimSuffix(c.text("ExportDirectory"), `\`)
	if o == nil || dir == "" {
		return 32773, nil
	}
	id, _ := o.text("Name")
	g := h.guests[strings.ToLower(id)]
	in, err := parseEmbedded(c.text("ExportSettingData"))
	if g == nil || err != nil || !strings.EqualFold(in.Class, "Msvm_VirtualSystemExportSettingData") {
		return 32773, nil
	}
	if storage, _ := in.text("CopyVmStorage"); !strings.EqualFold(storage, "false") {
		return 32770, nil
	}
	if sub, ok := in.text("CreateVmExportSubdirectory"); !ok || strings.EqualFold(sub, "true") {
		dir += `\` + fileName(g.name, g.id)
	}
	set, name := g.set, g.id
	if path, _ := in.text("SnapshotVirtualSystem"); path != "" {
		if set, err = h.byPath(V2, path); err != nil {
			return 32773, nil
		}
		if owner, cp := h.checkpointOf(set); owner != g {
			return 32773, nil
		} else {
			name = cp.id
		}
	}
	return 4096, []any{"Job", h.startJob(c.Method, g.id, "Exporting a virtual machine", h.opts.JobTime, func() error {
		if !slices.Contains(h.objects, set) {
			return &FaultError{Code: 32773, Reason: "what is to be exported is not there any more"}
		}
		return h.saveFiles(g, set, dir+`\Virtual Machines\`+strings.ToUpper(name))
	}, nil)}
}
