package record

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestSegmentNames(t *testing.T) {
	for _, c := range []struct {
		n, size int64
		name    string
	}{
		{0, 16 << 20, "000000010000000000000000"},
		{255, 16 << 20, "0000000100000000000000FF"},
		{256, 16 << 20, "000000010000000100000000"},
		{4095, 1 << 20, "000000010000000000000FFF"},
		{4096, 1 << 20, "000000010000000100000000"},
		{5, 1 << 30, "000000010000000100000001"},
	} {
		require.Equal(t, c.name, SegmentName("00000001", c.n, c.size))
		n, err := SegmentNumber(c.name, c.size)
		require.NoError(t, err)
		require.Equal(t, c.n, n)
	}
	for _, bad := range []string{"", "00000001000000000000010G", "000000010000000000000100.partial", "000000010000000000000100"} {
		_, err := SegmentNumber(bad, 16<<20) // the last one: there are 256 segments of 16 MiB, so it ends at FF
		require.Error(t, err, bad)
	}
	require.True(t, IsHistory("0000000A.history"))
	require.False(t, IsHistory("0000000a.history"))
}

func TestSegmentNumbersGoRound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := int64(1) << rapid.IntRange(20, 30).Draw(t, "bits")
		n := rapid.Int64Range(0, 1<<62/size).Draw(t, "n")
		if n/((1<<32)/size) > 1<<32-1 {
			t.Skip("beyond the log's end")
		}
		back, err := SegmentNumber(SegmentName("00000002", n, size), size)
		require.NoError(t, err)
		require.Equal(t, n, back)
	})
}

func TestLSN(t *testing.T) {
	n, err := ParseLSN("1/A0000028")
	require.NoError(t, err)
	require.EqualValues(t, 1<<32|0xA0000028, n)
	for _, bad := range []string{"", "1", "/", "1/", "g/0", "1/100000000", "80000000/0", "-1/0"} {
		_, err := ParseLSN(bad)
		require.Error(t, err, bad)
	}
}

func TestBinlogNumber(t *testing.T) {
	base, n, ok := BinlogNumber("web-1.bin.0000042")
	require.True(t, ok)
	require.Equal(t, "web-1.bin", base)
	require.EqualValues(t, 42, n)
	for _, bad := range []string{"bin.1", "bin.00000x", "../bin.000001", ".000001", "bin.index", "bin", "bin." + strings.Repeat("9", 20)} {
		_, _, ok := BinlogNumber(bad)
		require.False(t, ok, bad)
	}
}
