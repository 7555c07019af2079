package vmware

import (
	"context"
	"fmt"
	"sync"

	"github.com/vmware/govmomi/vim25/methods"
)

// livePins are the marks of snapshots that sessions of this process are at work with.
var livePins sync.Map

func (s *snapshot) ended() {
	if s.pinned != nil {
		livePins.Delete(s.pinned.mark)
	}
}

// clearStale removes snapshots of ours that are so old that nobody can be at work with them, where that was asked for. Their
// age is told by the server's clock.
func (s *snapshot) clearStale(ctx context.Context) error {
	limit := s.provider.opts.AdoptStale
	if limit <= 0 || len(s.was.tree.marked("")) == 0 {
		return nil
	}
	now, err := methods.GetCurrentTime(ctx, s.client.vim)
	if err != nil {
		return fmt.Errorf("the server's time: %w", err)
	}
	if task, err := s.client.underWay(ctx, s.was.RecentTask, "snapshot"); err != nil || task != nil {
		return err // whoever looks next refuses the VM
	}
	removed := false
	for _, n := range s.was.tree.marked("") {
		_, live := livePins.Load(n.mark())
		if live || now.Sub(n.created) < limit {
			continue
		}
		k := &marked{client: s.client, vm: s.ref, mark: n.mark()}
		if err := k.vanish(ctx); err != nil {
			return fmt.Errorf("snapshot %q (%s), which is older than %v: %w", n.name, n.ref.Value, limit, err)
		}
		if err := s.client.consolidate(ctx, s.ref, n.mark(), false); err != nil {
			return err
		}
		s.warn("snapshot %q (%s), made at %s by a session that did not remove it, was removed", n.name, n.ref.Value, n.created.UTC())
		removed = true
	}
	if removed {
		s.was, err = s.client.machine(ctx, s.ref)
	}
	return err
}
