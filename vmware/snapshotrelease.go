package vmware

import (
	"context"
	"errors"
)

// Release implements [hikae.Snapshot], in the order that keeps files from being locked: images are closed, which detaches what
// was attached; the snapshot is removed; disks are consolidated; the VM can be moved again (R115 to R117). A removal that
// outlasts ctx goes on at the server, and the effect stays until a sweep has seen that it is done.
func (s *snapshot) Release(ctx context.Context) error {
	if s.free != nil {
		defer s.ended()
		defer s.free() // also after an error: what is left on the server keeps others off by itself
	}
	if err := s.reading.close(); err != nil {
		return err // the next call goes on: the sweep detaches, too
	}
	return errors.Join(s.removeAll(ctx), s.held.letGo(ctx))
}

// removeAll removes the snapshots of this session. The effect of the one that was read is settled last, when the disks are
// whole again: what consolidation leaves undone is a later sweep's.
func (s *snapshot) removeAll(ctx context.Context) error {
	for _, k := range s.cycles {
		if err := k.remove(ctx); err != nil {
			return err
		}
	}
	s.cycles = nil
	if s.pinned == nil || s.pinned.done == nil {
		return nil
	}
	if err := s.pinned.vanish(ctx); err != nil {
		return err
	}
	if err := s.client.consolidate(ctx, s.ref, s.pinned.mark, s.provider.opts.HuntSnapshots); err != nil {
		return err
	}
	return s.pinned.settle(ctx)
}
