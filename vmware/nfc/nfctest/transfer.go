package nfctest

import (
	"fmt"
	"io"
)

const (
	toDisk   = 0
	fromDisk = 1
)

// transfer is a request of type 7.
func (n *session) transfer(f *frame) error {
	t := f.transfer()
	switch uint32(t.direction) {
	case fromDisk:
		return n.read(f.op, t)
	case toDisk:
		if t.direction != toDisk {
			return fmt.Errorf("nfctest: a write with compression %d", t.direction>>32)
		}
		return n.take(f.op, t)
	}
	return n.refuse(f.op, CodeParameter)
}

// fits says whether a range lies on the disk, on whole sectors.
func fits(size int64, off uint64, total uint32) bool {
	return total > 0 && total <= maxTransfer && total%sectorBytes == 0 && off%sectorBytes == 0 &&
		off <= uint64(size) && uint64(total) <= uint64(size)-off
}

// read starts a read of a disk, as soon as one of the session's buffers is free.
func (n *session) read(op uint32, t transfer) error {
	fault, faulty := n.s.frameFault(typeIO)
	file, ok := n.files[t.handle]
	switch {
	case faulty && fault.Kind == Refuse:
		return n.refuse(op, fault.Code)
	case !ok || t.dest != 0 || !fits(file.disk.Size(), t.off, t.total):
		return n.refuse(op, CodeParameter)
	}
	n.s.count(func(st *Stats) { st.Reads++; st.ReadBytes += int64(t.total) })
	n.slots <- struct{}{}
	n.reads.Go(func() {
		defer func() { <-n.slots }()
		if !faulty {
			fault.Kind = noFault
		}
		if err := n.fragments(op, t, file.disk, fault); err != nil {
			n.conn.Close() // the reader then ends the session
		}
	})
	return nil
}

// fragments answers a read. A disk that cannot be read is told to the client; what is returned ends the session.
func (n *session) fragments(op uint32, t transfer, disk Disk, fault Fault) error {
	if fault.Kind == Stall {
		n.wait(fault.Delay)
	}
	buf := n.pool.Get().(*[]byte)
	defer n.pool.Put(buf)
	for _, dest := range order(t.total, uint32(n.buffer), fault.Kind) {
		part := transfer{
			direction: fromDisk, off: t.off, total: t.total, dest: dest, n: min(t.total-dest, uint32(n.buffer)),
		}
		part.wireLen = part.n
		p := (*buf)[:headBytes+ioBytes+int(part.n)]
		if got, err := disk.ReadAt(n.s.ctx, p[headBytes+ioBytes:], int64(t.off)+int64(dest)); got < int(part.n) {
			if err == nil {
				return io.ErrNoProgress
			}
			return n.refuse(op, CodeIO)
		}
		switch fault.Kind {
		case WrongLength:
			part.n += sectorBytes
		case Oversized:
			part.total += sectorBytes
		case Stray:
			part.dest += t.total
		}
		putHead(p, typeIO, ioBytes, op)
		part.put(p[headBytes:])
		if err := n.write(p); err != nil {
			return err
		}
		n.s.count(func(st *Stats) { st.Fragments++ })
	}
	return nil
}

// order is where the fragments of a read lie, in the order in which they are sent.
func order(total, size uint32, fault FaultKind) []uint32 {
	var at []uint32
	for dest := uint32(0); dest < total; dest += size {
		at = append(at, dest)
	}
	switch fault {
	case Reversed:
		for i, j := 0, len(at)-1; i < j; i, j = i+1, j-1 {
			at[i], at[j] = at[j], at[i]
		}
	case Duplicate:
		at = append(at[:1:1], at...)
	case Short:
		at = at[:len(at)-1]
	}
	return at
}

// pending is a write of which fragments are still to come.
type pending struct {
	first transfer
	got   uint32
	code  uint32 // what went wrong, told after the last fragment
}

// take takes one fragment of a write, and answers the last.
func (n *session) take(op uint32, t transfer) error {
	w, begun := n.writes[op]
	if !begun {
		w = &pending{first: t}
		if len(n.writes) >= n.count {
			return fmt.Errorf("nfctest: more than %d writes under way", n.count)
		}
		n.writes[op] = w
	}
	same := t.handle == w.first.handle && t.off == w.first.off && t.total == w.first.total
	if !same || t.dest != w.got || t.n == 0 || int(t.n) > n.most || t.n != t.wireLen || t.n > t.total-t.dest {
		return fmt.Errorf("nfctest: a fragment of %d bytes at %d of a write of %d", t.n, t.dest, t.total)
	}
	if n.taken == nil {
		n.taken = make([]byte, n.most)
	}
	p := n.taken[:t.n]
	if _, err := io.ReadFull(n.in, p); err != nil {
		return err
	}
	n.store(w, t, p)
	if w.got += t.n; w.got < t.total {
		return nil
	}
	delete(n.writes, op)
	if fault, ok := n.s.frameFault(typeIO); ok && fault.Kind == Refuse {
		w.code = fault.Code
	} else if ok && fault.Kind == Stall {
		n.wait(fault.Delay)
	}
	if w.code != 0 {
		return n.refuse(op, w.code)
	}
	n.s.count(func(st *Stats) { st.Writes++; st.WrittenBytes += int64(t.total) })
	var out [headBytes + ioBytes]byte
	putHead(out[:], typeIO, ioBytes, op)
	transfer{direction: toDisk, off: t.off, total: t.total, n: t.total, wireLen: t.total}.put(out[headBytes:])
	return n.write(out[:])
}

// store writes one fragment to the disk.
func (n *session) store(w *pending, t transfer, p []byte) {
	file, ok := n.files[t.handle]
	switch {
	case !ok || !fits(file.disk.Size(), t.off, t.total):
		w.code = CodeParameter
	case !file.write:
		w.code = CodeReadOnly
	default:
		if _, err := file.disk.WriteAt(n.s.ctx, p, int64(t.off)+int64(t.dest)); err != nil {
			w.code = CodeIO
		}
	}
}
