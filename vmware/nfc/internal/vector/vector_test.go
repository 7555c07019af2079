package vector

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLoad(t *testing.T) {
	t.Parallel()
	all, err := Load("../../testdata/vectors")
	require.NoError(t, err)
	files := map[string]int{}
	for _, m := range all {
		files[m.File]++
		switch m.File {
		case "classic":
			if m.Bytes[0] < 'a' { // the two raw strings are no messages
				require.Len(t, m.Bytes, 264, m.Name)
			}
		case "aio", "transfer":
			requireFrame(t, m)
		}
	}
	require.Len(t, files, 4)
	require.Equal(t, "PROXY vpxa-nfcssl\r\n", string(all.Get("authd", "proxy nbdssl").Bytes))
	require.True(t, all.Get("aio", "error").Fields[4].Guess)
	require.Panics(t, func() { all.Get("aio", "unheard of") })
	_, err = Load(t.TempDir())
	require.Error(t, err)
}

// Header and payload agree, whatever follows them.
func requireFrame(t *testing.T, m Message) {
	t.Helper()
	require.GreaterOrEqual(t, len(m.Bytes), 16, m.Name)
	require.Equal(t, uint32(0xA100DA7A), binary.LittleEndian.Uint32(m.Bytes), m.Name)
	size := int(binary.LittleEndian.Uint32(m.Bytes[8:]))
	require.GreaterOrEqual(t, len(m.Bytes), 16+size, m.Name)
	if m.File == "transfer" && len(m.Bytes) > 60 {
		require.Equal(t, int(binary.LittleEndian.Uint32(m.Bytes[16+36:])), len(m.Bytes)-60, m.Name)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	set, err := Parse("x", "# about\n\n-> one\n01 \"a#\\r\" ff*3 # field [open]\n<- two\n00 # [guess]\n")
	require.NoError(t, err)
	require.Equal(t, Set{
		{File: "x", Name: "one", Bytes: []byte("\x01a#\r\xff\xff\xff"), Fields: []Field{{Off: 0, Len: 7, Comment: "field [open]"}}},
		{File: "x", Name: "two", FromServer: true, Bytes: []byte{0}, Fields: []Field{{Len: 1, Comment: "[guess]", Guess: true}}},
	}, set)
	for _, bad := range []string{
		"01 # [open]", "-> a\n", "-> a\n01 # [open]\n-> a\n01 # [open]", "->\n01 # [open]", "-> a\n1 # [open]", "-> a\n0101 # [open]",
		"-> a\nzz # [open]", "-> a\n01", "-> a\n01 # no source", "-> a\n\"x # [open]", "-> a\n00*0 # [open]", "-> a\n00*1048577 # [open]",
		"-> a\n00*1048576 00 # [open]", "-> a\n00*x # [open]",
	} {
		_, err := Parse("x", bad)
		require.ErrorContains(t, err, "x.txt", bad)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-> one\n01 \"a\" ff*3 # field [open]\n")
	f.Fuzz(func(t *testing.T, text string) {
		set, err := Parse("x", text)
		if err == nil {
			for _, m := range set {
				require.LessOrEqual(t, len(m.Bytes), maxMessage)
			}
		}
	})
}
