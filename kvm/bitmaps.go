package kvm

import (
	"slices"

	"github.com/hikae/hikae"
)

// Which bitmaps go with a session, by how it ended:
//
//	committed             those of the points before, the unfinished one's too
//	left unfinished       that of the unfinished point before, which this one replaced
//	neither               its own

// olderIDs are the bitmaps of a disk that nothing is built on after a commit.
func olderIDs(o *hikae.SnapshotOptions, key string) (ids []string) {
	for _, named := range []map[string]hikae.ChangeID{o.Since, o.Past, o.Unfinished} {
		if id := ourID(named[key]); id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// withBase are the old bitmaps with the base's, which a note of an earlier version has alone.
func withBase(base string, old []string) []string {
	if slices.Contains(old, base) {
		return slices.Clone(old)
	}
	return append(slices.Clone(old), base)
}

// replaced is the bitmap of a disk that nothing is built on once a new unfinished point is there.
func replaced(o *hikae.SnapshotOptions, key string) []string {
	id := ourID(o.Unfinished[key])
	if id == "" || o.Unfinished[key] == o.Past[key] {
		return nil
	}
	return []string{id}
}

// dropOf says which bitmaps go of a dead session, by what the points name.
func dropOf(mark string, keep []hikae.ChangeID) func(base, next string, old []string) []string {
	f := footprint{Mark: mark}
	named, committed := false, false
	for _, id := range keep {
		if f.mine(string(id)) {
			named = true
			committed = committed || !slices.Contains(keep, hikae.OnlyUnfinished(id))
		}
	}
	return func(base, next string, old []string) []string {
		if !named {
			return []string{next}
		}
		all := withBase(base, old)
		if committed {
			return all
		}
		return slices.DeleteFunc(all, func(id string) bool { return slices.Contains(keep, hikae.ChangeID(id)) })
	}
}
