package hyperv

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// Trap 3: a VM that moves to another node in mid-backup: the clean-up follows it, and so does the next increment.
func TestTrapMigration(t *testing.T) {
	t.Parallel()
	c, err := hypervtest.StartCluster(&hypervtest.ClusterOptions{Host: hypervtest.Options{JobTime: time.Millisecond}})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	first := c.Hosts()[0]
	l := &lab{t: t, fake: first, add: func(v hypervtest.VM) string { return c.AddVM(first.Name(), v) }}
	l.site, err = ConnectSite(t.Context(), first.Addr(), cim.Login{User: "eva", Password: "pw"}, &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}, Address: c.Address,
		Store: func(_ context.Context, machine string) (Store, error) { return c.Host(machine).LocalFiles(), nil }})
	require.NoError(t, err)
	t.Cleanup(func() { l.site.Close() })
	g := l.vm("web1", func(v *hypervtest.VM) { v.Folder = `C:\ClusterStorage\Volume1\web1` })
	p := l.provider(nil)
	base, _, err := l.backup(p, g, nil, newNote())
	require.NoError(t, err)

	j := newNote()
	s, err := p.Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: j, Since: base.ids, Repository: "repo"})
	require.NoError(t, err)
	require.NoError(t, c.Move(g.ID(), c.Hosts()[1].Name()))
	h, err := l.site.Owner(t.Context(), g.ID())
	require.NoError(t, err)
	require.Equal(t, c.Hosts()[1].Name(), h.Info().Name)
	if _, err := s.Prepare(t.Context()); err == nil {
		require.NoError(t, s.Commit(t.Context()))
	}
	require.NoError(t, s.Release(t.Context()))
	require.Empty(t, j.left())
	for _, h := range c.Hosts() {
		h.Settled(10 * time.Second)
		require.Empty(t, h.Leftovers())
	}
}
