package kvm

import (
	"context"
	"errors"
	"fmt"

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

// removeExports closes what the reader used. The server is stopped only if it is the session's own.
func (f *footprint) removeExports(ctx context.Context, mon monitor) error {
	var errs []error
	if speaks(mon).exports {
		errs = append(errs, f.deleteExports(ctx, mon))
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

func (f *footprint) deleteExports(ctx context.Context, mon monitor) error {
	ids, err := listed(ctx, mon, "query-block-exports", f.mine)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, mon.Execute(ctx, "block-export-del", map[string]any{"id": id, "mode": "hard"}, nil))
	}
	return errors.Join(append(errs, waitGone(ctx, mon, "query-block-exports", f.mine, "BLOCK_EXPORT_DELETED"))...)
}
