//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// The two databases, each through its own command-line client. A record is a transaction over two tables, which agree
// in every state that was committed.
const (
	sqliteSetup = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;\n" + ledgerTables
	sqliteCheck = "PRAGMA integrity_check;"

	postgresSetup = "SET client_min_messages = warning;\nCREATE EXTENSION IF NOT EXISTS amcheck;\n" + ledgerTables
	postgresCheck = "SELECT coalesce(max(msg), 'ok') FROM verify_heapam('ledger'); SELECT bt_index_check('ledger_pkey', true);"

	ledgerTables = "CREATE TABLE IF NOT EXISTS ledger (n BIGINT PRIMARY KEY, sum TEXT NOT NULL);\n" +
		"CREATE TABLE IF NOT EXISTS head (n BIGINT NOT NULL);\n" +
		"INSERT INTO head SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM head);"
)

func sqliteClient() *exec.Cmd { return exec.Command("sqlite3", "-batch", "-bail", sqlitePath) }

func postgresClient() *exec.Cmd {
	return asPostgres(postgresBin+"psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-h", "/run/postgresql", "-U", "postgres", "postgres")
}

// sqlLedger is a ledger in a database.
type sqlLedger struct {
	client   *client
	selftest string
}

func openSQL(cmd *exec.Cmd, setup, selftest string) (ledger, error) {
	c, err := openClient(cmd)
	if err != nil {
		return nil, err
	}
	if _, err := c.ask(setup); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return &sqlLedger{c, selftest}, nil
}

// check asks the database about itself, and then reads every record.
func (l *sqlLedger) check() (last chained, err error) {
	said, err := l.client.ask(l.selftest)
	if err != nil || len(said) == 0 || said[0] != "ok" {
		return last, errors.Join(err, fmt.Errorf("the database says of itself: %q", said))
	}
	lines, err := l.client.ask("SELECT n, sum FROM ledger ORDER BY n;")
	if err != nil {
		return last, err
	}
	for _, line := range lines {
		next := last.next()
		if line != fmt.Sprintf("%d|%s", next.n, next.sum) {
			return last, fmt.Errorf("record %d is %q", next.n, line)
		}
		last = next
	}
	head, err := l.client.ask("SELECT n FROM head;")
	if err == nil && (len(head) != 1 || head[0] != fmt.Sprint(last.n)) {
		err = fmt.Errorf("a transaction is there in part: the last record is %d, the head %q", last.n, head)
	}
	return last, err
}

func (l *sqlLedger) append(c chained) error {
	_, err := l.client.ask(fmt.Sprintf("BEGIN; INSERT INTO ledger VALUES (%d, '%s'); UPDATE head SET n = %d; COMMIT;", c.n, c.sum, c.n))
	return err
}

func (l *sqlLedger) close() error { return l.client.close() }

// client is a database's command-line client that takes statements from a pipe.
type client struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr strings.Builder
}

// openClient starts a client, which answers a first question.
func openClient(cmd *exec.Cmd) (*client, error) {
	c := &client{cmd: cmd}
	var err error
	if c.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	cmd.Stderr = &c.stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := c.ask(""); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

const answered = "-- answered --"

// ask runs statements and returns the lines that they print. A client ends at the first error.
func (c *client) ask(statements string) (lines []string, err error) {
	if _, err := fmt.Fprintf(c.in, "%s\nSELECT '%s';\n", statements, answered); err != nil {
		return nil, fmt.Errorf("%w: %s", err, c.stderr.String())
	}
	for {
		line, err := c.out.ReadString('\n')
		if err != nil {
			c.cmd.Wait()
			return lines, fmt.Errorf("%w: %s", err, c.stderr.String())
		}
		line = strings.TrimSuffix(line, "\n")
		if line == answered {
			return lines, nil
		}
		lines = append(lines, line)
	}
}

// close ends the client. In process 1 somebody else may have waited for it already.
func (c *client) close() error {
	err := c.in.Close()
	c.cmd.Wait()
	return err
}
