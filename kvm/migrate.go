package kvm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
)

// A VM that moves to another QEMU takes its disks along. What we made in the first one stays there: the filters keep old
// data of what nobody writes here any more, and what is written there passes them by. So a snapshot ends with the move.
// Bitmaps of qcow2 images move with the image, where both sides open the same one; others are lost, and the next backup
// reads whole disks.

// moving are the states of a migration (query-migrate) that has begun and not ended.
var moving = []string{"setup", "cancelling", "active", "postcopy-active", "postcopy-paused", "postcopy-recover",
	"postcopy-recover-setup", "pre-switchover", "device", "colo", "wait-unplug"}

// runState is what a QEMU is doing.
func runState(ctx context.Context, mon monitor) (string, error) {
	var status struct {
		Status string `json:"status"`
	}
	err := mon.Execute(ctx, "query-status", nil, &status)
	return status.Status, err
}

// migration is the state of the last migration out of or into a QEMU, empty where there was none.
func migration(ctx context.Context, mon monitor) (string, error) {
	var info struct {
		Status string `json:"status"`
	}
	err := mon.Execute(ctx, "query-migrate", nil, &info)
	return info.Status, err
}

// settled refuses a VM that is not this QEMU's alone: it is on its way out or in, or it has left. One that arrived here
// before is as good as any.
func settled(ctx context.Context, mon monitor, vm, status string) error {
	if status == "postmigrate" {
		return fmt.Errorf("VM %s: %w", vm, ErrMigrated)
	}
	state, err := migration(ctx, mon)
	if err != nil {
		return err
	}
	if status == "inmigrate" || status == "finish-migrate" || slices.Contains(moving, state) {
		return fmt.Errorf("%w (%w)", &hikae.BusyError{What: "VM " + vm, Owner: "a live migration (" + cmpOr(state, status) + ")"}, ErrMigrating)
	}
	return nil
}

// stands makes sure that what was read is the snapshot: the VM is here still, and what keeps old data is in its place.
func (s *snapshot) stands(ctx context.Context) error {
	if err := s.failure(); err != nil {
		return err
	}
	status, err := runState(ctx, s.mon)
	if err != nil {
		return s.parted(err)
	}
	if status == "postmigrate" || status == "finish-migrate" {
		return fmt.Errorf("VM %s: %w while it was read", s.machine.ID(), ErrMigrated)
	}
	nodes, err := takeNodes(ctx, s.mon)
	if err != nil {
		return err
	}
	if !s.lives(nodes) {
		return fmt.Errorf("%w: VM %s was started anew while it was read", ErrBroken, s.machine.ID())
	}
	if s.byJob {
		return s.jobsRun(ctx)
	}
	return s.filtersStand(ctx)
}

func (s *snapshot) jobsRun(ctx context.Context) error {
	ids, err := listed(ctx, s.mon, "query-jobs", s.mine)
	if err == nil && len(ids) < len(s.Disks) {
		err = fmt.Errorf("%w: somebody ended its backup job", ErrBroken)
	}
	return err
}

// filtersStand: a device may be gone, for then nobody writes to its disk.
func (s *snapshot) filtersStand(ctx context.Context) error {
	for i, d := range s.Disks {
		want := s.filter(i)
		if s.gates {
			want = s.gate(i)
		}
		now, err := property(ctx, s.mon, d.QDev, "drive")
		if err != nil && !qmp.Refused(err) {
			return err
		}
		if err == nil && now != want {
			return fmt.Errorf("%w: disk %s: somebody put %q in the place of its filter", ErrBroken, d.Key, now)
		}
	}
	return nil
}

// parted says of a QEMU that cannot be reached any more what that means for a snapshot.
func (s *snapshot) parted(err error) error {
	if !gone(err) && !errors.Is(err, qmp.ErrClosed) || errors.Is(err, ErrMigrated) {
		return err
	}
	return fmt.Errorf("%w: QEMU has ended, or the VM was migrated away: %w", ErrBroken, err)
}
