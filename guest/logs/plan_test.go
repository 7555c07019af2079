package logs

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

var (
	cluster = Stream{VM: "web", Kind: "postgresql", Name: "main"}
	noon    = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

// records are those of a backup from segment 3 into segment 5, that ended at noon.
func records(t *testing.T) []wire.Record {
	t.Helper()
	facts, err := json.Marshal(record.PostgresBackup{System: "7000000000000000001", Version: 150018, SegmentBytes: segment, Timeline: "00000001",
		StartLSN: "0/300028", StopLSN: "0/500100", StopTime: noon.Format(time.RFC3339Nano)})
	require.NoError(t, err)
	label := "START WAL LOCATION: 0/300028 (file 000000010000000000000003)\nCHECKPOINT LOCATION: 0/300060\n"
	return []wire.Record{
		{Kind: "postgresql", Name: "main", File: "backup_label", Content: []byte(label)},
		{Kind: "postgresql", Name: "main", File: "backup.json", Content: facts},
		{Kind: "postgresql", Name: "main", File: "tablespace_map", Content: []byte("16384 /far\n16385 /near\n")},
	}
}

// stored are segments by their numbers; those from 5 on each have a mark, a minute after the other from noon on.
func stored(numbers ...int64) *memory {
	m := &memory{}
	for _, n := range numbers {
		m.logs = append(m.logs, Log{Name: record.SegmentName("00000001", n, segment), Timeline: "00000001", Size: segment,
			Time: noon.Add(time.Duration(n-5) * time.Minute), Mark: n >= 5})
	}
	return m
}

func TestPostgresPlan(t *testing.T) {
	plan := func(m *memory, at time.Time) (*PostgresPlan, error) {
		return PlanPostgres(t.Context(), m, cluster, records(t), &PostgresOptions{Target: at})
	}
	t.Run("a whole chain", func(t *testing.T) {
		m := stored(1, 2, 3, 4, 5, 6, 7)
		p, err := plan(m, time.Time{})
		require.NoError(t, err)
		require.Equal(t, noon, p.Earliest)
		require.Equal(t, noon.Add(2*time.Minute), p.Latest)
		require.Equal(t, p.Latest, p.Target)
		require.Len(t, p.Logs, 5, "from the label on")
		p, err = plan(m, noon.Add(time.Second))
		require.NoError(t, err)
		require.Len(t, p.Logs, 4, "up to the mark behind the moment")
		p, err = plan(m, noon)
		require.NoError(t, err)
		require.True(t, p.Immediate)
		require.Len(t, p.Logs, 3)
	})
	t.Run("a gap ends it", func(t *testing.T) {
		m := stored(3, 4, 5, 6, 8, 9)
		p, err := plan(m, time.Time{})
		require.NoError(t, err)
		require.Equal(t, noon.Add(time.Minute), p.Latest)
		require.Equal(t, record.SegmentName("00000001", 6, segment), p.Gap.After)
		_, err = plan(m, noon.Add(4*time.Minute))
		var e *TimeError
		require.ErrorAs(t, err, &e)
		require.Equal(t, p.Latest, e.Latest)
		var g *GapError
		require.ErrorAs(t, err, &g)
		require.ErrorContains(t, err, "a gap in the logs after 000000010000000000000006")
	})
	t.Run("a chain that lacks the backup's own logs", func(t *testing.T) {
		for _, numbers := range [][]int64{{}, {4, 5, 6}, {3, 4}, {3, 5, 6}} {
			_, err := plan(stored(numbers...), time.Time{})
			var g *GapError
			require.ErrorAs(t, err, &g, "%v", numbers)
			require.ErrorContains(t, err, "the backup itself ends in 000000010000000000000005")
		}
	})
	t.Run("before the backup's end", func(t *testing.T) {
		var e *TimeError
		_, err := plan(stored(3, 4, 5), noon.Add(-time.Microsecond))
		require.ErrorAs(t, err, &e)
	})
	t.Run("without a mark", func(t *testing.T) {
		m := stored(3, 4, 5, 6)
		for i := range m.logs {
			m.logs[i].Mark = false
		}
		p, err := plan(m, time.Time{})
		require.NoError(t, err)
		require.True(t, p.Immediate)
	})
	t.Run("within the backup's end", func(t *testing.T) {
		r := records(t)
		r[1].Content = []byte(strings.Replace(string(r[1].Content), `"stopTime"`, `"endTime":"2026-11-22T12:00:01Z","stopTime"`, 1))
		for at, immediate := range map[time.Duration]bool{0: true, time.Second: true, time.Second + 1: false} {
			p, err := PlanPostgres(t.Context(), stored(3, 4, 5, 6), cluster, r, &PostgresOptions{Target: noon.Add(at)})
			require.NoError(t, err)
			require.Equal(t, immediate, p.Immediate, "a server cannot stop before its backup's end")
			require.Equal(t, noon, p.Earliest)
		}
	})
	t.Run("a folder of no tablespace", func(t *testing.T) {
		_, err := PlanPostgres(t.Context(), stored(3, 4, 5), cluster, records(t), &PostgresOptions{Tablespaces: map[string]string{"/fra": "/x"}})
		require.ErrorContains(t, err, `no tablespace lies in "/fra"`)
	})
	t.Run("another timeline continues nothing", func(t *testing.T) {
		m := stored(3, 4, 5)
		m.logs = append(m.logs, Log{Name: "000000020000000000000006", Timeline: "00000002", Size: segment, Time: noon.Add(time.Hour), Mark: true})
		p, err := plan(m, time.Time{})
		require.NoError(t, err)
		require.Equal(t, noon, p.Latest)
	})
}

// Records come from guests: what does not fit together is refused.
func TestPostgresPlanRefusesRecords(t *testing.T) {
	for name, change := range map[string]func([]wire.Record) []wire.Record{
		"no label":       func(r []wire.Record) []wire.Record { return r[1:] },
		"no facts":       func(r []wire.Record) []wire.Record { return r[:1] },
		"an empty label": func(r []wire.Record) []wire.Record { r[0].Content = nil; return r },
		"another start": func(r []wire.Record) []wire.Record {
			r[0].Content = []byte(strings.Replace(string(r[0].Content), "0/3", "0/4", 1))
			return r
		},
		"a path": func(r []wire.Record) []wire.Record {
			r[0].Content = []byte("START WAL LOCATION: 0/3 (file ../../x)\n")
			return r
		},
		"another place in the same segment": func(r []wire.Record) []wire.Record {
			r[0].Content = []byte(strings.Replace(string(r[0].Content), "0/300028", "0/300060", 1))
			return r
		},
		"an end that is no time": func(r []wire.Record) []wire.Record {
			r[1].Content = []byte(strings.Replace(string(r[1].Content), `"stopTime"`, `"endTime":"x","stopTime"`, 1))
			return r
		},
		"segments of 3": func(r []wire.Record) []wire.Record {
			r[1].Content = []byte(strings.Replace(string(r[1].Content), "1048576", "3", 1))
			return r
		},
		"no time": func(r []wire.Record) []wire.Record {
			r[1].Content = []byte(strings.Replace(string(r[1].Content), "2026", "x", 1))
			return r
		},
		"a stop before it": func(r []wire.Record) []wire.Record {
			r[1].Content = []byte(strings.Replace(string(r[1].Content), "0/500100", "0/1", 1))
			return r
		},
		"no JSON":           func(r []wire.Record) []wire.Record { r[1].Content = []byte("{"); return r },
		"another cluster's": func(r []wire.Record) []wire.Record { r[0].Name = "other"; return r },
		"too long": func(r []wire.Record) []wire.Record {
			r[0].Content = append(r[0].Content, make([]byte, 2<<20)...)
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := PlanPostgres(t.Context(), stored(3, 4, 5), cluster, change(records(t)), nil)
			require.Error(t, err)
		})
	}
}

// What Write leaves in a data folder, on any system.
func TestPostgresWrite(t *testing.T) {
	m := stored(3, 4, 5)
	m.data = map[string][]byte{}
	for i := range m.logs {
		m.logs[i].SHA256 = sumOf(make([]byte, segment))
		m.data[m.logs[i].Name] = make([]byte, segment)
	}
	p, err := PlanPostgres(t.Context(), m, cluster, records(t), &PostgresOptions{Pause: true, Tablespaces: map[string]string{"/far": `/new\far`}})
	require.NoError(t, err)
	data, wal := t.TempDir(), filepath.Join(t.TempDir(), "w")
	require.NoError(t, os.Mkdir(wal, 0o700))
	if strings.Contains(wal, `\`) {
		t.Skip("guests with PostgreSQL are Linux")
	}
	write := func(name, content string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(data, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(data, name), []byte(content), 0o600))
	}
	require.Error(t, p.Write(t.Context(), data, wal), "no cluster")
	write("PG_VERSION", "14\n")
	require.ErrorContains(t, p.Write(t.Context(), data, wal), "the backup is of 15")
	write("PG_VERSION", "15\n")
	write("global/pg_control", "12345678")
	require.ErrorContains(t, p.Write(t.Context(), data, wal), "another cluster")
	write("global/pg_control", string(binary.LittleEndian.AppendUint64(nil, 7000000000000000001)))
	write("postmaster.pid", "1\n")
	write("standby.signal", "")
	write("pg_replslot/hikae_1/state", "x")
	write("pg_replslot/standby/state", "x")
	write("postgresql.auto.conf", "work_mem = '1MB'\nRecovery_Target_LSN='0/1'\nrecovery_target_time = 'x'")
	require.ErrorContains(t, p.Write(t.Context(), data, "relative"), "absolute")
	_, err = os.Stat(filepath.Join(data, "postmaster.pid"))
	require.NoError(t, err, "nothing is touched before all was checked")
	for range 2 {
		require.NoError(t, p.Write(t.Context(), data, wal))
	}
	for _, gone := range []string{"postmaster.pid", "standby.signal", "pg_replslot/hikae_1", "pg_replslot/standby"} {
		require.NoFileExists(t, filepath.Join(data, gone))
	}
	for name, want := range map[string]string{
		"recovery.signal": "", "backup_label": string(records(t)[0].Content),
		"tablespace_map": "16384 /new\\\\far\n16385 /near\n",
		"postgresql.auto.conf": "work_mem = '1MB'\nrestore_command = 'cp ''" + wal + "/%f'' ''%p'''\nrecovery_target = 'immediate'\n" +
			"recovery_target_inclusive = 'on'\nrecovery_target_timeline = 'current'\nrecovery_target_action = 'pause'\narchive_mode = 'off'\n",
	} {
		b, err := os.ReadFile(filepath.Join(data, name))
		require.NoError(t, err)
		require.Equal(t, want, string(b), name)
	}
	p.archive = true
	require.NoError(t, p.Write(t.Context(), data, wal))
	conf, err := os.ReadFile(filepath.Join(data, "postgresql.auto.conf"))
	require.NoError(t, err)
	require.Contains(t, string(conf), "archive_mode = 'off'", "what stands there stays")
	m.data[m.logs[1].Name] = append(slices.Clone(m.data[m.logs[1].Name])[1:], 1)
	var e *SumError
	require.ErrorAs(t, p.Write(t.Context(), data, wal), &e)
}

func sumOf(b []byte) Sum {
	h := newHasher()
	_, _ = h.Write(b)
	return h.sum()
}

func FuzzList(f *testing.F) {
	good, err := json.Marshal(list{Version: 1, Stream: cluster, Logs: []Log{{Name: "x", Size: 1, Time: noon}}})
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(`{"version":1,"logs":[{"name":"../x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseList(b)
		if err != nil {
			return
		}
		for _, o := range l.Logs {
			require.True(t, fit(o.Name))
		}
		again, err := json.Marshal(l)
		require.NoError(t, err)
		back, err := parseList(again)
		require.NoError(t, err)
		require.Equal(t, len(l.Logs), len(back.Logs))
	})
}

func FuzzLabel(f *testing.F) {
	f.Add([]byte("START WAL LOCATION: 0/300028 (file 000000010000000000000003)\n"))
	f.Add([]byte("START WAL LOCATION: /"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := parseLabel(b); err == nil {
			require.True(t, record.IsSegment(l.segment))
			require.GreaterOrEqual(t, l.start, int64(0))
		}
	})
}
