package hypervtest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What a client would leave is told in words; what a user made is not.
func TestLeftovers(t *testing.T) {
	c := cluster(t, &ClusterOptions{Host: Options{JobTime: time.Millisecond}})
	id := c.AddVM("HV2", VM{Name: "web1", Disks: []Disk{{Size: 8 << 20}}})
	h := c.Host("HV2")
	g := h.VM(id)
	user, err := g.Checkpoint("mine")
	require.NoError(t, err)
	require.Empty(t, c.Leftovers())

	h.Lock()
	cp, err := g.take(wish{kind: typeRecovery, level: 1})
	if err == nil {
		h.publish(g, cp, nil)
	}
	h.Unlock()
	require.NoError(t, err)
	left := c.Leftovers()
	require.Len(t, left, 1)
	require.Contains(t, left[0], "HV2: checkpoint ")
	require.NoError(t, g.RemoveCheckpoint(cp.id))
	require.NoError(t, g.RemoveCheckpoint(user))
	require.True(t, h.Settled(5*time.Second))
	require.Empty(t, c.Leftovers())
	require.Empty(t, h.ReferencePoints(id))

	shared := filepath.Join(c.Hosts()[0].Dir(), "C", "ClusterStorage", "Volume1", "web1", "disk_1_x.avhdx")
	require.NoError(t, os.WriteFile(shared, nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(h.Dir(), "C", "y.AVHDX"), nil, 0o600))
	require.Equal(t, []string{`HV1: stray file C:\ClusterStorage\Volume1\web1\disk_1_x.avhdx`, `HV2: stray file C:\y.AVHDX`}, c.Leftovers())
}
