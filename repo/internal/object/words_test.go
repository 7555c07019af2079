package object_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"
)

// An independent reader, written from FORMAT.md's words alone. It shares no code with package object, and reads what
// package object wrote.
func TestVectorsAgainstTheWords(t *testing.T) {
	for _, name := range []string{"clear", "master"} {
		p, err := os.ReadFile(filepath.Join(vectorDir, name+".json"))
		require.NoError(t, err)
		var v vector
		require.NoError(t, json.Unmarshal(p, &v))
		readByTheWords(t, &v, unhex(t, v.Stream))
	}
}

func hkdf32(t *testing.T, secret, salt []byte, info string) []byte {
	k, err := hkdf.Key(sha256.New, secret, salt, info, 32)
	require.NoError(t, err)
	return k
}

func gcmOpen(t *testing.T, key, nonce, sealed, data []byte) []byte {
	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	out, err := aead.Open(nil, nonce, sealed, data)
	require.NoError(t, err)
	return out
}

func readByTheWords(t *testing.T, v *vector, s []byte) {
	salt := append(unhex(t, v.Repo), unhex(t, v.Object)...)
	require.Equal(t, "HIKAEOBJ\x01\x00"+string([]byte{v.Kind, v.Suite})+string(salt), string(s[:44]))
	require.EqualValues(t, 1, s[76], "wraps")
	at := 80 + int(binary.LittleEndian.Uint16(s[78:]))
	body, key := s[80:at], []byte(nil)
	if v.Suite == 0 {
		require.EqualValues(t, 0, s[77])
		key = body
	} else {
		require.EqualValues(t, 1, s[77])
		master := unhex(t, v.Secret.Value)
		id := blake3.Sum256(append([]byte("hikae/1/keyid"), master...))
		require.Equal(t, id[:8], body[:8])
		key = gcmOpen(t, hkdf32(t, master, salt, "hikae/1/wrap/master"), make([]byte, 12), body[8:], s[:44])
	}
	require.Equal(t, v.DataKey, hex.EncodeToString(key))
	require.Equal(t, hkdf32(t, key, salt, "hikae/1/commit"), s[44:76])

	open := func(i uint32, typ, codec byte, plain uint32, sealed []byte) []byte {
		nonce := binary.LittleEndian.AppendUint32(nil, i)
		data := append([]byte{1, 0, v.Suite, v.Kind}, salt...)
		data = append(append(data, nonce...), typ, codec)
		data = binary.LittleEndian.AppendUint32(data, plain)
		require.Len(t, data, 46)
		frames := hkdf32(t, key, salt, "hikae/1/frames")
		if v.Suite == 1 {
			return gcmOpen(t, frames, append(nonce, make([]byte, 8)...), sealed, data)
		}
		content, tag := sealed[:len(sealed)-16], sealed[len(sealed)-16:]
		h, err := blake3.NewKeyed(frames)
		require.NoError(t, err)
		_, _ = h.Write(append(data, content...))
		require.Equal(t, h.Sum(nil)[:16], tag)
		return content
	}

	end := len(s) - 4
	start := end - int(binary.LittleEndian.Uint32(s[end:]))
	table := open(0xFFFFFFFF, 0, 0, uint32(end-start-16), s[start:end])
	require.Len(t, table, 44*len(v.Frames))
	for i, f := range v.Frames {
		e := table[44*i:]
		require.Equal(t, f.ID, hex.EncodeToString(e[:32]))
		require.Equal(t, []byte{f.Type, f.Codec, 0, 0}, e[32:36])
		stored, plain := binary.LittleEndian.Uint32(e[36:]), binary.LittleEndian.Uint32(e[40:])
		require.Equal(t, f.Stored, stored)
		require.EqualValues(t, len(f.Content)/2, plain)
		got := open(uint32(i), e[32], e[33], plain, s[at:at+int(stored)])
		if f.Codec == 0 {
			require.Equal(t, f.Content, hex.EncodeToString(got))
		}
		at += int(stored)
	}
	require.Equal(t, start, at)
}
