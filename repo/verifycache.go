package repo

import (
	"context"
	"fmt"
	"strings"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
)

// indexObjects checks the cache, and learns from it what packs held that are no longer there.
func (v *verification) indexObjects(ctx context.Context) error {
	for info, err := range v.r.st.List(ctx, "index/") {
		if err != nil {
			return err
		}
		ref, ok := parseRef(strings.TrimPrefix(info.Name, "index/"), "/")
		if !ok || !v.r.ofScope(ref.Lease, v.idx.scope) {
			continue
		}
		file, err := readSteady(ctx, v.r.st, info.Name, maxPackFile)
		if err == nil {
			err = v.indexObject(ctx, file, ref)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.count(1, 0, info.Size, 0)
		if isUnread(err) {
			if err := v.unreadable(info.Name, err); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			v.damage(Damage{Object: info.Name, Reason: err.Error(), Mendable: true}) // the packs say the same
		}
	}
	return nil
}

func (v *verification) indexObject(ctx context.Context, file []byte, ref objectRef) error {
	o, damaged, err := object.OpenFile(file, cell.Ident{Kind: kindIndex, Repo: v.r.header.ID, Object: ref.ID}, v.r.keys.indexKeys(v.idx.scope))
	if err != nil {
		return err
	}
	other := "" // a pack that it has no say about
	for i := range o.Entries() {
		doc, err := o.Content(i)
		if err != nil {
			return err
		}
		t, err := decodePackTable(doc)
		if err != nil {
			return err
		}
		if t.ref.Lease != ref.Lease {
			other = t.ref.name()
			continue
		}
		if own, ok := v.digests[t.ref]; ok {
			if own != digestOf(t.ref, 0, t.entries) {
				return fmt.Errorf("it does not say what %s says", t.ref.name())
			}
			continue
		}
		if v.idx.has(t.ref) {
			continue // another index object has spoken for it
		}
		if _, there := v.sizes[t.ref]; there { // its own table is lost
			if err := v.salvage(ctx, t.ref, t.entries); err != nil {
				return err
			}
			continue
		}
		for _, e := range t.entries {
			v.absent[e.ID] = t.ref
		}
	}
	if other != "" {
		v.note(fmt.Sprintf("%s speaks for %s, which another session wrote: that counts for nothing", indexName(ref), other))
	}
	if len(damaged) > 0 {
		return fmt.Errorf("%d cells are damaged", len(damaged))
	}
	return nil
}

// foreign tells what belongs to nothing. It is ignored otherwise.
func (v *verification) foreign(ctx context.Context, list []committed) error {
	committed := map[string]bool{}
	for _, c := range list {
		committed[manifestName(c.lease, c.point)] = true
	}
	unfinished, err := v.r.unfinished(ctx)
	if err != nil {
		return err
	}
	for _, c := range unfinished {
		committed[manifestName(c.lease, c.point)] = true
	}
	ids := map[[16]byte]packRef{}
	for p := range v.all {
		if twin, ok := ids[p.ID]; ok {
			v.note(fmt.Sprintf("%s and %s are the same pack", min(p.name(), twin.name()), max(p.name(), twin.name())))
		}
		ids[p.ID] = p
	}
	told := 0
	for info, err := range v.r.st.List(ctx, "") {
		if err != nil {
			return err
		}
		if ours(info.Name, committed) {
			continue
		}
		if told++; told > maxForeign {
			v.note("more objects that belong to nothing than are listed")
			return nil
		}
		v.note(info.Name + " belongs to no point")
	}
	return nil
}

// maxForeign bounds how many foreign objects are named.
const maxForeign = 100

// ours reports whether a name is one that this format gives.
func ours(name string, committed map[string]bool) bool {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "copy1/"), "copy2/")
	if name == headerName || committed[name] {
		return true
	}
	dir, rest, _ := strings.Cut(name, "/")
	switch dir {
	case "slot":
		var id id16
		return decodeHex(id[:], []byte(rest)) == nil
	case "log", "checkpoint":
		_, ok := parseNumber(rest)
		return ok
	case "index", "anchor":
		_, ok := parseRef(rest, "/")
		return ok
	case "beat":
		lease, k, _ := strings.Cut(rest, "/")
		_, ok := parseNumber(lease)
		_, also := parseNumber(k)
		return ok && also
	}
	_, ok := parsePack(name)
	return ok
}

// anchorObjects checks the writers' cache of anchors.
func (v *verification) anchorObjects(ctx context.Context) error {
	for info, err := range v.r.st.List(ctx, "anchor/") {
		if err != nil {
			return err
		}
		ref, ok := parseRef(strings.TrimPrefix(info.Name, "anchor/"), "/")
		if !ok || !v.r.ofScope(ref.Lease, v.idx.scope) {
			continue
		}
		v.count(1, 0, info.Size, 0)
		err := v.anchorObject(ctx, info.Name, ref)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if isUnread(err) {
			if err := v.unreadable(info.Name, err); err != nil {
				return err
			}
			continue
		}
		if err != nil { // losing it loses nothing that is stored
			v.damage(Damage{Object: info.Name, Reason: err.Error(), Mendable: true})
		}
	}
	return nil
}

func (v *verification) anchorObject(ctx context.Context, name string, ref objectRef) error {
	file, err := readSteady(ctx, v.r.st, name, maxPackFile)
	if err != nil {
		return err
	}
	o, damaged, err := object.OpenFile(file, cell.Ident{Kind: object.KindAnchor, Repo: v.r.header.ID, Object: ref.ID}, v.r.keys.indexKeys(v.idx.scope))
	if err == nil && len(damaged) > 0 {
		err = fmt.Errorf("%d cells are damaged", len(damaged))
	}
	for i := 0; err == nil && i < len(o.Entries()); i++ {
		var doc []byte
		if doc, err = o.Content(i); err == nil {
			_, err = decodeAnchors(doc)
		}
	}
	return err
}
