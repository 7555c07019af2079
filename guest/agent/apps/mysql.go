//go:build linux

package apps

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

const (
	kindMariaDB = "mariadb"
	kindMySQL   = "mysql"
)

// unverified is what a user sees of MySQL: it speaks MariaDB's language in most parts, and was tried on MariaDB alone.
const unverified = "ready; not yet verified on a MySQL server"

// mysql is one running MariaDB or MySQL server.
type mysql struct {
	opts   *Options
	p      process
	kind   string
	name   string
	socket string
}

func (s *mysql) key() key { return key{s.kind, s.name} }

// mysql finds the servers that run. Which of the two a program called mysqld is, its folder tells.
func (a *Apps) mysql() ([]server, error) {
	found, err := processes("mariadbd", "mysqld")
	if err != nil {
		return nil, err
	}
	var all []server
	var names []*string
	var folders []string
	for _, p := range found {
		s := &mysql{opts: &a.opts, p: p, kind: kindMariaDB, name: nameOf(p.folder)}
		if _, err := os.Stat(filepath.Join(p.folder, "mysql.ibd")); err == nil {
			s.kind = kindMySQL // 8 keeps its dictionary in a table space of that name; MariaDB has none
		}
		if p.aside != "" || !a.wanted(s.kind, p.folder) {
			continue
		}
		// The X plugin's socket speaks another protocol.
		s.socket, err = p.listening(func(path string) bool { return !strings.Contains(filepath.Base(path), "mysqlx") })
		if err != nil {
			continue // it has just ended, or is not ours to look into
		}
		all, names, folders = append(all, s), append(names, &s.name), append(folders, p.folder)
	}
	distinct(names, folders)
	return all, nil
}

// open connects: as the server's own account by its socket, as root by the socket, with root's .my.cnf, with what
// Debian's package has put aside for maintenance.
func (s *mysql) open(ctx context.Context) (*mySession, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Connect)
	defer cancel()
	if s.socket == "" {
		return nil, fmt.Errorf("it listens on no socket")
	}
	if err := s.p.ownSocket(s.socket); err != nil {
		return nil, err
	}
	var ways []command
	as := accounts(s.p, "mysql", "mariadb")
	if len(as) == 0 {
		return nil, errForeign
	}
	for _, a := range as {
		path, ok := s.p.program(a.uid, "mariadb", "mysql")
		if !ok {
			continue
		}
		if a.name != "" {
			ways = append(ways, s.client(path, a, "--no-defaults", "--user="+a.name))
		}
		for _, conf := range []string{filepath.Join(a.home, ".my.cnf"), "/etc/mysql/debian.cnf"} {
			if private(conf, a.uid) {
				ways = append(ways, s.client(path, a, "--defaults-file="+conf))
			}
		}
	}
	c, err := login(ctx, ways, "SELECT 1")
	if err != nil {
		return nil, err
	}
	return &mySession{c: c}, nil
}

// private reports whether a file is there for that account, and not of somebody else's making.
func private(path string, uid int) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o022 == 0 && trusted(path, uid)
}

// client is a client for a server. The first argument has to be about defaults.
func (s *mysql) client(path string, a account, args ...string) command {
	args = append(args, "--protocol=socket", "--local-infile=0", "--socket="+s.socket, "--batch", "--skip-column-names", "--unbuffered",
		"--skip-reconnect", "--no-auto-rehash", "--connect-timeout=10", "--default-character-set=utf8mb4")
	return command{
		path: path, as: a.credential(), args: args, env: a.env("MYSQL_HISTFILE=/dev/null"),
		echo: func(token string) string { return "SELECT '" + token + "';" },
	}
}

// mySession is one connection to a server.
type mySession struct{ c *client }

func (s *mySession) close() { s.c.close() }

// exec runs a statement whose answer does not matter.
func (s *mySession) exec(ctx context.Context, sql string) error {
	_, err := s.c.ask(ctx, sql)
	return err
}

// rows runs a statement and returns its rows, each with at least n columns.
func (s *mySession) rows(ctx context.Context, n int, sql string) ([][]string, error) {
	lines, err := s.c.ask(ctx, sql)
	if err != nil {
		return nil, err
	}
	rows := make([][]string, len(lines))
	for i, line := range lines {
		rows[i] = columns(line)
		if len(rows[i]) < n {
			return nil, fmt.Errorf("a row of %d columns in place of %d", len(rows[i]), n)
		}
	}
	return rows, nil
}

// row runs a statement that answers with one row.
func (s *mySession) row(ctx context.Context, n int, sql string) ([]string, error) {
	rows, err := s.rows(ctx, n, sql)
	if err == nil && len(rows) != 1 {
		err = fmt.Errorf("%d rows in place of one", len(rows))
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

var unescape = strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\0`, "\x00", `\\`, `\`)

// columns takes a line of a batch apart.
func columns(line string) []string {
	parts := strings.Split(line, "\t")
	for i, p := range parts {
		parts[i] = unescape.Replace(p)
	}
	return parts
}

// wait bounds how long the server waits for a lock, in its whole seconds, so that it gives up before we do.
func (s *mySession) wait(ctx context.Context, limit time.Duration) error {
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end))
	}
	return s.exec(ctx, fmt.Sprintf("SET SESSION lock_wait_timeout = %d", max(int64((limit-500*time.Millisecond)/time.Second), 1)))
}

// myFacts are what a server says of itself.
type myFacts struct {
	Version string
	Number  int // 100011 for 10.11: major*10000 + minor
	MariaDB bool
	Data    string
	Binlog  string // path without number; empty: there is none
	Server  string // server_id
	Dirs    []string
}

func (s *mySession) facts(ctx context.Context) (myFacts, error) {
	at, err := s.row(ctx, 6, "SELECT VERSION(), @@datadir, @@log_bin, COALESCE(@@log_bin_basename, ''), @@server_id, "+
		"COALESCE(@@innodb_log_group_home_dir, '')")
	if err != nil {
		return myFacts{}, err
	}
	f := myFacts{Version: clean(at[0], 64), Data: filepath.Clean(at[1]), Server: clean(at[4], 32), MariaDB: strings.Contains(at[0], "MariaDB")}
	major, rest, _ := strings.Cut(at[0], ".")
	minor, _, _ := strings.Cut(rest, ".")
	m, err1 := strconv.Atoi(major)
	n, err2 := strconv.Atoi(minor)
	if err1 != nil || err2 != nil || m < 0 || m > 99 || n < 0 || n > 999 {
		return f, fmt.Errorf("a version %q", f.Version)
	}
	f.Number = m*10000 + n
	if at[2] != "0" && at[2] != "OFF" {
		f.Binlog = at[3]
		if !filepath.IsAbs(f.Binlog) {
			return f, fmt.Errorf("binary logs at %q", clean(f.Binlog, 200))
		}
		f.Dirs = append(f.Dirs, filepath.Dir(f.Binlog))
	}
	if filepath.IsAbs(at[5]) {
		f.Dirs = append(f.Dirs, filepath.Clean(at[5]))
	}
	return f, nil
}

// stages reports whether the server has backup stages, which hold nothing but what must be held.
func (f myFacts) stages() bool { return f.MariaDB && f.Number >= 100004 }

// position is how the server is asked where its binary log is.
func (f myFacts) position() string {
	if !f.MariaDB && f.Number >= 80002 {
		return "SHOW BINARY LOG STATUS"
	}
	return "SHOW MASTER STATUS"
}

// describe says what a server is.
func (s *mysql) describe(ctx context.Context) wire.Application {
	app := wire.Application{Kind: s.kind, Name: s.name, State: "ready", Folders: []string{s.p.folder}}
	if s.kind == kindMySQL {
		app.State = unverified
	}
	f, err := s.ask(ctx)
	app.Version = f.Version
	if err != nil {
		app.State, app.Logs = clean(err.Error(), 1024), "no: it cannot be asked"
		return app
	}
	for _, d := range f.Dirs {
		if d != s.p.folder {
			app.Folders = append(app.Folders, clean(d, 4096))
		}
	}
	app.Logs = "yes, binary logs; the server removes them by its own rules (expire_logs_days, binlog_expire_logs_seconds)"
	if f.Binlog == "" {
		app.Logs = "no: log_bin is off"
	}
	return app
}

func (s *mysql) ask(ctx context.Context) (myFacts, error) {
	c, err := s.open(ctx)
	if err != nil {
		return myFacts{}, err
	}
	defer c.close()
	return c.facts(ctx)
}
