package repo

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/internal/object"
)

// writerVector is one vector of testdata/writers. Whoever reads the format in another language must come to the same.
type writerVector struct {
	IDKey    secret32  `json:"idKey"`
	Seed     secret32  `json:"seed"`
	VM       string    `json:"vm"`
	Content  string    `json:"content"`
	Public   publicKey `json:"public"`
	ScopeKey hash      `json:"scopeKey"`
	OwnKey   hash      `json:"ownKey"`
	Tag      id16      `json:"tag"`
	Block    hash      `json:"block"`
	Page     hash      `json:"page"`
	Chunk    hash      `json:"chunk"`
}

func TestWriterVectors(t *testing.T) {
	b, err := os.ReadFile("testdata/writers/keys.json")
	require.NoError(t, err)
	var want writerVector
	require.NoError(t, json.Unmarshal(b, &want))
	got := writerVector{IDKey: want.IDKey, Seed: want.Seed, VM: want.VM, Content: want.Content}
	got.Public = publicOf(keyFromSeed(want.Seed[:]))
	key := scopeKey(want.IDKey, scope(got.Public))
	got.ScopeKey, got.OwnKey = key, derive(want.Seed, "hikae/1/writer/own")
	got.Tag = domainTag(derive(want.IDKey, "hikae/1/vm"), want.VM)
	ids := newContentKeys(key)
	got.Block = hash(ids.id(object.TypeBlock, []byte(want.Content)))
	got.Page = hash(ids.id(object.TypePage, []byte(want.Content)))
	got.Chunk = hash(ids.id(object.TypeChunk, []byte(want.Content)))
	text, err := json.MarshalIndent(got, "", "  ")
	require.NoError(t, err)
	require.Equal(t, string(b), string(text)+"\n")
	require.NotEqual(t, got.Block, hash(newContentKeys(want.IDKey).id(object.TypeBlock, []byte(want.Content))))
}
