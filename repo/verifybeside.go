package repo

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/hikae/hikae/pipe"
)

// A verification takes no lease: it may run for days, and no prune should wait for it. What points are forgotten and what packs
// are swept while it runs is no damage. The log says which those are, so what is found missing is held against it.

// maxBeside bounds how often the points are walked again because some went meanwhile.
const maxBeside = 4

// pointsBeside walks the points' trees, and again without those that went meanwhile where something was found missing.
func (v *verification) pointsBeside(ctx context.Context, list []committed) error {
	affected := len(v.rep.Affected)
	damaged := slices.Clone(v.rep.Damaged)
	for round := 1; ; round++ {
		if err := v.points(ctx, list); err != nil {
			return err
		}
		if len(v.lack) == 0 && len(v.rep.Affected) == affected && len(v.rep.Damaged) == len(damaged) && len(v.hurt) == 0 && len(v.caches) == 0 {
			return nil
		}
		now, err := v.still(ctx, list)
		if err != nil {
			return err
		}
		swept, err := v.swept(ctx)
		if err != nil {
			return err
		}
		if len(now) == len(list) && len(swept) == 0 || round == maxBeside {
			return nil
		}
		list = now
		v.excuse(swept)
		v.rep.Affected = v.rep.Affected[:affected]
		v.rep.Damaged = slices.DeleteFunc(damaged, func(d Damage) bool { return swept[d.Object] })
		damaged = slices.Clone(v.rep.Damaged)
		v.pages, v.miscounted = map[seenPage]*pageState{}, map[pipe.ID]bool{}
		clear(v.rescue)
		clear(v.lack)
	}
}

// still are the points that have not been forgotten since.
func (v *verification) still(ctx context.Context, list []committed) ([]committed, error) {
	there, err := v.r.committed(ctx)
	if err != nil {
		return nil, err
	}
	points := map[id16]bool{}
	for _, c := range there {
		points[c.point] = true
	}
	return slices.DeleteFunc(slices.Clone(list), func(c committed) bool { return !points[c.point] }), nil
}

// swept are the names of damaged packs, index and anchor objects that are gone by now and were meant to go.
func (v *verification) swept(ctx context.Context) (map[string]bool, error) {
	dead := map[packRef]bool{}
	v.r.log.view(func(l *ledger) {
		for _, d := range l.deaths {
			dead[d.pack] = !d.alive
		}
	})
	names := map[string]bool{}
	for p := range v.hurt {
		if dead[p] {
			names[p.name()] = true
		}
	}
	for name := range v.caches { // whoever needs room removes them
		names[name] = true
	}
	for name := range maps.Clone(names) {
		_, err := v.r.st.Stat(ctx, name)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !errors.Is(err, fs.ErrNotExist):
			delete(names, name)
		}
	}
	return names, nil
}

// excuse forgets what was thought of packs and caches that went.
func (v *verification) excuse(swept map[string]bool) {
	maps.DeleteFunc(v.hurt, func(p packRef, _ bool) bool { return swept[p.name()] })
	maps.DeleteFunc(v.sizes, func(p packRef, _ int64) bool { return swept[p.name()] })
	maps.DeleteFunc(v.caches, func(name string, _ bool) bool { return swept[name] })
}

// manifestStands reports whether a manifest's point is still there.
func (v *verification) manifestStands(ctx context.Context, c committed) (bool, error) {
	now, err := v.still(ctx, []committed{c})
	return len(now) > 0, err
}

// isCache reports whether an object is one that anybody may remove.
func isCache(name string) bool {
	return strings.HasPrefix(name, "index/") || strings.HasPrefix(name, "anchor/")
}
