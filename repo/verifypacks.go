package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
)

// packs reads every pack's table, and of the data as much as was asked for.
func (v *verification) packs(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for p, size := range v.sizes {
		g.Go(func() error {
			defer v.advance(size)
			look := v.packTable
			if v.wholly(p) {
				look = v.wholePack
			}
			if err := look(ctx, p, size); err != nil {
				return err
			}
			return v.sound(ctx, p)
		})
	}
	return g.Wait()
}

// packTable checks header and table, and reads the frames that the sample hits.
func (v *verification) packTable(ctx context.Context, p packRef, size int64) error {
	want := cell.Ident{Kind: p.Kind, Repo: v.r.header.ID, Object: p.ID}
	var bytes int64
	read := func(off, n int) ([]byte, error) {
		b := make([]byte, n)
		got, err := v.r.st.ReadAt(ctx, p.name(), b, int64(off))
		bytes += int64(got)
		if got > 0 {
			err = nil
		}
		return b[:got], err
	}
	t, err := object.ReadTable(read, size, want, v.r.keys.unwraps)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil { // look at all of it: what is damaged, and whether it can be mended
		return v.wholePack(ctx, p, size)
	}
	if err := v.pace.wait(ctx, bytes); err != nil {
		return err
	}
	v.count(1, 0, bytes, 0)
	if v.proven[p] {
		v.resumed(size)
	}
	if err := v.ownTable(p, t.Entries); err != nil {
		v.damage(Damage{Object: p.name(), Reason: err.Error()})
		return nil
	}
	v.later(p, t.Entries)
	for _, e := range t.Entries {
		if e.Type != object.TypeBlock || e.Codec == object.CodecAssembled || v.proven[p] || !v.sampled(e.ID) {
			continue
		}
		dst := make([]byte, e.Plain)
		loc := location{ordinal: e.Ordinal, offset: e.Offset, stored: e.Stored, plain: e.Plain, typ: e.Type, codec: pipe.Codec(e.Codec)}
		if err := v.pace.wait(ctx, int64(e.Stored)); err != nil {
			return err
		}
		if err := v.r.fetchFrame(ctx, v.idx, p, e.ID, loc, dst); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return v.wholePack(ctx, p, size)
		}
		v.count(0, 1, int64(e.Stored), int64(e.Plain))
	}
	return nil
}

// ownTable enters what a pack says itself.
func (v *verification) ownTable(p packRef, entries []object.Entry) error {
	if err := v.r.addTable(v.idx, p, entries); err != nil {
		return err
	}
	digest := digestOf(p, 0, entries)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.digests[p] = digest
	return nil
}

func (v *verification) count(objects, blocks, bytes, original int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := &v.rep.Checked
	c.Objects += objects
	c.Blocks += blocks
	c.Bytes += bytes
	c.Original += original
}

// sampled decides by the block's id and the seed, so that the same seed reads the same blocks.
func (v *verification) sampled(id [32]byte) bool {
	if v.opts.DataPercent <= 0 {
		return false
	}
	x := binary.LittleEndian.Uint64(id[16:]) ^ v.opts.Seed
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return float64(x>>11)/(1<<53)*100 < v.opts.DataPercent
}

// wholePack reads all of a pack: every cell's tags, every frame.
func (v *verification) wholePack(ctx context.Context, p packRef, size int64) error {
	if err := v.pace.wait(ctx, size); err != nil {
		return err
	}
	var stream []byte
	var g cell.Geometry
	var damaged []int
	var err error
	file, unread := steady(ctx, p.name(), func() ([]byte, error) { return readAll(ctx, v.r.st, p.name(), maxPackFile) }, func(file []byte) bool {
		stream, g, damaged, err = cell.Decode(file)
		return err == nil && len(damaged) == 0
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case isUnread(unread):
		return v.unreadable(p.name(), unread)
	case unread != nil:
		v.damage(Damage{Object: p.name(), Reason: unread.Error()})
		return nil
	}
	mendable := err == nil
	v.cells(p, damaged, size, mendable)
	if err != nil && len(damaged) == 0 {
		v.damage(Damage{Object: p.name(), Reason: err.Error()})
	}
	if err == nil && len(damaged) == 0 && !cell.Consistent(file) {
		v.damage(Damage{Object: p.name(), Offset: int64(g.N) * cell.Size, Length: int64(g.M) * cell.Size, Reason: "the parity is not that of the data", Mendable: true})
	}
	if !mendable {
		// What the table says may still stand, and some frames too: points need only those that are lost.
		return v.brokenPack(ctx, p, size)
	}
	if g.Object != p.ID && g.Kind == p.Kind && g.RepoPrefix == [8]byte(v.r.header.ID[:8]) {
		v.mu.Lock()
		v.misplaced[p] = g.Object
		v.mu.Unlock()
	}
	o, err := object.Open(stream, cell.Ident{Kind: p.Kind, Repo: v.r.header.ID, Object: p.ID}, v.r.keys.unwraps)
	if err != nil {
		v.damage(Damage{Object: p.name(), Reason: err.Error()})
		return nil
	}
	if err := v.ownTable(p, o.Entries()); err != nil {
		v.damage(Damage{Object: p.name(), Reason: err.Error()})
		return nil
	}
	v.count(1, 0, size, 0)
	return v.frames(ctx, p, o, stream)
}

func (v *verification) cells(p packRef, damaged []int, size int64, mendable bool) {
	for i := 0; i < len(damaged); {
		j := i + 1
		for j < len(damaged) && damaged[j] == damaged[j-1]+1 {
			j++
		}
		v.damage(Damage{
			Object: p.name(), Offset: int64(damaged[i]) * cell.Size, Length: int64(j-i) * cell.Size,
			Reason: "cells are damaged or missing", Mendable: mendable,
		})
		i = j
	}
}

func (v *verification) frames(ctx context.Context, p packRef, o *object.Object, stream []byte) error {
	buf := v.r.buffer()
	defer v.r.buffers.Put(buf)
	v.later(p, o.Entries())
	for _, e := range o.Entries() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if e.Codec == object.CodecAssembled {
			continue
		}
		if e.Type != object.TypeBlock && e.Type != object.TypePage && e.Type != object.TypeChunk {
			continue
		}
		buf.plain = grow(buf.plain, int(e.Plain))
		loc := location{ordinal: e.Ordinal, offset: e.Offset, stored: e.Stored, plain: e.Plain, typ: e.Type, codec: pipe.Codec(e.Codec)}
		err := v.r.openInto(ctx, v.idx, buf.plain, o.Cipher(), stream[e.Offset:e.Offset+e.Stored], e.ID, loc, buf)
		if err != nil {
			off, n := cell.StreamSpan(int(e.Offset), int(e.Stored))
			v.damage(Damage{Object: p.name(), Offset: int64(off), Length: int64(n), Reason: err.Error()})
			if num, ok := v.idx.number(p); ok {
				v.idx.markBad(e.ID, num)
			}
			continue
		}
		if e.Type == object.TypeBlock {
			v.count(0, 1, 0, int64(e.Plain))
		}
	}
	return nil
}

// brokenPack salvages what it can of a pack that has lost more cells than its parity mends: with its table, from the
// pack itself or later from an index object, each frame that still opens.
func (v *verification) brokenPack(ctx context.Context, p packRef, size int64) error {
	var entries []object.Entry
	err := steadily(ctx, p.name(), func() (err error) {
		entries, err = v.r.readTable(ctx, p, size)
		return err
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case isUnread(err):
		return v.unreadable(p.name(), err)
	case err != nil:
		return nil
	}
	return v.salvage(ctx, p, entries)
}

func (v *verification) salvage(ctx context.Context, p packRef, entries []object.Entry) error {
	if err := v.r.addTable(v.idx, p, entries); err != nil {
		v.damage(Damage{Object: p.name(), Reason: err.Error()})
		return nil
	}
	if v.unsettled(p.name()) {
		for _, e := range entries {
			v.unsure(p, e.ID)
		}
		return nil
	}
	v.later(p, entries)
	for _, e := range entries {
		if e.Codec == object.CodecAssembled {
			continue
		}
		dst := make([]byte, e.Plain)
		loc := location{ordinal: e.Ordinal, offset: e.Offset, stored: e.Stored, plain: e.Plain, typ: e.Type, codec: pipe.Codec(e.Codec)}
		err := steadily(ctx, p.name(), func() error { return v.r.fetchFrame(ctx, v.idx, p, e.ID, loc, dst) })
		if isUnread(err) {
			v.unsure(p, e.ID)
			if err := v.unreadable(p.name(), err); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if num, ok := v.idx.number(p); ok {
				v.idx.markBad(e.ID, num)
			}
		}
	}
	return nil
}

// recipeFrame is an assembled block in its pack.
type recipeFrame struct {
	pack packRef
	e    object.Entry
}

func (v *verification) later(p packRef, entries []object.Entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range entries {
		if e.Type == object.TypeBlock && e.Codec == object.CodecAssembled {
			v.recipes = append(v.recipes, recipeFrame{p, e})
			v.state.wait(p)
		}
	}
}

// assembled checks the recipes: they are read at every depth, because what they need must be there; what they give is
// proven where the data is asked for.
func (v *verification) assembled(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, f := range v.recipes {
		g.Go(func() error {
			err := v.recipe(ctx, f)
			if err == nil {
				return v.recipeSound(ctx, f.pack)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if isUnread(err) {
				v.unsure(f.pack, f.e.ID)
				return v.unreadable(f.pack.name(), err)
			}
			if num, ok := v.idx.number(f.pack); ok {
				v.idx.markBad(f.e.ID, num)
			}
			return nil
		})
	}
	return g.Wait()
}

func (v *verification) recipe(ctx context.Context, f recipeFrame) error {
	loc := location{ordinal: f.e.Ordinal, offset: f.e.Offset, stored: f.e.Stored, plain: f.e.Plain, typ: f.e.Type, codec: codecAssembled}
	var rec *recipe
	err := steadily(ctx, f.pack.name(), func() (err error) {
		rec, err = v.r.fetchRecipe(ctx, f.pack, f.e.ID, loc)
		return err
	})
	if isUnread(err) || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	if err != nil {
		off, n := cell.StreamSpan(int(loc.offset), int(loc.stored))
		v.damage(Damage{Object: f.pack.name(), Offset: int64(off), Length: int64(n), Reason: err.Error()})
		return err
	}
	ids := rec.sources()
	if num, ok := v.idx.number(f.pack); ok {
		v.mu.Lock()
		v.needs[badPlace{f.e.ID, num}] = ids
		v.mu.Unlock()
	}
	for _, id := range ids {
		if _, _, good, err := v.idx.whole(id); err != nil || !good {
			return fmt.Errorf("block %s is missing or damaged", id)
		}
	}
	if !v.wholly(f.pack) && (v.proven[f.pack] || !v.sampled(f.e.ID)) {
		return nil
	}
	dst := make([]byte, f.e.Plain)
	err = steadily(ctx, f.pack.name(), func() error {
		err := v.r.fetchFrame(ctx, v.idx, f.pack, f.e.ID, loc, dst)
		if err != nil && !isSourceError(err) && !isFailure(err) {
			err = v.r.fetchMended(ctx, v.idx, f.pack, f.e.ID, loc, dst)
		}
		return err
	})
	if isUnread(err) || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	if err != nil {
		if corrupt, ok := errors.AsType[*ErrCorrupt](err); ok && isSourceError(err) { // the sample did not hit the source itself
			v.damage(Damage{Object: corrupt.Object, Offset: corrupt.Offset, Length: corrupt.Length, Reason: corrupt.Reason})
		} else {
			off, n := cell.StreamSpan(int(loc.offset), int(loc.stored))
			v.damage(Damage{Object: f.pack.name(), Offset: int64(off), Length: int64(n), Reason: err.Error()})
		}
		return err
	}
	v.count(0, 1, int64(f.e.Stored), int64(f.e.Plain))
	return nil
}
