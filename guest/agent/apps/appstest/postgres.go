//go:build linux

package appstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Postgres is a running cluster.
type Postgres struct {
	*Server
	Data string // folder

	bin    string
	socket string
	log    string
	opts   []string
}

const (
	pgAccount = "postgres"
	pgPort    = "5432"
)

// postgresBin is where the newest server lies.
func postgresBin(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	require.NoError(t, err)
	if len(found) == 0 {
		t.Skip("no PostgreSQL server is installed (/usr/lib/postgresql/*/bin)")
	}
	return filepath.Dir(slices.Max(found))
}

// NewPostgres makes a cluster below a folder and starts it. WAL segments are of 1 MiB, so that tests fill several. opts
// are settings as name=value.
func NewPostgres(t testing.TB, under string, opts ...string) *Postgres {
	t.Helper()
	p := postgres(t, filepath.Join(under, "pg"), opts)
	own := filepath.Join(under, "pg")
	require.NoError(t, os.Mkdir(own, 0o700))
	Own(t, pgAccount, own)
	init := As(t, pgAccount, filepath.Join(p.bin, "initdb"), "-D", p.Data, "-A", "peer", "-N", "--wal-segsize=1", "-U", pgAccount,
		"-E", "UTF8", "--locale=C", "-k")
	out, err := init.CombinedOutput()
	require.NoError(t, err, "initdb: %s", out)
	p.Start(t)
	return p
}

// OpenPostgres is a cluster whose folder is there already. It is not started.
func OpenPostgres(t testing.TB, data string, opts ...string) *Postgres {
	t.Helper()
	return postgres(t, data, opts)
}

func postgres(t testing.TB, data string, opts []string) *Postgres {
	t.Helper()
	NeedRoot(t)
	run := Dir(t)
	socket := filepath.Join(run, "s")
	require.NoError(t, os.Mkdir(socket, 0o700))
	Own(t, pgAccount, socket)
	return &Postgres{Data: data, bin: postgresBin(t), socket: socket, log: filepath.Join(run, "log"), opts: opts}
}

// Own gives a folder or file to an account.
func Own(t testing.TB, account, path string) {
	t.Helper()
	c := As(t, account, "true").SysProcAttr.Credential
	if c != nil {
		require.NoError(t, os.Lchown(path, int(c.Uid), int(c.Gid)))
	}
}

// Start starts the cluster and waits until it answers. Its log lies elsewhere than its data: it goes on in a freeze.
func (p *Postgres) Start(t testing.TB) {
	t.Helper()
	args := []string{"-D", p.Data, "-k", p.socket, "-h", "", "-p", pgPort}
	for _, o := range append([]string{"shared_buffers=16MB", "max_slot_wal_keep_size=1GB", "max_wal_size=64MB", "min_wal_size=16MB", "track_commit_timestamp=on",
		"logging_collector=off", "log_line_prefix=%m [%p] "}, p.opts...) {
		args = append(args, "-c", o)
	}
	p.Server = start(t, As(t, pgAccount, filepath.Join(p.bin, "postgres"), args...), p.log, syscall.SIGQUIT)
	for range 300 {
		if out, err := p.psql(t, "SELECT 1").Output(); err == nil && strings.TrimSpace(string(out)) == "1" {
			return
		}
		if !p.Running() {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	require.Fail(t, "PostgreSQL does not answer", p.Log())
}

// Shutdown ends the cluster as an administrator does.
func (p *Postgres) Shutdown(t testing.TB) { p.Stop(t, syscall.SIGINT) }

func (p *Postgres) psql(t testing.TB, sql string) *exec.Cmd {
	return As(t, pgAccount, filepath.Join(p.bin, "psql"), "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1",
		"-h", p.socket, "-p", pgPort, "-U", pgAccount, "-d", "postgres", "-c", sql)
}

// SQL runs statements and returns what they answer.
func (p *Postgres) SQL(t testing.TB, sql string) string {
	t.Helper()
	out, err := p.psql(t, sql).CombinedOutput()
	require.NoError(t, err, "%s: %s", sql, out)
	return strings.TrimSpace(string(out))
}

// Session is a psql that reads statements from its input.
func (p *Postgres) Session(t testing.TB) *exec.Cmd {
	cmd := p.psql(t, "")
	cmd.Args = cmd.Args[:len(cmd.Args)-2]
	return cmd
}

// Bench starts pgbench's own load, which goes on until the test ends or stop is called. Its tables are made first.
func (p *Postgres) Bench(t testing.TB) (stop func()) {
	t.Helper()
	out, err := p.bench(t, "-i", "-q", "-s", "1").CombinedOutput()
	require.NoError(t, err, "pgbench -i: %s", out)
	cmd := p.bench(t, "-n", "-c", "2", "-j", "1", "-T", "600")
	require.NoError(t, cmd.Start())
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	stop = func() {
		select {
		case <-done:
		default:
			_ = cmd.Process.Kill()
			<-done
		}
	}
	t.Cleanup(stop)
	return stop
}

func (p *Postgres) bench(t testing.TB, args ...string) *exec.Cmd {
	Need(t, filepath.Join(p.bin, "pgbench"))
	return As(t, pgAccount, filepath.Join(p.bin, "pgbench"), append(args, "-h", p.socket, "-p", pgPort, "-U", pgAccount, "postgres")...)
}

// Balanced checks what pgbench promises: that every transaction is in all four tables or in none.
func (p *Postgres) Balanced(t testing.TB) {
	t.Helper()
	sums := p.SQL(t, "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history) "+
		"AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history) "+
		"AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")
	require.Equal(t, "t", sums)
}
