package repo

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store/memstore"
)

// What a write-only client says that was taken over, and that reaches the store with no guard before it.

// taken is a repository with a write-only client, of whose key somebody else makes use.
func taken(t testing.TB) (st *memstore.Store, r *Repository, key WriterKey, seed ed25519.PrivateKey) {
	t.Helper()
	st = memstore.New(nil)
	r = smallPacks(t, st)
	key, err := r.EnrolWriter(t.Context(), []string{"web"})
	require.NoError(t, err)
	return st, r, key, keyFromSeed(key.doc.Seed[:])
}

// says writes a record with whatever key, asking nobody whether it counts.
func says(t testing.TB, r *Repository, key ed25519.PrivateKey, rec record) (n uint64) {
	t.Helper()
	got, err := r.log.append(t.Context(), key, func() (*record, error) {
		out := rec
		return &out, nil
	})
	require.NoError(t, err)
	return got.N
}

func pointID(t testing.TB, text string) (id id16) {
	t.Helper()
	require.NoError(t, decodeHex(id[:], []byte(text)))
	return id
}

// A point whose manifest nobody can open stops the sweep of its client's scope, and of no other; points are listed beside it.
func TestManifestThatIsSealedForNobody(t *testing.T) {
	ctx := t.Context()
	st, r, key, seed := taken(t)
	kept := mustPoint(t, r, "vm", noiseDisk(seq(30, 40)...))
	forget(t, r, mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...)))
	lease := says(t, r, seed, record{Kind: recordLease, Access: accessWrite})
	w, err := Secret(KeyFile([32]byte{9, 9})).wrapper()
	require.NoError(t, err)
	id, file, err := r.keys.maker(r.header.Suite, []object.Wrapper{w})(kindManifest, []byte("{}"))
	require.NoError(t, err)
	require.NoError(t, r.vital.create(ctx, manifestName(lease, id), file))
	digest, err := streamHash(file)
	require.NoError(t, err)
	point := id16(id)
	says(t, r, seed, record{Kind: recordCommit, Lease: lease, Point: &point, VM: &key.doc.VMs[0].Tag, Object: &digest})
	says(t, r, seed, record{Kind: recordEnd, Lease: lease})
	rep := mustPrune(t, r, nil)
	require.Len(t, rep.Stopped, 1)
	require.Positive(t, rep.Freed)
	for p, err := range r.Points(ctx, "") {
		if p.ID != kept {
			var bad *PointError
			require.ErrorAs(t, err, &bad)
			require.True(t, bad.WriteOnly)
		}
	}
	requireDisk(t, openInner(t, st, nil), kept, noiseDisk(seq(30, 40)...))
}

// A lease that names a point which was forgotten does not bring it back: what it was made of is gone.
func TestLeaseOfAForgottenPoint(t *testing.T) {
	ctx := t.Context()
	st, r, _, seed := taken(t)
	gone := mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...))
	img, err := r.Open(ctx, gone, "disk0") // so that it was leaving once
	require.NoError(t, err)
	forget(t, r, gone)
	require.NoError(t, img.Close())
	mustPrune(t, r, nil)
	require.Zero(t, countOf(t, st, "data/"))
	full, err := r.signingKey(ctx)
	require.NoError(t, err)
	for _, key := range []ed25519.PrivateKey{seed, full} {
		lease := says(t, r, key, record{Kind: recordLease, Access: accessRead, Points: []id16{pointID(t, gone)}})
		mustPrune(t, r, nil)
		says(t, r, key, record{Kind: recordEnd, Lease: lease})
	}
}

// The lease of a write-only client holds what is its own, and nothing else: however long it shows signs of life, what others do not need
// goes.
func TestWriteOnlyLeaseHoldsItsOwn(t *testing.T) {
	ctx := t.Context()
	st, r, key, seed := taken(t)
	own, err := keepPoint(ctx, openWriteOnly(t, st, memstore.New(nil), key), "web", noiseDisk(seq(40, 60)...), "")
	require.NoError(t, err)
	packs := countOf(t, st, "data/")
	gone := mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...))
	lease := says(t, r, seed, record{Kind: recordLease, Access: accessRead, Points: []id16{pointID(t, gone), pointID(t, own)}})
	forget(t, r, gone, own)
	rep := mustPrune(t, r, nil)
	require.Zero(t, rep.Deferred)
	require.Positive(t, rep.Freed)
	require.Equal(t, packs, countOf(t, st, "data/"), "its own stay")
	idle := says(t, r, seed, record{Kind: recordLease, Access: accessWrite})
	says(t, r, seed, record{Kind: recordEnd, Lease: lease})
	rep = mustPrune(t, r, nil)
	require.Positive(t, rep.Deferred)
	require.Len(t, rep.Waits, 1)
	require.Equal(t, idle, rep.Waits[0].Lease)
	says(t, r, seed, record{Kind: recordEnd, Lease: idle})
	require.Zero(t, mustPrune(t, r, nil).Deferred)
	require.Zero(t, countOf(t, st, "data/"))
}

// A record that names thousands of objects is read in no time, however many leases there ever were: those of write-only clients are
// remembered for ever.
func TestRecordsOfADeletionWithManyLeases(t *testing.T) {
	_, r, key, _ := taken(t)
	const many = 200_000
	l, of := r.log, publicKey(key.Public())
	for n := uint64(10); n < many; n++ {
		l.leases[n] = &leaseState{key: of, scope: scope(of), access: accessWrite, over: true}
	}
	l.n = many
	pruner := publicKey{7}
	l.leases[many] = &leaseState{key: pruner, access: accessPrune}
	rec := &record{N: many + 1, Kind: recordTombstone, Lease: many}
	for i := range maxBuried {
		rec.Packs = append(rec.Packs, nameOf(packRef{objectRef{20, [16]byte{byte(i), byte(i >> 8)}}, kindManifest}))
	}
	began := time.Now()
	l.applyDeletion(pruner, rec)
	require.Len(t, l.tombs, maxBuried)
	rec.Kind = recordSweep
	l.applyDeletion(pruner, rec)
	require.Less(t, time.Since(began), 5*time.Second) // 60 ms; for each name anew it was minutes
}

// A client that was taken over begins any number of leases and lets them die: a prune looks at so many in its minute, ends them, and goes on.
func TestPruneWithManyDeadLeases(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx := t.Context()
		st, r, key, seed := taken(t)
		own, err := keepPoint(ctx, openWriteOnly(t, st, memstore.New(nil), key), "web", noiseDisk(seq(40, 60)...), "")
		require.NoError(t, err)
		of := publicOf(seed)
		require.NoError(t, r.log.refresh(ctx))
		for range 3 * maxWatched { // it waits twice: for packs, and for manifests
			says(t, r, seed, record{Kind: recordLease, Access: accessWrite})
		}
		forget(t, r, own)
		began := time.Now()
		rep, err := r.Prune(ctx, nil)
		require.NoError(t, err)
		require.Len(t, rep.Waits, maxWatched, "the next prune takes the others")
		require.Less(t, time.Since(began), 3*(deadAfter+2*pollEvery)) // one wait for the packs, one for the manifests
		for range 2 {
			_, err = r.Prune(ctx, nil)
			require.NoError(t, err)
		}
		r.log.view(func(l *ledger) { require.Empty(t, l.openOf(of, func(uint64) bool { return false })) })
		require.Zero(t, countOf(t, st, "data/"))
	})
}
