package repo

import (
	"context"
	"io"
	"iter"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// Where a store keeps versions ([store.Versioned]) it shows each object's oldest one: objects are created once, and whoever
// has a writer's credentials can only add versions. Where that one proves to be not what it should be, the others are
// tried, and what authenticates counts: a manifest is named by its hash in the log, a slot and a pack open only with their
// keys. Of log records and checkpoints no other version is ever taken: two genuine ones can stand under one number, where a
// second writer was told that it came too late, and only the first decided.

// maxOtherVersions bounds how many are tried: who added more makes reading slow, and no more.
const maxOtherVersions = 64

// otherVersions yields the contents of an object's versions but for the oldest, the newest first: of what somebody put right
// again that is the likeliest. What cannot be read is left out.
func otherVersions(ctx context.Context, st store.Store, name string, limit int64) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		keeper, ok := store.As[store.Versioned](st)
		if !ok {
			return
		}
		var all []store.Version
		for v, err := range keeper.Versions(ctx, name) {
			if err != nil {
				return
			}
			all = append(all, v)
		}
		tried := 0
		for i := len(all) - 1; i > 0 && tried < maxOtherVersions && ctx.Err() == nil; i-- {
			if all[i].Size <= 0 || all[i].Size > limit {
				continue
			}
			tried++
			p := make([]byte, all[i].Size)
			if n, err := keeper.ReadVersionAt(ctx, name, all[i].ID, p, 0); n < len(p) || err != nil && err != io.EOF {
				continue
			}
			if !yield(p) {
				return
			}
		}
	}
}

// otherPack is a pack as a version other than the oldest has it; nil: none of them is it.
func (r *Repository) otherPack(ctx context.Context, p packRef, want cell.Ident) *object.Object {
	for file := range otherVersions(ctx, r.st, p.name(), maxPackFile) {
		if o, _, err := object.OpenFile(file, want, r.keys.unwraps); err == nil {
			r.warn(p.name() + " was read from a later version: the first one is damaged")
			return o
		}
	}
	return nil
}
