package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/proxy"
)

func (t *tool) proxyChooseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "choose FILE",
		Short: "See which machine would do what, and why",
		Long: text(`
Read a description from FILE (- is standard input) and print the decision with every candidate, its rank, and why it lost.
Nothing is connected. The description is JSON with one of

  {"guest": {"vm": …, "workers": […], "rules": …}}   who works in a guest
  {"backup": {…}}                                    who reads a datastore, and by which transport
  {"session": {…}}                                   where the movers of a session run

as package proxy has them; docs/guest.md shows the first.`),
		Example: example(`
hikae proxy choose infrastructure.json`),
		Args: want("FILE"),
		RunE: t.act(func(_ context.Context, args []string) (*reply, error) { return t.proxyChoose(args[0]) }),
	}
}

// choiceDoc is what there is to decide.
type choiceDoc struct {
	Guest   *proxy.GuestChoice  `json:"guest"`
	Backup  *proxy.BackupChoice `json:"backup"`
	Session *proxy.Session      `json:"session"`
}

const maxChoice = 16 << 20

func (t *tool) proxyChoose(path string) (*reply, error) {
	data, err := t.readOr(path, maxChoice)
	if err != nil {
		return nil, err
	}
	var c choiceDoc
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: path, Text: path, Err: err, Hint: "`hikae proxy choose --help` says what it holds."}
	}
	var decision fmt.Stringer
	switch {
	case c.Guest != nil && c.Backup == nil && c.Session == nil:
		decision, err = proxy.Guest(c.Guest)
	case c.Backup != nil && c.Guest == nil && c.Session == nil:
		decision, err = proxy.Backup(c.Backup)
	case c.Session != nil && c.Guest == nil && c.Backup == nil:
		decision, err = proxy.Place(c.Session)
	default:
		return nil, outcome.Usage("", "%s holds none or several of guest, backup and session", path)
	}
	if err != nil {
		return nil, &outcome.Error{Object: path, Err: err}
	}
	return &reply{doc: decision, loud: true, text: func(w *show.Printer) error {
		for line := range strings.Lines(decision.String()) {
			if err := w.Printf("%s\n", outcome.Clean(strings.TrimRight(line, "\n"))); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}
