package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
)

// Where a session in a guest puts what a restore needs (guest.Session.Keep), and bounds of it.
const (
	aboutGuestBlob = "guest/guest.json"
	recordsFolder  = "guest/records/"
	maxAboutGuest  = 16 << 20
	maxGuestRecord = 1 << 20
	maxRecords     = 1024
)

// inGuestRecords is a point with what databases left in it.
type inGuestRecords struct {
	info    pipe.PointInfo
	records []wire.Record
}

// application is KIND/NAME of a database.
type application struct{ Kind, Name string }

func (a application) String() string { return a.Kind + "/" + a.Name }

// of are the records of one database.
func (p *inGuestRecords) of(kind, name string) (own []wire.Record) {
	for _, r := range p.records {
		if r.Kind == kind && r.Name == name {
			own = append(own, r)
		}
	}
	return own
}

// apps are the databases with records, in their order.
func (p *inGuestRecords) apps() (apps []application) {
	for _, r := range p.records {
		if a := (application{r.Kind, r.Name}); !slices.Contains(apps, a) {
			apps = append(apps, a)
		}
	}
	slices.SortFunc(apps, func(a, b application) int { return cmp.Compare(a.String(), b.String()) })
	return apps
}

// inGuestPoint reports whether a backup was made with a component in the guest.
func inGuestPoint(p pipe.PointInfo) bool {
	return slices.ContainsFunc(p.Blobs, func(b pipe.BlobInfo) bool { return b.Name == aboutGuestBlob })
}

// newestInGuest is the newest backup of a VM that was made with a component in the guest; nil: there is none. A point
// that cannot be read is passed over: verify tells of it.
func newestInGuest(ctx context.Context, r *opened, vm string) (*inGuestRecords, error) {
	var newest *pipe.PointInfo
	for p, err := range r.Points(ctx, vm) {
		if _, damaged := errors.AsType[*repo.PointError](err); damaged {
			continue
		}
		if err != nil {
			return nil, err
		}
		if inGuestPoint(p) {
			newest = &p
		}
	}
	if newest == nil {
		return nil, nil
	}
	return readRecords(ctx, r, *newest)
}

// readRecords reads a point's records.
func readRecords(ctx context.Context, r *opened, p pipe.PointInfo) (*inGuestRecords, error) {
	out := &inGuestRecords{info: p}
	text, err := readBlob(ctx, r, p.ID, aboutGuestBlob, maxAboutGuest)
	if err != nil {
		return nil, err
	}
	var about struct {
		Records map[string]wire.Record `json:"records"`
	}
	if err := json.Unmarshal(text, &about); err != nil {
		return nil, fmt.Errorf("point %s: %s: %w", p.ID, aboutGuestBlob, err)
	}
	if len(about.Records) > maxRecords {
		return nil, fmt.Errorf("point %s: %d records: %w", p.ID, len(about.Records), fs.ErrInvalid)
	}
	for _, b := range p.Blobs {
		rec, ok := about.Records[b.Name]
		if !ok || !strings.HasPrefix(b.Name, recordsFolder) {
			continue
		}
		if rec.Content, err = readBlob(ctx, r, p.ID, b.Name, maxGuestRecord); err != nil {
			return nil, err
		}
		out.records = append(out.records, rec)
	}
	return out, nil
}

// readBlob reads a small blob.
func readBlob(ctx context.Context, r *opened, point, name string, max int64) ([]byte, error) {
	f, err := r.OpenBlob(ctx, point, name)
	if err != nil {
		return nil, fmt.Errorf("point %s: %s: %w", point, name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(b)) > max {
		err = fmt.Errorf("more than %d bytes: %w", max, fs.ErrInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("point %s: %s: %w", point, name, err)
	}
	return b, nil
}
