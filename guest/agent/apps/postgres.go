//go:build linux

package apps

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

const kindPostgres = "postgresql"

// postgres is one running cluster.
type postgres struct {
	opts   *Options
	p      process
	name   string
	socket string // its folder, or a host name
	port   int
}

func (s *postgres) key() key { return key{kindPostgres, s.name} }

// postgres finds the clusters that run: of all server processes those whose number stands in their data folder.
func (a *Apps) postgres() ([]server, error) {
	found, err := processes("postgres", "postmaster")
	if err != nil {
		return nil, err
	}
	var all []server
	var names []*string
	var folders []string
	for _, p := range found {
		s := &postgres{opts: &a.opts, p: p, name: nameOf(p.folder)}
		if p.aside != "" || !s.postmaster() || !a.wanted(kindPostgres, p.folder) {
			continue
		}
		all, names, folders = append(all, s), append(names, &s.name), append(folders, p.folder)
	}
	distinct(names, folders)
	return all, nil
}

// postmaster reads postmaster.pid, and reports whether it is this process's.
func (s *postgres) postmaster() bool {
	b, err := readFile(filepath.Join(s.p.folder, "postmaster.pid"), 8<<10)
	if err != nil {
		return false
	}
	// number, data folder, start, port, folder of the socket, host …
	lines := strings.Split(string(b), "\n")
	if len(lines) < 6 || strings.TrimSpace(lines[0]) != strconv.Itoa(s.p.pid) {
		return false
	}
	s.port, err = strconv.Atoi(strings.TrimSpace(lines[3]))
	if err != nil || s.port < 1 || s.port > 65535 {
		return false
	}
	switch socket, host := strings.TrimSpace(lines[4]), strings.TrimSpace(lines[5]); {
	case filepath.IsAbs(socket):
		s.socket = filepath.Clean(socket)
	case host == "" || host == "*" || strings.HasPrefix(host, "-"):
		s.socket = "localhost"
	default:
		s.socket = host
	}
	return !strings.ContainsAny(s.socket, "\x00,@") // psql would make several hosts of it
}

// open connects.
func (s *postgres) open(ctx context.Context) (*pgSession, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Connect)
	defer cancel()
	// By its unix socket alone: there the client can hold the account behind it against the server's before it sends
	// anything (requirepeer). Who listens on a TCP port, nobody can tell.
	peer := accountOf(s.p.uid, s.p.gid).name
	if !filepath.IsAbs(s.socket) || peer == "" {
		return nil, errors.New("it listens on no unix socket, or its account has no name: nothing is sent to its TCP port")
	}
	if err := s.p.ownSocket(filepath.Join(s.socket, ".s.PGSQL."+strconv.Itoa(s.port))); err != nil {
		return nil, err
	}
	var ways []command
	as := accounts(s.p, "postgres")
	if len(as) == 0 {
		return nil, errForeign
	}
	for _, a := range as {
		owner := a.uid
		path, ok := s.p.program(owner, "psql")
		if !ok {
			continue
		}
		for _, role := range s.roles(a) {
			ways = append(ways, psql(path, a, peer, s.socket, s.port, role))
		}
	}
	c, err := login(ctx, ways, "SET client_min_messages = error; SET synchronous_commit = off; SELECT 1")
	if err != nil {
		return nil, err
	}
	return &pgSession{c}, nil
}

// roles are the names to log in with: the account's own by peer, then what stands in its .pgpass, which the client
// reads the password from.
func (s *postgres) roles(a account) (names []string) {
	if a.uid == s.p.uid && a.name != "" {
		names = append(names, a.name)
	}
	b, err := readFile(filepath.Join(a.home, ".pgpass"), 64<<10)
	if err != nil {
		if !slices.Contains(names, "postgres") {
			names = append(names, "postgres")
		}
		return names
	}
	for line := range strings.Lines(string(b)) {
		// host:port:database:role:password
		part := strings.SplitN(line, ":", 5)
		if len(names) == 4 || len(part) != 5 || part[1] != "*" && part[1] != strconv.Itoa(s.port) {
			continue
		}
		role := part[3]
		if role == "*" {
			role = "postgres"
		}
		if !slices.Contains(names, role) && !strings.HasPrefix(role, "-") && !strings.Contains(role, "\x00") {
			names = append(names, role)
		}
	}
	return names
}

// psql is a client for a cluster that runs as the account peer. Nobody's start-up file is read, no password asked for, and names are looked up where
// only the server itself puts functions.
func psql(path string, a account, peer, host string, port int, role string) command {
	return command{
		path: path, as: a.credential(),
		args: []string{"-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-v", "SHOW_CONTEXT=never",
			"-h", host, "-p", strconv.Itoa(port), "-U", role, "-d", "postgres"},
		env: a.env("PGCONNECT_TIMEOUT=10", "PGAPPNAME=hikae", "PGREQUIREPEER="+peer, "PGCLIENTENCODING=UTF8", "PGGSSENCMODE=disable",
			"PGOPTIONS=-c search_path=pg_catalog", "PSQL_HISTORY=/dev/null"),
		echo: func(token string) string { return `\echo ` + token },
	}
}

// pgSession is one connection to a cluster.
type pgSession struct{ c *client }

func (s *pgSession) close() { s.c.close() }

// exec runs a statement whose answer does not matter.
func (s *pgSession) exec(ctx context.Context, sql string) error {
	_, err := s.c.ask(ctx, s.limited(ctx)+sql)
	return err
}

// limited makes the server give up too, when we do.
func (s *pgSession) limited(ctx context.Context) string {
	left := askLimit
	if end, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(end))
	}
	return fmt.Sprintf("SET statement_timeout = %d; ", max(left.Milliseconds(), 1))
}

// get runs a statement that answers with one line of JSON.
func (s *pgSession) get(ctx context.Context, sql string, into any) error {
	lines, err := s.c.ask(ctx, s.limited(ctx)+sql)
	if err != nil {
		return err
	}
	if len(lines) != 1 {
		return fmt.Errorf("%d lines in place of one", len(lines))
	}
	d := json.NewDecoder(bytes.NewReader([]byte(lines[0])))
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("an answer that is not understood: %w", err)
	}
	return nil
}

// pgFacts are what a cluster says of itself.
type pgFacts struct {
	Version    string `json:"version"`
	Number     int    `json:"number"`
	System     string `json:"system"` // identifier
	Recovery   bool   `json:"recovery"`
	Data       string `json:"data"`
	Level      string `json:"level"` // wal_level
	Archive    string `json:"archive"`
	Command    string `json:"command"`
	Library    string `json:"library"`
	Archived   int64  `json:"archived"` // by the archiver, ever
	Slots      int    `json:"slots"`
	KeepMB     int64  `json:"keep"` // max_slot_wal_keep_size
	Segment    int64  `json:"segment"`
	Tablespace []struct {
		OID  string `json:"oid"`
		Path string `json:"path"`
	} `json:"tablespaces"`
}

const pgFactsSQL = `SELECT json_build_object('version', current_setting('server_version'), ` +
	`'number', current_setting('server_version_num')::int, ` +
	`'system', (SELECT system_identifier::text FROM pg_control_system()), 'recovery', pg_is_in_recovery(), ` +
	`'data', current_setting('data_directory'), 'level', current_setting('wal_level'), ` +
	`'archive', current_setting('archive_mode'), 'command', current_setting('archive_command'), ` +
	`'library', coalesce(current_setting('archive_library', true), ''), ` +
	`'archived', (SELECT archived_count FROM pg_stat_archiver), ` +
	`'slots', current_setting('max_replication_slots')::int, ` +
	`'keep', (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), ` +
	`'segment', (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'), ` +
	`'tablespaces', (SELECT coalesce(json_agg(json_build_object('oid', oid::text, 'path', pg_tablespace_location(oid))), '[]'::json) ` +
	`FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')))`

// facts asks a cluster what it is, and holds its answer to what can be.
func (s *pgSession) facts(ctx context.Context) (pgFacts, error) {
	var f pgFacts
	if err := s.get(ctx, pgFactsSQL, &f); err != nil {
		return f, err
	}
	n, err := strconv.ParseUint(f.System, 10, 64)
	switch {
	case err != nil || n == 0:
		return f, fmt.Errorf("a system identifier %q", clean(f.System, 32))
	case !record.IsSegmentSize(f.Segment):
		return f, fmt.Errorf("WAL segments of %d bytes", f.Segment)
	case f.Number < 130000:
		return f, fmt.Errorf("PostgreSQL %s: 13 is the first that is known here", clean(f.Version, 32))
	case len(f.Tablespace) > 1024:
		return f, fmt.Errorf("%d tablespaces", len(f.Tablespace))
	}
	return f, nil
}

// describe says what a cluster is.
func (s *postgres) describe(ctx context.Context) wire.Application {
	app := wire.Application{Kind: kindPostgres, Name: s.name, State: "ready", Folders: []string{s.p.folder}}
	f, err := s.ask(ctx)
	app.Version = clean(f.Version, 64)
	if err != nil {
		app.State, app.Logs = clean(err.Error(), 1024), "no: it cannot be asked"
		return app
	}
	if wal, err := filepath.EvalSymlinks(filepath.Join(s.p.folder, "pg_wal")); err == nil && filepath.Dir(wal) != s.p.folder {
		app.Folders = append(app.Folders, wal)
	}
	for _, t := range f.Tablespace {
		app.Folders = append(app.Folders, clean(t.Path, 4096))
	}
	if f.Recovery {
		app.State = "ready; a standby: its image recovers by itself, nothing is held"
	}
	app.Logs = f.shipping()
	return app
}

func (s *postgres) ask(ctx context.Context) (pgFacts, error) {
	c, err := s.open(ctx)
	if err != nil {
		return pgFacts{}, err
	}
	defer c.close()
	return c.facts(ctx)
}

// idle reports whether somebody has set the server up to keep WAL for an archiver, and there is none.
func (f pgFacts) idle() bool {
	return (f.Archive == "on" || f.Archive == "always") && f.Command == "" && f.Library == ""
}

// archiver reports whether we may be the archiver: there is none, and none that the server remembers. A crash makes it
// forget, so that this is not all (pgSession.archiver).
func (f pgFacts) archiver() bool { return f.idle() && f.Archived == 0 }

// refuses says why a cluster's logs cannot be shipped.
func (f pgFacts) refuses() error {
	switch {
	case f.Recovery:
		return errors.New("a standby: its primary's logs are shipped")
	case f.Level != "replica" && f.Level != "logical":
		return fmt.Errorf("wal_level is %s, replica or logical is needed", clean(f.Level, 32))
	case f.Slots == 0:
		return errors.New("max_replication_slots is 0")
	}
	return nil
}

// shipping says in words whether logs can be shipped.
func (f pgFacts) shipping() string {
	if err := f.refuses(); err != nil {
		return "no: " + err.Error()
	}
	switch {
	case f.archiver():
		return "yes, from the archive queue, which has no bound: pg_wal grows for as long as nobody ships"
	case f.KeepMB < 0:
		return "no, unless it is said that nothing need bound them: by a replication slot pg_wal would grow for as long as nobody ships; set max_slot_wal_keep_size (now -1)"
	}
	return fmt.Sprintf("yes, by a replication slot that keeps %d MB (max_slot_wal_keep_size)", f.KeepMB)
}
