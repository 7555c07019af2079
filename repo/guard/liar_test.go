package guard_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/guard"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// The guard cannot see what is sealed. What a client that was taken over, or the target's own machine, says there about
// packs is therefore nothing that content depends on: these tests bring index objects that lie, and what was whole before
// is restored, and verified, whole.

// table is what an index object says of one pack, by FORMAT.md section 8: kind, lease, id, length of the stream, entries.
func table(t *testing.T, name string, stream int64, entries []object.Entry) []byte {
	t.Helper()
	dir, rest, _ := strings.Cut(name, "/")
	doc := []byte{map[string]uint8{"data": object.KindData, "meta": object.KindMeta}[dir]}
	number := unhex(t, rest[:16])
	for i := range 8 {
		doc = append(doc, number[7-i])
	}
	doc = append(doc, unhex(t, rest[len(rest)-32:])...)
	doc = binary.LittleEndian.AppendUint32(doc, uint32(stream))
	doc = binary.LittleEndian.AppendUint32(doc, uint32(len(entries)))
	for _, e := range entries {
		doc = append(doc, e.Type, e.Codec)
		for _, v := range []uint32{e.Stored, e.Plain, e.Offset} {
			doc = binary.LittleEndian.AppendUint32(doc, v)
		}
		doc = append(doc, e.ID[:]...)
	}
	return doc
}

// emptyTables say of packs that there is nothing in them, for every length of a stream that theirs may have.
func emptyTables(t *testing.T, st store.Store, only func(name string) bool) (docs [][]byte) {
	t.Helper()
	found, err := storetest.Collect(st.List(t.Context(), ""))
	require.NoError(t, err)
	for name, size := range found {
		if !strings.HasPrefix(name, "data/") && !strings.HasPrefix(name, "meta/") || !only(name) {
			continue
		}
		for stream := size / 4096 * 4032; stream > size/4096*4032*8/10; stream -= 4032 {
			docs = append(docs, table(t, name, stream, nil))
		}
	}
	require.NotEmpty(t, docs)
	return docs
}

// indexObject is an index object of such tables, whose id comes before others in a sorted listing.
func (a *attacker) indexObject(docs ...[]byte) (id [16]byte, file []byte) {
	to, err := object.NewX25519Recipient(a.to)
	require.NoError(a.s.t, err)
	for {
		b, err := object.NewBuilder(a.id, object.SuiteAES, object.KindIndex, 30, 4096, []object.Wrapper{to})
		require.NoError(a.s.t, err)
		if id = b.ID(); id[0] != 0 {
			continue
		}
		for _, doc := range docs {
			_, err = b.Append(object.TypeTable, blake3.Sum256(doc), object.CodecPlain, len(doc), doc)
			require.NoError(a.s.t, err)
		}
		file, err = b.Seal()
		require.NoError(a.s.t, err)
		return id, file
	}
}

// bringIndex stores it below a lease of the attacker's.
func (a *attacker) bringIndex(lease uint64, docs ...[]byte) {
	id, file := a.indexObject(docs...)
	require.NoError(a.s.t, a.create(fmt.Sprintf("index/%016x/%x", lease, id), file))
}

// requireWhole is that a point can be restored, by a reader that only looks and by one that has verified everything.
func (s *site) requireWhole(point string, seed uint64) {
	s.t.Helper()
	s.requireRestores(s.reader(), point, seed)
	r := s.reader()
	rep, err := r.Verify(s.t.Context(), &repo.VerifyOptions{DataPercent: 100})
	require.NoError(s.t, err)
	require.Empty(s.t, rep.Affected)
	s.requireRestores(r, point, seed)
}

// By an index object below a lease that it left open, a client that was taken over hides what its own key wrote before.
func TestIndexDoesNotHideOwnHistory(t *testing.T) {
	s := newSite(t)
	key := s.enrol("web")
	a := takeOver(s, "web-host", key)
	old := a.lease() // the client was killed once
	good := s.backup(s.writer("web-host", key, memstore.New(nil)), "web", 2, nil)
	own := fmt.Sprintf("/%016x/", old)
	a.bringIndex(old, emptyTables(t, s.st, func(name string) bool { return !strings.Contains(name, own) })...)
	s.requireWhole(good.ID, 2)
}

// The target's machine has no key, and writes an index object of the owner's scope: it is sealed for the public key that
// stands in the header.
func TestIndexOfTheTargetsMachine(t *testing.T) {
	s := newSite(t)
	good := s.backup(s.full, "db", 1, nil)
	a := takeOver(s, "web-host", s.enrol("web")) // for what stands in the header
	var lease string
	for name := range s.all() {
		if strings.HasPrefix(name, "data/") {
			lease = name[5:21]
		}
	}
	id, file := a.indexObject(emptyTables(t, s.st, func(string) bool { return true })...)
	s.st.Set(fmt.Sprintf("index/%s/%x", lease, id), file)
	s.requireWhole(good.ID, 1)
}

// The same in a directory, whose listing has no order, by sessions that came after the point.
func TestIndexDoesNotHideHistoryInADirectory(t *testing.T) {
	ctx := t.Context()
	st, err := dirstore.Init(t.TempDir() + "/store")
	require.NoError(t, err)
	defer st.Close()
	s := &site{t: t, st: memstore.New(nil)}
	s.g, err = guard.New(st, nil)
	require.NoError(t, err)
	s.full, err = repo.Init(ctx, s.g.For("owner", true), secret, &repo.InitOptions{BlockSize: block}, s.options())
	require.NoError(t, err)
	defer s.full.Close()
	key := s.enrol("web")
	w := s.writer("web-host", key, memstore.New(nil))
	good := s.backup(w, "web", 2, nil)

	a := takeOver(s, "web-host", key)
	docs := emptyTables(t, st, func(string) bool { return true })
	for range 12 {
		lease := a.lease()
		a.bringIndex(lease, docs...)
		require.NoError(t, a.create(a.record(a.seed, map[string]any{"kind": "end", "lease": lease})))
	}
	r, err := repo.Open(ctx, st, secret, s.options())
	require.NoError(t, err)
	defer r.Close()
	s.requireRestores(r, good.ID, 2)
}

// Packs of the attacker's own claim the ids of good blocks, and index objects say so truly: however many places of a
// block are worthless, the good one is found.
func TestManyWorthlessPlacesOfABlock(t *testing.T) {
	s := newSite(t)
	key := s.enrol("web")
	a := takeOver(s, "web-host", key)
	old := a.lease()
	good := s.backup(s.writer("web-host", key, memstore.New(nil)), "web", 2, nil)

	text, err := key.MarshalText()
	require.NoError(t, err)
	var doc struct{ IDKey string }
	require.NoError(t, json.Unmarshal(text, &doc))
	to, err := object.NewX25519Recipient(a.to)
	require.NoError(t, err)
	img := disk(2)
	for range 5 {
		b, err := object.NewBuilder(a.id, object.SuiteAES, object.KindData, 30, 4<<20, []object.Wrapper{to})
		require.NoError(t, err)
		for off := int64(0); off < img.Size(); off += block {
			p := make([]byte, min(block, img.Size()-off))
			_, err := img.ReadAt(t.Context(), p, off)
			require.NoError(t, err)
			h, err := blake3.NewKeyed(unhex(t, doc.IDKey))
			require.NoError(t, err)
			_, _ = h.Write(p)
			_, err = b.Append(object.TypeBlock, [32]byte(h.Sum(nil)), object.CodecPlain, len(p), make([]byte, len(p)))
			require.NoError(t, err)
		}
		file, err := b.Seal()
		require.NoError(t, err)
		name := fmt.Sprintf("data/%016x/%x", old, b.ID())
		require.NoError(t, a.create(name, file))
		a.bringIndex(old, table(t, name, int64(b.Len()), b.Entries()))
	}
	s.requireWhole(good.ID, 2)
}

// A point whose manifest nobody can read passes the guard, for it is sealed. The owner's figures and other points are
// there all the same.
func TestOneWorthlessPoint(t *testing.T) {
	s := newSite(t)
	good := s.backup(s.full, "db", 1, nil)
	a := takeOver(s, "web-host", s.enrol("web"))
	lease := a.lease()
	name, file := a.sealed(object.KindManifest, "manifest", lease, 300)
	require.NoError(t, a.create(name, file))
	point := name[strings.LastIndexByte(name, '-')+1:]
	require.NoError(t, a.create(a.record(a.seed, map[string]any{
		"kind": "commit", "lease": lease, "point": point, "vm": a.tags["web"], "object": streamHash(t, file),
	})))
	stats, err := s.reader().Stats(t.Context())
	require.NoError(t, err)
	require.NotZero(t, stats.Blocks)
	s.requireRestores(s.reader(), good.ID, 1)
	again := s.backup(s.full, "db", 1, &pipe.PointOptions{Base: good.ID})
	require.Less(t, again.New, int64(block))
}
