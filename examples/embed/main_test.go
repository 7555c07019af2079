package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/fatdisk"
)

// TestMain lets this test binary be the program.
func TestMain(m *testing.M) {
	if os.Getenv("EMBED_IS_MAIN") == "1" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func embed(t *testing.T, args ...string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "EMBED_IS_MAIN=1", "GORACE=atexit_sleep_ms=0", "HIKAE_PASSWORD=a passphrase")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestBacksUpAndRestores(t *testing.T) {
	dir := t.TempDir()
	disk, restored := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "restored.raw")
	d, err := fatdisk.Sample(disk, 24<<20, 5)
	require.NoError(t, err)
	require.NoError(t, d.Close())

	out, err := embed(t, disk, filepath.Join(dir, "repository"), restored)
	require.NoError(t, err, out)
	assert.Contains(t, out, "point ")

	want, err := os.ReadFile(disk)
	require.NoError(t, err)
	got, err := os.ReadFile(restored)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want, got), "the restored disk differs")

	out, err = embed(t, disk, filepath.Join(dir, "repository"), filepath.Join(dir, "again.raw"))
	assert.Error(t, err, "a repository must not be made over another: %s", out)
}

// TestIsSmall holds what the README promises.
func TestIsSmall(t *testing.T) {
	src, err := os.ReadFile("main.go")
	require.NoError(t, err)
	_, body, ok := strings.Cut(string(src), "\tctx, disk")
	require.True(t, ok)
	body, _, ok = strings.Cut(body, "\n}\n")
	require.True(t, ok)
	assert.LessOrEqual(t, strings.Count(body, "\n")+1, 22)
}

// TestReadmeShowsThisProgram compares the program in the README with this one.
func TestReadmeShowsThisProgram(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("there is no README.md yet")
	}
	require.NoError(t, err)
	src, err := os.ReadFile("main.go")
	require.NoError(t, err)
	program := goProgram(string(readme))
	require.NotEmpty(t, program, "README.md shows no Go program")
	assert.Equal(t, strings.TrimSpace(string(src)), program)
}

// goProgram is the first block of Go in a page of Markdown that is a whole program.
func goProgram(markdown string) string {
	markdown = strings.ReplaceAll(markdown, "\r\n", "\n")
	for _, block := range strings.Split(markdown, "\n```go\n")[1:] {
		code, _, closed := strings.Cut(block, "\n```")
		if closed && strings.Contains(code, "\npackage main\n") || strings.HasPrefix(code, "package main\n") {
			return strings.TrimSpace(code)
		}
	}
	return ""
}

func TestGoProgram(t *testing.T) {
	page := "# x\n```go\nrepo.Open()\n```\ntext\n```go\n// Doc.\npackage main\n\nfunc main() {}\n```\nmore\n"
	assert.Equal(t, "// Doc.\npackage main\n\nfunc main() {}", goProgram(page))
	assert.Empty(t, goProgram("# nothing"))
}
