package main

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

const name = "hikae-aaaabbbbccccdddd"

func TestUsage(t *testing.T) {
	dir := filepath.Join(os.TempDir(), name) // it is never there
	for _, bad := range [][]string{
		nil, {"dance"}, {"pipe"}, {"pipe", "--name", name}, {"pipe", "--dir", dir}, {"pipe", "--name", "x y", "--dir", dir},
		{"pipe", "--name", name, "--dir", os.TempDir()}, {"pipe", "--name", name, "--dir", name}, {"pipe", "--name", name, "--dir", dir, "more"},
		{"pipe", "--secret", "x"},
	} {
		require.Equal(t, 2, run(t.Context(), bad), "%q", bad)
	}
	require.Equal(t, 0, run(t.Context(), []string{"version"}))
	if runtime.GOOS != "windows" {
		require.Equal(t, 1, run(t.Context(), []string{"pipe", "--name", name, "--dir", dir, "--service"}), "there is no service to ask here")
	}
}
