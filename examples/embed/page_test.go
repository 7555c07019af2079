package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pagePackages are what the code of docs/embedding.md may use, by the name that stands before the dot.
var pagePackages = map[string]string{
	"context": "context", "errors": "errors", "fmt": "fmt", "hikae": ours, "job": ours + "/job", "engine": ours + "/job/engine",
	"metrics": ours + "/job/metrics", "tracing": ours + "/job/tracing", "repo": ours + "/repo", "dirstore": ours + "/repo/store/dirstore",
	"vmware": ours + "/vmware", "trace": "go.opentelemetry.io/otel/trace",
}

const ours = "github.com/hikae/hikae"

// The code of docs/embedding.md compiles, and what its table of errors names is there.
func TestPageCompiles(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("needs the go command")
	}
	data, err := os.ReadFile("../../docs/embedding.md")
	require.NoError(t, err)
	page := strings.ReplaceAll(string(data), "\r\n", "\n")
	blocks := regexp.MustCompile("(?s)\n```go\n(.*?)\n```").FindAllStringSubmatch(page, -1)
	require.GreaterOrEqual(t, len(blocks), 7)
	var body strings.Builder
	for _, b := range blocks {
		body.WriteString(b[1] + "\n\n")
	}
	_, table, ok := strings.Cut(page, "\n## Errors to act on\n")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n## ")
	named := regexp.MustCompile("`(\\*?)((?:hikae|job|repo|vmware|engine)\\.[A-Z]\\w+)`").FindAllStringSubmatch(table, -1)
	require.GreaterOrEqual(t, len(named), 15)
	for _, n := range named {
		if n[1] == "*" {
			fmt.Fprintf(&body, "var _ error = (*%s)(nil)\n", n[2])
		} else {
			fmt.Fprintf(&body, "var _ error = %s\n", n[2])
		}
	}
	program := "package main\n\nimport (\n"
	for name, path := range pagePackages {
		if regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(body.String()) {
			program += "\t" + name + ` "` + path + "\"\n"
		}
	}
	program += ")\n\nfunc main() {}\n\n" + body.String()
	file := filepath.Join(t.TempDir(), "page.go")
	require.NoError(t, os.WriteFile(file, []byte(program), 0o600))
	out, err := exec.CommandContext(t.Context(), goTool, "vet", file).CombinedOutput()
	assert.NoError(t, err, "%s\n%s", out, program)
}

// Pages and programs that the page leads to are there.
func TestPageLinks(t *testing.T) {
	for _, name := range []string{"docs/embedding.md", "README.md"} {
		data, err := os.ReadFile(filepath.Join("../..", name))
		require.NoError(t, err)
		links := regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(string(data), -1)
		require.NotEmpty(t, links)
		for _, l := range links {
			_, err := os.Stat(filepath.Join("../..", filepath.Dir(name), l[1]))
			assert.NoError(t, err, "%s leads to %s", name, l[1])
		}
	}
}
