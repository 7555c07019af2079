package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/logs"
	"github.com/hikae/hikae/pipe"
)

// putGuestPoint makes a point with a record in it, as a session in a guest keeps it.
func putGuestPoint(t *testing.T, b pipe.Backend, vm string, r wire.Record) (point string) {
	t.Helper()
	w, err := b.Begin(t.Context(), vm, nil)
	require.NoError(t, err)
	defer w.Close()
	const name = "guest/records/000-mariadb-main/binlog.json"
	about, err := json.Marshal(map[string]any{"records": map[string]wire.Record{name: {Kind: r.Kind, Name: r.Name, File: r.File}}})
	require.NoError(t, err)
	require.NoError(t, w.Blob(t.Context(), "guest/guest.json", bytes.NewReader(about)))
	require.NoError(t, w.Blob(t.Context(), name, bytes.NewReader(r.Content)))
	point, err = w.Commit(t.Context(), nil)
	require.NoError(t, err)
	return point
}

// putLogs stores logs, one minute after the other.
func putLogs(ctx context.Context, t *testing.T, store logs.Store, s logs.Stream, point string, begun time.Time, names ...string) {
	t.Helper()
	b, err := store.Begin(ctx, s, point)
	require.NoError(t, err)
	defer b.Close()
	for i, name := range names {
		l := logs.Log{Name: name, Timeline: "mysql-bin", Size: int64(len(name)), Time: begun.Add(time.Duration(i+1) * time.Minute), Mark: true}
		require.NoError(t, b.Put(ctx, l, strings.NewReader(name)))
	}
	require.NoError(t, b.Commit(ctx))
}

// R144: the binary logs of MariaDB come out again, with the line that plays them.
func TestGuestLogsBinary(t *testing.T) {
	m := newMachine(t)
	repository := filepath.Join(t.TempDir(), "r")
	m.must(t, "init", "--no-encryption", repository)
	tl := &tool{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, env: func(k string) string { return m.env[k] }}
	r, err := tl.open(t.Context(), &access{repo: repository, variable: "HIKAE_PASSWORD"}, false)
	require.NoError(t, err)
	defer r.Close()
	begun := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	at, err := json.Marshal(record.BinlogPosition{File: "mysql-bin.000007", Offset: 4242, Time: begun.Format(time.RFC3339Nano)})
	require.NoError(t, err)
	point := putGuestPoint(t, r, "db", wire.Record{Kind: "mariadb", Name: "main", File: "binlog.json", Content: at})
	s, store := logs.Stream{VM: "db", Kind: "mariadb", Name: "main"}, logs.NewPoints(r)
	status, text := m.run(t, "guest", "logs", "restore", "--repo", repository, point)
	require.Equal(t, outcome.Failed, status, text)
	require.Contains(t, text, "mysql-bin.000007 is not stored")
	putLogs(t.Context(), t, store, s, point, begun, "mysql-bin.000006", "mysql-bin.000007", "mysql-bin.000008", "mysql-bin.000009", "mysql-bin.000011")

	var list logsListDoc
	require.NoError(t, json.Unmarshal([]byte(m.must(t, "guest", "logs", "list", "--repo", repository, "db", "--json")), &list))
	require.Len(t, list.Chains, 2)
	require.Equal(t, "mysql-bin.000009", list.Chains[0].Last)
	require.Equal(t, 3, list.Points[0].Logs)
	require.Equal(t, begun.Add(4*time.Minute), *list.Points[0].Latest)
	require.Contains(t, list.Points[0].Problem, "gap")

	wal := filepath.Join(t.TempDir(), "it's here")
	var doc logsRestoreDoc
	require.NoError(t, json.Unmarshal([]byte(m.must(t, "guest", "logs", "restore", "--repo", repository, "db@latest", "--wal", wal,
		"--time", "2026-01-31T12:02:30Z", "--json")), &doc))
	require.Equal(t, 2, doc.Logs)
	quoted := strings.ReplaceAll(wal, "'", `'\''`)
	require.Contains(t, doc.Next[1], "--start-position=4242 --stop-datetime='2026-01-31 12:02:30' '"+quoted+"/mysql-bin.000007' '"+quoted+"/mysql-bin.000008' | mariadb")
	content, err := os.ReadFile(filepath.Join(wal, "mysql-bin.000008"))
	require.NoError(t, err)
	require.Equal(t, "mysql-bin.000008", string(content))
	require.NoFileExists(t, filepath.Join(wal, "mysql-bin.000009"))

	for want, args := range map[string][]string{
		"cannot be restored to": {"--time", "2026-01-31T12:05:00Z"},
		"are for PostgreSQL":    {"--data", "/nowhere", "--wal", wal},
	} {
		status, text := m.run(t, append([]string{"guest", "logs", "restore", "--repo", repository, point}, args...)...)
		require.NotEqual(t, outcome.Done, status, text)
		require.Contains(t, text, want)
	}
}
