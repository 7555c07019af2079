package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/logs"
)

// binlogPlan is what brings a MariaDB or MySQL server on from a backup: it recovers to the backup's moment by itself, and
// its own tool plays the binary logs from there.
type binlogPlan struct {
	stream logs.Stream
	at     record.BinlogPosition
	logs   []logs.Log
	gap    *logs.GapError

	earliest, latest, target time.Time
}

// planBinlog finds out which moments there are. Zero target: the latest.
func planBinlog(ctx context.Context, store logs.Store, app application, kept *inGuestRecords, target time.Time) (*binlogPlan, error) {
	p := &binlogPlan{stream: logs.Stream{VM: kept.info.VM, Kind: app.Kind, Name: app.Name}, target: target}
	for _, r := range kept.of(app.Kind, app.Name) {
		if r.File != "binlog.json" {
			continue
		}
		if err := json.Unmarshal(r.Content, &p.at); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", p.stream, r.File, err)
		}
	}
	base, _, ok := record.BinlogNumber(p.at.File)
	if !ok {
		return nil, fmt.Errorf("%s: the backup does not say where in the binary log it stands", p.stream)
	}
	var err error
	if p.earliest, err = time.Parse(time.RFC3339Nano, p.at.Time); err != nil {
		return nil, fmt.Errorf("%s: binlog.json: %w", p.stream, err)
	}
	p.latest = p.earliest
	if p.logs, p.gap, err = logs.Chain(ctx, store, p.stream, base, p.at.File); err != nil {
		return nil, err
	}
	if len(p.logs) == 0 {
		return nil, p.gap
	}
	p.latest = later(p.latest, p.logs[len(p.logs)-1].Time)
	return p, p.aim()
}

// aim chooses the moment, and leaves of the logs those that it takes.
func (p *binlogPlan) aim() error {
	if p.target.IsZero() {
		p.target = p.latest
		return nil
	}
	if p.target.Before(p.earliest) || p.target.After(p.latest) {
		return &logs.TimeError{Stream: p.stream, Asked: p.target, Earliest: p.earliest, Latest: p.latest, Gap: p.gap}
	}
	for i, l := range p.logs {
		if !l.Time.Before(p.target) {
			p.logs = p.logs[:i+1]
			break
		}
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// write fills the folder.
func (p *binlogPlan) write(ctx context.Context, store logs.Store, wal string) error {
	if err := logsFolder("", wal, p.logs); err != nil {
		return err
	}
	if err := logs.Fill(ctx, store, p.stream, p.logs, wal); err != nil {
		return &outcome.Error{Object: wal, Text: "write the logs", Err: err}
	}
	return nil
}

// next says what a person does then. The names of the logs have been looked at: they need no quotes.
func (p *binlogPlan) next(wal string, exact bool) []string {
	tool, client := "mariadb-binlog", "mariadb"
	if p.stream.Kind == "mysql" {
		tool, client = "mysqlbinlog", "mysql"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "TZ=UTC %s --start-position=%d", tool, p.at.Offset)
	if exact {
		fmt.Fprintf(&b, " --stop-datetime='%s'", p.target.UTC().Format(time.DateTime))
	}
	for _, l := range p.logs {
		b.WriteString(" '" + strings.ReplaceAll(filepath.Join(wal, l.Name), "'", `'\''`) + "'")
	}
	steps := []string{
		"start the server on the restored data folder, for nobody else yet: it recovers to " + moment(&p.earliest),
		b.String() + " | " + client + " --binary-mode",
		"back it up anew, and remove " + wal,
	}
	if exact {
		steps = append(steps, "binary logs know whole seconds: what was committed within the second "+p.target.UTC().Format(time.DateTime)+" is left out")
	}
	return steps
}
