package kvm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// roundsEnv is how many times in a row TestEndToEnd runs. Not set: once, twice in the long tier, 20 times in the
// release's.
const roundsEnv = "HIKAE_E2E_ROUNDS"

func rounds(t *testing.T) int {
	t.Helper()
	if text := os.Getenv(roundsEnv); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(t, err)
		return n
	}
	switch os.Getenv("HIKAE_TEST_TIER") {
	case "long":
		return 2
	case "release":
		return 20
	}
	return 1
}

// R005, R011, R013, R014, R016, R017, R035, R182, R187: a server with an ext4 root, XFS, a swap area, SQLite and
// PostgreSQL is backed up by the tool while all of them write; its increments follow what it writes, discards and zeroes.
// Its points are restored and booted: the file systems are clean, the databases say that they are whole, and every
// ledger holds all that was acknowledged before the freeze and nothing that was begun after it.
func TestEndToEnd(t *testing.T) {
	n := rounds(t)
	var frozen []time.Duration
	for i := range n {
		ok := t.Run(fmt.Sprintf("round %d", i+1), func(t *testing.T) {
			s := newSite(t)
			s.protect()
			if long() {
				s.interrupt()
			}
			s.guest.Kill()
			points := s.points[len(s.points)-1:]
			if long() && i == 0 {
				points = s.points
			}
			for _, p := range points {
				s.prove(p)
			}
			frozen = append(frozen, s.frozen...)
		})
		require.True(t, ok)
	}
	slices.Sort(frozen)
	t.Logf("figure: end to end %d/%d; frozen by the guest's own clock: n=%d median=%v worst=%v",
		n, n, len(frozen), frozen[len(frozen)/2], frozen[len(frozen)-1])
	require.Less(t, frozen[len(frozen)-1], freezeDeadline)
}

// site is a server that the tool protects.
type site struct {
	t       *testing.T
	dir     string
	scratch string
	tool    *tool
	server  *kvmtest.Server
	guest   *kvmtest.Guest
	points  []sitePoint
	frozen  []time.Duration // in each freeze, the file system that was frozen longest
}

// sitePoint is what a point must hold.
type sitePoint struct {
	id     string
	sum    string              // of the range that tests write to
	bounds map[string][2]int64 // by ledger, the least and the greatest number of records
}

var ledgers = []string{kvmtest.Journal, kvmtest.SQLite, kvmtest.XFSJournal, kvmtest.Postgres}

func newSite(t *testing.T) *site {
	t.Helper()
	need(t, "e2fsck", "xfs_repair")
	server, err := kvmtest.BuildServer(t.Context())
	var missing *kvmtest.UnavailableError
	if errors.As(err, &missing) {
		t.Skip(err)
	}
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "site") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{t: t, dir: dir, scratch: filepath.Join(dir, "scratch"), tool: newTool(t, dir), server: server}
	require.NoError(t, os.Mkdir(s.scratch, 0o700))
	disks, err := server.Disks(t.Context(), dir)
	require.NoError(t, err)
	s.boot("vm", disks, false)
	s.written(0)
	s.tool.run(0, nil, "init", s.repo())
	return s
}

func (s *site) repo() string { return filepath.Join(s.dir, "repo") }

// boot starts a server on some disks. A quiet one writes nothing.
func (s *site) boot(name string, disks []kvmtest.GuestDisk, quiet bool) {
	s.t.Helper()
	vm := filepath.Join(s.dir, name)
	require.NoError(s.t, os.MkdirAll(vm, 0o700))
	var err error
	begun := time.Now()
	s.guest, err = s.server.Start(s.t.Context(), vm, disks, &kvmtest.ServerOptions{Ledgers: ledgers, Quiet: quiet})
	require.NoError(s.t, err)
	s.t.Logf("%s booted in %v", name, time.Since(begun).Round(time.Millisecond))
	s.t.Cleanup(s.guest.Kill)
	require.NotContains(s.t, s.guest.Console(), "FX ")
}

func (s *site) fx(args ...string) string {
	s.t.Helper()
	out, err := s.guest.Fx(s.t.Context(), args...)
	require.NoError(s.t, err, s.guest.Console())
	return strings.TrimSpace(out)
}

func (s *site) source() string {
	return "kvm://" + s.guest.QMP() + "?agent=" + s.guest.Agent() + "&name=web1&scratch=" + s.scratch
}

// protect makes a full point and increments, between which the server writes, zeroes and discards.
func (s *site) protect() {
	s.fx("swap", "8388608")
	s.fx("fill", kvmtest.RangeDevice, "0", "3145728", "1")
	s.fx("fill", "/var/lib/fx/large", "0", "2000000", "1")
	s.backup(false)

	s.fx("zero", kvmtest.RangeDevice, "524288", "524288")
	s.fx("discard", kvmtest.RangeDevice, "2097152", "524288")
	s.fx("rm", "/var/lib/fx/large")
	s.fx("trim", "/")
	s.fx("trim", "/data")
	s.backup(true)

	s.fx("fill", kvmtest.RangeDevice, "1048576", "131072", "2")
	s.fx("fill", "/data/large", "0", "2000000", "3")
	s.backup(true)
}

// backup makes a point with the tool and checks that nothing is left of it.
func (s *site) backup(incremental bool) {
	s.t.Helper()
	want := sitePoint{sum: s.fx("sum", kvmtest.RangeDevice)}
	var res backedUp
	s.tool.run(0, &res, "backup", "--repo", s.repo(), s.source())
	require.Equal(s.t, "filesystem", res.Consistency)
	require.Empty(s.t, res.Warnings)
	require.Len(s.t, res.Disks, 2)
	if incremental {
		require.Empty(s.t, res.Fallbacks)
		for _, d := range res.Disks {
			require.Less(s.t, d.Read, d.Size/4, "disk %s", d.Key)
		}
	}
	want.id = res.Point
	want.bounds = s.moment()
	s.points = append(s.points, want)
	s.t.Logf("point %.8s in %.1f s: %+v, bounds %v", res.Point, res.Seconds, res.Disks, want.bounds)
	s.clean()
}

// moment asks the server how the last freeze was, and what a snapshot of it must hold.
func (s *site) moment() map[string][2]int64 {
	s.t.Helper()
	var m struct {
		Frozen map[string]int64    `json:"frozen"`
		Bounds map[string][2]int64 `json:"bounds"`
	}
	require.NoError(s.t, json.Unmarshal([]byte(s.fx("moment")), &m))
	s.frozen = append(s.frozen, time.Duration(max(m.Frozen["root"], m.Frozen["data"]))*time.Microsecond)
	for _, name := range ledgers {
		b := m.Bounds[name]
		require.Positive(s.t, b[0], "nothing was acknowledged in %s", name)
		require.LessOrEqual(s.t, b[1]-b[0], int64(3), "the bounds of %s say little", name)
	}
	return m.Bounds
}

func (s *site) clean() {
	s.t.Helper()
	requireClean(s.t, s.guest, s.scratch, s.tracking())
}

// tracking are the change ids of the newest point.
func (s *site) tracking() map[string]string {
	s.t.Helper()
	st, err := dirstore.Open(s.repo())
	require.NoError(s.t, err)
	r, err := repo.Open(s.t.Context(), st, repo.Passphrase(passphrase), &repo.OpenOptions{StateDir: filepath.Join(s.dir, "look")})
	require.NoError(s.t, err)
	defer r.Close()
	var newest map[string]string
	for p, err := range r.Points(s.t.Context(), "web1") {
		require.NoError(s.t, err)
		newest = p.Tracking
	}
	return newest
}

// interrupt kills the tool in the middle, and then the hypervisor. The next backup sweeps what the tool left and is
// incremental; the one after the hypervisor's end reads whole disks, and the one after that is incremental again.
func (s *site) interrupt() {
	for _, after := range []time.Duration{150, 400, 700} {
		cmd := s.tool.command("backup", "--repo", s.repo(), s.source())
		require.NoError(s.t, cmd.Start())
		time.Sleep(after * time.Millisecond)
		cmd.Process.Kill() // at whatever it is doing, or done already
		cmd.Wait()
		s.thawed()
		s.fx("fill", kvmtest.RangeDevice, "3145728", "65536", strconv.Itoa(int(after)))
		s.backup(true)
	}
	s.guest.Kill()
	s.boot("vm", s.disks("vm"), false)
	s.written(0)
	s.fx("fill", kvmtest.RangeDevice, "3145728", "65536", "9")
	s.backup(false)
	s.backup(true)
}

// thawed waits until the guard of a tool that was killed has thawed the guest, if it was frozen.
func (s *site) thawed() {
	s.t.Helper()
	for ctx := within(s.t, freezeDeadline); ; {
		agent := qga.New(s.guest.Agent(), nil) // each time anew: the guard needs the port too
		frozen, err := agent.Frozen(ctx)
		agent.Close()
		require.NoError(s.t, ctx.Err(), "the guest is frozen still: %v", err)
		if err == nil && !frozen {
			return
		}
	}
}

// disks are the server's own, or those that were restored into a folder.
func (s *site) disks(name string) []kvmtest.GuestDisk {
	if name == "vm" {
		return []kvmtest.GuestDisk{
			{Path: filepath.Join(s.dir, "system.qcow2"), Format: "qcow2", ID: "vd0", Serial: system},
			{Path: filepath.Join(s.dir, "data.qcow2"), Format: "qcow2", ID: data},
		}
	}
	return []kvmtest.GuestDisk{
		{Path: filepath.Join(s.dir, name, system+".raw"), Format: "raw", ID: "vd0", Serial: system},
		{Path: filepath.Join(s.dir, name, data+".raw"), Format: "raw", ID: data},
	}
}

// prove restores a point, boots it, and looks at all that it holds.
func (s *site) prove(p sitePoint) {
	s.t.Helper()
	dir := filepath.Join(s.dir, p.id)
	s.tool.run(0, nil, "restore", "--repo", s.repo(), p.id, "--to", dir+"/")
	disks := s.disks(p.id)
	s.require("e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", disks[0].Path, kvmtest.RootOff))

	s.boot("of-"+p.id[:8], disks, true)
	var found map[string]struct {
		Records int64
		Error   string
	}
	require.NoError(s.t, json.Unmarshal([]byte(s.fx(append([]string{"check"}, ledgers...)...)), &found))
	s.t.Logf("point %.8s holds %v", p.id, found)
	for _, name := range ledgers {
		require.Empty(s.t, found[name].Error, name)
		require.GreaterOrEqual(s.t, found[name].Records, p.bounds[name][0], "%s lacks what was acknowledged before the freeze", name)
		require.LessOrEqual(s.t, found[name].Records, p.bounds[name][1], "%s has what was begun after the thaw", name)
	}
	require.Equal(s.t, p.sum, s.fx("sum", kvmtest.RangeDevice))
	s.fx("swap", "8388608")
	s.goOn(found[kvmtest.Postgres].Records)
	s.shutDown()
	s.require("e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", disks[0].Path, kvmtest.RootOff))
	s.require("xfs_repair", "-n", "-f", disks[1].Path)
	require.NoError(s.t, os.RemoveAll(dir))
}

// goOn lets the restored server write again: its ledgers go on where they ended.
func (s *site) goOn(records int64) {
	s.t.Helper()
	for _, name := range ledgers {
		s.fx("start", name)
	}
	s.written(records + 1)
	require.NotContains(s.t, s.guest.Console(), "fx:")
}

// written waits until the slowest ledger has acknowledged more than so many records.
func (s *site) written(records int64) {
	s.t.Helper()
	for ctx := within(s.t, 30*time.Second); ; {
		out, err := s.guest.Fx(ctx, "written", kvmtest.Postgres)
		require.NoError(s.t, ctx.Err(), "%v: %s", err, s.guest.Console())
		if n, _ := strconv.ParseInt(strings.TrimSpace(out), 10, 64); n > records {
			return
		}
	}
}

func (s *site) shutDown() {
	s.t.Helper()
	guest := OpenGuest(s.guest.Agent())
	guest.agent.Do(s.t.Context(), "guest-shutdown", map[string]any{"mode": "powerdown"}, nil) // it gives no answer
	guest.Close()
	require.NoError(s.t, s.guest.Wait(within(s.t, time.Minute)))
}

// require runs a program that must be content.
func (s *site) require(name string, args ...string) {
	s.t.Helper()
	out, err := exec.CommandContext(s.t.Context(), name, args...).CombinedOutput()
	require.NoError(s.t, err, "%s %v: %s", name, args, out)
}
