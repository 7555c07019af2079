//go:build linux

package apps

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/apps/appstest"
	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

const (
	insertBoth = "INSERT INTO acked VALUES (%[1]d); INSERT INTO plain VALUES (%[1]d); SELECT %[2]d;"
	countPlain = "SELECT CONCAT(COUNT(*), ' ', MAX(n)) FROM d.plain"
	countInno  = "SELECT CONCAT(COUNT(*), ' ', MAX(n)) FROM d.acked"
)

// R143, R144: InnoDB and MyISAM tables under load are frozen together; the image holds exactly what was committed, and
// the binary logs lead on from it, by position, to the end.
func TestMariaDBFrozenImage(t *testing.T) {
	t.Parallel()
	disk := appstest.NewDisk(t, 320)
	my := appstest.NewMariaDB(t, disk.Mount)
	my.SQL(t, "CREATE DATABASE d; USE d; "+appstest.MakeTable+" ENGINE=InnoDB; CREATE TABLE plain (n bigint PRIMARY KEY) ENGINE=MyISAM; "+
		"CREATE TABLE aria (n bigint PRIMARY KEY) ENGINE=Aria")
	w := appstest.NewWriter(t, my.Session(t, "d"), insertBoth)
	a := New(below(disk.Mount))
	found, err := a.Find(t.Context())
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, "mariadb", found[0].Kind)
	require.Equal(t, "ready", found[0].State)
	require.Contains(t, found[0].Logs, "yes")
	until(t, func() bool { return w.Acked() > 50 })

	p, outcomes, err := a.Prepare(t.Context(), wire.PrepareArgs{})
	require.NoError(t, err)
	defer p.Close()
	requireOK(t, 1, outcomes)
	held := time.Now()
	requireOK(t, 1, p.Hold(t.Context()))
	images, acked, sent := freezeAndCopy(t, w, disk)
	requireOK(t, 1, p.Resume(t.Context()))
	t.Logf("commits held for %v", time.Since(held))
	records, outcomes := p.Finish(t.Context())
	requireOK(t, 1, outcomes)
	require.NoError(t, p.Close())
	requireRecords(t, found[0].Name, records, "binlog.json")
	var at record.BinlogPosition
	require.NoError(t, json.Unmarshal(records[0].Content, &at))
	require.Regexp(t, `^0-7-\d+$`, at.GTID)

	until(t, func() bool { return w.Acked() > acked+20 })
	w.Stop()
	k := keeper{a, "mariadb", found[0].Name}
	logs := k.list(t, true)
	files := []string{}
	for _, l := range logs.Logs {
		if l.Name >= at.File {
			path := filepath.Join(appstest.Dir(t), l.Name)
			appstest.Write(t, path, k.fetch(t, l))
			files = append(files, path)
		}
	}
	k.ship(t, names(logs.Logs)...)
	require.Equal(t, at.File, filepath.Base(files[0]))

	restored := appstest.OpenMariaDB(t, filepath.Join(appstest.Mount(t, images[0]).Mount, "my"))
	restored.Start(t)
	requireRows(t, restored.SQL(t, countInno), acked, sent)
	requireRows(t, restored.SQL(t, countPlain), acked, sent)
	require.Contains(t, restored.SQL(t, "CHECK TABLE d.plain, d.aria"), "OK")
	appstest.Need(t, "mariadb-binlog")
	replay, err := exec.Command("mariadb-binlog", append([]string{"--start-position=" + fmt.Sprint(at.Offset)}, files...)...).Output()
	require.NoError(t, err)
	restored.Feed(t, string(replay))
	requireRows(t, restored.SQL(t, countInno), w.Acked(), w.Sent())
	requireRows(t, restored.SQL(t, countPlain), w.Acked(), w.Sent())
	restored.Shutdown(t)
}

// What can become of a session that holds commits, on one server.
func TestMariaDBSessions(t *testing.T) {
	t.Parallel()
	dir := appstest.Dir(t)
	my := appstest.NewMariaDB(t, dir)
	my.SQL(t, "CREATE DATABASE d; USE d; "+appstest.MakeTable)
	usual := below(dir)
	brief := *usual
	brief.Hold, brief.Resume, brief.Connect = 2*time.Second, time.Second, time.Second
	client := func(p *Prepared) *client { return p.held[0].held.(*myHeld).s.c }

	t.Run("lost in the freeze", func(t *testing.T) {
		p := prepared(t, usual)
		requireOK(t, 1, p.Hold(t.Context()))
		client(p).mu.Lock()
		require.NoError(t, syscall.Kill(client(p).pid, syscall.SIGKILL))
		client(p).mu.Unlock()
		my.SQL(t, "INSERT INTO d.acked VALUES (1)") // the server has let go
		requireProblem(t, 5*time.Second, "the session that held commits was lost", p.Resume(t.Context()))
		_, outcomes := p.Finish(t.Context())
		requireProblem(t, time.Second, "lost", outcomes)
	})

	// A change of a table without transactions that runs for long holds the backup up, and others' changes with it: no
	// longer than the step's bound.
	t.Run("somebody's long change", func(t *testing.T) {
		my.SQL(t, "CREATE TABLE d.plain (n bigint, s int) ENGINE=MyISAM")
		long := my.Session(t, "d")
		long.Stdin = strings.NewReader("INSERT INTO plain SELECT 1, SLEEP(8);\n")
		require.NoError(t, long.Start())
		defer long.Wait()
		defer long.Process.Kill()
		until(t, func() bool { return strings.Contains(my.SQL(t, "SHOW PROCESSLIST"), "SLEEP(8)") })
		_, outcomes, err := New(usual).Prepare(t.Context(), wire.PrepareArgs{LimitMillis: 2500})
		require.NoError(t, err)
		requireProblem(t, 3*time.Second, "BACKUP STAGE BLOCK_DDL: ERROR 1205", outcomes)
		my.SQL(t, "INSERT INTO d.acked VALUES (2)")
		my.SQL(t, "KILL "+my.SQL(t, "SELECT id FROM information_schema.processlist WHERE info LIKE '%SLEEP(8)%' AND id <> CONNECTION_ID()"))
	})

	t.Run("server hangs", func(t *testing.T) {
		p := prepared(t, &brief)
		goOn := my.Hang(t)
		requireProblem(t, 4*time.Second, "no answer in time", p.Hold(t.Context()))
		found, err := New(&brief).Find(t.Context())
		require.NoError(t, err)
		require.Contains(t, found[0].State, "no answer in time")
		goOn()
	})

	t.Run("closed while it holds", func(t *testing.T) {
		p := prepared(t, usual)
		requireOK(t, 1, p.Hold(t.Context()))
		require.NoError(t, p.Close())
		my.SQL(t, "INSERT INTO d.acked VALUES (3)")
	})

	t.Run("password", func(t *testing.T) {
		my.SQL(t, "CREATE USER keeper@localhost IDENTIFIED BY 'secret'")
		all, err := New(usual).mysql()
		require.NoError(t, err)
		s := all[0].(*mysql)
		a := accountOf(s.p.uid, s.p.gid)
		conf := filepath.Join(appstest.Dir(t), ".my.cnf")
		appstest.Write(t, conf, []byte("[client]\nuser=keeper\npassword=secret\n"))
		appstest.Own(t, "mysql", conf)
		path, ok := s.p.program(a.uid, "mariadb", "mysql")
		require.True(t, ok)
		c, err := login(t.Context(), []command{s.client(path, a, "--defaults-file="+conf)}, "SELECT 1")
		require.NoError(t, err)
		defer c.close()
		who, err := c.ask(t.Context(), "SELECT CURRENT_USER()")
		require.NoError(t, err)
		require.Equal(t, []string{"keeper@localhost"}, who)
	})

	t.Run("server killed", func(t *testing.T) {
		p := prepared(t, usual)
		my.Stop(t, syscall.SIGKILL)
		requireProblem(t, 5*time.Second, "was lost", p.Hold(t.Context()))
	})
}

func TestMariaDBWithoutBinlog(t *testing.T) {
	t.Parallel()
	dir := appstest.Dir(t)
	my := appstest.NewMariaDB(t, dir, "--skip-log-bin")
	k := keeper{New(below(dir)), "mariadb", nameOf(my.Data)}
	found, err := k.Find(t.Context())
	require.NoError(t, err)
	require.Equal(t, "no: log_bin is off", found[0].Logs)
	_, err = k.Logs(t.Context(), wire.LogsArgs{Kind: k.kind, Name: k.name, Begin: true})
	fails(t, wire.CodeState, err)
	p := prepared(t, below(dir))
	requireOK(t, 1, p.Hold(t.Context()))
	requireOK(t, 1, p.Resume(t.Context()))
}

func TestBatchColumns(t *testing.T) {
	require.Equal(t, []string{"a\tb", `c\n`, "", "NULL"}, columns(`a\tb`+"\t"+`c\\n`+"\t\tNULL"))
	require.True(t, isBinlog("bin.000001", "/var/log/bin"))
	for _, bad := range []string{"bin.1", "bin.00000x", "../bin.000001", "bin.000001/../x", "other.000001", "bin.index"} {
		require.False(t, isBinlog(bad, "/var/log/bin"), bad)
	}
}
