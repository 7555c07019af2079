package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// What a client that was taken over, or whoever keeps the store, can put there: lies about what is in packs.

func openWriterInner(t testing.TB, st, cache store.Store, key WriterKey, opts *OpenOptions) *Repository {
	t.Helper()
	r, err := OpenWriter(t.Context(), st, cache, key, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func enrolInner(t testing.TB, r *Repository) WriterKey {
	t.Helper()
	key, err := r.EnrolWriter(t.Context(), []string{"web"})
	require.NoError(t, err)
	return key
}

func pattern(seed uint64) pipe.Image { return pipetest.NewPattern(seed, 9*minBlockSize).Blank() }

func backupInner(ctx context.Context, r *Repository, seed uint64) (string, error) {
	w, err := r.Begin(ctx, "web", nil)
	if err != nil {
		return "", err
	}
	defer w.Close()
	if err := fillInner(ctx, w, seed); err != nil {
		return "", err
	}
	return w.Commit(ctx, nil)
}

func fillInner(ctx context.Context, w pipe.PointWriter, seed uint64) error {
	img := pattern(seed)
	d, err := w.Disk(ctx, "disk0", img.Size())
	if err != nil {
		return err
	}
	if _, err := pipe.Copy(ctx, d, img, nil); err != nil {
		return err
	}
	return d.Commit(ctx)
}

// kill ends a session's process: no end of its lease, no further heartbeat.
func kill(w pipe.PointWriter) {
	s := w.(*pointWriter).s
	s.lease.cancel()
	<-s.lease.done
	s.lease.aside.Wait()
}

func restores(t testing.TB, st store.Store, point string, seed uint64) {
	t.Helper()
	img, err := openInner(t, st, nil).Open(t.Context(), point, "disk0")
	require.NoError(t, err)
	defer img.Close()
	require.Equal(t, bytesOfImage(t, pattern(seed)), bytesOfImage(t, img))
}

func bytesOfImage(t testing.TB, img pipe.Image) []byte {
	t.Helper()
	p := make([]byte, img.Size())
	_, err := img.ReadAt(t.Context(), p, 0)
	require.NoError(t, err)
	return p
}

// tablesOf are the tables of all packs, changed.
func tablesOf(t testing.TB, r *Repository, change func(t *packTable)) (out []packTable) {
	t.Helper()
	present, err := r.packs(t.Context())
	require.NoError(t, err)
	for p, size := range present {
		entries, err := r.readTable(t.Context(), p, size)
		require.NoError(t, err)
		stream := 0
		for packFileSize(stream+cell.Payload, r.header.ParityPermille) <= size {
			stream += cell.Payload
		}
		table := packTable{ref: p, stream: stream, entries: entries}
		change(&table)
		out = append(out, table)
	}
	return out
}

func putIndex(t testing.TB, r *Repository, st *memstore.Store, lease uint64, suite uint8, wrap object.Wrapper, tables []packTable) {
	t.Helper()
	b, err := object.NewBuilder(r.header.ID, suite, kindIndex, r.header.ParityPermille, 1<<16, []object.Wrapper{wrap})
	require.NoError(t, err)
	for _, table := range tables {
		doc := encodePackTable(table)
		_, err = b.Append(object.TypeTable, hashBytes(doc), object.CodecPlain, len(doc), doc)
		require.NoError(t, err)
	}
	file, err := b.Seal()
	require.NoError(t, err)
	st.Set(indexName(objectRef{lease, b.ID()}), file)
}

func dropIndex(t testing.TB, st *memstore.Store) {
	t.Helper()
	for info, err := range st.List(t.Context(), "index/") {
		require.NoError(t, err)
		st.Set(info.Name, nil)
	}
}

// Index objects that hide what packs hold, or say something else of it, hide nothing: neither those of another lease, nor those of
// the lease itself, nor those that whoever keeps the store has sealed for the public key in the header.
func TestIndexObjectsHideNothing(t *testing.T) {
	lies := map[string]func(*packTable){
		"empty":  func(t *packTable) { t.entries = nil },
		"first":  func(t *packTable) { t.entries = t.entries[:1] },
		"type":   func(t *packTable) { t.entries[0].Type = object.TypePage + object.TypeBlock - t.entries[0].Type },
		"place":  func(t *packTable) { t.entries[0].Offset++ },
		"length": func(t *packTable) { t.entries[0].Plain-- },
		"codec":  func(t *packTable) { t.entries[0].Codec ^= 1 },
		"id":     func(t *packTable) { t.entries[0].ID[0] ^= 1 },
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := memstore.New(nil)
			full := initInner(t, st)
			key := enrolInner(t, full)
			w := openWriterInner(t, st, memstore.New(nil), key, nil)
			pw, err := w.Begin(t.Context(), "web", nil)
			require.NoError(t, err)
			stale := pw.(*pointWriter).s.lease.n
			kill(pw)
			theirs, err := backupInner(t.Context(), w, 1)
			require.NoError(t, err)
			mine, err := backupInner(t.Context(), full, 2)
			require.NoError(t, err)
			to, err := object.NewX25519Recipient(full.header.Recipient)
			require.NoError(t, err)
			tables := tablesOf(t, full, lie)
			dropIndex(t, st)
			for _, table := range tables {
				for _, lease := range []uint64{stale, table.ref.Lease} {
					putIndex(t, full, st, lease, object.SuiteAES, to, []packTable{table})
					putIndex(t, full, st, lease, object.SuiteClear, object.Clear{}, []packTable{table})
				}
			}
			restores(t, st, theirs, 1)
			restores(t, st, mine, 2)
			again, err := backupInner(t.Context(), openInner(t, st, nil), 2)
			require.NoError(t, err)
			restores(t, st, again, 2)
		})
	}
}

// Verify holds every entry of an index object against the pack: one that leaves some out is no good one.
func TestVerifyCountsEntries(t *testing.T) {
	st := memstore.New(nil)
	r := initInner(t, st)
	_, err := backupInner(t.Context(), r, 1)
	require.NoError(t, err)
	tables := tablesOf(t, r, func(t *packTable) { t.entries = t.entries[:len(t.entries)-1] })
	putIndex(t, r, st, tables[0].ref.Lease, object.SuiteAES, r.keys.wraps[0], tables[:1])
	rep, err := openInner(t, st, nil).Verify(t.Context(), nil)
	require.NoError(t, err)
	if len(rep.Damaged) != 1 {
		t.Fatalf("%+v", rep)
	}
	require.Contains(t, rep.Damaged[0].Reason, "does not say what")
	require.True(t, rep.Damaged[0].Mendable)
}

// Packs that claim to hold content that they do not have push no good place out, however many there are.
func TestLyingPacksPushNothingOut(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	full := initInner(t, st)
	key := enrolInner(t, full)
	w := openWriterInner(t, st, memstore.New(nil), key, nil)
	pw, err := w.Begin(ctx, "web", nil)
	require.NoError(t, err)
	lease := pw.(*pointWriter).s.lease.n
	kill(pw)
	good, err := backupInner(ctx, w, 1)
	require.NoError(t, err)
	content := bytesOfImage(t, pattern(1))
	for range 3 * maxPlaces {
		b, err := object.NewBuilder(full.header.ID, object.SuiteAES, kindData, full.header.ParityPermille, 1<<20, w.keys.wraps)
		require.NoError(t, err)
		for off := 0; off < len(content); off += minBlockSize {
			_, err := b.Append(object.TypeBlock, w.keys.id(object.TypeBlock, content[off:off+minBlockSize]), object.CodecPlain, minBlockSize, make([]byte, minBlockSize))
			require.NoError(t, err)
		}
		table := packTable{ref: packRef{objectRef{lease, b.ID()}, kindData}, entries: b.Entries()}
		file, err := b.Seal()
		require.NoError(t, err)
		table.stream = b.Len()
		st.Set(table.ref.name(), file)
		putIndex(t, full, st, lease, object.SuiteAES, w.keys.wraps[0], []packTable{table})
	}
	for range 4 { // whichever of them are met first
		restores(t, st, good, 1)
	}
	dropIndex(t, st)
	restores(t, st, good, 1)
}

// forge commits a point of one disk whose tree is what the client likes.
func forge(t testing.TB, w *Repository, size int64, root func(s *session) entry) string {
	t.Helper()
	ctx := t.Context()
	pw, err := w.Begin(ctx, "web", nil)
	require.NoError(t, err)
	defer pw.Close()
	d, err := pw.Disk(ctx, "disk0", size)
	require.NoError(t, err)
	e := root(pw.(*pointWriter).s)
	d.(*diskTarget).sealed = &manifestDisk{Key: "disk0", Size: size, Root: rootEntry(e), Last: "data"}
	id, err := pw.Commit(ctx, nil)
	require.NoError(t, err)
	return id
}

func savePageOf(t testing.TB, s *session, level, n int, e entry) entry {
	t.Helper()
	p := &page{level: level}
	out := entry{kind: pipe.Data}
	for range n {
		p.entries = append(p.entries, e)
		out.sums.add(sumsOf(e, level, 1))
	}
	id, err := s.savePage(t.Context(), p.encode(nil))
	require.NoError(t, err)
	out.id = id
	return out
}

// Six pages can stand for 2⁴⁶ blocks, none of which is there: verify looks at each page once.
func TestVerifyOfAHugeTreeEnds(t *testing.T) {
	st := memstore.New(nil)
	w := openWriterInner(t, st, memstore.New(nil), enrolInner(t, initInner(t, st)), nil)
	forge(t, w, 1<<62, func(s *session) entry {
		e := entry{kind: pipe.Data, id: pipe.ID{1}}
		for level := range 5 {
			e = savePageOf(t, s, level, 256, e)
		}
		return savePageOf(t, s, 5, 64, e)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	rep, err := openInner(t, st, nil).Verify(ctx, nil)
	require.NoError(t, err)
	require.False(t, rep.OK)
	require.Len(t, rep.Affected, 1)
	require.EqualValues(t, int64(1)<<62, rep.Affected[0].Length)
}

// A page that is sound in one place is not in another: at another level of the tree, or where the disk ends otherwise.
func TestVerifyKnowsPagesByTheirPlace(t *testing.T) {
	block := make([]byte, minBlockSize)
	block[0] = 1
	for name, c := range map[string]struct {
		size  int64
		total uint64
	}{
		"level": {256 * 256 * minBlockSize, 256 * 256},
		"tail":  {256*minBlockSize - 1, 256},
	} {
		t.Run(name, func(t *testing.T) {
			st := memstore.New(nil)
			w := openWriterInner(t, st, memstore.New(nil), enrolInner(t, initInner(t, st)), nil)
			var leaf entry
			forge(t, w, 256*minBlockSize, func(s *session) entry {
				id := w.keys.id(object.TypeBlock, block)
				_, err := s.put(t.Context(), object.TypeBlock, id, len(block), pipe.Plain, block)
				require.NoError(t, err)
				leaf = savePageOf(t, s, 0, 256, entry{kind: pipe.Data, id: id})
				return leaf
			})
			bad := forge(t, w, c.size, func(*session) entry {
				root := leaf
				root.sums = sums{}
				root.sums[pipe.Data] = c.total
				return root
			})
			r := openInner(t, st, nil)
			rep, err := r.Verify(t.Context(), nil)
			require.NoError(t, err)
			require.False(t, rep.OK)
			require.NotEmpty(t, rep.Affected)
			for _, a := range rep.Affected {
				require.Equal(t, bad, a.Point)
			}
			img, err := r.Open(t.Context(), bad, "disk0")
			require.NoError(t, err)
			defer img.Close()
			last := rep.Affected[len(rep.Affected)-1]
			_, err = img.ReadAt(t.Context(), make([]byte, 10), last.Offset+last.Length-10)
			require.Error(t, err)
		})
	}
}

// A store that was put back to an older state gives a lease's number again. What the client's cache has of the first one is
// about packs that are gone, and nothing of it is relied on.
func TestCacheOfALeaseThatNeverWas(t *testing.T) {
	ctx := t.Context()
	st, cache := memstore.New(nil), memstore.New(nil)
	key := enrolInner(t, initInner(t, st))
	opts := &OpenOptions{StateDir: t.TempDir()}
	w := openWriterInner(t, st, cache, key, opts)
	old := st.Clone()
	pw, err := w.Begin(ctx, "web", nil)
	require.NoError(t, err)
	require.NoError(t, fillInner(ctx, pw, 3))
	require.NoError(t, pw.(*pointWriter).s.flush(ctx))
	kill(pw)

	st = old
	_, err = backupInner(ctx, openWriterInner(t, st, cache, key, opts), 4)
	require.NoError(t, err)
	id, err := backupInner(ctx, openWriterInner(t, st, cache, key, opts), 3)
	require.NoError(t, err)
	restores(t, st, id, 3)
	w = openWriterInner(t, st, cache, key, opts)
	before := w.log.n
	again, err := backupInner(ctx, w, 3)
	require.NoError(t, err)
	p, err := w.Resolve(ctx, again)
	require.NoError(t, err)
	require.Less(t, p.New, int64(minBlockSize), "what the cache has since is used, %d records on", w.log.n-before)
}

// looseStore is a folder whose names can be visible and not durable.
type looseStore struct {
	*memstore.Store
	mu      sync.Mutex
	loose   map[string]bool
	broken  bool
	settled []string
}

func (s *looseStore) Create(ctx context.Context, name string, data []byte) error {
	if err := s.Store.Create(ctx, name, data); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken && strings.HasPrefix(name, "data/") {
		s.loose[name] = true
		return fmt.Errorf("names in %s: %w", name, store.ErrNotDurable)
	}
	return nil
}

func (s *looseStore) Settle(_ context.Context, prefix string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = append(s.settled, prefix)
	for name := range s.loose {
		if strings.HasPrefix(name, prefix) {
			delete(s.loose, name)
		}
	}
	return nil
}

func (s *looseStore) powerCut() {
	for name := range s.loose {
		s.Store.Set(name, nil)
	}
}

// A pack that the store says is not durable is not taken for durable because its bytes can be read, and a session that failed over
// it has settled nothing by ending: whoever refers to the pack later settles it first. Nobody else pays for that.
func TestPacksOfAFailedSessionAreSettled(t *testing.T) {
	ctx := t.Context()
	st := &looseStore{Store: memstore.New(nil), loose: map[string]bool{}}
	r, err := Init(ctx, st, innerKey, &InitOptions{BlockSize: minBlockSize}, nil)
	require.NoError(t, err)
	st.broken = true
	_, err = backupInner(ctx, r, 3)
	require.ErrorIs(t, err, store.ErrNotDurable)
	require.NotEmpty(t, st.loose)
	require.NoError(t, r.Close())

	st.broken, st.settled = false, nil // the disk is well again
	other, err := backupInner(ctx, openInner(t, st, nil), 4)
	require.NoError(t, err)
	restores(t, st, other, 4)
	require.Empty(t, st.settled, "nothing of the failed session was used")
	id, err := backupInner(ctx, openInner(t, st, nil), 3)
	require.NoError(t, err)
	require.NotEmpty(t, st.settled)
	st.powerCut()
	restores(t, st, id, 3)
}

// recipientOnly is what somebody knows who knows an owner's age recipient, which is public, and no identity.
type recipientOnly struct{ to age.Recipient }

func (r recipientOnly) wrapper() (object.Wrapper, error)     { return object.AgeRecipients{r.to}, nil }
func (r recipientOnly) unwrapper() (object.Unwrapper, error) { return nil, fs.ErrPermission }

// Whoever keeps the store of an owner who opens it with an age identity can put a repository of his own there that the
// identity opens. The owner's machine remembers which one it has met, and writes nothing to the other until a person says so.
func TestAnotherRepositoryAtThePlace(t *testing.T) {
	ctx := t.Context()
	id, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	secret, err := AgeIdentities(strings.NewReader(id.String()))
	require.NoError(t, err)
	var warnings []string
	opts := &OpenOptions{StateDir: t.TempDir(), Place: "s3://bucket", Warn: func(s string) { warnings = append(warnings, s) }}
	own := memstore.New(nil)
	r, err := Init(ctx, own, secret, &InitOptions{BlockSize: minBlockSize}, opts)
	require.NoError(t, err)
	_, err = backupInner(ctx, r, 1)
	require.NoError(t, err)
	require.NoError(t, r.Close())

	forged, host := memstore.New(nil), recipientOnly{id.Recipient()}
	h, slot, err := newRepository(host, &InitOptions{BlockSize: minBlockSize})
	require.NoError(t, err)
	require.NoError(t, create(ctx, forged, host, h, slot))
	attempt := func(st store.Store) error {
		r, err := Open(ctx, st, secret, opts)
		require.NoError(t, err)
		defer r.Close()
		_, err = backupInner(ctx, r, 1)
		return err
	}
	require.Empty(t, warnings)
	var replaced *ErrReplaced
	require.ErrorAs(t, attempt(forged), &replaced)
	require.Equal(t, h.ID.String(), replaced.Now)
	require.Len(t, warnings, 1)
	require.ErrorAs(t, attempt(forged), &replaced, "it is not forgotten by being looked at")
	require.NoError(t, attempt(own))
	opts.Replaced = true
	require.NoError(t, attempt(forged))
	opts.Replaced = false
	require.NoError(t, attempt(forged))
	require.ErrorAs(t, attempt(own), &replaced)
}

// fullCache is a cache that takes nothing more.
type fullCache struct{ store.Store }

func (c fullCache) Create(ctx context.Context, name string, data []byte) error {
	if name == ownerName {
		return c.Store.Create(ctx, name, data)
	}
	return &fs.PathError{Op: "create", Path: name, Err: fs.ErrPermission}
}

// What a write-only client would not find again, because its cache did not take it, does not count as durable.
func TestDurableMeansFoundAgain(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	key := enrolInner(t, initInner(t, st))
	for _, cache := range []store.Store{memstore.New(nil), fullCache{memstore.New(nil)}} {
		pw, err := openWriterInner(t, st, cache, key, nil).Begin(ctx, "web", nil)
		require.NoError(t, err)
		require.NoError(t, fillInner(ctx, pw, 3))
		require.NoError(t, pw.(*pointWriter).s.flush(ctx))
		n := pw.(pipe.Durable).Durable()
		again := openWriterInner(t, st, cache, key, nil)
		x, err := again.index(ctx, again.keys.scope)
		require.NoError(t, err)
		blocks := uint64(0)
		require.NoError(t, x.each(func(_ pipe.ID, l location) {
			if l.typ == object.TypeBlock {
				blocks++
			}
		}))
		require.Equal(t, blocks, n)
		require.NoError(t, pw.Close())
	}
}

// restless shows another well-made header at every look.
type restless struct {
	store.Store
	t     testing.TB
	mu    sync.Mutex
	looks int
	file  []byte
}

func (s *restless) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if !strings.HasSuffix(name, headerName) {
		return s.Store.ReadAt(ctx, name, p, off)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	h, slot, err := newRepository(innerKey, &InitOptions{BlockSize: minBlockSize})
	require.NoError(s.t, err)
	h.Created = time.Unix(1, 0).UTC() // so that all are equally long
	keys, err := newKeyring(h.ID, h.Suite, h.ParityPermille, slot)
	require.NoError(s.t, err)
	doc, err := encodeJSON(h)
	require.NoError(s.t, err)
	_, s.file, err = keys.clear()(kindHeader, doc)
	require.NoError(s.t, err)
	return copy(p, s.file[off:]), nil
}

// A store that shows another header at every look keeps nobody busy for ever.
func TestRestlessHeader(t *testing.T) {
	st := memstore.New(nil)
	key := enrolInner(t, initInner(t, st))
	far := &restless{Store: st, t: t}
	_, err := OpenWriter(t.Context(), far, memstore.New(nil), key, nil)
	require.ErrorIs(t, err, ErrSecret)
	_, err = Open(t.Context(), far, innerKey, nil)
	require.Error(t, err)
	require.Less(t, far.looks, 200)
}

// Slots that ask for more stretching than anybody needs are refused before it is done.
func TestCostOfSlotsIsBounded(t *testing.T) {
	h := &object.Header{Suite: object.SuiteAES}
	body := make([]byte, 25+48)
	copy(body[16:], []byte{64, 0, 0, 0, 0, 0, 16, 0, 1}) // 64 passes over 1 GiB
	h.Wraps = append(h.Wraps, object.Wrap{Type: object.WrapPassphrase, Body: body}, object.Wrap{Type: object.WrapPassphrase, Body: body})
	left := int64(maxStretch)
	_, err := (&frugal{object.Passphrase{Text: "x"}, &left}).Unwrap(h)
	require.ErrorIs(t, err, ErrCostlySlot)
	require.EqualValues(t, maxStretch, left, "the slots after it may still be tried")
}

// Slots that somebody put into the store ask for more memory than any slot needs. They are refused before anything is allocated, and
// the owner's passphrase still opens.
func TestForgedSlotsTakeNoMemory(t *testing.T) {
	st := memstore.New(nil)
	own := cheapPassphrase("right")
	r, err := Init(t.Context(), st, own, nil, nil)
	require.NoError(t, err)
	forge := func(memoryKiB uint32) {
		id, file, err := r.keys.maker(r.header.Suite, []object.Wrapper{costing(memoryKiB)})(kindSlot, []byte("{}"))
		require.NoError(t, err)
		for _, place := range copiesOf(slotName(id)) {
			require.NoError(t, st.Create(t.Context(), place, file))
		}
	}
	for range 8 { // some before the owner's, some after it
		forge(1<<20 + 64)
		forge(4 << 20)
	}
	require.NoError(t, r.Close())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = Open(t.Context(), st, Passphrase("wrong"), nil)
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, ErrCostlySlot)
	require.ErrorAs(t, err, new(*ErrCorrupt))
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(128<<20))
	again, err := Open(t.Context(), st, Passphrase("right"), nil)
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

// costing wraps as for a passphrase whose guess takes so much memory, in KiB, without taking it.
type costing uint32

func (c costing) Wrap(h *object.Header, key object.Key) (object.Wrap, error) {
	w, err := object.Passphrase{Text: "x", Cost: object.Cost{Time: 1, MemoryKiB: 64, Threads: 1}}.Wrap(h, key)
	if err == nil {
		binary.LittleEndian.PutUint32(w.Body[20:], uint32(c))
	}
	return w, err
}

// One point that never was one, by a client that only appends, ends neither figures nor listings, and is told as what it is.
func TestWorthlessPoint(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	full := initInner(t, st)
	good, err := backupInner(ctx, full, 1)
	require.NoError(t, err)
	id, err := backupInner(ctx, openWriterInner(t, st, memstore.New(nil), enrolInner(t, full), nil), 2)
	require.NoError(t, err)
	for _, lost := range []string{id, good} {
		for _, prefix := range copiesOf("manifest/") {
			for info, err := range st.List(ctx, prefix) {
				require.NoError(t, err)
				if strings.HasSuffix(info.Name, lost) {
					st.Set(info.Name, []byte("nothing"))
				}
			}
		}
		r := openInner(t, st, nil)
		listed := 0
		var bad *PointError
		for p, err := range r.Points(ctx, "") {
			if e, ok := errors.AsType[*PointError](err); ok && e.Point == lost {
				bad = e
			} else if err == nil {
				listed++
				require.Equal(t, good, p.ID)
			}
		}
		require.NotNil(t, bad)
		require.Equal(t, lost == id, bad.WriteOnly)
		var corrupt *ErrCorrupt
		require.ErrorAs(t, bad, &corrupt)
		stats, err := r.Stats(ctx)
		require.NoError(t, err)
		require.Equal(t, 2, stats.Points)
		require.Equal(t, 2-listed, stats.Damaged)
		require.NotZero(t, stats.Unique)
	}
}

// The leases of a client's runs that were killed are ended by its next run, beside it, and those of a run that lives are not.
func TestLeasesOfKilledRunsAreEnded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx := t.Context()
		st, cache := memstore.New(nil), memstore.New(nil)
		key := enrolInner(t, initInner(t, st))
		w := openWriterInner(t, st, cache, key, nil)
		var dead []pipe.PointWriter
		for range 3 {
			pw, err := w.Begin(ctx, "web", nil)
			require.NoError(t, err)
			kill(pw)
			dead = append(dead, pw)
		}
		living, err := openWriterInner(t, st, cache, key, nil).Begin(ctx, "web", nil)
		require.NoError(t, err)

		next := openWriterInner(t, st, cache, key, nil)
		started := time.Now()
		pw, err := next.Begin(ctx, "web", nil)
		require.NoError(t, err)
		require.Less(t, time.Since(started), time.Second, "nobody waits")
		time.Sleep(3*beatEvery + time.Second)
		synctest.Wait()
		require.NoError(t, next.log.refresh(ctx))
		over := func(w pipe.PointWriter) (over bool) {
			next.log.view(func(l *ledger) { over = l.leases[w.(*pointWriter).s.lease.n].over })
			return over
		}
		for _, d := range dead {
			require.True(t, over(d))
		}
		require.False(t, over(living))
		require.NoError(t, fillInner(ctx, living, 1))
		_, err = living.Commit(ctx, nil)
		require.NoError(t, err)
		require.NoError(t, pw.Close())
	})
}

// On a store that only one may write to, a write-only client that was killed is not shut out by its own lease.
func TestKilledWriterOnAnUnsharedStore(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx := t.Context()
		st, cache := memstore.New(&memstore.Options{Less: store.Abilities{ExclusiveCreate: true}}), memstore.New(nil)
		key := enrolInner(t, initInner(t, st))
		pw, err := openWriterInner(t, st, cache, key, nil).Begin(ctx, "web", nil)
		require.NoError(t, err)
		kill(pw)
		_, err = backupInner(ctx, openWriterInner(t, st, cache, key, nil), 3)
		require.NoError(t, err)
	})
}
