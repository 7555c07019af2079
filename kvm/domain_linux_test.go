package kvm

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// domainLab is a guest under libvirt, a repository and a journal.
type domainLab struct {
	*lab // what it says about points; its guest is not there
	host *host
}

// newDomainLab starts a guest with the lab's two disks under a libvirt of its own.
func newDomainLab(t *testing.T, start func(t *testing.T) *host) *domainLab {
	t.Helper()
	fixture, err := kvmtest.Build(t.Context())
	if missing, ok := err.(*kvmtest.UnavailableError); ok {
		t.Skip(missing)
	}
	require.NoError(t, err)
	need(t, "qemu-img", "e2fsck", "debugfs")
	h := start(t)
	l := &domainLab{lab: &lab{t: t, whole: t, dir: h.dir, fixture: fixture, scratch: filepath.Join(h.dir, "scratch")}, host: h}
	require.NoError(t, os.Mkdir(l.scratch, 0o711)) // as /var/tmp is: QEMU's user passes
	l.makeDisks()
	h.boot(fixture)
	address := "kvm+libvirt://" + strings.TrimPrefix(h.uri, "qemu://") + "?vm=web1&socket=" + h.socket
	where, _, err := ParseHostURL(address)
	require.NoError(t, err)
	machines, err := where.Machines(t.Context())
	require.NoError(t, err)
	require.Len(t, machines, 1)
	l.machine = machines[0]
	agent := l.machine.agent().open()
	defer agent.Close()
	require.Eventually(t, func() bool { _, err := agent.Frozen(t.Context()); return err == nil }, time.Minute, 50*time.Millisecond, "no agent")
	st, err := dirstore.Init(filepath.Join(h.dir, "repo"))
	require.NoError(t, err)
	l.repo, err = repo.Init(t.Context(), st, nil, &repo.InitOptions{NoEncryption: true}, &repo.OpenOptions{StateDir: filepath.Join(h.dir, "state")})
	require.NoError(t, err)
	t.Cleanup(func() { l.repo.Close() })
	return l
}

// fx lets the guest do something.
func (l *domainLab) fx(args ...string) string {
	l.t.Helper()
	g := OpenDomainGuest(*l.machine.Domain)
	defer g.Close()
	r, err := g.Run(l.t.Context(), "/bin/fx", args, nil)
	require.NoError(l.t, err, args)
	require.Zero(l.t, r.ExitCode, "%v: %s", args, r.Stderr)
	return strings.TrimSpace(string(r.Stdout))
}

// backup makes a point and checks that nothing is left of it.
func (l *domainLab) backup(opts Options, o job.BackupOptions) (job.Result, error) {
	l.t.Helper()
	j := l.effects()
	o.Journal = j
	res, err := job.Backup(l.t.Context(), New([]Machine{l.machine}, &opts), "", l.repo, &o)
	require.NoError(l.t, j.Close())
	l.clean()
	return res, err
}

// point makes a point of a guest that was not written to by us meanwhile, and checks that it holds what the guest has.
func (l *domainLab) point(opts Options, want job.Method) job.Result {
	l.t.Helper()
	sum := l.fx("sum", "/dev/vdb")
	res, err := l.backup(opts, job.BackupOptions{})
	require.NoError(l.t, err)
	require.Empty(l.t, res.Warnings)
	require.Equal(l.t, "filesystem", res.Consistency)
	require.Len(l.t, res.Disks, 2)
	require.Equal(l.t, want, res.Disks[1].Method, res.Fallbacks)
	dir := l.restore(res.Point)
	content := filepath.Join(dir, "virtio-disk1.raw")
	require.NoError(l.t, os.Rename(content, filepath.Join(dir, data+".raw")))
	require.Equal(l.t, sum, l.sumOfData(dir))
	require.Positive(l.t, l.checkSystem(dir), "the journal")
	require.NoError(l.t, os.RemoveAll(dir))
	return res
}

// clean checks that nothing of ours is left.
func (l *domainLab) clean() {
	l.t.Helper()
	mon, err := openDomain(l.t.Context(), *l.machine.Domain)
	require.NoError(l.t, err)
	defer mon.Close()
	inv, err := takeInventory(l.t.Context(), mon)
	require.NoError(l.t, err)
	require.Equal(l.t, "running", inv.status)
	require.Empty(l.t, inv.exports)
	for name := range inv.nodes {
		require.False(l.t, strings.HasPrefix(name, prefix), "node %s was left", name)
	}
	want := map[string]string{}
	if p := l.newest(); p != nil {
		want = p.Tracking
	}
	for _, d := range inv.disks {
		require.True(l.t, strings.HasPrefix(d.Node, "libvirt-"), "device %s has node %s", d.QDev, d.Node)
		var names []string
		for _, b := range inv.nodes[d.Node].Bitmaps {
			names = append(names, b.Name)
		}
		require.Equal(l.t, nonEmpty(want[d.Key]), names, "bitmaps of disk %s", d.Key)
	}
	require.True(l.t, refusedFor(mon.Execute(l.t.Context(), "nbd-server-stop", nil, nil), ""), "the NBD server was left running")
	agent := l.machine.agent().open()
	defer agent.Close()
	frozen, err := agent.Frozen(l.t.Context())
	require.NoError(l.t, err)
	require.False(l.t, frozen)
	for _, place := range []string{l.scratch, filepath.Join(l.dir, "config/libvirt/qemu/lib/domain-*")} {
		left, err := filepath.Glob(filepath.Join(place, prefix+"*"))
		require.NoError(l.t, err)
		require.Empty(l.t, left)
	}
	j := l.effects()
	defer j.Close()
	for e, err := range j.Pending(l.t.Context()) {
		require.NoError(l.t, err)
		require.Fail(l.t, "an effect was left", "%+v", e)
	}
}

// sweep is what the next start does.
func (l *domainLab) sweep() {
	l.t.Helper()
	keep, err := job.KeepIDs(l.t.Context(), l.repo)
	require.NoError(l.t, err)
	j := l.effects()
	defer j.Close()
	n, err := j.SweepFor(l.t.Context(), l.repo.ID(), map[string]hikae.Sweeper{"kvm.": New(nil, nil)}, keep)
	require.NoError(l.t, err)
	require.NotZero(l.t, n)
}

// R005, R011, R014, R182: a machine that libvirt owns is protected through its daemon, online and incrementally, at one
// moment of both disks, and its description is kept byte for byte.
func TestDomain(t *testing.T) {
	l := newDomainLab(t, newSession)
	l.fx("fill", "/dev/vdb", "0", "8388608", "2")
	first := l.point(Options{}, job.Allocated)
	t.Run("its description", func(t *testing.T) { l.descriptions(t, first.Point) })
	l.fx("zero", "/dev/vdb", "1048576", "1048576")
	l.fx("discard", "/dev/vdb", "3145728", "1048576")
	l.fx("fill", "/dev/vdb", "6291456", "131072", "3")
	require.Less(t, l.point(Options{}, job.Changed).Disks[1].Read, int64(8*mib))
	t.Run("two sessions", l.twoSessions)
	t.Run("a QEMU that is old", l.olderDomain)
	if !long() {
		l.killedAt(t, kindExport)
		return
	}
	t.Run("a full fleecing image", func(t *testing.T) {
		overwrite := func(_ context.Context, d hikae.Disk, img pipe.Image) (pipe.Image, error) {
			if d.Key != system {
				l.fx("fill", "/dev/vdb", "0", "8388608", "6")
			}
			return img, nil
		}
		_, err := l.backup(Options{FleeceBytes: 2 * mib}, job.BackupOptions{Wrap: overwrite})
		require.ErrorIs(t, err, ErrBroken)
		l.point(Options{Scratch: l.scratch}, job.Changed)
	})
	t.Run("a killed session", func(t *testing.T) {
		l.killedAt(t, kindFleece)
		l.killedAt(t, kindExport)
	})
	t.Run("a frozen guest", l.leftFrozen)
	t.Run("a machine that is off", l.domainOff)
}

// TestSystemDomain is TestDomain's beginning with the system's daemon: root, with machines of another user.
func TestSystemDomain(t *testing.T) {
	if !long() {
		t.Skip("a guest of its own: needs HIKAE_TEST_TIER=long")
	}
	l := newDomainLab(t, newSystem)
	l.fx("fill", "/dev/vdb", "0", "8388608", "2")
	l.point(Options{Scratch: l.scratch}, job.Allocated)
	l.fx("fill", "/dev/vdb", "6291456", "131072", "3")
	l.point(Options{Scratch: l.scratch}, job.Changed)

	locked := filepath.Join(l.dir, "locked")
	require.NoError(t, os.Mkdir(locked, 0o700)) // root's alone
	_, err := l.backup(Options{Scratch: locked}, job.BackupOptions{})
	require.ErrorIs(t, err, ErrDenied)
	require.ErrorContains(t, err, "&scratch=")
	t.Run("the command line", l.domainTool)
}

const idleXML = `<domain type='qemu'><name>idle1</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='DIR/idle.raw'/><target dev='vda' bus='virtio'/></disk>
    <memballoon model='none'/></devices></domain>`

// domainTool is the story of docs/kvm.md: one domain by name, and all that run, of which one has no agent.
func (l *domainLab) domainTool(t *testing.T) {
	require.NoError(t, os.WriteFile(filepath.Join(l.dir, "idle.raw"), []byte(strings.Repeat("idle", mib/4)), 0o644))
	xml := filepath.Join(l.dir, "idle1.xml")
	require.NoError(t, os.WriteFile(xml, []byte(strings.ReplaceAll(idleXML, "DIR", l.dir)), 0o644))
	l.host.virsh("create", xml)

	tool, repository := newTool(t, filepath.Join(l.dir, "tool")), filepath.Join(l.dir, "tools")
	tool.run(0, nil, "init", repository)
	all := "kvm+libvirt:///system?socket=" + l.host.socket + "&scratch=" + l.scratch
	type result struct {
		VM          string `json:"vm"`
		Point       string `json:"point"`
		Consistency string `json:"consistency"`
	}
	var one result
	tool.run(0, &one, "backup", "--repo", repository, all+"&vm=web1")
	require.Equal(t, "web1", one.VM)
	require.Equal(t, "filesystem", one.Consistency)

	var each struct {
		Session string   `json:"session"`
		Results []result `json:"results"`
	}
	tool.run(0, &each, "backup", "--repo", repository, all)
	require.NotEmpty(t, each.Session)
	require.Len(t, each.Results, 2)
	for _, r := range each.Results {
		require.NotEmpty(t, r.Point)
		require.Equal(t, map[string]string{"web1": "filesystem", "idle1": "crash"}[r.VM], r.Consistency)
	}
	var failed struct{ Error struct{ Kind string } }
	tool.run(1, &failed, "backup", "--repo", repository, all+"&vm=nobody")
	require.Equal(t, "not-found", failed.Error.Kind)
	tool.run(2, &failed, "backup", "--repo", repository, "kvm+libvirt://host7/system?vm=web1")
	tool.run(2, nil, "backup", "--repo", repository, "--name", "x", all)
}

func (l *domainLab) descriptions(t *testing.T, point string) {
	dir := l.restore(point)
	defer os.RemoveAll(dir)
	for name, args := range map[string][]string{"domain.xml": {"dumpxml", "web1"}, "domain-inactive.xml": {"dumpxml", "--inactive", "web1"}} {
		got, err := os.ReadFile(filepath.Join(dir, "config", name))
		require.NoError(t, err)
		require.Equal(t, strings.TrimSpace(l.host.virsh(args...)), strings.TrimSpace(string(got)))
	}
	require.Contains(t, l.host.virsh("dominfo", "web1"), "tainted: custom monitor control commands issued", "as docs/kvm.md says")
}

// twoSessions: libvirt lets several clients through, so it is not the monitor that keeps them apart.
func (l *domainLab) twoSessions(t *testing.T) {
	p := New([]Machine{l.machine}, nil)
	snap, err := p.Snapshot(t.Context(), l.machine.ID(), nil)
	require.NoError(t, err)
	_, err = p.Snapshot(t.Context(), l.machine.ID(), nil)
	var busy *hikae.BusyError
	require.ErrorAs(t, err, &busy)
	require.NoError(t, snap.Release(t.Context()))
	require.NoError(t, snap.Release(t.Context()))
	l.clean()
}

// olderDomain: by backup jobs too, and a full file breaks the backup and not the guest.
func (l *domainLab) olderDomain(t *testing.T) {
	sum := l.fx("sum", "/dev/vdb")
	res, err := l.backup(old(Options{}), job.BackupOptions{})
	require.NoError(t, err)
	require.Equal(t, job.Changed, res.Disks[1].Method)
	overwrite := func(_ context.Context, d hikae.Disk, img pipe.Image) (pipe.Image, error) {
		if d.Key != system {
			l.fx("fill", "/dev/vdb", "0", "6291456", "8")
		}
		return img, nil
	}
	_, err = l.backup(old(Options{FleeceBytes: mib}), job.BackupOptions{Wrap: overwrite})
	require.ErrorIs(t, err, ErrBroken)
	dir := l.restore(res.Point)
	require.NoError(t, os.Rename(filepath.Join(dir, "virtio-disk1.raw"), filepath.Join(dir, data+".raw")))
	require.Equal(t, sum, l.sumOfData(dir))
}

const domainVictimEnv = "HIKAE_KVM_DOMAIN_VICTIM"

// killedAt kills a session with -9 when it is about to do something, sweeps, and makes the next point.
func (l *domainLab) killedAt(t *testing.T, kind string) {
	l.fx("fill", "/dev/vdb", "2097152", "65536", "7")
	plan := victimPlan{Machine: l.machine, Repo: filepath.Join(l.dir, "repo"), State: filepath.Join(l.dir, "state"), Journal: l.journalDir()}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDomainVictim$")
	cmd.Env = append(os.Environ(), domainVictimEnv+"="+kind, domainVictimEnv+"_PLAN="+mustJSON(t, plan))
	out, err := cmd.CombinedOutput()
	exit, ok := err.(*exec.ExitError)
	require.True(t, ok, "%v: %s", err, out)
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), string(out))
	l.reopen()
	begun := time.Now()
	l.sweep()
	t.Logf("swept after %s in %v", kind, time.Since(begun).Round(time.Millisecond))
	l.clean()
	l.fx("discard", "/dev/vdb", "4194304", "65536")
	l.point(Options{}, job.Changed)
}

// TestDomainVictim is no test but the session that killedAt kills.
func TestDomainVictim(t *testing.T) {
	kind := os.Getenv(domainVictimEnv)
	if kind == "" {
		t.Skip("it is run by TestDomain")
	}
	var plan victimPlan
	require.NoError(t, json.Unmarshal([]byte(os.Getenv(domainVictimEnv+"_PLAN")), &plan))
	st, err := dirstore.Open(plan.Repo)
	require.NoError(t, err)
	r, err := repo.Open(t.Context(), st, nil, &repo.OpenOptions{StateDir: plan.State})
	require.NoError(t, err)
	j, err := hikae.OpenFileJournal(plan.Journal)
	require.NoError(t, err)
	_, err = job.Backup(t.Context(), New([]Machine{plan.Machine}, nil), "", r, &job.BackupOptions{Journal: dying{j, kind}})
	require.NoError(t, err)
}

// dying is a journal whose process is killed when an effect of a kind has been written down.
type dying struct {
	hikae.Journal
	kind string
}

func (d dying) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	done, err := d.Journal.Intend(ctx, e)
	if e.Kind == d.kind {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return done, err
}

// leftFrozen: a session that died while the guest was frozen is swept by way of libvirt too.
func (l *domainLab) leftFrozen(t *testing.T) {
	j := l.effects()
	snap, err := New([]Machine{l.machine}, nil).Snapshot(t.Context(), l.machine.ID(), &hikae.SnapshotOptions{Journal: j})
	require.NoError(t, err)
	e, err := snap.(*snapshot).effect(kindFreeze, nil)
	require.NoError(t, err)
	_, err = j.Intend(t.Context(), e)
	require.NoError(t, err)
	agent := l.machine.agent().open()
	defer agent.Close()
	_, err = agent.Freeze(t.Context())
	require.NoError(t, err)
	require.NoError(t, j.Close())
	l.sweep()
	l.clean()
}

// domainOff: of a machine that is off nobody can take a snapshot, and what a session left is known to be gone.
func (l *domainLab) domainOff(t *testing.T) {
	j := l.effects()
	_, err := New([]Machine{l.machine}, nil).Snapshot(t.Context(), l.machine.ID(), &hikae.SnapshotOptions{Journal: j})
	require.NoError(t, err)
	l.host.virsh("destroy", "web1")
	require.NoError(t, j.Close())
	_, err = New([]Machine{l.machine}, nil).Snapshot(t.Context(), l.machine.ID(), nil)
	require.ErrorIs(t, err, ErrOff)

	j = l.effects()
	defer j.Close()
	n, err := j.Sweep(t.Context(), map[string]hikae.Sweeper{"kvm.": New(nil, nil)}, nil)
	require.NoError(t, err)
	require.Equal(t, 3, n, "what was exported, what lies in files, and bitmaps in the images")
	left, err := filepath.Glob(filepath.Join(l.dir, "config/libvirt/qemu/lib", "*", prefix+"*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
