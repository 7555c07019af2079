package smbtest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSplitCommand(t *testing.T) {
	for line, want := range map[string][]string{
		`"C:\a b\x.exe" pipe --name n`: {`C:\a b\x.exe`, "pipe", "--name", "n"},
		`a "" b`:                       {"a", "", "b"},
		`a "b \"c\" d\\" e`:            {"a", `b "c" d\`, "e"},
		`a\\b c\`:                      {`a\\b`, `c\`},
	} {
		got, err := SplitCommand(line)
		require.NoError(t, err, line)
		require.Equal(t, want, got, line)
	}
	for _, bad := range []string{"", `"a`, "  "} {
		_, err := SplitCommand(bad)
		require.Error(t, err, "%q", bad)
	}
}
