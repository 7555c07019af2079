package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/guest"
)

// freezeFlags say what is frozen.
type freezeFlags struct {
	waysFlags
	mounts  []string
	hold    time.Duration
	last    time.Duration
	noApps  bool
	noHooks bool
	skip    []string
	yes     bool
}

func (t *tool) guestFreezeCommand() *cobra.Command {
	f := &freezeFlags{}
	cmd := &cobra.Command{
		Use:   "freeze-test --yes GUEST…",
		Short: "Freeze and thaw a guest for real, and say how consistent a backup would be",
		Long: text(`
Do in the guest what a backup does around its snapshot: bring the component in, get applications ready, run the
administrator's scripts, freeze, wait as long as a snapshot takes, thaw, let applications go on, and remove the component.
Whatever happens to this command or to the line, a watchdog in the guest thaws after --hold.

While a file system is frozen, programs that write to it wait. That is why --yes is asked for.`),
		Example: example(`
hikae guest freeze-test --yes ssh://root@web1
hikae guest freeze-test --yes --mount /srv/data --no-applications ssh://root@web1`),
		Args: want("GUEST…", "[GUEST]"),
	}
	f.flags(cmd, "")
	cmd.Flags().StringArrayVar(&f.mounts, "mount", nil, "freeze the file system mounted at `PATH` alone; may be repeated (default: all that can be)")
	cmd.Flags().DurationVar(&f.last, "for", 200*time.Millisecond, "how long to stay frozen")
	cmd.Flags().DurationVar(&f.hold, "hold", 8*time.Second, "when the watchdog in the guest thaws by itself")
	cmd.Flags().BoolVar(&f.noApps, "no-applications", false, "leave applications alone")
	cmd.Flags().BoolVar(&f.noHooks, "no-scripts", false, "run no pre-freeze and post-thaw scripts")
	cmd.Flags().StringArrayVar(&f.skip, "skip", nil, "leave the application `KIND/NAME` alone")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "freeze: programs in the guest will wait")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.guestFreeze(ctx, f, args) })
	return cmd
}

// freezeDoc is what freeze-test prints for scripts.
type freezeDoc struct {
	Guest       string       `json:"guest"`
	Consistency string       `json:"consistency"` // that a backup would have
	Failed      bool         `json:"failed"`      // a backup would fail, by the default policy
	Result      guest.Result `json:"result"`
}

func (f *freezeFlags) sessionOptions(g *guestReached) *guest.SessionOptions {
	opts := &guest.SessionOptions{Guest: g.here.Guest, ID: "freeze-test", Order: g.order, Journal: g.journal,
		NoApplications: f.noApps, Skip: f.skip, Mounts: f.mounts, Hold: f.hold, Choice: g.choice, Copy: guest.CopyOnly}
	if f.noHooks {
		opts.Scripts = guest.Disable
	}
	return opts
}

func (t *tool) guestFreeze(ctx context.Context, f *freezeFlags, urls []string) (*reply, error) {
	switch {
	case !f.yes:
		return nil, outcome.Usage("Add --yes.", "programs in the guest will wait while it is frozen")
	case f.last < 0 || f.last >= f.hold:
		return nil, outcome.Usage("", "--for must be shorter than --hold, when the guest thaws by itself")
	}
	g, err := t.reach(ctx, &f.waysFlags, urls)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	opts := f.sessionOptions(g)
	opts.Events = func(e guest.Event) { t.tell("%-8s %s", e.Step, e.Text) }
	s, err := guest.NewSession(g.deployers, opts)
	if err != nil {
		return nil, outcome.Usage("", "%v", err)
	}
	err = freezeOnce(ctx, s, f.last)
	reached, result := s.Reached()
	doc := freezeDoc{Guest: g.here.Guest, Consistency: reached.String(), Result: result}
	left := &reply{doc: doc, loud: true, warnings: result.Warnings, notes: result.Notes, text: doc.print}
	if err != nil {
		if result.Component == "" { // nothing was tried in the guest
			return nil, aboutGuest(g.here.Guest, err)
		}
		doc.Failed = true
		left.doc, left.text = doc, doc.print
		return left, aboutGuest(g.here.Guest, err)
	}
	if len(result.Warnings) > 0 || reached < hikae.Filesystem {
		left.status = outcome.Warned
	}
	return left, nil
}

// freezeOnce goes the way of a backup, without a snapshot. Whatever fails, the guest is thawed and left as it was.
func freezeOnce(ctx context.Context, s *guest.Session, last time.Duration) (err error) {
	defer func() {
		out, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, s.Settle(out, false), s.Close(out))
	}()
	if err := s.Begin(ctx); err != nil {
		return err
	}
	froze := s.Freeze(ctx)
	if froze == nil {
		select {
		case <-ctx.Done():
		case <-time.After(last):
		}
	}
	warm, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute+hikae.PatienceOf(s))
	defer cancel()
	thawed := s.Thaw(warm)
	if froze != nil {
		return froze
	}
	if thawed != nil {
		return thawed
	}
	return s.Finish(ctx)
}

func (d freezeDoc) print(w *show.Printer) error {
	if err := w.Printf("%s  %s, %s\n\n", w.Bold(outcome.Clean(d.Guest)), outcome.Clean(d.Result.Component), outcome.Clean(d.Result.Way)); err != nil {
		return err
	}
	table := show.NewTable("FROZEN", "RESULT")
	for _, m := range d.Result.Frozen {
		table.Row(outcome.Clean(m), "yes")
	}
	for _, a := range d.Result.Applications {
		result := "ready"
		if !a.OK {
			result = a.Problem
		}
		table.Row(outcome.Clean(a.Kind+" "+a.Name), outcome.Clean(result))
	}
	if err := table.Print(w); err != nil {
		return err
	}
	if d.Failed {
		return w.Printf("\nfrozen for %s; a backup would fail, and with --guest-policy try be consistent as: %s\n", show.Seconds(d.Result.FrozenMillis/1000), d.Consistency)
	}
	return w.Printf("\nfrozen for %s; a backup would be consistent as: %s\n", show.Seconds(d.Result.FrozenMillis/1000), d.Consistency)
}
