package hyperv

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// memory is a journal that keeps what was ever written down.
type memory struct {
	*note
	mu  sync.Mutex
	all []hikae.Effect
}

func (m *memory) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	m.mu.Lock()
	m.all = append(m.all, e)
	m.mu.Unlock()
	return m.note.Intend(ctx, e)
}

// older is an effect as a session left it that died a while ago, when nothing is late in listings any more.
func older(e hikae.Effect) hikae.Effect {
	if e.Facts["begun"] == "" {
		return e
	}
	e.Facts["begun"] = time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
	return e
}

// last is the newest effect that was written down of a kind, and that a test picks.
func (m *memory) last(kind string, is func(facts map[string]string) bool) (hikae.Effect, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range slices.Backward(m.all) {
		if e.Kind == kind && is(e.Facts) {
			return e, true
		}
	}
	return hikae.Effect{}, false
}

// candidatesOf are those that an error names, by id.
func candidatesOf(t *testing.T, err error) (ids []string) {
	t.Helper()
	var unproven *UnprovenError
	require.ErrorAs(t, err, &unproven)
	require.NotEmpty(t, unproven.Hint)
	for _, c := range unproven.Candidates {
		require.NotEmpty(t, c.Name)
		require.WithinDuration(t, time.Now(), c.Made, time.Minute)
		ids = append(ids, strings.TrimPrefix(c.ID, "Microsoft:"))
	}
	return ids
}

// Trap 1, 14: the answer to the call that makes the checkpoint is lost, and the host keeps no names. Whether it made ours, or another
// product made one at that moment, nothing tells: it is neither taken nor renamed nor removed, a person is told which it is, and the
// effect ends by itself when it is gone.
func TestUnprovenCheckpoint(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*lab, *hypervtest.Guest) hypervtest.Fault{
		"ours": func(*lab, *hypervtest.Guest) hypervtest.Fault {
			return hypervtest.Fault{Call: "CreateSnapshot", Failure: &hypervtest.Failure{Lose: true}}
		},
		"another product's": func(l *lab, g *hypervtest.Guest) hypervtest.Fault {
			return hypervtest.Fault{Call: "CreateSnapshot", Failure: &hypervtest.Failure{Cut: true}, Do: func() { anothersCheckpoint(l, g) }}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, hypervtest.Options{DropNames: true})
			g, p, j := l.vm("web1", nil), l.provider(&ProviderOptions{CheckpointLimit: 4 * time.Second}), newNote()
			l.fake.Fail(fault(l, g))
			_, _, err := l.backup(p, g, nil, j)
			require.Equal(t, g.Checkpoints(), candidatesOf(t, err))
			require.Len(t, g.Checkpoints(), 1)
			require.Len(t, j.left(), 1)

			e := older(j.left()[0])
			for range 2 {
				require.Equal(t, g.Checkpoints(), candidatesOf(t, p.Undo(t.Context(), e, nil)))
			}
			require.Len(t, g.Checkpoints(), 1)
			require.NoError(t, g.RemoveCheckpoint(g.Checkpoints()[0]))
			require.NoError(t, p.Undo(t.Context(), e, nil))
			pt, _, err := l.backup(l.provider(nil), g, nil, newNote())
			require.NoError(t, err)
			l.clean(g, refs(pt)...)
		})
	}
}

// The same on a host that keeps names: ours is known by it, whatever another product does at that moment.
func TestLostAnswerOfAHostThatKeepsNames(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p, j := l.vm("web1", nil), l.provider(nil), newNote()
	l.fake.Fail(hypervtest.Fault{Call: "CreateSnapshot", Failure: &hypervtest.Failure{Lose: true}})
	pt, s, err := l.backup(p, g, nil, j)
	require.NoError(t, err)
	require.Empty(t, j.left())
	l.same(g, pt)
	l.clean(g, refs(pt)...)
	require.Equal(t, hikae.Crash, pt.consistency, "nobody said that the guest was quiesced")
	require.NotEmpty(t, s.(*snapshot).Warnings())

	l.fake.Fail(hypervtest.Fault{Call: "CreateSnapshot", Failure: &hypervtest.Failure{Lose: true}})
	_, _, err = l.backup(l.provider(&ProviderOptions{Quiesce: RequireQuiesce}), g, nil, j)
	var quiesce *hikae.QuiesceError
	require.ErrorAs(t, err, &quiesce)
	require.Empty(t, j.left())
	l.clean(g, refs(pt)...)
}

// A session dies while the host makes its checkpoint: the job that it started tells a sweep which one it is, also where the host keeps
// no names and another product made one since. What was removed is named.
func TestSweepByJob(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{DropNames: true})
	g, j := l.vm("web1", nil), &memory{note: newNote()}
	s, err := l.provider(nil).Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: j})
	require.NoError(t, err)
	ours := g.Checkpoints()[0]
	foreign, _ := anothersCheckpoint(l, g)
	dead, ok := j.last(kindCheckpoint, func(f map[string]string) bool { return f["checkpoint"] == "" && f["job"] != "" })
	require.True(t, ok)
	// Not even the name may help.
	h, err := l.site.Owner(t.Context(), g.ID())
	require.NoError(t, err)
	in, err := s.(*snapshot).marked.look(t.Context(), h)
	require.NoError(t, err)
	blank := *s.(*snapshot).marked
	blank.mark, blank.name = strings.Repeat("a", 26), "renamed by a person"
	require.NoError(t, blank.giveName(t.Context(), h, in))

	var swept []string
	p := l.provider(&ProviderOptions{Swept: func(_, what string) { swept = append(swept, what) }})
	require.NoError(t, p.Undo(t.Context(), dead, nil))
	require.Equal(t, []string{strings.TrimPrefix(foreign, "Microsoft:")}, g.Checkpoints())
	require.Len(t, swept, 1)
	require.Contains(t, swept[0], ours)
}

// A session dies while the host turns its checkpoint into a reference point: the job tells which one it is, and another product's stays.
func TestSweepOfAReferencePointByJob(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p, j := l.vm("web1", nil), l.provider(nil), &memory{note: newNote()}
	base, _, err := l.backup(p, g, nil, newNote())
	require.NoError(t, err)
	s, err := p.Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: j, Since: base.ids, Repository: "repo"})
	require.NoError(t, err)
	_, err = s.Prepare(t.Context())
	require.NoError(t, err)
	_, convert := anothersCheckpoint(l, g)
	foreign := convert()
	dead, ok := j.last(kindReference, func(f map[string]string) bool { return f["reference"] == "" && f["job"] != "" })
	require.True(t, ok)
	require.NoError(t, p.Undo(t.Context(), dead, tracking(base)))
	require.ElementsMatch(t, append(refs(base), foreign), l.fake.ReferencePoints(g.ID()))
}

func tracking(points ...*point) (ids []hikae.ChangeID) {
	for _, pt := range points {
		for _, id := range pt.ids {
			ids = append(ids, id)
		}
	}
	return ids
}
