package ext

import "context"

// record is a block of the log that says what others are.
type record struct {
	at, seq uint32
	revokes bool
}

// scanner finds out where the log ends, as the kernel does: at the first block that is not what must follow. Of what it
// passes it keeps where descriptors and revocations are.
type scanner struct {
	j       *journal
	records []record
	at      uint32 // the next block
	seq     uint32 // the transaction that it belongs to
	left    uint32 // blocks until the log has come round
	block   []byte

	sum      uint32 // of the transaction so far, in the first kind of checksums
	suspect  bool   // a descriptor or revocation of this transaction has a wrong checksum
	lastTime uint64 // of the last commit, in seconds
}

// scan returns the records of the log and the number of the first transaction that is not complete.
func (j *journal) scan(ctx context.Context) ([]record, uint32, error) {
	s := &scanner{j: j, at: j.start, seq: j.seq, left: j.last - j.first, block: make([]byte, j.d.blockSize()), sum: ^uint32(0)}
	for {
		if s.left == 0 {
			return nil, 0, logError(int64(s.at), "transaction %d goes round all of it", s.seq)
		}
		at := s.at
		if err := j.read(ctx, s.block, at); err != nil {
			return nil, 0, err
		}
		s.left, s.at = s.left-1, j.after(at, 1)
		more, err := s.step(ctx, at)
		if err != nil || !more {
			return s.records, s.seq, err
		}
	}
}

// step looks at one block that says what others are, and answers whether the log goes on behind it.
func (s *scanner) step(ctx context.Context, at uint32) (bool, error) {
	if be.Uint32(s.block) != logMagic || be.Uint32(s.block[8:]) != s.seq {
		return false, nil
	}
	switch be.Uint32(s.block[4:]) {
	case logDescriptor:
		return s.descriptor(ctx, at)
	case logRevoke:
		s.suspect = s.suspect || !s.j.tailSum(s.block)
		return s.keep(record{at, s.seq, true})
	case logCommit:
		return s.commit(at)
	}
	return false, nil
}

func (s *scanner) keep(r record) (bool, error) {
	if s.records = append(s.records, r); len(s.records) > maxLogRecords {
		return false, logError(int64(r.at), "it has more than %d records", maxLogRecords)
	}
	return true, nil
}

// descriptor passes a descriptor and the blocks that it describes. One with a wrong checksum may be left from before: the
// commit's time will tell.
func (s *scanner) descriptor(ctx context.Context, at uint32) (bool, error) {
	s.suspect = s.suspect || !s.j.tailSum(s.block)
	n := uint32(0)
	for range s.j.tags(s.block) {
		n++
	}
	if n > s.left {
		return false, logError(int64(at), "it describes %d blocks, and %d are left", n, s.left)
	}
	if s.j.compat&logCompatSum != 0 && !s.suspect {
		s.sum = crc32be(s.sum, s.block)
		if err := s.j.each(ctx, s.at, n, func(_ uint32, p []byte) error {
			s.sum = crc32be(s.sum, p)
			return nil
		}); err != nil {
			return false, err
		}
	}
	s.left, s.at = s.left-n, s.j.after(s.at, n)
	return s.keep(record{at, s.seq, false})
}

// commit ends a transaction. A wrong checksum is one of three things: a block that is left from before (its time is not
// later than that of the transaction before it, and the log has ended), the last transaction of a driver that does not
// wait for the blocks before it writes the commit (the log has ended too), or damage.
func (s *scanner) commit(at uint32) (bool, error) {
	seconds := be.Uint64(s.block[0x30:])
	right := s.j.commitSum(s.block)
	if s.j.compat&logCompatSum != 0 {
		stored := be.Uint32(s.block[0x10:])
		kind, size := s.block[0xc], s.block[0xd]
		right = kind == 1 && size == 4 && stored == s.sum || kind == 0 && size == 0 && stored == 0
		s.sum = ^uint32(0)
	}
	switch {
	case s.suspect && seconds >= s.lastTime:
		return false, logError(int64(at), "transaction %d has a descriptor with a wrong checksum", s.seq)
	case s.suspect, !right && seconds < s.lastTime:
		return false, nil
	case !right && s.j.incompat&logAsync != 0:
		return false, nil
	case !right:
		return false, logError(int64(at), "the commit of transaction %d has a wrong checksum", s.seq)
	}
	s.lastTime, s.seq = seconds, s.seq+1
	return true, nil
}

// tailSum checks a descriptor's or a revocation's checksum, in its last four bytes.
func (j *journal) tailSum(p []byte) bool {
	if !j.blockSums() {
		return true
	}
	end := len(p) - 4
	return be.Uint32(p[end:]) == crc32c(crc32c(j.seed, p[:end]), []byte{0, 0, 0, 0})
}

// commitSum checks a commit's checksum. Some drivers compute it as if there were zeros behind the commit's own fields.
func (j *journal) commitSum(p []byte) bool {
	if !j.blockSums() {
		return true
	}
	const fields = 0x3c
	head := crc32c(crc32c(crc32c(j.seed, p[:0x10]), []byte{0, 0, 0, 0}), p[0x14:fields])
	stored := be.Uint32(p[0x10:])
	return stored == crc32c(head, p[fields:]) || stored == crc32c(head, make([]byte, len(p)-fields))
}

// each reads n blocks of the log from at on and hands on one after the other.
func (j *journal) each(ctx context.Context, at, n uint32, do func(at uint32, p []byte) error) error {
	bs := j.d.blockSize()
	buf := make([]byte, min(int(n), max(1, logReadBytes/bs))*bs)
	for n > 0 {
		count := min(n, uint32(len(buf)/bs), j.last-at)
		p := buf[:int(count)*bs]
		if err := j.read(ctx, p, at); err != nil {
			return err
		}
		for k := range count {
			if err := do(at+k, p[int(k)*bs:][:bs]); err != nil {
				return err
			}
		}
		at, n = j.after(at, count), n-count
	}
	return nil
}
