package requester_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/helper/wire"
)

var begun = []string{"New", "Initialize", "SetContext 0x0", "SetBackupState 5", "EnableWriterClasses [" + string(requester.HyperVWriter) + "]", "GatherWriterMetadata"}

// R041, R100: the host's service is asked in its own order, once for all VMs, each volume once; R052: and the shadow copies go.
func TestOrder(t *testing.T) {
	s := machine(t)
	p := serve(t, s, nil).hello(0)
	a := p.take(db1, web1)
	require.Len(t, p.noted(), 1)
	require.Equal(t, string(p.noted()[0]), a.ID)
	require.Equal(t, []wire.Outcome{
		{VM: db1, Caption: `Offline\db1`, Recovered: true, Files: []string{`c:\vms\db1.vhdx`, `C:\ClusterStorage\Volume1\db1-data.vhdx`}},
		{VM: web1, Caption: `Online\web1`, Recovered: true, Files: []string{`C:\VMs\web1\web1.vhdx`, `C:\VMs\web1\conf\a.xml`}},
	}, a.Outcomes)
	p.must(&wire.Finish{Set: a.Set, Good: []string{web1}}, &wire.Done{Of: wire.KindFinish})
	require.Equal(t, wire.State, code(t, p.ask(&wire.Finish{Set: a.Set, Good: []string{web1}}, &wire.Done{Of: wire.KindFinish})), "once")
	require.Len(t, s.Left(), 3, "two shadow copies and their requester stay until they are deleted")
	p.must(&wire.Delete{Set: a.Set}, &wire.Done{Of: wire.KindDelete})
	p.must(&wire.Delete{Set: a.Set}, &wire.Done{Of: wire.KindDelete})
	require.Empty(t, s.Left())
	require.Empty(t, p.noted())
	require.Equal(t, append(append([]string{}, begun...), "AddComponent "+db1, "AddComponent 0A1B2C3D-0000-4000-8000-0000000000A1", "StartSnapshotSet",
		`AddToSnapshotSet \\?\Volume{C:\}\`, `AddToSnapshotSet \\?\Volume{C:\ClusterStorage\Volume1\}\`, "PrepareForBackup", "GatherWriterStatus",
		"DoSnapshotSet", "GatherWriterStatus", "GetSnapshotProperties", "GetSnapshotProperties",
		"SetBackupSucceeded "+db1+" false", "SetBackupSucceeded 0A1B2C3D-0000-4000-8000-0000000000A1 true", "BackupComplete", "GatherWriterStatus",
		"DeleteSnapshots", "Close"), s.Calls())
	p.must(&wire.Bye{}, &wire.Done{Of: wire.KindBye})
	require.NoError(t, p.over())
}

// Logs of guests are truncated by those who ask for it alone; a set for another machine says so, and has its document.
func TestKinds(t *testing.T) {
	s := machine(t)
	p := serve(t, s, nil).hello(0)
	a := &wire.TakeAnswer{}
	p.must(&wire.Take{Mark: mark, VMs: []string{web1}, Full: true, Transportable: true}, a)
	require.Equal(t, "<BACKUP_COMPONENTS/>", a.Document)
	require.Subset(t, s.Calls(), []string{"SetContext 0x40", "SetBackupState 1"})
	for _, call := range s.Calls() {
		require.NotContains(t, call, "0x2", "writers may always recover in the shadow copies (R056)")
	}
	p.must(&wire.Finish{Set: a.Set}, &wire.Done{Of: wire.KindFinish})
	require.Equal(t, "AbortBackup", s.Calls()[len(s.Calls())-1], "no good VM is no success")
	p.must(&wire.Bye{}, &wire.Done{Of: wire.KindBye})
	require.NoError(t, p.over())
	require.Empty(t, s.Left())
}

func TestComponents(t *testing.T) {
	s := machine(t)
	p := serve(t, s, nil).hello(0)
	a := &wire.ComponentsAnswer{}
	p.must(&wire.Components{}, a)
	require.Len(t, a.Components, 2, "the host's own component is no VM")
	require.Equal(t, wire.Component{VM: db1, Caption: `Offline\db1`, Files: []string{`c:\vms\db1.vhdx`, `C:\ClusterStorage\Volume1\db1-data.vhdx`},
		Volumes: []string{`C:\`, `C:\ClusterStorage\Volume1\`}}, a.Components[1])
	require.Empty(t, s.Left())
	require.Equal(t, append(append([]string{}, begun...), "Close"), s.Calls())
}

// Whichever call fails, nothing is left, and the next set is made.
func TestEveryCallFails(t *testing.T) {
	failed := map[string]bool{}
	for n := int64(1); ; n++ {
		s := machine(t)
		var count atomic.Int64
		fired := ""
		s.Fault = func(_ context.Context, call string) error {
			if count.Add(1) == n && call != "Close" {
				fired = call
				return &requester.Error{Op: call, Code: 0x80042302, Text: "it failed inside", Hint: "look"}
			}
			return nil
		}
		p := serve(t, s, nil).hello(0)
		a := &wire.TakeAnswer{}
		err := p.ask(&wire.Take{Mark: mark, VMs: []string{web1, db1}}, a)
		if err == nil {
			err = p.ask(&wire.Finish{Set: a.Set, Good: []string{web1}}, &wire.Done{Of: wire.KindFinish})
			if again := p.ask(&wire.Delete{Set: a.Set}, &wire.Done{Of: wire.KindDelete}); again != nil {
				err = errors.Join(err, again, p.ask(&wire.Delete{Set: a.Set}, &wire.Done{Of: wire.KindDelete}))
			}
		}
		require.Empty(t, s.Left(), "call %d, %s", n, fired)
		require.Empty(t, p.noted(), "call %d, %s", n, fired)
		a = &wire.TakeAnswer{}
		s.Fault = nil
		p.must(&wire.Take{Mark: mark, VMs: []string{web1}}, a)
		p.must(&wire.Bye{}, &wire.Done{Of: wire.KindBye})
		require.NoError(t, p.over())
		require.Empty(t, s.Left())
		if fired == "" && count.Load() < n {
			break
		}
		if fired != "" && fired != "DeleteSnapshots" {
			require.ErrorContains(t, err, "it failed inside", "call %d, %s", n, fired)
		}
		failed[fired] = true
	}
	for _, call := range []string{"New", "Initialize", "SetContext", "SetBackupState", "EnableWriterClasses", "GatherWriterMetadata", "AddComponent", "StartSnapshotSet",
		"AddToSnapshotSet", "PrepareForBackup", "GatherWriterStatus", "DoSnapshotSet", "GetSnapshotProperties", "SetBackupSucceeded", "BackupComplete", "DeleteSnapshots"} {
		require.True(t, failed[call], call)
	}
}

// A writer that failed fails the set, with its own words.
func TestWriterFails(t *testing.T) {
	s := machine(t)
	s.WriterErr = &requester.Error{Op: "writer", Code: requester.WriterTimeout, Text: "too slow", Hint: "spread jobs", Again: true}
	p := serve(t, s, nil).hello(0)
	err := p.ask(&wire.Take{Mark: mark, VMs: []string{web1}}, &wire.TakeAnswer{})
	var f *wire.Failure
	require.ErrorAs(t, err, &f)
	require.Equal(t, wire.Writer, f.Code)
	require.True(t, f.Again)
	require.Contains(t, f.Error(), "too slow")
	require.Equal(t, "spread jobs", f.Hint)
	require.Empty(t, s.Left())
}

// slow has a service take its time in DoSnapshotSet, as auto-recovery does (R061), until it is let go or its context ends.
func slow(ch <-chan struct{}, inside chan<- struct{}) func(context.Context, string) error {
	return func(ctx context.Context, call string) error {
		if call != "DoSnapshotSet" {
			return nil
		}
		inside <- struct{}{}
		select {
		case <-ch:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// R061: while data are recovered the client hears that it goes on.
func TestProgress(t *testing.T) {
	s := machine(t)
	free, inside := make(chan struct{}), make(chan struct{}, 1)
	s.Fault = slow(free, inside)
	p := serve(t, s, &requester.Options{Tick: 10 * time.Millisecond}).hello(0)
	call := p.send(&wire.Take{Mark: mark, VMs: []string{web1}})
	var stages []string
	repeated := 0
	for f := range p.frames {
		require.Equal(t, call, f.Call)
		if f.Kind != wire.KindProgress {
			require.Equal(t, wire.KindTake+wire.KindAnswer, f.Kind)
			break
		}
		var g wire.Progress
		require.NoError(t, wire.Decode(f, &g))
		if len(stages) > 0 && stages[len(stages)-1] == g.Stage {
			if repeated++; repeated == 3 {
				close(free)
			}
			continue
		}
		stages = append(stages, g.Stage)
	}
	require.Equal(t, []string{wire.StageGather, wire.StageStart, wire.StagePrepare, wire.StageSnapshot, wire.StageStatus}, stages)
}

// However a session ends in the middle of a set, everything is taken back: by the client's leave, its silence, the service's
// stop, a cancellation, a limit, or a client that talks nonsense.
func TestEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(p *peer, call uint32)
		want func(t *testing.T, p *peer)
		take wire.Take
	}{
		"cut":     {end: func(p *peer, _ uint32) { p.conn.Close() }, want: func(t *testing.T, p *peer) { require.Error(t, p.over()) }},
		"silence": {end: func(*peer, uint32) {}, want: func(t *testing.T, p *peer) { require.ErrorIs(t, p.over(), requester.ErrLease) }},
		"stop":    {end: func(p *peer, _ uint32) { p.stop() }, want: func(t *testing.T, p *peer) { require.ErrorIs(t, p.over(), context.Canceled) }},
		"garbage": {end: func(p *peer, _ uint32) { p.conn.Write([]byte(strings.Repeat("garbage", 10))) },
			want: func(t *testing.T, p *peer) { require.ErrorIs(t, p.over(), wire.ErrMalformed) }},
		"bye": {end: func(p *peer, _ uint32) { p.send(&wire.Bye{}) }, want: func(t *testing.T, p *peer) { require.NoError(t, p.over()) }},
		"cancel": {end: func(p *peer, call uint32) { p.sendAs(call, &wire.Cancel{}) }, want: func(t *testing.T, p *peer) {
			require.Equal(t, wire.Late, code(t, p.read(2, nil)))
			p.hangUp()
		}},
		"limit": {take: wire.Take{LimitMillis: 50}, end: func(*peer, uint32) {}, want: func(t *testing.T, p *peer) {
			require.Equal(t, wire.Late, code(t, p.read(2, nil)))
			p.hangUp()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := machine(t)
			inside := make(chan struct{}, 1)
			s.Fault = slow(nil, inside)
			p := serve(t, s, nil).hello(time.Second)
			c.take.Mark, c.take.VMs = mark, []string{web1}
			call := p.send(&c.take)
			<-inside
			require.Len(t, p.noted(), 1, "written down before it is made")
			c.end(p, call)
			c.want(t, p)
			require.Empty(t, s.Left())
			require.Empty(t, p.noted())
			require.Contains(t, s.Calls(), "AbortBackup")
		})
	}
}

func (p *peer) hangUp() {
	p.conn.Close()
	require.ErrorIs(p.t, p.over(), io.EOF)
}

// A set that is there goes with the session too, and files that are open in it.
func TestEndsWithSet(t *testing.T) {
	s := machine(t)
	p := serve(t, s, nil).hello(time.Second)
	a := p.take(web1)
	var f wire.OpenAnswer
	p.must(&wire.Open{Set: a.Set, Name: `C:\VMs\web1\web1.vhdx`}, &f)
	require.Contains(t, s.Left(), "1 open files")
	p.hangUp()
	require.Empty(t, s.Left())
	require.Empty(t, p.noted())
}

// Of two clients one waits for the other's set, and says so.
func TestTwoClients(t *testing.T) {
	s := machine(t)
	free, inside := make(chan struct{}), make(chan struct{}, 2)
	s.Fault = slow(free, inside)
	one, two := serve(t, s, nil).hello(0), serve(t, s, nil).hello(0)
	first := one.send(&wire.Take{Mark: mark, VMs: []string{web1}})
	<-inside
	second := two.send(&wire.Take{Mark: mark, VMs: []string{db1}})
	waits := ""
	for waits == "" {
		f := <-two.frames
		var g wire.Progress
		require.NoError(t, wire.Decode(f, &g))
		waits = g.Detail
	}
	require.Contains(t, waits, "another program")
	close(free)
	require.NoError(t, one.read(first, &wire.TakeAnswer{}))
	require.NoError(t, two.read(second, &wire.TakeAnswer{}))
	// And where it takes longer than the limit, that is what is said.
	s.Fault = func(_ context.Context, call string) error {
		if call == "StartSnapshotSet" {
			return &requester.Error{Op: call, Code: requester.SetInProgress, Again: true}
		}
		return nil
	}
	require.Equal(t, wire.Busy, code(t, one.ask(&wire.Take{Mark: mark, VMs: []string{web1}, LimitMillis: 20}, nil)))
}

// What persisted although its requester died is found by its mark, and nothing else is touched.
func TestSweep(t *testing.T) {
	s := machine(t)
	s.Persist = true
	s.Fault = func(_ context.Context, call string) error {
		if call == "DeleteSnapshots" {
			return errors.New("not now")
		}
		return nil
	}
	p := serve(t, s, nil).hello(0)
	a := p.take(web1)
	p.conn.Close()
	require.ErrorContains(t, p.over(), "not now", "what could not be taken back is said")
	require.Len(t, s.Left(), 1)
	s.Fault = nil

	next := serve(t, s, &requester.Options{Book: p.book}).hello(0)
	other := &wire.TakeAnswer{}
	const otherMark = "77777777777777777777777777"
	next.must(&wire.Take{Mark: otherMark, VMs: []string{db1}}, other)
	swept := &wire.SweepAnswer{}
	next.must(&wire.Sweep{Mark: mark}, swept)
	require.Equal(t, []string{a.ID}, swept.Deleted)
	require.Len(t, s.Left(), 3, "the other set and its requester")
	*swept = wire.SweepAnswer{}
	next.must(&wire.Sweep{Mark: mark}, swept)
	require.Empty(t, swept.Deleted, "none is no error")
	next.must(&wire.Sweep{Mark: otherMark}, swept)
	require.Equal(t, []string{other.ID}, swept.Deleted, "its own sets too")
	require.Empty(t, s.Left())
	require.Equal(t, wire.Invalid, code(t, next.ask(&wire.Sweep{Mark: `..\x`}, swept)))
}

// R050, R103: files are read by their production names, from the shadow copy alone.
func TestFiles(t *testing.T) {
	s := machine(t)
	p := serve(t, s, nil).hello(0)
	a := p.take(db1)
	var f wire.OpenAnswer
	p.must(&wire.Open{Set: a.Set, Name: `C:\clusterstorage\VOLUME1\db1-data.vhdx`}, &f)
	require.Equal(t, uint64(11), f.Size)
	var r wire.ReadAnswer
	p.must(&wire.ReadAt{File: f.File, Offset: 5, Length: 100}, &r)
	require.Equal(t, "of db1", string(r.Data))
	p.must(&wire.ReadAt{File: f.File, Offset: 5000, Length: 1}, &r)
	require.Empty(t, r.Data)
	p.must(&wire.Shut{File: f.File}, &wire.Done{Of: wire.KindShut})
	require.Equal(t, wire.Missing, code(t, p.ask(&wire.ReadAt{File: f.File, Length: 1}, &r)))

	l := &wire.ListAnswer{}
	p.must(&wire.List{Set: a.Set, Folder: `C:\VMs\`}, l)
	require.Equal(t, []wire.Entry{{Name: "db1.vhdx", Size: 11}, {Name: "web1", Dir: true}}, l.Entries)

	for name, want := range map[string]wire.Code{
		`C:\VMs\none.vhdx`: wire.Missing, `D:\db1.vhdx`: wire.Missing, `C:\VMs`: wire.Invalid, `C:\VMs\..\secret`: wire.Invalid, `secret`: wire.Invalid,
		`C:/secret`: wire.Invalid, `C:\VMs\\x`: wire.Invalid, `C:\secret:stream`: wire.Invalid, `\\?\GLOBALROOT\Device\x`: wire.Invalid, `\\.\pipe\x`: wire.Invalid,
		`C:\VMs\web1.vhdx `: wire.Invalid, `\\server\share\x`: wire.Missing, "C:\\a\x00b": wire.Invalid, "": wire.Invalid, `C:\` + strings.Repeat("x", 40000): wire.Invalid,
	} {
		require.Equal(t, want, code(t, p.ask(&wire.Open{Set: a.Set, Name: name}, &f)), name)
	}
	for _, bad := range []wire.ReadAt{{File: 1, Length: 0}, {File: 1, Length: wire.MaxRead + 1}, {File: 1, Offset: 1 << 63, Length: 1}} {
		require.Equal(t, wire.Invalid, code(t, p.ask(&bad, &r)))
	}
	require.Equal(t, wire.Missing, code(t, p.ask(&wire.Open{Set: 99, Name: `C:\x`}, &f)))
}

// What a client may not ask is refused, and the session goes on; what it cannot mean ends it.
func TestRefuses(t *testing.T) {
	s := machine(t)
	p := serve(t, s, nil).hello(0)
	for i, bad := range []wire.Take{
		{Mark: "x", VMs: []string{web1}}, {Mark: mark}, {Mark: mark, VMs: []string{web1, web1}}, {Mark: mark, VMs: []string{strings.ToUpper(web1)}},
		{Mark: mark, VMs: strings.Split(strings.Repeat("v ", 65), " ")},
	} {
		require.Equal(t, wire.Invalid, code(t, p.ask(&bad, nil)), "%d", i)
	}
	require.Equal(t, wire.Missing, code(t, p.ask(&wire.Take{Mark: mark, VMs: []string{"0a1b2c3d-0000-4000-8000-0000000000ff"}}, nil)))
	require.Equal(t, wire.Invalid, code(t, p.ask(&wire.Hello{Version: wire.Version}, nil)))
	require.Equal(t, wire.Missing, code(t, p.ask(&wire.Finish{Set: 3}, nil)))
	require.Empty(t, s.Left())
	p.must(&wire.Ping{}, &wire.Done{Of: wire.KindPing})

	old := serve(t, s, nil)
	require.Equal(t, wire.Unsupported, code(t, old.ask(&wire.Hello{Version: 2}, nil)))
	require.ErrorIs(t, old.over(), errors.ErrUnsupported)
	rude := serve(t, s, nil)
	rude.send(&wire.Ping{})
	require.ErrorIs(t, rude.over(), wire.ErrMalformed, "it does not greet")
}

// More calls than there may be end the session: memory has a bound.
func TestTooManyCalls(t *testing.T) {
	s := machine(t)
	inside := make(chan struct{}, 1)
	s.Fault = slow(nil, inside)
	p := serve(t, s, nil).hello(0)
	go func() {
		for range wire.MaxCalls + 1 {
			f, err := wire.Encode(p.call+100, &wire.Take{Mark: mark, VMs: []string{web1}})
			if p.call++; err != nil || wire.Write(p.conn, f) != nil {
				return
			}
		}
	}()
	require.ErrorIs(t, p.over(), wire.ErrMalformed)
	require.Empty(t, s.Left())
}

// A client that does not read its answers ends its own session.
func TestDeafClient(t *testing.T) {
	s := machine(t)
	p := serve(t, s, &requester.Options{WriteLimit: 50 * time.Millisecond}).hello(0)
	a := p.take(web1)
	require.NotZero(t, a.Set)
	go func() { // its reader's channel is full at some time
		for i := range uint32(10_000) {
			f, _ := wire.Encode(i+100, &wire.Ping{})
			if wire.Write(p.conn, f) != nil {
				return
			}
		}
	}()
	require.Error(t, p.over())
	require.Empty(t, s.Left())
}

func TestBook(t *testing.T) {
	b := &requester.DirBook{Dir: t.TempDir() + "/book"}
	ctx := t.Context()
	sets, err := b.Sets(ctx, mark)
	require.NoError(t, err)
	require.Empty(t, sets)
	var ids []requester.ID
	for i := range 3 {
		ids = append(ids, requester.ID(fmt.Sprintf("{77777777-0000-0000-0000-%012X}", i+10)))
		require.NoError(t, b.Put(ctx, mark, ids[i]))
		require.NoError(t, b.Put(ctx, mark, ids[i]), "twice is once")
	}
	sets, err = b.Sets(ctx, mark)
	require.NoError(t, err)
	require.ElementsMatch(t, ids, sets)
	for _, id := range ids {
		require.NoError(t, b.Drop(ctx, mark, id))
		require.NoError(t, b.Drop(ctx, mark, id))
	}
	require.NoDirExists(t, b.Dir, "the folder goes with the last")
	require.ErrorIs(t, b.Put(ctx, "../x", ids[0]), fs.ErrInvalid)
	require.ErrorIs(t, b.Put(ctx, mark, "../x"), fs.ErrInvalid)
}
