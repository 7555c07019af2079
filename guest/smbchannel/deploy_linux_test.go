package smbchannel

import (
	"context"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
)

// asWindows has the component for this system where one for Windows is asked for: the double of a guest runs it.
type asWindows struct{ guest.Programs }

func (p asWindows) Build(string, string) (*guest.Build, error) {
	return p.Programs.Build(runtime.GOOS, runtime.GOARCH)
}

// R120, R121, R188: the real component, brought in over a real SMB server, speaks its frames through a named pipe, and is
// gone when the session ends.
func TestDeploy(t *testing.T) {
	programs := asWindows{guest.ProgramsIn(os.DirFS(guesttest.Agents(t)))}
	g := smbtest.StartGuest(t, smbtest.Settings{}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	start := time.Now()
	c := open(t, g.Samba)
	d, err := guest.Deploy(ctx, c, programs, &guest.DeployOptions{Guest: "web1", Session: "s1"})
	require.NoError(t, err)
	up := time.Since(start)
	require.Equal(t, runtime.GOOS, d.Component.Hello().OS)
	require.Len(t, g.Left(), 2, "a folder and a service")
	require.Equal(t, []string{d.Program.Name}, g.Machine.Names())
	start = time.Now()
	require.NoError(t, d.Remove(ctx))
	t.Logf("component answering after %v, removed in %v", up.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	require.Empty(t, g.Left())
}

// R190: the link breaks under a component; removal goes over a fresh one.
func TestDeployLost(t *testing.T) {
	programs := asWindows{guest.ProgramsIn(os.DirFS(guesttest.Agents(t)))}
	g := smbtest.StartGuest(t, smbtest.Settings{}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := open(t, g.Samba)
	d, err := guest.Deploy(ctx, c, programs, &guest.DeployOptions{Guest: "web1", Way: wayTo(g.Samba, nil)})
	require.NoError(t, err)
	c.link.line.Conn.Close()
	<-d.Component.Done()
	require.NoError(t, d.Remove(ctx))
	require.Empty(t, g.Left())
}
