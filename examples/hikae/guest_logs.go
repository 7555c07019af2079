package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/logs"
)

func (t *tool) guestLogsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logs",
		Short: "Keep the transaction logs of databases, and restore to a moment",
		Long: text(`
Between one backup of a VM and the next, take the transaction logs of its databases into the repository. From a backup and
its logs a database is brought to any moment up to the newest log:

  ship     take the logs that are complete, every 15 minutes
  list     show what is there: unbroken rows of logs, and the moments that each backup can be brought to
  restore  make a restored data folder ready to recover to a moment
  stop     make the guest keep logs for us no more

The order is: ship, which makes the databases keep their logs from now on; a backup with --guest; and ship goes on.`),
		Example: example(`
hikae guest logs ship --repo /backup/hikae --name web1 ssh://root@web1
hikae guest logs list --repo /backup/hikae web1
hikae guest logs restore --repo /backup/hikae web1@latest --data /srv/pg --wal /srv/wal --time 2026-01-31T12:00:00Z`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(t.guestLogsShipCommand(), t.guestLogsListCommand(), t.guestLogsRestoreCommand(), t.guestLogsStopCommand())
	return cmd
}

// shipFlags are how logs are shipped.
type shipFlags struct {
	waysFlags
	*access
	vm        string
	skip      []string
	every     time.Duration
	unbounded bool
	once      bool
}

func (t *tool) guestLogsShipCommand() *cobra.Command {
	f := &shipFlags{}
	cmd := &cobra.Command{
		Use:   "ship --repo REPO --name VM GUEST…",
		Short: "Take the transaction logs of a guest's databases into the repository",
		Long: text(`
Take what the databases in a guest have logged, every --every until SIGTERM, or --once from cron. Each time the component
is brought into the guest, hands out the logs that are complete and are not in the repository yet, is told which are safe,
and is removed.

Logs go with the VM's newest backup that was made with --guest. As long as there is none nothing is taken, but databases
keep their logs from the first time on: PostgreSQL by a replication slot, within max_slot_wal_keep_size. Set that; without
a bound its disk fills up when nobody ships. ` + "`hikae guest logs stop`" + ` ends it.

A database that could not be made ready for that backup waits for the next one. What cannot be taken stays in the guest
until the next time. Logs that are missing are told as a gap; nothing behind it can be reached from a backup before it.

Exit status 0: taken, or ended by SIGTERM. 1: something could not be taken. 3: a gap, or a database waits.`),
		Example: example(`
hikae guest logs ship --repo /backup/hikae --name web1 ssh://root@web1
*/15 * * * * hikae guest logs ship --quiet --once --repo /backup/hikae --name web1 ssh://root@web1`),
		Args: want("GUEST…", "[GUEST]"),
	}
	f.access = repoFlags(cmd)
	f.waysFlags.flags(cmd, "")
	flags := cmd.Flags()
	flags.StringVar(&f.vm, "name", "", "`VM`: the name under which it is backed up (required)")
	flags.BoolVar(&f.unbounded, "unbounded", false, "have a database keep its logs for us without bound: its disk fills where nobody takes them (see max_slot_wal_keep_size)")
	flags.DurationVar(&f.every, "every", logs.DefaultEvery, "take logs this often, from 1s to 480m")
	flags.BoolVar(&f.once, "once", false, "take them once, and end")
	flags.StringArrayVar(&f.skip, "skip", nil, "leave the database `KIND/NAME` alone; may repeat")
	cmd.MarkFlagsMutuallyExclusive("every", "once")
	if err := cmd.MarkFlagRequired("name"); err != nil {
		panic(err) // the flag is defined just above
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.guestLogsShip(ctx, f, args) })
	return cmd
}

func (t *tool) guestLogsShip(ctx context.Context, f *shipFlags, urls []string) (*reply, error) {
	if f.vm == "" {
		return nil, outcome.Usage("Name the VM as its backups do.", "--name is empty")
	}
	if f.every < logs.MinEvery || f.every > logs.MaxEvery {
		return nil, outcome.Usage("", "--every is from %s to %s", logs.MinEvery, logs.MaxEvery)
	}
	for _, u := range urls { // what is written wrongly is told now, not in every round
		if _, err := parseWay(u); err != nil {
			return nil, err
		}
	}
	if f.waysFlags.name == "" {
		f.waysFlags.name = f.vm
	}
	s := &shipper{tool: t, flags: f, urls: urls}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	defer s.close()
	if f.once {
		doc, err := s.round(ctx)
		if doc == nil {
			return nil, err
		}
		return doc.reply(), err
	}
	return s.run(ctx)
}

// run goes round until the context ends, and tells what the last round did.
func (s *shipper) run(ctx context.Context) (left *reply, err error) {
	for ctx.Err() == nil {
		doc, err := s.round(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil { // the next round may do better, perhaps with the repository opened anew
			s.warn(err.Error())
			s.close()
		}
		if doc != nil {
			left = doc.reply()
			for _, w := range left.warnings {
				s.warn(w)
			}
			s.tell("%s", doc.summary())
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.flags.every):
		}
	}
	if left == nil {
		return nil, nil
	}
	return &reply{doc: left.doc}, nil // the rest has been told
}

// warn says what a person should look at, also where --quiet holds the rest back.
func (s *shipper) warn(text string) {
	fmt.Fprintf(s.stderr, "%s %s\n", s.printer(s.stderr).Yellow("warning:"), outcome.Clean(text))
}

func (t *tool) guestLogsStopCommand() *cobra.Command {
	f := &waysFlags{}
	cmd := &cobra.Command{
		Use:   "stop GUEST…",
		Short: "Make a guest's databases keep logs for us no more",
		Long: text(`
Take away what makes the databases in a guest keep their logs until they are shipped: our replication slot in PostgreSQL.
What is in the repository stays. After another ` + "`hikae guest logs ship`" + ` a new backup is needed.`),
		Example: example(`
hikae guest logs stop ssh://root@web1`),
		Args: want("GUEST…", "[GUEST]"),
	}
	f.flags(cmd, "")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.guestLogsStop(ctx, f, args) })
	return cmd
}

// logsStopDoc is what stop prints for scripts.
type logsStopDoc struct {
	Guest   string   `json:"guest"`
	Stopped []string `json:"stopped"` // KIND/NAME
}

func (t *tool) guestLogsStop(ctx context.Context, f *waysFlags, urls []string) (*reply, error) {
	doc := logsStopDoc{Stopped: []string{}}
	in, err := t.bringIn(ctx, f, urls, func(_ *guestReached, d *guest.Deployed) error {
		found, err := d.Component.Inspect(ctx, wire.InspectArgs{Applications: true})
		if err != nil {
			return err
		}
		var errs []error
		for _, a := range found.Applications {
			if !ships(a) {
				continue
			}
			if _, err := d.Component.Logs(ctx, wire.LogsArgs{Kind: a.Kind, Name: a.Name, End: true}); err != nil {
				errs = append(errs, err)
				continue
			}
			doc.Stopped = append(doc.Stopped, a.Kind+"/"+a.Name)
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return nil, err
	}
	doc.Guest = in.Guest
	return &reply{doc: doc, loud: true, text: func(w *show.Printer) error {
		if len(doc.Stopped) == 0 {
			return w.Printf("%s: no database here keeps logs for us\n", doc.Guest)
		}
		for _, a := range doc.Stopped {
			if err := w.Printf("%s: %s keeps no logs for us any more\n", outcome.Clean(doc.Guest), outcome.Clean(a)); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}
