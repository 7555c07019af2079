package vmware

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// kitLab has an nbdkit whose vddk plugin is a script: it keeps what it was told and becomes a real nbdkit that serves a file.
type kitLab struct {
	dir    string
	disk   string
	size   int64
	opts   VDDKOptions
	pinned *Pinned
}

func newKitLab(t *testing.T, script string) *kitLab {
	t.Helper()
	if _, err := exec.LookPath("nbdkit"); err != nil {
		t.Skip("nbdkit is not installed")
	}
	l := &kitLab{dir: t.TempDir(), size: 5<<20 + 512}
	l.disk = filepath.Join(l.dir, "disk.raw")
	require.NoError(t, os.WriteFile(l.disk, contentOf(t, 21, l.size), 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(l.dir, "vddk", "lib64"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(l.dir, "vddk", "lib64", "libvixDiskLib.so.8"), nil, 0o600))
	program := filepath.Join(l.dir, "nbdkit")
	head := "#!/bin/sh\nD='" + l.dir + "'\nif [ \"$1\" = --dump-plugin ]; then echo name=vddk; exit 0; fi\n"
	require.NoError(t, os.WriteFile(program, []byte(head+script), 0o700))
	l.opts = VDDKOptions{Libdir: filepath.Join(l.dir, "vddk"), Nbdkit: program}
	p := pinnedOf(l.size)
	p.Client, p.Scratch = simulated(t, simulator.VPX()), shortDir(t)
	p.VM, p.Snapshot = types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-42"}, types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: "snapshot-7"}
	p.PoweredOn, p.Disk.File = true, "[store 1] web 1/web=1.vmdk"
	l.pinned = p
	return l
}

// shortDir is a folder whose path leaves room for a socket's.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "e")
	require.NoError(t, err)
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left, "nothing is left behind")
		require.NoError(t, os.RemoveAll(dir))
	})
	return dir
}

// served is what the script does once it is content with what it was told.
const served = `
IFS= read -r password <&3
printf '%s' "$password" >"$D/password"
for a in "$@"; do printf '%s\n' "$a"; done >"$D/args"
tr '\0' '\n' </proc/$$/environ >"$D/environ"
echo $$ >"$D/pid"
stat -c %a "$(dirname "$4")" >"$D/mode"
ro=
for a in "$@"; do case "$a" in --readonly) ro=--readonly;; esac; done
exec nbdkit --foreground --newstyle --exit-with-parent --unix "$4" $ro file "$D/disk.raw"
`

func (l *kitLab) file(t *testing.T, name string) string {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(l.dir, name))
	require.NoError(t, err)
	return string(p)
}

func (l *kitLab) gone(t *testing.T) bool {
	var pid int
	_, err := fmt.Sscan(l.file(t, "pid"), &pid)
	require.NoError(t, err)
	return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// TestVDDK: the process is told all it needs, the secret by a descriptor alone; what it serves is the disk; and it leaves
// nothing (R112).
func TestVDDK(t *testing.T) {
	l := newKitLab(t, served)
	tr := newVDDK(&l.opts)
	require.NoError(t, tr.Check(t.Context(), l.pinned))
	img, err := tr.Open(t.Context(), l.pinned)
	require.NoError(t, err)
	require.Equal(t, secretWord, l.file(t, "password"))
	digest, err := l.pinned.Client.serverDigest(t.Context())
	require.NoError(t, err)
	require.Len(t, digest, 59)
	args := strings.Split(strings.TrimSpace(l.file(t, "args")), "\n")
	require.Equal(t, []string{"--foreground", "--newstyle", "--unix", args[3], "--exit-with-parent", "--readonly", "--filter=retry", "--filter=blocksize", "vddk",
		"libdir=" + l.opts.Libdir, "server=127.0.0.1", "user=user", "password=-3", "thumbprint=" + digest, "vm=moref=vm-42",
		"transports=file:san:nbdssl", "maxdata=2M", "retries=3", "port=" + l.pinned.Client.address.Port(), "snapshot=snapshot-7", "file=[store 1] web 1/web=1.vmdk"}, args)
	require.NotContains(t, l.file(t, "args")+l.file(t, "environ"), secretWord)
	require.Equal(t, "700", strings.TrimSpace(l.file(t, "mode")), "nobody else could reach the socket")
	require.NoDirExists(t, filepath.Dir(args[3]), "a process that is killed leaves no name behind")
	pipetest.TestImage(t, img, pipetest.Bytes(contentOf(t, 21, l.size)))
	require.NoError(t, img.Close())
	require.NoError(t, img.Close())
	require.True(t, l.gone(t))
}

// TestVDDKDies: a process that dies says why, and the disk goes on by another transport.
func TestVDDKDies(t *testing.T) {
	l := newKitLab(t, served)
	want := contentOf(t, 21, l.size)
	b := &standing{name: "b", img: func() pipe.Image { return pipetest.Bytes(want) }}
	c, err := newChooser(&TransportOptions{Order: []string{VDDK, "b"}, VDDK: &l.opts, More: []Transport{b}})
	require.NoError(t, err)
	img, choice, err := c.open(t.Context(), l.pinned)
	require.NoError(t, err)
	require.Equal(t, VDDK, choice.Transport)
	buf := make([]byte, 4096)
	_, err = img.ReadAt(t.Context(), buf, 0)
	require.NoError(t, err)
	var pid int
	_, err = fmt.Sscan(l.file(t, "pid"), &pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.Eventually(t, func() bool { return l.gone(t) }, timeout, tick)
	_, err = img.ReadAt(t.Context(), buf, 4096)
	require.NoError(t, err)
	require.Equal(t, want[4096:8192], buf)
	choice, _ = choiceOf(img)
	require.Equal(t, "b", choice.Transport)
	require.Equal(t, int64(4096), choice.FailedOver()[0].Offset)
	require.NoError(t, img.Close())
}

// TestVDDKDoesNotStart: what it said is in the error, but for the secret.
func TestVDDKDoesNotStart(t *testing.T) {
	l := newKitLab(t, "IFS= read -r p <&3\necho \"nbdkit: vddk: cannot log in with $p\" >&2\nexit 1\n")
	start := time.Now()
	_, err := newVDDK(&l.opts).Open(t.Context(), l.pinned)
	require.ErrorContains(t, err, "cannot log in with …")
	require.ErrorContains(t, err, "exit status 1")
	require.NotContains(t, err.Error(), secretWord)
	require.Less(t, time.Since(start), timeout)
}

// TestVDDKHangs: who does not answer is ended.
func TestVDDKHangs(t *testing.T) {
	l := newKitLab(t, "echo $$ >\"$D/pid\"\nexec sleep 600\n")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := newVDDK(&l.opts).Open(ctx, l.pinned)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, l.gone(t))
}

// TestVDDKWrites: what is committed is in the file; the disk's own content is the base.
func TestVDDKWrites(t *testing.T) {
	l := newKitLab(t, served)
	l.pinned.PoweredOn, l.pinned.Snapshot = false, types.ManagedObjectReference{}
	c, err := newChooser(&TransportOptions{Order: []string{VDDK}, VDDK: &l.opts})
	require.NoError(t, err)
	target, _, err := c.openTarget(t.Context(), l.pinned)
	require.NoError(t, err)
	want := contentOf(t, 21, l.size)
	p := contentOf(t, 22, 64<<10)
	copy(want[1<<20:], p)
	clear(want[2<<20 : 3<<20])
	_, err = target.WriteAt(t.Context(), p, 1<<20)
	require.NoError(t, err)
	marks := target.(pipe.ExtentTarget)
	require.NoError(t, marks.Mark(t.Context(), pipe.Extent{Off: 2 << 20, Len: 1 << 20, Kind: pipe.Zero}))
	require.NoError(t, marks.Mark(t.Context(), pipe.Extent{Off: 3 << 20, Len: 1 << 20, Kind: pipe.Unchanged}))
	require.NoError(t, target.Commit(t.Context()))
	require.NoError(t, target.Close())
	require.True(t, l.gone(t))
	require.NotContains(t, l.file(t, "args"), "--readonly")
	require.NotContains(t, l.file(t, "args"), "snapshot=")
	require.Equal(t, string(want), l.file(t, "disk.raw"))
}

// TestVDDKMissing: what the user has to bring is named.
func TestVDDKMissing(t *testing.T) {
	l := newKitLab(t, served)
	for name, c := range map[string]struct {
		change func(*VDDKOptions, *Pinned)
		want   string
	}{
		"nothing":  {func(o *VDDKOptions, _ *Pinned) { o.Libdir = "" }, "no VDDK was named"},
		"library":  {func(o *VDDKOptions, _ *Pinned) { o.Libdir = l.dir }, "holds no VDDK"},
		"program":  {func(o *VDDKOptions, _ *Pinned) { o.Nbdkit = filepath.Join(l.dir, "none") }, "there is no nbdkit"},
		"plugin":   {func(o *VDDKOptions, _ *Pinned) { o.Nbdkit = "/bin/false" }, "no vddk plugin"},
		"snapshot": {func(_ *VDDKOptions, p *Pinned) { p.Snapshot = types.ManagedObjectReference{} }, "the VM runs"},
	} {
		opts, p := l.opts, *l.pinned
		c.change(&opts, &p)
		err := newVDDK(&opts).Check(t.Context(), &p)
		var unfit *UnfitError
		require.ErrorAs(t, err, &unfit, name)
		require.Contains(t, unfit.Reason, c.want)
	}
	var unfit *UnfitError
	require.ErrorAs(t, newVDDK(nil).Check(t.Context(), l.pinned), &unfit)
	require.NotEmpty(t, unfit.Hint)
}

// TestLastWords: what a program says is one line without control characters, and bounded.
func TestLastWords(t *testing.T) {
	require.Equal(t, "it said nothing", lastWords(nil, ""))
	require.Equal(t, "a; b", lastWords([]byte("a\r\nb\n"), ""))
	require.Equal(t, "a[31mb", lastWords([]byte("a\x1b[31mb"), ""))
	var w tail
	for range 100 {
		_, err := w.Write([]byte(strings.Repeat("x", 1000)))
		require.NoError(t, err)
	}
	_, err := w.Write([]byte(strings.Repeat("y", 10000)))
	require.NoError(t, err)
	require.Len(t, w.bytes(), wordsBytes)
}
