package repo

import (
	"context"
	"errors"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
)

// Stats are figures of the whole repository; bytes where not said otherwise.
type Stats struct {
	Points   int   `json:"points"`            // count
	Damaged  int   `json:"damaged,omitempty"` // count of those that cannot be read: their disks count nothing
	Blocks   int64 `json:"blocks"`            // count of distinct blocks
	Original int64 `json:"original"`          // data of all points' disks, counted as often as a point holds it
	Unique   int64 `json:"unique"`            // plain bytes of distinct blocks
	Stored   int64 `json:"stored"`            // in the store, all objects, without parity and cell trailers
	Parity   int64 `json:"parity"`            // parity cells and trailers
}

// Stats reads the log, the manifests and the index, no pack.
func (r *Repository) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	if r.writer != nil {
		return s, errWriteOnly
	}
	list, err := r.committed(ctx)
	if err != nil {
		return s, err
	}
	if err := r.log.damage(); err != nil {
		return s, err
	}
	s.Points = len(list)
	for _, c := range list {
		m, err := r.readManifest(ctx, c)
		if _, damaged := errors.AsType[*ErrCorrupt](err); damaged {
			s.Damaged++
			continue
		}
		if err != nil {
			return s, err
		}
		for i := range m.Disks {
			s.Original += r.bytesOf(&m.Disks[i])[pipe.Data]
		}
	}
	var scopes []scope
	r.log.view(func(l *ledger) { scopes = l.scopes() })
	for _, of := range scopes {
		x, err := r.index(ctx, of)
		if err == nil {
			err = x.each(func(_ pipe.ID, loc location) {
				if loc.typ == object.TypeBlock {
					s.Blocks++
					s.Unique += int64(loc.plain)
				}
			})
		}
		if err != nil {
			return s, err
		}
	}
	for info, err := range r.st.List(ctx, "") {
		if err != nil {
			return s, err
		}
		stream := cell.StreamIn(info.Size, r.header.ParityPermille)
		s.Stored += stream
		s.Parity += info.Size - stream
	}
	return s, nil
}
