package main

import (
	"bytes"
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/report"
)

func (t *tool) reportCommand() *cobra.Command {
	var html string
	cmd := &cobra.Command{
		Use:   "report SESSION",
		Short: "Show what a past session did",
		Long: text(`
Show what a backup or restore of this machine did: where its time went, what was skipped and why, how much was
deduplicated and compressed, and which side was the bottleneck.

SESSION is what the session was called, the first characters of that, "latest", or "latest~1" for the one before. --html
writes one page that needs nothing else, to be kept or sent.`),
		Example: example(`
hikae report latest
hikae report latest --html report.html
hikae report 42-k7q2m9ax --json`),
		Args: want("SESSION"),
	}
	cmd.Flags().StringVar(&html, "html", "", "write a page of HTML to `FILE`")
	cmd.RunE = t.act(func(_ context.Context, args []string) (*reply, error) { return t.report(args[0], html) })
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return t.sessionNames(), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

func (t *tool) report(spec, html string) (*reply, error) {
	sessions, err := t.sessions()
	if err != nil {
		return nil, err
	}
	record, err := sessions.Load(spec)
	if err != nil {
		return nil, &outcome.Error{Object: spec, Err: err, Hint: "`hikae report latest` shows the newest session of this machine."}
	}
	if strings.Contains(record.Error, context.Canceled.Error()) { // the only thing that cancels a session is whoever ends the command
		record.Error = "interrupted: it was ended by Ctrl-C or SIGTERM before its time"
	}
	earlier, err := sessions.List(0, func(r *job.Record) bool { return r.VM() == record.VM() })
	if err != nil { // a record that cannot be read is missing in the trend, and nowhere else
		t.tell("note: %v", err)
	}
	full := report.New(record, earlier)
	left := &reply{doc: full, loud: true, text: func(w *show.Printer) error { return full.Text(w.W) }}
	if html == "" {
		return left, nil
	}
	var page bytes.Buffer
	if err := full.HTML(&page); err != nil {
		return nil, err
	}
	left.loud = false
	left.text = func(w *show.Printer) error { return w.Printf("the report is in %s\n", html) }
	return left, os.WriteFile(html, page.Bytes(), 0o644)
}

// sessionNames are the newest sessions, for completion.
func (t *tool) sessionNames() []string {
	names := []string{"latest"}
	sessions, err := t.sessions()
	if err != nil {
		return names
	}
	records, _ := sessions.List(20, func(*job.Record) bool { return true }) // what cannot be read is not offered
	for _, r := range records {
		names = append(names, r.Session())
	}
	return names
}
