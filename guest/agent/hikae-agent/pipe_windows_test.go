package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/winsvc"
	"github.com/hikae/hikae/guest/agent/wire"
)

// dial opens a pipe as soon as it is there.
func dial(t *testing.T, name string) *os.File {
	t.Helper()
	var f *os.File
	require.Eventually(t, func() (there bool) {
		var err error
		f, err = os.OpenFile(winsvc.PipePath(name), os.O_RDWR, 0)
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
	t.Cleanup(func() { f.Close() })
	return f
}

// ask makes one call and decodes its answer.
func ask[A any](t *testing.T, f *os.File, number uint32, verb wire.Verb, args any) (a A) {
	t.Helper()
	raw, err := wire.Encode(args)
	require.NoError(t, err)
	payload, err := wire.Encode(wire.Request{Verb: verb, Args: raw})
	require.NoError(t, err)
	require.NoError(t, wire.Write(f, wire.Frame{Kind: wire.KindRequest, Call: number, Payload: payload}))
	got, err := wire.Read(f)
	require.NoError(t, err)
	require.Equal(t, wire.KindAnswer, got.Kind, string(got.Payload))
	require.NoError(t, wire.Decode(got.Payload, &a))
	return a
}

// component is one that serves a pipe out of a folder of its own.
func component(t *testing.T, name string) (dir string, ended chan error) {
	t.Helper()
	parent, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	dir = filepath.Join(parent, name)
	require.NoError(t, winsvc.MakePrivateDir(dir))
	t.Cleanup(func() { os.Remove(dir); os.Remove(parent) })
	ended = make(chan error, 1)
	go func() { ended <- pipe(context.Background(), []string{"--name", name, "--dir", dir}) }()
	return dir, ended
}

// R119, R121: a runtime component says what it is and what it was never run on, and names what it leaves to its controller.
func TestPipeSession(t *testing.T) {
	const name = "hikae-aaaabbbbccccdddd"
	dir, ended := component(t, name)
	f := dial(t, name)
	hello := ask[wire.HelloAnswer](t, f, 1, wire.Hello, wire.HelloArgs{Version: wire.Version, Session: "s"})
	require.Equal(t, "windows", hello.OS)
	require.Contains(t, hello.Unverified, "not yet verified on Windows")
	require.NotEmpty(t, hello.Boot)
	require.Contains(t, hello.Verbs, wire.Prepare)
	inspect := ask[wire.InspectAnswer](t, f, 2, wire.Inspect, wire.InspectArgs{})
	require.NotEmpty(t, inspect.Volumes)
	if os.Getenv("HIKAE_FAKE_VSS") != "" {
		p := ask[wire.PrepareAnswer](t, f, 3, wire.Prepare, wire.PrepareArgs{CopyOnly: true})
		require.Len(t, p.Applications, 2)
		require.True(t, p.Applications[0].OK)
	} else {
		ask[wire.LeaseAnswer](t, f, 3, wire.Lease, wire.LeaseArgs{})
	}
	removed := ask[wire.RemoveAnswer](t, f, 4, wire.Remove, wire.RemoveArgs{})
	require.Contains(t, removed.Last, dir)
	require.NoError(t, <-ended)
}

// A client that goes away without a word, and none that ever comes with a lease of a second, both end the component.
func TestPipeLease(t *testing.T) {
	const name = "hikae-aaaabbbbccccddd2"
	_, ended := component(t, name)
	f := dial(t, name)
	ask[wire.HelloAnswer](t, f, 1, wire.Hello, wire.HelloArgs{Version: wire.Version, Session: "s", LeaseMillis: 1000})
	select {
	case err := <-ended:
		require.Error(t, err, "the lease ended it")
	case <-time.After(20 * time.Second):
		t.Fatal("it outlives its lease")
	}
	const second = "hikae-aaaabbbbccccddd3"
	_, ended = component(t, second)
	f = dial(t, second)
	ask[wire.HelloAnswer](t, f, 1, wire.Hello, wire.HelloArgs{Version: wire.Version, Session: "s"})
	f.Close()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("it outlives its client")
	}
}

func TestPipeRefuses(t *testing.T) {
	ctx := context.Background()
	require.True(t, errors.Is(pipe(ctx, []string{"--name", "hikae-x", "--dir", `C:\`, "--vss", "maybe"}), errUsage))
	require.Error(t, pipe(ctx, []string{"--name", "hikae-x", "--dir", `C:\windows`}), "not a folder of ours")
	require.True(t, errors.Is(windowsService(ctx, []string{"dance"}), errUsage))
	require.True(t, errors.Is(sweepBeside(ctx, []string{"--dir", "relative"}), errUsage))
}
