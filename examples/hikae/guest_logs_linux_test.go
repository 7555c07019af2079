package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/apps/appstest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/hikae/hikae/guest/sshchannel"
	"github.com/hikae/hikae/pipe"
)

// logsScene is a guest with a PostgreSQL of its own behind a real SSH server, and a repository.
type logsScene struct {
	*machine
	t    *testing.T
	host *guesttest.Host
	bin  string // of PostgreSQL
	repo string
	ways []string // flags and URL of the guest
}

func newLogsScene(t *testing.T) *logsScene {
	guesttest.Program(t, "su")
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	require.NoError(t, err)
	if len(found) == 0 {
		t.Skip("no PostgreSQL server is installed (/usr/lib/postgresql/*/bin)")
	}
	s := &logsScene{t: t, bin: filepath.Dir(slices.Max(found)), repo: filepath.Join(t.TempDir(), "r")}
	guesttest.Program(t, "mkfs.ext4")
	s.host = guesttest.SSHD(t, &guesttest.SSHDOptions{MayFreeze: true, Setup: diskIn, Accounts: []guesttest.Account{{Name: "postgres", Password: "of no use"}}})
	s.asPostgres("initdb -D /home/postgres/pg -A peer -N --wal-segsize=1 >/dev/null")
	s.asPostgres(`pg_ctl -s -w -D /home/postgres/pg -l /home/postgres/log -o '-k /home/postgres -h \"\" -c max_slot_wal_keep_size=64MB' start`)
	m, key := keyed(t, s.host)
	s.machine, s.ways = m, append(key, "ssh://root@"+s.host.Addr)
	s.must(t, "init", "--no-encryption", s.repo)
	return s
}

func (s *logsScene) asPostgres(command string) string {
	return s.host.Run(`cd / && su postgres -s /bin/sh -c "` + s.bin + "/" + command + `"`)
}

// sql runs a statement in the guest's cluster.
func (s *logsScene) sql(text string) string {
	return strings.TrimSpace(s.asPostgres(`psql -X -q -A -t -v ON_ERROR_STOP=1 -h /home/postgres -d postgres -c \"` + text + `\"`))
}

// now is the moment by the guest's clock.
func (s *logsScene) now() string {
	return s.sql(`SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD') || 'T' || to_char(clock_timestamp() AT TIME ZONE 'UTC', 'HH24:MI:SS.US') || 'Z'`)
}

func (s *logsScene) logs(verb string, args ...string) []string {
	return append([]string{"guest", "logs", verb, "--repo", s.repo}, args...)
}

func (s *logsScene) ship(args ...string) []string {
	return append(s.logs("ship", append(args, "--name", "web1")...), s.ways...)
}

// backup makes a point as hikae backup --guest does: a session in the guest, and its records with the point. The data is
// copied after the thaw, in no one moment, so that it takes logs to make something of it; between runs before that.
func (s *logsScene) backup(between func()) (point string) {
	t, ctx := s.t, s.t.Context()
	t.Helper()
	way := sshchannel.New(s.host.Addr, guest.Credential{User: "root", PrivateKey: s.host.Key}, &sshchannel.Options{KnownHosts: []string{s.host.KnownHosts}})
	here := &guest.Here{Guest: "web1", Ways: []guest.Way{way}, Programs: guest.ProgramsIn(os.DirFS(s.env["HIKAE_AGENT_DIR"]))}
	session, err := guest.NewSession([]guest.Deployer{here}, &guest.SessionOptions{Guest: "web1", Mounts: []string{"/root/mnt"}})
	require.NoError(t, err)
	defer func() {
		out, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		require.NoError(t, errors.Join(session.Settle(out, point != ""), session.Close(out)))
	}()
	require.NoError(t, session.Begin(ctx))
	require.NoError(t, errors.Join(session.Freeze(ctx), session.Thaw(ctx)))
	between()
	s.host.Run("cp -a /home/postgres/pg /run/hikae/image")
	require.NoError(t, session.Finish(ctx))

	tl := &tool{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, env: func(k string) string { return s.env[k] }}
	r, err := tl.open(ctx, &access{repo: s.repo, variable: "HIKAE_PASSWORD"}, false)
	require.NoError(t, err)
	defer r.Close()
	w, err := r.Begin(ctx, "web1", &pipe.PointOptions{})
	require.NoError(t, err)
	defer w.Close()
	require.NoError(t, session.Keep(ctx, func(name string, content io.Reader) error { return w.Blob(ctx, name, content) }))
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	return id
}

// restored is a copy of what the backup holds.
func (s *logsScene) restored() (data string) {
	data = filepath.Join(appstest.Dir(s.t), "data")
	appstest.Run(s.t, "cp", "-a", filepath.Join(s.host.Dir, "image"), data)
	appstest.Run(s.t, "chown", "-R", "postgres", data)
	return data
}

// R144, R187: what a new user types. Logs come out of the guest between two backups, and bring what was restored to the
// moment that was asked for, exactly.
func TestGuestLogs(t *testing.T) {
	s := newLogsScene(t)
	s.sql("CREATE TABLE orders (n int)")
	s.sql("INSERT INTO orders VALUES (1)")

	doc, _ := s.docOf(t, outcome.Done, s.ship("--once")...)
	require.Empty(t, doc["point"])
	stream := doc["streams"].([]any)[0].(map[string]any)
	require.Contains(t, stream["waits"], "no backup")
	require.Equal(t, "1", s.sql("SELECT count(*) FROM pg_replication_slots"))
	status, text := s.run(t, s.logs("list", "web1")...)
	require.Equal(t, outcome.Failed, status, text)
	require.Contains(t, text, "there is no backup of web1")

	point := s.backup(func() { s.sql("INSERT INTO orders VALUES (2)") })
	status, text = s.run(t, s.logs("restore", point)...)
	require.Equal(t, outcome.Failed, status, text)
	require.Contains(t, text, "Has `hikae guest logs ship` run since that backup?")

	s.sql("INSERT INTO orders VALUES (3)")
	doc, _ = s.docOf(t, outcome.Done, s.ship("--once")...)
	require.Equal(t, point, doc["point"])
	stream = doc["streams"].([]any)[0].(map[string]any)
	require.Positive(t, stream["stored"])
	app := stream["app"].(string)
	chosen := s.now()
	s.sql("INSERT INTO orders VALUES (4)")
	doc, _ = s.docOf(t, outcome.Done, s.ship("--once")...)
	latest := doc["streams"].([]any)[0].(map[string]any)["latest"].(string)
	s.sql("INSERT INTO orders VALUES (5)") // behind the last log
	require.Empty(t, s.host.Left())

	list, _ := s.docOf(t, outcome.Done, s.logs("list", "web1")...)
	require.Len(t, list["chains"], 1, "%v", list)
	require.Empty(t, list["chains"].([]any)[0].(map[string]any)["gap"])
	require.Len(t, list["points"], 1)
	reach := list["points"].([]any)[0].(map[string]any)
	require.Equal(t, []any{point, app, latest, ""}, []any{reach["point"], reach["app"], reach["latest"], reach["problem"]})
	require.Contains(t, s.must(t, s.logs("list", "web1")...), latest)

	t.Run("mistakes", func(t *testing.T) {
		for want, args := range map[string][]string{
			"cannot be restored to": {"--time", "2100-01-01T00:00:00Z", "web1@latest"},
			"is not a time":         {"--time", "yesterday", "web1@latest"},
			"no such database":      {"--app", "postgresql/none", "web1@latest"},
			"are given together":    {"--data", "/nowhere", "web1@latest"},
			"made with --guest":     {"web1/logs@latest"},
		} {
			status, text := s.run(t, s.logs("restore", args...)...)
			require.NotEqual(t, outcome.Done, status, text)
			require.Contains(t, text, want)
		}
		data := s.restored()
		other := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(other, "precious"), nil, 0o600))
		status, text := s.run(t, s.logs("restore", "--data", data, "--wal", other, "web1@latest")...)
		require.Equal(t, outcome.Failed, status, text)
		require.Contains(t, text, "precious")
		require.NoFileExists(t, filepath.Join(data, "recovery.signal"))
	})
	t.Run("a chosen moment", func(t *testing.T) {
		data := s.restored()
		wal := filepath.Join(filepath.Dir(data), "wal")
		doc, _ := s.docOf(t, outcome.Done, s.logs("restore", point, "--app", app, "--data", data, "--wal", wal, "--time", chosen)...)
		require.Equal(t, latest, doc["latest"])
		require.Len(t, doc["next"], 3)
		pg := appstest.OpenPostgres(t, data)
		pg.Start(t)
		require.Eventually(t, func() bool { return pg.SQL(t, "SELECT pg_is_in_recovery()") == "f" }, 20*time.Second, 20*time.Millisecond)
		require.Equal(t, "1,2,3", pg.SQL(t, "SELECT string_agg(n::text, ',' ORDER BY n) FROM orders"))
		status, text := s.run(t, s.logs("restore", point, "--data", data, "--wal", wal)...)
		require.Equal(t, outcome.Failed, status, text)
		require.Contains(t, text, "a server runs on it")
		pg.Shutdown(t)
	})
	t.Run("as a service, until it is told to stop", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		var out strings.Builder
		told := &told{want: "1 databases", heard: func() { cancel(errInterrupted) }}
		tl := &tool{stdin: strings.NewReader(""), stdout: &out, stderr: told, env: func(k string) string { return s.env[k] }}
		require.Equal(t, outcome.Done, tl.run(ctx, append(s.ship("--every", "1s"), "--json")), told.all.String())
		require.NoError(t, json.Unmarshal([]byte(out.String()), &doc), out.String())
		require.Equal(t, point, doc["point"])
		require.Positive(t, doc["streams"].([]any)[0].(map[string]any)["stored"])
	})
	doc, _ = s.docOf(t, outcome.Done, append([]string{"guest", "logs", "stop"}, s.ways...)...)
	require.Equal(t, []any{app}, doc["stopped"])
	require.Equal(t, "0", s.sql("SELECT count(*) FROM pg_replication_slots"))
	require.Empty(t, s.host.Left())
}

// told is what a command says on stderr; heard is called at some words.
type told struct {
	all   strings.Builder
	want  string
	heard func()
}

func (w *told) Write(p []byte) (int, error) {
	w.all.Write(p)
	if strings.Contains(w.all.String(), w.want) {
		w.heard()
	}
	return len(p), nil
}

// Mistakes of ship are told before anything is done in a guest.
func TestGuestLogsMistakes(t *testing.T) {
	m := newMachine(t)
	repository := filepath.Join(t.TempDir(), "r")
	m.must(t, "init", "--no-encryption", repository)
	for want, args := range map[string][]string{
		"--every is from":   {"--every", "9h", "--name", "web1", "ssh://root@192.0.2.1"},
		"no way into":       {"--name", "web1", "--once", "http://192.0.2.1"},
		"--name is missing": {"ssh://root@192.0.2.1"},
		"--name is empty":   {"--name", "", "ssh://root@192.0.2.1"},
		"password stands":   {"--name", "web1", "ssh://root:secret@192.0.2.1"},
	} {
		status, text := m.run(t, append([]string{"guest", "logs", "ship", "--repo", repository}, args...)...)
		require.Equal(t, outcome.Misused, status, text)
		require.Contains(t, text, want)
		require.NotContains(t, text, "secret@")
	}
}
