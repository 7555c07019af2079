package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/retention"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// care is something that is done to a repository now and then, and may break off.
type care struct {
	every   uint64 // records between two checkpoints; 0: as ever
	prepare func(t *testing.T, r *Repository, st *memstore.Store)
	// at is another store that the client has seen instead, nil: none.
	at func(t *testing.T, st *memstore.Store) *memstore.Store
	do func(ctx context.Context, r *Repository) error
	// other opens it where the usual key does not any more.
	other Secret
	// reached says whether what was wanted has been done.
	reached func(t *testing.T, r *Repository)
}

func (c *care) open(ctx context.Context, st store.Store, state string) (r *Repository, err error) {
	for _, secret := range []Secret{innerKey, c.other} {
		if secret == nil {
			continue
		}
		r = newClosed(st, &OpenOptions{StateDir: state})
		r.every = cmp.Or(c.every, checkpointEvery)
		if err = r.unlock(ctx, secret); err == nil {
			if r, err = r.start(ctx); err == nil {
				return r, nil
			}
		}
	}
	return nil, err
}

func (c *care) mustOpen(t *testing.T, st store.Store, state string) *Repository {
	t.Helper()
	r, err := c.open(t.Context(), st, state)
	require.NoError(t, err)
	return r
}

func hasSlots(n int) func(*testing.T, *Repository) {
	return func(t *testing.T, r *Repository) {
		list, err := r.Slots(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(list), n)
	}
}

func cares() map[string]*care {
	next := KeyFile([32]byte{9, 9})
	again := func(err error) error { // it was done before
		if errors.Is(err, ErrForgotten) || err != nil && strings.Contains(err.Error(), "not exist") {
			return nil
		}
		return err
	}
	keepOne := func(ctx context.Context, r *Repository) error {
		policy, err := retention.Parse("last=1")
		if err == nil {
			_, err = r.Retain(ctx, policy, nil)
		}
		return err
	}
	return map[string]*care{
		"condense": {every: 8, do: func(ctx context.Context, r *Repository) error { return r.Condense(ctx) },
			prepare: func(t *testing.T, r *Repository, _ *memstore.Store) {
				for range 9 {
					emptyPoint(t, r, "more")
				}
			},
			reached: func(t *testing.T, r *Repository) { require.Positive(t, r.lastCheckpoint(t.Context())) }},
		"repair": {do: func(ctx context.Context, r *Repository) error {
			rep, err := r.Repair(ctx, nil)
			if err == nil && !rep.OK {
				err = fmt.Errorf("left: %+v", rep.Left)
			}
			return err
		}, prepare: func(t *testing.T, r *Repository, st *memstore.Store) {
			for _, prefix := range []string{"data/", "meta/", "copy1/manifest/", "copy2/slot/", "index/"} {
				name := firstOf(t, st, prefix)
				b, err := store.ReadAll(t.Context(), st, name, maxPackFile)
				require.NoError(t, err)
				b[100] ^= 1
				st.Set(name, b)
			}
		}, reached: func(t *testing.T, r *Repository) { requireSound(t, r) }},
		"retain": {do: keepOne, reached: func(t *testing.T, r *Repository) { require.Len(t, idsOf(t, r), 1) }},
		"hold": {do: func(ctx context.Context, r *Repository) error {
			for p, err := range r.Points(ctx, "") {
				if err != nil {
					return err
				}
				if err := r.Hold(ctx, []string{p.ID}, ""); err != nil {
					return err
				}
			}
			return nil
		}, reached: func(t *testing.T, r *Repository) {
			var held *HeldError
			require.ErrorAs(t, r.Forget(t.Context(), idsOf(t, r)[:1], ""), &held)
		}},
		"add a key":  {do: func(ctx context.Context, r *Repository) error { _, err := r.AddSlot(ctx, next, ""); return err }, reached: hasSlots(2)},
		"change key": {do: func(ctx context.Context, r *Repository) error { return r.ChangeSecret(ctx, next, "") }, other: next, reached: hasSlots(1)},
		"rotate": {do: func(ctx context.Context, r *Repository) error { return r.RotateMaster(ctx, []Secret{next}, "") },
			other: next, reached: hasSlots(1)},
		"adopt": {do: func(ctx context.Context, r *Repository) error { return again(r.Adopt(ctx, "")) },
			at: func(t *testing.T, st *memstore.Store) *memstore.Store {
				ahead := st.Clone()
				r := openInner(t, ahead, nil)
				emptyPoint(t, r, "vm")
				return ahead
			}, reached: func(t *testing.T, r *Repository) { require.NoError(t, r.Writable()) }},
	}
}

func firstOf(t testing.TB, st store.Store, prefix string) (name string) {
	t.Helper()
	for info, err := range st.List(t.Context(), prefix) {
		require.NoError(t, err)
		if name == "" || info.Name < name {
			name = info.Name
		}
	}
	require.NotEmpty(t, name, prefix)
	return name
}

// RELIABILITY 2.2, bars 2, 8: while a repository is condensed, repaired, thinned out by a policy, held, given other keys, or adopted, any call
// of the store fails once, or all from then on, before it was carried out or after. What was reported is there, all is whole, and
// doing it again does it.
func TestCareThatIsCutOff(t *testing.T) {
	t.Parallel()
	for name, c := range cares() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.cutOffEverywhere(t)
		})
	}
}

func (c *care) cutOffEverywhere(t *testing.T) {
	ctx := t.Context()
	origin, seen := memstore.New(nil), t.TempDir()
	smallPacks(t, origin)
	r := c.mustOpen(t, origin, "")
	points := told{}
	base := ""
	for _, blocks := range [][]uint64{seq(1, 9), seq(3, 11), seq(5, 12)} {
		id, err := keepPoint(ctx, r, "vm", noiseDisk(blocks...), base)
		require.NoError(t, err)
		points[id], base = blocks, id
	}
	if c.prepare != nil {
		c.prepare(t, r, origin)
	}
	require.NoError(t, r.Close())
	seenAt := origin
	if c.at != nil {
		seenAt = c.at(t, origin)
	}
	require.NoError(t, c.mustOpen(t, seenAt, seen).Close())
	newest := map[string]bool{base: true}
	steps := figureOf(171, 7, 1)
	faults := []storetest.Fault{
		{Op: storetest.Any}, {Op: storetest.Any, Mode: storetest.After}, {Op: storetest.Any, Sticky: true}, {Op: storetest.Create, Mode: storetest.After, Sticky: true},
	}
	if tierOf() == "" { // any one of them
		faults = faults[rand.IntN(len(faults)):][:1]
	}
	for _, f := range faults {
		for f.N = 1 + rand.IntN(steps); ; f.N += steps {
			st, state := origin.Clone(), t.TempDir()
			require.NoError(t, os.CopyFS(state, os.DirFS(seen)))
			faulty := storetest.NewFaulty(st, f)
			r, err := c.open(ctx, faulty, state)
			if err == nil {
				_ = c.do(ctx, r)
				_ = r.Close()
			}
			fired := faulty.Fired() > 0
			c.look(t, st, points, newest, "%+v", f)
			r = c.mustOpen(t, st, state)
			require.NoError(t, c.do(ctx, r), "%+v", f)
			require.NoError(t, r.Close())
			r = c.mustOpen(t, st, state)
			c.reached(t, r)
			id, err := keepPoint(ctx, r, "vm", noiseDisk(seq(40, 44)...), base)
			require.NoError(t, err, "%+v", f)
			require.NoError(t, sameDisk(ctx, r, id, noiseDisk(seq(40, 44)...)))
			require.NoError(t, r.Close())
			c.look(t, st, points, newest, "%+v", f)
			if !fired {
				break
			}
		}
	}
}

// look opens it as another client: what must be there restores, and what is there is whole.
func (c *care) look(t *testing.T, st *memstore.Store, points told, must map[string]bool, about ...any) {
	t.Helper()
	r := c.mustOpen(t, st, "")
	defer func() { require.NoError(t, r.Close()) }()
	list := map[string]pipe.PointInfo{}
	for p, err := range r.Points(t.Context(), "vm") {
		require.NoError(t, err, about...)
		list[p.ID] = p
	}
	for id, blocks := range points {
		if _, there := list[id]; there || must[id] {
			require.NoError(t, sameDisk(t.Context(), r, id, noiseDisk(blocks...)), about...)
		}
	}
	rep, err := r.Verify(t.Context(), &VerifyOptions{DataPercent: 100})
	require.NoError(t, err, about...)
	require.Empty(t, rep.Affected, about...)
	for _, d := range rep.Damaged {
		require.True(t, d.Mendable, "%v: %+v", about, d)
	}
}
