package vss

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGUID(t *testing.T) {
	t.Parallel()
	const hyperV = "{66841CD4-6DED-4F4B-8F17-FD23F8DDC3DE}"
	g, err := ParseGUID(hyperV)
	require.NoError(t, err)
	require.Equal(t, GUID{0x66841CD4, 0x6DED, 0x4F4B, [8]byte{0x8F, 0x17, 0xFD, 0x23, 0xF8, 0xDD, 0xC3, 0xDE}}, g)
	require.Equal(t, hyperV, g.String())
	for _, bad := range []string{"", hyperV[1:], hyperV + "}", "{66841CD4-6DED-4F4B-8F17-FD23F8DDC3DG}", "{66841CD46DED-4F4B-8F17-FD23F8DDC3DE00}", "(66841CD4-6DED-4F4B-8F17-FD23F8DDC3DE)"} {
		_, err := ParseGUID(bad)
		require.Error(t, err, bad)
	}
}
