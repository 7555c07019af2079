package jobfile

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The files that the guide shows are good, and its table names every field that there is.
func TestGuide(t *testing.T) {
	text, err := os.ReadFile("../../docs/jobs.md")
	require.NoError(t, err)
	found := 0
	for _, part := range strings.Split(string(text), "```yaml\n")[1:] {
		file, _, ok := strings.Cut(part, "```")
		require.True(t, ok)
		_, err := Parse("docs/jobs.md", []byte(file))
		require.NoError(t, err)
		found++
	}
	require.Equal(t, 2, found)
	for name := range fieldsOf(reflect.TypeFor[File]()) {
		require.Contains(t, string(text), "`"+name, "the table of fields")
	}
}
