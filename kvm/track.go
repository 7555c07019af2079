package kvm

import (
	"context"
)

func action(kind string, data map[string]any) any { return map[string]any{"type": kind, "data": data} }

func transaction(ctx context.Context, mon monitor, actions []any) error {
	if len(actions) == 0 {
		return nil
	}
	return mon.Execute(ctx, "transaction", map[string]any{"actions": actions}, nil)
}

// addBitmaps begins to track, on all disks at once, before the moment: what is written in between is read once more
// the next time, which is harmless.
func (s *snapshot) addBitmaps(ctx context.Context) error {
	if err := s.intend(ctx, kindBitmap, nil); err != nil {
		return err
	}
	nodes, err := takeNodes(ctx, s.mon)
	if err != nil {
		return err
	}
	var actions []any
	for _, d := range s.Disks {
		actions = append(actions, action("block-dirty-bitmap-add", map[string]any{
			"node": d.Node, "name": d.Next, "persistent": nodes[d.Node].Driver == "qcow2",
		}))
	}
	return transaction(ctx, s.mon, actions)
}

// copyBase makes copies of the base's bitmaps, for the reader: an export takes none that records. All are taken at one
// moment after the snapshot's, so they hold everything up to it.
func (s *snapshot) copyBase(ctx context.Context) error {
	var actions []any
	for _, d := range s.Disks {
		if d.Base == "" {
			continue
		}
		actions = append(actions,
			action("block-dirty-bitmap-add", map[string]any{"node": d.Node, "name": s.copyName(), "disabled": true}),
			action("block-dirty-bitmap-merge", map[string]any{"node": d.Node, "target": s.copyName(), "bitmaps": []string{d.Base}}))
	}
	return transaction(ctx, s.mon, actions)
}
