//go:build linux

package appstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// MariaDB is a running server.
type MariaDB struct {
	*Server
	Data string // folder

	socket string
	log    string
	opts   []string
}

const myAccount = "mysql"

// NewMariaDB makes a server below a folder and starts it, with binary logs. opts are arguments for the server.
func NewMariaDB(t testing.TB, under string, opts ...string) *MariaDB {
	t.Helper()
	Need(t, "mariadb-install-db", "mariadbd", "mariadb")
	m := OpenMariaDB(t, filepath.Join(under, "my"), opts...)
	require.NoError(t, os.Mkdir(m.Data, 0o700))
	Own(t, myAccount, m.Data)
	install := As(t, myAccount, "mariadb-install-db", "--no-defaults", "--datadir="+m.Data, "--auth-root-authentication-method=socket", "--auth-root-socket-user="+myAccount,
		"--skip-test-db", "--innodb-log-file-size=8M")
	out, err := install.CombinedOutput()
	require.NoError(t, err, "mariadb-install-db: %s", out)
	m.Start(t)
	return m
}

// OpenMariaDB is a server whose folder is there already. It is not started.
func OpenMariaDB(t testing.TB, data string, opts ...string) *MariaDB {
	t.Helper()
	NeedRoot(t)
	Need(t, "mariadbd", "mariadb")
	run := Dir(t)
	require.NoError(t, os.Chmod(run, 0o755))
	socket := filepath.Join(run, "r")
	require.NoError(t, os.Mkdir(socket, 0o755))
	Own(t, myAccount, socket)
	return &MariaDB{Data: data, socket: filepath.Join(socket, "s"), log: filepath.Join(run, "log"), opts: opts}
}

// Start starts the server and waits until it answers.
func (m *MariaDB) Start(t testing.TB) {
	t.Helper()
	args := append([]string{"--no-defaults", "--datadir=" + m.Data, "--socket=" + m.socket, "--skip-networking",
		"--pid-file=" + m.socket + ".pid", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--log-bin=bin",
		"--server-id=7", "--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1", "--performance-schema=OFF"}, m.opts...)
	m.Server = start(t, As(t, myAccount, "mariadbd", args...), m.log, syscall.SIGKILL)
	for range 400 {
		if out, err := m.client(t, "-e", "SELECT 1").Output(); err == nil && strings.TrimSpace(string(out)) == "1" {
			return
		}
		if !m.Running() {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	require.Fail(t, "MariaDB does not answer", m.Log())
}

// Shutdown ends the server as an administrator does.
func (m *MariaDB) Shutdown(t testing.TB) { m.Stop(t, syscall.SIGTERM) }

func (m *MariaDB) client(t testing.TB, args ...string) *exec.Cmd {
	return As(t, myAccount, "mariadb", append([]string{"--no-defaults", "--protocol=socket", "--socket=" + m.socket, "--user=" + myAccount,
		"--batch", "--skip-column-names", "--unbuffered"}, args...)...)
}

// SQL runs statements and returns what they answer.
func (m *MariaDB) SQL(t testing.TB, sql string) string {
	t.Helper()
	out, err := m.client(t, "-e", sql).CombinedOutput()
	require.NoError(t, err, "%s: %s", sql, out)
	return strings.TrimSpace(string(out))
}

// Session is a client that reads statements from its input, in a database.
func (m *MariaDB) Session(t testing.TB, database string) *exec.Cmd { return m.client(t, database) }

// Feed runs a script.
func (m *MariaDB) Feed(t testing.TB, script string) {
	t.Helper()
	cmd := m.client(t, "--binary-mode")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
