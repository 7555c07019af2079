package hyperv

import (
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who reads docs/hyperv.md finds every parameter that an address takes, and every procedure and mode.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../docs/hyperv.md")
	require.NoError(t, err)
	for _, name := range slices.Concat(repeatable, flags, single, []string{"smb.NODE", "node.NODE"}) {
		require.Contains(t, string(page), "`"+name+"=", "parameter %s", name)
	}
	for _, p := range Procedures {
		require.Contains(t, string(page), "### `"+string(p)+"`")
	}
	for _, m := range Modes {
		require.Contains(t, string(page), "`"+string(m)+"`")
	}
}
