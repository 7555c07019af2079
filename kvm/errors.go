package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/libvirt"
	"github.com/hikae/hikae/kvm/qmp"
)

// ErrOldQEMU says that a QEMU lacks what a snapshot needs.
var ErrOldQEMU = errors.New("QEMU 4.2 or newer is needed")

// ErrBroken says that a snapshot is no more: its fleecing image was full or could not be written. The guest goes on.
// A new backup takes a new snapshot; a larger Options.FleeceBytes or a faster scratch folder keeps it longer.
var ErrBroken = errors.New("the snapshot broke: its fleecing image is full or cannot be written")

// ErrMigrating says that a VM is on its way to another QEMU, or has not arrived in this one yet. It is worth another try
// when it has.
var ErrMigrating = errors.New("the VM is being migrated")

// ErrMigrated says that a VM has left this QEMU for another one, and took its disks along: what was read of them since
// may be newer than the snapshot, so no point is made of it. The VM is to be found at its new place.
var ErrMigrated = errors.New("the VM was migrated to another QEMU")

// ErrOff says that libvirt knows a VM, and that it is off.
var ErrOff = errors.New("the VM is off")

// ErrSaved says that a VM is off and its memory is saved: it goes on from there when it is started. Its disks alone are
// not what it would go on with, so they are neither backed up nor written over. Start it and shut it down, or give the
// saved state up (virsh managedsave-remove), which is like a power cut.
var ErrSaved = errors.New("the VM's memory is saved, it only sleeps")

// ErrDenied says that QEMU may not use the folder for fleecing images and sockets.
var ErrDenied = errors.New("QEMU may not use the scratch folder")

// ErrSilent says that a QEMU greets and answers no command: its main loop waits for something, and the guest's disks may
// stand still too. That is storage which does not answer, or a program that reads an export of the VM and was stopped.
// Nothing was begun. A backup is worth another try when it answers again.
var ErrSilent = qmp.ErrSilent

// busy makes of a monitor that serves somebody else what all providers say then, and says what a person can do about one
// that serves nobody.
func busy(vm string, err error) error {
	switch {
	case errors.Is(err, qmp.ErrTaken):
		return &hikae.BusyError{What: "the monitor " + vm, Owner: "another client"}
	case errors.Is(err, ErrSilent):
		return fmt.Errorf("the VM at %s: %w; see whether a program that reads an export of it was stopped or hangs (ss -xp), and whether the storage of its disks and of the scratch folder answers", vm, err)
	}
	return err
}

func lost(format string, args ...any) error {
	return fmt.Errorf("%w: %s", hikae.ErrTrackingLost, fmt.Sprintf(format, args...))
}

// gone reports whether a failure to reach a monitor means that no QEMU is there. Of a libvirt that cannot be asked
// nothing is known: its machines run without it.
func gone(err error) bool {
	var daemon *libvirt.DaemonError
	if errors.As(err, &daemon) {
		return false
	}
	return errors.Is(err, ErrOff) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// denied adds to QEMU's refusal to open or make a file what a person can do about it.
func denied(err error, dir string) error {
	if !refusedFor(err, "ermission denied") && !refusedFor(err, "Operation not permitted") {
		return err
	}
	return fmt.Errorf("%w %s: choose one that QEMU's user can reach with &scratch=, and that AppArmor or SELinux lets it use; what they refuse stands in the host's audit log: %w", ErrDenied, dir, err)
}
