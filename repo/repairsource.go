package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// fetchAll looks elsewhere for what points lack, and hands on what it finds.
func (m *mending) fetchAll(ctx context.Context, v *verification, list []committed, found func(uint8, pipe.ID, []byte) error) error {
	for _, from := range m.opts.From {
		if err := m.fetchFrom(ctx, from, v, found); err != nil {
			return err
		}
	}
	if m.opts.Source == nil {
		return nil
	}
	for _, c := range slices.Backward(list) { // the newest point is most like what the disk is now
		if m.silent || !hasBlocks(v.lack) {
			return nil
		}
		if err := m.reread(ctx, v, c, found); err != nil {
			return err
		}
	}
	return nil
}

func hasBlocks(lack map[pipe.ID]lacking) bool {
	for _, l := range lack {
		if l.typ == object.TypeBlock {
			return true
		}
	}
	return false
}

// fetchFrom takes what another repository has. One that fails is told, and the others are asked.
func (m *mending) fetchFrom(ctx context.Context, from *Repository, v *verification, found func(uint8, pipe.ID, []byte) error) error {
	x, err := from.index(ctx, v.idx.scope)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.note(fmt.Sprintf("repository %s cannot be asked: %v", from.ID(), err))
		return nil
	}
	failed := 0
	for id, l := range v.lack {
		fits := func(at location) bool { return at.typ == l.typ && (l.plain == 0 || int64(at.plain) == l.plain) }
		content, err := from.contentOf(ctx, x, id, fits, false)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case isFailure(err):
			if failed++; failed == maxAsked {
				v.note(fmt.Sprintf("repository %s is not asked any more: %v", from.ID(), err))
				return nil
			}
			continue
		case err != nil || content == nil || v.idx.ids.id(l.typ, content) != id:
			continue
		}
		if err := found(l.typ, id, content); err != nil {
			return err
		}
		m.rep.Fetched++
		delete(v.lack, id)
	}
	return nil
}

// maxAsked is how often another repository may fail before it is given up.
const maxAsked = 16

// reread asks the live source for the blocks of one point that are lacking.
func (m *mending) reread(ctx context.Context, v *verification, c committed, found func(uint8, pipe.ID, []byte) error) error {
	var ranges []Affected
	for _, a := range v.rep.Affected {
		if a.Point == c.point.String() {
			ranges = append(ranges, a)
		}
	}
	if len(ranges) == 0 {
		return nil
	}
	man, err := m.r.readManifest(ctx, c)
	if err != nil {
		return ctx.Err() // told already
	}
	for i := range man.Disks {
		d := &man.Disks[i]
		img := &diskImage{r: m.r, idx: v.idx, pages: map[pipe.ID]*page{}}
		img.tree = treeReader{shape: m.r.shapeOf(d), load: img.loadPage, root: entry(d.Root)}
		ask := &asking{m: m, v: v, tree: img.tree, at: Place{Point: man.Point.String(), VM: man.VM, Disk: d.Key}, found: found}
		for _, a := range ranges {
			if a.Disk != d.Key {
				continue
			}
			if err := ask.blocks(ctx, a.Offset, a.Length); err != nil {
				return err
			}
		}
	}
	return nil
}

// asking asks the live source for blocks of one disk.
type asking struct {
	m     *mending
	v     *verification
	tree  treeReader
	at    Place
	found func(uint8, pipe.ID, []byte) error
	fails int
}

func (k *asking) blocks(ctx context.Context, off, n int64) error {
	s := k.tree.shape
	for block := off / s.blockSize; block*s.blockSize < off+n && !k.m.silent; block++ {
		e, err := k.tree.lookup(ctx, block)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // a page is lost, and nobody knows what stood there
			block |= fanout - 1
			continue
		}
		if _, lacking := k.v.lack[e.id]; e.kind != pipe.Data || !lacking {
			continue
		}
		if err := k.block(ctx, e.id, block*s.blockSize, min(s.blockSize, s.size-block*s.blockSize)); err != nil {
			return err
		}
	}
	return nil
}

func (k *asking) block(ctx context.Context, id pipe.ID, off, n int64) error {
	content := make([]byte, n)
	k.at.Offset = off
	err := k.m.opts.Source.ReadBlock(ctx, k.at, content)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		if k.fails++; k.fails == maxAsked {
			k.v.note(fmt.Sprintf("the live source is not asked any more: %v", err))
			k.m.silent = true
		}
		return nil
	case k.v.idx.ids.id(object.TypeBlock, content) != id:
		return nil // it has changed since
	}
	if err := k.found(object.TypeBlock, id, content); err != nil {
		return err
	}
	k.m.rep.Reread++
	delete(k.v.lack, id)
	return nil
}
