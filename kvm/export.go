package kvm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae"
)

// addExports lets the snapshot be read.
func (s *snapshot) addExports(ctx context.Context) error {
	if err := s.addAccess(ctx); err != nil {
		return err
	}
	if err := s.intend(ctx, kindExport, nil); err != nil {
		return err
	}
	err := s.mon.Execute(ctx, "nbd-server-start", map[string]any{"addr": map[string]any{"type": "unix", "data": map[string]any{"path": s.socket()}}}, nil)
	if refusedFor(err, "already running") {
		return &hikae.BusyError{What: "the NBD server of VM " + s.machine.ID(), Owner: "somebody else's export"}
	}
	if err != nil {
		return denied(err, s.Dir)
	}
	for i, d := range s.Disks {
		if err := s.addExport(ctx, i, d); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	return nil
}

// addAccess makes the nodes that are read. A fleecing image over its disk is one itself.
func (s *snapshot) addAccess(ctx context.Context) error {
	if s.byJob {
		return nil
	}
	for i := range s.Disks {
		err := s.mon.Execute(ctx, "blockdev-add", map[string]any{"driver": "snapshot-access", "node-name": s.access(i), "file": s.filter(i)}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *snapshot) addExport(ctx context.Context, i int, d disk) error {
	node := s.access(i)
	if s.byJob {
		node = s.fleece(i)
	}
	known := speaks(s.mon)
	if !known.exports {
		args := map[string]any{"device": node, "name": s.exportID(i)}
		if d.Base != "" {
			args["bitmap"] = s.copyName()
		}
		return s.mon.Execute(ctx, "nbd-server-add", args, nil)
	}
	args := map[string]any{"type": "nbd", "id": s.exportID(i), "node-name": node, "name": s.exportID(i)}
	switch {
	case d.Base == "":
	case known.nodes:
		args["bitmaps"] = []any{map[string]any{"node": d.Node, "name": s.copyName()}}
	default: // it is looked for down the chain, and the disk is the image's backing file
		args["bitmaps"] = []string{s.copyName()}
	}
	return s.mon.Execute(ctx, "block-export-add", args, nil)
}

// removeExports closes what the reader used. The server is stopped only if it is the session's own, and only when nobody
// reads any more: see deleteExports.
func (f *footprint) removeExports(ctx context.Context, mon monitor) error {
	var errs []error
	if speaks(mon).exports {
		if err := f.deleteExports(ctx, mon); err != nil {
			return err
		}
	} else {
		for i := range f.Disks { // they cannot be listed: one that is not there is refused
			err := mon.Execute(ctx, "nbd-server-remove", map[string]any{"name": f.exportID(i), "mode": "hard"}, nil)
			errs = append(errs, refusedIsNil(err))
		}
	}
	serves, err := f.serves(ctx)
	if serves {
		err = mon.Execute(ctx, "nbd-server-stop", nil, nil)
	}
	return errors.Join(append(errs, err)...)
}

// deleteExports waits until the exports are gone. One stays for as long as a program that reads it takes no answers: it
// was stopped, or its cgroup is frozen. Whatever drains a disk then, such as nbd-server-stop or the way back to the disk
// without its filter, holds up QEMU's main loop until that program goes on or ends, and with the loop every monitor and the
// guest (measured with QEMU 7.2). So nothing of the kind is tried, and who reads is named.
func (f *footprint) deleteExports(ctx context.Context, mon monitor) error {
	ids, err := listed(ctx, mon, "query-block-exports", f.mine)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		err := mon.Execute(ctx, "block-export-del", map[string]any{"id": id, "mode": "hard"}, nil)
		errs = append(errs, refusedIsNil(err)) // it may be on its way out
	}
	half, stop := halfOf(ctx) // there is more to do
	defer stop()
	wait, cancel := context.WithTimeout(half, exportsGoWithin)
	defer cancel()
	err = waitGone(wait, mon, "query-block-exports", f.mine, "BLOCK_EXPORT_DELETED")
	if left, asked := listed(ctx, mon, "query-block-exports", f.mine); errors.Is(err, context.DeadlineExceeded) && asked == nil && len(left) > 0 {
		err = &hikae.BusyError{What: "the snapshot of VM " + f.machine().ID(),
			Owner: "a program that reads it by " + f.socket() + " and takes no answers; let it go on or end it, then sweep"}
	}
	return errors.Join(append(errs, err)...)
}

// exportsGoWithin is how long exports that were cut off from their readers get at most to end what they are at: reads of
// the disk that are under way.
const exportsGoWithin = 20 * time.Second

// removeSession takes away all that a snapshot put into a QEMU, but for bitmaps. What is read cannot go.
func (f *footprint) removeSession(ctx context.Context, mon monitor) error {
	if err := f.removeExports(ctx, mon); err != nil {
		return err
	}
	return f.removeFleece(ctx, mon)
}
