//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// hypervLab is a fake Hyper-V host in a process of its own, and what this test steers it by.
type hypervLab struct {
	*testing.T
	*hypervtest.Control
	home  string
	ready struct {
		Listening, User, Local, Control string
		Token                           string `json:"control_token"`
		Hosts                           []struct{ Name, SMB string }
		VMs                             []struct{ ID, Name string }
	}
	rnd *rand.Rand
}

// hypervPrograms are the fake host, and what the tool brings to hosts, built as make agents does. The fake looks at that, and runs a
// server of its own in its place.
type hypervPrograms struct{ host, agents string }

func buildHyperV(t *testing.T) hypervPrograms {
	t.Helper()
	dir := t.TempDir()
	p := hypervPrograms{filepath.Join(dir, "hyperv"), filepath.Join(dir, "agents")}
	build := func(env []string, to, from string) {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, from)
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
	}
	build(nil, p.host, "../../hyperv/hypervtest/hyperv")
	build([]string{"GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0"}, filepath.Join(p.agents, "windows-amd64", "hikae-hyperv.exe"), "../../hyperv/helper/hikae-hyperv")
	return p
}

// start starts the host. It is ended at the end of the test.
func (p hypervPrograms) start(t *testing.T, args ...string) *hypervLab {
	t.Helper()
	t.Setenv(sourcePassword, hypervPassword)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // a race still ends a program with 66, without a second's sleep each
	l := &hypervLab{T: t, home: t.TempDir(), rnd: rand.New(rand.NewPCG(7, 1))}
	cmd := exec.Command(p.host, append(args, "--control", "127.0.0.1:0", "--fill", "random", "--seed", "3")...)
	cmd.Env = append(os.Environ(), "TMPDIR="+l.home)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		overdue := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		defer overdue.Stop()
		require.NoError(t, cmd.Wait(), stderr.String())
		stdin.Close()
	})
	require.NoError(t, json.NewDecoder(io.LimitReader(stdout, 1<<20)).Decode(&l.ready), "%s", &stderr)
	if l.ready.Local != "" {
		t.Skip("files are served by Samba: " + l.ready.Local)
	}
	l.Control, err = hypervtest.DialControl(t.Context(), l.ready.Control, l.ready.Token)
	require.NoError(t, err)
	t.Cleanup(func() { l.Control.Close() })
	t.Setenv("HIKAE_AGENT_DIR", p.agents)
	return l
}

// as lets a part of the test be one of its own.
func (l *hypervLab) as(t *testing.T, part func()) {
	defer func(outer *testing.T) { l.T = outer }(l.T)
	l.T = t
	part()
}

// address is that of the fake, with parameters.
func (l *hypervLab) address(parameters string) string {
	return "hyperv://" + l.ready.User + "@" + l.ready.Listening + "/?smb=" + l.ready.Hosts[0].SMB + parameters
}

// hikae runs the tool in a process of its own.
func (l *hypervLab) hikae(want outcome.Status, args ...string) map[string]any {
	l.Helper()
	return command(l.T, l.home, want, args...)
}

func (l *hypervLab) repository(name string) string {
	l.Helper()
	path := filepath.Join(l.home, name)
	l.hikae(outcome.Done, "init", path, "--no-encryption", "--block-size", "64KiB")
	return path
}

// scribble writes as the guest of a VM does.
func (l *hypervLab) scribble(vm string, disks int) {
	l.Helper()
	for disk := range disks {
		size, err := l.Size(l.Context(), vm, disk)
		require.NoError(l, err)
		for range 4 {
			p := make([]byte, 512*(1+l.rnd.IntN(150)))
			for i := range p {
				p[i] = byte(l.rnd.Uint32())
			}
			require.NoError(l, l.Write(l.Context(), vm, disk, p, l.rnd.Int64N((size-int64(len(p)))/512)*512))
		}
	}
}

// sums are what the disks of a VM hold; frozen: held when they were last pinned.
func (l *hypervLab) sums(vm string, disks int, frozen bool) (out []string) {
	l.Helper()
	of := l.Sum
	if frozen {
		of = l.FreezeSum
	}
	for disk := range disks {
		sum, err := of(l.Context(), vm, disk)
		require.NoError(l, err)
		out = append(out, sum)
	}
	return out
}

// clean: nothing of ours is on the host.
func (l *hypervLab) clean() {
	l.Helper()
	require.NoError(l, l.Settle(l.Context(), 20*time.Second))
	left, err := l.Leftovers(l.Context())
	require.NoError(l, err)
	require.Empty(l, left)
}

// restored restores the newest point of a VM to files, and compares.
func (l *hypervLab) restored(repository, vm string, want []string) {
	l.Helper()
	out, err := os.MkdirTemp(l.home, vm)
	require.NoError(l, err)
	doc := l.hikae(outcome.Done, "restore", "--repo", repository, vm+"@latest", "--to", out+"/")
	require.Len(l, disksOf(doc), len(want))
	for i, d := range disksOf(doc) {
		require.Equal(l, want[i], sumOfFile(l.T, filepath.Join(out, d["key"].(string)+".raw")))
	}
}

// idOf is the GUID of a VM that was made.
func (l *hypervLab) idOf(name string) string {
	l.Helper()
	for _, vm := range l.hikae(outcome.Done, "hyperv", "list", l.address("&vm="+name))["vms"].([]any) {
		return vm.(map[string]any)["id"].(string)
	}
	l.Fatalf("there is no VM %s", name)
	return ""
}

func longTier() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}
