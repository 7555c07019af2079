package repo

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store/memstore"
)

// The vectors that examples/reader and whoever else reads the format use too: testdata/README.md.

func readVectors(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, v))
}

func fromHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func TestNameVectors(t *testing.T) {
	var v struct {
		Names []struct {
			Name  string
			Kind  uint8
			Lease uint64
			ID    id16
		}
		Refuse []struct{ Name, Why string }
	}
	readVectors(t, "names/names.json", &v)
	require.NotEmpty(t, v.Names)
	for _, n := range v.Names {
		kind, ref, ok := parseObject(n.Name)
		require.True(t, ok, n.Name)
		require.Equal(t, objectRef{n.Lease, n.ID}, ref)
		require.Equal(t, n.Kind, kind)
	}
	require.NotEmpty(t, v.Refuse)
	for _, n := range v.Refuse {
		_, _, ok := parseObject(n.Name)
		require.False(t, ok, "%q: %s", n.Name, n.Why)
	}
}

func TestPageVectors(t *testing.T) {
	type vector struct {
		What           string
		Level, Entries int
		Page           string
		Expect         []struct {
			Kind   int
			ID     hash
			Counts sums
		}
	}
	var v struct{ Pages, Refuse []vector }
	readVectors(t, "pages/pages.json", &v)
	require.NotEmpty(t, v.Pages)
	for _, w := range v.Pages {
		raw := fromHex(t, w.Page)
		p, err := decodePage(raw, w.Level, w.Entries)
		require.NoError(t, err, w.What)
		require.Len(t, p.entries, len(w.Expect))
		for i, e := range w.Expect {
			require.Equal(t, entry{kind: pipe.Kind(e.Kind), id: pipe.ID(e.ID), sums: e.Counts}, p.entries[i], w.What)
		}
		require.Equal(t, raw, p.encode(nil), "%s: a page has one encoding", w.What)
	}
	require.NotEmpty(t, v.Refuse)
	for _, w := range v.Refuse {
		_, err := decodePage(fromHex(t, w.Page), w.Level, w.Entries)
		require.Error(t, err, w.What)
	}
}

func TestRecipeVectors(t *testing.T) {
	type vector struct {
		What, Recipe, Literal string
		Plain                 int
		Pieces                []struct {
			Length, Offset int
			ID             *hash
		}
	}
	var v struct{ Recipes, Refuse []vector }
	readVectors(t, "recipes/recipes.json", &v)
	require.NotEmpty(t, v.Recipes)
	for _, w := range v.Recipes {
		r, err := decodeRecipe(fromHex(t, w.Recipe), w.Plain)
		require.NoError(t, err, w.What)
		require.Len(t, r.pieces, len(w.Pieces))
		for i, p := range w.Pieces {
			want := piece{length: p.Length, offset: p.Offset}
			if p.ID != nil {
				want.from, want.copied = pipe.ID(*p.ID), true
			}
			require.Equal(t, want, r.pieces[i], w.What)
		}
		require.Equal(t, fromHex(t, w.Literal), append([]byte{}, r.literal...))
		require.Equal(t, w.Recipe, hex.EncodeToString(r.encode()))
	}
	require.NotEmpty(t, v.Refuse)
	for _, w := range v.Refuse {
		r, err := decodeRecipe(fromHex(t, w.Recipe), w.Plain)
		if err == nil {
			_, err = pipe.Decode(nil, r.literal, r.codec, r.plain)
		}
		require.Error(t, err, w.What)
	}
}

// logVector is a history: records one after the other, and what they say together.
type logVector struct {
	Repository id16      `json:"repository"`
	Header     hash      `json:"header"`
	Root       publicKey `json:"root"`
	Records    []logStep `json:"records"`
	Refuse     []logStep `json:"refuse"`
}

// logStep is a record; in Refuse it is one that is tried as the record behind After.
type logStep struct {
	What     string   `json:"what"`
	After    uint64   `json:"after,omitempty"`
	Document string   `json:"document"`
	Points   []id16   `json:"points,omitempty"` // that exist behind it
	Begun    []id16   `json:"unfinished,omitempty"`
	Held     []id16   `json:"held,omitempty"`
	Open     []uint64 `json:"open,omitempty"` // leases
	Going    []string `json:"going,omitempty"`
	Final    []string `json:"final,omitempty"`
}

func TestLogVectors(t *testing.T) {
	var v logVector
	readVectors(t, "log/history.json", &v)
	require.NotEmpty(t, v.Records)
	require.NotEmpty(t, v.Refuse)
	l := newLedger(vitals{memstore.New(nil), nil}, v.Repository, v.Root, v.Header, nil)
	for i, step := range v.Records {
		for _, bad := range v.Refuse {
			if bad.After == uint64(i) {
				_, _, err := l.follows(fromHex(t, bad.Document))
				require.Error(t, err, bad.What)
			}
		}
		l.take(t, step)
		require.Equal(t, step.state(), l.step(), "record %d: %s", i+1, step.What)
	}
}

// take reads the next record as the ledger does.
func (l *ledger) take(t *testing.T, step logStep) {
	content := fromHex(t, step.Document)
	s, r, err := l.follows(content)
	if err != errSignature {
		require.NoError(t, err, step.What)
	}
	l.went(l.n+1, content)
	if r != nil {
		l.apply(s.key, r)
	}
}

func (s logStep) state() logStep {
	return logStep{Points: s.Points, Begun: s.Begun, Held: s.Held, Open: s.Open, Going: s.Going, Final: s.Final}
}

// step is the state as a vector tells it.
func (l *ledger) step() (s logStep) {
	for _, c := range l.points {
		s.Points = append(s.Points, c.point)
		if _, held := l.held[c.point]; held {
			s.Held = append(s.Held, c.point)
		}
	}
	for _, u := range l.unfinished {
		s.Begun = append(s.Begun, u.point)
	}
	s.Open = l.openBelow(l.n+1, 0)
	for o, t := range l.tombs {
		if t.final {
			s.Final = append(s.Final, nameOf(o))
		} else {
			s.Going = append(s.Going, nameOf(o))
		}
	}
	return s
}

// TestMakeLogVectors writes testdata/log anew. The states in it are those of the table here, not what the code says.
func TestMakeLogVectors(t *testing.T) {
	if os.Getenv("HIKAE_MAKE_VECTORS") == "" {
		t.Skip("the vectors are made once: HIKAE_MAKE_VECTORS makes them anew")
	}
	seed := func(b byte) (s [32]byte) { s[0] = b; return s }
	keyOf := func(b byte) *publicKey { s := seed(b); k := publicOf(keyFromSeed(s[:])); return &k }
	const root, full, appender, stranger = 1, 2, 3, 4
	id := func(b byte) id16 { return id16{15: b} }
	ptr := func(i id16) *id16 { return &i }
	v := logVector{Repository: id(0xaa), Header: hash{1}, Root: *keyOf(root)}
	p1, p2 := id(1), id(2)
	vm, other := ptr(id(0x51)), ptr(id(0x52))
	object, object2 := &hash{7}, &hash{8}
	commit := func(lease uint64, p id16, vm *id16, o *hash) *record {
		return &record{Kind: recordCommit, Lease: lease, Point: ptr(p), VM: vm, Object: o}
	}
	pack := []string{"data/0000000000000003/00000000000000000000000000000001"}
	manifest := []string{manifestName(3, p1)}
	n, last := uint64(0), v.Header
	document := func(by byte, r *record) []byte {
		s := seed(by)
		if r.N == 0 {
			r.N = n + 1
		}
		if r.Prev == (hash{}) {
			r.Prev = last
		}
		r.Nonce, r.Time = id(byte(n)), time.Unix(0, 0).UTC()
		body, err := r.encode()
		require.NoError(t, err)
		return sign(keyFromSeed(s[:]), signRecord, v.Repository, body)
	}
	refuse := func(what string, raw []byte) {
		v.Refuse = append(v.Refuse, logStep{What: what, After: n, Document: hex.EncodeToString(raw)})
	}
	add := func(what string, raw []byte, state logStep) {
		state.What, state.Document = what, hex.EncodeToString(raw)
		v.Records = append(v.Records, state)
		n, last = n+1, hashBytes(raw)
	}
	refuse("the first record does not name the header", document(root, &record{Kind: recordKey, Key: keyOf(full), Role: roleFull, Prev: hash{9}}))
	add("root enrols a key", document(root, &record{Kind: recordKey, Key: keyOf(full), Role: roleFull}), logStep{})
	refuse("a record with the number of another", document(full, &record{Kind: recordLease, Access: accessWrite, N: 9}))
	refuse("too short to be signed", []byte("short"))
	add("root enrols a key that may append for one VM", document(root, &record{Kind: recordKey, Key: keyOf(appender), Role: roleAppend, VMs: []id16{*vm}}), logStep{})
	add("a writer's lease", document(full, &record{Kind: recordLease, Access: accessWrite}), logStep{Open: []uint64{3}})
	add("a commit by a key that nobody has enrolled", document(stranger, commit(3, p1, vm, object)), logStep{Open: []uint64{3}})
	add("a commit under another key's lease", document(appender, commit(3, p1, vm, object)), logStep{Open: []uint64{3}})
	add("a commit", document(full, commit(3, p1, vm, object)), logStep{Open: []uint64{3}, Points: []id16{p1}})
	add("a second commit of that id", document(full, commit(3, p1, vm, object2)), logStep{Open: []uint64{3}, Points: []id16{p1}})
	wrong := document(full, &record{Kind: recordForget, Points: []id16{p1}})
	wrong[0] ^= 1
	add("a wrong signature", wrong, logStep{Open: []uint64{3}, Points: []id16{p1}})
	refuse("it does not follow the record before it", document(full, &record{Kind: recordHold, Points: []id16{p1}, Prev: hash{3}}))
	add("the point is held", document(full, &record{Kind: recordHold, Points: []id16{p1, p2}, Note: "audit"}), logStep{Open: []uint64{3}, Points: []id16{p1}, Held: []id16{p1}})
	add("a held point is forgotten, which counts for nothing", document(full, &record{Kind: recordForget, Points: []id16{p1}}), logStep{Open: []uint64{3}, Points: []id16{p1}, Held: []id16{p1}})
	add("a point is forgotten that does not exist yet", document(full, &record{Kind: recordForget, Points: []id16{p2}}), logStep{Open: []uint64{3}, Points: []id16{p1}, Held: []id16{p1}})
	add("it is committed, and is not held by the hold from before", document(full, commit(3, p2, other, object)), logStep{Open: []uint64{3}, Points: []id16{p1, p2}, Held: []id16{p1}})
	add("a prune's lease", document(full, &record{Kind: recordLease, Access: accessPrune}), logStep{Open: []uint64{3, 13}, Points: []id16{p1, p2}, Held: []id16{p1}})
	add("a tombstone for what an open lease wrote", document(full, &record{Kind: recordTombstone, Lease: 13, Packs: pack, Mark: 13}), logStep{Open: []uint64{3, 13}, Points: []id16{p1, p2}, Held: []id16{p1}})
	add("the hold is taken away", document(full, &record{Kind: recordUnhold, Points: []id16{p1}}), logStep{Open: []uint64{3, 13}, Points: []id16{p1, p2}})
	add("a key that may only append forgets", document(appender, &record{Kind: recordForget, Points: []id16{p1}}), logStep{Open: []uint64{3, 13}, Points: []id16{p1, p2}})
	add("the writer's session is over", document(full, &record{Kind: recordEnd, Lease: 3}), logStep{Open: []uint64{13}, Points: []id16{p1, p2}})
	add("a commit under a lease that is over", document(full, commit(3, id(3), vm, object)), logStep{Open: []uint64{13}, Points: []id16{p1, p2}})
	add("a tombstone for a manifest of a point that exists", document(full, &record{Kind: recordTombstone, Lease: 13, Packs: manifest, Mark: 18}), logStep{Open: []uint64{13}, Points: []id16{p1, p2}})
	add("the point is forgotten", document(full, &record{Kind: recordForget, Points: []id16{p1}}), logStep{Open: []uint64{13}, Points: []id16{p2}})
	add("a reader's lease", document(full, &record{Kind: recordLease, Access: accessRead}), logStep{Open: []uint64{13, 21}, Points: []id16{p2}})
	add("a tombstone", document(full, &record{Kind: recordTombstone, Lease: 13, Packs: pack, Mark: 21}), logStep{Open: []uint64{13, 21}, Points: []id16{p2}, Going: pack})
	add("a sweep before every older lease is over", document(full, &record{Kind: recordSweep, Lease: 13, Packs: pack}), logStep{Open: []uint64{13, 21}, Points: []id16{p2}, Going: pack})
	add("an untombstone", document(full, &record{Kind: recordUntombstone, Lease: 13, Packs: pack}), logStep{Open: []uint64{13, 21}, Points: []id16{p2}})
	add("a tombstone again", document(full, &record{Kind: recordTombstone, Lease: 13, Packs: pack, Mark: 24}), logStep{Open: []uint64{13, 21}, Points: []id16{p2}, Going: pack})
	add("the reader is revoked", document(full, &record{Kind: recordRevoke, Lease: 21}), logStep{Open: []uint64{13}, Points: []id16{p2}, Going: pack})
	add("a sweep", document(full, &record{Kind: recordSweep, Lease: 13, Packs: pack}), logStep{Open: []uint64{13}, Points: []id16{p2}, Final: pack})
	add("an untombstone after the sweep", document(full, &record{Kind: recordUntombstone, Lease: 13, Packs: pack}), logStep{Open: []uint64{13}, Points: []id16{p2}, Final: pack})
	add("what was swept is gone", document(full, &record{Kind: recordSwept, Lease: 13, Packs: pack}), logStep{Open: []uint64{13}, Points: []id16{p2}})
	add("the prune is revoked", document(full, &record{Kind: recordRevoke, Lease: 13}), logStep{Points: []id16{p2}})
	add("a tombstone by a prune that is over", document(full, &record{Kind: recordTombstone, Lease: 13, Packs: pack, Mark: 30}), logStep{Points: []id16{p2}})
	add("a lease of the key that may append", document(appender, &record{Kind: recordLease, Access: accessWrite}), logStep{Open: []uint64{32}, Points: []id16{p2}})
	add("it commits for a VM that is not its own", document(appender, commit(32, id(4), other, object)), logStep{Open: []uint64{32}, Points: []id16{p2}})
	add("it commits the point that was forgotten: it exists again", document(appender, commit(32, p1, vm, object2)), logStep{Open: []uint64{32}, Points: []id16{p2, p1}})
	add("it asks for a prune's lease", document(appender, &record{Kind: recordLease, Access: accessPrune}), logStep{Open: []uint64{32}, Points: []id16{p2, p1}})
	add("somebody else ends its lease", document(full, &record{Kind: recordEnd, Lease: 32}), logStep{Open: []uint64{32}, Points: []id16{p2, p1}})
	begun := func(lease uint64, p id16, vm *id16) *record {
		r := commit(lease, p, vm, object)
		r.Kind = recordUnfinished
		return r
	}
	u1, u2, u3, p9 := id(5), id(7), id(8), id(9)
	here := func(begun []id16, open ...uint64) logStep {
		return logStep{Open: open, Points: []id16{p2, p1}, Begun: begun}
	}
	w := n + 1
	add("another writer's lease", document(full, &record{Kind: recordLease, Access: accessWrite}), here(nil, 32, w))
	add("what it has made durable is an unfinished point", document(full, begun(w, u1, vm)), here([]id16{u1}, 32, w))
	add("an unfinished point by a key that may append", document(appender, begun(32, id(6), vm)), here([]id16{u1}, 32, w))
	add("an unfinished point is held, which counts for nothing", document(full, &record{Kind: recordHold, Points: []id16{u1}}), here([]id16{u1}, 32, w))
	add("the next of that VM takes its place", document(full, begun(w, u2, vm)), here([]id16{u2}, 32, w))
	add("one of another VM", document(full, begun(w, u3, other)), here([]id16{u2, u3}, 32, w))
	add("one with the id of a point", document(full, begun(w, p1, other)), here([]id16{u2, u3}, 32, w))
	add("that writer's session is over", document(full, &record{Kind: recordEnd, Lease: w}), here([]id16{u2, u3}, 32))
	add("an unfinished point under a lease that is over", document(full, begun(w, id(6), other)), here([]id16{u2, u3}, 32))
	prune := n + 1
	add("a prune's lease", document(full, &record{Kind: recordLease, Access: accessPrune}), here([]id16{u2, u3}, 32, prune))
	add("a tombstone for the manifest of an unfinished point", document(full, &record{Kind: recordTombstone, Lease: prune, Packs: []string{manifestName(w, u3)}, Mark: n}), here([]id16{u2, u3}, 32, prune))
	add("an unfinished point is forgotten", document(full, &record{Kind: recordForget, Points: []id16{u3}}), here([]id16{u2}, 32, prune))
	going := here([]id16{u2}, 32, prune)
	going.Going = []string{manifestName(w, u3)}
	add("a tombstone for its manifest", document(full, &record{Kind: recordTombstone, Lease: prune, Packs: going.Going, Mark: n}), going)
	done := going
	done.Points, done.Begun = []id16{p2, p1, p9}, nil
	add("a commit of its VM takes the unfinished point away", document(appender, commit(32, p9, vm, object)), done)
	for i := range maxPrunes {
		w = n + 1
		step := func(begun []id16, open ...uint64) logStep {
			s := done
			s.Begun, s.Open = begun, append([]uint64{32, prune}, open...)
			return s
		}
		if i == 0 {
			add("a writer's lease", document(full, &record{Kind: recordLease, Access: accessWrite}), step(nil, w))
			add("an unfinished point", document(full, begun(w, u1, other)), step([]id16{u1}, w))
			add("the writer is revoked", document(full, &record{Kind: recordRevoke, Lease: w}), step([]id16{u1}))
		}
		p, left := n+1, []id16{u1}
		if i == maxPrunes-1 {
			left = nil
		}
		add(fmt.Sprintf("prune %d", i+1), document(full, &record{Kind: recordLease, Access: accessPrune}), step(left, p))
		add("it is over", document(full, &record{Kind: recordEnd, Lease: p}), step(left))
	}
	text, err := json.MarshalIndent(v, "", " ")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll("testdata/log", 0o755))
	require.NoError(t, os.WriteFile("testdata/log/history.json", append(text, '\n'), 0o644))
}
