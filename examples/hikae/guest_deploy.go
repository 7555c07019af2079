package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
)

func (t *tool) guestDeployCommand() *cobra.Command {
	f := &waysFlags{}
	cmd := &cobra.Command{
		Use:   "deploy GUEST…",
		Short: "Bring the component into a guest, see what it finds, and remove it",
		Long: text(`
Bring the runtime component into the guest as a backup does, let it look around (file systems that can be frozen,
applications, scripts), and remove it again. That nothing of it is left is looked at in the guest, not assumed.`),
		Example: example(`
hikae guest deploy ssh://root@web1`),
		Args: want("GUEST…", "[GUEST]"),
	}
	f.flags(cmd, "")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.guestDeploy(ctx, f, args) })
	return cmd
}

// deployDoc is what deploy prints for scripts.
type deployDoc struct {
	Guest         string             `json:"guest"`
	Way           guest.Kind         `json:"way"`
	From          string             `json:"from"` // which machine did it
	Component     string             `json:"component"`
	OS            string             `json:"os"`
	Arch          string             `json:"arch"`
	Host          string             `json:"host"`
	Administrator bool               `json:"administrator"`
	DeployMillis  int64              `json:"deployMillis"`
	RemoveMillis  int64              `json:"removeMillis"`
	Removed       bool               `json:"removed"` // and looked for afterwards
	Found         wire.InspectAnswer `json:"found"`

	unverified string
}

// enter brings the component in from the first machine that can, or opens the persistent one.
func (t *tool) enter(ctx context.Context, g *guestReached, session string) (d *guest.Deployed, from string, err error) {
	opts := &guest.DeployOptions{Guest: g.here.Guest, Session: session, Journal: g.journal}
	err = t.first(ctx, g, func(at guest.Deployer) (err error) {
		from = at.Name()
		if at == guest.Deployer(g.here) && len(g.here.Ways) == 0 {
			d, err = openPersistent(ctx, g.here.Persist, session)
			return err
		}
		d, err = at.Deploy(ctx, g.order, opts)
		return err
	})
	return d, from, err
}

// openPersistent begins a session with the component that stays.
func openPersistent(ctx context.Context, p guest.Persistent, session string) (*guest.Deployed, error) {
	stream, err := p.Open(ctx)
	if err != nil {
		return nil, err
	}
	c, err := guest.Dial(ctx, stream, &guest.ComponentOptions{Session: session})
	if err != nil {
		return nil, err
	}
	return guest.NewDeployed(c, guest.Direct, func(context.Context) error { return c.Close() }), nil
}

// bringIn has a component in a guest for as long as it is used.
func (t *tool) bringIn(ctx context.Context, f *waysFlags, urls []string, use func(*guestReached, *guest.Deployed) error) (doc deployDoc, err error) {
	g, err := t.reach(ctx, f, urls)
	if err != nil {
		return doc, err
	}
	defer g.Close()
	begun := time.Now()
	d, from, err := t.enter(ctx, g, "hikae guest")
	if err != nil {
		return doc, aboutGuest(g.here.Guest, err)
	}
	h := d.Component.Hello()
	doc = deployDoc{Guest: g.here.Guest, Way: d.Kind, From: from, Component: h.Product, OS: h.OS, Arch: h.Arch, Host: h.Host,
		Administrator: h.Admin, DeployMillis: time.Since(begun).Milliseconds(), unverified: h.Unverified}
	used := use(g, d)
	begun = time.Now()
	out, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	gone := d.Remove(out)
	doc.RemoveMillis, doc.Removed = time.Since(begun).Milliseconds(), gone == nil
	if err := errors.Join(used, gone); err != nil {
		return doc, aboutGuest(g.here.Guest, err)
	}
	return doc, nil
}

func (t *tool) guestDeploy(ctx context.Context, f *waysFlags, urls []string) (*reply, error) {
	var found wire.InspectAnswer
	doc, err := t.bringIn(ctx, f, urls, func(_ *guestReached, d *guest.Deployed) (err error) {
		found, err = d.Component.Inspect(ctx, wire.InspectArgs{Applications: true})
		return err
	})
	if err != nil {
		return nil, err
	}
	doc.Found = found
	left := &reply{doc: doc, loud: true, text: doc.print, notes: found.Notes}
	if doc.unverified != "" {
		left.warnings, left.status = append(left.warnings, doc.unverified), outcome.Warned
	}
	if !doc.Administrator {
		left.status = outcome.Warned
		left.warnings = append(left.warnings, "the account is no administrator: nothing can be frozen")
	}
	return left, nil
}

func (d deployDoc) print(w *show.Printer) error {
	if err := w.Printf("%s  %s over %s from %s in %s, removed in %s\n\n", w.Bold(outcome.Clean(d.Guest)), outcome.Clean(d.Component), d.Way, outcome.Clean(d.From),
		show.Seconds(float64(d.DeployMillis)/1000), show.Seconds(float64(d.RemoveMillis)/1000)); err != nil {
		return err
	}
	table := show.NewTable("FILE SYSTEM", "TYPE", ">SIZE", ">FREE", "FREEZE")
	for _, v := range d.Found.Volumes {
		freeze := "yes"
		if v.Skip != "" {
			freeze = "no: " + v.Skip
		}
		table.Row(outcome.Clean(v.Mount), outcome.Clean(v.Type), show.Size(v.Size), show.Size(v.Free), outcome.Clean(freeze))
	}
	if err := table.Print(w); err != nil {
		return err
	}
	if len(d.Found.Applications) > 0 {
		table = show.NewTable("APPLICATION", "VERSION", "STATE", "LOGS")
		for _, a := range d.Found.Applications {
			table.Row(outcome.Clean(a.Kind+" "+a.Name), outcome.Clean(a.Version), outcome.Clean(a.State), outcome.Clean(a.Logs))
		}
		if err := w.Printf("\n"); err != nil {
			return err
		}
		if err := table.Print(w); err != nil {
			return err
		}
	}
	for _, s := range d.Found.Scripts {
		if err := w.Printf("script %s\n", outcome.Clean(s)); err != nil {
			return err
		}
	}
	return nil
}
