package sqlserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/guest/agent/wire"
)

const instance = "MSSQLSERVER"

// hostile is a name that the server allows and a script does not survive.
const hostile = "x'; DROP DATABASE [y]; --\r\nGO\r\n!!calc $(z) ]] \u202e😀"

// full are databases of every sort; only the first two have logs that are backed up.
var full = [][]string{
	{"Sales", "1", "0", "0", "1", "1"}, {hostile, "2", "0", "0", "1", "1"}, {"Simple", "3", "0", "0", "1", "1"},
	{"Offline", "1", "6", "0", "1", "1"}, {"ReadOnly", "1", "0", "1", "1", "1"}, {"Fresh", "1", "0", "0", "0", "1"}, {"Elsewhere", "1", "0", "0", "1", "0"},
}

// R144: logs are backed up, listed, fetched whole and deleted only when they were shipped; what was left over comes again.
func TestLogs(t *testing.T) {
	t.Parallel()
	k, p := keeper(t, play{Databases: full})
	other := filepath.Join(p.Folder, "theirs.trn")
	require.NoError(t, os.WriteFile(other, nil, 0o600))
	a, err := k.Logs(t.Context(), wire.LogsArgs{Kind: Kind, Name: instance})
	require.NoError(t, err)
	require.Empty(t, a.Gap)
	require.Len(t, a.Logs, 2)
	require.Regexp(t, `^hikae-Sales-[0-9a-f]{12}-20260102T030505000Z\.trn$`, a.Logs[0].Name)
	require.Regexp(t, `^hikae-xDROPDATABASEyGOcalcz-`, a.Logs[1].Name)

	var b bytes.Buffer
	got, err := k.Fetch(t.Context(), wire.FetchArgs{Kind: Kind, Name: instance, Log: a.Logs[1].Name}, &b)
	require.NoError(t, err)
	require.Equal(t, "log of "+hostile, b.String(), "the name got there as it is")
	sum := sha256.Sum256(b.Bytes())
	require.Equal(t, wire.FetchAnswer{Bytes: int64(b.Len()), SHA256: sum[:]}, got)

	again, err := k.Logs(t.Context(), wire.LogsArgs{Kind: Kind, Name: instance})
	require.NoError(t, err)
	require.Len(t, again.Logs, 4, "two that were not shipped, and two new ones")
	require.Equal(t, a.Logs, again.Logs[:2], "oldest first")
	require.NoError(t, k.Shipped(t.Context(), wire.ShippedArgs{Kind: Kind, Name: instance, Logs: []string{a.Logs[0].Name, a.Logs[0].Name}}))
	require.NoFileExists(t, filepath.Join(p.Folder, a.Logs[0].Name))

	_, err = k.Logs(t.Context(), wire.LogsArgs{Kind: Kind, Name: instance, End: true})
	require.NoError(t, err)
	rest, err := os.ReadDir(p.Folder)
	require.NoError(t, err)
	require.Len(t, rest, 1)
	require.FileExists(t, other, "what is not ours stays")
}

// Nothing that the server is told names a database or a file in clear, and nothing but options is on the command line.
func TestNothingInStatements(t *testing.T) {
	t.Parallel()
	k, p := keeper(t, play{Databases: full[1:2], Process: true})
	_, err := k.Logs(t.Context(), wire.LogsArgs{Kind: Kind, Name: instance})
	require.NoError(t, err)
	input, err := os.ReadFile(p.Log)
	require.NoError(t, err)
	require.NotContains(t, string(input), "DROP")
	require.NotContains(t, string(input), p.Folder)
	require.NotContains(t, string(input), "NUL'")
	require.Contains(t, string(input), "BACKUP LOG @d TO DISK = @f")
	require.True(t, strings.HasPrefix(string(input), "-S lpc:. -E -X1 -x -h -1 -W -w 65535 -l 15\n"))
}

// A database that cannot be backed up is named with the server's own words; the others go on, and nothing half stays.
func TestOneFails(t *testing.T) {
	t.Parallel()
	k, p := keeper(t, play{Databases: full[:2], Fail: map[string]string{
		"Sales": "Msg 3201, Level 16, State 1, Server GUEST, Line 1\r\nCannot open backup device 'D:\\x.trn'. Operating system error 112(no space).\r\n" +
			"Msg 3013, Level 16, State 1, Server GUEST, Line 1\r\nBACKUP LOG is terminating abnormally.\r\n"}})
	a, err := k.Logs(t.Context(), wire.LogsArgs{Kind: Kind, Name: instance})
	require.NoError(t, err)
	require.Len(t, a.Logs, 1)
	require.Contains(t, a.Gap, "database Sales: SQL Server error 3201, level 16: Cannot open backup device")
	require.Contains(t, a.Gap, "3013")
	entries, err := os.ReadDir(p.Folder)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

// Logs are thrown away only by Discard, and only those of databases that have one in use.
func TestDiscard(t *testing.T) {
	t.Parallel()
	k, p := keeper(t, play{Databases: full})
	out, err := k.Discard(t.Context(), instance)
	require.NoError(t, err)
	require.Len(t, out, len(full))
	for i, o := range out {
		require.True(t, o.OK)
		require.Equal(t, i >= 2, o.Problem != "", o.Name)
		require.NotContains(t, o.Name, "\n")
	}
	input, err := os.ReadFile(p.Log)
	require.NoError(t, err)
	require.Contains(t, string(input), "BACKUP LOG @d TO DISK = N'NUL'")
}

func TestFind(t *testing.T) {
	t.Parallel()
	k, p := keeper(t, play{})
	apps, err := k.Find(t.Context())
	require.NoError(t, err)
	require.Equal(t, []wire.Application{{Kind: Kind, Name: instance, Version: "16.0.1000.6", State: "ready", Folders: []string{p.Folder}, Logs: "yes (" + Unverified + ")"}}, apps)
	silent, _ := keeper(t, play{Silent: true})
	apps, err = silent.Find(t.Context())
	require.NoError(t, err)
	require.Contains(t, apps[0].State, "ends early")
	require.Contains(t, apps[0].Logs, "no")
}

// What sqlcmd must not do: print without end, hang, end early, print rows that are none.
func TestHostileOutput(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]play{
		"endless": {Endless: true, Process: true}, "silent": {Silent: true},
		"long line": {Wild: "y", Times: 1 << 20, Databases: full},
		"columns":   {Databases: [][]string{{"A"}}}, "no name": {Databases: [][]string{{"", "1", "0", "0", "1", "1"}}},
		"long name": {Databases: [][]string{{strings.Repeat("n", 500), "1", "0", "0", "1", "1"}}},
	} {
		k, _ := keeper(t, p)
		_, err := k.Logs(t.Context(), wire.LogsArgs{Kind: Kind, Name: instance})
		require.ErrorIs(t, err, ErrOutput, name)
		require.Less(t, len(err.Error()), 2000)
	}
	k, _ := keeper(t, play{Hang: true, Process: true})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := k.Databases(ctx, instance)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(began), 10*time.Second)

	k, _ = keeper(t, play{Wild: "Msg 916, Level 14, State 1, Server G, Line 1\r\nThe server principal cannot access.\r\n"})
	_, err = k.Databases(t.Context(), instance)
	var failure *wire.Failure
	require.ErrorAs(t, err, &failure)
	require.Equal(t, wire.CodeRights, failure.Code)
	require.Contains(t, failure.Hint, "sysadmin")
}

func TestNamesRefused(t *testing.T) {
	t.Parallel()
	k, _ := keeper(t, play{})
	var failure *wire.Failure
	for _, log := range []string{"", "..", `..\x.trn`, "theirs.trn", "hikae-../x-000000000000-20260102T030605000Z.trn", "hikae-a-000000000000-20260102T030605000Z.trn.part"} {
		_, err := k.Fetch(t.Context(), wire.FetchArgs{Kind: Kind, Name: instance, Log: log}, &bytes.Buffer{})
		require.ErrorAs(t, err, &failure, log)
		require.Equal(t, wire.CodeMissing, failure.Code)
		require.ErrorAs(t, k.Shipped(t.Context(), wire.ShippedArgs{Kind: Kind, Name: instance, Logs: []string{log}}), &failure)
	}
	_, err := k.Logs(t.Context(), wire.LogsArgs{Kind: Kind, Name: "OTHER"})
	require.ErrorAs(t, err, &failure)
	_, err = k.Logs(t.Context(), wire.LogsArgs{Kind: "postgresql", Name: instance})
	require.ErrorAs(t, err, &failure)
	_, err = k.Fetch(t.Context(), wire.FetchArgs{Kind: Kind, Name: instance, Log: "hikae-a-000000000000-20260102T030605000Z.trn"}, &bytes.Buffer{})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Whatever a name is made of, it comes back as it was, and its file is called as fileRule says.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.String().Draw(t, "name")
		require.Equal(t, string([]rune(name)), textOf(units(name)))
		require.Regexp(t, fileRule, fileName(name, time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "time"), 0)))
	})
}

func FuzzParse(f *testing.F) {
	const mark = "hikae-000000000000000000000000"
	f.Add([]byte("1> 2> " + mark + " begin\r\n" + mark + " row 4100 4200\r\n" + mark + " end\r\n"))
	f.Add([]byte(mark + " begin\nMsg 3013, Level 16, State 1, Server X, Line 1\nBACKUP LOG is terminating abnormally.\n" + mark + " end\n"))
	f.Add([]byte(mark + " begin\n" + mark + " row  41\n" + mark + " row x\n"))
	f.Fuzz(func(t *testing.T, output []byte) {
		rows, err := parse(output, mark)
		if err == nil {
			require.Contains(t, string(output), mark+" end")
		}
		require.LessOrEqual(t, len(rows), maxRows)
	})
}
