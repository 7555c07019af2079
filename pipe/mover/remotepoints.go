package mover

import (
	"context"
	"iter"
	"maps"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// maxPoints bounds a listing: a peer whose list never ends would keep us busy for ever.
const maxPoints = 1 << 20

// Points is as pipe.Backend has it. A point that cannot be read there is an [*Error] with [wire.CodeCorrupt], and the
// sequence goes on after it.
func (c *Client) Points(ctx context.Context, vm string) iter.Seq2[pipe.PointInfo, error] {
	return func(yield func(pipe.PointInfo, error) bool) {
		page := func(m *wire.Points) (*wire.PointList, error) { return ask[*wire.PointList](ctx, c, m) }
		for p, err := range listedBy(vm, page) {
			if err == nil {
				delete(p.Facts, SessionFact)
			}
			if !yield(p, err) {
				return
			}
		}
	}
}

// listedBy pages through a VM's points as they are stored, with our own fact.
func listedBy(vm string, page func(*wire.Points) (*wire.PointList, error)) iter.Seq2[pipe.PointInfo, error] {
	return func(yield func(pipe.PointInfo, error) bool) {
		if len(vm) > wire.MaxName {
			return // nobody has such a name
		}
		after := ""
		for count := 0; ; {
			page, err := page(&wire.Points{VM: vm, After: after})
			if err == nil {
				count += len(page.Points)
				err = checkPage(page, after, count)
			}
			if err != nil {
				yield(pipe.PointInfo{}, err)
				return
			}
			for i := range page.Points {
				if p, err := pointInfo(&page.Points[i]); !yield(p, err) {
					return
				}
			}
			if !page.More {
				return
			}
			after = page.Points[len(page.Points)-1].ID
		}
	}
}

// checkPage refuses a listing that does not get on.
func checkPage(page *wire.PointList, after string, count int) error {
	n := len(page.Points)
	switch {
	case count > maxPoints:
		return malformed("more than %d points", maxPoints)
	case page.More && n == 0:
		return malformed("a list of points goes on without any")
	case page.More && (page.Points[n-1].ID == "" || page.Points[n-1].ID == after):
		return malformed("a list of points goes on behind no point")
	}
	return nil
}

// pointInfo is a point of the wire as the pipe has it.
func pointInfo(p *wire.Point) (pipe.PointInfo, error) {
	if p.Damage != "" {
		return pipe.PointInfo{}, &Error{Code: wire.CodeCorrupt, Object: printable(p.ID), Text: printable(p.Damage)}
	}
	out := pipe.PointInfo{
		ID: p.ID, VM: p.VM, Time: time.Unix(0, p.Time).UTC(), Consistency: p.Consistency, New: p.New,
		Tracking: p.Tracking, Facts: maps.Clone(p.Facts),
	}
	for _, d := range p.Disks {
		disk := pipe.DiskInfo{Key: d.Key, Size: d.Size, Data: d.Data}
		for name, n := range d.Absent {
			if n > uint64(d.Size) {
				return pipe.PointInfo{}, malformed("disk %q of point %q lacks %d of %d bytes", d.Key, p.ID, n, d.Size)
			}
			if disk.Absent == nil {
				disk.Absent = map[string]int64{}
			}
			disk.Absent[name] = int64(n)
		}
		out.Disks = append(out.Disks, disk)
	}
	for _, b := range p.Blobs {
		out.Blobs = append(out.Blobs, pipe.BlobInfo{Name: b.Name, Size: b.Size})
	}
	return out, nil
}
