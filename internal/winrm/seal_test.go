package winrm

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// A challenge that would have weaker NTLM spoken, or that is none, goes no further; nothing of a stranger's panics.
func FuzzChallenge(f *testing.F) {
	good := append([]byte("NTLMSSP\x00\x02\x00\x00\x00"), make([]byte, 44)...)
	binary.LittleEndian.PutUint32(good[20:], flagsNeeded)
	f.Add(good)
	weak := append([]byte{}, good...)
	weak[20] &^= flagSeal
	f.Add(weak)
	odd := append([]byte{}, good...)
	odd = append(odd, 6, 0, 1, 0, 0, 0, 0, 0, 0) // flags of one byte
	odd[40], odd[44] = 9, 56
	f.Add(odd)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := newNTLM(`D\u`, "p", nil)
		require.NoError(t, err)
		_, err = n.negotiate()
		require.NoError(t, err)
		token, err := n.authenticate(b)
		if err != nil {
			require.Nil(t, token)
			return
		}
		require.Equal(t, uint32(flagsNeeded), binary.LittleEndian.Uint32(b[20:])&flagsNeeded)
		_, err = n.open(b)
		require.Error(t, err)
	})
}

func FuzzUnpack(f *testing.F) {
	head := boundary + "\r\n\tContent-Type: x\r\n\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=3\r\n" + boundary +
		"\r\n\tContent-Type: application/octet-stream\r\n\x10\x00\x00\x00" + "0123456789abcdef"
	f.Add([]byte(head + "abc" + boundary + "--\r\n"))
	f.Add([]byte(head + "abcd" + boundary + "--\r\n"))
	f.Add([]byte(head))
	f.Fuzz(func(t *testing.T, b []byte) {
		sum, sealed, err := unpack(b, ntlmSignature)
		if err == nil {
			require.Len(t, sum, ntlmSignature)
			require.LessOrEqual(t, len(sealed), len(b))
		}
	})
	sum, sealed, err := unpack([]byte(head+"abc"+boundary+"--\r\n"), ntlmSignature)
	require.NoError(f, err)
	require.Equal(f, "0123456789abcdef", string(sum))
	require.Equal(f, "abc", string(sealed))
	_, _, err = unpack([]byte(head+"abcd"+boundary+"--\r\n"), ntlmSignature)
	require.ErrorIs(f, err, errSealed)
}
