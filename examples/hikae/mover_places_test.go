package main

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What was most likely meant as a mover's URL is told from other places (R020).
func TestMeantMover(t *testing.T) {
	for _, place := range []string{"movr://h/n", "MOVER://h/n", "Mover://h", "mover:/h/n", "moover://h", "movre://h", "omver://h", "mover1://h", "nover://h"} {
		assert.True(t, meantMover(place), place)
		var usage error = notMover(place)
		assert.Contains(t, usage.Error(), place)
	}
	for _, place := range []string{"mover://h/n", "smb://h/s", "/srv/mover", "mover", "./mover:/x/y", `C:\mover`, "C:/mover", "s3://b", "remove://h", "", ":", "://", "mo://h"} {
		assert.False(t, meantMover(place), place)
	}
}

// Cobra's words on groups of flags are said again as people would.
func TestFlagGroupsInPlainWords(t *testing.T) {
	for words, want := range map[string]string{
		`required flag(s) "repo", "to" not set`:                                                                             "--repo is missing",
		"at least one of the flags in the group [repo source] is required":                                                  "--repo or --source is missing",
		"if any flags in the group [limit limit-file] are set none of the others can be; [limit limit-file] were all set":   "only one of --limit and --limit-file may be given",
		"if any flags in the group [metrics metrics-token-file] are set they must all be set; missing [metrics-token-file]": "--metrics and --metrics-token-file are given together, or none of them",
		"if any flags in the group [a b c] are set none of the others can be; [a c] were all set":                           "only one of --a and --c may be given",
		"unknown flag: --x": "unknown flag: --x",
	} {
		assert.EqualError(t, inPlainWords(errors.New(words)), want)
	}
}

// A token that is given as an argument is in no error: errors are kept in logs.
func TestTokenIsNotEchoed(t *testing.T) {
	err := want("HOST")(nil, []string{"h", "hikae-token-1-secret"})
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "secret")
	assert.Contains(t, want("HOST")(nil, []string{"h", "x"}).Error(), `"x"`)
}
