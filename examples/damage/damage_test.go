package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(child(dir))
	}
	goleak.VerifyTestMain(m)
}

// Every way of docs/trust.md, over some seeds: all of it is repaired, or exactly what is lost is named (hazards H29, H34, H38, H39,
// H40, H45; laws a to e).
func TestEveryWay(t *testing.T) {
	seeds, rounds := 1, len(ways)
	switch os.Getenv("HIKAE_TEST_TIER") {
	case "long":
		seeds = 10
	case "release":
		seeds = 100
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			var out, log bytes.Buffer
			status := run(t.Context(), []string{"-seed", fmt.Sprint(seed), "-rounds", fmt.Sprint(rounds)}, &out, &log)
			require.Zero(t, status, "%s%s", out.String(), log.String())
			for _, name := range names() {
				require.Contains(t, out.String(), ", "+name+": ")
			}
			require.Contains(t, out.String(), "repaired: ")
			require.Contains(t, out.String(), "lost")
		})
	}
}

// The same seed does the same damage.
func TestSeedIsAll(t *testing.T) {
	l, err := newLab(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, l.close()) }()
	var first string
	for range 2 {
		dir := t.TempDir() + "/repo"
		require.NoError(t, copyTree(l.pristine, dir))
		var out, log bytes.Buffer
		require.Zero(t, run(t.Context(), []string{"-hit", dir, "-seed", "5"}, &out, &log), log.String())
		if first == "" {
			first = out.String()
		}
		require.Equal(t, first, out.String())
		require.Greater(t, strings.Count(first, "\n"), 1)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"-way", "prayer"}, {"extra"}, {"-nothing"}} {
		var out, log bytes.Buffer
		require.Equal(t, 2, run(t.Context(), args, &out, &log), "%v", args)
		require.NotEmpty(t, log.String())
	}
	var out, log bytes.Buffer
	require.Equal(t, 1, run(t.Context(), []string{"-hit", t.TempDir()}, &out, &log))
	require.Equal(t, 1, run(t.Context(), []string{"-hit", t.TempDir(), "-way", "kill"}, &out, &log))
}
