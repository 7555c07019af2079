//go:build linux

package apps

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

// pgHeld is a backup that has begun. It lasts as long as its session.
type pgHeld struct {
	s      *pgSession
	name   string
	opts   *Options
	facts  pgFacts
	backup record.PostgresBackup
}

// utc is how a moment is asked for.
const utc = `to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`

// prepare begins a backup, with a checkpoint right away: waiting for the next one would be minutes.
func (s *postgres) prepare(ctx context.Context, label string) (held, error) {
	c, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	h, err := s.begin(ctx, c, label)
	if err != nil {
		c.close()
		return nil, err
	}
	return h, nil
}

func (s *postgres) begin(ctx context.Context, c *pgSession, label string) (held, error) {
	f, err := c.facts(ctx)
	if err != nil {
		return nil, err
	}
	if f.Recovery {
		return standby{c}, c.exec(ctx, "CHECKPOINT")
	}
	if f.Number >= 140000 {
		if err := c.exec(ctx, "SET idle_session_timeout = 0"); err != nil {
			return nil, err
		}
	}
	name, err := literal(label)
	if err != nil {
		return nil, err
	}
	call := fmt.Sprintf("pg_backup_start(%s, true)", name)
	if f.Number < 150000 {
		call = fmt.Sprintf("pg_start_backup(%s, true, false)", name)
	}
	h := &pgHeld{s: c, name: s.name, opts: s.opts, facts: f, backup: record.PostgresBackup{System: f.System, Version: f.Number,
		SegmentBytes: f.Segment, Data: s.p.folder, Tablespaces: map[string]string{}}}
	for _, t := range f.Tablespace {
		h.backup.Tablespaces[t.OID] = t.Path
	}
	var at struct{ Time, LSN string }
	if err := c.get(ctx, fmt.Sprintf("SELECT json_build_object('time', %s, 'lsn', (SELECT %s)::text)", utc, call), &at); err != nil {
		return nil, fmt.Errorf("pg_backup_start: %w", err)
	}
	h.backup.StartTime, h.backup.StartLSN = at.Time, at.LSN
	return h, nil
}

// alive makes sure that the session, and with it the backup, has not been lost.
func (h *pgHeld) alive(ctx context.Context) error {
	if err := h.s.exec(ctx, "SELECT 1"); err != nil {
		return fmt.Errorf("the session that holds the backup was lost: %w", err)
	}
	return nil
}

func (h *pgHeld) hold(ctx context.Context) error   { return h.alive(ctx) }
func (h *pgHeld) resume(ctx context.Context) error { return h.alive(ctx) }
func (h *pgHeld) close()                           { h.s.close() }

// finish ends the backup. It does not wait for an archive: the WAL up to here is ours to fetch.
func (h *pgHeld) finish(ctx context.Context) ([]wire.Record, error) {
	call := "pg_backup_stop(false)"
	if h.facts.Number < 150000 {
		call = "pg_stop_backup(false, false)"
	}
	// Asked for before: all that had committed by this moment lies before the backup's end, where the recovery to that end
	// stops. What commits between this answer and the end is there too.
	if err := h.s.get(ctx, "SELECT to_json("+utc+")", &h.backup.StopTime); err != nil {
		return nil, err
	}
	var end struct{ LSN, Label, Map, WAL string }
	err := h.s.get(ctx, "SELECT json_build_object('lsn', b.lsn::text, 'label', b.labelfile, 'map', coalesce(b.spcmapfile, ''), "+
		"'wal', pg_walfile_name(b.lsn)) FROM "+call+" b", &end)
	if err != nil {
		return nil, fmt.Errorf("pg_backup_stop: %w", err)
	}
	if err := h.s.get(ctx, "SELECT to_json("+utc+")", &h.backup.EndTime); err != nil {
		return nil, err
	}
	if !record.IsSegment(end.WAL) {
		return nil, fmt.Errorf("a segment called %q", clean(end.WAL, 64))
	}
	h.backup.StopLSN, h.backup.Timeline = end.LSN, end.WAL[:8]
	h.backup.Archived = h.archived(ctx, end.WAL)
	return h.records(end.Label, end.Map)
}

func (h *pgHeld) records(label, spaces string) ([]wire.Record, error) {
	facts, err := json.MarshalIndent(h.backup, "", "\t")
	if err != nil {
		return nil, err
	}
	files := []wire.Record{{File: "backup_label", Content: []byte(label)}, {File: "backup.json", Content: facts}}
	if spaces != "" {
		files = append(files, wire.Record{File: "tablespace_map", Content: []byte(spaces)})
	}
	for i := range files {
		files[i].Kind, files[i].Name = kindPostgres, h.name
	}
	return files, nil
}

// archived waits for the server's own archive, where it has one.
func (h *pgHeld) archived(ctx context.Context, wal string) bool {
	if h.facts.Archive == "off" || h.facts.Command == "" && h.facts.Library == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, h.opts.Archive)
	defer cancel()
	for {
		var last string
		// Not with the limit's own context: an answer that is late by then would end the session.
		err := h.s.get(context.WithoutCancel(ctx), "SELECT to_json(coalesce(last_archived_wal, '')) FROM pg_stat_archiver", &last)
		last = last[:min(len(last), len(wal))] // a backup's history file comes last, called after a segment
		if err != nil || last >= wal && record.IsSegment(last) && last[:8] == wal[:8] {
			return err == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// standby is a cluster in recovery. Its image recovers from the last restart point by itself; a backup that begins here
// would end in no WAL that we can close.
type standby struct{ s *pgSession }

func (h standby) hold(ctx context.Context) error                { return h.s.exec(ctx, "SELECT 1") }
func (h standby) resume(ctx context.Context) error              { return h.s.exec(ctx, "SELECT 1") }
func (h standby) finish(context.Context) ([]wire.Record, error) { return nil, nil }
func (h standby) close()                                        { h.s.close() }
