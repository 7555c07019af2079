package sqlserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/wire"
)

// As many logs are listed as one message has room for, the oldest first.
func TestManyLogsAreListedInParts(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var logs []wire.Log
	for i := range maxWaiting - 1 {
		logs = append(logs, wire.Log{Name: fileName(strings.Repeat("x", 32), now.Add(time.Duration(i)*time.Second)), Size: 1 << 40, Time: now.Format(time.RFC3339)})
	}
	some := fitting(logs)
	require.Greater(t, len(some), 3000)
	require.Equal(t, logs[0], some[0])
	_, err := wire.Encode(wire.LogsAnswer{Logs: some, Gap: strings.Repeat("x", maxGap)})
	require.NoError(t, err)
}

// The server has written the log, and cut its own; the answer is lost. The file may be the only copy: it is kept, and is
// a log when the server finds it whole.
func TestBackupWhoseAnswerIsLost(t *testing.T) {
	k, p := keeper(t, play{})
	now := k.now()
	name := fileName("db", now)
	at := filepath.Join(p.Folder, name)
	lost := &server{folder: p.Folder, client: &client{feed: func(context.Context, []string, string) ([]byte, error) {
		require.NoError(t, os.WriteFile(at+".part", []byte("log of db"), 0o600))
		return nil, errors.New("sqlcmd was killed")
	}}}
	root, err := os.OpenRoot(p.Folder)
	require.NoError(t, err)
	defer root.Close()
	stopped := &Keeper{now: func() time.Time { return now }}
	require.ErrorContains(t, stopped.backupOne(t.Context(), lost, root, "db"), "is kept")
	require.FileExists(t, at+".part")

	args := wire.LogsArgs{Kind: Kind, Name: instance}
	k.open = func(string) (*client, error) { return p.client(t) }
	answer, err := k.Logs(t.Context(), args)
	require.NoError(t, err)
	require.Empty(t, answer.Gap)
	require.Len(t, answer.Logs, 1)
	require.Equal(t, name, answer.Logs[0].Name)

	// One that is not whole is kept for as long as it may be in the making, and told of.
	require.NoError(t, os.WriteFile(at+".part", []byte("half"), 0o600))
	k.now = time.Now
	answer, err = k.Logs(t.Context(), args)
	require.NoError(t, err)
	require.Contains(t, answer.Gap, "incorrectly formed")
	require.FileExists(t, at+".part")
	k.now = func() time.Time { return time.Now().Add(2 * partAge) }
	answer, err = k.Logs(t.Context(), args)
	require.NoError(t, err)
	require.Contains(t, answer.Gap, "never whole")
	require.NoFileExists(t, at+".part")

	_, err = k.Logs(t.Context(), wire.LogsArgs{End: true})
	require.NoError(t, err)
	require.NoFileExists(t, at, "all instances end")
}
