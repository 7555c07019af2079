package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
)

// State is a VM's EnabledState.
type State uint16

// States that VMs have.
const (
	Running  State = 2
	Off      State = 3
	Stopping State = 4
	Saved    State = 6
	Paused   State = 9
	Starting State = 10
)

// Hyper-V has numbers of its own besides CIM's.
var stateNames = map[State]string{Running: "running", Off: "off", Stopping: "stopping", Saved: "saved", Paused: "paused", Starting: "starting",
	32768: "paused", 32769: "saved", 32770: "starting", 32771: "snapshotting", 32773: "saving", 32774: "stopping", 32776: "pausing", 32777: "resuming"}

func (s State) String() string {
	if n := stateNames[s]; n != "" {
		return n
	}
	return fmt.Sprintf("state %d", uint16(s))
}

// Machine is a VM in Hyper-V's words.
type Machine struct {
	ID            string // a GUID in small letters
	Name          string
	State         State
	StateSince    time.Time // when State last changed, by the host's clock; zero where the host does not tell
	Status        []uint16  // OperationalStatus: the second tells of checkpoints and merges
	Generation    int       // 1 or 2
	ConfigVersion string    // 8.0, 9.0 …: change tracking is from 8.0 on (R085)
	Disks         []Disk
	Notes         []string // a person's, and ours of a restore that has not ended
}

// Disk is one of a VM's hard disks.
type Disk struct {
	Key        string // its identity across runs; see the package comment
	Path       string // of the file on the host, or of the device
	Controller string // ide or scsi
	Bus, Slot  int
	Physical   bool   // passed through: no checkpoint covers it
	Shared     bool   // VMs share it, by persistent reservations
	Format     Format // of its file; empty where it is not known
	SectorSize int    // bytes, logical; zero where the host does not tell
	Fixed      bool   // its file has its full length from the start
	Size       int64  // bytes; zero where it could not be read
	ParentPath string // of a file with a parent, its parent
	Problem    string // why Size could not be read; empty where it could
	instance   string // InstanceID of the setting that names the file
	twin       string // its file's own id, where another disk of the VM has the same
}

// Format is that of a disk's file.
type Format string

// Formats of disks' files.
const (
	FormatVHD    Format = "vhd"
	FormatVHDX   Format = "vhdx"
	FormatVHDSet Format = "vhds"
)

// Facts of disks that a new disk needs to be like them, before the disk's key.
const (
	factSector = "diskSector." // bytes, where a sector has more than 512
	factType   = "diskType."   // fixed, where the file has its full length from the start
)

// VM is the machine in Hikae's words.
func (m *Machine) VM(host HostInfo) hikae.VM {
	vm := hikae.VM{ID: m.ID, Name: m.Name, Facts: map[string]string{"hypervisor": "Hyper-V", "host": host.Name, "hostOS": host.OS,
		"hostVersion": host.Version, "state": m.State.String(), "generation": strconv.Itoa(m.Generation), "configurationVersion": m.ConfigVersion}}
	for _, d := range m.Disks {
		disk := hikae.Disk{Key: d.Key, Size: d.Size, Skip: d.uncovered()}
		vm.Disks = append(vm.Disks, disk)
		vm.Facts["disk."+d.Key] = fmt.Sprintf("%s%d-%d %s", d.Controller, d.Bus, d.Slot, d.Path)
		if store := d.store(host); store != "" {
			vm.Facts["datastore."+d.Key] = store
		}
		if d.SectorSize > 512 {
			vm.Facts[factSector+d.Key] = strconv.Itoa(d.SectorSize)
		}
		if d.Fixed {
			vm.Facts[factType+d.Key] = "fixed"
		}
	}
	return vm
}

// VMs yields the host's virtual machines. One that goes away meanwhile is left out; another error ends the sequence.
func (h *Host) VMs(ctx context.Context) iter.Seq2[hikae.VM, error] {
	return func(yield func(hikae.VM, error) bool) {
		for m, err := range h.Machines(ctx) {
			if err != nil {
				yield(hikae.VM{}, err)
				return
			}
			if !yield(m.VM(h.info), nil) {
				return
			}
		}
	}
}

// Machines is VMs in Hyper-V's words.
func (h *Host) Machines(ctx context.Context) iter.Seq2[*Machine, error] {
	return func(yield func(*Machine, error) bool) {
		ctx, cancel := h.bounded(ctx)
		defer cancel()
		list, err := h.list(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, in := range list {
			m, err := h.machine(ctx, in)
			if errors.Is(err, fs.ErrNotExist) {
				if _, still := h.find(ctx, in.Text("Name")); errors.Is(still, fs.ErrNotExist) {
					continue
				}
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// Machine is the VM of a GUID; none is fs.ErrNotExist. Names are not taken: they are not unique.
func (h *Host) Machine(ctx context.Context, id string) (*Machine, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	in, err := h.find(ctx, id)
	if err != nil {
		return nil, err
	}
	return h.machine(ctx, in)
}

func (h *Host) find(ctx context.Context, id string) (*cim.Instance, error) {
	if !isGUID(id) {
		return nil, fmt.Errorf("VM %.60q: %w: a VM is named by its GUID", id, cim.ErrArgument)
	}
	in, err := cim.One(h.client.Query(ctx, h.space(), "SELECT * FROM Msvm_ComputerSystem WHERE Name = "+cim.Quote(id), nil))
	if err != nil {
		return nil, fmt.Errorf("VM %s: %w", id, err)
	}
	return in, nil
}

// isGUID: 8-4-4-4-12 hexadecimal digits.
func isGUID(s string) bool {
	parts := strings.Split(s, "-")
	if len(s) != 36 || len(parts) != 5 {
		return false
	}
	for i, n := range [...]int{8, 4, 4, 4, 12} {
		if len(parts[i]) != n || strings.Trim(parts[i], "0123456789abcdefABCDEF") != "" {
			return false
		}
	}
	return true
}

const realized = "Microsoft:Hyper-V:System:Realized"

// machine reads what belongs to a VM: its present settings, of which there is one besides those of checkpoints, and its disks.
func (h *Host) machine(ctx context.Context, in *cim.Instance) (*Machine, error) {
	var system struct {
		Name   string   `cim:"Name"`
		Title  string   `cim:"ElementName"`
		State  uint16   `cim:"EnabledState"`
		Status []uint16 `cim:"OperationalStatus"`
	}
	if err := in.Decode(&system); err != nil {
		return nil, err
	}
	m := &Machine{ID: strings.ToLower(system.Name), Name: system.Title, State: State(system.State), StateSince: stateSince(in), Status: system.Status}
	wrong := func(err error) (*Machine, error) { return nil, fmt.Errorf("VM %s (%s): %w", m.ID, m.Name, err) }
	ref, err := in.Keyed(h.space(), "CreationClassName", "Name")
	if err != nil {
		return wrong(err)
	}
	all, err := cim.All(h.client.Associators(ctx, ref, cim.Hop{Result: "Msvm_VirtualSystemSettingData"}, nil))
	if err != nil {
		return wrong(err)
	}
	set, err := present(all)
	if err != nil {
		return wrong(err)
	}
	if err := m.settings(set); err != nil {
		return wrong(err)
	}
	if ref, err = set.Keyed(h.space(), "InstanceID"); err != nil {
		return wrong(err)
	}
	if m.Disks, err = h.disks(ctx, ref); err != nil {
		return wrong(err)
	}
	return m, nil
}

// stateSince: "never" has forms of its own, and none of them is worth a VM that cannot be listed.
func stateSince(in *cim.Instance) time.Time {
	var system struct {
		Since time.Time `cim:"TimeOfLastStateChange,optional"`
	}
	if in.Decode(&system) != nil {
		return time.Time{}
	}
	return system.Since
}

func present(all []*cim.Instance) (found *cim.Instance, err error) {
	for _, in := range all {
		if in.Text("VirtualSystemType") != realized && in.Text("SettingType") != legacyCurrent {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%w: it has two present settings", cim.ErrMalformed)
		}
		found = in
	}
	if found == nil {
		return nil, fmt.Errorf("it has no settings: %w", fs.ErrNotExist)
	}
	return found, nil
}

// settings: a generation is told since 2012 R2; before, all are of the first.
func (m *Machine) settings(in *cim.Instance) error {
	var set struct {
		Version string   `cim:"Version,optional"`
		Sub     string   `cim:"VirtualSystemSubType,optional"`
		Notes   []string `cim:"Notes"`
	}
	if err := in.Decode(&set); err != nil {
		return err
	}
	m.ConfigVersion, m.Generation, m.Notes = set.Version, 1, set.Notes
	if n, ok := strings.CutPrefix(set.Sub, "Microsoft:Hyper-V:SubType:"); ok {
		var err error
		if m.Generation, err = strconv.Atoi(n); err != nil || m.Generation < 1 {
			return fmt.Errorf("%w: VirtualSystemSubType %.60q", cim.ErrMalformed, set.Sub)
		}
	}
	return nil
}
