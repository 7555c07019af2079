package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/logs"
)

// shipper takes logs from one guest into one repository, round by round.
type shipper struct {
	*tool
	flags *shipFlags
	urls  []string

	repo  *opened
	store *logs.Points // it remembers which logs are there
}

// open opens the repository, where it is not.
func (s *shipper) open(ctx context.Context) error {
	if s.repo != nil {
		return nil
	}
	r, err := s.tool.open(ctx, s.flags.access, false)
	if err != nil {
		return err
	}
	if err := errors.Join(r.readable(), r.ownName(s.flags.vm), r.covers(logs.VM(s.flags.vm))); err != nil {
		return errors.Join(err, r.Close())
	}
	s.repo, s.store = r, logs.NewPoints(r)
	return nil
}

func (s *shipper) close() {
	if s.repo == nil {
		return
	}
	if err := s.repo.Close(); err != nil {
		s.warn("the repository: " + err.Error())
	}
	s.repo = nil
}

// inGuest is a component that is in a guest for one round.
type inGuest struct {
	*guest.Component
	deployed *guest.Deployed
	reached  *guestReached
}

// bring brings the component in.
func (s *shipper) bring(ctx context.Context) (*inGuest, error) {
	g, err := s.reach(ctx, &s.flags.waysFlags, s.urls)
	if err != nil {
		return nil, err
	}
	d, _, err := s.enter(ctx, g, "hikae guest logs")
	if err != nil {
		return nil, errors.Join(aboutGuest(g.here.Guest, err), g.Close())
	}
	return &inGuest{Component: d.Component, deployed: d, reached: g}, nil
}

// removeTime bounds the removal of a component, also when the command was interrupted.
const removeTime = time.Minute

// Close removes the component.
func (g *inGuest) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), removeTime)
	defer cancel()
	return errors.Join(g.deployed.Remove(ctx), g.reached.Close())
}

// shipDoc is what a round did, for scripts.
type shipDoc struct {
	VM      string       `json:"vm"`
	Point   string       `json:"point"` // the backup that logs go with; empty: there is none yet
	Streams []shipStream `json:"streams"`
	Seconds float64      `json:"seconds"`
	notes   []string
}

type shipStream struct {
	App    string     `json:"app"` // KIND/NAME
	Stored int        `json:"stored"`
	Bytes  int64      `json:"bytes"`
	Latest *time.Time `json:"latest"` // that the new logs lead to; null: there are none
	Gap    string     `json:"gap"`
	Waits  string     `json:"waits"` // why nothing was taken
	Error  string     `json:"error"`
}

// round brings the component in once, and takes what is complete. The error is of the round, or of its streams.
func (s *shipper) round(ctx context.Context) (*shipDoc, error) {
	begun := time.Now()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	image, err := newestInGuest(ctx, s.repo, s.flags.vm)
	if err != nil {
		return nil, about(s.flags.repo, "look for the newest backup", err)
	}
	k, err := s.bring(ctx)
	if err != nil {
		return nil, err
	}
	doc, err := s.with(ctx, k, image)
	if doc != nil {
		doc.Seconds = time.Since(begun).Seconds()
	}
	return doc, err
}

// with does a round with a component, which it removes.
func (s *shipper) with(ctx context.Context, k *inGuest, image *inGuestRecords) (_ *shipDoc, err error) {
	owned := true
	defer func() {
		if owned {
			err = errors.Join(err, k.Close())
		}
	}()
	doc := &shipDoc{VM: s.flags.vm, Streams: []shipStream{}}
	found, err := k.Inspect(ctx, wire.InspectArgs{Applications: true})
	if err != nil {
		return nil, aboutGuest(s.flags.waysFlags.name, err)
	}
	streams := s.streams(found, image, doc)
	if image == nil {
		return doc, s.begin(ctx, k, streams, doc)
	}
	doc.Point = image.info.ID
	for _, st := range streams { // one that waits for the next backup keeps its logs from now on
		if st.Processed {
			continue
		}
		if err := logs.Begin(ctx, k, s.flags.vm, st); err != nil {
			return nil, aboutGuest(s.flags.waysFlags.name, err)
		}
	}
	service := logs.New(func(ctx context.Context, _ string) (logs.Keeper, error) {
		if owned { // the first time; after a broken link there is another one
			owned = false
			return k, nil
		}
		return s.bring(ctx)
	}, s.store, nil)
	service.Image(logs.ImagePoint{VM: s.flags.vm, ID: image.info.ID, Streams: streams})
	report, _ := service.Collect(ctx, s.flags.vm) // its errors are all in the report
	return doc, doc.take(report)
}

// ships reports whether an application's logs can be had.
func ships(a wire.Application) bool { return strings.HasPrefix(a.Logs, "yes") }

// streams are the databases whose logs are wanted: those that run in the guest, and those of the backup.
func (s *shipper) streams(found wire.InspectAnswer, image *inGuestRecords, doc *shipDoc) (streams []logs.ImageStream) {
	add := func(kind, name string) {
		app := kind + "/" + name
		if slices.Contains(s.flags.skip, app) || slices.ContainsFunc(streams, func(o logs.ImageStream) bool { return o.Kind == kind && o.Name == name }) {
			return
		}
		st := logs.ImageStream{Kind: kind, Name: name, Unbounded: s.flags.unbounded}
		if image != nil {
			st.From = logs.From(image.of(kind, name))
			st.Processed = st.From != ""
		}
		streams = append(streams, st)
	}
	for _, a := range found.Applications {
		app := a.Kind + "/" + a.Name
		switch {
		case slices.Contains(s.flags.skip, app):
		case ships(a):
			add(a.Kind, a.Name)
			doc.notes = append(doc.notes, app+": "+strings.TrimPrefix(a.Logs, "yes, "))
		default:
			doc.notes = append(doc.notes, app+": its logs cannot be taken: "+strings.TrimPrefix(a.Logs, "no: "))
		}
	}
	if image != nil {
		for _, app := range image.apps() {
			if logs.From(image.of(app.Kind, app.Name)) != "" {
				add(app.Kind, app.Name) // the guest says why, where it does not run now
			}
		}
	}
	return streams
}

// begin makes databases keep logs, as long as there is no backup.
func (s *shipper) begin(ctx context.Context, k logs.Keeper, streams []logs.ImageStream, doc *shipDoc) error {
	for _, st := range streams {
		if err := logs.Begin(ctx, k, s.flags.vm, st); err != nil {
			return aboutGuest(s.flags.waysFlags.name, err)
		}
		doc.Streams = append(doc.Streams, shipStream{App: st.Kind + "/" + st.Name, Waits: "there is no backup with --guest yet"})
	}
	return nil
}

// take takes a report over.
func (d *shipDoc) take(r logs.Report) error {
	errs := []error{r.Err}
	for _, s := range r.Streams {
		out := shipStream{App: s.Stream.Kind + "/" + s.Stream.Name, Stored: s.Stored, Bytes: s.Bytes, Waits: s.Waits}
		if !s.Latest.IsZero() {
			at := s.Latest.UTC()
			out.Latest = &at
		}
		if s.Gap != nil {
			out.Gap = s.Gap.Error()
		}
		if s.Err != nil {
			out.Error = s.Err.Error()
			errs = append(errs, s.Err)
		}
		d.Streams = append(d.Streams, out)
	}
	if err := errors.Join(errs...); err != nil {
		return &outcome.Error{Object: d.VM, Err: err, Hint: "What was not taken is still in the guest, until the next time."}
	}
	return nil
}

// reply is the round as a command's result. A database that waits because there is no backup at all is as it should be.
func (d *shipDoc) reply() *reply {
	left := &reply{doc: d, notes: d.notes, text: d.print}
	for _, s := range d.Streams {
		switch {
		case s.Gap != "":
			left.warnings = append(left.warnings, s.Gap)
		case s.Waits != "" && d.Point != "":
			left.warnings = append(left.warnings, s.App+": "+s.Waits)
		}
	}
	if len(left.warnings) > 0 {
		left.status = outcome.Warned
	}
	return left
}

// summary is a round in one line.
func (d *shipDoc) summary() string {
	if d.Point == "" {
		return fmt.Sprintf("%s: there is no backup with --guest yet; %d databases keep their logs", d.VM, len(d.Streams))
	}
	var stored int
	var bytes int64
	for _, s := range d.Streams {
		stored, bytes = stored+s.Stored, bytes+s.Bytes
	}
	return fmt.Sprintf("%s: %d logs of %d databases, %s, in %s", d.VM, stored, len(d.Streams), show.Size(bytes), show.Seconds(d.Seconds))
}

func (d *shipDoc) print(w *show.Printer) error {
	if err := w.Printf("%s\n", outcome.Clean(d.summary())); err != nil {
		return err
	}
	for _, s := range d.Streams {
		if s.Latest == nil {
			continue
		}
		if err := w.Printf("%s can be brought to any moment up to %s\n", outcome.Clean(s.App), s.Latest.Format(time.RFC3339Nano)); err != nil {
			return err
		}
	}
	return nil
}
