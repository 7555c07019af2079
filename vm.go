package hikae

import (
	"time"
)

// VM is a virtual machine as its hypervisor describes it at one moment.
type VM struct {
	// ID names the VM to its provider: stable across renames (a moref, a GUID, a socket path).
	ID string
	// Name is what people call it. It is the VM's identity in a repository unless the caller chooses another.
	Name  string
	Disks []Disk
	// Facts are small properties for people to read (hypervisor, host, guest OS …).
	Facts map[string]string
	// Config is the VM's native configuration as named blobs, byte for byte (a .vmx, a domain XML, a VMCX).
	Config map[string][]byte
}

// Disk is one virtual disk of a VM.
type Disk struct {
	// Key is the disk's identity across runs, whatever its file, format, slot or label.
	Key string `json:"key"`
	// Size is its length in bytes.
	Size int64 `json:"size"`
	// Skip says in words why a snapshot does not cover this disk; empty where it does.
	Skip string `json:"skip,omitempty"`
}

// ChangeID names a moment from which a hypervisor tracks changes to one disk. It belongs to one repository, VM and
// disk, and is opaque to everyone but the provider. The empty ChangeID is "no moment": the whole disk is changed.
type ChangeID string

// Consistency is what the state in a snapshot is good for, as reached, not as asked.
//
// The order is meaningful: a larger value promises more.
type Consistency int

const (
	Unknown     Consistency = iota // nothing is known: the disk may have been written to while it was read
	Crash                          // as after a power cut at one moment across all disks
	Filesystem                     // file systems were frozen
	Application                    // applications were quiesced too
	Offline                        // the VM was off: nothing was running
)

var consistencyNames = [...]string{"unknown", "crash", "filesystem", "application", "offline"}

// String is the word used in reports and JSON.
func (c Consistency) String() string {
	if c < 0 || int(c) >= len(consistencyNames) {
		return "unknown"
	}
	return consistencyNames[c]
}

// SnapshotOptions change how a snapshot is taken. Nil and zero fields are good defaults.
type SnapshotOptions struct {
	// Journal takes every effect outside our own memory before it happens. Nil: none is kept, and a killed session
	// leaves what it made for a person to remove.
	Journal Journal
	// Quiescer freezes and thaws right around the atomic step. Nil: the provider's own means, by its own policy.
	Quiescer Quiescer
	// FreezeDeadline bounds the time that the guest stays frozen. Zero: 10 s.
	FreezeDeadline time.Duration
	// Since are the change ids, by disk key, that the caller will ask Changed for, so that a provider can keep them.
	Since map[string]ChangeID
	// Past are the change ids, by disk key, that the VM's newest point in the repository names, also where the caller is not going to ask
	// for them, as with a full backup: no point is built on them after Commit. Nil: Since.
	Past map[string]ChangeID
	// Unfinished are the change ids that the VM's unfinished point in the repository names. After Commit, or after KeepEarly,
	// no point is built on them, unless Past has them too.
	Unfinished map[string]ChangeID
	// Repository is the id of the repository that the point goes to. A provider names it in effects that only the
	// repository's points can judge. Empty: there is only one.
	Repository string
}
