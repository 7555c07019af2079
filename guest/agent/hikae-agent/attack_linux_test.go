package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
)

// A sweep of a component that hangs in a freeze leaves its watchdog alone, which thaws.
func TestSweepThawsFirst(t *testing.T) {
	point := volume(t, "ext4")
	p := program(t)
	c := connect(t, &here{}, p, nil)
	froze(t, c, point, 60*time.Second)
	require.NoError(t, syscall.Kill(c.Hello().PID, syscall.SIGSTOP))
	r, err := (&here{}).Run(soon(t), program(t).Path, []string{"sweep", "--dir", filepath.Dir(p.Path)}, nil)
	require.NoError(t, err)
	t.Logf("sweep: exit %d %s", r.ExitCode, r.Stderr)
	left := runFrom(filepath.Dir(p.Path))
	time.Sleep(2 * time.Second)
	if thawNow(point) {
		t.Fatalf("sweep returned %d, processes left %v, and %s was still frozen: nobody would ever have thawed it", r.ExitCode, left, point)
	}
}

// A component whose answer meets a closed stdout goes on to the end of its way back: its folder goes.
func TestBrokenPipe(t *testing.T) {
	p, ch := program(t), &launching{}
	s, err := ch.Launch(soon(t), p)
	require.NoError(t, err)
	l := s.(*launched)
	args, _ := wire.Encode(wire.HelloArgs{Version: wire.Version})
	req, _ := wire.Encode(wire.Request{Verb: wire.Hello, Args: args})
	require.NoError(t, wire.Write(l.in, wire.Frame{Kind: wire.KindRequest, Call: 1, Payload: req}))
	_, err = wire.Read(l.out)
	require.NoError(t, err)
	l.out.Close() // as a dead link does
	args, _ = wire.Encode(wire.LeaseArgs{})
	req, _ = wire.Encode(wire.Request{Verb: wire.Lease, Args: args})
	require.NoError(t, wire.Write(l.in, wire.Frame{Kind: wire.KindRequest, Call: 2, Payload: req}))
	time.Sleep(300 * time.Millisecond)
	l.in.Close()
	err = l.cmd.Wait()
	_, stat := os.Lstat(filepath.Dir(p.Path))
	require.NoError(t, err, "the component died (folder still there: %t)", stat == nil)
	require.ErrorIs(t, stat, os.ErrNotExist)
}

// An ordinary user of the guest gets root: the component's folder in /tmp goes with its lease, he makes one of that name,
// and the controller runs what lies there as root.
func TestNameOfFolderStaysTaken(t *testing.T) {
	p := program(t)
	dir := filepath.Dir(p.Path)
	proof := filepath.Join(t.TempDir(), "proof")
	ch := &here{}
	c := connect(t, ch, p, &guest.ComponentOptions{Lease: time.Second})
	var stalled atomic.Bool
	ch.runs = func() error { // the guest is slow: programs begin late
		if stalled.Load() {
			time.Sleep(1200 * time.Millisecond)
		}
		return nil
	}
	go func() { // uid 65534
		for i := 0; i < 1000; i++ {
			if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
				os.Mkdir(dir, 0o755)
				os.WriteFile(p.Path, fmt.Appendf(nil, "#!/bin/sh\nid -u >%s\n", proof), 0o755)
				os.Lchown(dir, 65534, 65534)
				os.Lchown(p.Path, 65534, 65534)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	stalled.Store(true)
	_, err := c.Inspect(soon(t), wire.InspectArgs{})
	t.Log(err)
	time.Sleep(300 * time.Millisecond)
	uid, err := os.ReadFile(proof)
	os.RemoveAll(dir)
	require.Error(t, err, "a program of uid 65534 was run as uid %s", uid)
}
