package cell

import (
	"bytes"
	"errors"
)

// Check looks at every cell of a file. damaged lists the ordinals at whose places something else stands, ascending;
// the ordinal n+m stands for bytes past the end. err is a *DamageError if that is beyond repair, ErrVersion if no cell
// is good but some are of a newer version.
func Check(file []byte) (g Geometry, damaged []int, err error) {
	m := locate(file)
	return m.g, m.damaged, m.err()
}

// Decode returns the stream of a file, mending up to m lost cells on the way, whatever became of them: flipped bits,
// zeroed or foreign cells, a missing tail; cells that verify but stand in the wrong place are put right. damaged is
// as for Check. Beyond repair the error is a *DamageError, and the stream holds what is left of it: up to the last
// data cell that is good, with zeros where DamageError.Ordinals says that there are holes.
func Decode(file []byte) (stream []byte, g Geometry, damaged []int, err error) {
	m := locate(file)
	g = m.g
	if err := m.err(); err != nil {
		return m.rest(file), g, m.damaged, err
	}
	stream = make([]byte, g.N*Payload)
	shards := make([][]byte, g.Cells())
	for i, at := range m.at {
		switch {
		case i >= g.N && at >= 0:
			shards[i] = payload(file, at)
		case i >= g.N:
			shards[i] = nil
		case at >= 0:
			shards[i] = stream[i*Payload : (i+1)*Payload]
			copy(shards[i], payload(file, at))
		default:
			shards[i] = stream[i*Payload : i*Payload : (i+1)*Payload]
		}
	}
	if m.lostData() {
		if err := reconstruct(g, shards, false); err != nil {
			return nil, g, m.damaged, err
		}
	}
	if !zero(stream[g.Stream:]) {
		return nil, g, m.damaged, ErrPadding
	}
	return stream[:g.Stream], g, m.damaged, nil
}

// Repair returns the whole file byte for byte as it was written: file itself where nothing is damaged. damaged and
// err are as for Decode.
func Repair(file []byte) (fixed []byte, damaged []int, err error) {
	m := locate(file)
	if err := m.err(); err != nil {
		return nil, m.damaged, err
	}
	g := m.g
	if len(m.damaged) == 0 {
		return file, nil, m.padding(file)
	}
	fixed = make([]byte, g.FileSize())
	shards := make([][]byte, g.Cells())
	for i, at := range m.at {
		shards[i] = payload(fixed, i)
		if at >= 0 {
			copy(fixed[i*Size:], file[at*Size:(at+1)*Size])
		} else {
			shards[i] = shards[i][:0]
		}
	}
	if len(m.lost) > 0 {
		if err := reconstruct(g, shards, true); err != nil {
			return nil, m.damaged, err
		}
	}
	for _, i := range m.lost {
		putTrailer(fixed[i*Size:(i+1)*Size], g, i)
	}
	return fixed, m.damaged, m.padding(fixed)
}

// layout says where in a file the cells of its object are.
type layout struct {
	g       Geometry
	at      []int // by ordinal: the place of a good cell, or -1
	lost    []int // ordinals that are nowhere
	damaged []int // ordinals that are not in their place
	newer   bool  // no cell is good, but some are of a newer version
}

func locate(file []byte) layout {
	s := survey(file)
	if s.most < 0 {
		return layout{newer: s.newer}
	}
	g := s.geometries[s.most]
	m := layout{g: g, at: make([]int, g.Cells())}
	for i := range m.at {
		m.at[i] = -1
	}
	for i, c := range s.cells {
		if c.geometry == s.most && (m.at[c.ordinal] < 0 || c.ordinal == i) {
			m.at[c.ordinal] = i
		}
	}
	for ordinal, at := range m.at {
		if at < 0 {
			m.lost = append(m.lost, ordinal)
		}
		if at != ordinal {
			m.damaged = append(m.damaged, ordinal)
		}
	}
	if len(file) > g.FileSize() {
		m.damaged = append(m.damaged, g.Cells())
	}
	return m
}

func (m *layout) err() error {
	if m.newer {
		return ErrVersion
	}
	if m.g.N == 0 || len(m.lost) > m.g.M {
		return &DamageError{Geometry: m.g, Ordinals: m.lost, Budget: m.g.M}
	}
	return nil
}

func (m *layout) lostData() bool { return len(m.lost) > 0 && m.lost[0] < m.g.N }

// padding checks the end of a whole file's last data cell.
func (m *layout) padding(file []byte) error {
	if last := m.g.N - 1; !zero(payload(file, last)[m.g.Stream-last*Payload:]) {
		return ErrPadding
	}
	return nil
}

// rest is what is left of a stream that cannot be mended.
func (m *layout) rest(file []byte) []byte {
	end := m.g.N
	for end > 0 && m.at[end-1] < 0 {
		end--
	}
	stream := make([]byte, end*Payload)
	for i, at := range m.at[:end] {
		if at >= 0 {
			copy(stream[i*Payload:], payload(file, at))
		}
	}
	return stream[:min(len(stream), m.g.Stream)]
}

// A sighting is what one cell of a file says of itself.
type sighting struct {
	geometry int // index, or -1: the cell does not verify
	ordinal  int
}

type surveyed struct {
	cells      []sighting
	geometries []Geometry
	newer      bool // some cell is of a newer version
	most       int  // the geometry of most cells, the first seen if several; -1: none verified
}

// survey asks every cell. A stray cell of another object must not decide what this file is, so the majority does.
func survey(file []byte) surveyed {
	s := surveyed{cells: make([]sighting, len(file)/Size), most: -1}
	var index map[Geometry]int
	var votes []int
	for i := range s.cells {
		g, ordinal, err := ParseTrailer(file[i*Size : (i+1)*Size])
		if err != nil {
			s.cells[i].geometry = -1
			s.newer = s.newer || errors.Is(err, ErrVersion)
			continue
		}
		k, known := 0, len(votes) > 0 && s.geometries[0] == g
		if !known {
			if index == nil {
				index = map[Geometry]int{}
			}
			if k, known = index[g]; !known {
				k = len(votes)
				index[g] = k
				votes, s.geometries = append(votes, 0), append(s.geometries, g)
			}
		}
		votes[k]++
		s.cells[i] = sighting{geometry: k, ordinal: ordinal}
	}
	for k, v := range votes {
		if s.most < 0 || v > votes[s.most] {
			s.most = k
		}
	}
	return s
}

func zero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// Consistent reports whether the parity of a file, all cells of which are good, is that of its data. The tags need no key, so that
// cells can be good one by one and belong to nothing that was ever written: what such parity mends is garbage.
func Consistent(file []byte) bool {
	m := locate(file)
	if m.err() != nil || len(m.damaged) > 0 {
		return false
	}
	parity := make([]byte, m.g.M*Payload)
	shards := make([][]byte, m.g.Cells())
	for i := range shards {
		if shards[i] = parity[max(0, i-m.g.N)*Payload : (max(0, i-m.g.N)+1)*Payload]; i < m.g.N {
			shards[i] = payload(file, i)
		}
	}
	if encode(m.g, shards) != nil {
		return false
	}
	for i := m.g.N; i < m.g.Cells(); i++ {
		if !bytes.Equal(shards[i], payload(file, i)) {
			return false
		}
	}
	return true
}
