package repo_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// opens opens the repository with a secret and reads a point with it.
func opens(t *testing.T, st store.Store, secret repo.Secret, point string, seed uint64) *repo.Repository {
	t.Helper()
	r, err := repo.Open(t.Context(), st, secret, openOptions(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	requireSame(t, r, point, disk(seed))
	return r
}

func refusesSecret(t *testing.T, st store.Store, secret repo.Secret, want error) {
	t.Helper()
	_, err := repo.Open(t.Context(), st, secret, openOptions(t))
	require.ErrorIs(t, err, want)
}

func snapshotOf(t *testing.T, st store.Store, prefix string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for info, err := range st.List(t.Context(), prefix) {
		require.NoError(t, err)
		b, err := store.ReadAll(t.Context(), st, info.Name, 1<<20)
		require.NoError(t, err)
		all[info.Name] = b
	}
	return all
}

// A second way in opens everything; once it is taken away it opens nothing, also when the slot is put back byte for byte.
func TestSlots(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := newRepository(t, st, nil)
	p := mustBackup(t, r, "vm", disk(1), nil)
	second := repo.KeyFile(repo.NewKey())
	id, err := r.AddSlot(ctx, second, "for the night shift")
	require.NoError(t, err)
	other := opens(t, st, second, p, 1)
	list, err := other.Slots(ctx)
	require.NoError(t, err)
	require.Len(t, list, 2)
	for _, s := range list {
		require.Equal(t, s.ID == id, s.Own)
		require.Equal(t, s.ID == id, s.Note == "for the night shift")
		require.Equal(t, "keyfile", s.Kind)
	}
	before := snapshotOf(t, st, "")
	require.ErrorIs(t, other.RemoveSlot(ctx, id, ""), repo.ErrLastSlot)
	require.NoError(t, r.RemoveSlot(ctx, id, "left the company"))
	refusesSecret(t, st, second, repo.ErrSecret)
	for name, b := range before {
		if strings.Contains(name, id) {
			require.NoError(t, st.Create(ctx, name, b))
		}
	}
	refusesSecret(t, st, second, repo.ErrRevokedSlot)
	rep, err := r.Verify(ctx, &repo.VerifyOptions{Repair: true})
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep)
	_, err = other.AddSlot(ctx, repo.KeyFile(repo.NewKey()), "behind everybody's back")
	require.ErrorIs(t, err, repo.ErrRevokedSlot)
}

// A new secret opens, and the old one does not.
func TestChangeSecret(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := newRepository(t, st, nil)
	p := mustBackup(t, r, "vm", disk(1), nil)
	now := repo.KeyFile(repo.NewKey())
	require.NoError(t, r.ChangeSecret(ctx, now, ""))
	refusesSecret(t, st, testKey, repo.ErrSecret)
	opens(t, st, now, p, 1)
	q := mustBackup(t, r, "vm", disk(2), nil) // a session that had it open goes on
	requireSame(t, opens(t, st, now, p, 1), q, disk(2))
	require.NoError(t, r.ChangeSecret(ctx, testKey, ""))
	opens(t, st, testKey, q, 2)
}

// After a rotation the old secrets open nothing, everything that was written can still be read, and what is written from
// there on cannot be opened with what somebody kept of the old slot.
func TestRotateMaster(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := newRepository(t, st, nil)
	p := mustBackup(t, r, "vm", disk(1), nil)
	kept, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	to, err := repo.AgeRecipients(strings.NewReader(kept.Recipient().String()))
	require.NoError(t, err)
	_, err = r.AddSlot(ctx, to, "")
	require.NoError(t, err)
	thief := opens(t, st, testKey, p, 1) // holds the old master, and goes on reading
	identity, err := repo.AgeIdentities(strings.NewReader(kept.String()))
	require.NoError(t, err)
	fresh := repo.KeyFile(repo.NewKey())
	require.NoError(t, r.RotateMaster(ctx, []repo.Secret{fresh, identity}, "yearly"))
	refusesSecret(t, st, testKey, repo.ErrSecret)
	now := opens(t, st, fresh, p, 1)
	q := mustBackup(t, now, "vm", disk(2), nil)
	opens(t, st, identity, q, 2)
	require.Error(t, same(context.WithoutCancel(ctx), thief, q, disk(2)))
	list, err := now.Slots(ctx)
	require.NoError(t, err)
	require.Len(t, list, 2)
}

// A repository without encryption has no keys, and a write-only client is told so too.
func TestSlotsWithoutEncryption(t *testing.T) {
	ctx := t.Context()
	r, err := repo.Init(ctx, memstore.New(nil), nil, &repo.InitOptions{NoEncryption: true}, openOptions(t))
	require.NoError(t, err)
	defer r.Close()
	_, err = r.AddSlot(ctx, testKey, "")
	require.ErrorIs(t, err, repo.ErrNotEncrypted)
	_, err = r.Slots(ctx)
	require.ErrorIs(t, err, repo.ErrNotEncrypted)
}

// A recovery sheet is typed again with blanks and capitals as people do; each wrong digit, and each line that is missing or
// swapped, is named.
func TestRecoverySheet(t *testing.T) {
	key := repo.NewKey()
	sheet := repo.RecoverySheet(key)
	for _, text := range []string{sheet, "Recovery sheet\n\n" + strings.ToUpper(sheet) + "\nKeep it safe.\n", strings.ReplaceAll(sheet, "\n", "\r\n")} {
		got, err := repo.ParseKeyFile([]byte(text))
		require.NoError(t, err)
		require.Equal(t, repo.KeyFile(key), got)
	}
	lines := strings.Split(strings.TrimSuffix(sheet, "\n"), "\n")
	_, err := repo.ParseKeyFile([]byte(strings.Join(lines[:7], "\n")))
	require.ErrorContains(t, err, "line 8")
	found := 0
	for at := range lines[2] {
		c := lines[2][at]
		if at < 4 || c == ' ' {
			continue
		}
		wrong := []byte(lines[2])
		wrong[at] = "123456789abcdef0"[strings.IndexByte("0123456789abcdef", c)]
		bad := append(append(append([]string{}, lines[:2]...), string(wrong)), lines[3:]...)
		if _, err := repo.ParseKeyFile([]byte(strings.Join(bad, "\n"))); err != nil {
			require.ErrorContains(t, err, "line 3")
			found++
		}
	}
	require.GreaterOrEqual(t, found, 9) // of 10: one digit in 256 may hide
}

// However a change of keys breaks off, somebody can open the repository: with the old secret or the new one, and what was there can
// be read. What was asked for again then succeeds.
func TestKeyChangeBreaksOff(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	origin := memstore.New(nil)
	r := newRepository(t, origin, nil)
	p := mustBackup(t, r, "vm", disk(1), nil)
	fresh := repo.KeyFile(repo.NewKey())
	changes := map[string]func(*repo.Repository) error{
		"change": func(r *repo.Repository) error { return r.ChangeSecret(ctx, fresh, "") },
		"rotate": func(r *repo.Repository) error { return r.RotateMaster(ctx, []repo.Secret{fresh}, "") },
	}
	for name, change := range changes {
		for _, mode := range []storetest.Mode{storetest.Before, storetest.After} {
			fired := true
			step := sampled(5, 1, 1)
			for n := 1 + rand.IntN(step); fired; n += step {
				st := origin.Clone()
				faulty := storetest.NewFaulty(st, storetest.Fault{Op: storetest.Any, N: n, Mode: mode})
				if r, err := repo.Open(ctx, faulty, testKey, openOptions(t)); err == nil {
					_ = change(r)
					_ = r.Close()
				}
				fired = faulty.Fired() > 0
				var opened []*repo.Repository
				for _, secret := range []repo.Secret{testKey, fresh} {
					if r, err := repo.Open(ctx, st, secret, openOptions(t)); err == nil {
						requireSame(t, r, p, disk(1))
						opened = append(opened, r)
					}
				}
				require.NotEmpty(t, opened, "%s broke off at call %d: nobody can open it", name, n)
				if fired {
					_, err := opened[0].AddSlot(ctx, repo.KeyFile(repo.NewKey()), "")
					require.NoError(t, err, "%s broke off at call %d", name, n)
				} else {
					require.Len(t, opened, 1)
					require.Greater(t, n, 10)
				}
				for _, r := range opened {
					require.NoError(t, r.Close())
				}
			}
		}
	}
}

// A change of keys that breaks off at any call leaves slots that open nothing: they are told as such, and the next change or a prune
// removes them. Nobody is ever shut out.
func TestSlotsLeftBehind(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	origin := memstore.New(nil)
	r := newRepository(t, origin, nil)
	p := mustBackup(t, r, "vm", disk(1), nil)
	second := repo.KeyFile(repo.NewKey())
	_, err := r.AddSlot(ctx, second, "another one")
	require.NoError(t, err)
	whole := func(st store.Store, secret repo.Secret) {
		r := opens(t, st, secret, p, 1)
		left, err := r.LeftSlots(ctx)
		require.NoError(t, err)
		require.Empty(t, left)
		list, err := r.Slots(ctx)
		require.NoError(t, err)
		inStore := map[string]bool{}
		for name := range snapshotOf(t, st, "slot/") {
			inStore[strings.TrimPrefix(name, "slot/")] = true
		}
		require.Len(t, inStore, len(list))
	}
	broken, leftOver := 0, 0
	for n := 1; ; n++ {
		st := origin.Clone()
		faulty := storetest.NewFaulty(st)
		r := opens(t, faulty, testKey, p, 1)
		faulty.Add(storetest.Fault{Op: storetest.Any, N: n, Sticky: true})
		added := repo.KeyFile(repo.NewKey())
		_, err := r.AddSlot(ctx, added, "")
		if fired := faulty.Fired() > 0; !fired {
			require.NoError(t, err)
			break
		}
		broken++
		after := opens(t, st, testKey, p, 1)
		left, err := after.LeftSlots(ctx)
		require.NoError(t, err)
		rep, err := after.Verify(ctx, nil)
		require.NoError(t, err)
		for _, id := range left {
			leftOver++
			require.Contains(t, strings.Join(rep.Notes, "\n"), "slot/"+id+" is not in force")
		}
		if n%2 == 0 {
			_, err = after.Prune(ctx, nil)
			require.NoError(t, err)
		} else {
			_, err = after.AddSlot(ctx, repo.KeyFile(repo.NewKey()), "")
			require.NoError(t, err)
		}
		whole(st, second)
	}
	require.Greater(t, broken, 10)
	require.Greater(t, leftOver, 3)
}

// Somebody removes what is left behind while another one is just about to put his slot in force: he makes another one, and both
// of them, and whoever changes the key that he uses himself, can open the repository.
func TestSlotThatIsSweptBeforeItsRecord(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, change := range []func(r *repo.Repository, to repo.Secret) error{
		func(r *repo.Repository, to repo.Secret) error { _, err := r.AddSlot(ctx, to, ""); return err },
		func(r *repo.Repository, to repo.Secret) error { return r.ChangeSecret(ctx, to, "") },
		func(r *repo.Repository, to repo.Secret) error {
			return r.RotateMaster(ctx, []repo.Secret{to, repo.KeyFile(repo.NewKey())}, "")
		},
	} {
		for n := 1; ; n++ {
			st := memstore.New(nil)
			first := newRepository(t, st, nil)
			p := mustBackup(t, first, "vm", disk(1), nil)
			_, err := first.AddSlot(ctx, repo.KeyFile(repo.NewKey()), "")
			require.NoError(t, err)
			calls := 0
			between := &meddled{Store: st}
			slow := opens(t, between, testKey, p, 1)
			between.mu.Lock()
			between.before = func() {
				if calls++; calls == n {
					_, err := first.Prune(ctx, nil) // removes what it takes for left behind
					require.NoError(t, err)
				}
			}
			between.mu.Unlock()
			to := repo.KeyFile(repo.NewKey())
			require.NoError(t, change(slow, to), "step %d", n)
			between.mu.Lock()
			between.before = nil
			between.mu.Unlock()
			opens(t, st, to, p, 1)
			if calls < n {
				require.Greater(t, n, 5)
				break
			}
		}
	}
}

// meddled lets somebody act before each creation.
type meddled struct {
	store.Store
	mu     sync.Mutex // copies are made at once
	before func()
}

func (m *meddled) Unwrap() store.Store { return m.Store }

func (m *meddled) Create(ctx context.Context, name string, data []byte) error {
	m.mu.Lock()
	if m.before != nil {
		m.before()
	}
	m.mu.Unlock()
	return m.Store.Create(ctx, name, data)
}
