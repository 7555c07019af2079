package xfs

import (
	"context"
)

// A record's data is a row of operations: a head of twelve bytes and a region of data. The regions of a transaction may
// be spread over many records, between those of others, and be cut where a record ends:
//
//	| transaction, length, client, flags | region ... |
const (
	opHead = 12

	opStart        = 1 << 0
	opCommit       = 1 << 1
	opContinue     = 1 << 2 // the region goes on in the next record
	opWasContinued = 1 << 3 // it began in the one before
	opEnd          = 1 << 4
	opUnmount      = 1 << 5

	clientTransaction = 0x69
	clientLog         = 0xaa

	transactionMagic = 0x5452414e
	transactionHead  = 16
)

// transaction is one that was begun and not committed so far.
type transaction struct {
	lsn   uint64 // of the record in which it began: what metadata is stamped with that has it in its place
	head  int    // bytes of its own head that were seen
	items []*item
	cost  int64
}

// item is one change: regions, of which the first says what it is.
type item struct {
	total   int
	regions [][]byte
}

// kind is the item's type.
func (i *item) kind() uint16 {
	if len(i.regions) == 0 || len(i.regions[0]) < 4 {
		return 0
	}
	return le.Uint16(i.regions[0])
}

// scan reads the records from tail to head and calls commit for each transaction that was committed, in that order.
// What was not is dropped. Brief keeps of each item only the first region, and the others empty.
func (r *ring) scan(ctx context.Context, e ends, b *budget, brief bool, commit func(t *transaction) error) error {
	s := &scanner{ring: r, open: map[uint32]*transaction{}, budget: b, brief: brief, commit: commit}
	defer s.close()
	buf := make([]byte, bufLen)
	for at := e.tail; at != e.head; {
		h, data, err := r.load(ctx, at, buf)
		if err != nil {
			return err
		}
		if r.distance(at, e.head) < h.head+h.roundup {
			return r.corrupt(at, "a record goes over the log's head")
		}
		if h.format != logFormatLittle {
			return r.corrupt(at, "it was written in format %d, which is not read here", h.format)
		}
		if h.uuid != r.uuid {
			return r.corrupt(at, "a record of another file system")
		}
		if err := s.record(h, data); err != nil {
			return err
		}
		at = h.next(r)
	}
	return nil
}

type scanner struct {
	ring   *ring
	open   map[uint32]*transaction
	budget *budget
	brief  bool
	commit func(t *transaction) error
}

func (s *scanner) close() {
	for _, t := range s.open {
		s.budget.give(t.cost)
	}
}

// record goes through the operations of one record.
func (s *scanner) record(h *record, data []byte) error {
	for i := range h.ops {
		if len(data) < opHead {
			return s.ring.corrupt(h.block, "operation %d of %d is cut off", i, h.ops)
		}
		id, n, client, flags := be.Uint32(data), int(be.Uint32(data[4:])), data[8], data[9]
		data = data[opHead:]
		if n > len(data) {
			return s.ring.corrupt(h.block, "operation %d of %d has %d bytes", i, h.ops, n)
		}
		if client != clientTransaction && client != clientLog {
			return s.ring.corrupt(h.block, "an operation of client %#x", client)
		}
		if err := s.operation(h, id, flags, data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// transactionCost is about what an open transaction takes besides its data, and regionCost what a region does.
const (
	transactionCost = 256
	regionCost      = 96
)

func (s *scanner) operation(h *record, id uint32, flags byte, data []byte) error {
	t := s.open[id]
	if t == nil {
		// Anything but a start belongs to a transaction that began before the tail: it is in its place already.
		if flags&opStart == 0 {
			return nil
		}
		s.open[id] = &transaction{lsn: h.lsn, cost: transactionCost}
		return s.budget.take(transactionCost)
	}
	flags &^= opEnd
	if flags&opWasContinued != 0 {
		flags &^= opContinue
	}
	switch flags {
	case 0, opContinue:
		return s.add(h, t, data)
	case opWasContinued:
		return s.extend(h, t, data)
	case opCommit:
		delete(s.open, id)
		defer s.budget.give(t.cost)
		return s.commit(t)
	case opUnmount:
		delete(s.open, id)
		s.budget.give(t.cost)
		return nil
	}
	return s.ring.corrupt(h.block, "an operation with flags %#x", flags)
}

// add begins a new region.
func (s *scanner) add(h *record, t *transaction, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if len(t.items) == 0 && t.head < transactionHead {
		if len(data) < 4 || t.head > 0 || len(data) > transactionHead || le.Uint32(data) != transactionMagic {
			return s.ring.corrupt(h.block, "a transaction without its head")
		}
		t.head = len(data)
		return nil
	}
	last := len(t.items) - 1
	if last < 0 || len(t.items[last].regions) == t.items[last].total {
		if len(data) < 4 {
			return s.ring.corrupt(h.block, "a change of %d bytes", len(data))
		}
		total := int(le.Uint16(data[2:]))
		if total == 0 {
			return s.ring.corrupt(h.block, "a change without regions")
		}
		t.items = append(t.items, &item{total: total})
		last++
	}
	i := t.items[last]
	if s.brief && len(i.regions) > 0 {
		data = nil
	}
	cost := int64(len(data)) + regionCost
	t.cost += cost
	i.regions = append(i.regions, append([]byte(nil), data...))
	return s.budget.take(cost)
}

// extend goes on with the region that the record before cut off.
func (s *scanner) extend(h *record, t *transaction, data []byte) error {
	if len(t.items) == 0 {
		if t.head += len(data); t.head > transactionHead {
			return s.ring.corrupt(h.block, "a transaction's head of %d bytes", t.head)
		}
		return nil
	}
	i := t.items[len(t.items)-1]
	last := len(i.regions) - 1
	if s.brief && last > 0 {
		return nil
	}
	i.regions[last] = append(i.regions[last], data...)
	// Growing may take up to twice what is there.
	cost := 2 * int64(len(data))
	t.cost += cost
	return s.budget.take(cost)
}
