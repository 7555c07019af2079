//go:build linux

package logs_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/apps"
	"github.com/hikae/hikae/guest/agent/apps/appstest"
	"github.com/hikae/hikae/guest/logs"
)

// On a real server: a VM that is put back to its image goes on on the same timeline, and its new WAL has old names. All of
// it is stored, in a life of its own.
func TestPostgresPutBack(t *testing.T) {
	dir := appstest.Dir(t)
	pg := appstest.NewPostgres(t, dir)
	a := apps.New(&apps.Options{Only: func(_, folder string) bool { return folder == pg.Data }})
	found, err := a.Find(t.Context())
	require.NoError(t, err)
	is := logs.ImageStream{Kind: "postgresql", Name: found[0].Name, Processed: true}
	st := logs.Stream{VM: "web", Kind: is.Kind, Name: is.Name}
	store := logs.NewPoints(newRepository(t))
	svc := logs.New(func(context.Context, string) (logs.Keeper, error) { return local{a}, nil }, store, nil)
	require.NoError(t, logs.Begin(t.Context(), local{a}, "web", is))
	pg.Shutdown(t)
	appstest.Run(t, "cp", "-a", pg.Data, pg.Data+".image")
	pg.Start(t)
	svc.Image(logs.ImagePoint{VM: "web", ID: "one", Streams: []logs.ImageStream{is}})
	const write = "CREATE TABLE x AS SELECT n, repeat('%', 500) FROM generate_series(1, 8000) n"
	pg.SQL(t, write)
	_, err = svc.Collect(t.Context(), "web")
	require.NoError(t, err)
	before := list(t, store, st)

	pg.Shutdown(t)
	appstest.Run(t, "rm", "-rf", pg.Data)
	appstest.Run(t, "mv", pg.Data+".image", pg.Data)
	pg.Start(t)
	pg.SQL(t, "CREATE TABLE other AS SELECT n, repeat('y', 500) FROM generate_series(1, 4000) n")
	_, err = svc.Collect(t.Context(), "web")
	var gap *logs.GapError
	require.True(t, errors.As(err, &gap), "%v", err)
	require.Contains(t, gap.Words, "begun anew")
	after := list(t, store, st)[len(before):]
	require.NotEmpty(t, after)
	old := map[string]logs.Sum{}
	for _, l := range before {
		old[l.Name] = l.SHA256
	}
	differ := 0
	for _, l := range after {
		require.EqualValues(t, 1, l.Life)
		var b bytes.Buffer
		require.NoError(t, logs.Read(t.Context(), store, st, l, &b))
		if sum, ok := old[l.Name]; ok && sum != l.SHA256 {
			differ++
		}
	}
	require.Positive(t, differ, "the same names, and another content")
	require.NoError(t, svc.Forget(t.Context(), "web"))
	require.Equal(t, "0", pg.SQL(t, "SELECT count(*) FROM pg_replication_slots"))
}
