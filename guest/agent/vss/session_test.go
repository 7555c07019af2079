package vss

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/wire"
)

// service is a requester that keeps the order of calls as the real one does, as far as it is documented, and writes
// them down.
type service struct {
	calls   []string
	writers []Writer
	status  func(call int, s Status) Status
	fail    map[string]error // by call
	closed  bool

	statuses int
}

func (f *service) call(name string, more ...string) error {
	if f.closed {
		return errors.New(name + " after Close")
	}
	f.calls = append(f.calls, strings.Join(append([]string{name}, more...), " "))
	return f.fail[name]
}

func (f *service) Begin(_ context.Context, t backupType) error { return f.call("Begin", t.String()) }
func (f *service) Writers(context.Context) ([]Writer, error)   { return f.writers, f.call("Writers") }
func (f *service) Add(_ context.Context, w Writer, c Component) error {
	return f.call("Add", w.Name, c.full())
}
func (f *service) Volumes(context.Context) ([]string, error) {
	return []string{`\\?\Volume{1}\`, `\\?\Volume{2}\`}, nil
}
func (f *service) StartSet(context.Context) error { return f.call("StartSet") }
func (f *service) AddVolume(_ context.Context, v string) (Shadow, error) {
	return Shadow{Volume: v}, f.call("AddVolume", v)
}
func (f *service) Prepare(context.Context) error { return f.call("Prepare") }
func (f *service) Status(context.Context) ([]Status, error) {
	f.statuses++
	var out []Status
	for _, w := range f.writers {
		s := Status{Instance: w.Instance, Name: w.Name, State: Stable}
		if f.status != nil {
			s = f.status(f.statuses, s)
		}
		out = append(out, s)
	}
	return out, f.call("Status")
}
func (f *service) Snapshot(context.Context) error { return f.call("Snapshot") }
func (f *service) Properties(_ context.Context, s Shadow) (Shadow, error) {
	s.Device = `\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy7`
	return s, nil
}
func (f *service) Document(context.Context) (string, error) {
	return "<BACKUP_COMPONENTS/>", f.call("Document")
}
func (f *service) Succeeded(_ context.Context, w Writer, c Component) error {
	return f.call("Succeeded", w.Name, c.full())
}
func (f *service) Complete(context.Context) error { return f.call("Complete") }
func (f *service) Abort(context.Context) error    { return f.call("Abort") }
func (f *service) Close() error                   { f.closed = true; return nil }

// two are a mail store with three components, of which two come along, and a registry without any choice.
func two() []Writer {
	return []Writer{
		{Instance: GUID{A: 2}, Class: GUID{A: 20}, Name: "Registry Writer", Document: "<W2/>",
			Components: []Component{{Type: FileGroup, Name: "Registry", Folders: []string{`C:\Windows\System32\config`}}}},
		{Instance: GUID{A: 1}, Class: GUID{A: 10}, Name: "Mail Writer", Document: "<W1/>",
			Components: []Component{
				{Type: Database, Path: "Store", Name: "DB1", Selectable: true, Folders: []string{`D:\mail`, `d:\mail\`}},
				{Type: FileGroup, Path: `Store\DB1`, Name: "Logs"},
				{Type: Database, Path: `store\db1`, Name: "File", Selectable: true},
			}},
	}
}

func start(t *testing.T, f *service, mode Mode, args wire.PrepareArgs) (*session, []wire.Outcome) {
	t.Helper()
	a := New(&Options{Mode: mode, open: func() (requester, error) { return f, nil },
		sleep: func(context.Context, time.Duration) error { return nil }})
	p, out, err := a.Prepare(t.Context(), args)
	require.NoError(t, err)
	return p.(*session), out
}

// Check lets the writers go before the freeze, and tells nobody of a backup.
func TestCheck(t *testing.T) {
	t.Parallel()
	f := &service{writers: two()}
	s, out := start(t, f, Check, wire.PrepareArgs{})
	require.Equal(t, []string{"Begin copy", "Writers", "Status", `Add Mail Writer Store\DB1`, "Add Registry Writer Registry",
		"Prepare", "Status", "Document", "Abort"}, f.calls)
	require.True(t, f.closed)
	require.Len(t, out, 2)
	require.True(t, out[0].OK && out[1].OK)

	require.Empty(t, s.Hold(t.Context()), "nobody holds anything in this mode, and nobody says so")
	require.Empty(t, s.Resume(t.Context()))
	recs, out := s.Finish(t.Context())
	require.Len(t, out, 3)
	require.True(t, out[2].OK)
	require.Equal(t, "components.xml", recs[0].File)
	require.Equal(t, "<BACKUP_COMPONENTS/>", string(recs[0].Content))
	require.Equal(t, "writers.json", recs[len(recs)-1].File)
	var sum summary
	require.NoError(t, json.Unmarshal(recs[len(recs)-1].Content, &sum))
	require.Equal(t, Unverified, sum.Unverified)
	require.Equal(t, []string{`Store\DB1`}, sum.Writers[0].Components)
	require.Equal(t, "writer-00000001-0000-0000-0000-000000000000.xml", sum.Writers[0].Document)

	for _, o := range s.Settle(t.Context(), wire.SettleArgs{Durable: true, Truncate: true}) {
		require.True(t, o.OK)
		require.Contains(t, o.Problem, "hypervisor")
	}
	require.NoError(t, s.Close())
	require.Equal(t, "Abort", f.calls[len(f.calls)-1], "and nothing after it")
}

// R143: a service that wants a snapshot set first still has its writers checked.
func TestCheckWithoutPrepare(t *testing.T) {
	t.Parallel()
	f := &service{writers: two(), fail: map[string]error{"Prepare": &Error{Op: "PrepareForBackup", Code: BadState}}}
	_, out := start(t, f, Check, wire.PrepareArgs{})
	require.True(t, out[0].OK && out[1].OK)
	require.Equal(t, []string{"Prepare", "Document", "Abort"}, f.calls[len(f.calls)-3:])
}

// The writers are told after the point is durable, and each call stands where the service wants it.
func TestOwn(t *testing.T) {
	t.Parallel()
	f := &service{writers: two()}
	s, _ := start(t, f, Own, wire.PrepareArgs{})
	require.Equal(t, []string{"StartSet", `AddVolume \\?\Volume{1}\`, `AddVolume \\?\Volume{2}\`, "Prepare", "Status"}, f.calls[5:])
	require.Equal(t, "Begin full", f.calls[0])
	require.Len(t, s.Hold(t.Context()), 2)
	require.Len(t, s.Resume(t.Context()), 2)
	recs, _ := s.Finish(t.Context())
	require.Contains(t, string(recs[len(recs)-1].Content), "HarddiskVolumeShadowCopy7")
	require.NotContains(t, strings.Join(f.calls, "\n"), "Succeeded")
	at := len(f.calls)
	for _, o := range s.Settle(t.Context(), wire.SettleArgs{Durable: true, Truncate: true}) {
		require.True(t, o.OK)
		require.Empty(t, o.Problem)
	}
	require.Equal(t, []string{`Succeeded Mail Writer Store\DB1`, "Succeeded Registry Writer Registry", "Complete", "Status"}, f.calls[at:])
	require.True(t, f.closed)
	require.NoError(t, s.Close())
}

// Nobody is told of a success where the point is not durable, or where logs would go that nobody wanted to go.
func TestNotTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args     wire.PrepareArgs
		settle   wire.SettleArgs
		hold     error
		complete bool
	}{
		"given up":                    {settle: wire.SettleArgs{Truncate: true}},
		"no truncation":               {settle: wire.SettleArgs{Durable: true}},
		"no snapshot":                 {settle: wire.SettleArgs{Durable: true, Truncate: true}, hold: &Error{Op: "DoSnapshotSet", Code: InsufficientStorage}},
		"a copy truncates nothing":    {args: wire.PrepareArgs{CopyOnly: true}, settle: wire.SettleArgs{Durable: true}, complete: true},
		"a copy that was given up":    {args: wire.PrepareArgs{CopyOnly: true}},
		"full, durable and truncated": {settle: wire.SettleArgs{Durable: true, Truncate: true}, complete: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &service{writers: two(), fail: map[string]error{"Snapshot": c.hold}}
			s, _ := start(t, f, Own, c.args)
			s.Hold(t.Context())
			s.Settle(t.Context(), c.settle)
			all := strings.Join(f.calls, "\n")
			require.Equal(t, c.complete, strings.Contains(all, "Complete"), all)
			require.Equal(t, c.complete, strings.Contains(all, "Succeeded"), all)
			require.Equal(t, !c.complete, strings.Contains(all, "Abort"), all)
			require.True(t, f.closed)
		})
	}
}

// One call after the other fails: whatever it was, the service is let go, and nobody is told of a success that was none.
func TestFailOneByOne(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Check, Own} {
		for _, call := range []string{"Begin", "Writers", "Status", "Add", "StartSet", "AddVolume", "Prepare", "Document", "Snapshot", "Succeeded", "Complete", "Abort", ""} {
			f := &service{writers: two(), fail: map[string]error{call: &Error{Op: call, Code: 0x80042302}}}
			a := New(&Options{Mode: mode, open: func() (requester, error) { return f, nil }})
			p, out, err := a.Prepare(t.Context(), wire.PrepareArgs{})
			if err != nil {
				var failure *wire.Failure
				require.ErrorAs(t, err, &failure)
				require.Contains(t, failure.Message, "VSS_E_UNEXPECTED")
				require.NotEmpty(t, failure.Hint)
				require.True(t, f.closed, "%v %s", mode, call)
				require.Nil(t, p)
				continue
			}
			bad := anyBad(out)
			bad = anyBad(p.Hold(t.Context())) || bad
			bad = anyBad(p.Resume(t.Context())) || bad
			_, out = p.Finish(t.Context())
			bad = anyBad(out) || bad
			bad = anyBad(p.Settle(t.Context(), wire.SettleArgs{Durable: true, Truncate: true})) || bad
			require.NoError(t, p.Close())
			require.True(t, f.closed, "%v %s", mode, call)
			never := mode == Check && slices.Contains([]string{"StartSet", "AddVolume", "Snapshot", "Succeeded", "Complete"}, call) || mode == Own && call == "Abort"
			require.Equal(t, call != "" && !never, bad, "%v %q", mode, call)
		}
	}
}

func anyBad(out []wire.Outcome) bool {
	for _, o := range out {
		if !o.OK {
			return true
		}
	}
	return false
}

// A writer that fails is named and left out; the others are told of their success.
func TestOneWriterFails(t *testing.T) {
	t.Parallel()
	f := &service{writers: two(), status: func(call int, s Status) Status {
		if call >= 3 && s.Name == "Mail Writer" { // after the snapshot
			s.State, s.Code = FailedAtFreeze, WriterTimeout
		}
		return s
	}}
	s, _ := start(t, f, Own, wire.PrepareArgs{})
	s.Hold(t.Context())
	out := s.Resume(t.Context())
	require.False(t, out[0].OK)
	require.Contains(t, out[0].Problem, "VSS_E_WRITERERROR_TIMEOUT")
	require.Contains(t, out[0].Problem, "failed to freeze")
	require.True(t, out[1].OK)
	out = s.Settle(t.Context(), wire.SettleArgs{Durable: true, Truncate: true})
	require.False(t, out[0].OK)
	require.NotContains(t, strings.Join(f.calls, "\n"), "Succeeded Mail")
	require.Contains(t, strings.Join(f.calls, "\n"), "Succeeded Registry")
}

// A writer that has failed before we came takes no part, and one that is left out by name neither.
func TestLeftOut(t *testing.T) {
	t.Parallel()
	f := &service{writers: two(), status: func(_ int, s Status) Status {
		if s.Name == "Mail Writer" {
			s.State, s.Code = FailedAtPrepareBackup, WriterNonRetryable
		}
		return s
	}}
	_, out := start(t, f, Check, wire.PrepareArgs{Skip: []string{"vss/registry writer", "postgresql/x"}})
	require.Len(t, out, 1)
	require.False(t, out[0].OK)
	require.NotContains(t, strings.Join(f.calls, "\n"), "Add ")
}

// Another program's snapshot set is waited for; anything else, and time that is up, is not.
func TestAgain(t *testing.T) {
	t.Parallel()
	var waits []time.Duration
	wait := func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil }
	left := 6
	busy := &Error{Op: "StartSnapshotSet", Code: SnapshotSetInProgress}
	require.NoError(t, again(t.Context(), wait, func() error {
		if left--; left == 0 {
			return nil
		}
		return busy
	}))
	require.Equal(t, []time.Duration{1e9, 2e9, 4e9, 8e9, 10e9}, waits)

	other := &Error{Op: "StartSnapshotSet", Code: InsufficientStorage}
	require.Equal(t, error(other), again(t.Context(), wait, func() error { return other }))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, error(busy), again(ctx, sleep, func() error { return busy }))
}

// R182: the documents of all writers are kept as far as an answer has room for them; what is left out is named.
func TestRecordsBounded(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 1<<20)
	state := uint64(1)
	for i := range noise { // does not compress
		state = state*6364136223846793005 + 1442695040888963407
		noise[i] = byte(state >> 56)
	}
	sum := summary{Writers: []writerSummary{{Instance: "{A}"}, {Instance: "{B}"}, {Instance: "{C}"}}}
	docs := map[string]string{"{A}": strings.Repeat("<a/>", 1<<20), "{B}": string(noise), "{C}": "<c/>"}
	out, err := records("<x/>", sum, docs)
	require.NoError(t, err)
	var files []string
	total := 0
	for _, r := range out {
		files = append(files, r.File)
		total += len(r.Content)
	}
	require.Equal(t, []string{"components.xml", "writer-A.xml.gz", "writer-C.xml", "writers.json"}, files)
	require.LessOrEqual(t, total, allRecords)
	require.Contains(t, string(out[3].Content), "writer-B.xml")

	out, err = records(string(noise), sum, nil)
	require.ErrorContains(t, err, "does not fit")
	require.Len(t, out, 1)
}

func TestFind(t *testing.T) {
	t.Parallel()
	f := &service{writers: two(), status: func(_ int, s Status) Status {
		if s.Name == "Mail Writer" {
			s.State, s.Code = FailedAtThaw, WriterRetryable
		}
		return s
	}}
	a := New(&Options{open: func() (requester, error) { return f, nil }})
	apps, err := a.Find(t.Context())
	require.NoError(t, err)
	require.Len(t, apps, 2)
	require.Contains(t, apps[0].State, "VSS_E_WRITERERROR_RETRYABLE")
	require.Equal(t, []string{`D:\mail`}, apps[0].Folders)
	require.Equal(t, "ready", apps[1].State)
	require.True(t, f.closed)

	denied := New(&Options{open: func() (requester, error) { return nil, &Error{Op: "CoInitializeSecurity", Code: eAccessDenied} }})
	_, err = denied.Find(t.Context())
	var failure *wire.Failure
	require.ErrorAs(t, err, &failure)
	require.Equal(t, wire.CodeRights, failure.Code)
	require.ErrorIs(t, &Error{Code: eAccessDenied}, fs.ErrPermission)
}

// Where there is no Windows there are no writers, and that is no failure.
func TestNoWindows(t *testing.T) {
	t.Parallel()
	a := New(&Options{open: func() (requester, error) { return nil, ErrNotWindows }})
	apps, err := a.Find(t.Context())
	require.NoError(t, err)
	require.Empty(t, apps)
	p, out, err := a.Prepare(t.Context(), wire.PrepareArgs{})
	require.NoError(t, err)
	require.Empty(t, out)
	require.Empty(t, p.Hold(t.Context()))
	recs, out := p.Finish(t.Context())
	require.Empty(t, recs)
	require.Empty(t, out)
	require.Empty(t, p.Settle(t.Context(), wire.SettleArgs{Durable: true}))
	require.NoError(t, p.Close())
}
