package hyperv

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
)

// record is what a point has of a VM's settings, in the parts that a new VM is made of.
type record struct {
	system *cim.Instance // nil: no Hyper-V recorded it
	host   string
	parts  []*cim.Instance

	controllers []*recordedPart
	drives      []*recordedPart // of disks and of CDs
	cards       []*recordedCard
	memory, cpu *cim.Instance
	security    *cim.Instance
	others      map[string]int           // classes of which nothing is brought back, and how many of each
	vlans       map[string]*cim.Instance // by the id of the connection that they are of, in small letters
	untold      []string
}

// recordedPart is a controller, or a drive on one.
type recordedPart struct {
	resource
	in    *cim.Instance
	on    *recordedPart // a drive's controller
	place string        // of a drive: scsi0-1
	file  string        // of a drive of a disk: the file that was frozen; empty: it has none
	cd    bool
}

// recordedCard is a network card.
type recordedCard struct {
	in     *cim.Instance
	name   string
	swtch  string        // GUID of the switch that it was plugged into, in small letters; empty: none
	called string        // that switch's name, where it is recorded
	vlan   *cim.Instance // nil: none
}

const maxSettings = 16 << 20 // bytes of SettingsFile

// readRecord reads settings.json of a point; one without it is a VM whose settings nobody recorded.
func readRecord(config map[string][]byte) (*record, error) {
	r := &record{others: map[string]int{}, vlans: map[string]*cim.Instance{}}
	text, ok := config[SettingsFile]
	if !ok {
		return r, nil
	}
	damaged := func(err error) (*record, error) { return nil, fmt.Errorf("configuration %s: %w", SettingsFile, err) }
	if len(text) > maxSettings {
		return damaged(fmt.Errorf("%d bytes: %w", len(text), fs.ErrInvalid))
	}
	var s Settings
	if err := json.Unmarshal(text, &s); err != nil {
		return damaged(fmt.Errorf("%w: %w", fs.ErrInvalid, err))
	}
	if s.Version != settingsVersion || len(s.Parts) > maxParts {
		return damaged(fmt.Errorf("version %d, %d parts: %w", s.Version, len(s.Parts), fs.ErrInvalid))
	}
	r.host = s.Host
	var err error
	if r.system, err = cim.ParseXML([]byte(s.System.XML)); err != nil {
		return damaged(err)
	}
	if r.system.Class != settingClass {
		return damaged(fmt.Errorf("a VM's settings are of class %.60q: %w", r.system.Class, fs.ErrInvalid))
	}
	for _, p := range s.Parts {
		in, err := cim.ParseXML([]byte(p.XML))
		if err != nil {
			return damaged(err)
		}
		if in.Class == classVLAN {
			r.vlans[strings.ToLower(p.On)] = in
			continue
		}
		r.parts = append(r.parts, in)
	}
	r.untold = s.Untold
	if err := r.sort(); err != nil {
		return damaged(err)
	}
	return r, nil
}

// Words of ResourceSubType, besides those of disks.
const (
	subDrive   = "Microsoft:Hyper-V:Synthetic Disk Drive"
	subCDDrive = "Microsoft:Hyper-V:Synthetic DVD Drive"
	subCable   = "Microsoft:Hyper-V:Ethernet Connection"
	subCard    = "Microsoft:Hyper-V:Synthetic Ethernet Port"
	subOldCard = "Microsoft:Hyper-V:Emulated Ethernet Port"

	classResource = "Msvm_ResourceAllocationSettingData"
	classStorage  = "Msvm_StorageAllocationSettingData"
	classCable    = "Msvm_EthernetPortAllocationSettingData"
	classCard     = "Msvm_SyntheticEthernetPortSettingData"
	classOldCard  = "Msvm_EmulatedEthernetPortSettingData"
	classMemory   = "Msvm_MemorySettingData"
	classCPU      = "Msvm_ProcessorSettingData"
	classSecurity = "Msvm_SecuritySettingData"
)

// sort finds out what each part is, and what is on what.
func (r *record) sort() error {
	all, order, byID := parts{}, []*resource(nil), map[string]*recordedPart{}
	var files, cables []*recordedPart
	for _, in := range r.parts {
		switch in.Class {
		case classMemory:
			r.memory = in
			continue
		case classCPU:
			r.cpu = in
			continue
		case classSecurity:
			r.security = in
			continue
		case classCard, classOldCard:
			r.cards = append(r.cards, &recordedCard{in: in, name: in.Text("ElementName")})
			continue
		case classResource, classStorage, classCable:
		default:
			if state := in.Text("EnabledState"); !strings.HasSuffix(in.Class, "ComponentSettingData") || state != "" && state != "2" {
				r.others[in.Class]++
			}
			continue
		}
		p := &recordedPart{in: in}
		if err := in.Decode(&p.resource); err != nil {
			return err
		}
		key := strings.ToLower(p.ID)
		all[key], byID[key] = &p.resource, p
		order = append(order, &p.resource)
		switch {
		case p.Sub == subIDE || p.Sub == subSCSI:
			r.controllers = append(r.controllers, p)
		case p.Sub == subDrive || p.Sub == subCDDrive:
			p.cd = p.Sub == subCDDrive
			r.drives = append(r.drives, p)
		case p.Sub == subFile:
			files = append(files, p)
		case in.Class == classCable:
			cables = append(cables, p)
		case in.Class == classResource:
			r.others[cmp.Or(p.Sub, in.Class)]++
		}
	}
	// SCSI controllers are counted in the order of their names: see parts.buses.
	slices.SortStableFunc(r.controllers, func(a, b *recordedPart) int { return strings.Compare(strings.ToLower(a.ID), strings.ToLower(b.ID)) })
	buses := all.buses(order)
	for _, d := range r.drives {
		up, err := all.above(&d.resource)
		if err != nil {
			return err
		}
		d.on = byID[strings.ToLower(up.ID)]
		kind := map[string]string{subIDE: "ide", subSCSI: "scsi"}[up.Sub]
		if kind == "" {
			return fmt.Errorf("%w: drive %s is on a %.100q", cim.ErrMalformed, d.ID, up.Sub)
		}
		d.place = fmt.Sprintf("%s%d-%s", kind, buses[up], strings.TrimSpace(d.At))
	}
	for _, f := range files {
		up, err := all.above(&f.resource)
		if err != nil {
			return err
		}
		if d := byID[strings.ToLower(up.ID)]; len(f.Host) == 1 {
			d.file = f.Host[0]
		}
	}
	return r.plug(cables)
}

// plug finds out what each card was plugged into.
func (r *record) plug(cables []*recordedPart) error {
	for _, c := range cables {
		up, err := cim.ParsePath(c.Parent)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(r.cards, func(card *recordedCard) bool {
			return strings.EqualFold(card.in.Text("InstanceID"), up.Key("InstanceID"))
		})
		if i < 0 || len(c.Host) == 0 || c.Host[0] == "" {
			continue
		}
		r.cards[i].vlan = r.vlans[strings.ToLower(c.ID)]
		to, err := cim.ParsePath(c.Host[0])
		if err != nil {
			return err
		}
		r.cards[i].swtch, r.cards[i].called = strings.ToLower(to.Key("Name")), c.in.Text("LastKnownSwitchName")
	}
	return nil
}

// tpm says whether the VM had a virtual one.
func (r *record) tpm() bool {
	return r.security != nil && strings.EqualFold(r.security.Text("TpmEnabled"), "true")
}

// diskFact is what the point's description says of where a disk was: "scsi0-1 C:\VMs\web1.vhdx".
func diskFact(vm hikae.VM, key string) (place, file string) {
	place, file, _ = strings.Cut(vm.Facts["disk."+key], " ")
	if place == "" && placeWord(key) {
		place = key
	}
	return place, file
}

// placeWord: ide0-1, scsi0-4.
func placeWord(s string) bool {
	rest, ok := strings.CutPrefix(s, "scsi")
	if !ok {
		rest, ok = strings.CutPrefix(s, "ide")
	}
	bus, slot, both := strings.Cut(rest, "-")
	return ok && both && isNumber(bus) && isNumber(slot)
}

func isNumber(s string) bool { return s != "" && len(s) < 4 && strings.Trim(s, "0123456789") == "" }

// driveOf is the drive that a disk of the point was in: by its place, else by its file. Nil: the record does not tell.
func (r *record) driveOf(vm hikae.VM, key string) *recordedPart {
	place, file := diskFact(vm, key)
	for _, d := range r.drives {
		if !d.cd && place != "" && d.place == place {
			return d
		}
	}
	for _, d := range r.drives {
		if !d.cd && file != "" && strings.EqualFold(d.file, file) {
			return d
		}
	}
	return nil
}
