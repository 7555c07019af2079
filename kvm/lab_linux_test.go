package kvm

import (
	"context"
	"encoding/binary"
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

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

const mib = 1 << 20

// Keys of the lab's disks: the first has a serial, which comes before its id; the second has an id alone.
const (
	system = "root-0001"
	data   = "vd1"
)

// lab is a guest with two disks, a repository and a journal.
type lab struct {
	t        *testing.T // the one that is running
	whole    *testing.T // the one that the guests belong to
	dir      string
	fixture  *kvmtest.Fixture
	guest    *kvmtest.Guest
	machine  Machine
	scratch  string
	guarded  bool          // victims have a guard
	deadline time.Duration // of victims that are frozen; zero: the default
	tool     *tool         // victims are the tool; nil: this test program
	repo     *repo.Repository
}

func newLab(t *testing.T) *lab {
	t.Helper()
	fixture, err := kvmtest.Build(t.Context())
	var missing *kvmtest.UnavailableError
	if errors.As(err, &missing) {
		t.Skip(err)
	}
	require.NoError(t, err)
	need(t, "qemu-img", "e2fsck", "debugfs")
	dir, err := os.MkdirTemp("", "kvm") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{t: t, whole: t, dir: dir, fixture: fixture, scratch: filepath.Join(dir, "scratch")}
	require.NoError(t, os.Mkdir(l.scratch, 0o700))
	l.makeDisks()
	l.boot()
	st, err := dirstore.Init(filepath.Join(dir, "repo"))
	require.NoError(t, err)
	l.repo, err = repo.Init(t.Context(), st, nil, &repo.InitOptions{NoEncryption: true}, &repo.OpenOptions{StateDir: filepath.Join(dir, "state")})
	require.NoError(t, err)
	t.Cleanup(func() { l.repo.Close() })
	return l
}

// reopen opens the repository as the next start of a program does: another process has written to it.
func (l *lab) reopen() {
	l.t.Helper()
	require.NoError(l.t, l.repo.Close())
	st, err := dirstore.Open(filepath.Join(l.dir, "repo"))
	require.NoError(l.t, err)
	l.repo, err = repo.Open(context.Background(), st, nil, &repo.OpenOptions{StateDir: filepath.Join(l.dir, "state")})
	require.NoError(l.t, err)
}

func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(name + " is not installed")
		}
	}
}

func (l *lab) makeDisks() {
	raw := filepath.Join(l.dir, "system.raw")
	require.NoError(l.t, kvmtest.MakeExt4(l.t.Context(), raw, 48*mib))
	l.command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, filepath.Join(l.dir, "system.qcow2"))
	l.command("qemu-img", "create", "-q", "-f", "qcow2", filepath.Join(l.dir, "data.qcow2"), "16M")
	require.NoError(l.t, os.Remove(raw))
}

func (l *lab) boot() {
	l.t.Helper()
	vm := filepath.Join(l.dir, "vm")
	require.NoError(l.t, os.MkdirAll(vm, 0o700))
	var err error
	l.guest, err = l.fixture.Start(l.t.Context(), vm, []kvmtest.GuestDisk{
		{Path: filepath.Join(l.dir, "system.qcow2"), Format: "qcow2", ID: "vd0", Serial: system},
		{Path: filepath.Join(l.dir, "data.qcow2"), Format: "qcow2", ID: data},
	})
	require.NoError(l.t, err)
	l.whole.Cleanup(l.guest.Kill)
	l.machine = Machine{QMP: l.guest.QMP(), Agent: l.guest.Agent(), Name: "web1"}
}

func (l *lab) command(name string, args ...string) string {
	l.t.Helper()
	out, err := exec.CommandContext(l.t.Context(), name, args...).CombinedOutput()
	require.NoError(l.t, err, "%s %v: %s", name, args, out)
	return string(out)
}

// fx lets the guest do something.
func (l *lab) fx(args ...string) string {
	l.t.Helper()
	agent := qga.New(l.guest.Agent(), nil)
	defer agent.Close()
	r, err := agent.Exec(l.t.Context(), "/bin/fx", args, nil, mib)
	require.NoError(l.t, err, args)
	require.Zero(l.t, r.ExitCode, "%v: %s", args, r.Stderr)
	return string(r.Stdout)
}

// journal is how far the guest's writer has come, and the longest pause that it saw.
func (l *lab) journal() (written, synced int, pause time.Duration) {
	l.t.Helper()
	var millis int64
	_, err := fmt.Sscanf(l.fx("state"), "written %d synced %d pause %d", &written, &synced, &millis)
	require.NoError(l.t, err)
	return written, synced, time.Duration(millis) * time.Millisecond
}

func (l *lab) provider(opts Options) *Provider {
	opts.Scratch = l.scratch
	return New([]Machine{l.machine}, &opts)
}

// journalDir is where the tool keeps its journal too.
func (l *lab) journalDir() string { return filepath.Join(l.dir, "state", "journal") }

// source is the machine's address.
func (l *lab) source() string {
	return "kvm://" + l.machine.QMP + "?agent=" + l.machine.Agent + "&name=" + l.machine.Name + "&scratch=" + l.scratch
}

func (l *lab) effects() *hikae.FileJournal {
	l.t.Helper()
	j, err := hikae.OpenFileJournal(l.journalDir())
	require.NoError(l.t, err)
	return j
}

// backup makes a point and checks that nothing is left of it.
func (l *lab) backup(opts Options, o job.BackupOptions) (job.Result, error) {
	l.t.Helper()
	j := l.effects()
	o.Journal = j
	res, err := job.Backup(l.t.Context(), l.provider(opts), "", l.repo, &o)
	require.NoError(l.t, j.Close())
	l.clean()
	return res, err
}

// sweep is what the next start does.
func (l *lab) sweep() int {
	l.t.Helper()
	keep, err := job.KeepIDs(l.t.Context(), l.repo)
	require.NoError(l.t, err)
	j := l.effects()
	defer j.Close()
	n, err := j.Sweep(l.t.Context(), map[string]hikae.Sweeper{"kvm.": l.provider(Options{})}, keep)
	require.NoError(l.t, err)
	return n
}

func (l *lab) newest() *pipe.PointInfo {
	l.t.Helper()
	var newest *pipe.PointInfo
	for p, err := range l.repo.Points(l.t.Context(), "web1") {
		require.NoError(l.t, err)
		newest = &p
	}
	return newest
}

// clean checks that nothing is left in QEMU, in the guest or on the host but the bitmaps that the newest point names.
func (l *lab) clean() {
	l.t.Helper()
	want := map[string]string{}
	if p := l.newest(); p != nil {
		want = p.Tracking
	}
	requireClean(l.t, l.guest, l.scratch, want)
	j := l.effects()
	defer j.Close()
	for e, err := range j.Pending(l.t.Context()) {
		require.NoError(l.t, err)
		require.Fail(l.t, "an effect was left", "%+v", e)
	}
}

// restore writes a point into a folder of raw files.
func (l *lab) restore(point string) string {
	l.t.Helper()
	to, err := os.MkdirTemp(l.dir, "restore")
	require.NoError(l.t, err)
	info, err := job.FindPoint(l.t.Context(), l.repo, point)
	require.NoError(l.t, err)
	r, err := diskvm.NewRestorer(to+"/", nil)
	require.NoError(l.t, err)
	_, err = job.Restore(l.t.Context(), l.repo, info, r, nil)
	require.NoError(l.t, err)
	return to
}

// checkSystem says whether the file system of a restored system disk is clean, and its journal without a gap. It
// returns how long the journal is.
func (l *lab) checkSystem(dir string) int {
	l.t.Helper()
	path := filepath.Join(dir, system+".raw")
	l.command("e2fsck", "-fn", path)
	l.command("debugfs", "-R", "dump /journal "+path+".journal", path)
	text, err := os.ReadFile(path + ".journal")
	require.NoError(l.t, err)
	lines := strings.SplitAfter(string(text), "\n")
	for i, line := range lines {
		if i == len(lines)-1 && !strings.HasSuffix(line, "\n") {
			return i // the one that was being written
		}
		number, err := strconv.Atoi(strings.TrimLeft(line[:12], "0"))
		require.NoError(l.t, err, line)
		require.Equal(l.t, i+1, number, "a gap in the journal")
		require.Len(l.t, line, 12+1+16+1)
	}
	return len(lines)
}

// sumOfData is the checksum of the guest's "fx sum", for a restored data disk.
func (l *lab) sumOfData(dir string) string {
	l.t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, data+".raw"))
	require.NoError(l.t, err)
	h := uint64(0xcbf29ce484222325)
	for i := 0; i < len(content); i += 8 {
		h = (h ^ binary.LittleEndian.Uint64(content[i:])) * 0x100000001b3
	}
	return fmt.Sprintf("%016x", h)
}

func (l *lab) guestSum() string {
	l.t.Helper()
	return strings.TrimSpace(l.fx("sum", "/dev/vdb"))
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}
