package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/job"
)

// inGuestFlags are what a backup does inside the VM.
type inGuestFlags struct {
	waysFlags
	urls           []string
	policy         string
	scripts        string
	copy           string
	noApplications bool
	skip           []string
	truncate       bool
	index          bool
	hold           time.Duration

	changed func() string // one of these flags that was given; empty: none was
}

func (f *inGuestFlags) flags(cmd *cobra.Command) {
	f.waysFlags.flags(cmd, "guest-")
	flags := cmd.Flags()
	f.changed = func() (name string) {
		flags.Visit(func(set *pflag.Flag) {
			if strings.HasPrefix(set.Name, "guest-") {
				name = set.Name
			}
		})
		return name
	}
	flags.StringArrayVar(&f.urls, "guest", nil, "`URL` of a way into the guest: make its applications ready, and freeze by a component of ours; may repeat (see: hikae guest)")
	flags.StringVar(&f.policy, "guest-policy", "require", "what a failure in the guest does: `require` fails the backup, try goes on crash-consistent")
	flags.StringVar(&f.scripts, "guest-scripts", "require", "the same for the guest's pre-freeze and post-thaw scripts: `require`, try, disable")
	flags.StringVar(&f.copy, "guest-copy", "auto", "whether applications take this for a copy beside their own backups: `auto`, yes, no")
	flags.BoolVar(&f.noApplications, "guest-no-applications", false, "leave applications in the guest alone")
	flags.StringArrayVar(&f.skip, "guest-skip", nil, "leave the application `KIND/NAME` alone; may repeat")
	flags.BoolVar(&f.truncate, "guest-truncate-logs", false, "let applications drop logs that a durable point has made needless")
	flags.BoolVar(&f.index, "guest-index", false, "store a list of the guest's files with the point, for hikae find")
	flags.DurationVar(&f.hold, "guest-hold", 8*time.Second, "when the watchdog in the guest thaws by itself")
	completeWith(cmd, "guest-policy", "require", "try", "disable")
	completeWith(cmd, "guest-scripts", "require", "try", "disable")
	completeWith(cmd, "guest-copy", "auto", "yes", "no")
}

// work is what the backup does in the guest; done is called when it is over. Nil: nothing.
func (t *tool) guestWork(ctx context.Context, f *inGuestFlags, vm string) (work job.GuestWork, done func() error, err error) {
	done = func() error { return nil }
	if len(f.urls) == 0 {
		if name := f.changed(); name != "" {
			return nil, done, outcome.Usage("Add --guest URL, a way into the guest.", "--%s has no effect without --guest", name)
		}
		return nil, done, nil
	}
	if f.waysFlags.name == "" {
		f.waysFlags.name = vm
	}
	opts := guest.SessionOptions{ID: "backup", NoApplications: f.noApplications, Skip: f.skip, Truncate: f.truncate, Hold: f.hold,
		Copy: guest.CopyMode(f.copy)}
	var wrong [2]error
	opts.Processing, wrong[0] = guest.ParsePolicy(f.policy)
	opts.Scripts, wrong[1] = guest.ParsePolicy(f.scripts)
	if err := errors.Join(wrong[:]...); err != nil {
		return nil, done, outcome.Usage("", "%v", err)
	}
	switch opts.Copy {
	case guest.CopyAuto, guest.CopyOnly, guest.CopyFull:
	default:
		return nil, done, outcome.Usage("Say auto, yes or no.", "--guest-copy %q", f.copy)
	}
	if f.index {
		opts.Index = &wire.IndexArgs{}
	}
	g, err := t.reach(ctx, &f.waysFlags, f.urls)
	if err != nil {
		return nil, done, err
	}
	opts.Guest, opts.Order, opts.Journal, opts.Choice = g.here.Guest, g.order, g.journal, g.choice
	s, err := guest.NewSession(g.deployers, &opts)
	if err != nil {
		return nil, done, errors.Join(outcome.Usage("", "%v", err), g.Close())
	}
	return s, g.Close, nil
}
