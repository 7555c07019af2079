package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestTellsTheStory runs the whole main job (R005 R006 R007 R013 R014 R016 R019 R020 R022 R023 R174).
func TestTellsTheStory(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Setenv("TMP", tmp) // Windows
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, 16<<20, false))
	for _, want := range []string{
		`1\. A fake vSphere`, `passphrase, made up for this run, is [a-z2-7]{16}`, `3\. The first backup: point [0-9a-f]{12}`,
		`all is well`, `README.TXT: "A sample disk`, `restored-day-1 .* identical`, `restored-day-2 .* identical`, `of changed blocks`, `report\.html`, `hikae restore`,
		`(?i)busy share`,
	} {
		assert.Regexp(t, regexp.MustCompile(want), out.String())
	}
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	assert.Empty(t, left, "the folder was not removed")
}

func TestKeeps(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Setenv("TMP", tmp)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, 8<<20, true))
	kept, err := filepath.Glob(filepath.Join(tmp, "*", "repository", "header"))
	require.NoError(t, err)
	assert.Len(t, kept, 1)
	assert.Contains(t, out.String(), "--name sample "+filepath.Dir(filepath.Dir(kept[0])))
}

// TestInterrupted leaves nothing behind.
func TestInterrupted(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Setenv("TMP", tmp)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, run(ctx, &bytes.Buffer{}, 8<<20, false), context.Canceled)
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	assert.Empty(t, left)
	assert.Error(t, run(t.Context(), &bytes.Buffer{}, 1, false), "a disk of one byte")
}
