package repo

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store/memstore"
)

// What is written again is proven first, is found in its new pack, and stands there once; an assembled block stays one.
func TestRewriter(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	r := initAssembling(t, st, asmBlock)
	content := noise(1, 4*asmBlock)
	first, _ := backupBytes(t, r, "a", content)
	second, stats := backupBytes(t, openTest(t, st), "b", movedBy(2, 12<<10, content))
	require.NotZero(t, stats.Deduplicated, "blocks are assembled")

	r = openTest(t, st)
	x, err := r.index(ctx, scope{})
	require.NoError(t, err)
	old := map[pipe.ID]location{}
	recipes := 0
	require.NoError(t, x.each(func(id pipe.ID, loc location) {
		old[id] = loc
		if !loc.whole() {
			recipes++
		}
	}))
	require.NotZero(t, recipes)
	l, err := r.newLease(ctx, accessWrite, nil)
	require.NoError(t, err)
	w := r.newRewriter(ctx, l, x)
	defer w.close()
	for range 2 { // the second time nothing is left to do
		for id, loc := range old {
			require.NoError(t, w.copy(ctx, id, loc))
		}
	}
	once := w.usage().Stored
	require.ErrorIs(t, w.put(ctx, object.TypeBlock, pipe.ID{1}, content[:asmBlock]), pipe.ErrBlockMismatch)
	require.NoError(t, w.flush(ctx))
	for id, loc := range old {
		require.NoError(t, w.copy(ctx, id, loc), "and after it was flushed neither")
	}
	require.Equal(t, once, w.usage().Stored)
	require.NoError(t, l.end(ctx))

	for id, was := range old { // what was there goes, and all restores from what was written again
		found := 0
		x.mu.RLock()
		require.NoError(t, x.all(id, func(at location) bool {
			if x.packs[at.pack].Lease == l.n {
				found++
				require.Equal(t, was.codec, at.codec)
			}
			return true
		}))
		x.mu.RUnlock()
		require.Equal(t, 1, found)
	}
	packs, err := r.packs(ctx)
	require.NoError(t, err)
	for p := range packs {
		if p.Lease != l.n {
			require.NoError(t, st.Remove(ctx, p.name()))
		}
	}
	after := openTest(t, st)
	requireRestored(t, after, first, content)
	requireRestored(t, after, second, movedBy(2, 12<<10, content))
	rep, err := after.Verify(ctx, &VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep)
}

// A write-only client cannot make a lease for another's scope: neither does it count, nor does a blind target take it.
func TestLeaseForAnother(t *testing.T) {
	t.Parallel()
	r := initInner(t, memstore.New(nil))
	key, other := publicKey{1}, publicKey{2}
	r.log.view(func(l *ledger) {
		l.keys[key] = enrolment{role: roleAppend}
		rec := &record{N: 99, Kind: recordLease, Access: accessWrite, For: &other}
		l.apply(key, rec)
		require.Nil(t, l.leases[99])
		require.Error(t, l.allows(key, rec, nil))
		rec.For = nil
		l.apply(key, rec)
		require.Equal(t, scope(key), l.leases[99].scope)
		require.NoError(t, l.allows(key, rec, nil))

		l.keys[key] = enrolment{role: roleFull}
		l.apply(key, &record{N: 100, Kind: recordLease, Access: accessWrite, For: &other})
		require.Equal(t, scope(other), l.leases[100].scope)
	})
}

// More damage than is remembered by its place makes whole packs bad: nothing of it is referred to for want of memory.
func TestMoreDamageThanIsRemembered(t *testing.T) {
	t.Parallel()
	x, err := newIndex(t.TempDir())
	require.NoError(t, err)
	defer x.close()
	x.addPack(packRef{Kind: kindData})
	x.addPack(packRef{Kind: kindData, objectRef: objectRef{Lease: 1}})
	id := func(n int) (id pipe.ID) {
		binary.LittleEndian.PutUint64(id[:], uint64(n)*0x9E3779B97F4A7C15)
		binary.LittleEndian.PutUint64(id[8:], uint64(n))
		return id
	}
	for n := range maxBad + 10 {
		require.NoError(t, x.add(id(n), location{pack: 0, ordinal: uint32(n), plain: 1, typ: object.TypeBlock}))
		x.markBad(id(n), 0)
	}
	for n := range maxBad + 10 {
		_, ok, err := x.reusable(id(n))
		require.NoError(t, err)
		require.False(t, ok, "%d", n)
	}
	last := maxBad + 9
	require.NoError(t, x.add(id(last), location{pack: 1, plain: 1, typ: object.TypeBlock}))
	loc, ok, err := x.reusable(id(last))
	require.NoError(t, err)
	require.True(t, ok)
	require.EqualValues(t, 1, loc.pack)
}
