package xfs

import "fmt"

// An intent says in one transaction what a later one does. One without its done is finished by the next mount:
//
//	| type, regions, extents | id | extents ... |
type intentKey struct {
	kind uint16 // of the intent
	id   uint64
}

// intent is one that is not done. Freed extents stay in use until then; a change of a file's map leaves the file in
// between.
type intent struct {
	freed []extentBlocks
	files []uint64
	cost  int64
}

// extentBlocks is a range in blocks, its group in the upper bits.
type extentBlocks struct{ block, n uint64 }

const intentHead = 16

func (p *replayer) intend(kind uint16, i *item) error {
	h := i.regions[0]
	if len(h) < intentHead {
		return logError("an intent of %d bytes", len(h))
	}
	n, id := int(le.Uint32(h[4:])), le.Uint64(h[8:])
	in := &intent{}
	switch kind {
	case itemFreeIntent:
		if err := in.readFreed(h[intentHead:], n); err != nil {
			return err
		}
	case itemSwapIntent:
		if len(h) < intentHead+16 {
			return logError("an intent of %d bytes", len(h))
		}
		in.files = []uint64{le.Uint64(h[intentHead:]), le.Uint64(h[intentHead+8:])}
	case itemMapIntent:
		const size = 32
		if n < 0 || len(h) < intentHead+n*size {
			return logError("an intent of %d changes in %d bytes", n, len(h))
		}
		for k := range n {
			in.files = append(in.files, le.Uint64(h[intentHead+k*size:]))
		}
	}
	in.cost = int64(len(h)) + 64
	p.intents[intentKey{kind, id}] = in
	return p.budget.take(in.cost)
}

// readFreed reads extents of 16 bytes, or of 12 where the machine had 32 bits.
func (in *intent) readFreed(b []byte, n int) error {
	size := 16
	if n > 0 && len(b) == n*12 {
		size = 12
	}
	if n < 0 || len(b) < n*size {
		return logError("an intent to free %d extents in %d bytes", n, len(b))
	}
	for k := range n {
		in.freed = append(in.freed, extentBlocks{le.Uint64(b[k*size:]), uint64(le.Uint32(b[k*size+8:]))})
	}
	return nil
}

// done forgets the intent that a done names. Each done's kind follows its intent's.
func (p *replayer) done(kind uint16, i *item) error {
	h := i.regions[0]
	if len(h) < intentHead {
		return logError("a done of %d bytes", len(h))
	}
	key := intentKey{kind - 1, le.Uint64(h[8:])}
	if in := p.intents[key]; in != nil {
		p.budget.give(in.cost)
		delete(p.intents, key)
	}
	return nil
}

// finish turns what the replay noted into what [FS.Free] and the files need: the parts of each group that are busy, and
// the files that are between two states.
func (p *replayer) finish() error {
	for key, in := range p.intents {
		switch key.kind {
		case itemRefIntent, itemMapIntent, itemSwapIntent:
			p.f.sharing = true
		}
		for _, e := range in.freed {
			ag, first, ok := p.f.sb.split(e.block, e.n)
			if !ok {
				return logError("an intent to free %d blocks from %d", e.n, e.block)
			}
			p.f.busy[ag] = append(p.f.busy[ag], span{first, uint32(e.n)})
		}
		for _, ino := range in.files {
			p.f.between[ino] = struct{}{}
		}
	}
	sb := p.f.sb
	for e := range p.touched {
		from, to := e.at*logBlock>>sb.blockLog, ((e.at+e.len)*logBlock-1)>>sb.blockLog
		if uint64(to) >= sb.blocks {
			return logError("%d sectors from %d are outside of the file system", e.len, e.at)
		}
		// A buffer lies in one group.
		ag, first := uint32(uint64(from)/uint64(sb.agBlocks)), uint32(uint64(from)%uint64(sb.agBlocks))
		if uint64(first)+uint64(to-from) >= uint64(sb.agLen(ag)) {
			return logError("%d sectors from %d are in two groups", e.len, e.at)
		}
		p.f.busy[ag] = append(p.f.busy[ag], span{first, uint32(to - from + 1)})
	}
	for ag := range p.f.busy {
		p.f.busy[ag] = tidySpans(p.f.busy[ag])
	}
	return nil
}

// errBetween is about a file that the log leaves between two states.
func errBetween(ino uint64) error {
	return fmt.Errorf("inode %d: a change of where it lies was under way, which the next mount will finish", ino)
}
