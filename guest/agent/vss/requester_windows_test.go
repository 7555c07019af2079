package vss

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/wire"
)

// fake makes the library in VSS's place (guest/agent/winsvc/winetest) play something, and returns what it was called.
func fake(t *testing.T, play string) (calls func() []string) {
	t.Helper()
	if os.Getenv("HIKAE_FAKE_VSS") == "" {
		t.Skip("needs the fake vssapi.dll: HIKAE_FAKE_VSS is not set")
	}
	dir, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	name := dir + `\calls`
	t.Setenv("HIKAE_VSS_LOG", name)
	t.Setenv("HIKAE_VSS_PLAY", play)
	t.Cleanup(func() { os.Remove(name); os.Remove(dir) })
	return func() []string {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		return strings.Split(strings.TrimSpace(strings.ReplaceAll(string(text), "\r", "")), "\n")
	}
}

// begun is how every session begins. Of the three components of the first writer one is added, the others come along.
var begun = []string{"InitializeForBackup", "SetContext 0", "SetBackupState 1 1 TYPE 0", "GatherWriterMetadata", "GatherWriterStatus",
	"AddComponent 1 Registry 1", "AddComponent 0 DB1 1"}

const (
	freed = "FreeWriterMetadata"
	gone  = "Release: 0 objects, 0 descriptions left"
)

func expect(kind string, more ...string) []string {
	all := append([]string{}, begun...)
	all[2] = strings.ReplaceAll(all[2], "TYPE", kind)
	return append(append(all, more...), freed, gone)
}

func TestWindowsFind(t *testing.T) {
	calls := fake(t, "")
	apps, err := New(nil).Find(t.Context())
	require.NoError(t, err)
	require.Len(t, apps, 2)
	require.Equal(t, "Registry Writer", apps[0].Name)
	require.Equal(t, "Store Writer ß😀", apps[1].Name)
	require.Equal(t, []string{`D:\store`}, apps[1].Folders)
	require.Equal(t, "ready", apps[1].State)
	require.Equal(t, gone, calls()[len(calls())-1])
}

func TestWindowsCheck(t *testing.T) {
	for _, play := range []string{"", "noprepare"} {
		calls := fake(t, play)
		p, out, err := New(nil).Prepare(t.Context(), wire.PrepareArgs{})
		require.NoError(t, err)
		require.Len(t, out, 2)
		require.False(t, anyBad(out))
		want := expect("5", "PrepareForBackup", "GatherWriterStatus", "SaveAsXML", "AbortBackup")
		if play != "" {
			want = expect("5", "prepare: BAD STATE 3", "SaveAsXML", "AbortBackup")
		}
		require.Equal(t, want, calls())
		recs, out := p.Finish(t.Context())
		require.False(t, anyBad(out))
		require.Equal(t, "components.xml", recs[0].File)
		require.True(t, strings.HasPrefix(string(recs[0].Content), "<BACKUP_COMPONENTS"))
		require.Len(t, recs, 4)
		require.NoError(t, p.Close())
	}
}

// A snapshot set of our own from one end to the other. Another program's is waited for.
func TestWindowsOwn(t *testing.T) {
	calls := fake(t, "busy large")
	a := New(&Options{Mode: Own, Volumes: []string{`\\?\Volume{a}\`, `\\?\Volume{b}\`}})
	began := time.Now()
	p, _, err := a.Prepare(t.Context(), wire.PrepareArgs{})
	require.NoError(t, err)
	require.Greater(t, time.Since(began), 2*time.Second)
	require.False(t, anyBad(p.Hold(t.Context())))
	require.False(t, anyBad(p.Resume(t.Context())))
	recs, out := p.Finish(t.Context())
	require.False(t, anyBad(out))
	require.Equal(t, "components.xml.gz", recs[0].File)
	require.Contains(t, string(recs[len(recs)-1].Content), `HarddiskVolumeShadowCopy5`)
	require.False(t, anyBad(p.Settle(t.Context(), wire.SettleArgs{Durable: true, Truncate: true})))
	require.NoError(t, p.Close())
	require.Equal(t, expect("1", "StartSnapshotSet", "StartSnapshotSet", "StartSnapshotSet", `AddToSnapshotSet \\?\Volume{a}\`,
		`AddToSnapshotSet \\?\Volume{b}\`, "PrepareForBackup", "GatherWriterStatus", "DoSnapshotSet", "GatherWriterStatus", "SaveAsXML",
		"SetBackupSucceeded 1 Registry 1", "SetBackupSucceeded 0 DB1 1", "BackupComplete", "GatherWriterStatus"), calls())
}

// A lease that ends takes the backup back: nobody is told of a success.
func TestWindowsAbort(t *testing.T) {
	calls := fake(t, "")
	p, _, err := New(&Options{Mode: Own, Volumes: []string{`\\?\Volume{a}\`}}).Prepare(t.Context(), wire.PrepareArgs{})
	require.NoError(t, err)
	p.Hold(t.Context())
	require.NoError(t, p.Close())
	require.Equal(t, expect("1", "StartSnapshotSet", `AddToSnapshotSet \\?\Volume{a}\`, "PrepareForBackup", "GatherWriterStatus",
		"DoSnapshotSet", "AbortBackup"), calls())
}

func TestWindowsWriterFails(t *testing.T) {
	calls := fake(t, "fail")
	p, _, err := New(&Options{Mode: Own, Volumes: []string{`\\?\Volume{a}\`}}).Prepare(t.Context(), wire.PrepareArgs{})
	require.NoError(t, err)
	p.Hold(t.Context())
	out := p.Resume(t.Context())
	require.True(t, out[0].OK)
	require.Contains(t, out[1].Problem, "VSS_E_WRITERERROR_TIMEOUT")
	p.Settle(t.Context(), wire.SettleArgs{Durable: true, Truncate: true})
	require.NoError(t, p.Close())
	require.NotContains(t, strings.Join(calls(), "\n"), "SetBackupSucceeded 0")
	require.Contains(t, strings.Join(calls(), "\n"), "SetBackupSucceeded 1")
}

// What does not end is cancelled, and then aborted.
func TestWindowsHangs(t *testing.T) {
	calls := fake(t, "hang")
	p, _, err := New(&Options{Mode: Own, Volumes: []string{`\\?\Volume{a}\`}}).Prepare(t.Context(), wire.PrepareArgs{})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	out := p.Hold(ctx)
	require.Less(t, time.Since(began), 4*time.Second)
	require.True(t, anyBad(out))
	require.Contains(t, out[0].Problem, "DoSnapshotSet")
	require.NoError(t, p.Close())
	all := calls()
	require.Equal(t, []string{"DoSnapshotSet", "Cancel", "AbortBackup", freed, gone}, all[len(all)-5:])
}

func TestWindowsRoom(t *testing.T) {
	fake(t, "room")
	p, _, err := New(&Options{Mode: Own, Volumes: []string{`\\?\Volume{a}\`}}).Prepare(t.Context(), wire.PrepareArgs{})
	require.NoError(t, err)
	require.Contains(t, p.Hold(t.Context())[0].Problem, "vssadmin resize shadowstorage")
	require.NoError(t, p.Close())
}

func TestWindowsDenied(t *testing.T) {
	fake(t, "denied")
	_, _, err := New(nil).Prepare(t.Context(), wire.PrepareArgs{})
	var failure *wire.Failure
	require.ErrorAs(t, err, &failure)
	require.Equal(t, wire.CodeRights, failure.Code)
	require.Contains(t, failure.Hint, "LocalSystem")
}

// A service that does not even answer a cancellation costs a thread and an error, and not the component.
func TestWindowsStuck(t *testing.T) {
	fake(t, "stuck")
	began := time.Now()
	_, _, err := New(nil).Prepare(t.Context(), wire.PrepareArgs{LimitMillis: 500})
	require.ErrorContains(t, err, ErrStuck.Error())
	require.Less(t, time.Since(began), stuckAfter+5*time.Second)
	time.Sleep(30*time.Second - time.Since(began) + time.Second) // the thread comes back, and ends
}

func TestWindowsVolumes(t *testing.T) {
	all, err := Flusher{}.Volumes(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, all)
	for _, v := range all {
		require.NotEmpty(t, v.Skip)
		t.Logf("%+v", v)
	}
	r, err := Flusher{}.Ready(t.Context(), wire.FreezeArgs{})
	require.NoError(t, err)
	defer r.Close()
	f, err := r.Freeze(t.Context())
	require.NoError(t, err)
	require.Empty(t, f.Answer().Frozen)
	require.Len(t, f.Answer().Skipped, len(all))
	_, held, err := f.Thaw(t.Context())
	require.NoError(t, err)
	require.False(t, held, "nothing was held")
}
