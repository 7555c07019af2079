package repo

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/retention"
	"github.com/hikae/hikae/repo/store/memstore"
)

// Whoever may not write, or has found the log damaged, changes nothing by any call; what only tells goes on.
func TestNothingIsWrittenWhereNothingMayBe(t *testing.T) {
	ctx := t.Context()
	policy, err := retention.Parse("last=1")
	require.NoError(t, err)
	next := KeyFile([32]byte{9})
	writes := map[string]func(r *Repository, point string) error{
		"begin":  func(r *Repository, _ string) error { _, err := r.Begin(ctx, "vm", nil); return err },
		"forget": func(r *Repository, p string) error { return r.Forget(ctx, []string{p}, "") },
		"hold":   func(r *Repository, p string) error { return r.Hold(ctx, []string{p}, "") },
		"unhold": func(r *Repository, p string) error { return r.Unhold(ctx, []string{p}, "") },
		"retain": func(r *Repository, _ string) error { _, err := r.Retain(ctx, policy, nil); return err },
		"prune":  func(r *Repository, _ string) error { _, err := r.Prune(ctx, nil); return err },
		"repair": func(r *Repository, _ string) error { _, err := r.Repair(ctx, nil); return err },
		"declare": func(r *Repository, _ string) error {
			_, err := r.Verify(ctx, &VerifyOptions{Declare: true})
			return err
		},
		"condense":      func(r *Repository, _ string) error { return r.Condense(ctx) },
		"revoke":        func(r *Repository, _ string) error { return r.Revoke(ctx, 2, "") },
		"add slot":      func(r *Repository, _ string) error { _, err := r.AddSlot(ctx, next, ""); return err },
		"change secret": func(r *Repository, _ string) error { return r.ChangeSecret(ctx, next, "") },
		"rotate":        func(r *Repository, _ string) error { return r.RotateMaster(ctx, []Secret{next}, "") },
		"enrol":         func(r *Repository, _ string) error { _, err := r.EnrolWriter(ctx, []string{"vm"}); return err },
	}
	damaged := func(t *testing.T, err error) { require.ErrorAs(t, err, new(*ErrCorrupt)) }
	readOnly := func(t *testing.T, err error) { require.ErrorIs(t, err, ErrReadOnly) }
	for _, c := range []struct {
		name    string
		opts    OpenOptions
		lose    bool
		refused func(t *testing.T, err error)
	}{{"read only", OpenOptions{ReadOnly: true}, false, readOnly}, {"damaged log", OpenOptions{}, true, damaged}} {
		t.Run(c.name, func(t *testing.T) {
			st := memstore.New(nil)
			r := initInner(t, st)
			point := mustPoint(t, r, "vm", noiseDisk(1, 2))
			require.NoError(t, r.Hold(ctx, []string{mustPoint(t, r, "vm", noiseDisk(3))}, ""))
			require.NoError(t, r.Close())
			if c.lose {
				head, _ := r.log.head()
				loseRecord(t, st, head-1)
			}
			c.opts.StateDir = t.TempDir()
			r, err := Open(ctx, st, innerKey, &c.opts)
			require.NoError(t, err)
			defer r.Close()
			before := namesUnder(t, st, "")
			for name, write := range writes {
				if err := write(r, point); name != "condense" || err != nil { // a log that is short needs no condensing
					c.refused(t, err)
				}
				require.Equal(t, before, namesUnder(t, st, ""), name)
			}
			for _, read := range []func() error{
				func() error { _, err := r.Prune(ctx, &PruneOptions{DryRun: true}); return err },
				func() error { _, err := r.Retain(ctx, policy, &RetainOptions{DryRun: true}); return err },
				func() error { _, err := r.Stats(ctx); return err },
				func() error { _, err := r.Verify(ctx, &VerifyOptions{DataPercent: 100}); return err },
			} {
				if err := read(); err != nil {
					require.True(t, c.lose, "%v", err)
					damaged(t, err)
				}
			}
			require.Equal(t, before, namesUnder(t, st, ""))
		})
	}
}

// A client that is open all the time, and had found the log damaged, goes on once it is mended, whatever it is asked first.
func TestMendedMeanwhile(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	st := memstore.New(nil)
	a := initInner(t, st)
	first := mustPoint(t, a, "vm", noiseDisk(1, 2))
	require.NoError(t, a.Hold(ctx, []string{first}, ""))
	head, _ := a.log.head()
	require.NoError(t, a.Unhold(ctx, []string{first}, ""))
	loseRecord(t, st, head)
	r, err := Open(ctx, st, innerKey, onState(t.TempDir()))
	require.NoError(t, err)
	defer r.Close()
	require.ErrorAs(t, r.Hold(ctx, []string{first}, ""), new(*ErrCorrupt))
	m := openInner(t, st, onState(t.TempDir()))
	_, err = m.MendLog(ctx, &MendLogOptions{Why: "test"})
	require.NoError(t, err)
	require.NoError(t, r.Hold(ctx, []string{first}, ""))
	require.NoError(t, r.Writable())
	_, err = r.Prune(ctx, nil)
	require.NoError(t, err)
	requireDisk(t, r, mustPoint(t, r, "vm", noiseDisk(5)), noiseDisk(5))
}
