package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/bandwidth"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// lineFlags are how a line is used.
type lineFlags struct {
	giveUp time.Duration
	lanes  int
	limit  string
}

func (f *lineFlags) flags(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.giveUp, "give-up", 30*time.Minute, "with mover://: how long to wait for a line that is cut")
	cmd.Flags().IntVar(&f.lanes, "connections", 0, "with mover://: use `N` connections, 1 to 8 (default as many as help)")
	cmd.Flags().StringVar(&f.limit, "line-limit", "", "with mover://: limit the line by `RULES` such as '20MB/s; mon-fri 08:00-18:00 2MB/s'; off: none; see: hikae mover serve --help")
}

// dialOptions are how to connect to where this machine is enrolled.
func (t *tool) dialOptions(e enrolment, dir string, line *lineFlags) (*mover.DialOptions, error) {
	pin, err := trust.ParsePin(e.Server)
	if err != nil {
		return nil, err
	}
	cache, err := t.cacheDir()
	if err != nil {
		return nil, err
	}
	opts := &mover.DialOptions{IdentityDir: dir, ServerPin: pin, CacheDir: cache, Warn: func(text string) {
		fmt.Fprintf(t.stderr, "%s %s\n", t.printer(t.stderr).Yellow("warning:"), outcome.Clean(text))
	}}
	if line == nil {
		return opts, nil
	}
	if line.giveUp <= 0 || line.lanes < 0 || line.lanes > 8 {
		return nil, outcome.Usage("", "--give-up is more than nothing, --connections from 1 to 8")
	}
	opts.GiveUp, opts.Lanes = line.giveUp, line.lanes
	if line.limit != "" {
		rules, err := bandwidth.ParseRules(line.limit)
		if err != nil {
			return nil, &outcome.Error{Kind: outcome.KindUsage, Text: "--line-limit", Err: err}
		}
		opts.Shaper = bandwidth.New(rules)
	}
	return opts, nil
}

// dial connects to the mover that a URL names.
func (t *tool) dial(ctx context.Context, url string, line *lineFlags) (_ *mover.Client, e enrolment, dir string, err error) {
	p, err := parseFar(url)
	if err != nil {
		return nil, e, "", err
	}
	if len(p.query) > 0 {
		return nil, e, "", outcome.Usage("", "%s: nothing comes after the name", url)
	}
	if e, dir, err = t.enrolled(p); err != nil {
		return nil, e, dir, err
	}
	opts, err := t.dialOptions(e, dir, line)
	if err != nil {
		return nil, e, dir, err
	}
	c, err := mover.Dial(ctx, p.address, opts)
	if err != nil {
		return nil, e, dir, about(p.String(), "mover at "+p.address, err)
	}
	return c, e, dir, nil
}

// openFar opens a place behind a mover.
func (t *tool) openFar(ctx context.Context, a *access) (*opened, error) {
	if p, err := parseFar(a.repo); err == nil {
		if e, _, err := t.enrolled(p); err == nil && e.Mode == proxyMode {
			return nil, &outcome.Error{Kind: outcome.KindUsage, Object: e.url(), Text: "this is a guest interaction proxy, and no repository",
				Hint: "Name it as the machine that works in guests: hikae guest probe --via-proxy " + e.url() + " GUEST, or hikae backup --guest-via-proxy."}
		}
	}
	c, e, dir, err := t.dial(ctx, a.repo, a.line)
	if err != nil {
		return nil, err
	}
	if e.Mode == sourceMode {
		return nil, errors.Join(&outcome.Error{Kind: outcome.KindUsage, Object: e.url(), Text: "this mover serves disk images to be collected, and no repository",
			Hint: "Name it as the source: hikae backup --repo REPO --name VM '" + e.url() + "?image=IMAGE'."}, c.Close())
	}
	if e.Mode == blindMode {
		return t.openBlind(ctx, a, c, e, dir)
	}
	return &opened{place: c, said: new(said), target: fmt.Sprintf("mover %s as %s, trusted: it holds the repository's keys", e.Address, e.Name), as: e}, nil
}
