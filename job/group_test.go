package job

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe/pipetest"
)

func grouped(t *testing.T, h *groupHost) *Grouped {
	t.Helper()
	g, err := NewGrouped(t.Context(), h, h.order, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, g.Close(context.Background()))
		volumes, snapshots := h.left()
		require.Zero(t, volumes)
		require.Zero(t, snapshots)
	})
	return g
}

// R099, R197: VMs of a job share one snapshot of their volume, each has the state of that moment however late its turn comes, and
// the volume snapshot goes with the last VM.
func TestGroupSharesOneSnapshot(t *testing.T) {
	h, b := newGroupHost(3), newRepository(t)
	g := grouped(t, h)
	require.Equal(t, [][]string{h.order}, g.Groups())
	want := map[string][]byte{}
	for _, id := range h.order {
		want[id] = h.vms[id].content("d0")
	}
	var first time.Time
	for i, id := range h.order {
		res, err := Backup(t.Context(), g, id, b, nil)
		require.NoError(t, err)
		require.Empty(t, res.Warnings)
		requireDisk(t, b, res.Point, "d0", want[id])
		info, err := FindPoint(t.Context(), b, res.Point)
		require.NoError(t, err)
		if i == 0 {
			first = info.Time
		}
		require.Equal(t, first, info.Time, "all are of the moment at which the group was pinned")
		volumes, _ := h.left()
		require.Equal(t, i < 2, volumes == 1, "after %d of 3 VMs", i+1)
		for _, other := range h.order {
			scribble(h.vms[other], rand.New(rand.NewPCG(uint64(i), 3)), "d0", 4) // guests go on
		}
	}
	require.Equal(t, []string{"group [vm-1 vm-2 vm-3]", "release vm-1", "release vm-2", "release vm-3", "volume deleted"}, h.heard())
}

// The next job's groups build on what this one made: each part is told its own base.
func TestGroupIncrements(t *testing.T) {
	h, b := newGroupHost(2), newRepository(t)
	for round := range 3 {
		g := grouped(t, h)
		for _, id := range h.order {
			res, err := Backup(t.Context(), g, id, b, nil)
			require.NoError(t, err)
			if round > 0 {
				require.Equal(t, Changed, res.Disks[0].Method, "%v", res.Fallbacks)
				require.Len(t, h.late[id], 2)
				require.Equal(t, h.late[id], h.past[id])
			}
			requireDisk(t, b, res.Point, "d0", h.vms[id].content("d0"))
		}
		for _, id := range h.order {
			scribble(h.vms[id], rand.New(rand.NewPCG(uint64(round), 3)), "d0", 4)
		}
	}
}

func TestGroupAtOnce(t *testing.T) {
	h := newGroupHost(6)
	g := grouped(t, h)
	var wg sync.WaitGroup
	for _, id := range h.order {
		wg.Go(func() {
			s, err := g.Snapshot(t.Context(), id, nil)
			if !errorless(t, err) {
				return
			}
			errorless(t, s.Release(t.Context()))
		})
	}
	wg.Wait()
	groups := 0
	for _, e := range h.heard() {
		if strings.HasPrefix(e, "group") {
			groups++
		}
		require.False(t, strings.HasPrefix(e, "alone"), e)
	}
	require.Equal(t, 1, groups)
}

func errorless(t *testing.T, err error) bool {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

// R099: a VM that fails stops nobody else, and keeps nothing.
func TestGroupOneVMFails(t *testing.T) {
	h, b := newGroupHost(3), newRepository(t)
	h.failVM["vm-2"] = pipetest.ErrFault
	g := grouped(t, h)
	for _, id := range h.order {
		_, err := Backup(t.Context(), g, id, b, nil)
		if id == "vm-2" {
			require.ErrorIs(t, err, pipetest.ErrFault)
			continue
		}
		require.NoError(t, err)
	}
	require.Equal(t, []string{"group [vm-1 vm-2 vm-3]", "release vm-1", "release vm-3", "volume deleted"}, h.heard())

	delete(h.failVM, "vm-2") // who tries again is pinned by itself
	res, err := Backup(t.Context(), g, "vm-2", b, nil)
	require.NoError(t, err)
	require.Contains(t, strings.Join(res.Warnings, "\n"), "handed out before")
}

// A group that fails as a whole leaves each VM its own try.
func TestGroupFailsAsAWhole(t *testing.T) {
	h, b := newGroupHost(3), newRepository(t)
	h.fail = errors.New("the writer is out of order")
	g := grouped(t, h)
	for _, id := range h.order {
		res, err := Backup(t.Context(), g, id, b, nil)
		require.NoError(t, err)
		require.Contains(t, strings.Join(res.Warnings, "\n"), "could not be pinned together: the writer is out of order")
	}
	require.Equal(t, 1, countOf(h.heard(), "group [vm-1 vm-2 vm-3]"), "it is not tried again")
	require.Equal(t, 3, countOf(h.heard(), "volume deleted"))
}

func countOf(list []string, what string) (n int) {
	for _, s := range list {
		if s == what {
			n++
		}
	}
	return n
}

// Parts that nobody asked for are released by Close, and nobody is let in afterwards.
func TestGroupCloseReleasesWhatNobodyAskedFor(t *testing.T) {
	h := newGroupHost(3)
	g, err := NewGrouped(t.Context(), h, h.order, nil)
	require.NoError(t, err)
	s, err := g.Snapshot(t.Context(), "vm-2", nil)
	require.NoError(t, err)

	h.vms["vm-3"].hook = failing("release", 2) // of a part, twice: Close can be called again
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, g.Close(cancelled), pipetest.ErrFault)
	require.NoError(t, g.Close(cancelled))
	volumes, snapshots := h.left()
	require.Equal(t, [2]int{1, 1}, [2]int{volumes, snapshots}, "a session reads its part still")
	require.NoError(t, s.Release(t.Context()))
	volumes, snapshots = h.left()
	require.Equal(t, [2]int{}, [2]int{volumes, snapshots})
	_, err = g.Snapshot(t.Context(), "vm-1", nil)
	require.ErrorIs(t, err, fs.ErrClosed)
}

// failing fails the first calls of an operation.
func failing(op string, times int) func(string) error {
	return func(is string) error {
		if is != op || times == 0 {
			return nil
		}
		times--
		return pipetest.ErrFault
	}
}

type noQuiescer struct{}

func (noQuiescer) Freeze(context.Context) error { return nil }
func (noQuiescer) Thaw(context.Context) error   { return nil }

// A VM whose guest is worked in is pinned by itself, whether its group was pinned before or not; so is one for another repository.
func TestGroupWhoIsPinnedAlone(t *testing.T) {
	h := newGroupHost(4)
	g := grouped(t, h)
	take := func(id string, opts *hikae.SnapshotOptions) {
		s, err := g.Snapshot(t.Context(), id, opts)
		require.NoError(t, err)
		require.NoError(t, s.Release(t.Context()))
	}
	take("vm-1", &hikae.SnapshotOptions{Quiescer: noQuiescer{}})
	take("vm-2", &hikae.SnapshotOptions{Repository: "r1"})
	take("vm-3", &hikae.SnapshotOptions{Repository: "r1", Quiescer: noQuiescer{}})
	take("vm-4", &hikae.SnapshotOptions{Repository: "r2"})
	take("vm-2", &hikae.SnapshotOptions{Repository: "r1"})
	require.Equal(t, []string{
		"alone vm-1", "release vm-1", "volume deleted",
		"group [vm-2 vm-3 vm-4]", "release vm-2",
		"release vm-3", "alone vm-3", "release vm-3", "volume deleted",
		"release vm-4", "volume deleted", "alone vm-4", "release vm-4", "volume deleted",
		"alone vm-2", "release vm-2", "volume deleted",
	}, h.heard())
}

// A session that is cancelled while it pins the group takes only itself away; one that waits can be cancelled too.
func TestGroupFirstSessionIsCancelled(t *testing.T) {
	h := newGroupHost(2)
	entered, first := make(chan struct{}), true
	h.gate = func(ctx context.Context) error {
		if !first {
			return nil
		}
		first = false
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	}
	g := grouped(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := g.Snapshot(ctx, "vm-1", nil)
		failed <- err
	}()
	<-entered
	impatient, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	_, err := g.Snapshot(impatient, "vm-2", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	for _, id := range h.order {
		s, err := g.Snapshot(t.Context(), id, nil)
		require.NoError(t, err)
		require.NoError(t, s.Release(t.Context()))
	}
	require.Equal(t, 2, countOf(h.heard(), "group [vm-1 vm-2]"))
}

// A session is cancelled while the group is pinned, and the provider says that a VM failed by itself: its context was over. All is taken
// back, and the other's session pins the group anew.
func TestGroupFailsBecauseItsSessionEnds(t *testing.T) {
	h := newGroupHost(2)
	ctx, cancel := context.WithCancel(t.Context())
	h.failVM["vm-2"] = context.Canceled
	h.gate = func(context.Context) error { cancel(); return nil }
	g := grouped(t, h)
	_, err := g.Snapshot(ctx, "vm-1", nil)
	require.ErrorIs(t, err, context.Canceled)
	volumes, snapshots := h.left()
	require.Equal(t, [2]int{}, [2]int{volumes, snapshots})
	h.failVM, h.gate = nil, nil
	s, err := g.Snapshot(t.Context(), "vm-2", nil)
	require.NoError(t, err, "nobody cancelled this one")
	require.NoError(t, s.Release(t.Context()))
	require.Equal(t, 2, countOf(h.heard(), "group [vm-1 vm-2]"))
}

// A provider may take ids in other letters than its own. Where two that were asked for differ in nothing else they are two VMs.
func TestGroupIDsInOtherLetters(t *testing.T) {
	for _, c := range []struct {
		vm, want string
		asked    []string
	}{
		{"web", "web", []string{"WEB", "web"}},
		{"web", "WEB", []string{"WEB", "db"}},
		{"web", "", []string{"WEB", "Web"}},
		{"web", "", []string{"web2"}},
	} {
		got, ok := askedFor(c.vm, c.asked)
		require.Equal(t, c.want, got, "%v", c)
		require.Equal(t, c.want != "", ok, "%v", c)
	}
}

// A job that is killed leaves effects of all VMs of the group, also of those that were not asked for yet: a sweep undoes all.
func TestGroupKilled(t *testing.T) {
	for after := range 3 {
		h, dir := newGroupHost(3), t.TempDir()
		j, err := hikae.OpenFileJournal(dir)
		require.NoError(t, err)
		g, err := NewGrouped(t.Context(), h, h.order, nil)
		require.NoError(t, err)
		for i := range after + 1 {
			s, err := g.Snapshot(t.Context(), h.order[i], &hikae.SnapshotOptions{Journal: j})
			require.NoError(t, err)
			if i < after {
				require.NoError(t, s.Release(t.Context()))
			}
		}
		require.NoError(t, j.Close()) // as a death does: the session's lock is free, its effects stay
		next, err := hikae.OpenFileJournal(dir)
		require.NoError(t, err)
		undone, err := next.Sweep(t.Context(), map[string]hikae.Sweeper{"group": g}, nil)
		require.NoError(t, err)
		require.Equal(t, 4-after, undone)
		volumes, snapshots := h.left()
		require.Equal(t, [2]int{}, [2]int{volumes, snapshots})
		require.NoError(t, next.Close())
	}
}

// lyingGroups has groups that were not asked for.
type lyingGroups struct {
	*groupHost
	groups [][]string
}

func (l lyingGroups) Group(context.Context, []string) ([][]string, error) { return l.groups, nil }

func TestGroupsAreChecked(t *testing.T) {
	h := newGroupHost(2)
	for _, groups := range [][][]string{{{"vm-1", "vm-9"}}, {{"vm-1", "vm-1"}}, {{"vm-1", "vm-2"}, {"vm-2"}}} {
		_, err := NewGrouped(t.Context(), lyingGroups{h, groups}, h.order, nil)
		require.ErrorContains(t, err, "twice, or unasked")
	}
	h.none = true
	g := grouped(t, h)
	require.Empty(t, g.Groups())
	s, err := g.Snapshot(t.Context(), "vm-1", nil)
	require.NoError(t, err)
	require.NoError(t, s.Release(t.Context()))
	require.Equal(t, "alone vm-1", h.heard()[0])

	plain, err := NewGrouped(t.Context(), newHost(block), []string{"vm-1"}, nil)
	require.NoError(t, err)
	s, err = plain.Snapshot(t.Context(), "vm-1", nil)
	require.NoError(t, err)
	require.NoError(t, s.Release(t.Context()))
	require.NoError(t, plain.Close(t.Context()))
	require.ErrorIs(t, plain.Undo(t.Context(), hikae.Effect{}, nil), errors.ErrUnsupported)
}
