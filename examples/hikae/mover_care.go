package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/service"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/pipe/mover/trust"
)

func (t *tool) moverRotateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate mover://HOST[:PORT]/NAME",
		Short: "Give this machine a new key",
		Long: text(`
Make a new key, tell the mover of it with the old one, and use it. The old key is good until the new one was used for the
first time; what breaks off in between goes on with the next command.`),
		Example: example(`hikae mover rotate mover://backup.example.org/site-a`),
		Args:    want("URL"),
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		ctx, cancel := context.WithTimeout(ctx, careTime)
		defer cancel()
		c, _, _, err := t.dial(ctx, args[0], nil)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(c.Rotate(ctx), c.Close()); err != nil {
			return nil, about(args[0], "a new key", err)
		}
		return &reply{doc: map[string]string{"rotated": args[0]}, text: func(w *show.Printer) error {
			return w.Printf("this machine has a new key at %s\n", outcome.Clean(args[0]))
		}}, nil
	})
	return cmd
}

// statusDoc is what status prints for scripts. Bytes, seconds, counts; null is what the mover does not tell this machine, or
// does not know.
type statusDoc struct {
	URL      string  `json:"url"`
	Name     string  `json:"name"`
	Role     string  `json:"role"`
	Mode     string  `json:"mode"`
	Version  string  `json:"version"`
	Uptime   *uint64 `json:"uptime"`
	Sessions *uint32 `json:"sessions"`
	Lanes    *uint32 `json:"connections"`
	Writers  *uint32 `json:"writing"`
	Waiting  *uint32 `json:"waiting"`
	Free     *int64  `json:"free"`
	Draining bool    `json:"ending"`
	Answer   float64 `json:"answer"` // seconds from the question to the answer
}

func (t *tool) moverStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status mover://HOST[:PORT]/NAME",
		Short:   "Ask a mover how it is",
		Long:    "Ask a mover how it is. A machine that may only append is not told what others do there, nor how much room is left: in JSON, that is null.",
		Example: example(`hikae mover status mover://backup.example.org/site-a`),
		Args:    want("URL"),
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		ctx, cancel := context.WithTimeout(ctx, careTime)
		defer cancel()
		c, e, _, err := t.dial(ctx, args[0], nil)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		start := time.Now()
		h, err := c.Health(ctx)
		if err != nil {
			return nil, about(args[0], "", err)
		}
		doc := statusDoc{URL: args[0], Name: c.Peer(), Role: e.Role, Mode: h.Mode, Version: h.Version, Draining: h.Draining, Answer: time.Since(start).Seconds()}
		if trust.Role(e.Role) == trust.Full {
			doc.Uptime, doc.Sessions, doc.Lanes, doc.Writers, doc.Waiting = &h.Seconds, &h.Sessions, &h.Lanes, &h.Writers, &h.Waiting
			if h.Free > 0 {
				doc.Free = &h.Free
			}
		}
		left := &reply{doc: doc, text: doc.print, loud: true}
		if doc.Draining {
			left.warnings = append(left.warnings, "the mover is about to end")
		}
		return left, nil
	})
	return cmd
}

func (d statusDoc) print(w *show.Printer) error {
	mover := outcome.Clean(d.Version) + ", " + outcome.Clean(d.Mode)
	if d.Mode != sourceMode && d.Mode != proxyMode {
		mover += " target"
	}
	if d.Uptime != nil {
		mover += fmt.Sprintf(", up %s", time.Duration(*d.Uptime)*time.Second)
	}
	facts := []string{
		"mover", mover,
		"this machine", fmt.Sprintf("%s, %s", outcome.Clean(d.Name), d.Role),
		"answer after", fmt.Sprintf("%.1f ms", 1000*d.Answer),
	}
	if d.Sessions != nil {
		facts = append(facts, "sessions", fmt.Sprintf("%d over %d connections", *d.Sessions, *d.Lanes),
			"points", fmt.Sprintf("%d being written, %d waiting", *d.Writers, *d.Waiting))
	}
	if d.Free != nil {
		facts = append(facts, "room left", show.Size(*d.Free))
	}
	return w.Facts(facts...)
}

func (t *tool) moverInstallCommand() *cobra.Command {
	f := &moverServeFlags{access: access{variable: "HIKAE_PASSWORD"}}
	var secret string
	var printOnly bool
	cmd := &cobra.Command{
		Use:   "install --listen HOST:PORT --repo REPO | --source NAME=FILE…",
		Short: "Make the mover a service of this machine",
		Long: text(`
Make a service of ` + "`hikae mover serve`" + ` with the same flags: a unit of systemd, or a service of Windows. It starts with the
machine, and again when it fails. Run it as administrator.

--secret FILE holds the passphrase in its first line; under systemd only the service sees it. So it is with the file that
HIKAE_SMB_CREDENTIALS names while you install.`),
		Example: example(`
sudo hikae mover install --repo /srv/hikae --listen :7420 --secret /etc/hikae/password
hikae mover install --print --repo /srv/hikae --listen :7420`),
		Args: want(),
	}
	f.flags(cmd)
	for _, name := range []string{"password-file", "key-file", "identity"} {
		if err := cmd.Flags().MarkHidden(name); err != nil {
			panic(err) // the flags are defined just above
		}
	}
	cmd.Flags().StringVar(&secret, "secret", "", "`FILE` whose first line is the repository's passphrase")
	cmd.Flags().BoolVar(&printOnly, "print", false, "print the unit for systemd, and change nothing")
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		d, err := t.moverDescription(f, secret)
		if err != nil {
			return nil, err
		}
		unit, err := d.Unit()
		if err != nil {
			return nil, &outcome.Error{Kind: outcome.KindUsage, Err: err}
		}
		if printOnly {
			return &reply{doc: map[string]string{"unit": unit}, loud: true, text: func(w *show.Printer) error { return w.Verbatim(unit) }}, nil
		}
		where, err := service.Install(d)
		switch {
		case errors.Is(err, service.ErrNoManager):
			return nil, &outcome.Error{Kind: outcome.KindUnsupported, Err: err, Hint: "Run `hikae mover serve` under whatever starts programs here; --print shows a unit to go by."}
		case errors.Is(err, fs.ErrExist):
			return nil, &outcome.Error{Kind: outcome.KindExists, Object: moverService, Text: "install the service", Err: err,
				Hint: "It is there already, perhaps from an installation that was broken off: run `hikae mover remove`, and install it again."}
		case err != nil:
			return nil, &outcome.Error{Object: moverService, Text: "install the service", Err: err}
		}
		return &reply{doc: map[string]string{"service": moverService}, notes: []string{"its state is in /var/lib/" + moverService + " under systemd: set HIKAE_STATE_DIR to that for `hikae mover token`, list and revoke"},
			text: func(w *show.Printer) error { return w.Printf("the service runs; look at it with: %s\n", where) }}, nil
	})
	return cmd
}

func (t *tool) moverRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "remove",
		Short:   "Take the service away again",
		Long:    "Stop the service that `hikae mover install` made, and take it away. The repository, the keys and the book of peers stay.",
		Example: example(`sudo hikae mover remove`),
		Args:    want(),
		RunE: t.act(func(context.Context, []string) (*reply, error) {
			if err := service.Remove(moverService); err != nil {
				return nil, &outcome.Error{Object: moverService, Text: "remove the service", Err: err}
			}
			return &reply{doc: map[string]string{"removed": moverService}, text: func(w *show.Printer) error { return w.Printf("the service is gone\n") }}, nil
		}),
	}
}
