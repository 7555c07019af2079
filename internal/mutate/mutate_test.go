package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const subject = `package subject

func Newest(list []int) (best int) {
	for _, n := range list {
		if n > best {
			best = n
		}
	}
	return best
}

func Unasked(a, b bool) bool { return a && b }
`

const asks = `package subject

import "testing"

func TestNewest(t *testing.T) {
	if Newest([]int{1, 3, 2}) != 3 || Newest(nil) != 0 {
		t.Fatal("wrong")
	}
}
`

// Each decision is found once, and what no test asks about survives.
func TestMutants(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "subject.go")
	for name, text := range map[string]string{"go.mod": "module subject\n\ngo 1.26\n", "subject.go": subject, "subject_test.go": asks} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	list, err := mutantsOf(path)
	require.NoError(t, err)
	require.Len(t, list, 3, "a comparison, the if around it, and the conjunction")
	t.Chdir(dir)
	fates := map[string]fate{}
	for _, m := range list {
		m.path = "subject.go"
		fate, err := try(t.Context(), settings{timeout: 20 * time.Second}, m)
		require.NoError(t, err)
		fates[strings.Fields(m.what)[0]] = fate
	}
	require.Equal(t, map[string]fate{">": survived, "if": killed, "&&": survived}, fates, "> and >= give the same greatest number")
	require.Equal(t, "1 killed, 2 survived (33 %), 0 do not compile", tally{1, 2, 0}.String())
}
