package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"1": 1, "4096": 4096, "256KiB": 256 << 10, "256kib": 256 << 10, "1.5 MiB": 3 << 19, "64K": 64 << 10, "2M": 2 << 20,
		"1GB": 1e9, "10 b": 10, "100Mbit": 12_500_000, "3TiB": 3 << 40,
	} {
		got, err := parseSize(s)
		require.NoError(t, err, s)
		assert.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "0", "-1", "K", "x", "1 K B", "NaN", "Inf", "1e3", "0x10", "1_000", "99999999999T", "5KiBs"} {
		_, err := parseSize(s)
		assert.Error(t, err, s)
	}
	rate, err := parseRate(" 50MiB/s ")
	require.NoError(t, err)
	assert.EqualValues(t, 50<<20, rate)
}

func TestParseShares(t *testing.T) {
	for s, want := range map[string]int{"3%": 30, "0.1%": 1, "50%": 500, "2.55%": 26} {
		got, err := parseParity(s)
		require.NoError(t, err, s)
		assert.Equal(t, want, got, s)
	}
	for s, want := range map[string]float64{"": 0, "all": 100, "5%": 5, "0.01%": 0.01, "100%": 100} {
		got, err := parseShare(s)
		require.NoError(t, err, s)
		assert.Equal(t, want, got, s)
	}
}

func TestShortIDs(t *testing.T) {
	points := []pipe.PointInfo{{ID: "0123456789abcdef"}, {ID: "0123456789abcdee"}, {ID: "f"}}
	assert.Equal(t, []string{"0123456789abcdef", "0123456789abcdee", "f"}, shortIDs(points))
	assert.Equal(t, []string{"0123456789ab"}, shortIDs(points[:1]))
	assert.Len(t, shortIDs([]pipe.PointInfo{{ID: "same"}, {ID: "same"}}), 2)
	assert.Empty(t, shortIDs(nil))
}
