//go:build linux

package apps

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/apps/appstest"
	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

// keeper asks for one instance's logs.
type keeper struct {
	*Apps
	kind, name string
}

func (k keeper) list(t *testing.T, begin bool) wire.LogsAnswer {
	t.Helper()
	answer, err := k.Logs(t.Context(), wire.LogsArgs{Kind: k.kind, Name: k.name, Begin: begin})
	require.NoError(t, err)
	return answer
}

func (k keeper) fetch(t *testing.T, log wire.Log) []byte {
	t.Helper()
	var b bytes.Buffer
	answer, err := k.Fetch(t.Context(), wire.FetchArgs{Kind: k.kind, Name: k.name, Log: log.Name}, &b)
	require.NoError(t, err)
	require.EqualValues(t, log.Size, answer.Bytes)
	require.EqualValues(t, log.Size, b.Len())
	sum := sha256.Sum256(b.Bytes())
	require.Equal(t, sum[:], answer.SHA256)
	return b.Bytes()
}

func (k keeper) ship(t *testing.T, names ...string) {
	t.Helper()
	require.NoError(t, k.Shipped(t.Context(), wire.ShippedArgs{Kind: k.kind, Name: k.name, Logs: names}))
}

// fails requires a failure of a kind.
func fails(t *testing.T, code wire.Code, err error) {
	t.Helper()
	var f *wire.Failure
	require.ErrorAs(t, err, &f)
	require.Equal(t, code, f.Code)
}

func names(logs []wire.Log) (all []string) {
	for _, l := range logs {
		all = append(all, l.Name)
	}
	return all
}

const slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'hikae_%' AND restart_lsn IS NOT NULL"

// fill writes a few segments of WAL and ends with a checkpoint, which removes what nobody keeps.
const fill = "SELECT pg_switch_wal(); CREATE TABLE x AS SELECT n, repeat('x', 500) FROM generate_series(1, 8000) n; DROP TABLE x; SELECT pg_switch_wal(); CHECKPOINT; CHECKPOINT"

// R144: transaction logs, kept by a slot.
func TestPostgresSlot(t *testing.T) {
	t.Parallel()
	dir := appstest.Dir(t)
	pg := appstest.NewPostgres(t, dir, "max_wal_size=4MB", "min_wal_size=2MB", "max_slot_wal_keep_size=16MB")
	k := keeper{New(below(dir)), "postgresql", nameOf(pg.Data)}
	found, err := k.Find(t.Context())
	require.NoError(t, err)
	require.Contains(t, found[0].Logs, "16 MB")

	_, err = k.Logs(t.Context(), wire.LogsArgs{Kind: k.kind, Name: k.name})
	fails(t, wire.CodeState, err) // nothing was begun
	k.list(t, true)
	require.Equal(t, "1", pg.SQL(t, slots))

	pg.SQL(t, fill)
	first := k.list(t, true)
	require.Empty(t, first.Gap)
	require.Equal(t, "00000001", first.Timeline)
	require.Greater(t, len(first.Logs), 4)
	for i, l := range first.Logs {
		require.Equal(t, i == len(first.Logs)-1, l.Mark)
		k.fetch(t, l)
	}

	// What was not shipped without a hole is kept.
	k.ship(t, append(names(first.Logs[:2]), names(first.Logs[3:])...)...)
	pg.SQL(t, fill)
	second := k.list(t, false)
	require.Empty(t, second.Gap)
	require.Equal(t, first.Logs[2].Name, second.Logs[0].Name)
	k.ship(t, names(second.Logs)...)
	require.NotEqual(t, second.Logs[0].Name, k.list(t, false).Logs[0].Name)

	_, err = k.Fetch(t.Context(), wire.FetchArgs{Kind: k.kind, Name: k.name, Log: "../postgresql.conf"}, nil)
	fails(t, wire.CodeMissing, err)
	fails(t, wire.CodeMissing, k.Shipped(t.Context(), wire.ShippedArgs{Kind: k.kind, Name: k.name, Logs: []string{"x"}}))
	_, err = k.Logs(t.Context(), wire.LogsArgs{Kind: k.kind, Name: "other"})
	fails(t, wire.CodeMissing, err)

	t.Run("a slot that the server gave up is a gap", func(t *testing.T) {
		for range 6 {
			pg.SQL(t, fill)
		}
		answer := k.list(t, true)
		require.Contains(t, answer.Gap, "given up the slot")
		require.Empty(t, k.list(t, true).Gap)
	})
	t.Run("a segment that is gone is a gap", func(t *testing.T) {
		pg.SQL(t, fill)
		last := k.list(t, true).Logs
		require.NoError(t, os.Remove(filepath.Join(pg.Data, "pg_wal", last[1].Name)))
		_, err := k.Fetch(t.Context(), wire.FetchArgs{Kind: k.kind, Name: k.name, Log: last[1].Name}, &bytes.Buffer{})
		fails(t, wire.CodeMissing, err)
		require.Equal(t, last[1].Name+" is gone", k.list(t, true).Gap)
	})
	t.Run("a file that was exchanged is refused", func(t *testing.T) {
		list := k.list(t, true).Logs
		at := filepath.Join(pg.Data, "pg_wal", list[len(list)-1].Name)
		require.NoError(t, os.Rename(filepath.Join(pg.Data, "pg_wal", list[0].Name), at))
		_, err := k.Fetch(t.Context(), wire.FetchArgs{Kind: k.kind, Name: k.name, Log: filepath.Base(at)}, &bytes.Buffer{})
		require.ErrorIs(t, err, errStale)
		require.NoError(t, os.Remove(at))
		require.NoError(t, os.Symlink("/etc/shadow", at))
		_, err = k.Fetch(t.Context(), wire.FetchArgs{Kind: k.kind, Name: k.name, Log: filepath.Base(at)}, &bytes.Buffer{})
		require.Error(t, err)
		_, err = k.Logs(t.Context(), wire.LogsArgs{Kind: k.kind, Name: k.name})
		require.ErrorContains(t, err, "is not the server's")
	})
	_, err = k.Logs(t.Context(), wire.LogsArgs{Kind: k.kind, Name: k.name, End: true})
	require.NoError(t, err)
	require.Equal(t, "0", pg.SQL(t, slots))
}

// Where an archiver is wanted and there is none, we are it, and no slot is made. Where there was one, its archive is
// not ours to make holes in.
func TestPostgresQueue(t *testing.T) {
	t.Parallel()
	dir := appstest.Dir(t)
	pg := appstest.NewPostgres(t, dir, "max_wal_size=4MB", "min_wal_size=2MB", "archive_mode=on")
	k := keeper{New(below(dir)), "postgresql", nameOf(pg.Data)}
	pg.SQL(t, fill)
	first := k.list(t, true)
	require.Empty(t, first.Gap)
	require.Equal(t, "0", pg.SQL(t, slots))
	require.Greater(t, len(first.Logs), 4)
	require.True(t, first.Logs[len(first.Logs)-1].Mark)
	for _, l := range first.Logs {
		k.fetch(t, l)
	}
	k.ship(t, names(first.Logs[1:])...)
	second := k.list(t, false)
	require.Equal(t, first.Logs[0].Name, second.Logs[0].Name)
	require.Contains(t, second.Gap, "is not in the queue")
	k.ship(t, first.Logs[0].Name)
	require.Empty(t, k.list(t, false).Gap)

	// A backup does not wait for an archiver that there is not.
	require.False(t, finishedBackup(t, k.Apps).Archived)

	pg.SQL(t, "ALTER SYSTEM SET archive_command = '/bin/true'")
	pg.SQL(t, "SELECT pg_reload_conf(); SELECT pg_switch_wal()")
	until(t, func() bool { return pg.SQL(t, "SELECT archived_count > 0 FROM pg_stat_archiver") == "t" })
	require.True(t, finishedBackup(t, k.Apps).Archived) // somebody else's archive is waited for
	pg.SQL(t, "ALTER SYSTEM RESET archive_command")
	pg.SQL(t, "SELECT pg_reload_conf()")
	k.list(t, true)
	require.Equal(t, "1", pg.SQL(t, slots))
	require.Equal(t, "0", pg.SQL(t, marks), "the queue is not ours any more")

	// A crash makes the server forget who archived: what lies in the folder does not.
	require.NoError(t, k.endAll(t.Context()))
	pg.SQL(t, "SELECT pg_stat_reset_shared('archiver')")
	k.list(t, true)
	require.Equal(t, "0", pg.SQL(t, marks))
	require.NoError(t, k.endAll(t.Context()))
	require.Equal(t, "0", pg.SQL(t, slots))
}

const marks = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'hikae\\_q\\_%'"

// The queue of an archive that somebody set up since the listing is left to it.
func TestQueueOfAnotherArchiver(t *testing.T) {
	t.Parallel()
	dir := appstest.Dir(t)
	pg := appstest.NewPostgres(t, dir, "archive_mode=on")
	k := keeper{New(below(dir)), "postgresql", nameOf(pg.Data)}
	k.list(t, true)
	require.Equal(t, "1", pg.SQL(t, marks))
	pg.SQL(t, "SELECT pg_switch_wal()")
	listed := names(k.list(t, true).Logs)
	pg.SQL(t, "ALTER SYSTEM SET archive_command = '/bin/false'")
	pg.SQL(t, "SELECT pg_reload_conf()")
	until(t, func() bool { return pg.SQL(t, "SHOW archive_command") == "/bin/false" })
	fails(t, wire.CodeState, k.Shipped(t.Context(), wire.ShippedArgs{Kind: k.kind, Name: k.name, Logs: listed}))
	for _, n := range listed {
		require.FileExists(t, filepath.Join(pg.Data, "pg_wal/archive_status", n+".ready"))
	}
	pg.Shutdown(t)
	require.Error(t, k.Shipped(t.Context(), wire.ShippedArgs{Kind: k.kind, Name: k.name, Logs: listed}), "nobody says whose the queue is")
}

// A slot without a bound is made for those alone who say so; one that a copy of another guest brought along is dropped.
func TestPostgresUnboundedSlot(t *testing.T) {
	t.Parallel()
	dir := appstest.Dir(t)
	pg := appstest.NewPostgres(t, dir, "max_slot_wal_keep_size=-1")
	k := keeper{New(below(dir)), "postgresql", nameOf(pg.Data)}
	found, err := k.Find(t.Context())
	require.NoError(t, err)
	require.Contains(t, found[0].Logs, "set max_slot_wal_keep_size")
	args := wire.LogsArgs{Kind: k.kind, Name: k.name, Begin: true}
	_, err = k.Logs(t.Context(), args)
	fails(t, wire.CodeState, err)
	require.ErrorContains(t, err, "without a bound")
	require.Equal(t, "0", pg.SQL(t, slots))

	pg.SQL(t, "SELECT pg_create_physical_replication_slot('hikae_1_0badcafe', true), pg_create_physical_replication_slot('standby', true)")
	args.Unbounded = true
	answer, err := k.Logs(t.Context(), args)
	require.NoError(t, err)
	require.True(t, answer.New)
	require.False(t, k.list(t, true).New)
	require.Equal(t, "1", pg.SQL(t, slots))
	require.Equal(t, "2", pg.SQL(t, "SELECT count(*) FROM pg_replication_slots"), "a standby's is not ours")
	_, err = k.Logs(t.Context(), wire.LogsArgs{End: true})
	require.NoError(t, err)
	require.Equal(t, "0", pg.SQL(t, slots))
}

func finishedBackup(t *testing.T, a *Apps) (b record.PostgresBackup) {
	t.Helper()
	p, outcomes, err := a.Prepare(t.Context(), wire.PrepareArgs{Label: "test"})
	require.NoError(t, err)
	defer p.Close()
	requireOK(t, 1, outcomes)
	records, outcomes := p.Finish(t.Context())
	requireOK(t, 1, outcomes)
	require.NoError(t, json.Unmarshal(records[1].Content, &b))
	return b
}
