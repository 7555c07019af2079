package guard_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// attacker has taken over a write-only client: it holds the client's key and connection, knows the format, and brings
// whatever it likes. It makes its objects by FORMAT.md, not by package repo.
type attacker struct {
	s    *site
	st   store.Store // as the guard shows it
	seed ed25519.PrivateKey
	id   [16]byte // of the repository
	to   [32]byte // X25519
	tags map[string]string
	last uint64 // record that was there
}

func takeOver(s *site, peer string, key repo.WriterKey) *attacker {
	s.t.Helper()
	text, err := key.MarshalText()
	require.NoError(s.t, err)
	var doc struct {
		Seed string
		VMs  []struct{ Name, Tag string }
	}
	require.NoError(s.t, json.Unmarshal(text, &doc))
	seed, err := hex.DecodeString(doc.Seed)
	require.NoError(s.t, err)
	a := &attacker{s: s, st: s.g.For(peer, false), seed: ed25519.NewKeyFromSeed(seed), tags: map[string]string{}}
	for _, vm := range doc.VMs {
		a.tags[vm.Name] = vm.Tag
	}
	var header struct{ ID, Recipient string }
	require.NoError(s.t, json.Unmarshal(a.document("header", object.KindHeader), &header))
	a.id, a.to = [16]byte(unhex(s.t, header.ID)), [32]byte(unhex(s.t, header.Recipient))
	return a
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// document reads the one document of an object in the clear.
func (a *attacker) document(name string, kind uint8) []byte {
	a.s.t.Helper()
	file, err := store.ReadAll(a.s.t.Context(), a.st, name, 1<<20)
	require.NoError(a.s.t, err)
	stream, _, _, err := cell.Decode(file)
	require.NoError(a.s.t, err)
	h, err := object.ParseHeader(stream)
	require.NoError(a.s.t, err)
	o, _, err := object.OpenFile(file, cell.Ident{Kind: kind, Repo: h.Repo}, []object.Unwrapper{object.Clear{}})
	require.NoError(a.s.t, err)
	content, err := o.Content(0)
	require.NoError(a.s.t, err)
	return content
}

// head is the number of the last record and its hash.
func (a *attacker) head() (n uint64, prev string) {
	a.s.t.Helper()
	for n = a.last; ; n++ {
		if _, err := a.st.Stat(a.s.t.Context(), fmt.Sprintf("log/%016x", n+1)); err != nil {
			a.last = n
			sum := blake3.Sum256(a.document(fmt.Sprintf("log/%016x", n), object.KindLog))
			return n, hex.EncodeToString(sum[:])
		}
	}
}

// record seals a record that follows the last one, with whatever fields the attacker gives.
func (a *attacker) record(key ed25519.PrivateKey, fields map[string]any) (name string, file []byte) {
	n, prev := a.head()
	all := map[string]any{
		"n": n + 1, "nonce": strings.Repeat("ab", 16), "prev": prev, "time": time.Unix(1e9, 0).UTC(), "kind": "lease",
	}
	maps.Copy(all, fields)
	body, err := json.Marshal(all)
	require.NoError(a.s.t, err)
	return fmt.Sprintf("log/%016x", all["n"]), a.signed(key, body)
}

func (a *attacker) signed(key ed25519.PrivateKey, body []byte) []byte {
	message := append(append([]byte("hikae/1/sign/log"), a.id[:]...), body...)
	doc := append(ed25519.Sign(key, message), key.Public().(ed25519.PublicKey)...)
	_, file := a.object(object.KindLog, object.SuiteClear, nil, append(doc, body...))
	return file
}

// object seals one document.
func (a *attacker) object(kind, suite uint8, wraps []object.Wrapper, content []byte) (id [16]byte, file []byte) {
	b, err := object.NewBuilder(a.id, suite, kind, 30, len(content), wraps)
	require.NoError(a.s.t, err)
	_, err = b.Append(object.TypeDocument, blake3.Sum256(content), object.CodecPlain, len(content), content)
	require.NoError(a.s.t, err)
	file, err = b.Seal()
	require.NoError(a.s.t, err)
	return b.ID(), file
}

// sealed is an object for the repository's readers, as a good client makes it, and its name below a lease.
func (a *attacker) sealed(kind uint8, dir string, lease uint64, size int) (name string, file []byte) {
	to, err := object.NewX25519Recipient(a.to)
	require.NoError(a.s.t, err)
	id, file := a.object(kind, object.SuiteAES, []object.Wrapper{to}, bytes.Repeat([]byte{7}, size))
	sep := "/"
	if dir == "manifest" {
		sep = "-"
	}
	return fmt.Sprintf("%s/%016x%s%x", dir, lease, sep, id), file
}

func streamHash(t testing.TB, file []byte) string {
	stream, _, _, err := cell.Decode(file)
	require.NoError(t, err)
	sum := blake3.Sum256(stream)
	return hex.EncodeToString(sum[:])
}

func (a *attacker) create(name string, file []byte) error {
	return a.st.Create(a.s.t.Context(), name, file)
}

// refused is that a creation was refused for that reason, and that nothing was created or removed.
func (a *attacker) refused(why, name string, file []byte) {
	a.s.t.Helper()
	before := a.s.all()
	err := a.create(name, file)
	require.ErrorIs(a.s.t, err, fs.ErrPermission, name)
	require.ErrorContains(a.s.t, err, why)
	require.Equal(a.s.t, before, a.s.all())
}

// requireKept is that everything that was there is there, byte for byte.
func (s *site) requireKept(before map[string]string) {
	s.t.Helper()
	now := s.content()
	for name, text := range before {
		require.True(s.t, now[name] == text, name)
	}
}

func (a *attacker) says(why string, fields map[string]any) {
	a.s.t.Helper()
	name, file := a.record(a.seed, fields)
	a.refused(why, name, file)
}

// lease begins a lease, as a good client does.
func (a *attacker) lease() uint64 {
	a.s.t.Helper()
	n, _ := a.head()
	name, file := a.record(a.seed, map[string]any{"access": "write"})
	require.NoError(a.s.t, a.create(name, file))
	return n + 1
}

// RELIABILITY 1.7: what a client that was taken over says to the log, and is not believed.
func TestForgedRecords(t *testing.T) {
	s := newSite(t)
	mine := s.enrol("web")
	other := s.enrol("mail")
	theirs := s.backup(s.writer("mail-host", other, memstore.New(nil)), "mail", 1, nil)
	owners := s.backup(s.full, "db", 1, nil)
	a := takeOver(s, "web-host", mine)
	b := takeOver(s, "mail-host", other)
	theirLease := b.lease()
	lease := a.lease()
	before := s.content()
	defer func() { s.requireKept(before) }()

	manifest, file := a.sealed(object.KindManifest, "manifest", lease, 500)
	require.NoError(t, a.create(manifest, file))
	point := manifest[len(manifest)-32:]
	commit := func(change map[string]any) map[string]any {
		m := map[string]any{"kind": "commit", "lease": lease, "point": point, "vm": a.tags["web"], "object": streamHash(t, file)}
		maps.Copy(m, change)
		return m
	}
	a.says("not for that VM", commit(map[string]any{"vm": b.tags["mail"]}))
	a.says("not for that VM", commit(map[string]any{"vm": nil}))
	a.says("not that key's", commit(map[string]any{"lease": theirLease}))
	a.says("not that key's", commit(map[string]any{"lease": 1}))
	a.says("is not there", commit(map[string]any{"point": strings.Repeat("00", 16)}))
	a.says("not the one that the record names", commit(map[string]any{"object": strings.Repeat("00", 32)}))
	a.says("without a writer's lease", commit(map[string]any{"object": nil}))
	a.says("not that key's", map[string]any{"kind": "end", "lease": theirLease})
	for _, kind := range []string{"key", "revoke", "forget", "hold", "unhold", "tombstone", "untombstone", "sweep", "swept", "bad", "adopt", "new"} {
		a.says("may not make a record", map[string]any{"kind": kind, "lease": theirLease, "points": []string{owners.ID}})
	}
	a.says("a lease for", map[string]any{"access": "all"})
	a.says("was forgotten", map[string]any{"access": "read", "points": []string{strings.Repeat("00", 16)}})
	a.says("is not that key's to hold", map[string]any{"access": "read", "points": []string{theirs.ID}})
	n, prev := a.head()
	a.says("is the next", map[string]any{"n": n + 2})
	a.says("does not follow", map[string]any{"prev": strings.Repeat("00", 32)})
	name, next := a.record(a.seed, map[string]any{"n": n + 3, "access": "write"})
	require.NotEqual(t, name, fmt.Sprintf("log/%016x", n+1))
	a.refused("does not follow", fmt.Sprintf("log/%016x", n+1), next)

	_, stranger, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	name, next = a.record(stranger, map[string]any{"access": "write"})
	a.refused("not enrolled", name, next)
	name, next = a.record(b.seed, map[string]any{"access": "write"})
	a.refused("another peer's", name, next) // a stolen key on another connection
	name, next = a.record(a.seed, map[string]any{"access": "write"})
	next = bytes.Clone(next)
	next[300] ^= 1
	a.refused("damaged", name, next)
	old, err := store.ReadAll(t.Context(), a.st, "log/0000000000000001", 1<<20)
	require.NoError(t, err)
	a.refused("does not follow", name, old) // a record that was good once
	require.ErrorIs(t, a.create("log/0000000000000001", next), fs.ErrExist)
	body, err := json.Marshal(map[string]any{"n": n + 1, "prev": prev, "kind": "lease", "access": "write"})
	require.NoError(t, err)
	foreign := *a
	foreign.id[0] ^= 1
	a.refused("another repository", name, foreign.signed(a.seed, body))

	for field, value := range map[string]any{
		"key": strings.Repeat("00", 32), "role": "full", "vms": []string{point}, "packs": []string{"data/x"}, "ids": []string{streamHash(t, file)},
		"fork": streamHash(t, file), "access": "write", "points": []string{owners.ID},
	} {
		a.says("does not use", commit(map[string]any{field: value}))
		if field != "access" && field != "points" {
			a.says("does not use", map[string]any{"access": "write", field: value})
		}
		a.says("does not use", map[string]any{"kind": "end", "lease": lease, field: value})
	}
	a.says("does not use", map[string]any{"access": "write", "lease": lease})
	a.says("does not use", map[string]any{"access": "write", "point": point})

	good, file2 := a.record(a.seed, commit(nil))
	require.NoError(t, a.create(good, file2), "what is right passes")
	a.says("is there already", commit(nil))
	good, file2 = a.record(a.seed, map[string]any{"kind": "end", "lease": lease})
	require.NoError(t, a.create(good, file2))
	a.says("is over", map[string]any{"kind": "end", "lease": lease})
	a.says("is over", commit(map[string]any{"point": strings.Repeat("11", 16)}))
	s.requireRestores(s.reader(), owners.ID, 1)
	s.requireRestores(s.reader(), theirs.ID, 1)
}

// What it brings as packs, manifests, copies and heartbeats.
func TestForgedObjects(t *testing.T) {
	s := newSite(t)
	s.backup(s.full, "db", 1, nil)
	other := s.enrol("mail")
	b := takeOver(s, "mail-host", other)
	theirLease := b.lease()
	a := takeOver(s, "web-host", s.enrol("web"))
	lease := a.lease()
	before := s.content()
	defer func() { s.requireKept(before) }()

	name, file := a.sealed(object.KindData, "data", lease, 20_000)
	for _, at := range []int{0, 100, 4095, 4096 + 17, len(file) - 1} {
		bad := bytes.Clone(file)
		bad[at] ^= 1
		a.refused("damaged", name, bad)
	}
	a.refused("permission", name, nil)
	a.refused("permission", name, file[:len(file)-1])
	a.refused("permission", name, file[:len(file)-4096])
	a.refused("permission", name, append(bytes.Clone(file), make([]byte, 4096)...))
	a.refused("permission", name, make([]byte, len(file)))
	id := name[len(name)-32:]
	a.refused("another object", fmt.Sprintf("data/%016x/%032x", lease, 1), file)
	a.refused("kind is", fmt.Sprintf("meta/%016x/%s", lease, id), file)
	a.refused("not this peer's", fmt.Sprintf("data/%016x/%s", theirLease, id), file)
	a.refused("not this peer's", fmt.Sprintf("data/%016x/%s", 1, id), file)
	a.refused("not this peer's", fmt.Sprintf("data/%016x/%s", 1<<40, id), file)
	for _, foreign := range []string{
		"data/" + id, "data/x/" + id, "header", "slot/" + id, "checkpoint/0000000000000000", "log/x", "log/1", "new", "copy1/header",
		"copy1/data/" + name[5:], "copy1/slot/" + id, "copy2/beat/0000000000000002/0000000000000000", "copy3/log/0000000000000001",
		"pack/1", "copy1/log/00000000000000ff", "copy1/manifest/" + fmt.Sprintf("%016x-%s", lease, id), "copy1/copy1/header",
	} {
		a.refused("permission", foreign, file)
	}
	a.refused("too many", "log/00000000000000ff", make([]byte, 1<<20))
	a.refused("a copy of", "copy1/log/0000000000000001", make([]byte, 17<<20))

	cleared, clear := a.object(object.KindData, object.SuiteClear, []object.Wrapper{object.Clear{}}, []byte("x"))
	a.refused("suite", fmt.Sprintf("data/%016x/%x", lease, cleared), clear)
	own, ownFile := a.object(object.KindData, object.SuiteAES, []object.Wrapper{object.KeyFile{1}}, []byte("x"))
	a.refused("not sealed for the repository's readers", fmt.Sprintf("data/%016x/%x", lease, own), ownFile)
	bigName, big := a.sealed(object.KindData, "data", lease, 20<<20)
	a.refused("at most", bigName, big)
	far := *a
	far.id[15] ^= 1
	farName, farFile := far.sealed(object.KindData, "data", lease, 100)
	a.refused("another repository", farName, farFile)

	require.NoError(t, a.create(name, file), "what is right passes")
	require.ErrorIs(t, a.create(name, file), fs.ErrExist)
	beat := fmt.Sprintf("beat/%016x/%016x", lease, 0)
	_, beatFile := a.object(object.KindBeat, object.SuiteClear, []object.Wrapper{object.Clear{}}, []byte("{}"))
	a.refused("not this peer's", fmt.Sprintf("beat/%016x/%016x", theirLease, 0), beatFile)
	_, bigBeat := a.object(object.KindBeat, object.SuiteClear, []object.Wrapper{object.Clear{}}, make([]byte, 20_000))
	a.refused("at most", beat, bigBeat)
	require.NoError(t, a.create(beat, beatFile))
	require.ErrorIs(t, b.st.Remove(t.Context(), beat), fs.ErrPermission)
	require.NoError(t, a.st.Remove(t.Context(), beat))
	require.ErrorIs(t, a.st.Remove(t.Context(), name), fs.ErrPermission)

	end, endFile := a.record(a.seed, map[string]any{"kind": "end", "lease": lease})
	require.NoError(t, a.create(end, endFile))
	late, lateFile := a.sealed(object.KindData, "data", lease, 100)
	a.refused("is over", late, lateFile)
}

// What a write-only client has written it cannot read back with all that it holds: the blocks are sealed for the
// repository's readers alone.
func TestBlocksAreSealedForReaders(t *testing.T) {
	s := newSite(t)
	key := s.enrol("web")
	s.backup(s.writer("web-host", key, memstore.New(nil)), "web", 2, nil)
	text, err := key.MarshalText()
	require.NoError(t, err)
	var doc struct{ Seed, IDKey string }
	require.NoError(t, json.Unmarshal(text, &doc))
	var mine []object.Unwrapper
	for _, digits := range []string{doc.Seed, doc.IDKey} {
		k := object.Key(unhex(t, digits))
		identity, err := object.NewX25519Identity(k)
		require.NoError(t, err)
		mine = append(mine, object.Master(k), object.KeyFile(k), identity, object.Clear{})
	}
	packs := 0
	for name, content := range s.content() {
		if !strings.HasPrefix(name, "data/") {
			continue
		}
		packs++
		stream, _, _, err := cell.Decode([]byte(content))
		require.NoError(t, err)
		h, err := object.ParseHeader(stream)
		require.NoError(t, err)
		require.Len(t, h.Wraps, 1)
		_, err = object.Unwrap(h, mine...)
		require.ErrorIs(t, err, object.ErrNoKey)
	}
	require.NotZero(t, packs)
}

// An index object that lies about the owner's packs passes the guard, for it is sealed: nobody believes it. Packs and
// index objects count in the scope of their own lease alone.
func TestPoisonedIndex(t *testing.T) {
	s := newSite(t)
	owners := s.backup(s.full, "db", 1, nil)
	a := takeOver(s, "web-host", s.enrol("web"))
	lease := a.lease()
	to, err := object.NewX25519Recipient(a.to)
	require.NoError(t, err)
	poisoned := 0
	for name := range s.all() {
		dir, rest, _ := strings.Cut(name, "/")
		if dir == "index" {
			s.st.Set(name, nil) // the right one is a cache, and may be lost
		}
		kind := map[string]uint8{"data": object.KindData, "meta": object.KindMeta}[dir]
		if kind == 0 {
			continue
		}
		poisoned++
		info, err := s.st.Stat(t.Context(), name)
		require.NoError(t, err)
		id := unhex(t, rest[len(rest)-32:])
		number := unhex(t, rest[:16])
		// FORMAT.md section 8: kind, lease, id, stream length, count; a table without entries hides what the pack has.
		for stream := info.Size / 4096 * 4032; stream > 0; stream -= 4032 {
			doc := []byte{kind}
			for i := range 8 {
				doc = append(doc, number[7-i])
			}
			doc = append(doc, id...)
			doc = binary.LittleEndian.AppendUint32(doc, uint32(stream))
			doc = binary.LittleEndian.AppendUint32(doc, 0)
			b, err := object.NewBuilder(a.id, object.SuiteAES, object.KindIndex, 30, 4096, []object.Wrapper{to})
			require.NoError(t, err)
			_, err = b.Append(object.TypeTable, blake3.Sum256(doc), object.CodecPlain, len(doc), doc)
			require.NoError(t, err)
			file, err := b.Seal()
			require.NoError(t, err)
			require.NoError(t, a.create(fmt.Sprintf("index/%016x/%x", lease, b.ID()), file))
			if stream < info.Size/4096*4032*9/10 { // one of these is right: the parity is 3 %, at least two cells
				break
			}
		}
	}
	require.NotZero(t, poisoned)
	r := s.reader()
	s.requireRestores(r, owners.ID, 1)
	rep, err := r.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.Empty(t, rep.Affected)
	for _, d := range rep.Damaged {
		require.Contains(t, d.Object, fmt.Sprintf("index/%016x/", lease), "only the liar is called damaged")
	}
	again := s.backup(r, "db", 1, &pipe.PointOptions{Base: owners.ID})
	require.Less(t, again.New, int64(block), "the owner's own blocks are still known")
}
