package smbtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/smbchannel/scm"
	"github.com/hikae/hikae/guest/smbchannel/scm/scmtest"
)

// Guest is a double of a Windows guest.
type Guest struct {
	*Samba
	Machine   *scmtest.Machine
	Component Component // of services

	mu        sync.Mutex
	processes []*process
	listening []net.Listener
	running   sync.WaitGroup
}

// StartGuest starts Samba and, behind its pipes, a service control manager whose services run component. nil is Exec.
func StartGuest(t testing.TB, set Settings, component Component) *Guest {
	t.Helper()
	set.Helpers = false
	g := &Guest{Samba: StartSamba(t, set), Component: component, Machine: &scmtest.Machine{}}
	if component == nil {
		g.Component = Exec
	}
	g.Machine.Start = g.startService
	require.NoError(t, os.Mkdir(filepath.Join(g.Windows(), "System32"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(g.Windows(), "System32", "ntdll.dll"), library(0x8664), 0o644))
	g.serve("srvsvc", serveServer)
	g.serve(scm.Pipe, g.Machine.Serve)
	t.Cleanup(func() {
		g.Kill()
		g.Stop()
		for _, l := range g.listening {
			_ = l.Close()
		}
		g.running.Wait()
	})
	return g
}

// library is the beginning of a program for a machine.
func library(machine uint16) []byte {
	b := make([]byte, 8192)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[0x3c:], 0xe0)
	copy(b[0xe0:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(b[0xe4:], machine)
	return b
}

// SetMachine makes the guest one for another processor: a machine of the PE format.
func (g *Guest) SetMachine(machine uint16) {
	require.NoError(g.t, os.WriteFile(filepath.Join(g.Windows(), "System32", "ntdll.dll"), library(machine), 0o644))
}

// serve serves a pipe to any number of clients until the test ends.
func (g *Guest) serve(name string, serve func(io.ReadWriter) error) {
	l, err := g.ListenPipe(name)
	require.NoError(g.t, err)
	g.listening = append(g.listening, l)
	g.running.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			g.running.Go(func() {
				defer c.Close()
				_ = serve(c) // a client that does not speak the protocol is the test's own
			})
		}
	})
}

// Stop stops all services, as a shutdown of the guest does.
func (g *Guest) Stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.processes {
		p.Stop()
	}
}

// Path is where a path of the guest is on this machine.
func (g *Guest) Path(path string) (string, error) {
	rest, ok := strings.CutPrefix(path, Root+`\`)
	local := filepath.Join(g.Windows(), strings.ReplaceAll(rest, `\`, "/"))
	if !ok || !strings.HasPrefix(local, g.Windows()+"/") {
		return "", fmt.Errorf("not in %s: %s", Root, path)
	}
	return local, nil
}

// Left is everything of ours that is in the guest: services, folders and pipes.
func (g *Guest) Left() (list []string) {
	for _, name := range g.Machine.Names() {
		list = append(list, "service "+name)
	}
	entries, err := os.ReadDir(g.Windows())
	require.NoError(g.t, err)
	for _, e := range entries {
		if e.Name() != "System32" {
			list = append(list, "folder "+e.Name())
		}
	}
	for _, name := range g.Pipes() {
		if name != "srvsvc" && name != scm.Pipe {
			list = append(list, "pipe "+name)
		}
	}
	slices.Sort(list)
	return list
}
