package repo_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

func TestSecrets(t *testing.T) {
	ctx := t.Context()
	age, err := repo.AgeIdentities(strings.NewReader("AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX\n"))
	require.NoError(t, err)
	for name, secret := range map[string]repo.Secret{
		"passphrase": repo.Passphrase("correct horse"), "key file": testKey, "age": age,
	} {
		t.Run(name, func(t *testing.T) {
			st := memstore.New(nil)
			r, err := repo.Init(ctx, st, secret, nil, openOptions(t))
			require.NoError(t, err)
			require.NoError(t, r.Close())
			_, err = repo.Open(ctx, st, repo.KeyFile([32]byte{9}), openOptions(t))
			require.ErrorIs(t, err, repo.ErrSecret)
			_, err = repo.Open(ctx, st, repo.Passphrase("wrong"), openOptions(t))
			require.ErrorIs(t, err, repo.ErrSecret)
			_, err = repo.Open(ctx, st, nil, openOptions(t))
			require.ErrorIs(t, err, repo.ErrSecret)
			r, err = repo.Open(ctx, st, secret, openOptions(t))
			require.NoError(t, err)
			require.NoError(t, r.Close())
			_, err = repo.Init(ctx, st, secret, nil, nil)
			require.ErrorIs(t, err, repo.ErrExists)
		})
	}
	_, err = repo.Init(ctx, memstore.New(nil), nil, nil, nil)
	require.ErrorIs(t, err, repo.ErrSecret, "no default password (hazard H44)")
	_, err = repo.Init(ctx, memstore.New(nil), repo.Passphrase(""), nil, nil)
	require.ErrorIs(t, err, repo.ErrSecret)
	_, err = repo.Open(ctx, memstore.New(nil), testKey, nil)
	require.ErrorIs(t, err, repo.ErrNotRepository)
}

// An old state put back, and a copy that went its own way, are seen by a client that remembers.
func TestRollbackAndFork(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	var warnings []string
	open := &repo.OpenOptions{StateDir: t.TempDir(), CacheDir: t.TempDir(), Warn: func(s string) { warnings = append(warnings, s) }}
	r, err := repo.Init(ctx, st, testKey, &repo.InitOptions{BlockSize: testBlock}, open)
	require.NoError(t, err)
	first := mustBackup(t, r, "vm", disk(1), nil)
	old := st.Clone()
	mustBackup(t, r, "vm", disk(2), nil)
	require.NoError(t, r.Close())

	back, err := repo.Open(ctx, old, testKey, open)
	require.NoError(t, err)
	require.NotEmpty(t, warnings)
	requireSame(t, back, first, disk(1)) // reads go on
	_, err = backup(ctx, back, "vm", disk(3), nil)
	var rollback *repo.ErrRollback
	require.ErrorAs(t, err, &rollback)
	require.False(t, rollback.Fork)
	require.NoError(t, back.Close())

	other := reopen(t, old) // somebody without a memory goes on with the copy
	mustBackup(t, other, "vm", disk(3), nil)
	mustBackup(t, other, "vm", disk(4), nil)
	forked, err := repo.Open(ctx, old, testKey, open)
	require.NoError(t, err)
	defer forked.Close()
	_, err = backup(ctx, forked, "vm", disk(5), nil)
	require.ErrorAs(t, err, &rollback)
	require.True(t, rollback.Fork)
}

func TestResolve(t *testing.T) {
	ctx := t.Context()
	r := newRepository(t, memstore.New(nil), &repo.InitOptions{BlockSize: testBlock})
	a := mustBackup(t, r, "web@1", disk(1), nil)
	b := mustBackup(t, r, "web@1", disk(2), nil)
	c := mustBackup(t, r, "db", disk(3), nil)
	for spec, want := range map[string]string{
		a: a, b[:8]: b, "web@1@latest": b, "web@1@latest~1": a, "db@latest": c, "web@1@latest~2": "", "nobody@latest": "",
		"": "", "zzzz": "", "@latest": "", "db@latest~x": "", "db@latest~-1": "", "db@latest1": "", c[:3]: "",
	} {
		p, err := r.Resolve(ctx, spec)
		if want == "" {
			require.Error(t, err, spec)
		} else {
			require.NoError(t, err, spec)
			require.Equal(t, want, p.ID, spec)
		}
	}
}

// Known and unknown changes give the same point; a range that became zero is stored as zero, so that a restore never
// brings back what was there before (R014, R016; the peer's bug of a skipped zero range).
func TestKnownAndUnknownChangesGiveTheSamePoint(t *testing.T) {
	ctx := t.Context()
	r := newRepository(t, memstore.New(nil), &repo.InitOptions{BlockSize: testBlock})
	size := int64(40*testBlock + 5)
	before := pipetest.NewPattern(1, size)
	base := mustBackup(t, r, "vm", before, nil)
	zeroed := pipe.Extent{Off: 10*testBlock + 100, Len: 5 * testBlock, Kind: pipe.Zero}
	after := pipetest.NewPattern(1, size, zeroed).Blank()

	unknown := mustBackup(t, r, "vm", after, &pipe.PointOptions{Base: base})
	w, err := r.Begin(ctx, "vm", &pipe.PointOptions{Base: base})
	require.NoError(t, err)
	defer w.Close()
	target, err := w.Disk(ctx, "disk0", size)
	require.NoError(t, err)
	for _, e := range []pipe.Extent{
		{Off: 0, Len: zeroed.Off, Kind: pipe.Unchanged}, zeroed, {Off: zeroed.End(), Len: size - zeroed.End(), Kind: pipe.Unchanged},
	} {
		require.NoError(t, target.(pipe.ExtentTarget).Mark(ctx, e))
	}
	require.NoError(t, target.Commit(ctx))
	known, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	requireSame(t, r, unknown, after)
	requireSame(t, r, known, after)
	u, err := r.Resolve(ctx, unknown)
	require.NoError(t, err)
	k, err := r.Resolve(ctx, known)
	require.NoError(t, err)
	require.Equal(t, u.Disks, k.Disks)
	rep, err := r.Verify(ctx, &repo.VerifyOptions{DataPercent: 50})
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep)
}

// A repository that has lost its header in all three places is damaged, and not nothing: nobody is told to make a new one there.
func TestHeaderThatIsLost(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := newRepository(t, st, nil)
	mustBackup(t, r, "vm", pipetest.NewPattern(1, testBlock).Blank(), nil)
	for _, name := range []string{"header", "copy1/header", "copy2/header"} {
		require.NoError(t, st.Remove(ctx, name))
	}
	var corrupt *repo.ErrCorrupt
	_, err := repo.Open(ctx, st, testKey, openOptions(t))
	require.ErrorAs(t, err, &corrupt)
	require.Equal(t, "header", corrupt.Object)
	_, err = repo.Identify(ctx, st)
	require.ErrorAs(t, err, &corrupt)
	_, err = repo.OpenPublic(ctx, st, func(string) {})
	require.ErrorAs(t, err, &corrupt)
	for _, name := range names(t, st) { // an initialisation that died leaves slots, and no record
		if strings.Contains(name, "log/") {
			require.NoError(t, st.Remove(ctx, name))
		}
	}
	_, err = repo.Identify(ctx, st)
	require.ErrorIs(t, err, repo.ErrNotRepository)
}
