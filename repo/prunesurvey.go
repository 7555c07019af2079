package repo

import (
	"errors"
	"github.com/hikae/hikae/pipe"
)

// survey says of each pack how much of it is needed. Of content that is in several places one is kept, and the others count as
// dead weight: the one in a pack that no tombstone names, that this prune has written, that holds more which is nowhere else, that is newer.
type survey struct {
	m     *marking
	live  []int64 // by pack, bytes of frames that are kept there
	total []int64
	alone []int64 // of live: content that is nowhere else
	count []int32 // by pack, its records
	tombs map[packRef]tomb
	all   []location // of one content; see keep
}

func (m *marking) survey(tombs map[packRef]tomb) (*survey, error) {
	x := m.x
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := len(x.packs)
	s := &survey{m: m, live: make([]int64, n), total: make([]int64, n), alone: make([]int64, n), count: make([]int32, n), tombs: tombs}
	if err := s.several(); err != nil {
		return nil, err
	}
	num := uint32(0)
	err := x.records.eachFull(func(id pipe.ID, loc location, again, _ bool) {
		if !again && m.need.has(num) && !m.multi.has(num) {
			s.alone[loc.pack] += int64(loc.stored)
		}
		s.total[loc.pack] += int64(loc.stored)
		s.count[loc.pack]++
		num++
	})
	if err != nil {
		return nil, err
	}
	copy(s.live, s.alone)
	num = 0
	var failed error
	err = x.records.eachFull(func(id pipe.ID, _ location, again, _ bool) {
		if !again && failed == nil && m.need.has(num) && m.multi.has(num) {
			failed = s.weigh(id, num)
		}
		num++
	})
	if err == nil {
		err = failed
	}
	return s, err
}

// several notes which content is in more than one place.
func (s *survey) several() (err error) {
	x := s.m.x
	each := x.records.eachFull(func(id pipe.ID, _ location, again, _ bool) {
		if !again || err != nil {
			return
		}
		var n uint32
		if n, err = s.first(id); err == nil {
			s.m.multi.set(n)
		}
	})
	return errors.Join(err, each)
}

// first is recordOf for content that is there. The caller holds the index's lock.
func (s *survey) first(id pipe.ID) (uint32, error) {
	slot, err := s.m.x.places(id, func(location) bool { return false })
	if err != nil {
		return 0, err
	}
	return s.m.x.table.part(id).record(slot), nil
}

func (s *survey) weigh(id pipe.ID, num uint32) error {
	list, _, err := s.keep(id, num)
	for _, l := range list {
		s.live[l.pack] += int64(l.stored)
	}
	return err
}

// keep are the places of needed content that stay: one that is good, or where none is, all. others are those that are given up.
// Both are good until the next call. The caller holds the index's lock, and nobody else uses the survey.
func (s *survey) keep(id pipe.ID, num uint32) (kept, others []location, err error) {
	best, bestKey := -1, [6]int64{}
	whole := s.m.whole.has(num)
	all := s.all[:0] // used again by the next call
	err = s.m.x.all(id, func(l location) bool {
		if s.m.gone[l.pack] {
			return true
		}
		all = append(all, l)
		if key := s.key(id, l); key[0] > rankLiar && (!whole || l.whole()) && (best < 0 || less(bestKey, key)) {
			best, bestKey = len(all)-1, key
		}
		return true
	})
	s.all = all
	if err != nil || best < 0 {
		return all, nil, err
	}
	all[0], all[best] = all[best], all[0]
	return all[:1], all[1:], nil
}

// key orders places: the largest stays.
func (s *survey) key(id pipe.ID, l location) [6]int64 {
	ref := s.m.x.packs[l.pack]
	rank := int64(s.m.x.rank(id, l))
	if s.tombs[ref].final {
		rank = rankBad
	}
	var whole, ours int64
	if l.whole() {
		whole = 1
	}
	if s.m.written[ref.Lease] {
		ours = 1
	}
	return [6]int64{rank, whole, ours, s.alone[l.pack], int64(ref.Lease), -int64(l.pack)}
}

func less(a, b [6]int64) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}
