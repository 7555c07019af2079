package guard_test

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/repo/guard"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// beats creates the next heartbeat of a lease.
func (a *attacker) beats(lease, k uint64) {
	a.s.t.Helper()
	_, file := a.object(object.KindBeat, object.SuiteClear, []object.Wrapper{object.Clear{}}, []byte("{}"))
	require.NoError(a.s.t, a.create(fmt.Sprintf("beat/%016x/%016x", lease, k), file))
}

// Leases are not for hoarding: 64 that show a sign of life are what a key may have open. Those that died with their
// client do not count, so that the next run works whatever became of those before it.
func TestLiveLeasesAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t)
		key := s.enrol("web")
		a := takeOver(s, "web-host", key)
		var leases []uint64
		for range 64 {
			leases = append(leases, a.lease())
		}
		a.says("leases of that key are open", map[string]any{"access": "read"})
		time.Sleep(50 * time.Second)
		for _, lease := range leases[:63] {
			a.beats(lease, 0)
		}
		time.Sleep(20 * time.Second) // the last one is stale
		leases[63] = a.lease()
		a.says("leases of that key are open", map[string]any{"access": "read"})

		time.Sleep(2 * time.Minute) // the machine has lost its power
		_, err := backup(t.Context(), s.writer("web-host", key, memstore.New(nil)), "web", disk(2), nil)
		require.NoError(t, err)
	})
}

// A client that was killed on 64 nights is not shut out by what it left, also not under a guard that was started anew.
func TestKilledClientComesBack(t *testing.T) {
	s := newSite(t)
	key := s.enrol("web")
	a := takeOver(s, "web-host", key)
	for range 64 {
		a.lease()
	}
	dir := t.TempDir()
	var err error
	s.g, err = guard.New(s.st, &guard.Options{Dir: dir})
	require.NoError(t, err)
	p := s.backup(s.writer("web-host", key, memstore.New(nil)), "web", 2, nil)
	s.requireRestores(s.reader(), p.ID, 2)
}

// Records that everybody reads for ever are small: no lease names more points than a session builds on, or one twice,
// and there is no room for anything that means nothing.
func TestRecordsAreSmall(t *testing.T) {
	s := newSite(t)
	a := takeOver(s, "web-host", s.enrol("web"))
	lease := a.lease()
	var points []string
	for range 17 {
		name, file := a.sealed(object.KindManifest, "manifest", lease, 100)
		require.NoError(t, a.create(name, file))
		points = append(points, name[len(name)-32:])
		require.NoError(t, a.create(a.record(a.seed, map[string]any{
			"kind": "commit", "lease": lease, "point": points[len(points)-1], "vm": a.tags["web"], "object": streamHash(t, file),
		})))
	}
	a.says("names 17 points", map[string]any{"access": "read", "points": points})
	a.says("twice", map[string]any{"access": "read", "points": []string{points[0], points[1], points[0]}})
	many := slices.Repeat(points[:1], 7000)
	a.says("a record of", map[string]any{"access": "read", "points": many})
	n, prev := a.head()
	padded := fmt.Sprintf(`{"n":%d,"nonce":%q,"prev":%q,"time":"2020-01-01T00:00:00Z","kind":"lease","access":"write"%s}`,
		n+1, strings.Repeat("ab", 16), prev, strings.Repeat(" ", 200_000))
	a.refused("a record of", fmt.Sprintf("log/%016x", n+1), a.signed(a.seed, []byte(padded)))

	name, file := a.record(a.seed, map[string]any{"access": "read", "points": points[:16]})
	require.NoError(t, a.create(name, file), "as many as there may be")
}

// A key adds records as fast as any backup needs it, and no faster; others are not held up.
func TestRecordsComeAtAPace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t)
		a := takeOver(s, "web-host", s.enrol("web"))
		b := takeOver(s, "mail-host", s.enrol("mail"))
		add := func(a *attacker, kind string, lease uint64) error {
			fields := map[string]any{"access": "write"}
			if kind == "end" {
				fields = map[string]any{"kind": "end", "lease": lease}
			}
			return a.create(a.record(a.seed, fields))
		}
		burst := func() (records int, err error) {
			for ; err == nil && records < 1000; records++ {
				n, _ := a.head()
				if err = add(a, "lease", 0); err == nil {
					if err = add(a, "end", n+1); err == nil {
						records++
					}
				}
			}
			return records - 1, err
		}
		done, err := burst()
		require.Equal(t, 200, done)
		require.NotErrorIs(t, err, fs.ErrPermission)
		busy, ok := errors.AsType[interface {
			error
			Busy() bool
		}](err)
		require.True(t, ok && busy.Busy(), "%v", err)
		require.NoError(t, add(b, "lease", 0))
		time.Sleep(time.Minute)
		done, _ = burst()
		require.Equal(t, 60, done)
		time.Sleep(time.Hour)
		done, _ = burst()
		require.Equal(t, 200, done)
	})
}

// Before the bytes have come: what may not be created under its name is refused, and what is there is not looked at.
func TestMayCreate(t *testing.T) {
	ctx := t.Context()
	s := newSite(t)
	a := takeOver(s, "web-host", s.enrol("web"))
	b := takeOver(s, "mail-host", s.enrol("mail"))
	theirs, over, mine := b.lease(), a.lease(), a.lease()
	require.NoError(t, a.create(a.record(a.seed, map[string]any{"kind": "end", "lease": over})))
	n, _ := a.head()
	id := strings.Repeat("0", 32)
	may := func(peer string, full bool, name string) error {
		return s.g.For(peer, full).(guard.Asker).MayCreate(ctx, name, 1)
	}
	for _, name := range []string{
		fmt.Sprintf("data/%016x/%s", mine, id), fmt.Sprintf("manifest/%016x-%s", mine, id), fmt.Sprintf("beat/%016x/%016x", mine, 0),
		fmt.Sprintf("log/%016x", n+1), "log/0000000000000001", "copy1/log/0000000000000001",
	} {
		require.NoError(t, may("web-host", false, name), name)
	}
	for _, name := range []string{
		fmt.Sprintf("data/%016x/%s", theirs, id), fmt.Sprintf("data/%016x/%s", over, id), fmt.Sprintf("data/%016x/%s", 1<<40, id),
		"data/x", "header", "copy1/header", "slot/" + id, "copy1/slot/" + id, fmt.Sprintf("log/%016x", n+2), "checkpoint/0000000000000001",
	} {
		require.ErrorIs(t, may("web-host", false, name), fs.ErrPermission, name)
		require.NoError(t, may("owner", true, name))
	}
	require.ErrorIs(t, s.g.For("web-host", false).(guard.Asker).MayCreate(ctx, fmt.Sprintf("log/%016x", n+1), 17<<20), fs.ErrPermission)
	for _, full := range []bool{true, false} {
		require.ErrorIs(t, may("owner", full, "../x"), fs.ErrInvalid)
		v := s.g.For("owner", full)
		require.NoError(t, v.Close())
		require.ErrorIs(t, v.(guard.Asker).MayCreate(ctx, "log/1", 1), fs.ErrClosed)
	}
	require.Contains(t, s.said.String(), "op=create", "these refusals are told")
}

// A peer sees the heartbeats of its own leases, and of nobody else's: so a session that lasts knows its own.
func TestOwnHeartbeatsAreListed(t *testing.T) {
	s := newSite(t)
	a := takeOver(s, "web-host", s.enrol("web"))
	lease := a.lease()
	a.beats(lease, 0)
	own := fmt.Sprintf("beat/%016x/", lease)
	found, err := storetest.Collect(s.g.For("web-host", false).List(t.Context(), own))
	require.NoError(t, err)
	require.Len(t, found, 1)
	_, err = storetest.Collect(s.g.For("other-host", false).List(t.Context(), own))
	require.ErrorIs(t, err, fs.ErrPermission)
}
