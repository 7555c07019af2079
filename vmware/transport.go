package vmware

import (
	"context"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/vmware/govmomi/vim25/types"
)

// Names of transports, as they stand in addresses, reports and the tool.
const (
	HotAdd = "hotadd" // the disk hangs on the VM that this program runs in
	NBDSSL = "nbdssl" // the host's network disk service, encrypted
	NBD    = "nbd"    // the same, with content in the clear
	NFS    = "nfs"    // files of a datastore that is mounted here as well
	VDDK   = "vddk"   // the user's own VDDK, by an nbdkit of its own process: SAN and everything else that it can do
	HTTPS  = "https"  // files of the datastore over port 443
	Export = "export" // an export lease: the whole disk in one stream
)

// Transport is one way to the content of disks. Its methods may be called at once.
type Transport interface {
	Name() string
	// Check says whether the transport may reach this disk, by what is known without touching anything: nil, or an *UnfitError.
	Check(ctx context.Context, p *Pinned) error
	// Open opens the disk. Closing the image undoes, with a deadline of its own, all that opening it did on the host.
	Open(ctx context.Context, p *Pinned) (pipe.Image, error)
}

// Writer is an optional ability of a transport: it writes disks of a VM that is off.
type Writer interface {
	Transport
	// CheckTarget is as Check, for writing: Snapshot is empty, and the disk is the VM's own.
	CheckTarget(ctx context.Context, p *Pinned) error
	// OpenTarget opens the disk for writing. Both Commit and Close undo what opening it did on the host.

	OpenTarget(ctx context.Context, p *Pinned) (pipe.Target, error)
}

// Pinned is one disk as a transport is given it: of a snapshot, to read, or of a VM that is off, to write.
type Pinned struct {
	Client    *Client
	VM        types.ManagedObjectReference
	Snapshot  types.ManagedObjectReference // empty where the VM is off and none was made
	Host      types.ManagedObjectReference // where the VM is registered
	Name      string                       // of the VM
	Disk      Disk                         // from the configuration that is read: its File holds the pinned state
	PoweredOn bool
	// Fresh says of a disk that is written that it was just made: it reads as zeros, and where it is thin it stays so. Other
	// targets have a base, what the disk holds, and write zeros.
	Fresh bool
	// Journal takes every effect on the host before it happens; nil: none is kept. Kinds begin with "vmware.", and are
	// undone by what stands in undoers (sweep.go).
	Journal hikae.Journal
	// Scratch is a folder of this machine for what a transport must keep; empty: the system's.
	Scratch string

	// placed says that whoever opens the disk holds a place among those that are read at once: a snapshot has one for all of
	// its disks, because a VM that holds some places and waits for more would wait for others that do the same.
	placed bool
}
