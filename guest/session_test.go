package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/index"
	"github.com/hikae/hikae/guest/index/list"
	"github.com/hikae/hikae/internal/bubble"
)

// inside is what a guest has: a real component over parts that do as they are told.
type inside struct {
	mu      sync.Mutex
	calls   []string
	apps    []wire.Application
	bad     map[string]string // step → name of the application that fails there
	mounts  []string
	veto    bool // a script says no
	records []wire.Record
	index   string
	open    atomic.Int32 // components that run
}

func (in *inside) did(what string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.calls = append(in.calls, what)
}

func (in *inside) story() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return strings.Join(in.calls, " ")
}

func (in *inside) outcomes(step string) (list []wire.Outcome) {
	in.did(step)
	for _, a := range in.apps {
		o := wire.Outcome{Kind: a.Kind, Name: a.Name, OK: true}
		if in.bad[step] == a.Name {
			o.OK, o.Problem = false, "as it was told"
		}
		list = append(list, o)
	}
	return list
}

func (in *inside) Find(context.Context) ([]wire.Application, error) { return in.apps, nil }
func (in *inside) Prepare(_ context.Context, args wire.PrepareArgs) (agent.Prepared, []wire.Outcome, error) {
	if args.CopyOnly {
		in.did("copy")
	}
	return in, in.outcomes("prepare"), nil
}
func (in *inside) Hold(context.Context) []wire.Outcome   { return in.outcomes("hold") }
func (in *inside) Resume(context.Context) []wire.Outcome { return in.outcomes("resume") }
func (in *inside) Finish(context.Context) ([]wire.Record, []wire.Outcome) {
	return in.records, in.outcomes("finish")
}
func (in *inside) Settle(_ context.Context, args wire.SettleArgs) []wire.Outcome {
	return in.outcomes(fmt.Sprintf("settle-%t-%t", args.Durable, args.Truncate))
}
func (in *inside) Close() error { in.did("close"); return nil }

func (in *inside) Volumes(context.Context) ([]wire.Volume, error) { return nil, nil }
func (in *inside) Ready(context.Context, wire.FreezeArgs) (agent.Ready, error) {
	return readyIn{in}, nil
}

type readyIn struct{ in *inside }

func (readyIn) Close() error                                   { return nil }
func (r readyIn) Freeze(context.Context) (agent.Frozen, error) { return r.in.stop() }

func (in *inside) stop() (agent.Frozen, error) {
	in.did("freeze")
	return frozen{in}, nil
}

type frozen struct{ in *inside }

func (f frozen) Answer() wire.FreezeAnswer {
	a := wire.FreezeAnswer{}
	for _, m := range f.in.mounts {
		a.Frozen = append(a.Frozen, wire.Frozen{Mount: m, Type: "ext4"})
	}
	return a
}

func (f frozen) Thaw(context.Context) ([]string, bool, error) {
	f.in.did("thaw")
	return f.in.mounts, true, nil
}

// scripts are the guest's scripts.
type scripts struct{ in *inside }

func (s scripts) List() []string { return []string{"/etc/hikae/freeze.d/one"} }
func (s scripts) Run(_ context.Context, phase string, _ int64) ([]wire.ScriptResult, error) {
	s.in.did("script-" + phase)
	if phase == "freeze" && s.in.veto {
		return nil, &wire.Failure{Code: wire.CodeVeto, Message: "script one: exit code 1"}
	}
	return []wire.ScriptResult{{Path: "/etc/hikae/freeze.d/one", Phase: phase, Output: "said\n"}}, nil
}

func (in *inside) Index(_ context.Context, _ wire.IndexArgs, to io.Writer) (wire.IndexAnswer, error) {
	n, err := io.WriteString(to, in.index)
	return wire.IndexAnswer{Entries: 7, Bytes: int64(n)}, err
}

func (in *inside) options() *agent.Options {
	return &agent.Options{Product: "hikae-agent 1.0.0", Admin: true, Freezer: in, Applications: in, Scripts: scripts{in}, Indexer: in}
}

// machine is a deployer whose components run in this process.
type machine struct {
	name     string
	in       *inside
	report   *Report
	probeErr error
	deploy   []error // of one deployment after the other; none: they succeed
	deploys  int
	kinds    []Kind
	wrap     func(io.ReadWriteCloser) io.ReadWriteCloser // around each link
	leftover bool
	persist  Persistent
}

func (m *machine) Name() string                           { return m.name }
func (m *machine) Persistent() Persistent                 { return m.persist }
func (m *machine) Probe(context.Context) (*Report, error) { return m.report, m.probeErr }

func (m *machine) Deploy(ctx context.Context, kinds []Kind, opts *DeployOptions) (*Deployed, error) {
	m.deploys, m.kinds = m.deploys+1, kinds
	if m.deploys <= len(m.deploy) && m.deploy[m.deploys-1] != nil {
		return nil, m.deploy[m.deploys-1]
	}
	stream, done := m.in.start()
	if m.wrap != nil {
		stream = m.wrap(stream)
	}
	c, err := Dial(ctx, stream, &ComponentOptions{Session: opts.Session, Lease: opts.Lease})
	if err != nil {
		<-done
		return nil, err
	}
	return NewDeployed(c, kinds[0], func(ctx context.Context) error {
		c.Remove(ctx)
		c.Close()
		<-done
		if m.leftover {
			return fmt.Errorf("%w: /tmp/hikae-x", ErrLeftover)
		}
		return nil
	}), nil
}

// start starts a component; done is closed when it has ended.
func (in *inside) start() (io.ReadWriteCloser, <-chan struct{}) {
	far, near := net.Pipe()
	done := make(chan struct{})
	in.open.Add(1)
	go func() {
		defer close(done)
		defer in.open.Add(-1)
		_ = agent.New(in.options()).Serve(context.Background(), far)
	}()
	return near, done
}

func linux(kinds ...Kind) *Report {
	r := &Report{Guest: "web1"}
	for _, k := range kinds {
		r.Ways = append(r.Ways, Finding{Kind: k, Open: true, System: System{OS: "linux", Arch: "amd64", Admin: true}})
	}
	return r
}

func newInside() *inside {
	return &inside{apps: []wire.Application{{Kind: "postgresql", Name: "main"}, {Kind: "mariadb", Name: "db"}}, mounts: []string{"/"},
		bad: map[string]string{}, records: []wire.Record{{Kind: "postgresql", Name: "main", File: "backup_label", Content: []byte("label")}}}
}

func newSession(t *testing.T, opts SessionOptions, machines ...Deployer) (*Session, *[]string) {
	t.Helper()
	var steps []string
	opts.Guest, opts.ID = "web1", "s1"
	opts.Events = func(e Event) { steps = append(steps, e.Step) }
	s, err := NewSession(machines, &opts)
	require.NoError(t, err)
	return s, &steps
}

// R119, R183–R188, R144: the whole story of one guest, in its order.
func TestSessionStory(t *testing.T) {
	in := newInside()
	in.index = listed(t, 50_000)
	m := &machine{name: "backup server", in: in, report: linux(SSH)}
	s, steps := newSession(t, SessionOptions{Truncate: true, Index: &wire.IndexArgs{}}, m)
	require.NoError(t, s.Begin(t.Context()))
	require.Equal(t, "prepare", in.story())
	require.NoError(t, s.Freeze(t.Context()))
	require.NoError(t, s.Thaw(t.Context()))
	require.Equal(t, "prepare script-freeze hold freeze thaw resume script-thaw", in.story(), "nothing else between the two")
	require.NoError(t, s.Finish(t.Context()))

	kept := map[string]string{}
	put := func(name string, r io.Reader) error {
		b, err := io.ReadAll(r)
		kept[name] = string(b)
		return err
	}
	require.NoError(t, s.Keep(t.Context(), put))
	require.Equal(t, "label", kept["guest/records/000-postgresql-main/backup_label"])
	x, err := index.Open(t.Context(), strings.NewReader(kept["guest/index"]), int64(len(kept["guest/index"])))
	require.NoError(t, err)
	require.EqualValues(t, 50_000, x.Volumes()[0].Entries)
	require.Contains(t, kept["guest/guest.json"], `"consistency": "application"`)
	require.NoError(t, s.Keep(t.Context(), put), "again, where the point is begun anew")

	require.NoError(t, s.Settle(t.Context(), true))
	require.NoError(t, s.Close(t.Context()))
	require.NoError(t, s.Close(t.Context()))
	require.True(t, strings.HasSuffix(in.story(), "finish settle-true-true close"), in.story())
	require.Zero(t, in.open.Load())

	reached, r := s.Reached()
	require.Equal(t, hikae.Application, reached)
	require.Equal(t, "ssh, from backup server", r.Way)
	require.Equal(t, "runtime component: hikae-agent 1.0.0", r.Component)
	require.Equal(t, []string{"/"}, r.Frozen)
	require.Equal(t, []AppRun{{Kind: "postgresql", Name: "main", OK: true}, {Kind: "mariadb", Name: "db", OK: true}}, r.Applications)
	require.Equal(t, int64(7), r.Files)
	require.Empty(t, r.Warnings)
	require.Contains(t, strings.Join(r.Notes, "\n"), "script /etc/hikae/freeze.d/one (freeze): exit code 0 in 0 ms: said")
	require.Equal(t, "probe probe decide deploy inspect prepare finish index index settle remove", strings.Join(*steps, " "))
}

// R192, R193, R194: what a guest that cannot be reached becomes.
func TestSessionPolicies(t *testing.T) {
	closed := &Report{Ways: []Finding{{Kind: SSH, Step: "login", Problem: "refused", Hint: "another key"}}}
	for _, p := range []Policy{Require, Try, Disable} {
		s, _ := newSession(t, SessionOptions{Processing: p}, &machine{name: "here", report: closed})
		err := s.Begin(t.Context())
		if p == Require {
			require.ErrorIs(t, err, ErrNoWay)
			require.ErrorContains(t, err, "guest web1: find: from here")
			require.ErrorContains(t, err, "login: refused (another key)")
			require.NoError(t, s.Settle(t.Context(), false))
			require.NoError(t, s.Close(t.Context()))
			continue
		}
		require.NoError(t, err, p)
		require.ErrorIs(t, s.Freeze(t.Context()), ErrSkipped, "the provider must not take it for frozen")
		require.NoError(t, s.Thaw(t.Context()))
		require.NoError(t, s.Finish(t.Context()))
		require.NoError(t, s.Keep(t.Context(), nil))
		require.NoError(t, s.Settle(t.Context(), true))
		require.NoError(t, s.Close(t.Context()))
		reached, r := s.Reached()
		require.Equal(t, hikae.Crash, reached)
		if p == Try {
			require.Contains(t, strings.Join(r.Warnings, "\n"), "refused")
		} else {
			require.Contains(t, strings.Join(r.Notes, "\n"), "disabled")
		}
	}
	_, err := NewSession(nil, nil)
	require.ErrorIs(t, err, ErrNoWay)
	_, err = NewSession(nil, &SessionOptions{Processing: "perhaps"})
	require.Error(t, err)
}

// R139, R140, R169, R170: a proxy that fails for any reason, and the backup server takes its place.
func TestSessionFailsOver(t *testing.T) {
	for name, proxy := range map[string]*machine{
		"unreachable":       {name: "proxy1", probeErr: errors.New("connection refused")},
		"does not reach it": {name: "proxy1", report: &Report{Ways: []Finding{{Kind: SSH, Problem: "no route"}}}},
		"deployment fails":  {name: "proxy1", report: linux(SSH), deploy: []error{errors.New("no space left")}},
		"no ways at all":    {name: "proxy1", report: &Report{}},
	} {
		in := newInside()
		here := &machine{name: "backup server", in: in, report: linux(SSH)}
		s, steps := newSession(t, SessionOptions{}, proxy, here)
		require.NoError(t, s.Begin(t.Context()), name)
		_, r := s.Reached()
		require.Equal(t, "ssh, from backup server", r.Way, name)
		require.Contains(t, strings.Join(r.Warnings, "\n"), "from proxy1", name)
		require.Contains(t, *steps, "fail over")
		require.NoError(t, s.Close(t.Context()))
	}

	// What may be left in the guest is not hidden by another machine's work.
	left := &machine{name: "proxy1", report: linux(SSH), deploy: []error{fmt.Errorf("%w: /tmp/hikae-x", ErrLeftover)}}
	here := &machine{name: "backup server", in: newInside(), report: linux(SSH)}
	s, _ := newSession(t, SessionOptions{}, left, here)
	require.ErrorIs(t, s.Begin(t.Context()), ErrLeftover)
	require.Zero(t, here.deploys)
	require.NoError(t, s.Close(t.Context()))
}

// cutter breaks a link after so many bytes in either direction.
type cutter struct {
	io.ReadWriteCloser
	left *atomic.Int64
}

func (c cutter) Write(p []byte) (int, error) {
	if c.left.Add(-1) < 0 {
		c.Close()
		return 0, io.ErrClosedPipe
	}
	return c.ReadWriteCloser.Write(p)
}

// R189, R190: the link to the guest is cut at each message in turn. It is made anew exactly once, and the second cut is
// the end; nothing of the component stays in either case.
func TestSessionLinkCutAtEveryMessage(t *testing.T) {
	for cuts := 1; cuts <= 2; cuts++ {
		sawCut := false
		for at := int64(1); ; at++ {
			whole := false
			bubble.Test(t, func(t *testing.T) {
				in := newInside()
				m := &machine{name: "here", in: in, report: linux(SSH)}
				left := cuts
				m.wrap = func(s io.ReadWriteCloser) io.ReadWriteCloser {
					n := &atomic.Int64{}
					n.Store(1 << 40)
					if left > 0 {
						n.Store(at)
					}
					left--
					return cutter{s, n}
				}
				s, steps := newSession(t, SessionOptions{}, m)
				began := time.Now()
				err := s.Begin(t.Context())
				reconnects := strings.Count(strings.Join(*steps, " "), "reconnect")
				switch {
				case m.deploys == 1 && err == nil: // the cut would come later than Begin
					whole = true
				case cuts == 1:
					sawCut = true
					require.NoError(t, err, "cut at %d", at)
					require.Equal(t, 2, m.deploys)
					require.Equal(t, 1, reconnects)
					require.Equal(t, time.Second, time.Since(began), "the back-off")
				default:
					sawCut = true
					require.ErrorIs(t, err, ErrLost, "cut at %d", at)
					require.Equal(t, 2, m.deploys)
					require.Equal(t, 1, reconnects)
				}
				require.NoError(t, s.Close(t.Context()))
				synctest.Wait()
				require.Zero(t, in.open.Load())
			})
			if whole {
				break
			}
		}
		require.True(t, sawCut)
	}
}

// R190: a link that breaks while a component is brought in is made anew once by whoever deploys, and one that is closed for
// another reason is not tried again. Sessions take it from the same account.
func TestHereReconnectsOnce(t *testing.T) {
	for step, opens := range map[string]int{"connect": 2, "link": 2, "login": 1, "host key": 1, "resolve": 1} {
		bubble.Test(t, func(t *testing.T) {
			n := 0
			way := &fixedWay{finding: Finding{Kind: SSH, Open: true, System: System{OS: "linux"}}, open: func(context.Context) (Channel, error) {
				n++
				return nil, &WayError{Kind: SSH, Step: step, Problem: "closed"}
			}}
			h := &Here{Guest: "web1", Ways: []Way{way}}
			began := time.Now()
			_, err := h.Deploy(t.Context(), []Kind{SSH, QGA}, nil)
			var closed *WayError
			require.ErrorAs(t, err, &closed)
			require.Equal(t, opens, n, step)
			require.Equal(t, time.Duration(opens-1)*time.Second, time.Since(began), step)

			n = 0
			s, _ := newSession(t, SessionOptions{}, h)
			require.ErrorAs(t, s.Begin(t.Context()), &closed)
			require.Equal(t, opens, n, step)
		})
	}
	_, err := (&Here{Guest: "web1"}).Deploy(t.Context(), []Kind{SSH}, nil)
	require.ErrorIs(t, err, ErrNoWay)
}

// After Freeze was asked for, nothing is made anew: what was frozen thaws by itself, and the result says what it is.
func TestSessionLinkLostWhileFrozen(t *testing.T) {
	for _, p := range []Policy{Require, Try} {
		in := newInside()
		m := &machine{name: "here", in: in, report: linux(SSH)}
		var link io.Closer
		m.wrap = func(s io.ReadWriteCloser) io.ReadWriteCloser { link = s; return s }
		s, _ := newSession(t, SessionOptions{Processing: p}, m)
		require.NoError(t, s.Begin(t.Context()))
		require.NoError(t, s.Freeze(t.Context()))
		link.Close()
		require.ErrorIs(t, s.Thaw(t.Context()), ErrLost)
		err := s.Finish(t.Context())
		if p == Require {
			require.ErrorIs(t, err, ErrLost)
		} else {
			require.NoError(t, err)
		}
		require.NoError(t, s.Settle(t.Context(), false))
		require.NoError(t, s.Close(t.Context()))
		require.Equal(t, 1, m.deploys)
		require.Contains(t, in.story(), "thaw resume", "the component does it by itself")
		reached, r := s.Reached()
		require.Equal(t, hikae.Crash, reached)
		require.Contains(t, strings.Join(r.Notes, "\n"), "lost")
		require.Equal(t, p == Try, len(r.Warnings) > 0)
	}
}

func TestSessionThawedEarly(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m := &machine{name: "here", in: newInside(), report: linux(SSH)}
		s, _ := newSession(t, SessionOptions{Hold: time.Second}, m)
		require.NoError(t, s.Begin(t.Context()))
		require.NoError(t, s.Freeze(t.Context()))
		time.Sleep(2 * time.Second)
		require.ErrorIs(t, s.Thaw(t.Context()), hikae.ErrThawedEarly)
		require.ErrorIs(t, s.Finish(t.Context()), hikae.ErrThawedEarly, "processing is required")
		reached, _ := s.Reached()
		require.Equal(t, hikae.Crash, reached)
		require.NoError(t, s.Close(t.Context()))
	})
}

// Applications that are not well: the VM's failure, or a warning and a lower consistency.
func TestSessionApplicationsFail(t *testing.T) {
	for _, step := range []string{"prepare", "hold", "resume", "finish"} {
		for _, p := range []Policy{Require, Try} {
			in := newInside()
			in.bad[step] = "db"
			s, _ := newSession(t, SessionOptions{Processing: p}, &machine{name: "here", in: in, report: linux(SSH)})
			err := s.Begin(t.Context())
			if err == nil {
				require.NoError(t, s.Freeze(t.Context()))
				require.NoError(t, s.Thaw(t.Context()))
				err = s.Finish(t.Context())
			}
			require.Equal(t, p == Require, err != nil, "%s %s: %v", step, p, err)
			if p == Try {
				reached, r := s.Reached()
				require.Equal(t, hikae.Filesystem, reached, step)
				require.Contains(t, strings.Join(r.Warnings, "\n"), "mariadb/db: as it was told", step)
				require.True(t, r.Applications[0].OK, "the other one is well")
				require.False(t, r.Applications[1].OK)
			}
			require.NoError(t, s.Close(t.Context()))
		}
	}
}

// R194's like for scripts: a veto ends the freeze, is ignored, or is not asked for.
func TestSessionScripts(t *testing.T) {
	for p, story := range map[Policy]string{
		Require: "prepare script-freeze script-freezeFail",
		Try:     "prepare script-freeze script-freezeFail hold freeze thaw resume",
		Disable: "prepare hold freeze thaw resume",
	} {
		in := newInside()
		in.veto = true
		s, _ := newSession(t, SessionOptions{Scripts: p}, &machine{name: "here", in: in, report: linux(SSH)})
		require.NoError(t, s.Begin(t.Context()))
		err := s.Freeze(t.Context())
		require.NoError(t, s.Thaw(t.Context()))
		require.Equal(t, p == Require, err != nil, p)
		require.Equal(t, story, in.story(), p)
		if p == Require {
			var failure *wire.Failure
			require.ErrorAs(t, s.Finish(t.Context()), &failure)
			require.Equal(t, wire.CodeVeto, failure.Code)
		} else {
			require.NoError(t, s.Finish(t.Context()))
		}
		require.NoError(t, s.Close(t.Context()))
	}
}

// A copy where another tool is seen, and no logs are dropped then.
func TestSessionCopyOnly(t *testing.T) {
	for _, c := range []struct {
		mode CopyMode
		tool bool
		copy bool
	}{{"", false, false}, {"", true, true}, {CopyOnly, false, true}, {CopyFull, true, false}} {
		in := newInside()
		if c.tool {
			in.apps[0].Logs = "no: archive_command runs pgbackrest"
		}
		s, _ := newSession(t, SessionOptions{Copy: c.mode, Truncate: true}, &machine{name: "here", in: in, report: linux(SSH)})
		require.NoError(t, s.Begin(t.Context()))
		require.NoError(t, s.Freeze(t.Context()))
		require.NoError(t, s.Thaw(t.Context()))
		require.NoError(t, s.Finish(t.Context()))
		require.NoError(t, s.Settle(t.Context(), true))
		require.NoError(t, s.Close(t.Context()))
		require.Equal(t, c.copy, strings.Contains(in.story(), "copy"), "%+v", c)
		require.Contains(t, in.story(), fmt.Sprintf("settle-true-%t", !c.copy), "%+v", c)
	}
}

// A persistent component in this process.
type persistentIn struct {
	in        *inside
	finding   PersistentFinding
	installed int
	openErr   error
}

func (p *persistentIn) Probe(context.Context) PersistentFinding { return p.finding }
func (p *persistentIn) Install(context.Context) error           { p.installed++; return nil }
func (p *persistentIn) Open(context.Context) (io.ReadWriteCloser, error) {
	if p.openErr != nil {
		return nil, p.openErr
	}
	stream, _ := p.in.start()
	return stream, nil
}

// R125, R137: persistent components: found while the option is off, installed at the first run, or not to be had.
func TestSessionPersistent(t *testing.T) {
	all := PersistentFinding{Installer: true, Certificates: true, Component: true, Version: "1.0.0"}
	missing := all
	missing.Component = false
	for name, c := range map[string]struct {
		choice    Choice
		finding   PersistentFinding
		openErr   error
		ways      []Kind
		component string
		installed int
		fails     bool
	}{
		"on, and there":                       {Choice{Windows: true, Persistent: true}, all, nil, nil, "persistent", 0, false},
		"on, and missing":                     {Choice{Windows: true, Persistent: true}, missing, nil, nil, "persistent", 1, false},
		"on, and missing, on Linux":           {Choice{Persistent: true}, missing, nil, nil, "persistent", 1, false},
		"on, and missing, strictly, on Linux": {Choice{Persistent: true, Strict: true}, missing, nil, nil, "", 0, true},
		"on, and does not open":               {Choice{Windows: true, Persistent: true}, all, ErrNoWay, []Kind{SMB}, "", 0, true},
		"off, and there":                      {Choice{Windows: true}, all, nil, []Kind{SMB}, "persistent", 0, false},
		"off, and does not open":              {Choice{Windows: true}, all, ErrNoWay, []Kind{SMB}, "runtime", 0, false},
		"off, and does not open, strictly so": {Choice{Windows: true, Strict: true}, all, ErrNoWay, []Kind{SMB}, "", 0, true},
		"off, and missing":                    {Choice{Windows: true}, missing, nil, []Kind{SMB}, "runtime", 0, false},
	} {
		in := newInside()
		p := &persistentIn{in: in, finding: c.finding, openErr: c.openErr}
		r := &Report{Guest: "web1", Persistent: &c.finding}
		for _, k := range c.ways {
			r.Ways = append(r.Ways, Finding{Kind: k, Open: true})
		}
		m := &machine{name: "here", in: in, report: r, persist: p}
		s, _ := newSession(t, SessionOptions{Choice: c.choice}, m)
		err := s.Begin(t.Context())
		require.Equal(t, c.fails, err != nil, "%s: %v", name, err)
		_, res := s.Reached()
		require.True(t, strings.HasPrefix(res.Component, c.component), "%s: %q", name, res.Component)
		require.Equal(t, c.installed, p.installed, name)
		require.NoError(t, s.Close(t.Context()))
		require.Eventually(t, func() bool { return in.open.Load() == 0 }, 5*time.Second, time.Millisecond, name)
	}
}

// What cannot be removed is said, and looked for again.
func TestSessionLeftover(t *testing.T) {
	m := &machine{name: "here", in: newInside(), report: linux(SSH), leftover: true}
	s, _ := newSession(t, SessionOptions{}, m)
	require.NoError(t, s.Begin(t.Context()))
	require.ErrorIs(t, s.Close(t.Context()), ErrLeftover)
	m.leftover = false
	require.NoError(t, s.Close(t.Context()))
}

// Names that a guest gives to its records stay below guest/records/.
func TestRecordNames(t *testing.T) {
	for i, file := range []string{"../../etc/passwd", "/etc/passwd", "..", "", ".hidden", "a\x00b", `C:\x`, strings.Repeat("x", 5000), "\u202egnp"} {
		name := recordName(i, wire.Record{Kind: "../k", Name: "n/../../m", File: file})
		require.Regexp(t, `^guest/records/00[0-9]-[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$`, name)
	}
}

// listed is a list of so many files, as a component sends it.
func listed(t *testing.T, files int) string {
	t.Helper()
	var out bytes.Buffer
	w := list.NewWriter(&out)
	require.NoError(t, w.Volume(list.Volume{Mount: "/", System: list.POSIX}))
	for i := range files {
		require.NoError(t, w.Add(list.Entry{Path: fmt.Sprintf("file%06d", i), Size: int64(i)}))
	}
	require.NoError(t, w.Close())
	return out.String()
}

// A list that is none is the guest's failure, which the policy judges; the point goes on without.
func TestSessionIndexMalformed(t *testing.T) {
	whole := listed(t, 50_000)
	for _, sent := range []string{"", "no list", whole[:len(whole)/2], whole + "x"} {
		in := newInside()
		in.index = sent
		s, _ := newSession(t, SessionOptions{Processing: Try, Index: &wire.IndexArgs{}}, &machine{name: "here", in: in, report: linux(SSH)})
		require.NoError(t, s.Begin(t.Context()))
		require.NoError(t, s.Keep(t.Context(), func(_ string, r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		}))
		_, result := s.Reached()
		require.Contains(t, strings.Join(result.Warnings, "\n"), "not a list of files")
		require.NoError(t, s.Close(t.Context()))
	}
}

// Keep ends with the point's own error, and lets the component's stream go.
func TestSessionKeepFails(t *testing.T) {
	in := newInside()
	in.index = listed(t, 50_000)
	s, _ := newSession(t, SessionOptions{Index: &wire.IndexArgs{}}, &machine{name: "here", in: in, report: linux(SSH)})
	require.NoError(t, s.Begin(t.Context()))
	full := errors.New("no space in the repository")
	err := s.Keep(t.Context(), func(name string, r io.Reader) error {
		if name == "guest/index" {
			_, _ = io.CopyN(&bytes.Buffer{}, r, 10)
			return full
		}
		return nil
	})
	require.ErrorIs(t, err, full)
	require.NoError(t, s.Close(t.Context()))
}
