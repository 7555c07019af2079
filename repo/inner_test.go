package repo

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

var innerKey = KeyFile([32]byte{1, 2, 3})

func openInner(t testing.TB, st store.Store, opts *OpenOptions) *Repository {
	t.Helper()
	r, err := Open(t.Context(), st, innerKey, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func initInner(t testing.TB, st store.Store) *Repository {
	t.Helper()
	r, err := Init(t.Context(), st, innerKey, &InitOptions{BlockSize: minBlockSize}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func beatsOf(t testing.TB, st store.Store) (n int) {
	for _, err := range st.List(t.Context(), "beat/") {
		require.NoError(t, err)
		n++
	}
	return n
}

// A session shows a sign of life every 20 s, and nothing of it is left when it ends.
func TestHeartbeats(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		st := memstore.New(nil)
		r := initInner(t, st)
		w, err := r.Begin(t.Context(), "vm", nil)
		require.NoError(t, err)
		require.Zero(t, beatsOf(t, st))
		for n := range 9 {
			time.Sleep(beatEvery + time.Millisecond)
			synctest.Wait()
			require.Equal(t, n+1, beatsOf(t, st))
		}
		require.NoError(t, w.Close())
		require.Zero(t, beatsOf(t, st))
		r.log.view(func(l *ledger) { require.Zero(t, l.otherWriter(func(uint64) bool { return false })) })
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Zero(t, beatsOf(t, st))
	})
}

// On a store that only one may write to, a writer that died does not close it for ever, and one that lives is left alone.
func TestDeadWriterOnAnUnsharedStore(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx := t.Context()
		st := memstore.New(&memstore.Options{Less: store.Abilities{ExclusiveCreate: true}})
		r := initInner(t, st)
		living, err := r.Begin(ctx, "vm", nil)
		require.NoError(t, err)
		beside, err := r.Begin(ctx, "vm", nil)
		require.NoError(t, err, "the same process may have several sessions")
		_, err = beside.Commit(ctx, nil)
		require.NoError(t, err)
		other := openInner(t, st, nil)
		_, err = other.Begin(ctx, "vm", nil)
		require.ErrorIs(t, err, ErrReadOnly)

		s := living.(*pointWriter).s
		s.lease.cancel() // killed: no heartbeat, no end
		<-s.lease.done
		next, err := other.Begin(ctx, "vm", nil)
		require.NoError(t, err)
		_, err = living.Commit(ctx, nil)
		require.ErrorIs(t, err, ErrRevoked, "a thawed zombie commits nothing")
		_ = living.Close()
		id, err := next.Commit(ctx, nil)
		require.NoError(t, err)
		list, err := other.committed(ctx)
		require.NoError(t, err)
		require.Len(t, list, 2)
		require.Equal(t, id, list[1].point.String())
	})
}

// A store that hangs holds up the end of a lease for half a minute, not for ever.
func TestLeaseEndOnAHangingStore(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		st := &stalling{Store: memstore.New(nil)}
		r := initInner(t, st)
		w, err := r.Begin(t.Context(), "vm", nil)
		require.NoError(t, err)
		st.hang = true
		started := time.Now()
		require.ErrorIs(t, w.Close(), context.DeadlineExceeded)
		require.LessOrEqual(t, time.Since(started), endDeadline)
		st.hang = false
	})
}

type stalling struct {
	*memstore.Store
	hang bool
}

func (s *stalling) Create(ctx context.Context, name string, data []byte) error {
	if s.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Store.Create(ctx, name, data)
}

// A base that another client forgets between the look and the lease is refused (hazard H01).
func TestForgottenBase(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initInner(t, st)
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	m, err := r.find(ctx, id)
	require.NoError(t, err)
	other := openInner(t, st, nil)
	key, err := other.signingKey(ctx)
	require.NoError(t, err)
	_, err = other.log.append(ctx, key, func() (*record, error) {
		return &record{Kind: recordForget, Points: []id16{m.Point}}, nil
	})
	require.NoError(t, err)
	_, err = r.newSession(ctx, []id16{m.Point})
	require.ErrorIs(t, err, ErrForgotten)
}

// failingPages fails to keep pages while told so.
type failingPages struct {
	mapPages
	fail bool
}

func (p *failingPages) savePage(ctx context.Context, b []byte) (pipe.ID, error) {
	if p.fail {
		return pipe.ID{}, errors.New("no room")
	}
	return p.mapPages.savePage(ctx, b)
}

// A page that could not be stored is a hole, not zeros: the disk is not sealed over it.
func TestPageThatCouldNotBeStored(t *testing.T) {
	ctx := t.Context()
	p := &failingPages{mapPages: mapPages{m: map[pipe.ID][]byte{}}}
	s := newShape(300*minBlockSize, minBlockSize)
	w := newTreeWriter(s, p, nil)
	for i := range int64(300) {
		p.fail = i == 255 || i == 299
		err := w.setBlock(ctx, i, entry{kind: pipe.Data, id: pipe.ID{byte(i), 1}})
		require.Equal(t, p.fail, err != nil)
	}
	p.fail = false
	_, err := w.finish(ctx)
	require.ErrorIs(t, err, ErrIncomplete)
	require.NoError(t, w.setBlock(ctx, 255, entry{kind: pipe.Data, id: pipe.ID{255, 1}}))
	_, err = w.finish(ctx)
	require.ErrorIs(t, err, ErrIncomplete)
	require.NoError(t, w.setBlock(ctx, 299, entry{kind: pipe.Data, id: pipe.ID{43, 1}}))
	_, err = w.finish(ctx)
	require.NoError(t, err)
}

// An index object that is authentic and wrong: the pack's own table is believed, and verify says so.
func TestIndexObjectThatLies(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initInner(t, st)
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	d, err := w.Disk(ctx, "d", 3*minBlockSize)
	require.NoError(t, err)
	content := make([]byte, 3*minBlockSize)
	_, _ = rand.Read(content)
	_, err = d.WriteAt(ctx, content, 0)
	require.NoError(t, err)
	require.NoError(t, d.Commit(ctx))
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)

	present, err := r.packs(ctx)
	require.NoError(t, err)
	s := &session{r: r, lease: &lease{n: w.(*pointWriter).s.lease.n}, ctx: ctx}
	var lies []packTable
	for p, size := range present {
		entries, err := r.readTable(ctx, p, size)
		require.NoError(t, err)
		stream := 0
		for packFileSize(stream, r.header.ParityPermille) < size {
			stream += 4032
		}
		for i := range entries {
			entries[i].Offset++
		}
		lies = append(lies, packTable{ref: p, stream: stream, entries: entries})
	}
	for info := range st.List(ctx, "index/") {
		require.NoError(t, st.Remove(ctx, info.Name))
	}
	require.NoError(t, s.writeIndex(lies))
	later := openInner(t, st, nil)
	img, err := later.Open(ctx, id, "d")
	require.NoError(t, err)
	got := make([]byte, len(content))
	_, err = img.ReadAt(ctx, got, 0)
	require.NoError(t, err)
	require.Equal(t, content, got)
	require.NoError(t, img.Close())
	rep, err := later.Verify(ctx, nil)
	require.NoError(t, err)
	require.False(t, rep.OK)
	require.Empty(t, rep.Affected)
	require.True(t, strings.HasPrefix(rep.Damaged[0].Object, "index/"))
}

// What a manifest claims is held against itself before anything is computed with it.
func TestManifestThatLies(t *testing.T) {
	d := func(size int64, last string, e entry) *manifest {
		return &manifest{VM: "vm", Disks: []manifestDisk{{Key: "d", Size: size, Last: last, Root: rootEntry(e)}}}
	}
	data := func(s ...uint64) (e entry) {
		e.kind = pipe.Data
		copy(e.sums[:], s)
		return e
	}
	const bs = minBlockSize
	require.NoError(t, d(2*bs, "data", data(1, 1)).checkShapes(bs))
	require.NoError(t, d(0, "", entry{}).checkShapes(bs))
	for _, m := range []*manifest{
		d(2*bs, "data", data(1, 2)), d(2*bs, "data", data(0, 1)), d(2*bs, "free", data(1, 1)), d(2*bs, "", data(1, 1)),
		d(2*bs, "data", data(1<<63-1, 1<<63-1, 4)), d(0, "data", data(1)), d(2*bs, "unchanged", data(1, 1)), d(0, "x", entry{}),
		{VM: "vm", Blobs: []manifestBlob{{Name: "b", Size: 1}}}, {VM: "vm", Blobs: []manifestBlob{{Name: "b", Chunks: []hash{{}}}}},
	} {
		require.Error(t, m.checkShapes(bs), "%+v", m)
	}
	require.Error(t, d(1<<62+1, "zero", entry{}).check())
}

// Decoders of documents, against whatever bytes: what they take is written back as the same document.

func roundTrip[T any](t *testing.T, b []byte) {
	v := new(T)
	if decodeJSON(b, v) != nil {
		return
	}
	once, err := encodeJSON(v)
	require.NoError(t, err)
	again := new(T)
	require.NoError(t, decodeJSON(once, again))
	twice, err := encodeJSON(again)
	require.NoError(t, err)
	require.Equal(t, string(once), string(twice))
}

func seedJSON(f *testing.F, v any) {
	b, err := encodeJSON(v)
	require.NoError(f, err)
	f.Add(b)
	f.Add(b[:len(b)/2])
}

func FuzzRecord(f *testing.F) {
	seedJSON(f, &record{N: 1, Kind: recordCommit, Lease: 2, Point: &id16{1}, VM: &id16{2}, Object: &hash{3}})
	seedJSON(f, &record{N: 1, Kind: recordKey, Key: &publicKey{1}, Role: roleAppend, VMs: []id16{{1}}})
	f.Add([]byte(`{"n":1,"kind":"newer","more":[1]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRecord(b); err == nil {
			require.LessOrEqual(t, len(b), maxRecord)
			_ = (&ledger{logState: logState{leases: map[uint64]*leaseState{}, keys: map[publicKey]enrolment{{}: {role: roleFull}}}}).applied(r)
		}
		roundTrip[record](t, b)
	})
}

// applied: no record, whatever it says, stops the state from being computed.
func (l *ledger) applied(r *record) *ledger {
	l.apply(publicKey{}, r)
	return l
}

func FuzzManifest(f *testing.F) {
	root := rootEntry{kind: pipe.Data, id: pipe.ID{1}, sums: sums{1, 2}}
	seedJSON(f, &manifest{VM: "vm", Consistency: "crash", Disks: []manifestDisk{{Key: "d", Size: 3 * minBlockSize, Root: root, Last: "data"}}, Blobs: []manifestBlob{{Name: "b", Size: 1, Chunks: []hash{{1}}}}})
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(manifest)
		if decodeJSON(b, m) == nil && m.check() == nil && m.checkShapes(minBlockSize) == nil {
			r := &Repository{header: headerDocument{BlockSize: minBlockSize}}
			for _, d := range r.info(m).Disks {
				sum := d.Data
				for _, n := range d.Absent {
					sum += n
				}
				require.Equal(t, d.Size, sum)
			}
		}
		roundTrip[manifest](t, b)
	})
}

func FuzzRootEntry(f *testing.F) {
	f.Add([]byte("zero"))
	f.Add([]byte("data:" + strings.Repeat("0a", 32) + ":1:2:3:4:5:6"))
	f.Add([]byte("data"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e rootEntry
		if e.UnmarshalText(b) != nil {
			return
		}
		out, err := e.MarshalText()
		require.NoError(t, err)
		var again rootEntry
		require.NoError(t, again.UnmarshalText(out))
		require.Equal(t, e, again)
	})
}

func FuzzHeaderDocument(f *testing.F) {
	h, slot, err := newRepository(innerKey, nil)
	require.NoError(f, err)
	seedJSON(f, h)
	seedJSON(f, slot)
	f.Fuzz(func(t *testing.T, b []byte) {
		h := new(headerDocument)
		if decodeJSON(b, h) == nil && h.check() == nil {
			require.Positive(t, h.BlockSize)
		}
		roundTrip[headerDocument](t, b)
		roundTrip[slotDocument](t, b)
	})
}

func FuzzPackTable(f *testing.F) {
	f.Add(encodePackTable(packTable{ref: packRef{objectRef{1, [16]byte{2}}, kindData}, stream: 9000, entries: []object.Entry{
		{FrameRef: object.FrameRef{Type: object.TypeBlock, Stored: 16, Offset: 100}}, {FrameRef: object.FrameRef{Ordinal: 1, Type: object.TypePage, Stored: 20, Plain: 4, Offset: 116}}}}))
	f.Add([]byte{kindMeta})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodePackTable(b); err == nil {
			require.Equal(t, b, encodePackTable(p)) // one encoding only
		}
	})
}

func FuzzSigned(f *testing.F) {
	key := keyFromSeed(make([]byte, 32))
	f.Add(sign(key, signRecord, [16]byte{1}, []byte("body")))
	f.Add(make([]byte, signedMin))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := openSigned(b, signRecord, [16]byte{1})
		if err == nil && s.key == publicOf(key) { // Ed25519 is deterministic: nothing but what was signed verifies
			require.Equal(t, sign(key, signRecord, [16]byte{1}, s.body), b)
		}
	})
}

func FuzzNames(f *testing.F) {
	f.Add("data/0000000000000001/000102030405060708090a0b0c0d0e0f")
	f.Add("meta/00000000000000ff/000102030405060708090a0b0c0d0e0f")
	f.Add("data/1/0")
	f.Fuzz(func(t *testing.T, name string) {
		if p, ok := parsePack(name); ok && store.ValidName(name) {
			require.Equal(t, name, p.name()) // one name only
		}
		if n, ok := parseNumber(strings.TrimPrefix(name, "log/")); ok && strings.HasPrefix(name, "log/") && store.ValidName(name) {
			require.Equal(t, name, logName(n))
		}
	})
}
