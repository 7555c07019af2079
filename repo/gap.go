package repo

import "slices"

// A record of the log that is lost in all of its places breaks the chain: nothing behind it can be proven, and nobody writes.
// A record of kind gap closes the chain again, by a person's word ([Repository.MendLog]). It stands in the place of the first lost record,
// is signed by the root key, and names the hash that the next record gives for the one before it: so that one, and all behind it, prove
// themselves as they did before. What the lost records said is restated in it as far as it shows.

// maxGap bounds how many records one gap stands for.
const maxGap = 4096

// restated is what a lost record must have said, or may have: as if by's record n had said it.
type restated struct {
	N      uint64     `json:"n"`
	By     publicKey  `json:"by"`
	Kind   recordKind `json:"kind"` // key, lease, commit or forget
	Role   role       `json:"role,omitempty"`
	Lease  uint64     `json:"lease,omitempty"`
	Access string     `json:"access,omitempty"`
	Points []id16     `json:"points,omitempty"`
	Point  *id16      `json:"point,omitempty"`
	VM     *id16      `json:"vm,omitempty"`
	Object *hash      `json:"object,omitempty"`
}

// bridge takes a gap into the state: what it restates, and where the chain goes on.
func (l *ledger) bridge(by publicKey, r *record, own hash) {
	if g, known := l.gaps[r.Mark]; r.Kind == recordGap && by == l.root && r.Mark < r.N && known {
		g.told = true
		l.gaps[r.Mark] = g
	}
	if r.Kind != recordGap || by != l.root || r.Mark < r.N || r.Mark-r.N >= maxGap || r.Lost == nil && r.Mark != r.N {
		return // it uses up its number
	}
	for _, s := range r.Said {
		if s.N < r.N || s.N > r.Mark {
			continue
		}
		rec := &record{N: s.N, Kind: s.Kind, Role: s.Role, Lease: s.Lease, Access: s.Access, Points: s.Points, Point: s.Point, VM: s.VM, Object: s.Object}
		if s.Kind == recordKey {
			rec.Key = &s.By
			l.apply(l.root, rec)
		} else if slices.Contains([]recordKind{recordLease, recordCommit, recordForget}, s.Kind) {
			l.apply(s.By, rec)
		}
	}
	if l.gaps == nil {
		l.gaps = map[uint64]gapSpan{}
	}
	l.gaps[r.N] = gapSpan{own: own, mark: r.Mark}
	for l.n < r.Mark {
		l.n++
		l.hashes = append(l.hashes, hash{}) // nobody knows
	}
	if r.Lost != nil {
		l.last = *r.Lost
		l.hashes[len(l.hashes)-1] = l.last
	}
}

// overlooked reports whether a record says that there is a gap which this client, open all the time, has read the records of. A record of
// kind gap whose mark is no later number than that of a gap before it says so.
func (l *ledger) overlooked(by publicKey, r *record) bool {
	if r.Kind != recordGap || by != l.root || r.Mark >= r.N || r.Mark <= l.from || r.N <= l.heeded {
		return false
	}
	_, known := l.gaps[r.Mark]
	return !known
}

// gapSpan is a gap's own hash, and the last record that it stands for.
type gapSpan struct {
	own  hash
	mark uint64
	told bool // a later record says that it is there: see overlooked
}

// within reports whether a gap before record n stands for it.
func (l *ledger) within(n uint64) bool {
	for first, g := range l.gaps {
		if n > first && n <= g.mark {
			return true
		}
	}
	return false
}

// stored is the hash of what stands under record n's name: the record, or a gap; zero: nothing has to stand there.
func (l *ledger) stored(n uint64, h hash) hash {
	for first, g := range l.gaps {
		switch {
		case n == first:
			return g.own
		case n > first && n <= g.mark:
			return hash{}
		}
	}
	return h
}
