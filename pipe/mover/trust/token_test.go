package trust

import (
	"crypto/hkdf"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A token reads as what it was, with the white space of a file around it, and gives the same key.
func TestToken(t *testing.T) {
	token := newToken(fresh(t).Pin())
	text := token.String()
	require.Regexp(t, `^hikae-token-1-[a-z2-7]{109}$`, text)
	for _, around := range []string{text, text + "\n", "\t " + text + "\r\n"} {
		again, err := ParseToken(around)
		require.NoError(t, err)
		require.Equal(t, token, again)
		a, err := token.Identity()
		require.NoError(t, err)
		b, err := again.Identity()
		require.NoError(t, err)
		require.Equal(t, a.Pin(), b.Pin())
	}
	other, err := newToken(token.Server).Identity()
	require.NoError(t, err)
	mine, err := token.Identity()
	require.NoError(t, err)
	require.NotEqual(t, mine.Pin(), other.Pin())
}

// The vector that another implementation can hold itself against.
func TestTokenVector(t *testing.T) {
	token := Token{}
	for i := range token.Server {
		token.Server[i], token.seed[i] = byte(i), byte(0x80+i)
	}
	require.Equal(t, vectorToken, token.String())
	id, err := token.Identity()
	require.NoError(t, err)
	require.Equal(t, vectorPin, id.Pin().String())

	prk, err := hkdf.Extract(sha256.New, token.seed[:], token.Server[:])
	require.NoError(t, err)
	seed, err := hkdf.Expand(sha256.New, prk, tokenInfo, 32)
	require.NoError(t, err)
	require.Equal(t, seed, id.key.Seed())
}

// A slip in copying is told from a token that is of no use: any wrong, missing, doubled or swapped character.
func TestTokenSlips(t *testing.T) {
	text := newToken(fresh(t).Pin()).String()
	slip := func(bad string) {
		t.Helper()
		if bad == text {
			return
		}
		_, err := ParseToken(bad)
		require.ErrorIs(t, err, ErrToken, bad)
		require.NotContains(t, err.Error(), text[len(tokenPrefix)+60:], "an error is no place for a secret")
	}
	const all = "abcdefghijklmnopqrstuvwxyz234567ABCXYZ0189-_=/+ \n\x00ü"
	for i := range text {
		slip(text[:i] + text[i+1:])
		slip(text[:i] + text[i:i+1] + text[i:])
		if i > 0 {
			slip(text[:i-1] + text[i:i+1] + text[i-1:i] + text[i+1:])
		}
		for _, c := range all {
			slip(text[:i] + string(c) + text[i+1:])
		}
	}
	for _, bad := range []string{"", "hikae-token-1-", "hikae-token-2-" + text[len(tokenPrefix):], text + "a", text + text, strings.ToUpper(text), strings.Repeat("a", 1<<20)} {
		slip(bad)
	}
}
