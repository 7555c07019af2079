package kvm

import (
	"github.com/hikae/hikae"
)

// RestorerOptions say where machines are brought back to. Nil and zero fields are good defaults.
type RestorerOptions struct {
	// Machines are those that may be written over, with their images.
	Machines []Machine
	// Folder is where a new machine is made: a folder that is not there yet, or empty.
	Folder string
	// Format of a new machine's disks: raw or qcow2. Empty: as they were, else qcow2.
	Format string
	// Scratch is the folder for sockets. Empty: as in [Options].
	Scratch string
}

// Restorer brings machines back: new ones as a folder of images with a script that starts them, existing ones in place.
type Restorer struct{ opts RestorerOptions }

var _ hikae.Restorer = (*Restorer)(nil)

// NewRestorer makes a restorer. Nothing is touched yet.
func NewRestorer(opts *RestorerOptions) *Restorer {
	r := &Restorer{}
	if opts != nil {
		r.opts = *opts
	}
	return r
}
