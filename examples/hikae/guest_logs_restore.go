package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/guest/logs"
)

// postgresKind is what clusters of PostgreSQL are called in guests.
const postgresKind = "postgresql"

// logsRestoreFlags say what is made ready, and for when.
type logsRestoreFlags struct {
	*access
	app, data, wal, at string
	tablespaces        []string
	pause              bool
}

func (t *tool) guestLogsRestoreCommand() *cobra.Command {
	f := &logsRestoreFlags{}
	cmd := &cobra.Command{
		Use:   "restore --repo REPO POINT --data FOLDER --wal FOLDER",
		Short: "Make a restored database ready to be brought to a moment",
		Long: text(`
Make the data folder of a PostgreSQL cluster, which was restored from POINT before (hikae restore, as a disk or as files),
ready to be brought to a moment: put the logs that this takes into --wal, and write backup_label, recovery.signal and the
settings of the recovery into --data. Then start the server on it. Every transaction that had committed by --time will be
there, and no other.

No server may run on --data. --wal is made where it does not exist; otherwise it must belong to the folder's account and
hold nothing else. It is needed until the server has recovered. Without --data and --wal nothing is written: the command
says which moments there are.

MariaDB and MySQL recover to the backup's moment by themselves, and their own tool plays the logs from there. For them
--wal alone is given; the command writes the logs into it, and prints the line that plays them.`),
		Example: example(`
hikae guest logs restore --repo /backup/hikae web1@latest
hikae restore --repo /backup/hikae web1@latest --file 'var/lib/postgresql/**' --to /srv/web1/
hikae guest logs restore --repo /backup/hikae web1@latest --data /srv/web1/var/lib/postgresql/15/main --wal /srv/wal --time 2026-01-31T12:00:00Z`),
		Args: want("POINT"),
	}
	f.access = repoFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.app, "app", "", "`KIND/NAME` of the cluster, as hikae guest logs list shows it (default: the only one)")
	flags.StringVar(&f.data, "data", "", "`FOLDER` with the restored cluster")
	flags.StringVar(&f.wal, "wal", "", "`FOLDER` for the logs")
	flags.StringVar(&f.at, "time", "", "the moment, as `RFC3339`, with fractions of a second where they matter (default: the latest)")
	flags.StringArrayVar(&f.tablespaces, "tablespace", nil, "a tablespace lies elsewhere now: `OLD=NEW`; may repeat")
	flags.BoolVar(&f.pause, "pause", false, "stop at the moment, read-only, until somebody promotes the cluster (pg_wal_replay_resume)")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.guestLogsRestore(ctx, f, args[0]) })
	return cmd
}

// options are the plan's.
func (f *logsRestoreFlags) options() (*logs.PostgresOptions, error) {
	opts := &logs.PostgresOptions{Pause: f.pause, Tablespaces: map[string]string{}}
	if f.at != "" {
		at, err := time.Parse(time.RFC3339Nano, f.at)
		if err != nil {
			return nil, outcome.Usage("Write it as 2026-01-31T12:00:00Z.", "--time %q is not a time", f.at)
		}
		opts.Target = at
	}
	for _, pair := range f.tablespaces {
		from, to, ok := strings.Cut(pair, "=")
		if !ok || !filepath.IsAbs(from) || !filepath.IsAbs(to) {
			return nil, outcome.Usage("Write it as /old/folder=/new/folder.", "--tablespace %q", pair)
		}
		opts.Tablespaces[from] = to
	}
	return opts, nil
}

// logsRestoreDoc is what restore prints for scripts.
type logsRestoreDoc struct {
	Point    string    `json:"point"`
	App      string    `json:"app"`
	Earliest time.Time `json:"earliest"`
	Latest   time.Time `json:"latest"`
	Target   time.Time `json:"target"`
	Logs     int       `json:"logs"` // that it takes
	Data     string    `json:"data"` // empty: nothing was written
	WAL      string    `json:"wal"`
	Gap      string    `json:"gap"` // why latest is not later
	Next     []string  `json:"next"`
}

func (t *tool) guestLogsRestore(ctx context.Context, f *logsRestoreFlags, spec string) (*reply, error) {
	opts, err := f.options()
	if err != nil {
		return nil, err
	}
	r, err := t.open(ctx, f.access, false) // a lease keeps the point and its logs for as long as they are read
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := r.readable(); err != nil {
		return nil, err
	}
	kept, app, err := f.find(ctx, r, spec)
	if err != nil {
		return nil, err
	}
	doc := &logsRestoreDoc{Point: kept.info.ID, App: app.String(), Next: []string{}}
	if doc.Data, doc.WAL, err = f.folders(app); err != nil {
		return nil, err
	}
	store := logs.NewPoints(r)
	if app.Kind == postgresKind {
		err = f.postgres(ctx, store, app, kept, opts, doc)
	} else {
		err = f.binlog(ctx, store, app, kept, opts.Target, doc)
	}
	if err != nil {
		return nil, unreachable(app, err)
	}
	return &reply{doc: doc, loud: true, text: doc.print}, nil
}

// folders are where to write; empty: nowhere.
func (f *logsRestoreFlags) folders(app application) (data, wal string, err error) {
	switch {
	case app.Kind == postgresKind && (f.data == "") != (f.wal == ""):
		return "", "", outcome.Usage("", "--data and --wal are given together, or none of them")
	case app.Kind != postgresKind && (f.data != "" || f.pause || len(f.tablespaces) > 0):
		return "", "", outcome.Usage("Give --wal alone.", "--data, --tablespace and --pause are for PostgreSQL, and this is %s", app)
	}
	if f.data != "" {
		if data, err = filepath.Abs(f.data); err != nil {
			return "", "", err
		}
	}
	if f.wal != "" {
		wal, err = filepath.Abs(f.wal)
	}
	return data, wal, err
}

// find finds the point, what databases left in it, and which of them is meant.
func (f *logsRestoreFlags) find(ctx context.Context, r *opened, spec string) (kept *inGuestRecords, app application, err error) {
	p, err := findPoint(ctx, r, f.repo, spec)
	if err != nil {
		return nil, app, err
	}
	if !inGuestPoint(p) {
		return nil, app, &outcome.Error{Kind: outcome.KindNotFound, Object: p.ID, Text: "this backup was not made with --guest: it holds nothing that logs could go on from",
			Hint: "`hikae guest logs list` shows those that do."}
	}
	if kept, err = readRecords(ctx, r, p); err != nil {
		return nil, app, about(f.repo, "", err)
	}
	app, err = f.choose(kept)
	return kept, app, err
}

// postgres plans for a cluster, and makes it ready where a folder was named.
func (f *logsRestoreFlags) postgres(ctx context.Context, store logs.Store, app application, kept *inGuestRecords, opts *logs.PostgresOptions, doc *logsRestoreDoc) error {
	plan, err := logs.PlanPostgres(ctx, store, logs.Stream{VM: kept.info.VM, Kind: app.Kind, Name: app.Name}, kept.of(app.Kind, app.Name), opts)
	if err != nil {
		return err
	}
	doc.plan(plan.Earliest, plan.Latest, plan.Target, len(plan.Logs), plan.Gap)
	if doc.Data == "" {
		return nil
	}
	if err := noServer(doc.Data); err != nil {
		return err
	}
	if err := logsFolder(doc.Data, doc.WAL, slices.Concat(plan.Histories, plan.Logs)); err != nil {
		return err
	}
	if err := plan.Write(ctx, doc.Data, doc.WAL); err != nil {
		return &outcome.Error{Object: doc.Data, Text: "make the cluster ready", Err: err}
	}
	doc.Next = f.next(doc)
	return nil
}

// binlog plans for a server of MariaDB or MySQL, and writes its logs where a folder was named.
func (f *logsRestoreFlags) binlog(ctx context.Context, store logs.Store, app application, kept *inGuestRecords, target time.Time, doc *logsRestoreDoc) error {
	plan, err := planBinlog(ctx, store, app, kept, target)
	if err != nil {
		return err
	}
	doc.plan(plan.earliest, plan.latest, plan.target, len(plan.logs), plan.gap)
	if doc.WAL == "" {
		return nil
	}
	doc.Next = plan.next(doc.WAL, !target.IsZero())
	return plan.write(ctx, store, doc.WAL)
}

// plan notes what is to be done.
func (d *logsRestoreDoc) plan(earliest, latest, target time.Time, count int, gap *logs.GapError) {
	d.Earliest, d.Latest, d.Target, d.Logs = earliest.UTC(), latest.UTC(), target.UTC(), count
	if gap != nil {
		d.Gap = gap.Error()
	}
}

// choose finds the database that is meant.
func (f *logsRestoreFlags) choose(kept *inGuestRecords) (application, error) {
	var fit []application
	var names []string
	for _, a := range kept.apps() {
		if logs.From(kept.of(a.Kind, a.Name)) == "" {
			continue
		}
		if names = append(names, a.String()); f.app == "" || f.app == a.String() {
			fit = append(fit, a)
		}
	}
	hint := "The backup has " + strings.Join(names, ", ") + "."
	switch {
	case len(fit) == 1:
		return fit[0], nil
	case len(fit) > 1:
		return application{}, outcome.Usage(hint, "the backup has several databases: choose one with --app")
	case len(names) == 0:
		hint = "Its records in the guest are missing: was the database running?"
	}
	return application{}, &outcome.Error{Kind: outcome.KindNotFound, Object: f.app, Text: "the backup has no such database", Hint: hint}
}

// unreachable says what could be reached, where that is what is wrong.
func unreachable(app application, err error) error {
	if _, own := errors.AsType[*outcome.Error](err); own {
		return err
	}
	e := &outcome.Error{Object: app.String(), Err: err}
	if at, ok := errors.AsType[*logs.TimeError](err); ok {
		e.Kind = outcome.KindNotFound
		e.Hint = fmt.Sprintf("From %s to %s it can; another backup may lead further.", moment(&at.Earliest), moment(&at.Latest))
		return e
	}
	if _, ok := errors.AsType[*logs.GapError](err); ok {
		e.Hint = "Has `hikae guest logs ship` run since that backup? `hikae guest logs list` shows which logs there are."
	}
	return e
}

// next says what a person does now.
func (f *logsRestoreFlags) next(doc *logsRestoreDoc) []string {
	end := "open to writes"
	if f.pause {
		end = "paused, read-only, until SELECT pg_wal_replay_resume()"
	}
	return []string{
		"start the server on " + doc.Data + " as the account that owns it: it recovers to " + doc.Target.Format(time.RFC3339Nano) + ", and is then " + end,
		"when SELECT pg_is_in_recovery() says f, remove " + doc.WAL,
		"back it up anew: it goes on, on a new timeline",
	}
}

// noServer refuses a folder that a server of this machine runs on. A number of a process in a folder that comes from an
// image is another machine's, so it is the process that is asked where it stands.
func noServer(data string) error {
	b, err := readSmall(filepath.Join(data, "postmaster.pid"), 4<<10)
	if errors.Is(err, fs.ErrNotExist) || runtime.GOOS != "linux" {
		return nil
	}
	if err != nil {
		return err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	pid, err := strconv.Atoi(strings.TrimSpace(string(line)))
	if err != nil || pid <= 0 {
		return nil
	}
	stands, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return nil // there is no such process
	}
	if info, err := os.Stat(data); err != nil || !os.SameFile(info, stands) {
		return err
	}
	return &outcome.Error{Kind: outcome.KindBusy, Object: data, Text: fmt.Sprintf("a server runs on it: process %d", pid), Hint: "Stop it first. Is this the restored folder?"}
}

// logsFolder makes the folder for logs, or sees that it holds no others. It belongs to the account that has data; empty:
// to whom it may.
func logsFolder(data, folder string, wanted []logs.Log) error {
	err := os.Mkdir(folder, 0o700)
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".partial")
		if !slices.ContainsFunc(wanted, func(l logs.Log) bool { return l.Name == name }) {
			return &outcome.Error{Kind: outcome.KindExists, Object: folder, Text: fmt.Sprintf("%s holds %q, which does not belong there", folder, e.Name()), Hint: "Name a new folder with --wal."}
		}
	}
	if data == "" {
		return nil
	}
	return sameOwner(data, folder, made)
}

func (d *logsRestoreDoc) print(w *show.Printer) error {
	if err := w.Facts("database", outcome.Clean(d.App), "earliest", moment(&d.Earliest), "latest", moment(&d.Latest), "chosen", moment(&d.Target),
		"logs", fmt.Sprint(d.Logs)); err != nil {
		return err
	}
	if d.Gap != "" {
		if err := w.Printf("%s\n", outcome.Clean(d.Gap)); err != nil {
			return err
		}
	}
	for i, n := range d.Next {
		if err := w.Printf("%d. %s\n", i+1, outcome.Clean(n)); err != nil {
			return err
		}
	}
	return nil
}
