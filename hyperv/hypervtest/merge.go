package hypervtest

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"

	"github.com/hikae/hikae/hyperv/vhdx"
)

// Values that OperationalStatus has in its second place.
const (
	statusCreating = 32768
	statusApplying = 32769
	statusDeleting = 32770
	statusMerging  = 32772
)

// status is what the VM is doing besides running; zero is nothing. The host's lock is held.
func (g *Guest) status() uint16 {
	if s, ok := g.object.Values["OperationalStatus"].([]uint16); ok && len(s) > 1 {
		return s[1]
	}
	return 0
}

func (g *Guest) setStatus(s uint16) {
	if s == 0 {
		g.object.Set("OperationalStatus", []uint16{2})
		return
	}
	g.object.Set("OperationalStatus", []uint16{11, s})
}

// merge is a child on its way into its parent.
type merge struct {
	drive         *drive
	parent, child *node
}

// collapse begins the merges that can be: of a file that no checkpoint names, with the only one that stands on it. What stands on nothing
// and is named by nothing goes. The host's lock is held.
func (h *Host) collapse(g *Guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var begun []merge
	for _, d := range g.drives {
		g.prune(d)
		if m, ok := g.next(d); ok {
			begun = append(begun, m)
		}
	}
	if len(begun) == 0 {
		if g.status() == statusMerging {
			g.setStatus(0)
		}
		return
	}
	if g.status() == 0 {
		g.setStatus(statusMerging)
	}
	var started []merge
	for _, m := range begun {
		h.event(Event{Actor: "host", Name: "merge begins", VM: g.id, Detail: m.child.name, Row: "R095"})
		if err := m.first(); err != nil {
			h.event(Event{Actor: "host", Name: "merge failed", VM: g.id, Detail: m.child.name + ": " + err.Error()})
			m.cancel()
			m.parent.stuck = true
			continue
		}
		started = append(started, m)
	}
	f := h.eventFault(g.id, "merge")
	j := &job{vm: g.id, end: func() error { h.mergeAll(g, started, f); return nil }}
	after := h.opts.MergeTime
	if f != nil {
		after += f.Delay
		j.hangs = f.Hang
	}
	h.await(j, after)
}

// prune removes files that nobody needs.
func (g *Guest) prune(d *drive) {
	for again := true; again; {
		again = false
		for _, n := range slices.Clone(d.nodes) {
			if n != d.tip && n.named == nil && len(d.children(n)) == 0 {
				if err := d.drop(n); err == nil {
					g.h.event(Event{Actor: "host", Name: "remove", VM: g.id, Detail: n.name})
					again = true
				}
			}
		}
	}
}

// next is a merge that can begin. Below a recovery checkpoint nothing moves: it is being read.
func (g *Guest) next(d *drive) (merge, bool) {
	if slices.ContainsFunc(d.nodes, func(n *node) bool { return n.merging }) {
		return merge{}, false // one at a time
	}
	for _, n := range d.nodes {
		c := d.children(n)
		if n != d.tip && n.named == nil && len(c) == 1 && !n.merging && !n.stuck && !g.read(d, c[0]) {
			return merge{d, n, c[0]}, true
		}
	}
	return merge{}, false
}

// read says whether a recovery checkpoint needs a file as it is.
func (g *Guest) read(d *drive, n *node) bool {
	for _, cp := range g.checkpoints {
		if cp.kind == typeUser {
			continue
		}
		for _, p := range cp.disks {
			for at := p.node; p.drive == d && at != nil; at = at.parent {
				if at == n {
					return true
				}
			}
		}
	}
	return false
}

// mergeAll ends merges, and begins those that can be then.
func (h *Host) mergeAll(g *Guest, list []merge, f *Fault) {
	open := h.openBySMB()
	g.mu.Lock()
	for _, m := range list {
		err := f.err()
		if err == nil && (open.has(m.child.name) || open.has(m.parent.name)) {
			err = ErrSharing
		}
		if err == nil && m.still() && !g.read(m.drive, m.child) {
			err = m.last()
		} else {
			m.cancel()
		}
		if err != nil {
			m.cancel()
			m.parent.stuck = true
			h.event(Event{Actor: "host", Name: "merge failed", VM: g.id, Detail: m.child.name + ": " + err.Error()})
			continue
		}
		if !m.parent.merging && m.child.gone {
			h.event(Event{Actor: "host", Name: "merge", VM: g.id, Detail: m.child.name, Row: "R095"})
		}
	}
	g.mu.Unlock()
	h.collapse(g)
}

// still: it is as it was when it began.
func (m merge) still() bool {
	c := m.drive.children(m.parent)
	return m.parent.named == nil && m.parent != m.drive.tip && len(c) == 1 && c[0] == m.child
}

func (m merge) cancel() { m.parent.merging, m.child.fresh = false, nil }

// first copies what the child holds now; the guest goes on writing into it after that. Its parent is changed from here on.
func (m merge) first() error {
	m.parent.merging = true
	if err := m.drive.shut(); err != nil {
		return err
	}
	m.child.fresh = map[int64]struct{}{}
	return errors.Join(m.copy(m.child.written), m.drive.rebase(m.child, m.parent))
}

// last copies what came since, puts the parent into the child's place and removes the child.
func (m merge) last() error {
	d := m.drive
	if err := d.shut(); err != nil {
		return err
	}
	if len(m.child.fresh) > 0 {
		if err := errors.Join(m.copy(m.child.fresh), d.rebase(m.child, m.parent)); err != nil {
			return err
		}
	}
	for _, c := range d.children(m.child) {
		if err := d.rebase(c, m.parent); err != nil {
			return err
		}
		c.parent = m.parent
	}
	m.parent.named, m.parent.mark, m.parent.merging = m.child.named, m.child.mark, false
	if cp := m.parent.named; cp != nil {
		cp.moved(m.child, m.parent)
	}
	switch {
	case m.parent.written == nil:
	case m.child.written == nil:
		m.parent.written = nil
	default:
		maps.Copy(m.parent.written, m.child.written)
	}
	if d.tip == m.child {
		d.tip = m.parent
		d.show()
		if err := d.remember(); err != nil {
			return err
		}
	}
	m.child.gone = true
	return d.drop(m.child)
}

// moved: a checkpoint's disk lies in another file now.
func (cp *checkpoint) moved(from, to *node) {
	for i := range cp.disks {
		if cp.disks[i].node != from {
			continue
		}
		cp.disks[i].node = to
		if cp.disks[i].file != nil {
			cp.disks[i].file.Set("HostResource", []string{to.name})
		}
	}
}

// copy writes pages of the child into the parent: all of them where it is not known which the child has. They are read before the first is
// written: a part of a page may come from the parent.
func (m merge) copy(pages map[int64]struct{}) error {
	var list []int64
	if pages == nil {
		for page := int64(0); page*pageBytes < m.drive.size; page++ {
			list = append(list, page)
		}
	} else {
		list = slices.Sorted(maps.Keys(pages))
	}
	pieces, err := m.gather(list)
	if err != nil {
		return err
	}
	to, err := m.drive.openNode(m.parent)
	if err != nil {
		return err
	}
	for _, p := range pieces {
		if _, err := to.WriteAt(context.Background(), p.b, p.off); err != nil {
			return errors.Join(err, to.Close())
		}
	}
	return to.Commit(context.Background())
}

// piece is pages that lie together.
type piece struct {
	off int64
	b   []byte
}

// gather reads pages of the child.
func (m merge) gather(list []int64) (pieces []piece, err error) {
	from, done, err := m.source()
	if err != nil {
		return nil, err
	}
	for len(list) > 0 && err == nil {
		n := 1
		for n < min(len(list), 256) && list[n] == list[n-1]+1 {
			n++
		}
		p := piece{list[0] * pageBytes, make([]byte, min(int64(n)*pageBytes, m.drive.size-list[0]*pageBytes))}
		list = list[n:]
		var k int
		if k, err = from.ReadAt(context.Background(), p.b, p.off); k == len(p.b) {
			err = nil
		} else if err == nil {
			err = io.ErrUnexpectedEOF
		}
		pieces = append(pieces, p)
	}
	return pieces, errors.Join(err, done())
}

// reader is what a file is read by.
type reader interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
}

// source reads the child by its file. The guest does not have it open now.
func (m merge) source() (reader, func() error, error) {
	d := m.drive
	path, err := d.g.h.volumePath(m.child.name)
	if err != nil {
		return nil, nil, err
	}
	if d.vhd {
		f, err := openVHD(path)
		if err != nil {
			return nil, nil, err
		}
		return f, f.Close, nil
	}
	img, err := vhdx.Open(context.Background(), path, d.g.h.openOptions(path))
	if err != nil {
		return nil, nil, err
	}
	return img, img.Close, nil
}

// openNode opens a file below the tip for writing.
func (d *drive) openNode(n *node) (file, error) {
	path, err := d.g.h.volumePath(n.name)
	if err != nil {
		return nil, err
	}
	if d.vhd {
		return openVHD(path)
	}
	return vhdx.OpenDisk(context.Background(), path, d.g.h.openOptions(path))
}
