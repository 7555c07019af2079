package proxy

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func twoProxies() *GuestChoice {
	return &GuestChoice{VM: VM{Name: "vm", OS: "windows"}, Workers: []Worker{
		{Machine: Machine{Name: "gip1"}, OS: "windows", Server: true, Managed: true},
		{Machine: Machine{Name: "gip2"}, OS: "windows", Server: true, Managed: true},
		{Machine: Machine{Name: "server", BackupServer: true}, OS: "linux", Managed: true},
	}}
}

// A proxy that was taken out of the pool (it died) is still among the workers of the job: R170 says who takes over.
func TestDroppedProxy(t *testing.T) {
	p := NewPool(nil)
	defer p.Close()
	p.Set("gip1", 1)
	p.Set("gip2", 1)
	p.Set("server", 0)
	p.Drop("gip1")
	l, _, err := p.TakeGuest(t.Context(), twoProxies())
	require.NoError(t, err)
	t.Log(l.Machine())
}

func TestDroppedWhileWaiting(t *testing.T) {
	p := NewPool(nil)
	defer p.Close()
	p.Set("gip1", 1)
	p.Set("server", 0)
	c := twoProxies()
	c.Workers = append(c.Workers[:1:1], c.Workers[2])
	_, _, err := p.TakeGuest(t.Context(), c)
	require.NoError(t, err)
	got := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, _, err := p.TakeGuest(ctx, c)
		got <- err
	}()
	time.Sleep(100 * time.Millisecond)
	p.Drop("gip1")
	require.NoError(t, <-got, "the backup server should take over (R170)")
}

func TestShortVersions(t *testing.T) {
	require.True(t, atLeast("2", leastPowerShell), "PowerShell 2")
	require.True(t, atLeast("10", leastDirectGuest), "Windows 10")
}

// R162: of a list by hand a machine that is not in the pool is passed over.
func TestManualListWithoutOne(t *testing.T) {
	p := NewPool(nil)
	defer p.Close()
	p.Set("gip2", 1)
	p.Set("server", 0)
	c := twoProxies()
	c.Rules.Manual = []string{"gip1", "gip2"}
	l, _, err := p.TakeGuest(t.Context(), c)
	require.NoError(t, err)
	t.Log(l.Machine())
}
