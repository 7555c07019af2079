package hyperv

import (
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/hikae/hikae/hyperv/cim"
)

// What is recorded came as text: a setting is sent with the type that its class has. These are all that are brought back: what the
// host gives each VM itself, and what names other objects, is not among them.
var (
	systemSettings = map[string]string{bootOrder: "uint16[]", "AutomaticStartupAction": "uint16", "AutomaticShutdownAction": "uint16", "AutomaticRecoveryAction": "uint16",
		"BIOSNumLock": "boolean", "SecureBootEnabled": "boolean", "SecureBootTemplateId": "string", "UserSnapshotType": "uint16", "ConsoleMode": "uint16",
		"NetworkBootPreferredProtocol": "uint16", "LowMmioGapSize": "uint64", "HighMmioGapSize": "uint64", "GuestControlledCacheTypes": "boolean",
		"LockOnDisconnect": "boolean", "PauseAfterBootFailure": "boolean", "VirtualNumaEnabled": "boolean", "EnhancedSessionTransportType": "uint16"}
	memorySettings = map[string]string{"VirtualQuantity": "uint64", "Reservation": "uint64", "Limit": "uint64", "Weight": "uint32", "DynamicMemoryEnabled": "boolean",
		"TargetMemoryBuffer": "uint32", "MaxMemoryBlocksPerNumaNode": "uint64"}
	cpuSettings = map[string]string{"VirtualQuantity": "uint64", "Reservation": "uint64", "Limit": "uint64", "Weight": "uint32", "LimitCPUID": "boolean",
		"LimitProcessorFeatures": "boolean", "ExposeVirtualizationExtensions": "boolean", "MaxProcessorsPerNumaNode": "uint64", "MaxNumaNodesPerSocket": "uint64",
		"HwThreadsPerCore": "uint64"}
)

// typed is a text as a value of a type of CIM.
func typed(kind, text string) (any, error) {
	text = strings.TrimSpace(text)
	switch kind {
	case "boolean":
		switch strings.ToLower(text) {
		case "true", "1":
			return true, nil
		case "false", "0":
			return false, nil
		}
		return nil, fmt.Errorf("%.40q is no boolean: %w", text, fs.ErrInvalid)
	case "uint16":
		n, err := strconv.ParseUint(text, 10, 16)
		return uint16(n), err
	case "uint32":
		n, err := strconv.ParseUint(text, 10, 32)
		return uint32(n), err
	case "uint64":
		n, err := strconv.ParseUint(text, 10, 64)
		return n, err
	}
	if len(text) > maxText {
		return nil, fmt.Errorf("a text of %d bytes: %w", len(text), fs.ErrInvalid)
	}
	return text, nil
}

const (
	maxText = 4096 // bytes of one setting
	maxList = 8192 // values of one setting
)

// typedValue is a recorded value as one of a type of CIM, which may be uint16[]: of a list that has one value the record has that alone.
func typedValue(kind string, value any) (any, error) {
	list, many := value.([]any)
	if kind != "uint16[]" {
		text, ok := value.(string)
		if !ok {
			return nil, fmt.Errorf("a %T where a %s is expected: %w", value, kind, fs.ErrInvalid)
		}
		return typed(kind, text)
	}
	if !many {
		list = []any{value}
	}
	if len(list) > maxList {
		return nil, fmt.Errorf("a list of %d values: %w", len(list), fs.ErrInvalid)
	}
	out := make([]uint16, len(list))
	for i, v := range list {
		text, _ := v.(string)
		n, err := typed("uint16", text)
		if err != nil {
			return nil, err
		}
		out[i] = n.(uint16)
	}
	return out, nil
}

// settle takes the settings of a table from a record where they are recorded, and says whether any is.
func settle(to, from *cim.Instance, table map[string]string) error {
	if from == nil {
		return nil
	}
	for _, p := range from.Properties {
		kind, ok := table[p.Name]
		if !ok || p.Value == nil || p.Value == "" {
			continue
		}
		v, err := typedValue(kind, p.Value)
		if err != nil {
			return fmt.Errorf("%s.%s: %w", from.Class, p.Name, err)
		}
		to.Set(p.Name, v)
	}
	return nil
}

// unlike are the settings of one instance that another, as the host tells it, has otherwise. One that the host does not know is none.
func unlike(want, is *cim.Instance, table map[string]string) *cim.Instance {
	out := &cim.Instance{Class: want.Class}
	for _, p := range want.Properties {
		kind, ok := table[p.Name]
		has, known := is.Value(p.Name)
		if !ok || !known {
			continue
		}
		if v, err := typedValue(kind, has); err != nil || !reflect.DeepEqual(v, p.Value) {
			out.Set(p.Name, p.Value)
		}
	}
	return out
}

// spec is a new VM as it is asked for.
type spec struct {
	system      *cim.Instance
	memory, cpu *cim.Instance // without InstanceID: the host gives each VM one of both
	generation  int
	version     string // of the recorded configuration; empty: the host's own
	notes       []string
}

// specOf is what a record, and the options, ask for.
func specOf(r *record, o *RestorerOptions, facts map[string]string) (*spec, error) {
	s := &spec{system: &cim.Instance{Class: settingClass}, memory: &cim.Instance{Class: classMemory}, cpu: &cim.Instance{Class: classCPU}, generation: 1}
	if r.system == nil {
		s.plain(o, facts)
		return s, nil
	}
	if err := settle(s.system, r.system, systemSettings); err != nil {
		return nil, err
	}
	if err := settle(s.memory, r.memory, memorySettings); err != nil {
		return nil, err
	}
	if err := settle(s.cpu, r.cpu, cpuSettings); err != nil {
		return nil, err
	}
	if r.system.Text("VirtualSystemSubType") == subType+"2" {
		s.generation = 2
	}
	if s.generation == 2 { // it starts from objects that its host makes for each device: see newVM.drives
		s.system.Properties = slices.DeleteFunc(s.system.Properties, func(p cim.Property) bool { return p.Name == bootOrder })
	}
	if o.Generation > 0 && o.Generation != s.generation {
		return nil, fmt.Errorf("generation %d: %w: the VM is of generation %d, and what it starts from fits no other", o.Generation, fs.ErrInvalid, s.generation)
	}
	s.version = r.system.Text("Version")
	s.sizes(o)
	return s, nil
}

// bootOrder is what a VM of generation 1 starts from: 0 a floppy, 1 a CD, 2 a disk of IDE, 3 the network.
const bootOrder = "BootOrder"

const subType = "Microsoft:Hyper-V:SubType:"

// sizes are what the options say in place of the record.
func (s *spec) sizes(o *RestorerOptions) {
	if o.CPUs > 0 {
		s.cpu.Set("VirtualQuantity", uint64(o.CPUs))
	}
	if o.MemoryMB > 0 {
		s.memory.Set("VirtualQuantity", uint64(o.MemoryMB))
		s.memory.Set("Reservation", uint64(o.MemoryMB))
		s.memory.Set("DynamicMemoryEnabled", false)
	}
}

// plain is a VM whose settings no Hyper-V recorded, or not in a form that one can be made of.
func (s *spec) plain(o *RestorerOptions, facts map[string]string) {
	with := *o
	if with.CPUs == 0 {
		with.CPUs = 2
	}
	if with.MemoryMB == 0 {
		with.MemoryMB = 4096
	}
	s.sizes(&with)
	why := "as asked"
	switch {
	case o.Generation > 0:
		s.generation = o.Generation
	case facts["generation"] == "2" || facts["generation"] == "1":
		s.generation, _ = strconv.Atoi(facts["generation"])
		why = "as it was"
	case strings.Contains(strings.ToLower(facts["firmware"]), "efi"):
		s.generation, why = 2, "its firmware was EFI"
	default:
		why = "it starts by BIOS; ask for 2 where it starts by EFI"
	}
	if s.generation == 2 {
		s.system.Set("SecureBootEnabled", false) // what signed its loader is not known
	}
	s.notes = append(s.notes, fmt.Sprintf("the point has no settings of Hyper-V that a VM can be made of: it got plain hardware: generation %d (%s), %d processors, %d MiB of memory, no network card",
		s.generation, why, with.CPUs, with.MemoryMB))
}
