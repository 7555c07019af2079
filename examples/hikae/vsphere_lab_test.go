//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/vmware"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// vsphereLab is a fake vSphere in a process of its own, and what this test steers it by.
type vsphereLab struct {
	*testing.T
	*vmwaretest.Control
	home  string
	ready struct {
		Listening, URL, User, Thumbprint, Control string
		CAFile                                    string `json:"ca_file"`
		Token                                     string `json:"control_token"`
		VMs                                       []string
	}
	rnd  *rand.Rand
	dead int // commands that were killed: what they cannot end, the server does by itself
}

const labPassword = "the fake one's"

// newVSphereLab starts the program vmwaretest/vsphere. It is ended at the end of the test, and must have left nothing then.
func newVSphereLab(t *testing.T, args ...string) *vsphereLab {
	t.Helper()
	t.Setenv(sourcePassword, labPassword)
	l := &vsphereLab{T: t, home: t.TempDir(), rnd: rand.New(rand.NewPCG(6, 1))}
	program := filepath.Join(l.home, "vsphere")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../vmware/vmwaretest/vsphere").CombinedOutput()
	require.NoError(t, err, string(out))
	cmd := exec.Command(program, append(args, "--control", "127.0.0.1:0", "--fill", "random", "--seed", "3")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		overdue := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		defer overdue.Stop()
		require.NoError(t, cmd.Wait(), stderr.String())
	})
	require.NoError(t, json.NewDecoder(io.LimitReader(stdout, 1<<20)).Decode(&l.ready), "%s", &stderr)
	l.Control, err = vmwaretest.DialControl(t.Context(), l.ready.Control, l.ready.Token)
	require.NoError(t, err)
	t.Cleanup(func() { l.Control.Close() })
	return l
}

// address is that of the fake, with parameters.
func (l *vsphereLab) address(parameters string) string {
	return "vsphere://" + l.ready.User + "@" + l.ready.Listening + "/?thumbprint=" + url.QueryEscape(l.ready.Thumbprint) + parameters
}

// hikae runs the tool in a process of its own.
func (l *vsphereLab) hikae(want outcome.Status, args ...string) map[string]any {
	l.Helper()
	return command(l.T, l.home, want, args...)
}

func (l *vsphereLab) repository(name string) string {
	l.Helper()
	path := filepath.Join(l.home, name)
	l.hikae(outcome.Done, "init", path, "--no-encryption", "--block-size", "64KiB")
	return path
}

// scribble writes as the guest of a VM does.
func (l *vsphereLab) scribble(vm string, disks int) {
	l.Helper()
	for disk := range disks {
		size, err := l.Size(l.Context(), vm, disk)
		require.NoError(l, err)
		for range 4 {
			p := make([]byte, 1+l.rnd.IntN(90_000))
			for i := range p {
				p[i] = byte(l.rnd.Uint32())
			}
			require.NoError(l, l.Write(l.Context(), vm, disk, p, l.rnd.Int64N(size-int64(len(p)))))
		}
	}
}

// sums are what the disks of a VM hold.
func (l *vsphereLab) sums(vm string, disks int) (out []string) {
	l.Helper()
	for disk := range disks {
		sum, err := l.Sum(l.Context(), vm, disk)
		require.NoError(l, err)
		out = append(out, sum)
	}
	return out
}

// clean: nothing of ours is on the server.
func (l *vsphereLab) clean() {
	l.Helper()
	left, err := l.Leftovers(l.Context())
	require.NoError(l, err)
	for range l.dead {
		if i := slices.Index(left, "session of "+l.ready.User); i >= 0 {
			left = slices.Delete(left, i, i+1)
		}
	}
	require.Empty(l, left)
}

// datastore is the name of a datastore, and the folder of this machine that it is.
func (l *vsphereLab) datastore() (name, folder string) {
	l.Helper()
	ctx := l.Context()
	u, err := url.Parse(l.ready.URL)
	require.NoError(l, err)
	c, err := vmware.Connect(ctx, u, vmware.Login{User: l.ready.User, Password: labPassword}, &vmware.ConnectOptions{Thumbprint: l.ready.Thumbprint})
	require.NoError(l, err)
	defer c.Close(ctx)
	all, err := view.NewManager(c.Vim()).CreateContainerView(ctx, c.Vim().ServiceContent.RootFolder, []string{"Datastore"}, true)
	require.NoError(l, err)
	defer all.Destroy(ctx)
	refs, err := all.Find(ctx, []string{"Datastore"}, property.Match{})
	require.NoError(l, err)
	var ds mo.Datastore
	require.NoError(l, property.DefaultCollector(c.Vim()).RetrieveOne(ctx, refs[0], []string{"summary"}, &ds))
	return ds.Summary.Name, ds.Summary.Url
}

// disksOf are the disks in a result.
func disksOf(doc map[string]any) (out []map[string]any) {
	for _, d := range doc["disks"].([]any) {
		out = append(out, d.(map[string]any))
	}
	return out
}

// has reports a text in what a document lists.
func has(list any, text string) bool {
	p, err := json.Marshal(list)
	return err == nil && strings.Contains(string(p), text)
}
