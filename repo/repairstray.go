package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// A pack's file can stand under another one's name: two were exchanged, or one was renamed. Its cells say whose it is, and its header
// and table, which are sealed, prove it. It is put back under its own name, and nothing of it is stored again.
//
// To put one back where another stands is to write over that one, which may be its only copy. So all that go home stand first, durably,
// under stray/, and only then take their names. A repair that is cut off in between finds them there.

func strayName(p packRef) string { return fmt.Sprintf("stray/%s", p.name()) }

// strays puts packs back that stand under another name, and reports whether there were any.
func (m *mending) strays(ctx context.Context, v *verification) (moved bool, err error) {
	for _, p := range slices.SortedFunc(maps.Keys(v.misplaced), comparePacks) {
		home, ok := v.homeOf(v.misplaced[p])
		if !ok || v.atHome(home) {
			continue
		}
		if err := m.shelter(ctx, v, p.name(), home); err != nil {
			return false, err
		}
	}
	for info, err := range m.r.st.List(ctx, "stray/") {
		if err != nil {
			return moved, err
		}
		home, ok := parsePack(strings.TrimPrefix(info.Name, "stray/"))
		if !ok || !m.r.ofScope(home.Lease, v.idx.scope) {
			continue
		}
		took, err := m.settle(ctx, v, home)
		if err != nil {
			return moved, err
		}
		moved = moved || took
	}
	return moved, nil
}

func comparePacks(a, b packRef) int { return strings.Compare(a.name(), b.name()) }

// homeOf is the name that a pack of this id had: one that is there with something else in it, or that an index object knows.
func (v *verification) homeOf(id [16]byte) (packRef, bool) {
	for p := range v.sizes {
		if p.ID == id {
			return p, true
		}
	}
	for _, p := range v.absent {
		if p.ID == id {
			return p, true
		}
	}
	return packRef{}, false
}

// atHome reports whether a pack stands whole under its own name.
func (v *verification) atHome(p packRef) bool {
	_, there := v.sizes[p]
	return there && !v.hurt[p] && !v.unsettled(p.name())
}

// shelter makes a pack that stands under another name safe. What cannot be is told.
func (m *mending) shelter(ctx context.Context, v *verification, from string, home packRef) error {
	file, err := m.itself(ctx, from, home)
	if err == nil {
		err = m.r.vital.createFirst(ctx, strayName(home), file)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		v.note(fmt.Sprintf("%s stands under the name %s and could not be taken from there: %v", home.name(), from, err))
	}
	return nil
}

// settle gives a pack that is safe its name, if it has not got it.
func (m *mending) settle(ctx context.Context, v *verification, home packRef) (took bool, err error) {
	if !v.atHome(home) {
		file, err := m.itself(ctx, strayName(home), home)
		if err == nil {
			err = m.goHome(ctx, home.name(), file)
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if err != nil {
			v.note(fmt.Sprintf("%s could not be put back under its name: %v", home.name(), err))
			return false, nil
		}
		took = true
		m.rep.Repaired = append(m.rep.Repaired, home.name())
	}
	if err := m.r.st.Remove(ctx, strayName(home)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return took, err
	}
	return took, nil
}

func (m *mending) goHome(ctx context.Context, name string, file []byte) error {
	err := m.r.vital.createFirst(ctx, name, file)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	mender, ok := store.As[store.Mender](m.r.st)
	if !ok {
		return ErrCannotMend
	}
	return mender.Mend(ctx, name, file)
}

// itself reads a file that has to be that pack, mended within its parity.
func (m *mending) itself(ctx context.Context, name string, p packRef) ([]byte, error) {
	file, err := readSteady(ctx, m.r.st, name, maxPackFile)
	if err != nil {
		return nil, err
	}
	fixed, _, err := cell.Repair(file)
	if err != nil {
		return nil, err
	}
	_, _, err = object.OpenFile(slices.Clone(fixed), cell.Ident{Kind: p.Kind, Repo: m.r.header.ID, Object: p.ID}, m.r.keys.unwraps)
	return fixed, err
}
