package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/kvm/qga"
)

// chaos is a job over two real guests and eight VMs of fake hosts, whose repository is behind a mover.
type chaos struct {
	*testing.T
	pairOf
	vsphere *vsphereLab
	hyperv  *hypervLab
	guests  map[string]*replicaLab // what is known of a guest's records
	lines   [2]*reaper             // to the hosts
	ids     map[string]string      // of Hyper-V's VMs
	file    string
}

func newChaos(t *testing.T) *chaos {
	if !longTier() {
		t.Skip("boots two guests: needs HIKAE_TEST_TIER=long")
	}
	c := &chaos{T: t, guests: map[string]*replicaLab{}, ids: map[string]string{}}
	for _, name := range []string{"guest1", "guest2"} {
		c.guests[name] = newReplicaLab(t)
	}
	c.vsphere = newVSphereLab(t, "--vms", "4", "--hosts", "2", "--disks", "1", "--size", "4MiB")
	c.hyperv = buildHyperV(t).start(t, "--generation", "2019", "--vms", "4", "--disks", "1", "--size", "4MiB")
	c.lines = [2]*reaper{newReaper(t, c.vsphere.ready.Listening), newReaper(t, c.hyperv.ready.Listening)}
	for _, vm := range c.hyperv.ready.VMs {
		c.ids[vm.Name] = vm.ID
	}
	c.pairOf = pairOf{t: t, dir: t.TempDir(), log: &bytes.Buffer{}}
	c.pairOf.run("b", "init", "--no-encryption", "--block-size", "64KiB", "r")
	require.NoError(t, os.WriteFile(c.pairOf.file("token"), c.pairOf.run("b", "mover", "token", "--repo", "r", "site-a"), 0o600))
	c.serve()
	t.Cleanup(func() { c.end(syscall.SIGKILL) })
	c.pairOf.run("a", "mover", "enrol", c.at, "--token-file", "token")
	c.write()
	return c
}

// write writes the job file. It reads slowly, so that there is a middle.
func (c *chaos) write() {
	secret := func(name, text string) string {
		require.NoError(c, os.WriteFile(c.pairOf.file(name), []byte(text+"\n"), 0o600))
		return c.pairOf.file(name)
	}
	through := func(address, listening string, line *reaper) string {
		return strings.Replace(address, listening, line.Addr().String(), 1)
	}
	text := fmt.Sprintf("name: chaos\nrepository: {url: %q}\nsources:\n", "mover://"+c.at+"/site-a")
	login := secret("vsphere", labPassword)
	for _, name := range c.vsphere.ready.VMs { // the fakes call their VMs alike
		address := through(c.vsphere.address("&quiesce=off&vm="+name), c.vsphere.ready.Listening, c.lines[0])
		text += fmt.Sprintf("  - {url: %q, name: sphere-%s, password-file: %s}\n", address, name, login)
	}
	text += fmt.Sprintf("  - {url: %q, password-file: %s}\n", through(c.hyperv.address(""), c.hyperv.ready.Listening, c.lines[1]), secret("hyperv", hypervPassword))
	for name, g := range c.guests {
		text += fmt.Sprintf("  - {url: %q, name: %s}\n", strings.Replace(g.source, "name=web1", "agent="+g.path("vm/qga.sock"), 1), name)
	}
	text += "limits: {tasks: 4, rate: 3MiB/s}\nretry: {attempts: 8, first: 500ms, most: 3s}\n"
	c.file = secret("job.yaml", text)
}

// job starts the job; begun is closed when its first VM is begun.
func (c *chaos) job() (begun chan struct{}, wait func() (vms map[string]map[string]any, code int)) {
	cmd := c.command("a", "job", "run", c.file, "--json")
	var out bytes.Buffer
	var log strings.Builder
	cmd.Stdout = &out
	stderr, err := cmd.StderrPipe()
	require.NoError(c, err)
	require.NoError(c, cmd.Start())
	overdue := time.AfterFunc(15*time.Minute, func() { cmd.Process.Kill() })
	begun, read := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		first := true
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			log.WriteString(lines.Text() + "\n")
			if first && strings.HasSuffix(lines.Text(), ": begun") {
				first = false
				close(begun)
			}
		}
	}()
	return begun, func() (map[string]map[string]any, int) {
		<-read
		err := cmd.Wait()
		require.True(c, overdue.Stop(), "it hangs: %s", log.String())
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
			err = nil
		}
		require.NoError(c, err, log.String())
		var doc map[string]any
		require.NoError(c, json.Unmarshal(out.Bytes(), &doc), log.String())
		c.Logf("%s", log.String())
		return vmsOf(c.T, doc), cmd.ProcessState.ExitCode()
	}
}

// left is what is on the hosts, but for logins that a cut line has cost: the server ends those.
func (c *chaos) left() []string {
	one, err := c.vsphere.Leftovers(c.Context())
	require.NoError(c, err)
	two, err := c.hyperv.Leftovers(c.Context())
	require.NoError(c, err)
	return slices.DeleteFunc(append(one, two...), func(s string) bool { return strings.HasPrefix(s, "session of ") })
}

// whole holds the newest point of each VM against the VM.
func (c *chaos) whole() {
	for name, sum := range c.sums() {
		out := filepath.Join(c.TempDir(), name)
		c.pairOf.run("b", "restore", "--repo", "r", "site-a/"+name+"@latest", "--to", out+"/")
		files, err := filepath.Glob(out + "/*.raw")
		require.NoError(c, err)
		require.Len(c, files, 1, name)
		if sum != "" {
			require.Equal(c, sum, sumOfFile(c.T, files[0]), name)
			continue
		}
		g := c.guests[name]
		g.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", files[0], out+".qcow2")
		require.Positive(c, g.records(out+".qcow2"), name)
	}
}

// sums are what the VMs hold; a guest writes without a pause, and its point is held against its own records.
func (c *chaos) sums() map[string]string {
	out := map[string]string{"guest1": "", "guest2": ""}
	for _, name := range c.vsphere.ready.VMs {
		out["sphere-"+name] = c.vsphere.sums(name, 1)[0]
	}
	for name, id := range c.ids {
		out[name] = c.hyperv.sums(id, 1, true)[0]
	}
	return out
}

func (c *chaos) scribble() {
	for _, name := range c.vsphere.ready.VMs {
		c.vsphere.scribble(name, 1)
	}
	for _, id := range c.ids {
		c.hyperv.scribble(id, 1)
	}
}

// R188, R198, R203: in the middle of a job its hosts, its proxy and its repository are lost, each once, and come back. Each VM has a right
// point then, or a reason with a name; nothing stays frozen, and nothing is left.
func TestJobChaos(t *testing.T) {
	c := newChaos(t)
	rnd := rand.New(rand.NewPCG(10, 1))
	begun, wait := c.job()
	select {
	case <-begun:
	case <-time.After(3 * time.Minute):
		require.Fail(t, "nothing begins")
	}
	moment := func() { time.Sleep(time.Second + time.Duration(rnd.IntN(1000))*time.Millisecond) }
	moment()
	for _, line := range c.lines { // the hosts are away
		line.cut(true)
	}
	moment()
	moment()
	for _, line := range c.lines {
		line.cut(false)
	}
	moment()
	c.end(syscall.SIGKILL) // the proxy dies
	moment()
	c.serve()
	moment()
	require.NoError(t, os.Rename(c.pairOf.file("r"), c.pairOf.file("away"))) // the repository's disk is away
	moment()
	require.NoError(t, os.Rename(c.pairOf.file("away"), c.pairOf.file("r")))
	vms, code := wait()
	require.Len(t, vms, 10)
	right := 0
	for name, vm := range vms {
		t.Logf("%s: %v, try %v, %v", name, vm["state"], vm["attempts"], vm["error"])
		if vm["state"] == "done" {
			right++
			continue
		}
		require.NotEmpty(t, vm["error"], "%s has no point and no reason: %v", name, vm)
	}
	t.Logf("%d of %d VMs have their point, status %d", right, len(vms), code)

	c.scribble()
	_, wait = c.job()
	vms, code = wait()
	require.Contains(t, []int{0, 3}, code, "%v", vms)
	for name, vm := range vms {
		require.Equal(t, "done", vm["state"], "%s: %v", name, vm)
	}
	require.Empty(t, c.left())
	for name, g := range c.guests {
		agent := qga.New(g.path("vm/qga.sock"), nil)
		frozen, err := agent.Frozen(t.Context())
		agent.Close()
		require.NoError(t, err)
		require.False(t, frozen, "%s is frozen", name)
		g.awaitWrites("vm")
	}
	c.end(syscall.SIGTERM)
	c.whole()
	c.pairOf.run("b", "verify", "--repo", "r", "--data", "all")
}
