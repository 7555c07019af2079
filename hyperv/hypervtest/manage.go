package hypervtest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

func managementMethods() map[string]Method {
	return map[string]Method{"ModifySystemSettings": modifySystem, "AddResourceSettings": addResources, "ModifyResourceSettings": modifyResources,
		"RemoveResourceSettings": removeResources, "DefineSystem": define, "DefinePlannedSystem": define, "ImportSystemDefinition": importSystem,
		"ValidatePlannedSystem": validatePlanned, "RealizePlannedSystem": realizePlanned, "AddFeatureSettings": addFeatures, "DestroySystem": destroySystem, "ExportSystemDefinition": exportSystem}
}

// settingsBy finds settings by InstanceID, and the VM and perhaps the checkpoint that they are of.
func (h *Host) settingsBy(instance string) (*Guest, *checkpoint, *Object) {
	for _, g := range h.guests {
		if v, _ := g.set.text("InstanceID"); strings.EqualFold(v, instance) {
			return g, nil, g.set
		}
		for _, cp := range g.checkpoints {
			if cp.object == nil {
				continue
			}
			if v, _ := cp.object.text("InstanceID"); strings.EqualFold(v, instance) {
				return g, cp, cp.object
			}
		}
	}
	return nil, nil, nil
}

// changeable are the settings of a VM that may be changed, and those that only a VM that is off, or planned, takes.
var changeable = map[string]bool{"ElementName": true, "Notes": true, "UserSnapshotType": true, "AutomaticStartupAction": true, "AutomaticShutdownAction": true,
	"IncrementalBackupEnabled": true, "ConfigurationDataRoot": false, "SnapshotDataRoot": false, "SuspendDataRoot": false, "SwapFileDataRoot": false,
	"SecureBootEnabled": false, "BIOSNumLock": false, "BootOrder": false, "GuestStateDataRoot": false}

// modifySystem is ModifySystemSettings, of a VM, a planned one or a checkpoint.
func modifySystem(c *Call) (uint32, []any) {
	h := c.Host
	in, err := parseEmbedded(c.text("SystemSettings"))
	if err != nil || !strings.EqualFold(in.Class, "Msvm_VirtualSystemSettingData") {
		return 32773, nil
	}
	id, _ := in.text("InstanceID")
	g, cp, set := h.settingsBy(id)
	if set == nil {
		return 32773, nil
	}
	return 4096, []any{"Job", h.startJob(c.Method, g.id, "Changing settings", h.opts.JobTime, func() error { return h.change(g, cp, set, in) }, nil)}
}

func (h *Host) change(g *Guest, cp *checkpoint, set, in *Object) error {
	off := !g.running()
	for _, n := range in.Names {
		always, known := changeable[n]
		if !known || in.Values[n] == nil {
			continue
		}
		v := in.Values[n]
		if always || off && cp == nil {
			if n == "Notes" {
				if cp != nil && h.opts.DropNotes {
					continue
				}
				if s, one := v.(string); one {
					v = []string{s}
				}
			}
			set.Set(n, v)
		} else if old, _ := set.text(n); old != textOf(v) {
			return &FaultError{Code: 32775, Reason: n + " cannot be changed while the virtual machine is running"}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if cp != nil {
		if cp.gone {
			return &FaultError{Code: 32773, Reason: "the checkpoint is not there any more"}
		}
		return g.saveSnapshotConfig(cp)
	}
	g.name, _ = set.text("ElementName")
	g.object.Set("ElementName", g.name)
	if g.planned {
		return nil
	}
	return g.move(set)
}

// move follows a new root of the configuration's files.
func (g *Guest) move(set *Object) error {
	root, _ := set.text("ConfigurationDataRoot")
	if root = strings.TrimSuffix(root, `\`); root != "" && !strings.EqualFold(root, g.folder) {
		for _, n := range g.h.configNames(g.folder + `\Virtual Machines\` + strings.ToUpper(g.id)) {
			if err := g.h.remove(n); err != nil {
				return err
			}
		}
		g.folder = root
	}
	return g.saveConfig()
}

// define is DefineSystem and DefinePlannedSystem: a VM with what every VM has, and the parts that are given.
func define(c *Call) (uint32, []any) {
	h := c.Host
	in, err := parseEmbedded(c.text("SystemSettings"))
	if err != nil || !strings.EqualFold(in.Class, "Msvm_VirtualSystemSettingData") {
		return 32773, nil
	}
	v := VM{ID: newGUID(), State: stateOff, Generation: 1}
	v.Name, _ = in.text("ElementName")
	v.Version, _ = in.text("Version")
	v.Folder, _ = in.text("ConfigurationDataRoot")
	v.Folder = strings.TrimSuffix(v.Folder, `\`)
	if notes, ok := in.Values["Notes"].([]string); ok {
		v.Notes = notes
	}
	if sub, _ := in.text("VirtualSystemSubType"); strings.HasSuffix(sub, ":2") && h.gen.since("2012r2") {
		v.Generation = 2
	}
	if v.Name == "" {
		v.Name = "New Virtual Machine"
	}
	if !h.supports(v.Version) {
		return 32773, nil
	}
	h.defaults(&v)
	g, err := h.bare(v, c.Method == "DefinePlannedSystem")
	if err != nil {
		return 32768, nil
	}
	for _, text := range c.In["ResourceSettings"] {
		if _, err := h.addPart(g, text); err != nil {
			h.expel(g)
			return 32773, nil
		}
	}
	return 0, []any{"ResultingSystem", g.object, "Job", nil}
}

// supports says whether the host can run VMs of a configuration version. Empty is its own.
func (h *Host) supports(version string) bool {
	if version == "" {
		return true
	}
	v, err1 := strconv.ParseFloat(version, 64)
	own, err2 := strconv.ParseFloat(generations[h.gen.order].config, 64)
	return err1 == nil && err2 == nil && v <= own && (v >= 5 || !h.gen.since("2016"))
}

// bare makes a VM, or a planned one, with no disks.
func (h *Host) bare(v VM, planned bool) (*Guest, error) {
	g := &Guest{h: h, id: strings.ToLower(v.ID), name: v.Name, os: v.GuestOS, folder: v.Folder, secret: newGUID(), integration: true, planned: planned}
	kind := typeRealized
	if planned {
		kind = typePlanned
	}
	g.object = h.system(v, planned)
	g.set = h.settings(v, "Microsoft:"+strings.ToUpper(v.ID), kind)
	if v.Generation == 1 {
		for bus := range 2 {
			h.part(g.set, NewObject("Msvm_ResourceAllocationSettingData", "InstanceID", fmt.Sprintf(`Microsoft:%s\5%d`, strings.ToUpper(v.ID), bus), "ResourceType", uint16(5),
				"ResourceSubType", "Microsoft:Hyper-V:Emulated IDE Controller", "Address", strconv.Itoa(bus), "AddressOnParent", nil, "Parent", nil, "HostResource", nil))
		}
	}
	for _, o := range h.parts(g.set) { // a new VM has no adapter
		if strings.Contains(o.Class, "Ethernet") {
			h.Remove(o)
		}
	}
	h.Add(V2, NewObject("Msvm_SettingsDefineState", "ManagedElement", g.object, "SettingData", g.set))
	h.enrol(g)
	if planned {
		return g, nil
	}
	return g, g.saveConfig()
}

// system is the object of a VM, or of a planned one.
func (h *Host) system(v VM, planned bool) *Object {
	class, caption := "Msvm_ComputerSystem", "Virtual Machine"
	if planned {
		class, caption = "Msvm_PlannedComputerSystem", "Planned Virtual Machine"
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	return h.Add(V2, NewObject(class, "CreationClassName", class, "Name", strings.ToUpper(v.ID), "ElementName", v.Name, "Caption", caption,
		"EnabledState", uint16(stateOff), "OperationalStatus", []uint16{2}, "ProcessID", nil, "InstallDate", now, "TimeOfLastStateChange", now))
}

// expel takes a VM from the host, and not its files.
func (h *Host) expel(g *Guest) {
	for _, o := range slices.Clone(h.objects) {
		if o.Class == "Msvm_VirtualSystemReferencePoint" && h.vmOf(o) == g.id {
			h.Remove(o)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, cp := range g.checkpoints {
		if cp.gone = true; cp.object != nil {
			h.removeSettings(cp.object)
		}
	}
	h.removeSettings(g.set)
	h.Remove(g.object)
	delete(h.guests, g.id)
	h.places.Lock()
	h.ordered = slices.DeleteFunc(slices.Clone(h.ordered), func(o *Guest) bool { return o == g })
	h.places.Unlock()
}

// configured is the VM whose present settings these are.
func (h *Host) configured(set *Object) *Guest {
	for _, g := range h.guests {
		if g.set == set {
			return g
		}
	}
	return nil
}

// addResources is AddResourceSettings: it is done before its job's end, as what comes of it is in the answer.
func addResources(c *Call) (uint32, []any) {
	h, g := c.Host, c.Host.configured(c.Refs["AffectedConfiguration"])
	if g == nil || len(c.In["ResourceSettings"]) == 0 {
		return 32773, nil
	}
	var made []*Object
	for _, text := range c.In["ResourceSettings"] {
		o, err := h.addPart(g, text)
		if err != nil {
			for _, o := range made {
				h.Remove(o)
			}
			return 4096, []any{"ResultingResourceSettings", nil, "Job", h.startJob(c.Method, g.id, "Adding resources", h.opts.JobTime, func() error { return err }, nil)}
		}
		made = append(made, o)
	}
	return 4096, []any{"ResultingResourceSettings", made, "Job", h.startJob(c.Method, g.id, "Adding resources", h.opts.JobTime, func() error { return g.reattach() }, nil)}
}

// addPart adds a part to a VM's settings: what it is on has to be there.
func (h *Host) addPart(g *Guest, text string) (*Object, error) {
	in, err := parseEmbedded(text)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(resourceClasses, func(c string) bool { return strings.EqualFold(c, in.Class) }) {
		return nil, &FaultError{Code: 32773, Reason: "no resource is of class " + in.Class}
	}
	if strings.EqualFold(in.Class, "Msvm_MemorySettingData") || strings.EqualFold(in.Class, "Msvm_ProcessorSettingData") {
		return nil, &FaultError{Code: 32773, Reason: "a virtual machine has one of " + in.Class + ", which can be modified"}
	}
	if parent, _ := in.text("Parent"); parent != "" {
		on, err := h.byPath(V2, parent)
		if err != nil || !slices.Contains(h.parts(g.set), on) {
			return nil, &FaultError{Code: 32773, Reason: "what the resource is on is not there: " + parent}
		}
		in.Set("Parent", h.Path(h.opts.Name, on))
	} else if needsParent(in) {
		return nil, &FaultError{Code: 32773, Reason: "the resource is on nothing"}
	}
	if err := h.available(g, in); err != nil {
		return nil, err
	}
	in.Class = resourceClasses[slices.IndexFunc(resourceClasses, func(c string) bool { return strings.EqualFold(c, in.Class) })]
	in.Set("InstanceID", "Microsoft:"+strings.ToUpper(g.id)+`\`+newGUID())
	return h.part(g.set, in), nil
}

func needsParent(o *Object) bool {
	sub, _ := o.text("ResourceSubType")
	return strings.Contains(sub, "Drive") || sub == subDisk || strings.Contains(o.Class, "PortAllocation")
}

// available: a VM that is no planned one takes only a disk that is there and that no other VM has open.
func (h *Host) available(g *Guest, o *Object) error {
	sub, _ := o.text("ResourceSubType")
	name := firstOf(o.Values["HostResource"])
	if sub != subDisk || g.planned {
		return nil
	}
	if name == "" || !h.exists(name) {
		return fmt.Errorf("attachment '%s' not found: %w", name, errNoFile)
	}
	if other := h.ownerOf(name); other != nil && other != g && other.running() {
		return fmt.Errorf("'%s': %w", name, ErrSharing)
	}
	return nil
}

// modifyResources is ModifyResourceSettings: each is found by its InstanceID.
func modifyResources(c *Call) (uint32, []any) {
	h := c.Host
	var done []*Object
	vm := ""
	for _, text := range c.In["ResourceSettings"] {
		in, err := parseEmbedded(text)
		if err != nil {
			return 32773, nil
		}
		id, _ := in.text("InstanceID")
		o := h.find(V2, "CIM_ResourceAllocationSettingData", map[string]string{"InstanceID": id})
		g := h.holder(o)
		if o == nil || g == nil || id == "" {
			return 32773, nil
		}
		if g.running() && o.Class != "Msvm_EthernetPortAllocationSettingData" {
			return 32775, nil
		}
		vm = g.id
		for _, n := range in.Names {
			if _, known := o.Values[n]; known && n != "InstanceID" && in.Values[n] != nil {
				o.Set(n, in.Values[n])
			}
		}
		done = append(done, o)
	}
	if len(done) == 0 {
		return 32773, nil
	}
	return 4096, []any{"ResultingResourceSettings", done, "Job", h.startJob(c.Method, vm, "Changing resources", h.opts.JobTime, func() error {
		return h.guests[vm].reattach()
	}, nil)}
}

// holder is the VM whose present settings a part belongs to.
func (h *Host) holder(part *Object) *Guest {
	for _, g := range h.guests {
		if part != nil && slices.Contains(h.parts(g.set), part) {
			return g
		}
	}
	return nil
}

// removeResources is RemoveResourceSettings: a part goes with what is on it.
func removeResources(c *Call) (uint32, []any) {
	h := c.Host
	list := c.Lists["ResourceSettings"]
	if len(list) == 0 {
		return 32773, nil
	}
	g := h.holder(list[0])
	if g == nil {
		return 32773, nil
	}
	return 4096, []any{"Job", h.startJob(c.Method, g.id, "Removing resources", h.opts.JobTime, func() error {
		for _, o := range list {
			path := h.Path(h.opts.Name, o)
			for _, on := range h.parts(g.set) {
				if p, _ := on.text("Parent"); strings.EqualFold(p, path) {
					h.Remove(on)
				}
			}
			h.Remove(o)
		}
		return g.reattach()
	}, nil)}
}

// reattach has the drives be those that the settings name. A planned system has none.
func (g *Guest) reattach() error {
	if g == nil || g.planned {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var err error
	parts := g.h.parts(g.set)
	g.drives = slices.DeleteFunc(g.drives, func(d *drive) bool {
		if slices.Contains(parts, d.resource) && strings.EqualFold(firstOf(d.resource.Values["HostResource"]), d.tip.name) {
			return false
		}
		err = errors.Join(err, d.shut())
		return true
	})
	if err != nil {
		return err
	}
	for _, o := range parts {
		sub, _ := o.text("ResourceSubType")
		have := slices.ContainsFunc(g.drives, func(d *drive) bool { return d.resource == o })
		name := firstOf(o.Values["HostResource"])
		if o.Class != "Msvm_StorageAllocationSettingData" || sub != subDisk || have || !g.h.exists(name) {
			continue
		}
		d, err := g.adopt(o, name)
		if err != nil {
			return err
		}
		g.drives = append(g.drives, d)
	}
	return g.saveConfig()
}

// destroySystem is DestroySystem, of a VM that is off or of a planned one. Disks stay.
func destroySystem(c *Call) (uint32, []any) {
	h, o := c.Host, c.Refs["AffectedSystem"]
	if o == nil {
		return 32773, nil
	}
	id, _ := o.text("Name")
	g := h.guests[strings.ToLower(id)]
	if g == nil || g.object != o {
		return 32773, nil
	}
	if g.running() || g.status() != 0 {
		return 32775, nil
	}
	return 4096, []any{"Job", h.startJob(c.Method, g.id, "Removing a virtual machine", h.opts.JobTime, func() error { return h.destroy(g) }, nil)}
}

func (h *Host) destroy(g *Guest) error {
	planned := g.planned
	h.expel(g)
	if planned {
		return nil
	}
	var err error
	for _, n := range h.configNames(g.folder + `\Virtual Machines\` + strings.ToUpper(g.id)) {
		err = errors.Join(err, h.remove(n))
	}
	for _, cp := range g.checkpoints {
		err = errors.Join(err, g.removeSnapshotConfig(cp))
	}
	for _, d := range g.drives {
		err = errors.Join(err, d.shut())
	}
	return err
}

// keyProtector is Msvm_SecurityService's GetKeyProtector.
func keyProtector(c *Call) (uint32, []any) {
	g := c.Host.secured(c.Refs["SecuritySettingData"])
	if g == nil {
		return 32773, nil
	}
	return 0, []any{"KeyProtector", g.protector}
}

// secured is the VM that security settings are of, the present ones or a checkpoint's.
func (h *Host) secured(o *Object) *Guest {
	for _, g := range h.guests {
		if o != nil && slices.Contains(h.parts(g.set), o) {
			return g
		}
		for _, cp := range g.checkpoints {
			if o != nil && cp.object != nil && slices.Contains(h.parts(cp.object), o) {
				return g
			}
		}
	}
	return nil
}

// securityIn finds the settings that an embedded instance is of.
func (h *Host) securityIn(text string) (*Guest, *Object, *Object) {
	in, err := parseEmbedded(text)
	if err != nil {
		return nil, nil, nil
	}
	id, _ := in.text("InstanceID")
	o := h.find(V2, "Msvm_SecuritySettingData", map[string]string{"InstanceID": id})
	return h.secured(o), o, in
}

// setKeyProtector is SetKeyProtector: of a VM that is off.
func setKeyProtector(c *Call) (uint32, []any) {
	h := c.Host
	g, _, _ := h.securityIn(c.text("SecuritySettingData"))
	if g == nil {
		return 32773, nil
	}
	if g.running() {
		return 32775, nil
	}
	var b []byte
	for _, s := range c.In["KeyProtector"] {
		n, err := strconv.ParseUint(s, 10, 8)
		if err != nil {
			return 32773, nil
		}
		b = append(b, byte(n))
	}
	return 4096, []any{"Job", h.startJob(c.Method, g.id, "Setting a key protector", h.opts.JobTime, func() error { g.protector = b; return nil }, nil)}
}

// modifySecurity is ModifySecuritySettings. A virtual TPM needs a key protector.
func modifySecurity(c *Call) (uint32, []any) {
	h := c.Host
	g, o, in := h.securityIn(c.text("SecuritySettingData"))
	if g == nil {
		return 32773, nil
	}
	if g.running() {
		return 32775, nil
	}
	return 4096, []any{"Job", h.startJob(c.Method, g.id, "Changing security settings", h.opts.JobTime, func() error {
		if on, _ := in.text("TpmEnabled"); strings.EqualFold(on, "true") && len(g.protector) <= 4 {
			return &FaultError{Code: 32775, Reason: "a virtual TPM cannot be enabled without a key protector"}
		}
		for _, n := range in.Names {
			if _, known := o.Values[n]; known && n != "InstanceID" && in.Values[n] != nil {
				o.Set(n, in.Values[n])
			}
		}
		return nil
	}, nil)}
}
