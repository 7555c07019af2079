//go:build linux

package apps

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/apps/appstest"
)

// A server in a container is told and left alone: what is called postgres here is a sleep in a namespace of its own.
func TestServerInAContainer(t *testing.T) {
	appstest.NeedRoot(t)
	dir := appstest.Dir(t)
	b, err := os.ReadFile("/bin/sleep")
	require.NoError(t, err)
	path := filepath.Join(dir, "postgres")
	require.NoError(t, os.WriteFile(path, b, 0o755))
	p := appstest.As(t, "root", path, "60")
	p.Dir = dir
	p.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := p.Start(); err != nil {
		t.Skipf("no namespace can be made here: %v", err)
	}
	defer p.Wait()
	defer p.Process.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	a := New(&Options{Only: func(_, folder string) bool { return folder == dir }})
	found, err := a.Find(ctx)
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, contained, found[0].State)
	all, err := a.servers()
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestParentOf(t *testing.T) {
	require.Equal(t, os.Getppid(), parentOf(os.Getpid()))
	require.Zero(t, parentOf(-1))
	require.Equal(t, []process{{pid: 1}, {pid: 5, parent: 4}}, leaders([]process{{pid: 1}, {pid: 2, parent: 1}, {pid: 5, parent: 4}}))
}
