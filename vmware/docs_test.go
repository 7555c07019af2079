package vmware

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The page has the table of privileges as it is in the code, row by row, and names every transport and parameter.
func TestPage(t *testing.T) {
	data, err := os.ReadFile("../docs/vmware.md")
	require.NoError(t, err)
	page := string(data)
	rows := 0
	for _, p := range Privileges() {
		require.Contains(t, page, fmt.Sprintf("| `%s` | %s | %s | %s |\n", p.ID, p.Name, p.On, strings.Join(p.For, ", ")))
		rows++
	}
	_, table, _ := strings.Cut(page, "\n## Privileges\n")
	table, _, _ = strings.Cut(table, "\n## ")
	require.Equal(t, rows, strings.Count(table, "\n| `"), "a row is there that the code does not have")
	for _, name := range allTransports {
		require.Contains(t, page, "\n| `"+name+"` | ")
	}
	for _, name := range parameters {
		require.True(t, strings.Contains(page, name+"="), "parameter %s", name)
	}
}
