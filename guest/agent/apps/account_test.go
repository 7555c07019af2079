//go:build linux

package apps

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Anybody in a guest can run a program called postgres with a postmaster.pid of his own that leads to his port. Nothing of
// root's is sent there, nor to a TCP port at all.
func TestForeignServerGetsNoPassword(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root runs clients as other accounts")
	}
	data := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	p := process{pid: 4711, name: "postgres", uid: 65534, gid: 65534, folder: data}
	for _, a := range accounts(p, "postgres") {
		require.NotZero(t, a.uid, "root's .pgpass lies ready for this one")
	}
	conf := fmt.Sprintf("4711\n%s\n0\n%d\n\n\n\n", data, l.Addr().(*net.TCPAddr).Port)
	require.NoError(t, os.WriteFile(filepath.Join(data, "postmaster.pid"), []byte(conf), 0o644))
	s := &postgres{opts: &New(nil).opts, p: p}
	require.True(t, s.postmaster())
	_, err = s.open(t.Context())
	require.ErrorContains(t, err, "nothing is sent to its TCP port")
	require.NoError(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = l.Accept()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// A socket counts as a server's own where its account has made it, and nobody else can put another in its place.
func TestOwnSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "s") // the path of a socket is short
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, ".s.PGSQL.5432")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	us := process{uid: os.Geteuid()}
	require.NoError(t, us.ownSocket(path))
	require.Error(t, process{uid: us.uid + 1}.ownSocket(path), "somebody else's")
	require.NoError(t, os.Chmod(dir, 0o777))
	require.Error(t, us.ownSocket(path), "in a folder that anybody writes to")
	require.NoError(t, os.Chmod(dir, 0o700))
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Error(t, us.ownSocket(file))
	require.Error(t, us.ownSocket(filepath.Join(dir, "none")))
}

// Clients hold the account behind a socket against the server's, and hand no files to a server.
func TestClientsAreCareful(t *testing.T) {
	c := psql("/psql", own(), "postgres", "/run", 5432, "postgres")
	require.Contains(t, c.env, "PGREQUIREPEER=postgres")
	m := (&mysql{socket: "/s"}).client("/mariadb", own(), "--no-defaults")
	require.Contains(t, strings.Join(m.args, " "), "--local-infile=0")
}

// Of more binary logs than are listed at once, the newest are.
func TestManyBinlogs(t *testing.T) {
	dir := t.TempDir()
	var rows [][]string
	for n := 1; n <= maxLogs+2; n++ {
		name := fmt.Sprintf("binlog.%06d", n)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("\xfebin"), 0o600))
		rows = append(rows, []string{name, "4"})
	}
	l := &listing{folder: dir, uid: os.Getuid(), check: isBinary}
	require.NoError(t, l.binlogs(rows, filepath.Join(dir, "binlog"), time.Now()))
	require.Len(t, l.answer.Logs, maxLogs)
	require.Equal(t, "binlog.000003", l.answer.Logs[0].Name)
	require.Equal(t, rows[len(rows)-1][0], l.answer.Logs[maxLogs-1].Name)
}
