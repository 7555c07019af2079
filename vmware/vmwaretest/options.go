package vmwaretest

import (
	"fmt"
	"io/fs"
)

// DeltaFormat is the form of the file that a snapshot adds to a disk.
type DeltaFormat string

const (
	SESparse DeltaFormat = "sesparse" // VMFS 6
	COWD     DeltaFormat = "cowd"     // VMFS 5 and NFS
)

// Options describe the server to start. Nil and zero fields are good defaults.
type Options struct {
	ESX        bool        // a single host instead of a vCenter Server
	VMs        int         // named web0, web1 …; zero: one
	DisksPerVM int         // zero: one
	DiskBytes  int64       // of each disk, a multiple of 512; zero: 64 MiB
	Thick      bool        // disks are thick; else thin
	Hosts      int         // zero: one; a single host is one
	Datastores int         // zero: one
	PoweredOff bool        // the VMs are off
	User       string      // zero: "backup"
	Password   string      // zero: made up, see [Server.Password]
	Listen     string      // zero: "127.0.0.1:0"
	Deltas     DeltaFormat // zero: SESparse
	SEBacking  bool        // deltas are described by VirtualDiskSeSparseBackingInfo instead of the flat kind
	Build      string      // of the hosts; zero: "21930508"
	PageAreas  int         // changed areas in one answer at most; zero: 2000
}

const (
	maxMachines  = 1024
	maxDisks     = 60
	maxDiskBytes = 16 << 40
)

func (o *Options) withDefaults() (Options, error) {
	var out Options
	if o != nil {
		out = *o
	}
	for _, f := range []*int{&out.VMs, &out.DisksPerVM, &out.Hosts, &out.Datastores} {
		if *f == 0 {
			*f = 1
		}
	}
	orElse(&out.DiskBytes, 64<<20)
	orElse(&out.User, "backup")
	orElse(&out.Password, randomHex(12))
	orElse(&out.Listen, "127.0.0.1:0")
	orElse(&out.Deltas, SESparse)
	orElse(&out.Build, "21930508")
	orElse(&out.PageAreas, 2000)
	return out, out.check()
}

func orElse[T comparable](v *T, usual T) {
	var zero T
	if *v == zero {
		*v = usual
	}
}

func (o *Options) check() error {
	switch {
	case o.VMs < 1 || o.VMs > maxMachines || o.Hosts < 1 || o.Hosts > 64 || o.Datastores < 1 || o.Datastores > 64:
		return fmt.Errorf("%d VMs on %d hosts and %d datastores: %w", o.VMs, o.Hosts, o.Datastores, fs.ErrInvalid)
	case o.DisksPerVM < 1 || o.DisksPerVM > maxDisks:
		return fmt.Errorf("%d disks of one VM: %w", o.DisksPerVM, fs.ErrInvalid)
	case o.DiskBytes < 1<<20 || o.DiskBytes > maxDiskBytes || o.DiskBytes%sector != 0:
		return fmt.Errorf("disks of %d bytes: %w", o.DiskBytes, fs.ErrInvalid)
	case o.ESX && o.Hosts != 1:
		return fmt.Errorf("a single host that is %d: %w", o.Hosts, fs.ErrInvalid)
	case o.Deltas != SESparse && o.Deltas != COWD:
		return fmt.Errorf("deltas as %q: %w", o.Deltas, fs.ErrInvalid)
	case o.PageAreas < 1:
		return fmt.Errorf("answers of %d areas: %w", o.PageAreas, fs.ErrInvalid)
	}
	return nil
}
