//go:build linux

package logs_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/apps"
	"github.com/hikae/hikae/guest/agent/apps/appstest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/logs"
)

// local is the part of the component, without a link.
type local struct{ *apps.Apps }

func (local) Close() error { return nil }

// scene is a cluster under load on two disks, its image, and its logs in a repository.
type scene struct {
	pg      *appstest.Postgres
	w       *appstest.Writer
	svc     *logs.Service
	store   *logs.Points
	stream  logs.Stream
	records []wire.Record
	spaces  string // folder of the tablespace
	images  []string
}

const (
	mostRows  = "SELECT coalesce(string_agg(n::text, ',' ORDER BY n), '') FROM acked"
	rowsUntil = mostRows + " WHERE pg_xact_commit_timestamp(xmin) <= '%s'"
	now       = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
)

// more waits until the writer has gone on for a while.
func (s *scene) more(t *testing.T, n int64) {
	t.Helper()
	until := s.w.Acked() + n
	require.Eventually(t, func() bool { return s.w.Acked() >= until }, 30*time.Second, 5*time.Millisecond)
}

func (s *scene) now(t *testing.T) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, s.pg.SQL(t, now))
	require.NoError(t, err)
	return at
}

func (s *scene) rowsUntil(t *testing.T, at time.Time) string {
	t.Helper()
	return s.pg.SQL(t, strings.Replace(rowsUntil, "%s", at.Format(time.RFC3339Nano), 1))
}

// newScene copies the two disks one after the other, while the load goes on: only the label makes one moment of them.
func newScene(t *testing.T) *scene {
	data, space := appstest.NewDisk(t, 256), appstest.NewDisk(t, 128)
	s := &scene{pg: appstest.NewPostgres(t, data.Mount), spaces: filepath.Join(space.Mount, "ts")}
	require.NoError(t, os.Mkdir(s.spaces, 0o700))
	appstest.Own(t, "postgres", s.spaces)
	s.pg.SQL(t, "CREATE TABLESPACE far LOCATION '"+s.spaces+"'")
	s.pg.SQL(t, appstest.MakeTable+" TABLESPACE far")
	s.pg.Bench(t)
	s.w = appstest.NewWriter(t, s.pg.Session(t), appstest.InsertPostgres)
	a := apps.New(&apps.Options{Only: func(_, folder string) bool { return folder == s.pg.Data }})
	found, err := a.Find(t.Context())
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, []string{s.pg.Data, s.spaces}, found[0].Folders)
	s.stream = logs.Stream{VM: "web", Kind: "postgresql", Name: found[0].Name}
	s.store = logs.NewPoints(newRepository(t))
	s.svc = logs.New(func(context.Context, string) (logs.Keeper, error) { return local{a}, nil }, s.store, nil)

	image := logs.ImageStream{Kind: s.stream.Kind, Name: s.stream.Name, Processed: true}
	require.NoError(t, logs.Begin(t.Context(), local{a}, "web", image))
	s.more(t, 25)
	p, outcomes, err := a.Prepare(t.Context(), wire.PrepareArgs{Label: "image"})
	require.NoError(t, err)
	defer p.Close()
	require.True(t, outcomes[0].OK, outcomes[0].Problem)
	for _, d := range []*appstest.Disk{data, space} {
		require.True(t, p.Hold(t.Context())[0].OK)
		d.Freeze(t)
		s.images = append(s.images, d.Copy(t))
		d.Thaw()
		require.True(t, p.Resume(t.Context())[0].OK)
		s.more(t, 10)
		s.pg.SQL(t, "CHECKPOINT") // the second disk is later than the first one in every page
	}
	s.records, outcomes = p.Finish(t.Context())
	require.True(t, outcomes[0].OK, outcomes[0].Problem)
	image.From = logs.From(s.records)
	require.NotEmpty(t, image.From)
	s.svc.Image(logs.ImagePoint{VM: "web", ID: "image-1", Streams: []logs.ImageStream{image}})
	return s
}

func (s *scene) collect(t *testing.T) logs.StreamReport {
	t.Helper()
	r, err := s.svc.Collect(t.Context(), "web")
	require.NoError(t, err)
	require.Len(t, r.Streams, 1)
	require.Positive(t, r.Streams[0].Stored)
	return r.Streams[0]
}

// restore makes a server of copies of the images, and lets it recover as planned.
func (s *scene) restore(t *testing.T, opts *logs.PostgresOptions) (*appstest.Postgres, *logs.PostgresPlan) {
	t.Helper()
	var mounts []string
	for _, image := range s.images {
		scratch := filepath.Join(appstest.Scratch(t), "copy")
		appstest.Run(t, "cp", "--sparse=always", image, scratch)
		mounts = append(mounts, appstest.Mount(t, scratch).Mount)
	}
	if opts == nil {
		opts = &logs.PostgresOptions{}
	}
	opts.Tablespaces = map[string]string{s.spaces: filepath.Join(mounts[1], "ts")}
	plan, err := logs.PlanPostgres(t.Context(), s.store, s.stream, s.records, opts)
	require.NoError(t, err)
	pg := appstest.OpenPostgres(t, filepath.Join(mounts[0], "pg"))
	wal := filepath.Join(appstest.Dir(t), "it's 100% WAL")
	require.NoError(t, os.Mkdir(wal, 0o700))
	appstest.Own(t, "postgres", wal)
	require.NoError(t, plan.Write(t.Context(), pg.Data, wal))
	require.NoError(t, plan.Write(t.Context(), pg.Data, wal)) // a second one begins anew
	pg.Start(t)
	require.Eventually(t, func() bool { return pg.SQL(t, "SELECT pg_is_in_recovery()") == "f" }, 20*time.Second, 20*time.Millisecond)
	return pg, plan
}

// requireTimeline requires that a restored cluster's logs are told apart from those that it came from.
func requireTimeline(t *testing.T, pg *appstest.Postgres) {
	t.Helper()
	a := apps.New(&apps.Options{Only: func(_, folder string) bool { return folder == pg.Data }})
	found, err := a.Find(t.Context())
	require.NoError(t, err)
	args := wire.LogsArgs{Kind: "postgresql", Name: found[0].Name, Begin: true}
	_, err = a.Logs(t.Context(), args)
	require.NoError(t, err)
	answer, err := a.Logs(t.Context(), args)
	require.NoError(t, err)
	require.Equal(t, "00000002", answer.Timeline)
	require.Equal(t, "00000002.history", answer.Logs[0].Name)
	for _, l := range answer.Logs {
		_, err := a.Fetch(t.Context(), wire.FetchArgs{Kind: args.Kind, Name: args.Name, Log: l.Name}, io.Discard)
		require.NoError(t, err, l.Name)
	}
	_, err = a.Logs(t.Context(), wire.LogsArgs{Kind: args.Kind, Name: args.Name, End: true})
	require.NoError(t, err)
}

// R144: logs between images, and from them the database at a chosen second, exactly.
func TestPostgresPointInTime(t *testing.T) {
	s := newScene(t)
	s.more(t, 25)
	s.collect(t)
	s.more(t, 25)
	chosen := s.now(t)
	s.more(t, 25)
	last := s.collect(t)
	require.True(t, last.Latest.After(chosen))
	s.more(t, 10) // behind the last log: nobody can restore that

	t.Run("a chosen second", func(t *testing.T) {
		pg, plan := s.restore(t, &logs.PostgresOptions{Target: chosen})
		require.Equal(t, last.Latest, plan.Latest)
		require.Equal(t, s.rowsUntil(t, chosen), pg.SQL(t, mostRows))
		pg.Balanced(t)
		require.Equal(t, "0", pg.SQL(t, "SELECT count(*) FROM pg_replication_slots"))
		pg.SQL(t, "INSERT INTO acked VALUES (-1)") // it is open to writes
		requireTimeline(t, pg)
		pg.Shutdown(t)
	})
	t.Run("the latest moment", func(t *testing.T) {
		if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
			t.Skip("a third restore, in the long tier")
		}
		pg, plan := s.restore(t, nil)
		require.Equal(t, s.rowsUntil(t, plan.Latest), pg.SQL(t, mostRows))
		pg.Balanced(t)
		pg.Shutdown(t)
	})
	t.Run("the end of the image's own backup", func(t *testing.T) {
		plan, err := logs.PlanPostgres(t.Context(), s.store, s.stream, s.records, nil)
		require.NoError(t, err)
		pg, plan := s.restore(t, &logs.PostgresOptions{Target: plan.Earliest})
		require.True(t, plan.Immediate)
		// Recovery ends with the record of the backup's end, which is a little behind the moment that is told.
		rows := pg.SQL(t, mostRows)
		require.True(t, strings.HasPrefix(rows, s.rowsUntil(t, plan.Earliest)))
		require.Greater(t, strings.Count(rows, ","), 40)
		pg.Balanced(t)
		pg.Shutdown(t)
	})
	t.Run("moments out of reach", func(t *testing.T) {
		for _, at := range []time.Time{last.Latest.Add(time.Microsecond), chosen.Add(-time.Hour)} {
			_, err := logs.PlanPostgres(t.Context(), s.store, s.stream, s.records, &logs.PostgresOptions{Target: at})
			var e *logs.TimeError
			require.ErrorAs(t, err, &e)
			require.Equal(t, last.Latest, e.Latest)
		}
	})
	require.NoError(t, s.svc.Forget(t.Context(), "web"))
	require.Equal(t, "0", s.pg.SQL(t, "SELECT count(*) FROM pg_replication_slots"))
}
