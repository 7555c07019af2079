package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

// PostgresOptions choose what a cluster is brought to. Nil and zero fields are good defaults.
type PostgresOptions struct {
	// Target is the moment. Every transaction that had committed by then is there, and no other (at the backup's own end:
	// at least those). Zero: the latest.
	Target time.Time
	// Pause stops there and lets people look, read-only, before they promote it (pg_wal_replay_resume). False: the
	// cluster is open to writes when it has got there.
	Pause bool
	// Tablespaces are folders that lie elsewhere now: old to new.
	// A folder that the image has no tablespace in is an error.
	Tablespaces map[string]string
	// Archive lets the restored server go on with the archive_command that stands in its settings. False: it archives
	// nothing (archive_mode = off), so that a copy started beside the original writes nothing into that one's archive.
	Archive bool
}

// PostgresPlan says what a restore will do, and can be printed before it does.
type PostgresPlan struct {
	Stream Stream                `json:"stream"`
	Backup record.PostgresBackup `json:"backup"`
	// Earliest is the backup's end: what is restored to it has at least all that had committed by then.
	Earliest time.Time `json:"earliest"`
	Latest   time.Time `json:"latest"`
	Target   time.Time `json:"target"`
	// Immediate says that Target is the backup's end itself: recovery stops as soon as the cluster is consistent. All that
	// had committed by Target is there, and what committed in the milliseconds in which the backup ended may be too.
	Immediate bool  `json:"immediate"`
	Pause     bool  `json:"pause"`
	Logs      []Log `json:"logs"`                // that are needed, in order
	Histories []Log `json:"histories,omitempty"` // of the timeline
	// Gap is why Latest is not later, where logs are missing.
	Gap *GapError `json:"gap,omitempty"`

	store       Store
	label       []byte
	spaces      []byte
	tablespaces map[string]string
	archive     bool
	since, end  time.Time // of the backup: when it began, and from when on moments can be told apart
}

// backupLabel is what a backup_label says.
type backupLabel struct {
	start   int64 // LSN
	segment string
}

// maxRecord bounds a record.
const maxRecord = 1 << 20

// parseLabel reads the line that a recovery begins with. The rest is the server's own.
func parseLabel(b []byte) (backupLabel, error) {
	line, _, _ := strings.Cut(string(b[:min(len(b), 256)]), "\n")
	lsn, file, ok := strings.Cut(strings.TrimPrefix(line, "START WAL LOCATION: "), " (file ")
	file, closed := strings.CutSuffix(file, ")")
	if !ok || !closed || !strings.HasPrefix(line, "START WAL LOCATION: ") || !record.IsSegment(file) || len(b) > maxRecord {
		return backupLabel{}, fmt.Errorf("backup_label begins with %.200q: %w", line, fs.ErrInvalid)
	}
	at, err := record.ParseLSN(lsn)
	if err != nil {
		return backupLabel{}, fmt.Errorf("backup_label: %w", err)
	}
	return backupLabel{at, file}, nil
}

// file finds one application's record.
func file(records []wire.Record, s Stream, name string) ([]byte, error) {
	for _, r := range records {
		if r.Kind == s.Kind && r.Name == s.Name && r.File == name {
			if len(r.Content) > maxRecord {
				return nil, fmt.Errorf("record %s of %d bytes: %w", name, len(r.Content), fs.ErrInvalid)
			}
			return r.Content, nil
		}
	}
	return nil, fmt.Errorf("%s: record %s: %w", s, name, fs.ErrNotExist)
}

// PlanPostgres finds out which moments a cluster can be brought to, from an image with its records on, and what that
// takes. A moment out of reach is a *TimeError. A chain that does not reach the end of the image's own backup is a
// *GapError: with it, an image of disks that were copied one after the other restores nothing. (An image of one moment
// recovers by itself: start the server on it, without this package.)
func PlanPostgres(ctx context.Context, st Store, s Stream, records []wire.Record, opts *PostgresOptions) (*PostgresPlan, error) {
	p := &PostgresPlan{Stream: s, store: st}
	var o PostgresOptions
	if opts != nil {
		o = *opts
	}
	p.Pause, p.tablespaces, p.archive = o.Pause, o.Tablespaces, o.Archive
	label, err := p.read(records)
	if err != nil {
		return nil, err
	}
	if err := p.reach(ctx, label); err != nil {
		return nil, err
	}
	return p, p.aim(o.Target)
}

// read takes the records apart and holds them against each other.
func (p *PostgresPlan) read(records []wire.Record) (label backupLabel, err error) {
	if p.label, err = file(records, p.Stream, "backup_label"); err != nil {
		return label, err
	}
	facts, err := file(records, p.Stream, "backup.json")
	if err != nil {
		return label, err
	}
	p.spaces, _ = file(records, p.Stream, "tablespace_map") // a cluster without tablespaces has none
	d := json.NewDecoder(bytes.NewReader(facts))
	d.DisallowUnknownFields()
	if err := d.Decode(&p.Backup); err != nil {
		return label, fmt.Errorf("%s: backup.json: %w", p.Stream, err)
	}
	if label, err = parseLabel(p.label); err != nil {
		return label, fmt.Errorf("%s: %w", p.Stream, err)
	}
	n, err := record.SegmentNumber(label.segment, p.Backup.SegmentBytes)
	if err != nil {
		return label, fmt.Errorf("%s: %w", p.Stream, err)
	}
	if n != label.start/p.Backup.SegmentBytes || label.segment[:8] != p.Backup.Timeline {
		return label, fmt.Errorf("%s: backup_label and backup.json are not of one backup: %w", p.Stream, fs.ErrInvalid)
	}
	if at, err := record.ParseLSN(p.Backup.StartLSN); err != nil || at != label.start {
		return label, fmt.Errorf("%s: backup_label begins at another place than backup.json (%.64q): %w", p.Stream, p.Backup.StartLSN, fs.ErrInvalid)
	}
	if err := p.times(); err != nil {
		return label, fmt.Errorf("%s: backup.json: %w", p.Stream, err)
	}
	return label, p.mapped()
}

// times reads the backup's moments. The older records lack some.
func (p *PostgresPlan) times() (err error) {
	if p.Earliest, err = time.Parse(time.RFC3339Nano, p.Backup.StopTime); err != nil {
		return err
	}
	if p.end = p.Earliest; p.Backup.EndTime != "" {
		if p.end, err = time.Parse(time.RFC3339Nano, p.Backup.EndTime); err != nil {
			return err
		}
	}
	if p.Backup.StartTime != "" {
		p.since, err = time.Parse(time.RFC3339Nano, p.Backup.StartTime)
	}
	return err
}

// mapped makes sure that each folder that is said to lie elsewhere is one of a tablespace.
func (p *PostgresPlan) mapped() error {
	known := map[string]bool{}
	for line := range strings.Lines(string(p.spaces)) {
		_, path, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		known[path] = true
	}
	for from := range p.tablespaces {
		if !known[from] {
			return fmt.Errorf("%s: no tablespace lies in %q: %w", p.Stream, from, fs.ErrNotExist)
		}
	}
	return nil
}

// reach finds the latest moment.
func (p *PostgresPlan) reach(ctx context.Context, label backupLabel) (err error) {
	if p.Logs, p.Gap, err = ChainSince(ctx, p.store, p.Stream, p.Backup.Timeline, label.segment, p.since); err != nil {
		return err
	}
	if p.Histories, err = p.history(ctx); err != nil {
		return err
	}
	stop, err := record.ParseLSN(p.Backup.StopLSN)
	if err != nil || stop <= label.start {
		return fmt.Errorf("%s: a backup from %d to %q", p.Stream, label.start, p.Backup.StopLSN)
	}
	end := record.SegmentName(p.Backup.Timeline, (stop-1)/p.Backup.SegmentBytes, p.Backup.SegmentBytes)
	if len(p.Logs) == 0 || p.Logs[len(p.Logs)-1].Name < end {
		g := p.Gap
		if g == nil {
			g = &GapError{Stream: p.Stream}
			if len(p.Logs) > 0 {
				g.After = p.Logs[len(p.Logs)-1].Name
			}
		}
		g.Words = strings.TrimSpace("the backup itself ends in " + end + "; " + g.Words)
		return g
	}
	p.Latest = p.end
	for _, o := range p.Logs {
		if o.Mark && o.Name >= end && o.Time.After(p.Latest) {
			p.Latest = o.Time
		}
	}
	return nil
}

// history finds the timeline's history: it never changes within a life, so the last one is as good as any.
func (p *PostgresPlan) history(ctx context.Context) (found []Log, err error) {
	for o, err := range p.store.Logs(ctx, p.Stream) {
		var damaged *BatchError
		if errors.As(err, &damaged) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if o.Name == p.Backup.Timeline+".history" && (len(p.Logs) == 0 || o.Life == p.Logs[0].Life) {
			found = []Log{o}
		}
	}
	return found, nil
}

// aim chooses the moment, and leaves of the logs those that it takes.
func (p *PostgresPlan) aim(target time.Time) error {
	if p.Target = target; target.IsZero() {
		p.Target = p.Latest
	}
	if p.Target.Before(p.Earliest) || p.Target.After(p.Latest) {
		return &TimeError{Stream: p.Stream, Asked: target, Earliest: p.Earliest, Latest: p.Latest, Gap: p.Gap}
	}
	// Before the end of the backup is recovered a server cannot stop: the few milliseconds of it are one moment.
	p.Immediate = !p.Target.After(p.end)
	stop, err := record.ParseLSN(p.Backup.StopLSN)
	if err != nil {
		return err
	}
	end := record.SegmentName(p.Backup.Timeline, (stop-1)/p.Backup.SegmentBytes, p.Backup.SegmentBytes)
	for i, o := range p.Logs {
		if p.Immediate && o.Name == end || !p.Immediate && o.Mark && !o.Time.Before(p.Target) && o.Name >= end {
			p.Logs = p.Logs[:i+1]
			break
		}
	}
	return nil
}
