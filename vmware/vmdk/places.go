package vmdk

import (
	"errors"
	"math"
)

// places are the sectors that the grains of a new disk have in its file, 0 for none. Tables take memory when something
// is put into them.
type places struct {
	tables map[int64]*[perTable]uint32
}

func newPlaces() places { return places{tables: make(map[int64]*[perTable]uint32)} }

func (p *places) get(grain int64) uint32 {
	if t := p.tables[grain/perTable]; t != nil {
		return t[grain%perTable]
	}
	return 0
}

func (p *places) set(grain int64, sector uint32) {
	t := p.tables[grain/perTable]
	if t == nil {
		t = new([perTable]uint32)
		p.tables[grain/perTable] = t
	}
	t[grain%perTable] = sector
}

var errTooLong = errors.New("the file of a sparse disk ends at 2 TiB")

// take takes n sectors at the end of a file that ends at next.
func take(next *int64, n int64) (uint32, error) {
	at := *next
	if at+n > math.MaxUint32 {
		return 0, errTooLong
	}
	*next += n
	return uint32(at), nil
}
