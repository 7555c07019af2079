package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"

	"github.com/hikae/hikae/pipe"
)

// An unfinished point is what a session that has not committed made durable so far, so that the next one need not read it
// again. It is named by a record of its own kind, and its manifest says of itself that it is none of a point: no listing, no
// policy and no restore ever takes it for one. A VM has one at most. It is gone with the VM's next commit, with the next
// unfinished one, when it is forgotten by its id, or once prunes have seen it [maxPrunes] times; while a session builds on
// it, its content stays as that of a forgotten point does.

// unfinished is an unfinished point as the log knows it.
type unfinished struct {
	committed
	prunes int // that have begun since
}

// maxPrunes is how many prunes an unfinished point outlives: a month of daily ones. A VM that is never backed up again would
// else keep for ever what nobody can restore. No clock decides it.
const maxPrunes = 32

// maxPending bounds the ranges that an unfinished point names: some 2 MiB of its manifest. More are made coarser, which calls
// more pending than is.
const maxPending = 1 << 16

// dropUnfinished takes unfinished points away. Whoever builds on one goes on.
func (l *ledger) dropUnfinished(goes func(unfinished) bool) {
	if !slices.ContainsFunc(l.unfinished, goes) {
		return
	}
	pins := l.pinned()
	l.leaving = l.stillLeaving()
	l.unfinished = slices.DeleteFunc(l.unfinished, func(u unfinished) bool {
		if !goes(u) {
			return false
		}
		if pins[u.point] {
			l.leaving = append(l.leaving, u.committed)
		}
		return true
	})
}

func (l *ledger) forgetUnfinished(points []id16) {
	if len(l.unfinished) == 0 {
		return
	}
	named := setOf(points)
	l.dropUnfinished(func(u unfinished) bool { return named[u.point] })
}

// ageUnfinished is called when a prune begins.
func (l *ledger) ageUnfinished() {
	for i := range l.unfinished {
		l.unfinished[i].prunes++
	}
	l.dropUnfinished(func(u unfinished) bool { return u.prunes >= maxPrunes })
}

// checkPending holds the claims of an unfinished manifest against its disks.
func (m *manifest) checkPending() error {
	n := 0
	for _, d := range m.Disks {
		end := int64(0)
		for _, p := range d.Pending {
			if p[0] < end || p[1] <= 0 || p[1] > d.Size-p[0] {
				return fmt.Errorf("disk %q: pending range %v", d.Key, p)
			}
			end = p[0] + p[1]
		}
		n += len(d.Pending)
	}
	if n > 0 && !m.Unfinished || n > maxPending {
		return fmt.Errorf("%d pending ranges", n)
	}
	return nil
}

var _ pipe.Resumer = (*Repository)(nil)

// Unfinished yields the unfinished points of a VM, or of all where vm is empty. One that cannot be read is passed over: it
// only saves time. A write-only client has none.
func (r *Repository) Unfinished(ctx context.Context, vm string) iter.Seq2[pipe.UnfinishedPoint, error] {
	return func(yield func(pipe.UnfinishedPoint, error) bool) {
		list, err := r.unfinished(ctx)
		if err != nil {
			yield(pipe.UnfinishedPoint{}, err)
			return
		}
		tag := r.keys.tag(vm)
		for _, c := range list {
			if vm != "" && c.vm != tag {
				continue
			}
			m, err := r.readManifest(ctx, c)
			if ctx.Err() == nil && (isCorrupt(err) || errors.Is(err, ErrForgotten)) {
				r.warn(fmt.Sprintf("unfinished point %s cannot be read: %v", c.point, err))
				continue
			}
			var p pipe.UnfinishedPoint
			if err == nil {
				p = r.unfinishedInfo(m, c)
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

func isCorrupt(err error) bool {
	_, ok := errors.AsType[*ErrCorrupt](err)
	return ok
}

// unfinished lists those that the log knows, brought up to date.
func (r *Repository) unfinished(ctx context.Context) (list []committed, err error) {
	if r.writer != nil {
		return nil, nil
	}
	if err := r.log.refresh(ctx); err != nil {
		return nil, err
	}
	r.log.view(func(l *ledger) {
		for _, u := range l.unfinished {
			list = append(list, u.committed)
		}
	})
	return list, nil
}

func (r *Repository) unfinishedInfo(m *manifest, c committed) pipe.UnfinishedPoint {
	u := pipe.UnfinishedPoint{PointInfo: r.info(m), Pending: map[string][]pipe.Extent{}}
	u.Log = c.n
	if m.Base != nil {
		u.Base = m.Base.String()
	}
	for _, d := range m.Disks {
		for _, p := range d.Pending {
			u.Pending[d.Key] = append(u.Pending[d.Key], pipe.Extent{Off: p[0], Len: p[1], Kind: pipe.Data})
		}
	}
	return u
}

// OpenUnfinished implements [pipe.Resumer]. The unfinished point is pinned until the image is closed.
func (r *Repository) OpenUnfinished(ctx context.Context, point, disk string) (pipe.Image, error) {
	m, err := r.findUnfinished(ctx, point)
	if err != nil {
		return nil, err
	}
	return r.openOf(ctx, m, disk)
}

// findUnfinished returns the manifest of an unfinished point by its full id.
func (r *Repository) findUnfinished(ctx context.Context, point string) (*manifest, error) {
	list, err := r.unfinished(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		if c.point.String() == point {
			return r.readManifest(ctx, c)
		}
	}
	return nil, fmt.Errorf("unfinished point %q: %w", point, fs.ErrNotExist)
}

// findBase returns the manifest of a point that can be built on: a committed or an unfinished one.
func (r *Repository) findBase(ctx context.Context, point string) (*manifest, error) {
	m, err := r.find(ctx, point)
	if !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	if m, unfinished := r.findUnfinished(ctx, point); !errors.Is(unfinished, fs.ErrNotExist) {
		return m, unfinished
	}
	return nil, err
}

// Checkpoint implements [pipe.Checkpointer]: what all disks hold by now, with the base's content, or zero, where nothing was
// said yet, becomes the VM's unfinished point. A write-only client cannot.
func (w *pointWriter) Checkpoint(ctx context.Context, opts pipe.CheckpointOptions) (string, error) {
	if w.r.writer != nil || w.r.keys.scope != (scope{}) {
		return "", fmt.Errorf("unfinished points of a write-only client: %w", errors.ErrUnsupported)
	}
	w.checkpoint.Lock()
	defer w.checkpoint.Unlock()
	m, err := w.draft(ctx, opts.Disks)
	if err != nil {
		return "", err
	}
	if m.Tracking, err = opts.Tracking(ctx); err != nil {
		return "", err
	}
	m.New = w.Usage().Stored
	if err := m.check(); err != nil {
		return "", err
	}
	if err := w.s.settle(ctx); err != nil {
		return "", err
	}
	if err := w.publishUnfinished(ctx, m); err != nil { // which gives it its id
		return "", err
	}
	return m.Point.String(), nil
}

// draft describes what there is so far.
func (w *pointWriter) draft(ctx context.Context, disks []pipe.CheckpointDisk) (*manifest, error) {
	m := w.describe()
	m.Unfinished, m.Blobs = true, []manifestBlob{}
	var pending [][]pipe.Extent
	for _, want := range disks {
		w.mu.Lock()
		closed, d := w.closed, w.disks[want.Key]
		w.mu.Unlock()
		if closed {
			return nil, fs.ErrClosed
		}
		if d == nil {
			d = w.newDisk(want.Key, want.Size)
		}
		if d.shape.size != want.Size {
			return nil, fmt.Errorf("disk %q is of %d bytes, not %d: %w", want.Key, d.shape.size, want.Size, fs.ErrInvalid)
		}
		out, left, err := d.draft(ctx, want.Pending)
		if err != nil {
			return nil, fmt.Errorf("disk %q: %w", want.Key, err)
		}
		m.Disks, pending = append(m.Disks, out), append(pending, left)
	}
	coarsen(pending, maxPending)
	for i, list := range pending {
		for _, e := range list {
			m.Disks[i].Pending = append(m.Disks[i].Pending, [2]int64{e.Off, e.Len})
		}
	}
	return m, nil
}

// draft stores the tree as it stands. left are those of the ranges to be read of which nothing was settled, by whole blocks.
func (d *diskTarget) draft(ctx context.Context, read []pipe.Extent) (out manifestDisk, left []pipe.Extent, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sealed != nil {
		return *d.sealed, nil, nil
	}
	root, err := d.tree.draft(ctx)
	if err != nil {
		return out, nil, err
	}
	out = manifestDisk{Key: d.key, Size: d.shape.size, Root: rootEntry(root), Bad: slices.Clone(d.bad)}
	if d.shape.blocks > 0 {
		last, err := treeReader{shape: d.shape, load: d.w.s.loadPage, root: root}.lookup(ctx, d.shape.blocks-1)
		if err != nil {
			return out, nil, err
		}
		out.Last = last.kind.String()
	}
	open := d.tree.unsettled(nil)
	for block := range d.partial {
		open = append(open, [2]int64{block, block + 1})
	}
	slices.SortFunc(open, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	return out, d.shape.meet(open, read), nil
}

// meet are the runs of blocks that are open and that ranges touch, in bytes. Both are ascending; the runs may overlap.
func (s shape) meet(open [][2]int64, ranges []pipe.Extent) (out []pipe.Extent) {
	add := func(lo, hi int64) {
		off, end := lo*s.blockSize, min(hi*s.blockSize, s.size)
		if n := len(out); n > 0 && off <= out[n-1].End() {
			out[n-1].Len = max(out[n-1].End(), end) - out[n-1].Off
			return
		}
		out = append(out, pipe.Extent{Off: off, Len: end - off, Kind: pipe.Data})
	}
	i := 0
	for _, run := range open {
		for i > 0 && ranges[i-1].End() > run[0]*s.blockSize { // runs that overlap meet the same ranges
			i--
		}
		for ; i < len(ranges) && ranges[i].Off < run[1]*s.blockSize; i++ {
			lo, hi := ranges[i].Off/s.blockSize, (ranges[i].End()+s.blockSize-1)/s.blockSize
			if lo, hi = max(lo, run[0]), min(hi, run[1]); lo < hi {
				add(lo, hi)
			}
		}
	}
	return out
}

// coarsen joins ranges that lie close until there are no more than most, over all disks.
func coarsen(disks [][]pipe.Extent, most int) {
	for gap := int64(1 << 20); ; gap *= 2 {
		n := 0
		for _, list := range disks {
			n += len(list)
		}
		if n <= max(most, len(disks)) {
			return
		}
		for i, list := range disks {
			kept := list[:0]
			for _, e := range list {
				if last := len(kept) - 1; last >= 0 && e.Off-kept[last].End() <= gap {
					kept[last].Len = e.End() - kept[last].Off
				} else {
					kept = append(kept, e)
				}
			}
			disks[i] = kept
		}
	}
}

// unsettled appends the runs of blocks below the tree's root of which nothing was said, ascending.
func (t *treeWriter) unsettled(runs [][2]int64) [][2]int64 {
	if t.root == nil {
		return runs
	}
	return t.unsettledBelow(t.root, runs)
}

func (t *treeWriter) unsettledBelow(n *node, runs [][2]int64) [][2]int64 {
	for i := range n.entries {
		if n.settled[i] {
			continue
		}
		first := n.first + int64(i)*t.span(n.level)
		if n.level > 0 && n.child[i] != nil {
			runs = t.unsettledBelow(n.child[i], runs)
			continue
		}
		end := first + t.covered(n.level, first)
		if last := len(runs) - 1; last >= 0 && runs[last][1] == first {
			runs[last][1] = end
		} else {
			runs = append(runs, [2]int64{first, end})
		}
	}
	return runs
}

// draft stores the tree as it stands and goes on unchanged: what nobody has settled is what the base has there, or zero.
func (t *treeWriter) draft(ctx context.Context) (entry, error) {
	if t.root == nil {
		return entry{kind: pipe.Zero}, nil
	}
	return t.draftNode(ctx, t.root)
}

func (t *treeWriter) draftNode(ctx context.Context, n *node) (entry, error) {
	c := *n
	c.entries = slices.Clone(n.entries)
	for i := range c.entries {
		var err error
		switch {
		case n.settled[i]:
		case n.level > 0 && n.child[i] != nil:
			c.entries[i], err = t.draftNode(ctx, n.child[i])
		case t.base != nil:
			c.entries[i], err = t.baseEntry(ctx, n, i)
		default:
			c.entries[i] = entry{kind: pipe.Zero}
		}
		if err != nil {
			return entry{}, err
		}
	}
	return t.save(ctx, &c)
}

// publishUnfinished makes the manifest durable and names it in the log.
func (w *pointWriter) publishUnfinished(ctx context.Context, m *manifest) error {
	digest, err := w.storeManifest(ctx, m)
	if err != nil {
		return err
	}
	key, err := w.r.signingKey(ctx)
	if err != nil {
		return err
	}
	vm := w.r.keys.tag(w.vm)
	_, err = w.r.log.append(ctx, key, func() (*record, error) {
		if err := w.r.log.live(w.s.lease.n); err != nil {
			return nil, err
		}
		return &record{Kind: recordUnfinished, Lease: w.s.lease.n, Point: &m.Point, VM: &vm, Object: &digest}, nil
	})
	return err
}
