package object_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
)

var update = flag.Bool("update", false, "write testdata/objects again, with new ids and keys")

const vectorDir = "../../testdata/objects"

// vector is one file of testdata/objects; README.md there says it in words for other languages.
type vector struct {
	Name    string        `json:"name"`
	Repo    string        `json:"repository"`
	Object  string        `json:"object"`
	Kind    uint8         `json:"kind"`
	Suite   uint8         `json:"suite"`
	Secret  secret        `json:"secret"`
	DataKey string        `json:"dataKey"`
	Stream  string        `json:"stream"`
	Frames  []vectorFrame `json:"frames"`
	Refuse  []refusal     `json:"refuse"`
}

type secret struct {
	Type  string `json:"type"`  // clear, master, x25519, keyfile, passphrase, age
	Value string `json:"value"` // hexadecimal; text for passphrase and age
}

type vectorFrame struct {
	ID      string `json:"id"`
	Type    uint8  `json:"type"`
	Codec   uint8  `json:"codec"`
	Stored  uint32 `json:"stored"`
	Content string `json:"content"`
}

// refusal is a change to the stream, or another secret, and the error that must follow: when the object is opened or
// when all its frames are.
type refusal struct {
	What   string  `json:"what"`
	At     int     `json:"at"`
	Xor    uint8   `json:"xor"`
	Secret *secret `json:"secret,omitempty"`
	Error  string  `json:"error"` // corrupt, noKey, wrongSecret, unsupported, costly
}

func unhex(t *testing.T, s string) []byte {
	p, err := hex.DecodeString(s)
	require.NoError(t, err)
	return p
}

func (s secret) unwrapper(t *testing.T) object.Unwrapper {
	switch s.Type {
	case "clear":
		return object.Clear{}
	case "master":
		return object.Master(unhex(t, s.Value))
	case "keyfile":
		return object.KeyFile(unhex(t, s.Value))
	case "passphrase":
		return object.Passphrase{Text: s.Value, Cost: cheap}
	case "x25519":
		x, err := object.NewX25519Identity(object.Key(unhex(t, s.Value)))
		require.NoError(t, err)
		return x
	case "age":
		id, err := age.ParseX25519Identity(s.Value)
		require.NoError(t, err)
		return object.AgeIdentities{id}
	}
	require.Fail(t, "unknown secret", s.Type)
	return nil
}

// wrapper is the writing side of the same secret.
func (s secret) wrapper(t *testing.T) object.Wrapper {
	switch u := s.unwrapper(t).(type) {
	case *object.X25519Identity:
		return u.Recipient()
	case object.AgeIdentities:
		return object.AgeRecipients{u[0].(*age.X25519Identity).Recipient()}
	default:
		return u.(object.Wrapper)
	}
}

var (
	hex32   = hex.EncodeToString(content("a key for vectors", 32))
	other32 = hex.EncodeToString(content("another key", 32))
)

func plans(t *testing.T) []vector {
	newAge := func() string {
		id, err := age.GenerateX25519Identity()
		require.NoError(t, err)
		return id.String()
	}
	plan := func(name string, suite, kind uint8, typ, value, other, wrong string) vector {
		v := vector{Name: name, Suite: suite, Kind: kind, Secret: secret{typ, value}}
		if wrong != "" {
			v.Refuse = []refusal{{What: "another secret", Secret: &secret{typ, other}, Error: wrong}}
		}
		return v
	}
	return []vector{
		plan("clear", object.SuiteClear, object.KindData, "clear", "", "", ""),
		plan("master", object.SuiteAES, object.KindData, "master", hex32, other32, "noKey"),
		plan("x25519", object.SuiteAES, object.KindMeta, "x25519", hex32, other32, "noKey"),
		plan("passphrase", object.SuiteAES, object.KindSlot, "passphrase", "grüner Tee", "gruener Tee", "wrongSecret"),
		plan("keyfile", object.SuiteAES, object.KindSlot, "keyfile", hex32, other32, "noKey"),
		plan("age", object.SuiteAES, object.KindSlot, "age", newAge(), newAge(), "noKey"),
	}
}

func (v *vector) complete(t *testing.T) {
	b := newBuilder(t, v.Suite, v.Kind, v.Secret.wrapper(t))
	text := bytes.Repeat([]byte("What is kept in reserve is kept whole. "), 20)
	for i, level := range []pipe.Compression{pipe.None, pipe.Fast, pipe.Default} {
		enc, err := pipe.NewEncoder(level, 1<<16)
		require.NoError(t, err)
		data, codec := enc.Encode(nil, text[i:])
		_, err = b.Append(uint8(i+1), blake3.Sum256(text[i:]), uint8(codec), len(text)-i, data)
		require.NoError(t, err)
	}
	fill(t, b, nil)
	for i, e := range b.Entries() {
		c := text[min(i, 3):]
		if i == 3 {
			c = nil
		}
		v.Frames = append(v.Frames, vectorFrame{hex.EncodeToString(e.ID[:]), e.Type, e.Codec, e.Stored, hex.EncodeToString(c)})
	}
	id, table := b.ID(), b.Len()
	stream, _, _, err := cell.Decode(seal(t, b))
	require.NoError(t, err)
	h, err := object.ParseHeader(stream)
	require.NoError(t, err)
	key, err := v.Secret.unwrapper(t).Unwrap(h)
	require.NoError(t, err)
	v.Repo, v.Object = hex.EncodeToString(repo[:]), hex.EncodeToString(id[:])
	v.DataKey, v.Stream = hex.EncodeToString(key[:]), hex.EncodeToString(stream)
	inWrap := map[bool]string{false: "corrupt", true: "wrongSecret"}[v.Secret.Type == "passphrase"]
	v.Refuse = append(v.Refuse,
		refusal{What: "magic", At: 0, Xor: 1, Error: "corrupt"},
		refusal{What: "format version 3", At: 8, Xor: 2, Error: "unsupported"},
		refusal{What: "another kind", At: 10, Xor: 9, Error: "corrupt"},
		refusal{What: "unknown suite", At: 11, Xor: 2, Error: "unsupported"},
		refusal{What: "the other suite", At: 11, Xor: 1, Error: "corrupt"},
		refusal{What: "another repository", At: 27, Xor: 1, Error: "corrupt"},
		refusal{What: "another object", At: 28, Xor: 1, Error: "corrupt"},
		refusal{What: "commitment", At: 44, Xor: 1, Error: "corrupt"},
		refusal{What: "no wraps", At: 76, Xor: 1, Error: "corrupt"},
		refusal{What: "length of the wrap", At: 79, Xor: 0x80, Error: "corrupt"},
	)
	if v.Secret.Type == "passphrase" { // behind the wrap's salt, which begins at 80
		v.Refuse = append(v.Refuse,
			refusal{What: "memory of 1 GiB and 64 KiB", At: 102, Xor: 0x10, Error: "costly"},
			refusal{What: "65 passes", At: 96, Xor: 64, Error: "costly"},
			refusal{What: "no threads", At: 104, Xor: 1, Error: "corrupt"},
		)
	}
	v.Refuse = append(v.Refuse,
		refusal{What: "wrapped key", At: h.Len() - 1, Xor: 1, Error: inWrap},
		refusal{What: "first byte of frame 0", At: h.Len(), Xor: 1, Error: "corrupt"},
		refusal{What: "last byte of the last frame", At: table - 1, Xor: 1, Error: "corrupt"},
		refusal{What: "first byte of the table", At: table, Xor: 1, Error: "corrupt"},
		refusal{What: "length of the table", At: len(stream) - 4, Xor: 4, Error: "corrupt"},
	)
}

func writeVectors(t *testing.T) {
	require.NoError(t, os.MkdirAll(vectorDir, 0o755))
	for _, v := range plans(t) {
		v.complete(t)
		p, err := json.MarshalIndent(v, "", "  ")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(vectorDir, v.Name+".json"), append(p, '\n'), 0o644))
	}
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	names, err := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(names), 6)
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			p, err := os.ReadFile(name)
			require.NoError(t, err)
			var v vector
			require.NoError(t, json.Unmarshal(p, &v))
			v.checkGood(t)
			for _, r := range v.Refuse {
				v.checkRefused(t, r)
			}
		})
	}
}

func (v *vector) want(t *testing.T) cell.Ident {
	return cell.Ident{Kind: v.Kind, Repo: [16]byte(unhex(t, v.Repo)), Object: [16]byte(unhex(t, v.Object))}
}

func (v *vector) checkGood(t *testing.T) {
	stream, un := unhex(t, v.Stream), v.Secret.unwrapper(t)
	o, err := object.Open(stream, v.want(t), []object.Unwrapper{un})
	require.NoError(t, err)
	key, err := un.Unwrap(o.Header)
	require.NoError(t, err)
	require.Equal(t, v.DataKey, hex.EncodeToString(key[:]))
	require.Len(t, o.Entries(), len(v.Frames))
	for i, e := range o.Entries() {
		got, err := o.Content(i)
		require.NoError(t, err)
		require.Equal(t, v.Frames[i], vectorFrame{
			hex.EncodeToString(e.ID[:]), e.Type, e.Codec, e.Stored, hex.EncodeToString(got),
		})
	}
}

func (v *vector) checkRefused(t *testing.T, r refusal) {
	stream, use := unhex(t, v.Stream), v.Secret
	stream[r.At] ^= r.Xor
	if r.Secret != nil {
		use = *r.Secret
	}
	o, err := object.Open(stream, v.want(t), []object.Unwrapper{use.unwrapper(t)})
	for i := 0; err == nil && i < len(o.Entries()); i++ {
		_, err = o.Content(i)
	}
	switch r.Error {
	case "corrupt":
		require.ErrorAs(t, err, new(*object.CorruptError), r.What)
	case "unsupported":
		require.ErrorAs(t, err, new(*object.UnsupportedError), r.What)
	case "noKey":
		require.ErrorIs(t, err, object.ErrNoKey, r.What)
		require.NotErrorIs(t, err, object.ErrWrongSecret, r.What)
	case "wrongSecret":
		require.ErrorIs(t, err, object.ErrWrongSecret, r.What)
	case "costly":
		require.ErrorIs(t, err, object.ErrCostly, r.What)
		require.NotErrorIs(t, err, object.ErrNoKey, r.What)
	default:
		require.Fail(t, "unknown error", r.Error)
	}
}
