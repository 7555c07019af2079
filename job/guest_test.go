package job

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe/pipetest"
)

// scripted is a guest that notes what is asked of it, and refuses one step.
type scripted struct {
	did    []string
	refuse string
	level  hikae.Consistency
}

var errGuest = errors.New("the guest refused")

func (g *scripted) step(name string) error {
	g.did = append(g.did, name)
	if name == g.refuse {
		return errGuest
	}
	return nil
}

func (g *scripted) Begin(context.Context) error  { return g.step("begin") }
func (g *scripted) Freeze(context.Context) error { return g.step("freeze") }
func (g *scripted) Thaw(context.Context) error   { return g.step("thaw") }
func (g *scripted) Finish(context.Context) error { return g.step("finish") }
func (g *scripted) Keep(_ context.Context, put func(string, io.Reader) error) error {
	return errors.Join(g.step("keep"), put("guest/postgresql/main/backup_label", strings.NewReader("START WAL LOCATION")))
}

func (g *scripted) Settle(_ context.Context, durable bool) error {
	if durable {
		return g.step("settle")
	}
	return g.step("give up")
}

func (g *scripted) Close(ctx context.Context) error {
	return errors.Join(g.step("close"), ctx.Err()) // it has time of its own
}

func (g *scripted) Reached() (hikae.Consistency, GuestResult) {
	return g.level, GuestResult{Way: "ssh", Warnings: []string{"swap on sda2"}}
}

// R119, R144, R183, R187, R188: the guest is got ready before the snapshot, goes on before the copy, is told when the
// point is durable and has its applications in it, and is left as it was.
func TestGuestWorkInOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		level hikae.Consistency
		want  string
	}{
		"applications were ready":        {hikae.Application, "application"},
		"one was not":                    {hikae.Filesystem, "filesystem"},
		"the watchdog was first":         {hikae.Crash, "crash"},
		"a guest cannot promise offline": {hikae.Offline, "application"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, b, g := filled(1, 1<<20), pipetest.NewBackend(block), &scripted{level: c.level}
			res, err := Backup(t.Context(), h, "", b, &BackupOptions{Guest: g})
			require.NoError(t, err)
			told := "give up" // logs are not dropped for a point that applications cannot go back to
			if c.want == "application" {
				told = "settle"
			}
			require.Equal(t, []string{"begin", "freeze", "thaw", "finish", "keep", told, "close"}, g.did)
			require.Equal(t, c.want, res.Consistency)
			require.Equal(t, "ssh", res.Guest.Way)
			require.Contains(t, res.Warnings, "guest: swap on sda2")
			require.Contains(t, res.Phases, "guest")
			label, err := b.OpenBlob(t.Context(), res.Point, "guest/postgresql/main/backup_label")
			require.NoError(t, err)
			defer label.Close()
			text, err := io.ReadAll(label)
			require.NoError(t, err)
			require.Equal(t, "START WAL LOCATION", string(text))
			for p, err := range b.Points(t.Context(), "") {
				require.NoError(t, err)
				config, err := PointConfig(t.Context(), b, p)
				require.NoError(t, err)
				require.Equal(t, h.config, config, "what the guest gave is no configuration")
			}
		})
	}
}

// R192, R193: whichever step fails, the guest is closed once, the host has no snapshot left, and there is a point only
// where nothing failed before it was durable.
func TestGuestWorkFailsAtEachStep(t *testing.T) {
	t.Parallel()
	for step, wantPoint := range map[string]bool{
		"begin": false, "freeze": true, "thaw": true, "finish": false, "keep": false, "settle": true, "close": true,
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			h, b, g := filled(2, 1<<20), pipetest.NewBackend(block), &scripted{level: hikae.Application, refuse: step}
			res, err := Backup(t.Context(), h, "", b, &BackupOptions{Guest: g})
			require.Equal(t, "close", g.did[len(g.did)-1])
			require.Len(t, slices.Compact(slices.Clone(g.did)), len(g.did))
			require.Zero(t, h.snapshots)
			require.Equal(t, wantPoint, res.Point != "")
			if wantPoint {
				require.NoError(t, err)
				require.Equal(t, step == "freeze", slices.Contains(g.did, "give up"), "a crash is no leave to drop logs")
				return
			}
			require.ErrorIs(t, err, errGuest)
			require.NotContains(t, g.did, "settle")
			require.Contains(t, g.did, "give up")
		})
	}
}

// A failure on the host's side is told to the guest's applications, also when the session was cancelled.
func TestGuestIsClosedWhereTheHostFails(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"snapshot", "opendisk", "prepare"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			h, b, g := filled(3, 1<<20), pipetest.NewBackend(block), &scripted{level: hikae.Application}
			h.hook = func(o string) error {
				if o == op {
					cancel()
					return errors.New("the host failed")
				}
				return nil
			}
			_, err := Backup(ctx, h, "", b, &BackupOptions{Guest: g})
			require.ErrorContains(t, err, "the host failed")
			require.NotErrorIs(t, err, errGuest)
			require.Equal(t, []string{"give up", "close"}, g.did[len(g.did)-2:])
			require.Zero(t, h.snapshots)
		})
	}
}

// hanging is a guest whose applications do not answer when they are told.
type hanging struct{ scripted }

func (g *hanging) Settle(ctx context.Context, _ bool) error {
	<-ctx.Done()
	return ctx.Err()
}

// R188: applications that do not answer take no time from the removal.
func TestGuestIsClosedAfterSettleHangs(t *testing.T) {
	t.Parallel()
	h, b := filled(4, 1<<20), pipetest.NewBackend(block)
	g := &hanging{scripted{refuse: "begin"}}
	_, err := Backup(t.Context(), h, "", b, &BackupOptions{Guest: g, ReleaseDeadline: 200 * time.Millisecond})
	require.ErrorIs(t, err, errGuest)
	require.ErrorIs(t, err, context.DeadlineExceeded, "of the applications alone")
	require.Equal(t, []string{"begin", "close"}, g.did)
	require.Equal(t, 1, strings.Count(err.Error(), context.DeadlineExceeded.Error()), "Close has time of its own")
}
