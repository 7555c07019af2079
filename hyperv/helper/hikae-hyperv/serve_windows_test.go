package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/winsvc"
	"github.com/hikae/hikae/hyperv/helper/wire"
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

// ask makes one call.
func ask(t *testing.T, f *os.File, call uint32, m, into wire.Message) {
	t.Helper()
	frame, err := wire.Encode(call, m)
	require.NoError(t, err)
	require.NoError(t, wire.Write(f, frame))
	for frame.Kind != into.Kind() {
		frame, err = wire.Read(f)
		require.NoError(t, err)
		require.NotEqual(t, wire.KindFailure, frame.Kind, "%q", frame.Payload)
	}
	require.NoError(t, wire.Decode(frame, into))
}

// folder is a private one with our program in it, where there is one.
func folder(t *testing.T, name string) (dir, exe string) {
	t.Helper()
	parent, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	dir = filepath.Join(parent, name)
	require.NoError(t, winsvc.MakePrivateDir(dir))
	exe = filepath.Join(dir, program)
	t.Cleanup(func() { os.Remove(exe); os.Remove(dir); os.Remove(parent) })
	return dir, exe
}

// session says hello, asks what the writer has where there is one, and says good-bye.
func session(t *testing.T, f *os.File) {
	t.Helper()
	var hello wire.HelloAnswer
	ask(t, f, 1, &wire.Hello{Version: wire.Version, Session: "s"}, &hello)
	require.Contains(t, hello.Unverified, "not yet verified on Windows")
	require.Contains(t, hello.Product, "hikae-hyperv ")
	if os.Getenv("HIKAE_FAKE_VSS") != "" {
		var a wire.ComponentsAnswer
		ask(t, f, 2, &wire.Components{}, &a)
		require.Len(t, a.Components, 1)
	}
	ask(t, f, 3, &wire.Bye{}, &wire.Done{Of: wire.KindBye})
}

func TestPipeSession(t *testing.T) {
	dir, _ := folder(t, name)
	ended := make(chan int, 1)
	go func() { ended <- run(context.Background(), []string{"pipe", "--name", name, "--dir", dir}) }()
	f := dial(t, name)
	session(t, f)
	require.Equal(t, 0, <-ended)
	require.DirExists(t, dir, "after a Bye the folder is the controller's")
}

// A client that goes without a word ends the program too, which then leaves nothing that it can take away itself.
func TestPipeCut(t *testing.T) {
	const name = "hikae-aaaabbbbccccddd2"
	dir, _ := folder(t, name)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "scratch"), nil, 0o600))
	ended := make(chan int, 1)
	go func() { ended <- run(context.Background(), []string{"pipe", "--name", name, "--dir", dir}) }()
	f := dial(t, name)
	ask(t, f, 1, &wire.Hello{Version: wire.Version}, &wire.HelloAnswer{})
	f.Close()
	select {
	case <-ended: // wine cannot do what a full removal asks for
	case <-time.After(20 * time.Second):
		t.Fatal("it outlives its client")
	}
}

// The program as a service: started by the manager, spoken to through its pipe, gone.
func TestService(t *testing.T) {
	built := os.Getenv("HIKAE_HYPERV_EXE")
	if built == "" {
		t.Skip("needs the built program: HIKAE_HYPERV_EXE is not set")
	}
	const name = "hikae-aaaabbbbccccddd3"
	dir, exe := folder(t, name)
	from, err := os.Open(built)
	require.NoError(t, err)
	defer from.Close()
	to, err := os.Create(exe)
	require.NoError(t, err)
	_, err = io.Copy(to, from)
	require.NoError(t, err)
	require.NoError(t, to.Close())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	note, err := winsvc.InstallService(ctx, winsvc.Service{Name: name, Title: "Hikae test", Program: exe, Args: []string{"pipe", "--name", name, "--dir", dir, "--service"}})
	require.NoError(t, err, note)
	defer func() { require.NoError(t, winsvc.RemoveService(context.Background(), name)) }()
	session(t, dial(t, name))
	require.Eventually(t, func() bool { return os.Remove(exe) == nil }, 20*time.Second, 100*time.Millisecond, "it has ended: its file can be deleted")
}
