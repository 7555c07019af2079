//go:build linux

package apps

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/apps/appstest"
)

// script is a client that a shell plays: it reads statement and token.
func script(t *testing.T, body string) *client {
	t.Helper()
	c, err := start(command{path: "/bin/sh", args: []string{"-c", body}, env: []string{"PATH=/usr/bin:/bin"},
		echo: func(token string) string { return token }})
	require.NoError(t, err)
	t.Cleanup(c.close)
	return c
}

// What a server, or somebody in its place, may answer: each is an error, soon, in few words.
func TestHostileAnswers(t *testing.T) {
	for name, c := range map[string]struct{ body, words string }{
		"endless lines":           {"read -r a; exec yes", "more than 1048576 bytes"},
		"one endless line":        {"read -r a; exec tr '\\0' x </dev/zero", "more than 1048576 bytes"},
		"silence":                 {"exec sleep 60", "no answer in time"},
		"silence of a child":      {"sleep 60 & wait", "no answer in time"},
		"no reading":              {"exec 0<&-; exec sleep 60", "the session has ended"},
		"an end":                  {"exit 3", "exit status 3"},
		"an error with controls":  {`printf 'ERROR:  \033[2Jred\007\n' ; exit 1`, "ERROR: [2Jred"},
		"a token of its own":      {"echo TOKEN; exec sleep 60", "no answer in time"},
		"an error without an end": {`printf 'ERROR:  x'; exec sleep 60`, "ERROR: x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := script(t, c.body)
			limit := 300 * time.Millisecond
			if strings.HasPrefix(c.words, "more than") {
				limit = 10 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			began := time.Now()
			_, err := k.ask(ctx, "SELECT 1")
			require.ErrorContains(t, err, c.words)
			require.Less(t, len(err.Error()), 2000)
			_, err = k.ask(t.Context(), "SELECT 1")
			require.Error(t, err) // it has ended
			k.close()
			require.Less(t, time.Since(began), limit+4*time.Second)
			select {
			case <-k.gone:
			default:
				require.Fail(t, "the client is still there")
			}
		})
	}
}

func TestClientKeepsOrder(t *testing.T) {
	k := script(t, `while read -r line; do echo "$line" | sed 's/;$//'; done`)
	for _, sql := range []string{"a", "b c", "d\te"} {
		lines, err := k.ask(t.Context(), sql)
		require.NoError(t, err)
		require.Equal(t, []string{sql}, lines)
	}
	require.Panics(t, func() { _, _ = k.ask(t.Context(), "two\nlines") })
}

func TestWords(t *testing.T) {
	require.Equal(t, "a b", clean(" a\r\n\tb\x00\u202e ", 10))
	require.Equal(t, "aé…", clean("aéé", 4))
	require.Equal(t, "a?", clean("a\xff", 10))
	require.Equal(t, "hikae", label(" "))
	require.Len(t, label(strings.Repeat("x", 1000)), 200)
	quoted, err := literal("it's")
	require.NoError(t, err)
	require.Equal(t, "'it''s'", quoted)
	for _, bad := range []string{`\`, "\n", "\x00", "\xff", strings.Repeat("x", 1025)} {
		_, err := literal(bad)
		require.Error(t, err)
	}
}

func TestInstanceNames(t *testing.T) {
	require.Equal(t, "15-main", nameOf("/var/lib/postgresql/15/main"))
	require.Equal(t, "mysql", nameOf("/var/lib/mysql"))
	seen := map[string]bool{}
	for _, folder := range []string{"/srv/a/b", "/srv/a-b", "/srv/a b", "/srv/a\x01b", "/srv/" + strings.Repeat("x", 300), "/srv/" + strings.Repeat("x", 301)} {
		name := nameOf(folder)
		require.False(t, seen[name], name)
		require.Regexp(t, `^[A-Za-z0-9._-]{1,64}$`, name)
		seen[name] = true
	}
	a, b := nameOf("/var/lib/postgresql/15/main"), nameOf("/var/lib/pgsql/15/main")
	distinct([]*string{&a, &b}, []string{"/var/lib/postgresql/15/main", "/var/lib/pgsql/15/main"})
	require.NotEqual(t, a, b)
}

// A program that others could have exchanged is not run, a file that others could have written not read.
func TestTrust(t *testing.T) {
	require.True(t, trusted("/bin/sh", 0))
	appstest.NeedRoot(t)
	dir := appstest.Dir(t)
	path := filepath.Join(dir, "psql")
	appstest.Write(t, path, []byte("#!/bin/sh\n"))
	require.NoError(t, os.Chmod(path, 0o755))
	require.True(t, trusted(path, 0))
	require.True(t, private(path, 0))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(path, link))
	require.True(t, trusted(link, 0))
	require.False(t, private(link, 0))
	require.NoError(t, os.Chown(path, 12345, 12345))
	require.False(t, trusted(path, 0))
	require.True(t, trusted(path, 12345))
	require.NoError(t, os.Chown(path, 0, 0))
	require.NoError(t, os.Chmod(path, 0o775))
	require.False(t, trusted(path, 0))
	require.NoError(t, os.Chmod(path, 0o755))
	require.NoError(t, os.Chmod(dir, 0o777))
	require.False(t, trusted(path, 0))
	require.NoError(t, os.Chmod(dir, 0o711))
}
