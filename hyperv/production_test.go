package hyperv

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// R080–R084, R090–R095, R142: a full and an increment, while the guest goes on writing; the order of events step by step.
func TestProductionCycle(t *testing.T) {
	for _, os := range []string{"windows", "linux"} {
		t.Run(os, func(t *testing.T) {
			l := newLab(t, hypervtest.Options{})
			g := l.vm("web1", func(v *hypervtest.VM) { v.GuestOS = os })
			p := l.provider(nil)
			stop := g.Churn(1)
			defer stop()
			full, s, err := l.backup(p, g, nil, newNote())
			require.NoError(t, err)
			l.same(g, full)
			require.Empty(t, s.(interface{ Warnings() []string }).Warnings())
			require.Len(t, full.ids, 2)
			require.EqualValues(t, labDisk*3/2, full.read)
			l.clean(g, refs(full)...)

			l.fake.ClearEvents()
			next, _, err := l.backup(p, g, full, newNote())
			require.NoError(t, err)
			stop()
			l.same(g, next)
			require.Empty(t, next.lost)
			require.Less(t, next.read, full.read)
			l.clean(g, refs(next)...)
			require.NotEqual(t, refs(full), refs(next))
			t.Log(l.rows(g))
			require.Equal(t, hikae.Application, next.consistency)
		})
	}
}
