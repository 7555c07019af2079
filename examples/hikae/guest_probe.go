package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/guest"
)

func (t *tool) guestProbeCommand() *cobra.Command {
	f := &waysFlags{}
	cmd := &cobra.Command{
		Use:   "probe GUEST…",
		Short: "See which ways into a guest are open, and what to change",
		Long: text(`
Try every way into the guest at once, leave nothing there, and say of each whether a component can be brought in by it:
where it ends, why, and what to change. Then say which way a backup would take, and by which steps it came to that.

Exit status 0: a way is open. 1: none is.`),
		Example: example(`
hikae guest probe ssh://root@web1
hikae guest probe smb://backup@win1.example.org --credentials guests.json`),
		Args: want("GUEST…", "[GUEST]"),
	}
	f.flags(cmd, "")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.guestProbe(ctx, f, args) })
	return cmd
}

// probeDoc is what probe prints for scripts.
type probeDoc struct {
	*guest.Report
	From     string         `json:"from"` // which machine looked
	Decision guest.Decision `json:"decision"`
	Order    []guest.Kind   `json:"order"` // in which ways would be tried
}

func (t *tool) guestProbe(ctx context.Context, f *waysFlags, urls []string) (*reply, error) {
	g, err := t.reach(ctx, f, urls)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	var report *guest.Report
	var from string
	err = t.first(ctx, g, func(d guest.Deployer) (err error) {
		from = d.Name()
		report, err = d.Probe(ctx)
		return err
	})
	if err != nil {
		return nil, aboutGuest(g.here.Guest, err)
	}
	choice := g.choice
	choice.Windows, _ = report.Windows()
	doc := probeDoc{Report: report, From: from, Decision: guest.Decide(choice, report.Probed())}
	doc.Order = guest.Ranked(doc.Decision, choice, g.order, report.Ways)
	left := &reply{doc: doc, loud: true, text: doc.print}
	if doc.Decision.Action == guest.Fail {
		return left, &outcome.Error{Object: report.Guest, Text: "guest " + report.Guest, Err: guest.ErrNoWay,
			Hint: "Each line says what to change."}
	}
	return left, nil
}

func (d probeDoc) print(w *show.Printer) error {
	table := show.NewTable("WAY", "OPEN", ">TIME", "SYSTEM", "ACCOUNT", "")
	for _, f := range d.Ways {
		open := "no"
		if f.Open {
			open = "yes"
		}
		account := f.System.User
		if f.System.Admin {
			account += " (administrator)"
		}
		what := f.Problem
		if f.Step != "" {
			what = f.Step + ": " + what
		}
		if f.Hint != "" {
			what += "; " + f.Hint
		}
		table.Row(string(f.Kind), open, show.Seconds(float64(f.Millis)/1000), outcome.Clean(f.System.OS), outcome.Clean(account), outcome.Clean(what))
	}
	if p := d.Persistent; p != nil {
		open, what := "no", strings.Trim(p.Problem+"; "+p.Hint, "; ")
		if p.Installer && p.Certificates {
			open = "yes"
		}
		if p.Version != "" {
			what = strings.Trim("component "+p.Version+"; "+what, "; ")
		}
		table.Row(string(guest.Direct), open, show.Seconds(float64(p.Millis)/1000), "", "", outcome.Clean(what))
	}
	if err := table.Print(w); err != nil {
		return err
	}
	return w.Printf("\nseen from %s\n%s\n", outcome.Clean(d.From), outcome.Clean(d.Decision.String()))
}

// aboutGuest names a guest in an error, and says what helps.
func aboutGuest(name string, err error) error {
	var way *guest.WayError
	hint := "`hikae guest probe` shows each way and what to change."
	if errors.As(err, &way) && way.Hint != "" {
		hint = way.Hint
	}
	if errors.Is(err, guest.ErrLeftover) {
		hint = "`hikae guest remove` takes it away when the guest can be reached."
	}
	return &outcome.Error{Object: name, Err: err, Hint: hint}
}
