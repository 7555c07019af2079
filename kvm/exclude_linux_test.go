package kvm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/kvm/qmp"
)

// R015, R016, R017, R018: a Debian whose root, data and swap are logical volumes, with a swap file, and an NTFS disk beside
// it, are backed up without what need not be stored: online, frozen by the agent; as it stood at one moment under the
// running guest, with logs to replay; and as a copy that was made while the guest wrote. The report says what was left
// out; single files are read; what is restored is clean, boots, and has all its files and both swap areas.
func TestInstalledGuest(t *testing.T) {
	if !long() {
		t.Skip("boots a guest three times: needs HIKAE_TEST_TIER=long")
	}
	s := newInstalled(t)
	s.fill()

	online := s.backup(s.source())
	require.Equal(t, "filesystem", online.Consistency)
	var m struct {
		Bounds map[string][2]int64 `json:"bounds"`
	}
	require.NoError(t, json.Unmarshal([]byte(s.fx("moment")), &m))

	pinned, torn := filepath.Join(s.dir, "pinned.raw"), filepath.Join(s.dir, "torn.raw")
	s.command("cp", s.system(), torn)
	acknowledged := s.acknowledged()
	s.standing(func() { s.command("cp", s.system(), pinned) })
	s.guest.Kill()

	s.prove("online", online, m.Bounds)
	busy := s.backup("--name", "web1", lvmDisk+"="+pinned, ntfsDisk+"="+s.ntfs())
	s.requireBusy(pinned)
	s.prove("pinned", busy, map[string][2]int64{
		kvmtest.Journal:    {acknowledged[kvmtest.Journal], 1 << 40},
		kvmtest.XFSJournal: {acknowledged[kvmtest.XFSJournal], 1 << 40},
	}, pinned, s.ntfs())
	s.proveTorn(torn)
}

// Keys of the disks: their serials.
const (
	lvmDisk  = "lvm-0001"
	ntfsDisk = "ntfs-0001"
)

// bootVolume is ext2. It has no log, and says that it is mounted also while it is frozen, so nobody can know from outside
// that it is sound. It alone is stored whole.
const bootVolume = lvmDisk + ":1"

var lvmLedgers = []string{kvmtest.Journal, kvmtest.XFSJournal}

// installed is the guest, and what it said of itself before its backups.
type installed struct {
	site
	lvm   *kvmtest.LVM
	sums  string            // of its files, but what is excluded or being written
	swaps string            // swapon --show
	files map[string][]byte // of the NTFS disk
}

// leftOut is what the tool says of a backup in which it looked into the disks.
type leftOut struct {
	backedUp
	Volumes []struct {
		Name, Kind, Label, Whole   string
		Size, Free, Swap, Excluded int64
		Files                      int64
		Caution                    bool
	} `json:"volumes"`
}

func newInstalled(t *testing.T) *installed {
	t.Helper()
	need(t, "e2fsck", "xfs_repair", "cp", "mkntfs", "ntfsfix")
	lvm, err := kvmtest.BuildLVM(t.Context())
	var missing *kvmtest.UnavailableError
	if errors.As(err, &missing) {
		t.Skip(err)
	}
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "inst") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &installed{site: site{t: t, dir: dir, scratch: filepath.Join(dir, "scratch"), tool: newTool(t, dir)}, lvm: lvm}
	require.NoError(t, os.Mkdir(s.scratch, 0o700))
	s.files = makeNTFS(t, s.ntfs())
	_, err = lvm.Disk(t.Context(), s.system())
	require.NoError(t, err)
	s.boot("vm", s.system(), s.ntfs(), false)
	s.tool.run(0, nil, "init", s.repo())
	return s
}

func (s *installed) system() string { return filepath.Join(s.dir, "system.raw") }
func (s *installed) ntfs() string   { return filepath.Join(s.dir, "ntfs.raw") }

func (s *installed) boot(name, system, ntfs string, quiet bool) {
	s.t.Helper()
	vm := filepath.Join(s.dir, "of-"+name)
	require.NoError(s.t, os.MkdirAll(vm, 0o700))
	var err error
	begun := time.Now()
	s.guest, err = s.lvm.Start(s.t.Context(), vm, []kvmtest.GuestDisk{
		{Path: system, Format: "raw", ID: "vd0", Serial: lvmDisk}, {Path: ntfs, Format: "raw", ID: "vd1", Serial: ntfsDisk},
	}, &kvmtest.ServerOptions{Ledgers: lvmLedgers, Quiet: quiet})
	require.NoError(s.t, err)
	s.t.Logf("%s booted in %v", name, time.Since(begun).Round(time.Millisecond))
	s.t.Cleanup(s.guest.Kill)
	require.NotContains(s.t, s.guest.Console(), "FX ")
}

// shell runs a line in the guest.
func (s *installed) shell(line string) string {
	s.t.Helper()
	agent := qga.New(s.guest.Agent(), nil)
	defer agent.Close()
	r, err := agent.Exec(within(s.t, 3*time.Minute), "/bin/sh", []string{"-ec", line}, nil, 4*mib)
	require.NoError(s.t, err, line)
	require.Zero(s.t, r.ExitCode, "%s: %s", line, r.Stderr)
	require.False(s.t, r.Truncated)
	return string(r.Stdout)
}

func (s *installed) command(name string, args ...string) string {
	s.t.Helper()
	out, err := exec.CommandContext(s.t.Context(), name, args...).CombinedOutput()
	require.NoError(s.t, err, "%s %v: %s", name, args, out)
	return string(out)
}

const (
	bigFile = 24 * mib // in /tmp, and as large a one in /data/tmp
	oldFile = 24 * mib // deleted again, on both file systems
)

// churn takes space into use and frees it for ever, on both file systems, so that their logs are never empty.
const churn = `mkdir -p /srv/churn /data/churn
	(i=0; while :; do i=$((i+1)); for d in /srv/churn /data/churn; do
		head -c $((i*7919%400000)) /srv/keep/1 >$d/$((i%23)); rm -f $d/$((i*5%23)); done; sleep 0.03; done) </dev/null >/dev/null 2>&1 &`

// fill lets the guest make files, delete some, so that free space holds what they held, and use its swap areas.
func (s *installed) fill() {
	s.t.Helper()
	s.shell("mkdir -p /srv/keep /srv/small /data/keep /data/tmp")
	for i, path := range []string{"/srv/old", "/srv/keep/1", "/srv/keep/2", "/data/old", "/data/keep/1", "/data/keep/2", "/tmp/big", "/data/tmp/big"} {
		size := 3*mib + 4321*i
		switch filepath.Base(path) {
		case "old":
			size = oldFile
		case "big":
			size = bigFile
		}
		s.fx("fill", path, "0", fmt.Sprint(size), fmt.Sprint(i+1))
	}
	s.shell(`i=0; while [ $i -lt 120 ]; do head -c $((i*997)) /srv/keep/1 >/srv/small/$i; cp /srv/small/$i /data/keep/small$i; i=$((i+1)); done; sync
		rm /srv/old /data/old; i=0; while [ $i -lt 120 ]; do rm /srv/small/$i /data/keep/small$i; i=$((i+3)); done; sync`)
	s.fx("swap", fmt.Sprint(48*mib))
	s.shell(churn)
	s.sums, s.swaps = s.look()
	require.Contains(s.t, s.sums, "/srv/keep/1\n")
	require.Contains(s.t, s.sums, "/boot/vmlinuz\n")
	s.acknowledged()
}

// look takes down the files of the guest and its swap areas.
func (s *installed) look() (sums, swaps string) {
	s.t.Helper()
	sums = s.shell(`find / /boot /data -xdev -type f ! -path '*/tmp/*' ! -path '*/churn/*' ! -path /swapfile ! -path '/var/lib/fx/*' ! -path /data/journal ! -name .meter ` +
		`! -path /bin/fx ! -path /sbin/shutdown ! -path /etc/qemu/fsfreeze-hook -exec md5sum {} + | sort -k 2`)
	swaps = s.shell("swapon --show=NAME,TYPE,SIZE,PRIO,UUID --noheadings --raw")
	for _, id := range []string{kvmtest.LVMSwapUUID, kvmtest.LVMFileUUID} {
		require.Contains(s.t, swaps, id)
	}
	return sums, swaps
}

// acknowledged waits until both ledgers have some records, and says how many are durable.
func (s *installed) acknowledged() map[string]int64 {
	s.t.Helper()
	out := map[string]int64{}
	for _, name := range lvmLedgers {
		for ctx := within(s.t, 30*time.Second); out[name] < 3; {
			text, err := s.guest.Fx(ctx, "written", name)
			require.NoError(s.t, ctx.Err(), "%v: %s", err, s.guest.Console())
			out[name], _ = strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		}
	}
	return out
}

// standing does something while the guest's processors stand still, and its disks with them.
func (s *installed) standing(do func()) {
	s.t.Helper()
	mon, err := qmp.Dial(s.t.Context(), s.guest.QMP())
	require.NoError(s.t, err)
	defer mon.Close()
	require.NoError(s.t, mon.Execute(s.t.Context(), "stop", nil, nil))
	do()
	require.NoError(s.t, mon.Execute(s.t.Context(), "cont", nil, nil))
}

// backup makes a point and checks what is said of the volumes.
func (s *installed) backup(source ...string) leftOut {
	s.t.Helper()
	var res leftOut
	for range 3 { // on a busy machine the time for looking into the disks may be up
		res = leftOut{}
		s.tool.run(0, &res, append([]string{"backup", "--repo", s.repo(), "--exclude-file", "**/tmp/**"}, source...)...)
		if !strings.Contains(fmt.Sprint(res.Volumes, res.Notes), "time") {
			break
		}
		s.t.Log("again: the time was up")
	}
	require.Empty(s.t, res.Warnings)
	s.t.Logf("figure: point %.8s, %s, in %.1f s; notes %q", res.Point, res.Consistency, res.Seconds, res.Notes)
	for _, d := range res.Disks {
		s.t.Logf("figure: disk %s of %d MiB: read %d KiB, stored %d KiB, skipped %v", d.Key, d.Size/mib, d.Read>>10, d.Stored>>10, d.Skipped)
	}
	for _, v := range res.Volumes {
		s.t.Logf("figure: volume %s %s %q of %d MiB: free %d KiB, swap %d KiB, excluded %d KiB in %d files; whole: %q",
			v.Name, v.Kind, v.Label, v.Size/mib, v.Free>>10, v.Swap>>10, v.Excluded>>10, v.Files, v.Whole)
	}
	s.requireLeftOut(res)
	return res
}

// requireLeftOut: of each volume that there is, what must have been found.
func (s *installed) requireLeftOut(res leftOut) {
	s.t.Helper()
	require.Len(s.t, res.Disks, 2)
	for _, reason := range []string{"free", "swap", "excluded"} {
		require.Positive(s.t, res.Disks[0].Skipped[reason], reason)
	}
	require.Positive(s.t, res.Disks[1].Skipped["free"])
	require.Positive(s.t, res.Disks[1].Skipped["excluded"])
	found := map[string]bool{}
	for _, v := range res.Volumes {
		found[v.Name] = true
		require.Equal(s.t, v.Name == bootVolume, v.Whole != "", "volume %s: %s", v.Name, v.Whole)
		switch v.Name {
		case "vg0/root":
			require.GreaterOrEqual(s.t, v.Free, int64(oldFile))
			require.GreaterOrEqual(s.t, v.Excluded, int64(bigFile))
			require.Equal(s.t, int64(32*mib-4096), v.Swap, "the swap file but its first page")
		case "vg0/data":
			require.GreaterOrEqual(s.t, v.Free, int64(oldFile))
			require.Equal(s.t, int64(bigFile), v.Excluded)
		case "vg0/swap":
			require.Equal(s.t, int64(64*mib-4096), v.Swap)
		case ntfsDisk:
			require.GreaterOrEqual(s.t, v.Free, int64(ntfsOld))
			require.GreaterOrEqual(s.t, v.Excluded, int64(ntfsBig))
		}
	}
	for _, name := range []string{bootVolume, "vg0/root", "vg0/data", "vg0/swap", ntfsDisk} {
		require.True(s.t, found[name], "volume %s in %v", name, res.Volumes)
	}
}

// prove restores a point, looks at it from outside, boots it, and looks at it from inside. Originals are what was backed
// up, where that is at hand.
func (s *installed) prove(name string, p leftOut, bounds map[string][2]int64, originals ...string) {
	s.t.Helper()
	s.readFiles(p.Point)
	dir := filepath.Join(s.dir, name)
	s.tool.run(0, nil, "restore", "--repo", s.repo(), p.Point, "--to", dir+"/")
	system, ntfs := filepath.Join(dir, lvmDisk+".raw"), filepath.Join(dir, ntfsDisk+".raw")
	for i, original := range originals {
		requireOnlyZeros(s.t, original, []string{system, ntfs}[i])
	}
	s.requireRoot(system)
	s.requireSwapPage(system, "vg0/swap", kvmtest.LVMSwapUUID)
	s.requireLeftOutFiles(system)
	s.command("ntfsfix", "-n", ntfs)
	requireNTFS(s.t, ntfs, s.files)

	s.boot(name, system, ntfs, true)
	var found map[string]struct {
		Records int64
		Error   string
	}
	require.NoError(s.t, json.Unmarshal([]byte(s.fx(append([]string{"check"}, lvmLedgers...)...)), &found))
	s.t.Logf("figure: %s: ledgers %v within %v", name, found, bounds)
	for _, ledger := range lvmLedgers {
		require.Empty(s.t, found[ledger].Error, ledger)
		require.GreaterOrEqual(s.t, found[ledger].Records, bounds[ledger][0], "%s lacks what was acknowledged", ledger)
		require.LessOrEqual(s.t, found[ledger].Records, bounds[ledger][1], "%s has what came after", ledger)
	}
	sums, swaps := s.look()
	require.Equal(s.t, s.sums, sums)
	require.Equal(s.t, s.swaps, swaps)
	s.t.Logf("figure: %s: %d files as they were, swap areas %q", name, strings.Count(sums, "\n"), swaps)
	s.fx("swap", fmt.Sprint(16*mib))
	s.shutDown()
	s.command("e2fsck", "-fn", s.volume(system, "vg0/root"))
	s.command("e2fsck", "-fn", s.volume(system, bootVolume))
	s.command("xfs_repair", "-n", "-f", s.volume(system, "vg0/data"))
	require.NoError(s.t, os.RemoveAll(dir))
}

// readFiles reads single files out of a point, on both file systems of the volume group.
func (s *installed) readFiles(point string) {
	s.t.Helper()
	for _, path := range []string{"/srv/keep/1", "/data/keep/2", "/etc/fstab"} {
		require.Contains(s.t, s.sums, fmt.Sprintf("%s  %s\n", md5Of(s.cat(point, path)), path))
	}
	for _, path := range []string{"/tmp/big", "/swapfile"} {
		out, err := s.plain("cat", "--repo", s.repo(), point, path).Output()
		require.Error(s.t, err, "what was left out is not handed out as if it were the file")
		require.Empty(s.t, out)
	}
	out, err := s.plain("ls", "--repo", s.repo(), point).Output()
	require.NoError(s.t, err)
	require.Regexp(s.t, `(?m)^vg0/data .* xfs .* /data$`, string(out))
}

func (s *installed) cat(point, path string) []byte {
	s.t.Helper()
	cmd := s.plain("cat", "--repo", s.repo(), point, path)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	require.NoError(s.t, err, "%s: %s", path, said.String())
	return out
}

// plain is the tool without --json.
func (s *installed) plain(args ...string) *exec.Cmd {
	cmd := s.tool.command(args...)
	cmd.Args = cmd.Args[:len(cmd.Args)-1]
	return cmd
}

// proveTorn: of a copy that was made while the guest wrote nobody knows that it is sound. What is restored is as sound as
// the copy, and lacks nothing but what was left out.
func (s *installed) proveTorn(torn string) {
	s.t.Helper()
	var res leftOut
	s.tool.run(0, &res, "backup", "--repo", s.repo(), "--name", "torn", lvmDisk+"="+torn)
	s.t.Logf("figure: torn copy: %+v", res.Volumes)
	dir := filepath.Join(s.dir, "torn")
	s.tool.run(0, nil, "restore", "--repo", s.repo(), res.Point, "--to", dir+"/")
	system := filepath.Join(dir, lvmDisk+".raw")
	requireOnlyZeros(s.t, torn, system)
	before, said := s.fsck(torn)
	after, says := s.fsck(system)
	require.Equal(s.t, before, after, "of the copy: %s\nof the restored one: %s", said, says)
	s.t.Logf("figure: torn copy: e2fsck after its log ends with %d before and %d after", before, after)
}
