package hypervtest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Another process may do as the guests do, if it has the token.
func TestControl(t *testing.T) {
	c := cluster(t, &ClusterOptions{Host: Options{JobTime: time.Millisecond}})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "c"))
	require.NoError(t, err)
	token, ctx := NewToken(), t.Context()
	require.Error(t, c.ServeControl(l, "short"))
	require.NoError(t, c.ServeControl(l, token))
	address := "unix:" + l.Addr().String()
	_, err = DialControl(ctx, address, "another-token-altogether")
	require.Error(t, err)
	_, err = DialControl(ctx, "nonsense", token)
	require.Error(t, err)
	k, err := DialControl(ctx, address, token)
	require.NoError(t, err)
	defer k.Close()

	vm, err := k.AddVM(ctx, "hv2", VM{Name: "web1", Disks: []Disk{{Size: 5 << 20}}})
	require.NoError(t, err)
	_, err = k.AddVM(ctx, "hv7", VM{Name: "web2"})
	require.Error(t, err)
	other, err := k.AddVM(ctx, "", VM{Name: "web2", Disks: []Disk{{Size: 5 << 20}}})
	require.NoError(t, err)
	names, err := k.VMs(ctx)
	require.NoError(t, err)
	require.Len(t, names, 2)
	owner, err := k.Owner(ctx, vm)
	require.NoError(t, err)
	require.Equal(t, "HV2", owner)

	want := make([]byte, 5<<20)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range want {
		want[i] = byte(r.Uint32())
	}
	empty, err := k.FreezeSum(ctx, vm, 0)
	require.NoError(t, err)
	require.NoError(t, k.Write(ctx, vm, 0, want, 0))
	got := make([]byte, len(want))
	require.NoError(t, k.Read(ctx, vm, 0, got, 0))
	require.True(t, bytes.Equal(want, got))
	mine, err := k.Sum(ctx, vm, 0)
	require.NoError(t, err)
	zero, err := k.Sum(ctx, other, 0)
	require.NoError(t, err)
	require.NotEqual(t, mine, zero)
	require.Equal(t, empty, zero)

	checkpoint, err := k.Checkpoint(ctx, vm, "before")
	require.NoError(t, err)
	require.NoError(t, k.Write(ctx, vm, 0, make([]byte, 512), 0))
	frozen, err := k.FreezeSum(ctx, vm, 0)
	require.NoError(t, err)
	require.Equal(t, mine, frozen)
	require.NoError(t, k.Churn(ctx, vm, 9))
	require.NoError(t, k.Move(ctx, vm, "hv1"))
	require.NoError(t, k.StopChurn(ctx, vm))
	require.NoError(t, k.StopChurn(ctx, vm))
	owner, err = k.Owner(ctx, vm)
	require.NoError(t, err)
	require.Equal(t, "HV1", owner)
	tip, err := k.Tip(ctx, vm, 0)
	require.NoError(t, err)
	require.Contains(t, tip, ".avhdx")
	require.NoError(t, k.RemoveCheckpoint(ctx, vm, checkpoint))

	events, err := k.Events(ctx, "")
	require.NoError(t, err)
	require.NotEmpty(t, events)
	require.NoError(t, k.ClearEvents(ctx))
	events, err = k.Events(ctx, "hv1")
	require.NoError(t, err)
	require.Empty(t, events)
	require.NoError(t, k.PowerCut(ctx, vm))
	require.Error(t, k.Write(ctx, vm, 0, want[:512], 0), "it is off")
	require.NoError(t, k.PowerOn(ctx, vm))
	require.NoError(t, k.PowerOff(ctx, vm))
	require.NoError(t, k.Extend(ctx, vm, 0, 6<<20))
	size, err := k.Size(ctx, vm, 0)
	require.NoError(t, err)
	require.Equal(t, int64(6<<20), size)
	require.Error(t, k.Write(ctx, "nobody", 0, want, 0))
	_, err = k.Size(ctx, vm, -1)
	require.Error(t, err)
	require.NoError(t, k.Fail(ctx, "hv1", Fault{Call: "CreateSnapshot", Code: 32775}))
	require.Error(t, k.Fail(ctx, "hv9", Fault{Call: "CreateSnapshot"}))
	require.NoError(t, k.Heal(ctx))
	left, err := k.Leftovers(ctx)
	require.NoError(t, err)
	require.Empty(t, left)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = k.VMs(ended)
	require.ErrorIs(t, err, context.Canceled)
}
