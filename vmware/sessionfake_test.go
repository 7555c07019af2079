package vmware

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae/vmware/vmwaretest"
)

// A server that says of a session that it is none, and is wrong, is not logged in to again: it would refuse that, and count it.
func TestSessionThatLives(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	key, _ := l.client.login.session()
	for range 3 {
		l.server.Fail(vmwaretest.Fault{Method: "RetrievePropertiesEx", Fault: &types.NotAuthenticated{}})
		_, err := l.client.machine(t.Context(), l.vm().Ref())
		require.NoError(t, err)
	}
	now, _ := l.client.login.session()
	require.Equal(t, key, now)
	l.server.ExpireSessions()
	_, err := l.client.machine(t.Context(), l.vm().Ref())
	require.NoError(t, err)
	now, _ = l.client.login.session()
	require.NotEqual(t, key, now)
}

// Login, inventory and preflight against our own fake leave nothing behind, and its one remark is right.
func TestSessionLeavesNothingAtTheFake(t *testing.T) {
	s, err := vmwaretest.Start(&vmwaretest.Options{VMs: 2, DisksPerVM: 2})
	require.NoError(t, err)
	defer func() { assert.NoError(t, s.Close()) }()
	c, err := Connect(t.Context(), s.URL(), Login{User: s.User(), Password: s.Password()}, &ConnectOptions{Thumbprint: s.Thumbprint()})
	require.NoError(t, err)
	found, err := c.Find(t.Context(), Selection{VMs: []string{"web1"}})
	require.NoError(t, err)
	require.Len(t, found, 1)
	p, err := c.Preflight(t.Context(), found[0].Ref, nil)
	require.NoError(t, err)
	assert.True(t, p.OK(), "%v", p)
	assert.Len(t, p.Disks, 2)
	assert.Equal(t, TrackingPossible, p.Tracking)
	require.NoError(t, c.Close(t.Context()))
	assert.Empty(t, s.Leftovers())
}
