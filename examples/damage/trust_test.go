package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTrustNamesWhatExists holds docs/trust.md against the tree: each of the fifty hazards has its row, each row a test, and every
// test that the page names is there.
func TestTrustNamesWhatExists(t *testing.T) {
	top := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(top, "docs", "trust.md"))
	require.NoError(t, err)
	there := tests(t, top)
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`")
	for _, m := range named.FindAllStringSubmatch(string(text), -1) {
		require.True(t, there[m[1]], "%s is named and is nowhere", m[1])
	}
	for n := 1; n <= 50; n++ {
		row := regexp.MustCompile(fmt.Sprintf(`(?m)^\| H%02d \|.*$`, n)).FindString(string(text))
		require.NotEmpty(t, row, "H%02d", n)
		require.True(t, named.MatchString(row) || strings.Contains(row, "Cannot happen: "), row)
	}
	for n := 1; n <= 6; n++ {
		require.Regexp(t, fmt.Sprintf("(?m)^\\| %d .*`Test", n), string(text))
	}
	for _, w := range ways {
		require.True(t, strings.Contains(string(text), strings.ReplaceAll(w.name, "-", " ")), "the page does not invite to %s", w.name)
	}
}

// tests are the names of all tests of the tree.
func tests(t *testing.T, top string) map[string]bool {
	names := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]+)\(`)
	require.NoError(t, filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		for _, m := range function.FindAllStringSubmatch(string(b), -1) {
			names[m[1]] = true
		}
		return err
	}))
	return names
}
