package hyperv

import (
	"context"
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	"github.com/hikae/hikae/hyperv/cim"
)

// Words of ResourceSubType.
const (
	subFile     = "Microsoft:Hyper-V:Virtual Hard Disk"
	subPhysical = "Microsoft:Hyper-V:Physical Disk Drive"
	subIDE      = "Microsoft:Hyper-V:Emulated IDE Controller"
	subSCSI     = "Microsoft:Hyper-V:Synthetic SCSI Controller"
)

// resource is a part of a VM: a controller, a drive on it, or a file in a drive.
type resource struct {
	ID      string   `cim:"InstanceID"`
	Sub     string   `cim:"ResourceSubType,optional"`
	Parent  string   `cim:"Parent,optional"`
	Address string   `cim:"Address,optional"`
	At      string   `cim:"AddressOnParent,optional"`
	Host    []string `cim:"HostResource"`
	Shared  bool     `cim:"PersistentReservationsSupported,optional"`

	Connection []string `cim:"Connection"` // 2008 R2 has files here
}

// parts are those of some settings, by InstanceID in small letters.
type parts map[string]*resource

// disks reads the hard disks of some settings: the present ones, or a checkpoint's.
func (h *Host) disks(ctx context.Context, settings cim.Ref) ([]Disk, error) {
	all, order := parts{}, []*resource(nil)
	classes := []string{"Msvm_ResourceAllocationSettingData", "Msvm_StorageAllocationSettingData"}
	if h.legacy {
		classes = classes[:1]
	}
	for _, class := range classes {
		list, err := cim.All(h.client.Associators(ctx, settings, cim.Hop{Result: class}, nil))
		if err != nil {
			return nil, err
		}
		for _, in := range list {
			r := &resource{}
			if err := in.Decode(r); err != nil {
				return nil, err
			}
			if h.legacy {
				r.modern()
			}
			all[strings.ToLower(r.ID)] = r
			order = append(order, r)
		}
	}
	buses := all.buses(order)
	var disks []Disk
	for _, r := range order {
		if r.Sub != subFile && r.Sub != subPhysical {
			continue
		}
		d, err := all.disk(r, buses)
		if err != nil {
			return nil, err
		}
		if err := h.measure(ctx, &d); err != nil {
			return nil, err
		}
		disks = append(disks, d)
	}
	sort.SliceStable(disks, func(i, j int) bool { return disks[i].place() < disks[j].place() })
	return disks, unique(disks)
}

func (d *Disk) place() string { return fmt.Sprintf("%s%d-%d", d.Controller, d.Bus, d.Slot) }

// buses counts controllers of each kind. IDE ones say which they are; SCSI ones are in the order of their names.
func (p parts) buses(order []*resource) map[*resource]int {
	numbers, scsi := map[*resource]int{}, []*resource(nil)
	for _, r := range order {
		switch r.Sub {
		case subSCSI:
			scsi = append(scsi, r)
		case subIDE:
			if n, err := strconv.ParseUint(r.Address, 10, 8); err == nil {
				numbers[r] = int(n)
			}
		}
	}
	sort.SliceStable(scsi, func(i, j int) bool { return strings.ToLower(scsi[i].ID) < strings.ToLower(scsi[j].ID) })
	for i, r := range scsi {
		numbers[r] = i
	}
	return numbers
}

// above is what a part is in or on: Parent is a path.
func (p parts) above(r *resource) (*resource, error) {
	ref, err := cim.ParsePath(r.Parent)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.ID, err)
	}
	up := p[strings.ToLower(ref.Key("InstanceID"))]
	if up == nil {
		return nil, fmt.Errorf("%w: %s is on %s, which is not there", cim.ErrMalformed, r.ID, r.Parent)
	}
	return up, nil
}

// disk follows a file to its drive and that to its controller. A physical disk is its own drive.
func (p parts) disk(r *resource, buses map[*resource]int) (d Disk, err error) {
	drive := r
	if d.Physical = r.Sub == subPhysical; !d.Physical {
		if drive, err = p.above(r); err != nil {
			return d, err
		}
	}
	controller, err := p.above(drive)
	if err != nil {
		return d, err
	}
	switch controller.Sub {
	case subIDE:
		d.Controller = "ide"
	case subSCSI:
		d.Controller = "scsi"
	default:
		return d, fmt.Errorf("%w: %s is on a %.100q", cim.ErrMalformed, drive.ID, controller.Sub)
	}
	slot, err := strconv.ParseUint(strings.TrimSpace(drive.At), 10, 8)
	if err != nil {
		return d, fmt.Errorf("%w: %s: AddressOnParent %.40q", cim.ErrMalformed, drive.ID, drive.At)
	}
	d.Bus, d.Slot = buses[controller], int(slot)
	d.Key = d.place()
	if len(r.Host) != 1 || r.Host[0] == "" {
		return d, fmt.Errorf("%w: %s has %d files", cim.ErrMalformed, r.ID, len(r.Host))
	}
	d.Path, d.Shared, d.instance = r.Host[0], r.Shared, r.ID
	d.Format = formatOf(d.Path, 0)
	return d, nil
}

// diskFile is what the host says of a file. VirtualDiskId is not told by older hosts.
type diskFile struct {
	Size   uint64 `cim:"MaxInternalSize"`
	Parent string `cim:"ParentPath,optional"`
	ID     string `cim:"VirtualDiskId,optional"`
	Format uint16 `cim:"Format,optional"`
	Sector uint32 `cim:"LogicalSectorSize,optional"`
	Type   uint16 `cim:"Type,optional"` // 2 fixed, 3 dynamic, 4 differencing
}

// formatOf goes by the host's word, and where it has none by the ending of the name: it is how Windows opens files too.
func formatOf(path string, told uint16) Format {
	switch told {
	case 2:
		return FormatVHD
	case 3:
		return FormatVHDX
	case 4:
		return FormatVHDSet
	}
	switch strings.ToLower(path[strings.LastIndexByte(path, '.')+1:]) {
	case "vhd", "avhd":
		return FormatVHD
	case "vhdx", "avhdx":
		return FormatVHDX
	case "vhds":
		return FormatVHDSet
	}
	return ""
}

// measure asks the host about a file. That a file cannot be read is the disk's problem, and not that of the VM or of other
// disks; a broken connection is everybody's.
func (h *Host) measure(ctx context.Context, d *Disk) error {
	if d.Physical {
		d.Format = ""
		return nil
	}
	if h.legacy {
		return h.measureLegacy(ctx, d)
	}
	out, err := h.client.Run(ctx, h.images, "GetVirtualHardDiskSettingData", []cim.Property{{Name: "Path", Value: d.Path}}, nil)
	if d.refused(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var got struct {
		Set *cim.Instance `cim:"SettingData"`
	}
	var f diskFile
	if err := out.Out.Decode(&got); err != nil {
		return fmt.Errorf("%s: %w", d.Path, err)
	}
	if got.Set == nil {
		d.Problem = "the host does not tell its size"
		return nil
	}
	if err := got.Set.Decode(&f); err != nil {
		return fmt.Errorf("%s: %w", d.Path, err)
	}
	if f.Size > math.MaxInt64 {
		return fmt.Errorf("%s: %w: %d bytes", d.Path, cim.ErrMalformed, f.Size)
	}
	d.Size, d.ParentPath, d.SectorSize = int64(f.Size), f.Parent, int(f.Sector)
	d.Format, d.Fixed = formatOf(d.Path, f.Format), f.Type == 2
	if id := strings.Trim(f.ID, "{}"); isGUID(id) {
		d.Key = strings.ToLower(id)
	}
	return nil
}

// twins is a *TwinError where several disks of the VM have this id of a file.
func (m *Machine) twins(id string) error {
	e := &TwinError{VM: m.ID, ID: id}
	for i := range m.Disks {
		if d := &m.Disks[i]; d.twin == id {
			e.Disks = append(e.Disks, d.place()+" ("+d.Path+")")
		}
	}
	if len(e.Disks) == 0 {
		return nil
	}
	return e
}

// unique: two disks of one id are a copied file. Neither can have it as its key then.
func unique(disks []Disk) error {
	count := map[string]int{}
	for _, d := range disks {
		count[d.Key]++
	}
	for i := range disks {
		if d := &disks[i]; count[d.Key] > 1 {
			d.twin, d.Key = d.Key, d.place()
		}
	}
	seen := map[string]bool{}
	for _, d := range disks {
		if seen[d.Key] {
			return fmt.Errorf("%w: two disks at %s", cim.ErrMalformed, d.Key)
		}
		seen[d.Key] = true
	}
	return nil
}
