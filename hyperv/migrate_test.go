package hyperv

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// mover moves a VM to the other node before one of the calls that come in, at whichever node.
type mover struct {
	mu    sync.Mutex
	n, at int
	move  func()
}

func (m *mover) before(hypervtest.Seen) *hypervtest.Failure {
	m.mu.Lock()
	m.n++
	var now func()
	if m.n == m.at {
		now = m.move
	}
	m.mu.Unlock()
	if now != nil {
		now()
	}
	return nil
}

func (m *mover) arm(at int, move func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n, m.at, m.move = 0, at, move
}

// Trap 3 at each step: the VM moves to the other node before each single call of a backup. The backup either follows it, and has the
// bytes of the freeze, or fails with an error that says of what; a sweep from the journal then leaves no checkpoint on either node, of
// reference points the base's alone, and the next increment is right. A reference point that was made while the VM moved, before its id
// was known, is nobody's by proof: it stays, and a person is told which it is. The fast tier has some of the steps.
func TestMigrationAtEachStep(t *testing.T) {
	t.Parallel()
	m := &mover{}
	c, err := hypervtest.StartCluster(&hypervtest.ClusterOptions{Host: hypervtest.Options{JobTime: time.Millisecond, Before: m.before}})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	first := c.Hosts()[0]
	l := &lab{t: t, fake: first, add: func(v hypervtest.VM) string { return c.AddVM(first.Name(), v) }}
	connect := func() {
		l.site, err = ConnectSite(t.Context(), first.Addr(), cim.Login{User: "eva", Password: "pw"}, &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}, Address: c.Address,
			Store: func(_ context.Context, machine string) (Store, error) { return c.Host(machine).LocalFiles(), nil }})
		require.NoError(t, err)
	}
	connect()
	g := l.vm("web1", func(v *hypervtest.VM) {
		v.Folder = `C:\ClusterStorage\Volume1\web1`
		v.Disks = v.Disks[:1]
	})
	base, _, err := l.backup(l.provider(nil), g, nil, newNote())
	require.NoError(t, err)
	m.arm(0, nil)
	base, _, err = l.backup(l.provider(nil), g, base, newNote())
	require.NoError(t, err)
	calls := m.n
	require.Greater(t, calls, 30)

	every := calls/8 + 1
	if longTier() {
		every = 1
	}
	followed, failed, unproven := 0, 0, 0
	told := ""
	for n := 1; n <= calls; n += every {
		to := other(c, g.ID())
		require.NoError(t, g.Write(0, int64(n%7)<<20, []byte{byte(n), 'x'}))
		j := newNote()
		m.arm(n, func() { _ = c.Move(g.ID(), to) })
		warned := &ProviderOptions{Warn: func(_, text string) { told += text + "\n" }}
		next, _, err := l.backup(l.provider(warned), g, base, j)
		m.arm(0, nil)
		settled(t, c)
		if err == nil {
			followed++
			l.same(g, next)
			base = next
		} else {
			failed++
			t.Logf("before call %d: %v", n, err)
			byName(t, err)
			if next != nil && next.committed {
				base = next
			}
		}
		l.site.Close()
		connect() // the next start
		for _, e := range j.left() {
			keep := []hikae.ChangeID{base.ids[diskKeyOf(base)]}
			require.NoError(t, l.provider(warned).Undo(t.Context(), e, keep), "before call %d", n)
		}
		settled(t, c)
		points := pointsOf(c, g.ID())
		require.Subset(t, points, refs(base), "before call %d (%v)", n, err)
		others := slices.DeleteFunc(slices.Clone(points), func(id string) bool { return slices.Contains(refs(base), id) })
		for _, id := range others {
			require.Contains(t, told, id+", made", "before call %d: left, and nobody is told", n)
		}
		unproven = max(unproven, len(others))
		for _, h := range c.Hosts() {
			require.Empty(t, slices.DeleteFunc(h.Leftovers(), func(line string) bool { return len(others) > 0 && strings.Contains(line, "reference points") }),
				"before call %d, on %s", n, h.Name())
		}
		require.Empty(t, g.Checkpoints())
		again, _, err := l.backup(l.provider(nil), g, base, newNote())
		require.NoError(t, err, "before call %d", n)
		l.same(g, again)
		base = again
	}
	t.Logf("%d calls, every %d.: %d followed, %d failed by name; %d reference points were nobody's by proof", calls, every, followed, failed, unproven)
	require.NoError(t, l.site.Close())
}

// byName: an error that a caller can act on, or that names the object.
func byName(t *testing.T, err error) {
	t.Helper()
	var op *cim.OpError
	var pending *PendingError
	var changed *ChangedError
	require.True(t, errors.As(err, &op) || errors.As(err, &pending) || errors.As(err, &changed) || errors.Is(err, fs.ErrNotExist), "%v", err)
}

func other(c *hypervtest.Cluster, vm string) string {
	i := slices.IndexFunc(c.Hosts(), func(h *hypervtest.Host) bool { return h.Name() != c.Owner(vm).Name() })
	return c.Hosts()[i].Name()
}

func settled(t *testing.T, c *hypervtest.Cluster) {
	t.Helper()
	for _, h := range c.Hosts() {
		h.Settled(10 * time.Second)
	}
}

func pointsOf(c *hypervtest.Cluster, vm string) (ids []string) {
	for _, h := range c.Hosts() {
		ids = append(ids, h.ReferencePoints(vm)...)
	}
	return ids
}

func diskKeyOf(pt *point) (key string) {
	for key = range pt.ids {
	}
	return key
}
