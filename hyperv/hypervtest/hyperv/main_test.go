package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/hyperv/hypervtest"
)

// asProgram makes the test's own binary the program.
const asProgram = "HIKAE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// temporary is a folder for a program that is killed: what it started ends a moment later, and writes until then.
func temporary(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hypervprogram")
	require.NoError(t, err)
	t.Cleanup(func() {
		require.Eventually(t, func() bool { return os.RemoveAll(dir) == nil }, 10*time.Second, 20*time.Millisecond)
	})
	return dir
}

// launch starts the program as a process, with its input open.
func launch(t *testing.T, args ...string) (*exec.Cmd, ready) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "TMPDIR="+temporary(t))
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	t.Cleanup(func() { _ = in.Close() })
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var r ready
	require.NoError(t, json.NewDecoder(out).Decode(&r))
	return cmd, r
}

func refused(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err != nil
}

// Told to end by a signal it leaves nothing; killed, nothing of it goes on.
func TestProcess(t *testing.T) {
	t.Setenv("HIKAE_SOURCE_PASSWORD", "")
	cmd, r := launch(t, "--size", "1MiB")
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
	require.NoDirExists(t, r.Hosts[0].Folder)

	cmd, r = launch(t, "--size", "1MiB", "--dir", t.TempDir())
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return refused(r.Listening) }, 10*time.Second, 20*time.Millisecond)
	if addr := r.Hosts[0].SMB; addr != "" {
		require.Eventually(t, func() bool { return refused(addr) }, 10*time.Second, 20*time.Millisecond, "Samba outlives the program")
	}
}

// begin starts the program; ended is what it returned.
func begin(t *testing.T, args ...string) (r ready, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	out, in := io.Pipe()
	stdin, keep := io.Pipe()
	cmd := command()
	cmd.SetOut(in)
	cmd.SetIn(stdin)
	cmd.SetArgs(args)
	ended := make(chan error, 1)
	go func() {
		err := cmd.ExecuteContext(ctx)
		in.CloseWithError(err)
		ended <- err
	}()
	require.NoError(t, json.NewDecoder(out).Decode(&r))
	return r, func() error {
		require.NoError(t, keep.Close())
		return <-ended
	}
}

// It says where it is, is steered from outside, ends when its input does, and leaves nothing.
func TestProgram(t *testing.T) {
	t.Setenv("HIKAE_SOURCE_PASSWORD", "")
	r, stop := begin(t, "--vms", "2", "--disks", "2", "--size", "1MiB", "--fill", "random", "--seed", "7", "--nodes", "2",
		"--control", filepath.Join(t.TempDir(), "c"))
	require.Len(t, r.Hosts, 2)
	require.Equal(t, "CLUSTER1", r.Cluster)
	require.NotEmpty(t, r.Password)
	require.Equal(t, "web1", r.VMs[1].Name)
	require.Equal(t, "HV2", r.VMs[1].Host)
	require.Equal(t, []string{`C:\ClusterStorage\Volume1\web1\disk_1.vhdx`, `C:\ClusterStorage\Volume1\web1\disk_2.vhdx`}, r.VMs[1].Files)
	for _, h := range r.Hosts {
		for _, addr := range []string{h.CIM, h.SMB} {
			if addr == "" {
				require.NotEmpty(t, r.Local, "without Samba it says why")
				continue
			}
			conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
			require.NoError(t, err)
			require.NoError(t, conn.Close())
		}
		require.FileExists(t, filepath.Join(h.Folder, "C", "ClusterStorage", "Volume1", "web0", "disk_1.vhdx"))
	}
	ctx := t.Context()
	control, err := hypervtest.DialControl(ctx, r.Control, r.Token)
	require.NoError(t, err)
	a, err := control.Sum(ctx, r.VMs[0].ID, 0)
	require.NoError(t, err)
	b, err := control.Sum(ctx, r.VMs[1].ID, 0)
	require.NoError(t, err)
	require.NotEqual(t, a, b)
	require.NoError(t, control.Move(ctx, r.VMs[0].ID, "HV2"))
	left, err := control.Leftovers(ctx)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, control.Close())
	require.NoError(t, stop())
	_, err = os.Stat(r.Hosts[0].Folder)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Without Samba the folder is told; what is no flag, or no size, is refused.
func TestLocal(t *testing.T) {
	t.Setenv("HIKAE_SOURCE_PASSWORD", "secret-of-the-test")
	r, stop := begin(t, "--local", "--size", "1MiB", "--generation", "2012r2", "--dir", t.TempDir())
	require.Equal(t, "asked for", r.Local)
	require.Empty(t, r.Password)
	require.Empty(t, r.Hosts[0].SMB)
	require.FileExists(t, filepath.Join(r.Hosts[0].Folder, "C", "VMs", "web0", "disk_1.vhdx"))
	require.NoError(t, stop())
	require.DirExists(t, r.Hosts[0].Folder, "a folder that was given stays")
	for _, args := range [][]string{{"--size", "x"}, {"--generation", "1999"}, {"--control", "8.8.8.8:1", "--local"}, {"--nodes", "65"}} {
		cmd := command()
		cmd.SetArgs(args)
		cmd.SetOut(io.Discard)
		cmd.SetIn(strings.NewReader("")) // its end alone ends nothing that fails
		require.Error(t, cmd.ExecuteContext(t.Context()), "%v", args)
	}
}

// Lengths with and without units, and what is none.
func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"512": 512, "1KiB": 1024, "64MiB": 64 << 20, "2TiB": 2 << 40, "": 0, "x": 0, "-1": 0, "9999999TiB": 0, "1.5GiB": 0} {
		got, err := parseSize(text)
		require.Equal(t, want == 0, err != nil, text)
		require.Equal(t, want, got, text)
	}
}
