package lockline

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRequests(t *testing.T) {
	for _, q := range []Request{{Verb: "now"}, {Verb: "locked", Name: "pack/7f/a"}, {Verb: "lock", Until: 1900000000, Name: "header"}} {
		got, err := ParseRequest(q.String())
		require.NoError(t, err)
		assert.Equal(t, q, got)
	}
	for _, line := range []string{"", "now ", "lock", "locked ../etc/shadow", "locked .lockd", "locked a b", "lock -1 a", "lock +1 a", "lock 01 a",
		"lock 99999999999999 a", "lock 1 /a", "lock 1 a/../b", "unlock a", "LOCK 1 a", "locked A"} {
		_, err := ParseRequest(line)
		require.ErrorIs(t, err, fs.ErrInvalid, line)
	}
}

func TestAnswers(t *testing.T) {
	for kind, e := range Kinds {
		_, err := ParseAnswer(Answer(0, fmt.Errorf("pack/a\nok 1: %w", e)))
		require.ErrorIs(t, err, e, kind)
	}
	n, err := ParseAnswer(Answer(7, nil))
	require.NoError(t, err)
	assert.EqualValues(t, 7, n)
	long := Answer(0, errors.New(strings.Repeat("x", 9999)))
	assert.Less(t, len(long), MaxLine)
	for _, line := range []string{"", "ok", "ok x", "no", "no absent", "yes 1"} {
		_, err := ParseAnswer(line)
		require.Error(t, err, line)
	}
}

func TestLongLine(t *testing.T) {
	rd := bufio.NewReaderSize(strings.NewReader(strings.Repeat("x", MaxLine)+"\n"), MaxLine)
	_, err := ReadLine(rd)
	require.ErrorIs(t, err, fs.ErrInvalid)
}
