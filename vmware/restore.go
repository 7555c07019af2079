package vmware

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/hikae/hikae"
)

// RestorerOptions say where machines are brought back to, and how. Nil and zero fields are good defaults.
//
// Datacenters, folders, pools, hosts, datastores and networks are named as people see them; where a name is there more than
// once, by their path in the inventory ("/DC0/vm/linux") or their reference ("group-v12").
type RestorerOptions struct {
	// Datacenter, Folder, Pool and Host are where a new VM is made. Empty: the datacenter and host of the record, else the only
	// ones there are; the datacenter's own folder, and the host's own pool.
	Datacenter, Folder, Pool, Host string
	// Datastore holds a new VM and its disks. Empty: each file lies where the record has it.
	Datastore string
	// DiskDatastores are datastores of single disks, by key.
	DiskDatastores map[string]string
	// Networks are what a new VM's network cards hang on, by the name of the recorded network, by the key of a recorded
	// distributed port group, or by the card's label ("Network adapter 1"). [NoCard] leaves a card out. Others hang where they
	// hung.
	Networks map[string]string
	// Provisioning is how the disks of a new VM take up room. Empty: as recorded.
	Provisioning Provisioning
	// KeepIdentity gives a new VM the UUIDs of the old one, and the hardware addresses of its network cards. The old one must
	// be gone: two machines with one identity harm each other.
	KeepIdentity bool
	// EmptyDisks makes disks that are recorded, and that the point does not hold, anew and empty. Otherwise they are left out.
	EmptyDisks bool
	// Plain is the hardware of a machine that no vSphere recorded.
	Plain PlainHardware
	// PowerOn starts a new VM when it is whole.
	PowerOn bool

	// PowerOff switches a VM off that is to be written over and runs, as if its power failed.
	PowerOff bool
	// UnderSnapshots writes over a VM that has snapshots: what it stands on now changes, and its snapshots do not. Otherwise
	// such a VM is refused.
	UnderSnapshots bool
	// TakeOver writes over a VM that is marked as being written over by a restore that is none of ours: one of another machine,
	// or whose journal is lost. Say so only when that one is known to have ended. One that this process, or a dead session of
	// the same journal, has left is taken over without it.
	TakeOver bool

	Transports *TransportOptions
	// Scratch is a folder of this machine for what a transport must keep. Empty: the system's.
	Scratch string
}

// NoCard in [RestorerOptions.Networks] leaves a network card out.
const NoCard = "-"

// Provisioning is how a disk takes up room on its datastore.
type Provisioning string

const (
	AsRecorded Provisioning = ""
	Thin       Provisioning = "thin"  // what is written
	Thick      Provisioning = "thick" // all of it, zeroed when it is first written to
	Eager      Provisioning = "eager" // all of it, zeroed when it is made
)

// PlainHardware is what a machine gets that comes from another hypervisor. Nil and zero fields are good defaults.
type PlainHardware struct {
	CPUs     int32  // zero: 2
	MemoryMB int64  // zero: 4096
	GuestID  string // as vSphere names guests: "debian12_64Guest". Empty: "otherGuest64"
	Firmware string // "bios" or "efi". Empty: efi where the point holds variables of such a firmware, else bios
	Network  string // that its one card hangs on. Empty: none
}

// Restorer brings machines back: new ones from their recorded configuration, existing ones in place.
type Restorer struct {
	client *Client
	opts   RestorerOptions
	by     *chooser
}

var _ hikae.Restorer = (*Restorer)(nil)

// NewRestorer makes a restorer to a server. The client stays the caller's. Nothing is touched yet.
func NewRestorer(c *Client, opts *RestorerOptions) (*Restorer, error) {
	r := &Restorer{client: c}
	if opts != nil {
		r.opts = *opts
	}
	switch r.opts.Provisioning {
	case AsRecorded, Thin, Thick, Eager:
	default:
		return nil, fmt.Errorf("provisioning %q: %w: there are thin, thick and eager", r.opts.Provisioning, fs.ErrInvalid)
	}
	if f := r.opts.Plain.Firmware; f != "" && f != "bios" && f != "efi" {
		return nil, fmt.Errorf("firmware %q: %w: there are bios and efi", f, fs.ErrInvalid)
	}
	var err error
	r.by, err = newChooser(r.opts.Transports)
	return r, err
}

// AbsentError says that something which a VM is to be made in or on is not there, and what is.
type AbsentError struct {
	What  string   // datacenter, folder, pool, host, datastore, network
	Name  string   // empty: there are several, and nobody said which
	There []string // at most 50
	Hint  string   // may be empty
}

func (e *AbsentError) Error() string {
	text := fmt.Sprintf("%s %q is not there", e.What, e.Name)
	if e.Name == "" {
		text = "which " + e.What + " is not said"
	}
	if len(e.There) == 0 {
		text += "; there is none"
	} else {
		text += "; there are: " + strings.Join(e.There, ", ")
	}
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

func (e *AbsentError) Unwrap() error { return fs.ErrNotExist }

// RoomError says that a datastore has no room for a new VM's disks.
type RoomError struct {
	Datastore  string
	Need, Free int64 // bytes
}

func (e *RoomError) Error() string {
	return fmt.Sprintf("datastore %s has %d bytes free, and disks that take up all of their room need %d", e.Datastore, e.Free, e.Need)
}

// RunningError says that a VM must be off to be written over, and is not.
type RunningError struct {
	VM    string
	State string // poweredOn, suspended
}

func (e *RunningError) Error() string {
	if e.State == "suspended" {
		return fmt.Sprintf("VM %s sleeps, and would go on with what is in its memory; it must be off to be restored in place", e.VM)
	}
	return fmt.Sprintf("VM %s is running; it must be off to be restored in place", e.VM)
}

// Unwrap makes it what all providers say where somebody else is at work.
func (e *RunningError) Unwrap() error {
	return &hikae.BusyError{What: "VM " + e.VM, Owner: "its guest"}
}

// Hint is what a person can do about it.
func (e *RunningError) Hint() string { return "Shut the guest down, then restore again." }

// SnapshotsError says that a VM has snapshots, and is not written over because of them.
type SnapshotsError struct {
	VM    string
	Names []string // at most 32
}

func (e *SnapshotsError) Error() string {
	return fmt.Sprintf("VM %s has snapshots (%s): what is restored would be written on top of them, they would stay as they are, and a revert to one of them would undo the restore",
		e.VM, strings.Join(e.Names, ", "))
}

// Hint is what a person can do about it.
func (e *SnapshotsError) Hint() string {
	return "Remove the snapshots, or ask for a restore under snapshots, or restore to a new VM."
}

// AlteredError says that a VM is not any more what it was when a restore in place began to write over it. Nothing more was
// written.
type AlteredError struct {
	VM   string
	What string // what is different
}

func (e *AlteredError) Error() string {
	return fmt.Sprintf("VM %s was changed by somebody while it was being restored: %s", e.VM, e.What)
}

// Hint is what a person can do about it.
func (e *AlteredError) Hint() string {
	return "See to it that nobody works on the VM, then restore again."
}

// PowerOnError says that a VM was brought back, whole, and could not be started.
type PowerOnError struct {
	VM  string
	Err error
}

func (e *PowerOnError) Error() string {
	return fmt.Sprintf("VM %s was restored and is whole, but could not be started: %v", e.VM, e.Err)
}
func (e *PowerOnError) Unwrap() error { return e.Err }
