package repo

import (
	"math/rand/v2"
	"os"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store/memstore"
)

// flipped turns one bit over.
func flipped(rng *rand.Rand, p []byte) []byte {
	p[rng.IntN(len(p))] ^= 1 << rng.IntN(8)
	return p
}

func flips(fast, release int) int {
	if os.Getenv("HIKAE_TEST_TIER") == "release" {
		return release
	}
	return fast
}

// Bar 17: a bit that turns over between the fingerprint and the pack, before the content is proven or after, in the memory
// of who writes: found every time, before anybody is told that the block is there; brought again it is taken.
func TestBitsThatTurnOverBeforeThePack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	seed := rand.Uint64()
	t.Log("seed", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := initInner(t, memstore.New(nil))
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	s := w.(*pointWriter).s
	cases := flips(1_000, 10_000)
	encoders := map[pipe.Compression]*pipe.Encoder{}
	for _, c := range []pipe.Compression{pipe.Fast, pipe.Default, pipe.None} {
		encoders[c], err = pipe.NewEncoder(c, minBlockSize)
		require.NoError(t, err)
	}
	for i := range cases {
		content := noise(uint64(i), 4096)
		copy(content[1024:], make([]byte, 2048)) // so that some of it compresses
		id := r.keys.id(object.TypeBlock, content)
		enc := encoders[[]pipe.Compression{pipe.Fast, pipe.Default, pipe.None}[i%3]]
		good, codec := enc.Encode(nil, content)
		if i%2 == 0 { // before it is proven
			bad := flipped(rng, append([]byte{}, good...))
			_, err := s.put(ctx, object.TypeBlock, id, len(content), codec, bad)
			if decoded, decodeErr := pipe.Decode(nil, bad, codec, len(content)); err == nil { // a bit that no decoder looks at
				require.NoError(t, decodeErr)
				require.Equal(t, content, decoded)
				continue
			}
			require.ErrorIs(t, err, pipe.ErrBlockMismatch)
		} else { // after that, on its way into the pack
			f := &frame{typ: object.TypeBlock, id: id, plain: len(content), codec: codec, data: append([]byte{}, good...), sum: xxhash.Sum64(good)}
			buf := r.buffer()
			require.NoError(t, s.prove(ctx, f, buf))
			f.data = flipped(rng, f.data)
			p, err := s.take(ctx, f.typ)
			require.NoError(t, err)
			_, err = f.seal(p, buf)
			require.ErrorIs(t, err, pipe.ErrBlockMismatch)
			require.NoError(t, s.giveBack(ctx, f.typ, p))
			r.buffers.Put(buf)
		}
		known, err := s.known(ctx, id)
		require.NoError(t, err)
		require.False(t, known, "case %d", i)
		_, err = s.put(ctx, object.TypeBlock, id, len(content), codec, good)
		require.NoError(t, err)
	}
}
