package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/logs"
	"github.com/hikae/hikae/pipe"
)

func (t *tool) guestLogsListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list --repo REPO VM",
		Short: "Show the logs of a VM's databases, and the moments they lead to",
		Long: text(`
Show the logs that are stored: for each database the unbroken rows of them, with what is missing in front of a row. Then
show for each backup of the VM from when to when its databases can be brought, and why not further. A moment can be given
to ` + "`hikae guest logs restore --time`" + ` as it stands there.

Logs are stored as points of a VM called VM/logs, which hikae points shows.`),
		Example: example(`
hikae guest logs list --repo /backup/hikae web1
hikae guest logs list --repo /backup/hikae web1 --json | jq -r '.points[-1].latest'`),
		Args: want("VM"),
	}
	a := repoFlags(cmd)
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.guestLogsList(ctx, a, args[0]) })
	return cmd
}

// logsListDoc is what list prints for scripts.
type logsListDoc struct {
	VM     string      `json:"vm"`
	Chains []logsChain `json:"chains"`
	Points []logsReach `json:"points"`
}

// logsChain is an unbroken row of logs.
type logsChain struct {
	App      string    `json:"app"` // KIND/NAME
	Timeline string    `json:"timeline"`
	First    string    `json:"first"`
	Last     string    `json:"last"`
	Logs     int       `json:"logs"`
	Bytes    int64     `json:"bytes"`
	Begin    time.Time `json:"begin"` // when the first one was complete
	End      time.Time `json:"end"`
	Gap      string    `json:"gap"` // what is missing in front of it
}

// logsReach is to which moments a backup of a database can be brought.
type logsReach struct {
	Point    string     `json:"point"`
	Time     time.Time  `json:"time"`
	App      string     `json:"app"`
	Earliest *time.Time `json:"earliest"` // null: to none
	Latest   *time.Time `json:"latest"`
	Logs     int        `json:"logs"`
	Problem  string     `json:"problem"` // why to none, or not further
}

func (t *tool) guestLogsList(ctx context.Context, a *access, vm string) (*reply, error) {
	r, err := t.open(ctx, a, true)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := errors.Join(r.readable(), r.ownName(vm)); err != nil {
		return nil, err
	}
	doc := logsListDoc{VM: vm, Chains: []logsChain{}, Points: []logsReach{}}
	left := &reply{loud: true}
	images, streams, err := t.logsOf(ctx, r, vm, left)
	if err != nil {
		return nil, about(a.repo, "list points", err)
	}
	if len(images)+len(streams) == 0 {
		return nil, &outcome.Error{Kind: outcome.KindNotFound, Object: vm, Err: fs.ErrNotExist,
			Text: "there is no backup of " + vm + " that was made with --guest, and no log", Hint: "`hikae points --repo REPO` lists the VMs."}
	}
	store := logs.NewPoints(r)
	for _, s := range streams {
		chains, err := chainsOf(ctx, store, s)
		if err != nil {
			return nil, about(a.repo, "list logs", err)
		}
		doc.Chains = append(doc.Chains, chains...)
	}
	for _, p := range images {
		kept, err := readRecords(ctx, r, p)
		if err != nil {
			left.warnings, left.status = append(left.warnings, err.Error()), outcome.Warned
			continue
		}
		for _, app := range kept.apps() {
			if logs.From(kept.of(app.Kind, app.Name)) != "" {
				doc.Points = append(doc.Points, reachOf(ctx, store, app, kept))
			}
		}
	}
	left.doc, left.text = doc, doc.print
	return left, ctx.Err()
}

// logsOf finds a VM's backups with records, and the databases that logs are stored of.
func (t *tool) logsOf(ctx context.Context, r *opened, vm string, left *reply) (images []pipe.PointInfo, streams []logs.Stream, err error) {
	for p, err := range r.Points(ctx, vm) {
		if left.unreadable(err) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if inGuestPoint(p) {
			images = append(images, p)
		}
	}
	for p, err := range r.Points(ctx, logs.VM(vm)) {
		if left.unreadable(err) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		kind, name, ok := strings.Cut(p.Facts["logs"], "/")
		if s := (logs.Stream{VM: vm, Kind: kind, Name: name}); ok && !slices.Contains(streams, s) {
			streams = append(streams, s)
		}
	}
	return images, streams, nil
}

// chainsOf cuts a stream into its unbroken rows.
func chainsOf(ctx context.Context, store logs.Store, s logs.Stream) (chains []logsChain, err error) {
	last := int64(-1)
	for l, err := range store.Logs(ctx, s) {
		if err != nil {
			return nil, err
		}
		n, ok := logNumber(l)
		if !ok {
			continue // a timeline's history is beside the row
		}
		if len(chains) == 0 || l.Gap != "" || l.Timeline != chains[len(chains)-1].Timeline || n != last+1 {
			chains = append(chains, logsChain{App: s.Kind + "/" + s.Name, Timeline: l.Timeline, First: l.Name, Begin: l.Time.UTC(), Gap: l.Gap})
		}
		c := &chains[len(chains)-1]
		c.Last, c.End, last = l.Name, l.Time.UTC(), n
		c.Logs, c.Bytes = c.Logs+1, c.Bytes+l.Size
	}
	return chains, nil
}

// logNumber is a log's place in its row.
func logNumber(l logs.Log) (int64, bool) {
	if n, err := record.SegmentNumber(l.Name, l.Size); err == nil {
		return n, true
	}
	_, n, ok := record.BinlogNumber(l.Name)
	return n, ok
}

// reachOf asks how far a backup's database can be brought.
func reachOf(ctx context.Context, store logs.Store, app application, kept *inGuestRecords) logsReach {
	d := logsReach{Point: kept.info.ID, Time: kept.info.Time.UTC(), App: app.String()}
	var earliest, latest time.Time
	var gap *logs.GapError
	if app.Kind == postgresKind {
		plan, err := logs.PlanPostgres(ctx, store, logs.Stream{VM: kept.info.VM, Kind: app.Kind, Name: app.Name}, kept.of(app.Kind, app.Name), nil)
		if err != nil {
			d.Problem = err.Error()
			return d
		}
		earliest, latest, gap, d.Logs = plan.Earliest.UTC(), plan.Latest.UTC(), plan.Gap, len(plan.Logs)
	} else {
		plan, err := planBinlog(ctx, store, app, kept, time.Time{})
		if err != nil {
			d.Problem = err.Error()
			return d
		}
		earliest, latest, gap, d.Logs = plan.earliest.UTC(), plan.latest.UTC(), plan.gap, len(plan.logs)
	}
	if d.Earliest, d.Latest = &earliest, &latest; gap != nil {
		d.Problem = gap.Error()
	}
	return d
}

func (d logsListDoc) print(w *show.Printer) error {
	table := show.NewTable("DATABASE", "FIRST LOG", "LAST LOG", ">LOGS", ">SIZE", "UNTIL", "")
	for _, c := range d.Chains {
		table.Row(outcome.Clean(c.App), outcome.Clean(c.First), outcome.Clean(c.Last), fmt.Sprint(c.Logs), show.Size(c.Bytes), show.Time(c.End), outcome.Clean(c.Gap))
	}
	if err := table.Print(w); err != nil {
		return err
	}
	if err := w.Printf("\n"); err != nil {
		return err
	}
	table = show.NewTable("POINT", "TIME", "DATABASE", "EARLIEST", "LATEST", "")
	for _, p := range d.Points {
		table.Row(p.Point[:min(12, len(p.Point))], show.Time(p.Time), outcome.Clean(p.App), moment(p.Earliest), moment(p.Latest), outcome.Clean(p.Problem))
	}
	return table.Print(w)
}

// moment is written as --time takes it.
func moment(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return at.UTC().Format(time.RFC3339Nano)
}
