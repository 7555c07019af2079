//go:build linux

package apps

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

// Our slots. One keeps WAL. The other keeps none and is a mark: that this cluster's archive queue is ours. Both are durable
// rows of the cluster, go where it goes, and end with one statement. Their names have the guest in them: what a copy of
// this VM brought along is not ours, and nobody would ever move it.
func slotName(f pgFacts) string { return "hikae_" + ownPart(f) }
func markName(f pgFacts) string { return "hikae_q_" + ownPart(f) }

func ownPart(f pgFacts) string {
	n, _ := strconv.ParseUint(f.System, 10, 64)   // facts has checked it
	id, err := readFile("/etc/machine-id", 1<<10) // systemd's; without one, the host's name has to do
	if host, e := os.Hostname(); err != nil && e == nil {
		id = []byte(host)
	}
	sum := sha256.Sum256(bytes.TrimSpace(id))
	return fmt.Sprintf("%x_%x", n, sum[:4])
}

// logs lists a cluster's complete segments. It closes the current one, with a commit of its own behind the moment that
// is told: a recovery that is to end at that moment needs to see something later.
func (s *postgres) logs(ctx context.Context, args wire.LogsArgs) (*listing, error) {
	c, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	f, err := c.facts(ctx)
	if err != nil {
		return nil, err
	}
	if args.End {
		return &listing{}, c.dropOthers(ctx)
	}
	if err := f.refuses(); err != nil {
		return nil, &wire.Failure{Code: wire.CodeState, Message: err.Error()}
	}
	l := &listing{uid: s.p.uid, system: f.System, segment: f.Segment}
	l.check = l.isWAL
	if l.folder, err = filepath.EvalSymlinks(filepath.Join(s.p.folder, "pg_wal")); err != nil {
		return nil, err
	}
	if l.queue, err = c.archiver(ctx, f, l.folder, args.Begin); err != nil {
		return nil, err
	}
	if l.queue {
		return l, l.fromQueue(ctx, c)
	}
	if args.Begin {
		if err := c.dropOthers(ctx, slotName(f)); err != nil {
			return nil, err
		}
	}
	return l, l.fromSlot(ctx, c, f, args)
}

// archiver reports whether the archive queue is ours, and with begin makes it so where there never was an archiver: not by
// the server's counter, and not by what one has left in the folder.
func (s *pgSession) archiver(ctx context.Context, f pgFacts, wal string, begin bool) (bool, error) {
	if !f.archiver() {
		return false, nil
	}
	at, err := s.slot(ctx, markName(f))
	if err != nil || at.Exists {
		return at.Exists, err
	}
	done, err := filepath.Glob(filepath.Join(wal, "archive_status", "*.done"))
	if err != nil || len(done) > 0 {
		return false, err
	}
	if !begin {
		return false, &wire.Failure{Code: wire.CodeState, Message: "nothing was begun", Hint: "begin"}
	}
	if err := s.dropOthers(ctx); err != nil {
		return false, err
	}
	return true, s.makeSlot(ctx, markName(f), false)
}

// dropOthers drops all slots of ours but those named: those of copies of this VM, and of what we were before. One that is
// in use is somebody's.
func (s *pgSession) dropOthers(ctx context.Context, but ...string) error {
	sql := "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'hikae\\_%' " +
		"AND slot_type = 'physical' AND NOT active"
	for _, name := range but {
		quoted, err := literal(name)
		if err != nil {
			return err
		}
		sql += " AND slot_name <> " + quoted
	}
	return s.exec(ctx, sql)
}

// position is where a cluster's log is.
type position struct {
	Time     string `json:"time"` // of the mark
	Timeline string `json:"timeline"`
	Flushed  int64  `json:"flushed"` // bytes from the beginning of the log
}

// mark closes the current segment and tells where the log is then.
func (s *pgSession) mark(ctx context.Context) (position, error) {
	var at position
	if err := s.get(ctx, "SELECT to_json("+utc+")", &at.Time); err != nil {
		return at, err
	}
	if err := s.exec(ctx, "SELECT pg_current_xact_id()"); err != nil {
		return at, err
	}
	if err := s.exec(ctx, "SELECT pg_switch_wal()"); err != nil {
		return at, err
	}
	moment := at.Time
	err := s.get(ctx, "SELECT json_build_object('timeline', left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), "+
		"'flushed', pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint)", &at)
	at.Time = moment
	if err == nil && (!record.IsTimeline(at.Timeline) || at.Flushed < 0) {
		err = fmt.Errorf("a log of timeline %q at %d", clean(at.Timeline, 32), at.Flushed)
	}
	return at, err
}

// slot is what our slot keeps.
type slot struct {
	Exists  bool   `json:"exists"`
	Restart int64  `json:"restart"` // bytes from the beginning of the log; 0: nothing
	Status  string `json:"status"`
}

func (s *pgSession) slot(ctx context.Context, name string) (slot, error) {
	quoted, err := literal(name)
	if err != nil {
		return slot{}, err
	}
	var at slot
	err = s.get(ctx, "SELECT coalesce((SELECT json_build_object('exists', true, 'restart', "+
		"coalesce(pg_wal_lsn_diff(restart_lsn, '0/0')::bigint, 0), 'status', coalesce(wal_status, '')) "+
		"FROM pg_replication_slots WHERE slot_name = "+quoted+"), '{}'::json)", &at)
	return at, err
}

func (s *pgSession) makeSlot(ctx context.Context, name string, keeps bool) error {
	quoted, err := literal(name)
	if err != nil {
		return err
	}
	return s.exec(ctx, fmt.Sprintf("SELECT pg_create_physical_replication_slot(%s, %t)", quoted, keeps))
}

func (s *pgSession) dropSlot(ctx context.Context, name string) error {
	quoted, err := literal(name)
	if err != nil {
		return err
	}
	return s.exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = "+quoted)
}

// errUnbounded refuses a slot that could fill the guest's disk: between rounds nothing of ours is there to drop it.
var errUnbounded = &wire.Failure{Code: wire.CodeState,
	Message: "max_slot_wal_keep_size is -1: a replication slot would keep WAL without a bound when nobody takes it any more",
	Hint:    "ALTER SYSTEM SET max_slot_wal_keep_size = '4GB' and SELECT pg_reload_conf(), or say that it need not be bounded"}

// fromSlot lists what our slot keeps.
func (l *listing) fromSlot(ctx context.Context, c *pgSession, f pgFacts, args wire.LogsArgs) error {
	name, begin := slotName(f), args.Begin
	at, err := c.slot(ctx, name)
	if err != nil {
		return err
	}
	if at.Exists && (at.Restart == 0 || at.Status == "lost") {
		l.answer.Gap = "the server has given up the slot " + name + ": more was written than max_slot_wal_keep_size lets it keep"
		if begin {
			if err := c.dropSlot(ctx, name); err != nil {
				return err
			}
		}
		at = slot{}
	}
	if !at.Exists {
		if !begin {
			return &wire.Failure{Code: wire.CodeState, Message: "there is no slot " + name, Hint: "begin"}
		}
		if f.KeepMB < 0 && !args.Unbounded {
			return errUnbounded
		}
		if err := c.makeSlot(ctx, name, true); err != nil {
			return err
		}
		l.answer.New = true
		if at, err = c.slot(ctx, name); err != nil {
			return err
		}
	}
	now, err := c.mark(ctx)
	if err != nil {
		return err
	}
	return l.segments(at.Restart/l.segment, now)
}

// segments lists those from first on that are complete, and the timeline's history.
func (l *listing) segments(first int64, now position) error {
	root, err := os.OpenRoot(l.folder)
	if err != nil {
		return err
	}
	defer root.Close()
	l.answer.Timeline = now.Timeline
	if h, err := l.entry(root, now.Timeline+".history"); err == nil {
		l.answer.Logs = append(l.answer.Logs, h)
	}
	end := now.Flushed / l.segment
	for n := first; n < end && len(l.answer.Logs) < maxLogs; n++ {
		name := record.SegmentName(now.Timeline, n, l.segment)
		e, err := l.entry(root, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if l.answer.Gap == "" {
				l.answer.Gap = name + " is gone"
			}
			if n-first > maxLogs {
				return fmt.Errorf("%s and more than %d before it are gone", name, maxLogs)
			}
			continue
		case err != nil:
			return err
		}
		if n == end-1 {
			e.Time, e.Mark = now.Time, true
		}
		l.answer.Logs = append(l.answer.Logs, e)
	}
	return nil
}

// maxHistory bounds a timeline's history.
const maxHistory = 1 << 20

// entry describes one file.
func (l *listing) entry(root *os.Root, name string) (wire.Log, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return wire.Log{}, err
	}
	if !l.plain(info) || record.IsSegment(name) && info.Size() != l.segment || !record.IsSegment(name) && info.Size() > maxHistory {
		return wire.Log{}, fmt.Errorf("%s, of %d bytes, is not the server's", name, info.Size())
	}
	return wire.Log{Name: name, Size: info.Size(), Time: stamp(info.ModTime())}, nil
}

// fromQueue lists what waits for an archiver.
func (l *listing) fromQueue(ctx context.Context, c *pgSession) error {
	now, err := c.mark(ctx)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(l.folder)
	if err != nil {
		return err
	}
	defer root.Close()
	names, err := ready(root, now.Timeline)
	if err != nil {
		return err
	}
	l.answer.Timeline = now.Timeline
	last := record.SegmentName(now.Timeline, now.Flushed/l.segment-1, l.segment)
	for _, name := range names[:min(len(names), maxLogs)] {
		e, err := l.entry(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			l.answer.Gap = name + " is gone"
			continue
		}
		if err != nil {
			return err
		}
		if name == last {
			e.Time, e.Mark = now.Time, true
		}
		l.answer.Logs = append(l.answer.Logs, e)
	}
	return l.holes()
}

// ready are the names in the queue that belong to a timeline, in their order: its history first.
func ready(root *os.Root, timeline string) ([]string, error) {
	dir, err := root.Open("archive_status")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var names []string
	for {
		some, err := dir.Readdirnames(1024)
		for _, n := range some {
			n, ok := strings.CutSuffix(n, ".ready")
			if ok && (record.IsSegment(n) || record.IsHistory(n)) && strings.HasPrefix(n, timeline) {
				names = append(names, n)
			}
		}
		if len(names) > 1<<20 {
			return nil, fmt.Errorf("more than %d segments wait for an archiver", 1<<20)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if record.IsHistory(a) != record.IsHistory(b) {
			if record.IsHistory(a) {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	return names, nil
}

// holes finds what is missing between two logs that are listed.
func (l *listing) holes() error {
	last := int64(-1)
	for _, o := range l.answer.Logs {
		if !record.IsSegment(o.Name) {
			continue
		}
		n, err := record.SegmentNumber(o.Name, l.segment)
		if err != nil {
			return err
		}
		if last >= 0 && n != last+1 && l.answer.Gap == "" {
			l.answer.Gap = record.SegmentName(l.answer.Timeline, last+1, l.segment) + " is not in the queue"
		}
		last = n
	}
	return nil
}

// shipped moves the slot on behind the last segment of an unbroken row, or takes logs out of the queue.
func (s *postgres) shipped(ctx context.Context, l *listing, names []string) error {
	if l.queue {
		return s.dequeue(ctx, l, names)
	}
	stored := map[string]bool{}
	for _, n := range names {
		stored[n] = true
	}
	var next int64
	for _, o := range l.answer.Logs {
		if !record.IsSegment(o.Name) {
			continue
		}
		if !stored[o.Name] {
			break
		}
		n, err := record.SegmentNumber(o.Name, l.segment)
		if err != nil {
			return err
		}
		next = n + 1
	}
	if next == 0 {
		return nil
	}
	return s.advance(ctx, l, next*l.segment)
}

// same connects to the cluster that was listed. One that was exchanged since is left alone.
func (s *postgres) same(ctx context.Context, l *listing) (*pgSession, pgFacts, error) {
	c, err := s.open(ctx)
	if err != nil {
		return nil, pgFacts{}, err
	}
	f, err := c.facts(ctx)
	if err == nil && f.System != l.system {
		err = &wire.Failure{Code: wire.CodeState, Message: "another cluster than the one that was listed"}
	}
	if err != nil {
		c.close()
		return nil, pgFacts{}, err
	}
	return c, f, nil
}

// dequeue takes logs out of the queue where it still is ours: an archive_command that was set meanwhile gets them all.
func (s *postgres) dequeue(ctx context.Context, l *listing, names []string) error {
	c, f, err := s.same(ctx, l)
	if err != nil {
		return err
	}
	defer c.close()
	ours, err := c.archiver(ctx, f, l.folder, false)
	if err == nil && !ours {
		err = &wire.Failure{Code: wire.CodeState, Message: "the server has an archiver now: its queue is left to it"}
	}
	if err != nil {
		return err
	}
	return l.done(names)
}

// advance moves the slot.
func (s *postgres) advance(ctx context.Context, l *listing, to int64) error {
	c, f, err := s.same(ctx, l)
	if err != nil {
		return err
	}
	defer c.close()
	name := slotName(f)
	at, err := c.slot(ctx, name)
	if err != nil {
		return err
	}
	if at.Restart == 0 || at.Restart >= to {
		return nil // lost, which the next listing tells; or moved on already
	}
	quoted, err := literal(name)
	if err != nil {
		return err
	}
	return c.exec(ctx, fmt.Sprintf("SELECT pg_replication_slot_advance(%s, '%X/%X'::pg_lsn)", quoted, to>>32, to&0xFFFFFFFF))
}

// done takes logs out of the queue, as an archiver does: by a rename, which is one step.
func (l *listing) done(names []string) error {
	root, err := os.OpenRoot(l.folder)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, n := range names {
		at := filepath.Join("archive_status", n)
		if err := root.Rename(at+".ready", at+".done"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// isWAL holds the first page's header against the file's name: a file that was recycled still has its old place in it.
// The server writes in the order of bytes of this machine.
func (l *listing) isWAL(name string, head []byte) error {
	if !record.IsSegment(name) {
		return nil
	}
	n, err := record.SegmentNumber(name, l.segment)
	if err != nil {
		return err
	}
	if len(head) < 40 {
		return errStale
	}
	order := binary.NativeEndian
	place, system, size := order.Uint64(head[8:]), order.Uint64(head[24:]), order.Uint32(head[32:])
	if place != uint64(n*l.segment) || strconv.FormatUint(system, 10) != l.system || int64(size) != l.segment {
		return errStale
	}
	return nil
}
