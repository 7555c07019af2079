package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

func tokenAt(t *testing.T, at *standing, name string, role trust.Role) trust.Token {
	t.Helper()
	token, err := at.book.AddToken(at.id.Pin(), name, role, time.Hour)
	require.NoError(t, err)
	return token
}

func tokenFile(t *testing.T, token trust.Token) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(token.String()), 0o600))
	return file
}

// Whatever enrols at once with one token: the key that the mover took lies on this machine, in the place of its name.
func TestEnrolAtOnceKeepsTheKey(t *testing.T) {
	at := stand(t, mover.ServerOptions{Source: &images{}})
	for range 8 {
		state := t.TempDir()
		token := tokenAt(t, at, "site-a", trust.Append)
		var wg sync.WaitGroup
		errs := make([]error, 3)
		for i := range errs {
			wg.Go(func() { _, errs[i] = bringToken(context.Background(), at.address, token, state, "") })
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err, "the token was brought again by the machine that it was used by")
		}
		peers, err := at.book.Peers()
		require.NoError(t, err)
		mine, err := trust.FindIdentity(filepath.Join(addressDir(state, at.address), "site-a"))
		require.NoError(t, err)
		require.Equal(t, peers[0].Pin, mine.Pin())
		require.NoError(t, at.book.Revoke("site-a"))
		_, err = bringToken(t.Context(), at.address, token, state, "")
		require.ErrorIs(t, err, trust.ErrRefused, "an enrolment that was taken back is none")
	}
}

// A kill between the mover's book and this machine's own notes: the token, brought again, finds name, role and mode.
func TestEnrolAfterLostAnswer(t *testing.T) {
	at, m := stand(t, mover.ServerOptions{Source: &images{}}), newMachine(t)
	token := tokenAt(t, at, "desk", trust.Full)
	once, err := token.Identity()
	require.NoError(t, err)
	mine, err := trust.LoadIdentity(filepath.Join(addressDir(m.env["HIKAE_STATE_DIR"], at.address), tokenFolder+once.Pin().Short()))
	require.NoError(t, err)
	_, err = at.book.Enrol(once.Pin(), mine.PublicKey(), "")
	require.NoError(t, err)

	text := m.must(t, "mover", "enrol", at.address, "--token-file", tokenFile(t, token), "--json")
	var doc enrolDoc
	require.NoError(t, json.Unmarshal([]byte(text), &doc))
	require.Equal(t, enrolDoc{URL: "mover://" + at.address + "/desk", Name: "desk", Role: "full", Mode: "source"}, doc)
}

// What a mover answers becomes the name of a folder and decides what is opened: it is looked at before it is kept.
func TestEnrolChecksTheAnswer(t *testing.T) {
	for what, answer := range map[string]wire.Enrolled{
		"no name":     {Name: "", Role: "append", Mode: "trusted"},
		"a path":      {Name: "../../for", Role: "append", Mode: "trusted"},
		"no role":     {Name: "owner", Role: "root", Mode: "trusted"},
		"no mode":     {Name: "owner", Role: "append", Mode: ""},
		"an escape":   {Name: "owner", Role: "append", Mode: "\x1b]0;owned\x07\x1b[2Jtrusted"},
		"other's key": {Name: "owner", Role: "append", Mode: "trusted"},
	} {
		t.Run(what, func(t *testing.T) {
			at, m := standHostile(t, func(wire.Message) (wire.Message, error) { return &answer, nil }), newMachine(t)
			// the enrolment at another mover, which had that address before
			other := filepath.Join(addressDir(m.env["HIKAE_STATE_DIR"], at.address), "owner")
			was, err := trust.LoadIdentity(other)
			require.NoError(t, err)
			require.NoError(t, keepEnrolment(other, enrolment{Address: at.address, Name: "owner", Role: "full", Mode: "blind", Server: was.Pin().String()}))

			status, text := m.run(t, "mover", "enrol", at.address, "--token-file", tokenFile(t, tokenAt(t, at, "x", trust.Append)))
			require.Equal(t, outcome.Failed, status, text)
			require.NotContains(t, text, "\x1b")
			now, err := trust.FindIdentity(other)
			require.NoError(t, err)
			require.Equal(t, was.Pin(), now.Pin())
			if what == "other's key" {
				require.Contains(t, text, "remove the folder "+other)
				require.NoError(t, os.RemoveAll(other))
			}
		})
	}
}

// An enrolment anew, after the name was taken back, replaces the older one and inherits its writer's key. What enrolments
// left that never came to an end goes with the next one.
func TestEnrolAnewInheritsAndTidies(t *testing.T) {
	at, m := stand(t, mover.ServerOptions{Source: &images{}}), newMachine(t)
	m.enrolled(t, at, enrolment{Name: "site-a", Role: "append", Mode: "blind"})
	dir := addressDir(m.env["HIKAE_STATE_DIR"], at.address)
	require.NoError(t, trust.WriteFile(filepath.Join(dir, "site-a"), writerKeyFile, []byte("a key")))
	require.NoError(t, at.book.Revoke("site-a"))
	stale, fresh := filepath.Join(dir, tokenFolder+"0123"), filepath.Join(dir, tokenFolder+"4567")
	require.NoError(t, os.MkdirAll(stale, 0o700))
	require.NoError(t, os.MkdirAll(fresh, 0o700))
	long := time.Now().Add(-31 * 24 * time.Hour)
	require.NoError(t, os.Chtimes(stale, long, long))

	m.must(t, "mover", "enrol", at.address, "--token-file", tokenFile(t, tokenAt(t, at, "site-a", trust.Append)))
	key, err := os.ReadFile(filepath.Join(dir, "site-a", writerKeyFile))
	require.NoError(t, err)
	require.Equal(t, "a key", string(key))
	require.NoDirExists(t, stale)
	require.DirExists(t, fresh)
	require.NoDirExists(t, filepath.Join(dir, oldFolder+"site-a"))
	m.must(t, "mover", "status", "mover://"+at.address+"/site-a")
}

// A writer's key is given to an enrolment that is there; where there are several, somebody says which.
func TestEnrolGivesWriterKey(t *testing.T) {
	at, m := stand(t, mover.ServerOptions{Source: &images{}}), newMachine(t)
	file := writerKeyIn(t)
	give := []string{"mover", "enrol", at.address, "--writer-key", file}
	status, text := m.run(t, give...)
	require.Equal(t, outcome.Misused, status)
	require.Contains(t, text, "not enrolled at "+at.address)

	dir := m.enrolled(t, at, enrolment{Name: "site-a", Role: "append", Mode: "blind"})
	m.enrolled(t, at, enrolment{Name: "owner", Role: "full", Mode: "blind"})
	require.Contains(t, m.must(t, give...), "enrolled as site-a")
	require.FileExists(t, filepath.Join(dir, writerKeyFile))

	second := m.enrolled(t, at, enrolment{Name: "site-b", Role: "append", Mode: "blind"})
	status, text = m.run(t, give...)
	require.Equal(t, outcome.Failed, status)
	require.Contains(t, text, "site-a, site-b")
	require.NoFileExists(t, filepath.Join(second, writerKeyFile))
	m.must(t, "mover", "enrol", "mover://"+at.address+"/site-b", "--writer-key", file)
	require.FileExists(t, filepath.Join(second, writerKeyFile))

	status, text = m.run(t, "mover", "enrol", "mover://"+at.address+"/site-b", "--writer-key", tokenFile(t, tokenAt(t, at, "x", trust.Append)))
	require.Equal(t, outcome.Misused, status, text)
}

func writerKeyIn(t *testing.T) string {
	t.Helper()
	r, err := repo.Init(t.Context(), memstore.New(nil), repo.KeyFile([32]byte{1}), nil, nil)
	require.NoError(t, err)
	defer r.Close()
	key, err := r.EnrolWriter(t.Context(), []string{"web1"})
	require.NoError(t, err)
	data, err := key.MarshalText()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "writer.key")
	require.NoError(t, os.WriteFile(file, data, 0o600))
	return file
}

// A mover that never answers keeps nobody longer than the command's deadline.
func TestEnrolEnds(t *testing.T) {
	end := make(chan struct{})
	at := standHostile(t, func(wire.Message) (wire.Message, error) { <-end; return &wire.OK{}, nil })
	t.Cleanup(func() { close(end) }) // before the mover's own
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := bringToken(ctx, at.address, tokenAt(t, at, "x", trust.Append), t.TempDir(), "")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// Names are folders on every system.
func TestFolderName(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"con", "nul", "aux", "prn", "com1", "lpt9.x", "com", "com10", "console", "CON", "site-a", "site_a", "Site-a", "a.b", "a.", ".a", "..",
		"127.0.0.1:7420", "[::1]:7420", "/srv/" + string(make([]byte, 300)) + "a", "/srv/" + string(make([]byte, 300)) + "b"} {
		got := folderName(name)
		require.Empty(t, seen[got], "%q and %q", name, seen[got])
		seen[got] = name
		require.Regexp(t, `^[a-z0-9_-]([a-z0-9._-]*[a-z0-9_-])?$`, got)
		require.LessOrEqual(t, len(got), 255-len("blind-"))
		require.False(t, isDevice(got), got)
	}
	require.Equal(t, "site-a", folderName("site-a"))
	require.Equal(t, "127.0.0.1_3a7420", folderName("127.0.0.1:7420"))
}
