package smbtest

import (
	"context"
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

	name      string
	furniture map[string]bool // of the folder Windows, from the start
	mu        sync.Mutex
	processes []*process
	listening []net.Listener
	running   sync.WaitGroup
}

// StartGuest starts Samba for a test and, behind its pipes, a service control manager whose services run component. nil is Exec.
func StartGuest(t testing.TB, set Settings, component Component) *Guest {
	t.Helper()
	g, err := LaunchGuest(t.Context(), set, component)
	if errors.Is(err, ErrAbsent) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(g.Close)
	return g
}

// LaunchGuest is StartGuest for programs: the guest is there until Close. Its errors are those of LaunchSamba.
func LaunchGuest(ctx context.Context, set Settings, component Component) (*Guest, error) {
	set.Helpers = false
	samba, err := LaunchSamba(ctx, set)
	if err != nil {
		return nil, err
	}
	g := &Guest{Samba: samba, Component: component, Machine: &scmtest.Machine{}, name: set.Name}
	if component == nil {
		g.Component = Exec
	}
	if g.name == "" {
		g.name = Name
	}
	g.Machine.Start = g.startService
	if err := g.furnish(); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// furnish makes what the guest has from the start: a system folder, and two pipes.
func (g *Guest) furnish() error {
	if err := os.MkdirAll(filepath.Join(g.Windows(), "System32"), 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(g.Windows())
	if err != nil {
		return err
	}
	g.furniture = map[string]bool{}
	for _, e := range entries {
		g.furniture[e.Name()] = true
	}
	if err := g.SetMachine(0x8664); err != nil {
		return err
	}
	if err := g.serve("srvsvc", g.serveServer); err != nil {
		return err
	}
	return g.serve(scm.Pipe, g.Machine.Serve)
}

// Close ends the guest's services and its server, and waits for them.
func (g *Guest) Close() {
	g.Kill()
	g.Stop()
	for _, l := range g.listening {
		_ = l.Close()
	}
	g.running.Wait()
	g.Samba.Close()
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
func (g *Guest) SetMachine(machine uint16) error {
	return os.WriteFile(filepath.Join(g.Windows(), "System32", "ntdll.dll"), library(machine), 0o644)
}

// serve serves a pipe to any number of clients until the guest is closed.
func (g *Guest) serve(name string, serve func(io.ReadWriter) error) error {
	l, err := g.ListenPipe(name)
	if err != nil {
		return err
	}
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
	return nil
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
	if err != nil {
		list = append(list, "unknown: "+err.Error())
	}
	for _, e := range entries {
		if !g.furniture[e.Name()] {
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
