package stripe

import (
	"slices"

	"github.com/cespare/xxhash/v2"
)

// place gives each shard a seat. Every object has its own order of the seats (the highest of hashes of name and member
// come first), so that all members get equally many shards of each number; who is away or behind comes last.
func (v *view) place(name string) []byte {
	type place struct {
		seat  byte
		there bool
		score uint64
	}
	places := make([]place, len(v.seats))
	for i, t := range v.seats {
		h := xxhash.Sum64String(name + "\x00" + v.Members[i].ID)
		places[i] = place{byte(i), t.member != nil && t.standing != Behind, h}
	}
	slices.SortFunc(places, func(a, b place) int {
		switch {
		case a.there != b.there && a.there:
			return -1
		case a.there != b.there:
			return 1
		case a.score > b.score:
			return -1
		case a.score < b.score:
			return 1
		}
		return int(a.seat) - int(b.seat)
	})
	seats := make([]byte, v.Data+v.Parity)
	for i := range seats {
		seats[i] = places[i].seat
	}
	return seats
}
