package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/hikae/hikae/repo/store"
)

// A vital object stands in three places. What is put back is held first against what the log and the slots say that it must
// be. The order is such that there is at every moment a place that has it whole: those that are missing are filled first,
// and only then one that is damaged is replaced, in one step where the store can do that (store.Mender), and otherwise by
// a removal and a creation, if another place has it.
//
// The first place of a log record is never removed: between the two steps another writer could take its number. Without a
// Mender it stays damaged, and is read from its copies.

// repairPlaces puts back the places of a vital object that are wrong, and returns those that stay so.
func (v *verification) repairPlaces(ctx context.Context, name string, good []byte, wrong []Damage) (left []Damage) {
	if v.r.writable(ctx) != nil {
		return wrong
	}
	places := map[string]bool{}
	slices.SortStableFunc(wrong, func(a, b Damage) int { return order(a.Reason != missingPlace) - order(b.Reason != missingPlace) })
	for _, d := range wrong {
		if fixed, tried := places[d.Object]; tried { // another cell of the same place
			if !fixed {
				left = append(left, d)
			}
			continue
		}
		err := v.repairPlace(ctx, d, name, good)
		places[d.Object] = err == nil
		if err != nil {
			v.note(fmt.Sprintf("%s could not be put back: %v", d.Object, err))
			left = append(left, d)
			continue
		}
		v.rep.Repaired = append(v.rep.Repaired, d.Object)
	}
	return left
}

func order(later bool) int {
	if later {
		return 1
	}
	return 0
}

func (v *verification) repairPlace(ctx context.Context, d Damage, name string, good []byte) error {
	if d.Reason == missingPlace {
		return v.r.vital.createFirst(ctx, d.Object, good)
	}
	if m, ok := store.As[store.Mender](v.r.st); ok {
		return m.Mend(ctx, d.Object, good)
	}
	if d.Object == name && strings.HasPrefix(name, "log/") {
		return errors.New("the store cannot replace it in one step, and it is never removed")
	}
	if !v.elsewhere(ctx, d.Object, name, good) {
		return errors.New("no other place has it whole, and the store cannot replace it in one step")
	}
	if err := v.r.st.Remove(ctx, d.Object); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return v.r.vital.createFirst(ctx, d.Object, good)
}

// elsewhere reports whether another place has a vital object, byte for byte.
func (v *verification) elsewhere(ctx context.Context, place, name string, good []byte) bool {
	for _, other := range copiesOf(name) {
		if other == place {
			continue
		}
		if file, err := store.ReadAll(ctx, v.r.st, other, maxVital); err == nil && string(file) == string(good) {
			return true
		}
	}
	return false
}
