//go:build linux

package apps

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/apps/appstest"
	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

// below makes the part look at one test's servers alone.
func below(folder string) *Options {
	return &Options{Only: func(_, data string) bool { return strings.HasPrefix(data, folder+"/") }}
}

// requireOK requires one good outcome for each of n servers.
func requireOK(t *testing.T, n int, outcomes []wire.Outcome) {
	t.Helper()
	require.Len(t, outcomes, n)
	for _, o := range outcomes {
		require.True(t, o.OK, "%s/%s: %s", o.Kind, o.Name, o.Problem)
	}
}

// requireProblem requires one outcome that failed, within limit and with these words.
func requireProblem(t *testing.T, limit time.Duration, words string, outcomes []wire.Outcome) {
	t.Helper()
	require.Len(t, outcomes, 1)
	require.False(t, outcomes[0].OK)
	require.Contains(t, outcomes[0].Problem, words)
	require.Less(t, time.Duration(outcomes[0].Millis)*time.Millisecond, limit)
}

// freezeAndCopy takes an image of frozen disks, in one moment, and says what the image must hold at least, and at most.
func freezeAndCopy(t *testing.T, w *appstest.Writer, disks ...*appstest.Disk) (images []string, acked, sent int64) {
	t.Helper()
	for _, d := range disks {
		d.Freeze(t)
	}
	for _, d := range disks {
		images = append(images, d.Copy(t))
	}
	// What is acknowledged by now was so before the freeze: while it lasts nothing reaches the disk.
	acked, sent = w.Acked(), w.Sent()
	for _, d := range disks {
		d.Thaw()
	}
	return images, acked, sent
}

// until waits for a condition.
func until(t *testing.T, what func() bool) {
	t.Helper()
	require.Eventually(t, what, 20*time.Second, 10*time.Millisecond)
}

// requireRows requires a table of 1 … k without holes, with k in bounds.
func requireRows(t *testing.T, answer string, acked, sent int64) {
	t.Helper()
	n, err := strconv.ParseInt(strings.Fields(answer)[0], 10, 64)
	require.NoError(t, err)
	last, err := strconv.ParseInt(strings.Fields(answer)[1], 10, 64)
	require.NoError(t, err)
	require.Equal(t, n, last, "rows are missing")
	require.GreaterOrEqual(t, n, acked, "acknowledged rows are missing")
	require.LessOrEqual(t, n, sent, "rows are there that nobody sent")
}

const countRows = "SELECT count(*) || ' ' || max(n) FROM acked"

// R143, R144: a database under load is found, made ready, frozen and copied; the image holds exactly what was committed.
func TestPostgresFrozenImage(t *testing.T) {
	t.Parallel()
	disk := appstest.NewDisk(t, 256)
	pg := appstest.NewPostgres(t, disk.Mount)
	pg.SQL(t, appstest.MakeTable)
	pg.Bench(t)
	w := appstest.NewWriter(t, pg.Session(t), appstest.InsertPostgres)
	a := New(below(disk.Mount))

	found, err := a.Find(t.Context())
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, "postgresql", found[0].Kind)
	require.Equal(t, "ready", found[0].State)
	require.True(t, strings.HasPrefix(found[0].Version, "1"), found[0].Version)
	require.Equal(t, []string{pg.Data}, found[0].Folders)
	require.Contains(t, found[0].Logs, "1024 MB")

	until(t, func() bool { return w.Acked() > 50 })
	p, outcomes, err := a.Prepare(t.Context(), wire.PrepareArgs{Label: "it's 'a' \\ label;\n--"})
	require.NoError(t, err)
	defer p.Close()
	requireOK(t, 1, outcomes)
	requireOK(t, 1, p.Hold(t.Context()))
	began := time.Now()
	images, acked, sent := freezeAndCopy(t, w, disk)
	t.Logf("prepared in %d ms, frozen for %v", outcomes[0].Millis, time.Since(began))
	requireOK(t, 1, p.Resume(t.Context()))
	records, outcomes := p.Finish(t.Context())
	requireOK(t, 1, outcomes)
	requireOK(t, 1, p.Settle(t.Context(), wire.SettleArgs{Durable: true}))
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())

	requireRecords(t, found[0].Name, records, "backup_label", "backup.json")
	require.Contains(t, string(records[0].Content), "LABEL: it_s _a_ _ label__--")
	var facts record.PostgresBackup
	require.NoError(t, json.Unmarshal(records[1].Content, &facts))
	require.EqualValues(t, 1<<20, facts.SegmentBytes)
	require.Less(t, facts.StartTime, facts.StopTime)

	until(t, func() bool { return w.Acked() > acked+20 }) // the server goes on
	copied := appstest.Mount(t, images[0])
	restored := appstest.OpenPostgres(t, filepath.Join(copied.Mount, "pg"))
	require.NoError(t, os.Remove(filepath.Join(restored.Data, "postmaster.pid"))) // on this machine its number lives
	restored.Start(t)
	requireRows(t, restored.SQL(t, countRows), acked, sent)
	restored.Balanced(t)
	restored.Shutdown(t)
}

func requireRecords(t *testing.T, name string, records []wire.Record, files ...string) {
	t.Helper()
	require.Len(t, records, len(files))
	for i, f := range files {
		require.Equal(t, f, records[i].File)
		require.Equal(t, name, records[i].Name)
	}
}

// prepared begins a backup.
func prepared(t *testing.T, o *Options) *Prepared {
	t.Helper()
	p, outcomes, err := New(o).Prepare(t.Context(), wire.PrepareArgs{Label: "test"})
	require.NoError(t, err)
	requireOK(t, 1, outcomes)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p.(*Prepared)
}

// session is the client that holds a backup.
func (p *Prepared) session() *client { return p.held[0].held.(*pgHeld).s.c }

// What can become of a backup's session, on one cluster.
func TestPostgresSessions(t *testing.T) {
	t.Parallel()
	dir := appstest.Dir(t)
	pg := appstest.NewPostgres(t, dir)
	usual := below(dir)
	brief := *usual
	brief.Hold, brief.Resume, brief.Connect = time.Second, time.Second, time.Second

	t.Run("lost in the freeze", func(t *testing.T) {
		p := prepared(t, usual)
		requireOK(t, 1, p.Hold(t.Context()))
		require.Equal(t, "1", pg.SQL(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hikae'"))
		p.session().mu.Lock()
		require.NoError(t, syscall.Kill(p.session().pid, syscall.SIGKILL))
		p.session().mu.Unlock()
		requireProblem(t, 5*time.Second, "signal: killed", p.Resume(t.Context()))
		records, outcomes := p.Finish(t.Context())
		requireProblem(t, time.Second, "the session that holds the backup was lost", outcomes)
		require.Empty(t, records)
		// The server has aborted the backup: another one can begin and end.
		pg.SQL(t, "SELECT pg_backup_start('x', true); SELECT pg_backup_stop(false)")
	})

	// No step, no listing and no way in takes longer than its bound.
	t.Run("server hangs", func(t *testing.T) {
		p := prepared(t, &brief)
		goOn := pg.Hang(t)
		requireProblem(t, 4*time.Second, "no answer in time", p.Hold(t.Context()))
		requireProblem(t, time.Second, "no answer in time", p.Resume(t.Context()))
		a := New(&brief)
		found, err := a.Find(t.Context())
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Contains(t, found[0].State, "no answer in time")
		_, outcomes, err := a.Prepare(t.Context(), wire.PrepareArgs{LimitMillis: 1000})
		require.NoError(t, err)
		requireProblem(t, 4*time.Second, "no answer in time", outcomes)
		goOn()
		prepared(t, usual)
	})

	t.Run("closed in a step", func(t *testing.T) {
		p := prepared(t, usual)
		goOn := pg.Hang(t)
		done := make(chan []wire.Outcome)
		go func() { done <- p.Hold(context.Background()) }()
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		require.NoError(t, p.Close())
		requireProblem(t, 3*time.Second, "closed", <-done)
		require.Less(t, time.Since(began), 3*time.Second)
		goOn()
	})

	t.Run("left out", func(t *testing.T) {
		_, outcomes, err := New(usual).Prepare(t.Context(), wire.PrepareArgs{Skip: []string{"postgresql/" + nameOf(pg.Data)}})
		require.NoError(t, err)
		require.Empty(t, outcomes)
	})

	// What lies ready in .pgpass lets in where the server does not know the account. No secret is an argument.
	t.Run("password", func(t *testing.T) {
		pg.SQL(t, "CREATE ROLE keeper SUPERUSER LOGIN PASSWORD 'secret'")
		hba := filepath.Join(pg.Data, "pg_hba.conf")
		rules, err := os.ReadFile(hba)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(hba, append([]byte("local all keeper scram-sha-256\n"), rules...), 0o600))
		pg.SQL(t, "SELECT pg_reload_conf()")
		all, err := New(usual).postgres()
		require.NoError(t, err)
		s := all[0].(*postgres)
		a := accountOf(s.p.uid, s.p.gid)
		a.home = appstest.Dir(t)
		pass := filepath.Join(a.home, ".pgpass")
		appstest.Write(t, pass, []byte("# keys\nother:1:*:nobody:x\n*:*:*:keeper:secret\n"))
		appstest.Own(t, "postgres", pass)
		require.Equal(t, []string{"postgres", "keeper"}, s.roles(a))
		path, ok := s.p.program(a.uid, "psql")
		require.True(t, ok)
		way := psql(path, a, "postgres", s.socket, s.port, "keeper")
		require.NotContains(t, strings.Join(append(way.args, way.env...), " "), "secret")
		c, err := login(t.Context(), []command{way}, "SELECT 1")
		require.NoError(t, err)
		defer c.close()
		who, err := c.ask(t.Context(), "SELECT current_user")
		require.NoError(t, err)
		require.Equal(t, []string{"keeper"}, who)
		require.NoError(t, os.Remove(pass))
		_, err = login(t.Context(), []command{way}, "SELECT 1")
		require.ErrorContains(t, err, "no password supplied")
	})

	t.Run("server killed", func(t *testing.T) {
		p := prepared(t, usual)
		pg.Stop(t, syscall.SIGQUIT)
		requireProblem(t, 5*time.Second, "was lost", p.Hold(t.Context()))
		requireProblem(t, time.Second, "was lost", p.Resume(t.Context()))
		found, err := New(usual).Find(t.Context())
		require.NoError(t, err)
		require.Empty(t, found)
	})
}

// postmaster.pid belongs to the server's account, which may write anything there.
func TestPostmasterFile(t *testing.T) {
	dir := appstest.Dir(t)
	for content, want := range map[string]string{
		"7\n/data\n1\n5433\n/run/pg\n*\n":              "/run/pg:5433",
		"7\n/data\n1\n5433\n\n*\n":                     "localhost:5433",
		"7\n/data\n1\n5433\n\n10.0.0.1\nready\n":       "10.0.0.1:5433",
		"7\n/data\n1\n5433\n\n--command=x\n":           "localhost:5433",
		"8\n/data\n1\n5433\n/run/pg\n*\n":              "",
		"7\n/data\n1\n0\n/run/pg\n*\n":                 "",
		"7\n/data\n1\n99999\n/run/pg\n*\n":             "",
		"7\n/data\n1\n5433\n/run,/evil\n*\n":           "",
		"7\n/data\n1\n5433\n@abstract\n@x\n":           "",
		"7\n":                                          "",
		"":                                             "",
		strings.Repeat("7\n/data\n1\n5433\n/x\n", 1e4): "",
	} {
		appstest.Write(t, filepath.Join(dir, "postmaster.pid"), []byte(content))
		s := &postgres{p: process{pid: 7, folder: dir}}
		ok := s.postmaster()
		require.Equal(t, want != "", ok, "%.60q", content)
		if ok {
			require.Equal(t, want, fmt.Sprintf("%s:%d", s.socket, s.port))
		}
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "postmaster.pid")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "postmaster.pid"), 0o600))
	require.False(t, (&postgres{p: process{pid: 7, folder: dir}}).postmaster(), "a pipe is not waited for")
}
