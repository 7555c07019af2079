package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/internal/bubble"
)

// equipped is a machine whose components have parts of the test's own.
type equipped struct {
	*machine
	opts *agent.Options
}

func (m *equipped) Deploy(ctx context.Context, kinds []Kind, opts *DeployOptions) (*Deployed, error) {
	far, near := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); _ = agent.New(m.opts).Serve(context.Background(), far) }()
	c, err := Dial(ctx, near, nil)
	if err != nil {
		return nil, err
	}
	return NewDeployed(c, kinds[0], func(ctx context.Context) error { c.Remove(ctx); c.Close(); <-done; return nil }), nil
}

// R144, R187: logs are dropped for a point that the applications can go back to, and for no other.
func TestSessionKeepsLogsOfLesserPoints(t *testing.T) {
	for _, step := range []string{"prepare", "hold", "resume", "finish", "none is frozen", "nobody asked", ""} {
		in := newInside()
		in.bad[step] = "main"
		if step == "none is frozen" {
			in.mounts = nil
		}
		s, _ := newSession(t, SessionOptions{Truncate: true, Processing: Try}, &machine{name: "here", in: in, report: linux(SSH)})
		require.NoError(t, s.Begin(t.Context()))
		if step != "nobody asked" {
			require.NoError(t, s.Freeze(t.Context()))
			require.NoError(t, s.Thaw(t.Context()))
		}
		require.NoError(t, s.Finish(t.Context()))
		require.NoError(t, s.Settle(t.Context(), true))
		reached, _ := s.Reached()
		require.NoError(t, s.Close(t.Context()))
		require.Equal(t, step == "", reached == hikae.Application, step)
		require.Equal(t, step == "", strings.Contains(in.story(), "settle-true-true"), step)
		require.Equal(t, step != "", strings.Contains(in.story(), "settle-false-false"), step)
	}
}

// R192: a provider that does not ask for a freeze is a failure like any other.
func TestSessionNobodyAsked(t *testing.T) {
	for _, p := range []Policy{Require, Try} {
		s, _ := newSession(t, SessionOptions{Processing: p}, &machine{name: "here", in: newInside(), report: linux(SSH)})
		require.NoError(t, s.Begin(t.Context()))
		err := s.Finish(t.Context())
		_, r := s.Reached()
		require.Equal(t, p == Require, errors.Is(err, ErrNotAsked))
		require.Equal(t, p == Try, strings.Contains(strings.Join(r.Warnings, ""), ErrNotAsked.Error()))
		require.NoError(t, s.Close(t.Context()))
	}
}

// failing are scripts of which one after the thaw fails.
type failing struct{ scripts }

func (s failing) Run(ctx context.Context, phase string, limit int64) ([]wire.ScriptResult, error) {
	list, err := s.scripts.Run(ctx, phase, limit)
	if phase == "thaw" {
		list[0].ExitCode = 1
	}
	return list, err
}

// R194's like for scripts: they are judged by their own policy, before a freeze and after a thaw.
func TestSessionJudgesScriptsByTheirPolicy(t *testing.T) {
	for _, veto := range []bool{true, false} {
		for _, processing := range []Policy{Require, Try} {
			for _, p := range []Policy{Require, Try} {
				in := newInside()
				in.veto = veto
				opts := in.options()
				if !veto {
					opts.Scripts = failing{scripts{in}}
				}
				s, _ := newSession(t, SessionOptions{Scripts: p, Processing: processing},
					&equipped{&machine{name: "here", in: in, report: linux(SSH)}, opts})
				require.NoError(t, s.Begin(t.Context()))
				require.Equal(t, veto && p == Require, s.Freeze(t.Context()) != nil)
				require.NoError(t, s.Thaw(t.Context()))
				err := s.Finish(t.Context())
				_, r := s.Reached()
				require.NoError(t, s.Close(t.Context()))
				require.Equal(t, p == Require, err != nil, "veto %t, processing %s, scripts %s: %v", veto, processing, p, err)
				require.Equal(t, p == Try || !veto, strings.Contains(strings.Join(r.Warnings, ""), "script"))
			}
		}
	}
}

// mute never sends its index, or fails with it.
type mute struct {
	*inside
	err error
}

func (m mute) Index(ctx context.Context, _ wire.IndexArgs, _ io.Writer) (wire.IndexAnswer, error) {
	if m.err == nil {
		<-ctx.Done()
	}
	return wire.IndexAnswer{}, errors.Join(m.err, ctx.Err())
}

// An index that cannot be made, or does not come, is a warning whatever the policy, and holds the point for a minute.
func TestSessionIndexFails(t *testing.T) {
	for _, fails := range []error{nil, io.ErrUnexpectedEOF} {
		bubble.Test(t, func(t *testing.T) {
			in := newInside()
			opts := in.options()
			opts.Indexer = mute{in, fails}
			s, _ := newSession(t, SessionOptions{Index: &wire.IndexArgs{}}, &equipped{&machine{name: "here", in: in, report: linux(SSH)}, opts})
			require.NoError(t, s.Begin(t.Context()))
			began := time.Now()
			require.NoError(t, s.Keep(t.Context(), func(_ string, r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }))
			require.LessOrEqual(t, time.Since(began), stallLimit)
			_, r := s.Reached()
			require.Contains(t, strings.Join(r.Warnings, ""), "index")
			if fails == nil {
				require.Contains(t, strings.Join(r.Warnings, ""), ErrStalled.Error())
			}
			require.NoError(t, s.Close(t.Context()))
		})
	}
}

// A guest is full of applications: what is said of them can still be read.
func TestSessionManyProblems(t *testing.T) {
	in := newInside()
	name := strings.Repeat("n", 40)
	for range 5000 {
		in.apps = append(in.apps, wire.Application{Kind: "k", Name: name})
	}
	in.bad["prepare"] = name
	s, _ := newSession(t, SessionOptions{}, &machine{name: "here", in: in, report: linux(SSH)})
	err := s.Begin(t.Context())
	require.ErrorContains(t, err, "and 4980 more")
	require.Less(t, len(err.Error()), 8<<10)
	require.NoError(t, s.Settle(t.Context(), false))
	require.NoError(t, s.Close(t.Context()))
}

// R125, as published: where the option is on and a Linux guest's component does not open, the way is SSH.
func TestSessionLinuxPersistentGoesOnToSSH(t *testing.T) {
	for _, strict := range []bool{false, true} {
		finding := PersistentFinding{Installer: true, Certificates: true, Component: true}
		r := linux(SSH)
		r.Persistent = &finding
		in := newInside()
		m := &machine{name: "here", in: in, report: r, persist: &persistentIn{in: in, finding: finding, openErr: errors.New("it was changed on the disk")}}
		s, _ := newSession(t, SessionOptions{Choice: Choice{Persistent: true, Strict: strict}}, m)
		require.NoError(t, s.Begin(t.Context()))
		_, res := s.Reached()
		require.True(t, strings.HasPrefix(res.Component, "runtime"), res.Component)
		require.Contains(t, strings.Join(res.Warnings, ""), "it was changed on the disk")
		require.NoError(t, s.Close(t.Context()))
	}
}

// R189, R190: a link that breaks between Begin and Freeze is made anew, and the second time is the end.
func TestSessionLinkLostBeforeFreeze(t *testing.T) {
	for cuts := 1; cuts <= 2; cuts++ {
		bubble.Test(t, func(t *testing.T) {
			m := &machine{name: "here", in: newInside(), report: linux(SSH)}
			links := []io.Closer{}
			m.wrap = func(s io.ReadWriteCloser) io.ReadWriteCloser {
				if links = append(links, s); len(links) == 2 && cuts == 2 {
					s.Close()
				}
				return s
			}
			s, _ := newSession(t, SessionOptions{}, m)
			require.NoError(t, s.Begin(t.Context()))
			links[0].Close()
			err := s.Freeze(t.Context())
			require.NoError(t, s.Thaw(t.Context()))
			require.Equal(t, 2, m.deploys)
			if cuts == 1 {
				require.NoError(t, err)
				require.NoError(t, s.Finish(t.Context()))
				reached, _ := s.Reached()
				require.Equal(t, hikae.Application, reached)
			} else {
				require.ErrorIs(t, err, ErrLost)
				require.ErrorIs(t, s.Finish(t.Context()), ErrLost)
			}
			require.NoError(t, s.Close(t.Context()))
		})
	}
}
