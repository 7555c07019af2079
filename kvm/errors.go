package kvm

import (
	"errors"
	"fmt"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
)

// ErrOldQEMU says that a QEMU lacks what a snapshot needs.
var ErrOldQEMU = errors.New("QEMU 7.1 or newer is needed")

// ErrBroken says that a snapshot is no more: its fleecing image was full or could not be written. The guest goes on.
// A new backup takes a new snapshot; a larger Options.FleeceBytes or a faster scratch folder keeps it longer.
var ErrBroken = errors.New("the snapshot broke: its fleecing image is full or cannot be written")

// busy makes of a monitor that serves somebody else what all providers say then.
func busy(vm string, err error) error {
	if errors.Is(err, qmp.ErrTaken) {
		return &hikae.BusyError{What: "the monitor " + vm, Owner: "another client"}
	}
	return err
}

func lost(format string, args ...any) error {
	return fmt.Errorf("%w: %s", hikae.ErrTrackingLost, fmt.Sprintf(format, args...))
}
