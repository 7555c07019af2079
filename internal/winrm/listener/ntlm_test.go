package listener

import (
	"crypto/rc4"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/md4" //lint:ignore SA1019 NTLM is made of it
)

func bytesOf(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// The worked example of [MS-NLMP] 4.2.4: user "User", password "Password", domain "Domain".
func TestVectors(t *testing.T) {
	h := md4.New()
	h.Write(wide("Password"))
	owf := mac(h.Sum(nil), wide("USER"), wide("Domain"))
	require.Equal(t, "0c868a403bfd7a93a3001ef22ef02e3f", hex.EncodeToString(owf))

	// Section 4.2.4.4: sealing and signing "Plaintext" with the session key of fives.
	c, err := rc4.NewCipher(bytesOf(t, "59f600973cc4960a25480a7c196e4c58"))
	require.NoError(t, err)
	n := &ntlmServer{out: c, outSign: bytesOf(t, "4788dc861b4782f35d43fd98fe1a2d39")}
	signature, sealed := n.seal(wide("Plaintext"))
	require.Equal(t, "54e50165bf1936dc996020c1811b0f06fb5f", hex.EncodeToString(sealed))
	require.Equal(t, "010000007fb38ec5c55d497600000000", hex.EncodeToString(signature))
}
