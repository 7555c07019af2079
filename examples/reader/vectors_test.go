package main

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"
)

// vectors calls f with each file of a folder of vectors that the repository's own tests use too.
func vectors(t *testing.T, dir string, f func(t *testing.T, raw []byte)) {
	names, err := filepath.Glob(filepath.Join("..", "..", "repo", "testdata", dir, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			raw, err := os.ReadFile(name)
			require.NoError(t, err)
			f(t, raw)
		})
	}
}

type cellVector struct {
	Name               string
	Kind               byte
	Object, Repository string
	StreamLength       int
	N, M               int
	Code               int
	ParityPayloads     []string
	Trailers           []string
	Damage             []struct {
		Zero     [][2]int
		Flip     []int
		Swap     [][2]int
		Truncate *int
		Append   string
		Damaged  []int
		Error    string
	}
}

// TestCellVectors mends what the vectors damage. The files of the vectors are made from the stream by encoding with the
// code under test in reverse: a file is a valid one only if its parity has the hashes that the vector pins.
func TestCellVectors(t *testing.T) {
	vectors(t, "cells", func(t *testing.T, raw []byte) {
		var v cellVector
		require.NoError(t, json.Unmarshal(raw, &v))
		stream := make([]byte, v.StreamLength)
		h := blake3.New()
		_, _ = h.Write([]byte(v.Name))
		_, _ = h.Digest().Read(stream)
		file := encodeCells(t, stream, geometry{kind: v.Kind, code: byte(v.Code), object: parseID(v.Object), n: uint32(v.N),
			m: uint32(v.M), length: uint32(v.StreamLength), repository: [8]byte(unhex(t, v.Repository)[:8])})
		for i, want := range v.ParityPayloads {
			got := hash(file[(v.N+i)*cellSize:][:payloadSize])
			require.Equal(t, want, hex.EncodeToString(got[:]))
		}
		for i, want := range v.Trailers {
			require.Equal(t, want, hex.EncodeToString(file[i*cellSize+payloadSize:(i+1)*cellSize]))
		}
		for _, d := range v.Damage {
			hurt := append([]byte(nil), file...)
			for _, z := range d.Zero {
				clear(hurt[z[0] : z[0]+z[1]])
			}
			for _, at := range d.Flip {
				hurt[at] ^= 1
			}
			for _, s := range d.Swap {
				a, b := hurt[s[0]*cellSize:][:cellSize], hurt[s[1]*cellSize:][:cellSize]
				keep := append([]byte(nil), a...)
				copy(a, b)
				copy(b, keep)
			}
			if d.Truncate != nil {
				hurt = hurt[:*d.Truncate]
			}
			hurt = append(hurt, unhex(t, d.Append)...)
			id := parseID(v.Object)
			c, err := readCells(hurt, want{kind: v.Kind, object: &id})
			require.Equal(t, append([]int{}, d.Damaged...), append([]int{}, c.damaged...))
			if d.Error != "" {
				require.ErrorIs(t, err, errDamaged)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, stream, append([]byte{}, c.stream...))
		}
	})
}

type secretVector struct{ Type, Value string }

type objectVector struct {
	Repository, Object string
	Kind               byte
	Secret             secretVector
	Stream             string
	Frames             []struct {
		ID      string
		Type    byte
		Codec   byte
		Stored  uint32
		Content string
	}
	Refuse []struct {
		What   string
		At     int
		Xor    byte
		Secret *secretVector
		Error  string
	}
}

func TestObjectVectors(t *testing.T) {
	vectors(t, "objects", func(t *testing.T, raw []byte) {
		var v objectVector
		require.NoError(t, json.Unmarshal(raw, &v))
		id, repo := parseID(v.Object), parseID(v.Repository)
		w := want{v.Kind, &id, &repo}
		stream := unhex(t, v.Stream)
		o, err := openObject(memory(stream), w, v.Secret.keyring(t))
		require.NoError(t, err)
		require.Len(t, o.frames, len(v.Frames))
		for i, f := range v.Frames {
			got := o.frames[i]
			require.Equal(t, []any{f.ID, f.Type, f.Codec, f.Stored}, []any{hex.EncodeToString(got.id[:]), got.kind, got.codec, got.stored})
			if got.kind == typeVoid {
				continue
			}
			plain, err := openFrame(o, got)
			require.NoError(t, err)
			require.Equal(t, f.Content, hex.EncodeToString(plain))
		}
		for _, bad := range v.Refuse {
			hurt := append([]byte(nil), stream...)
			hurt[bad.At] ^= bad.Xor
			secret := v.Secret
			if bad.Secret != nil {
				secret = *bad.Secret
			}
			o, err := openObject(memory(hurt), w, secret.keyring(t))
			for i := 0; err == nil && i < len(o.frames); i++ {
				if o.frames[i].kind != typeVoid {
					_, err = openFrame(o, o.frames[i])
				}
			}
			wantErr := map[string]error{"corrupt": errDamaged, "unsupported": errUnsupported, "noKey": errNoKey, "wrongSecret": errSecret, "costly": errCostly}
			require.ErrorIs(t, err, wantErr[bad.Error], bad.What)
		}
	})
}

func openFrame(o *opened, f frame) ([]byte, error) {
	body, err := o.encoded(f)
	if err != nil {
		return nil, err
	}
	plain, err := decode(f.codec, body, int(f.plain))
	if err != nil || hash(plain) != f.id {
		return nil, errors.Join(errDamaged, err)
	}
	return plain, nil
}

func (s secretVector) keyring(t *testing.T) *keyring {
	k := &keyring{}
	switch s.Type {
	case "master":
		k.masters = [][]byte{unhex(t, s.Value)}
	case "x25519":
		var err error
		k.identity, err = ecdh.X25519().NewPrivateKey(unhex(t, s.Value))
		require.NoError(t, err)
	case "keyfile":
		k.key = unhex(t, s.Value)
	case "passphrase":
		k.passphrase = []byte(s.Value)
	case "age":
		i, err := age.ParseX25519Identity(s.Value)
		require.NoError(t, err)
		k.identities = []age.Identity{i}
	default:
		require.Equal(t, "clear", s.Type)
	}
	return k
}

func TestWriterVectors(t *testing.T) {
	vectors(t, "writers", func(t *testing.T, raw []byte) {
		var v map[string]string
		require.NoError(t, json.Unmarshal(raw, &v))
		idKey := unhex(t, v["idKey"])
		public := ed25519.NewKeyFromSeed(unhex(t, v["seed"])).Public().(ed25519.PublicKey)
		scope := derive(idKey, nil, "hikae/1/id/writer"+string(public))
		require.Equal(t, v["scopeKey"], hex.EncodeToString(scope))
		require.Equal(t, v["tag"], hex.EncodeToString(keyed(derive(idKey, nil, "hikae/1/vm"), []byte(v["vm"]))[:16]))
		r := &repository{idKey: idKey}
		for name, kind := range map[string]byte{"block": typeBlock, "page": typePage, "chunk": typeChunk} {
			require.Equal(t, v[name], hex32(r.contentID(scope, kind, []byte(v["content"]))))
		}
	})
}

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func readJSON(t *testing.T, name string, v any) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "repo", "testdata", filepath.FromSlash(name)))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, v))
}

func TestNameVectors(t *testing.T) {
	var v struct {
		Names []struct {
			Name, ID string
			Kind     byte
			Lease    uint64
		}
		Refuse []struct{ Name, Why string }
	}
	readJSON(t, "names/names.json", &v)
	for _, n := range v.Names {
		kind, lease, id, ok := parseName(n.Name)
		require.True(t, ok, n.Name)
		require.Equal(t, []any{n.Kind, n.Lease, n.ID}, []any{kind, lease, id.String()})
	}
	for _, n := range v.Refuse {
		_, _, _, ok := parseName(n.Name)
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
			ID     string
			Counts [6]uint64
		}
	}
	var v struct{ Pages, Refuse []vector }
	readJSON(t, "pages/pages.json", &v)
	require.NotEmpty(t, v.Pages)
	for _, w := range v.Pages {
		entries, err := parsePage(unhex(t, w.Page), w.Level, w.Entries)
		require.NoError(t, err, w.What)
		require.Len(t, entries, len(w.Expect))
		for i, e := range w.Expect {
			want := entry{kind: byte(e.Kind), counts: e.Counts}
			copy(want.id[:], unhex(t, e.ID))
			require.Equal(t, want, entries[i], w.What)
		}
	}
	for _, w := range v.Refuse {
		_, err := parsePage(unhex(t, w.Page), w.Level, w.Entries)
		require.Error(t, err, w.What)
	}
}

func TestRecipeVectors(t *testing.T) {
	type vector struct {
		What, Recipe, Literal string
		Plain                 int
		Pieces                []struct {
			Length, Offset uint32
			ID             string
		}
	}
	var v struct{ Recipes, Refuse []vector }
	readJSON(t, "recipes/recipes.json", &v)
	require.NotEmpty(t, v.Recipes)
	for _, w := range v.Recipes {
		rec, err := parseRecipe(unhex(t, w.Recipe), w.Plain)
		require.NoError(t, err, w.What)
		require.Len(t, rec.pieces, len(w.Pieces))
		for i, p := range w.Pieces {
			want := piece{length: p.Length, offset: p.Offset, other: p.ID != ""}
			copy(want.id[:], unhex(t, p.ID))
			require.Equal(t, want, rec.pieces[i], w.What)
		}
		require.Equal(t, w.Literal, hex.EncodeToString(rec.literal))
	}
	for _, w := range v.Refuse {
		_, err := parseRecipe(unhex(t, w.Recipe), w.Plain)
		require.Error(t, err, w.What)
	}
}

type logStep struct {
	What, Document             string
	After                      int
	Points, Held, Going, Final []string
	Unfinished                 []string
	Open                       []uint64
}

// TestLogVectors reads a history in which most things happen that may, and some that count for nothing.
func TestLogVectors(t *testing.T) {
	var v struct {
		Repository, Header, Root string
		Records, Refuse          []logStep
	}
	readJSON(t, "log/history.json", &v)
	require.NotEmpty(t, v.Records)
	r := &repository{id: parseID(v.Repository), root: unhex(t, v.Root), log: newHistory([32]byte(unhex(t, v.Header))), idKey: make([]byte, 32)}
	for i, step := range v.Records {
		for _, bad := range v.Refuse {
			if bad.After == i {
				_, err := r.follows(unhex(t, bad.Document), uint64(i)+1)
				require.Error(t, err, bad.What)
			}
		}
		s, err := r.follows(unhex(t, step.Document), uint64(i)+1)
		require.NoError(t, err, step.What)
		r.apply(s)
		step.Document, step.After = "", 0
		require.Equal(t, step, r.log.step(step.What), "record %d", i+1)
	}
}

// step is the state as a vector tells it.
func (h *history) step(what string) logStep {
	s := logStep{What: what}
	for _, c := range h.points {
		s.Points = append(s.Points, c.point.String())
		if _, held := h.held[c.point]; held {
			s.Held = append(s.Held, c.point.String())
		}
	}
	for _, u := range h.begun {
		s.Unfinished = append(s.Unfinished, u.point.String())
	}
	for _, n := range slices.Sorted(keysOf(h.leases)) {
		if !h.leases[n].over {
			s.Open = append(s.Open, n)
		}
	}
	for name, tomb := range h.tombs {
		if tomb.final {
			s.Final = append(s.Final, name)
		} else {
			s.Going = append(s.Going, name)
		}
	}
	return s
}
