package bootcheck_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/bootcheck"
	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// emulated starts machines on this one, without KVM.
type emulated struct{ kvm.BootOptions }

func (e emulated) Start(ctx context.Context, backend pipe.Backend, point pipe.PointInfo, opts *bootcheck.StartOptions) (bootcheck.Machine, error) {
	o := e.BootOptions
	o.Accel, o.Ports, o.Journal, o.MemoryMB = "tcg", opts.Ports, opts.Journal, 256
	b, err := kvm.Boot(ctx, backend, point, &o)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
}

func newRepository(t *testing.T) *repo.Repository {
	t.Helper()
	r, err := repo.Init(t.Context(), memstore.New(nil), nil, &repo.InitOptions{NoEncryption: true}, &repo.OpenOptions{CacheDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// point commits disks as a point.
func point(t *testing.T, r *repo.Repository, disks ...pipe.Image) pipe.PointInfo {
	t.Helper()
	ctx := t.Context()
	w, err := r.Begin(ctx, "web1", nil)
	require.NoError(t, err)
	defer w.Close()
	for i, img := range disks {
		target, err := w.Disk(ctx, fmt.Sprintf("disk%d", i), img.Size())
		require.NoError(t, err)
		_, err = pipe.Copy(ctx, target, img, nil)
		require.NoError(t, err)
		require.NoError(t, target.Commit(ctx))
	}
	_, err = w.Commit(ctx, nil)
	require.NoError(t, err)
	p, err := job.FindPoint(ctx, r, "web1@latest")
	require.NoError(t, err)
	return p
}

// bootSector is a disk whose first sector prints a text at the serial port and on the screen, writes its own sector over the next one, and
// then rests or, where it is told so, resets the machine. It is the code of an 8086, put together by hand.
func bootSector(text string, reset bool) pipe.Image {
	code := []byte{
		0xfa,       // cli
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0x8e, 0xc0, // mov es, ax
		0xbe, 0x00, 0x7d, // mov si, 0x7d00: the text
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x0d, // jz done
		0xba, 0xf8, 0x03, // mov dx, 0x3f8: the serial port
		0xee,       // out dx, al
		0xb4, 0x0e, // mov ah, 0x0e: print on the screen
		0xbb, 0x07, 0x00, // mov bx, 7
		0xcd, 0x10, // int 0x10
		0xeb, 0xee, // jmp next
		0xb8, 0x01, 0x03, // done: mov ax, 0x0301: write a sector
		0xbb, 0x00, 0x7c, // mov bx, 0x7c00
		0xb9, 0x02, 0x00, // mov cx, 2: cylinder 0, sector 2
		0xb6, 0x00, //       mov dh, 0
		0xcd, 0x13, //       int 0x13; dl is the disk that was booted
	}
	if reset {
		code = append(code, 0xea, 0xf0, 0xff, 0x00, 0xf0) // jmp 0xf000:0xfff0
	} else {
		code = append(code, 0xfb, 0xf4, 0xeb, 0xfc) // rest: sti; hlt; jmp rest
	}
	disk := make([]byte, 1<<20)
	copy(disk, code)
	copy(disk[0x100:], text+"\x00")
	disk[510], disk[511] = 0x55, 0xaa
	return pipetest.Bytes(disk)
}

// journal keeps what is not undone.
type journal struct{ open map[string]hikae.Effect }

func (j *journal) Intend(_ context.Context, e hikae.Effect) (func(context.Context) error, error) {
	e.ID = fmt.Sprint(len(j.open))
	j.open[e.ID] = e
	return func(context.Context) error { delete(j.open, e.ID); return nil }, nil
}

// nothingLeft asserts that no QEMU of ours runs, and no folder is there.
func nothingLeft(t *testing.T, folder string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, entries)
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, p := range procs {
		line, err := os.ReadFile(p)
		require.False(t, err == nil && strings.Contains(string(line), folder), "%s", line)
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bc")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A point starts from the repository and says so; the point stays as it is, whatever the machine writes; and nothing is left.
func TestBoots(t *testing.T) {
	needQEMU(t)
	t.Parallel()
	r := newRepository(t)
	p := point(t, r, bootSector("hikae lives", false))
	before := content(t, r, p)
	folder := shortDir(t)
	sessions, err := job.OpenSessions(t.TempDir())
	require.NoError(t, err)
	j := &journal{open: map[string]hikae.Effect{}}
	var phases []job.Phase
	res, err := bootcheck.Run(t.Context(), emulated{kvm.BootOptions{Folder: folder}}, r, p, &bootcheck.Options{
		Serial: regexp.MustCompile("hikae l[a-z]+"), Screen: true, Linger: time.Second, Within: time.Minute, Journal: j, Sessions: sessions,
		Probe: []string{"/bin/sh", "-c", `test "$HIKAE_VM" = web1 && test -z "$HIKAE_PASSWORD" && echo probed $HIKAE_POINT`},
		Events: func(e job.Event) {
			if e, ok := e.(job.PhaseStarted); ok {
				phases = append(phases, e.Phase)
			}
		},
	})
	require.NoError(t, err, "%+v", res)
	require.True(t, res.Passed)
	names := map[string]job.BootCheck{}
	for _, c := range res.Checks {
		require.True(t, c.Passed, "%+v", c)
		names[c.Name] = c
	}
	require.Contains(t, names["serial"].Detail, "hikae lives")
	require.Equal(t, "probed "+p.ID, names["probe"].Detail)
	t.Logf("started after %.2f s, serial after %.2f s, screen after %.2f s", names["started"].Seconds, names["serial"].Seconds, names["screen"].Seconds)
	require.Equal(t, []job.Phase{"plan", "wait", "probe", "release"}, phases)
	require.Contains(t, res.Serial, "hikae lives")
	_, err = png.Decode(bytes.NewReader(res.Screen))
	require.NoError(t, err)
	require.NotEmpty(t, res.Mapping)
	require.Positive(t, res.Written)
	require.Equal(t, before, content(t, r, p), "the point was written to")
	require.Empty(t, j.open)
	nothingLeft(t, folder)
	kept, err := sessions.Load("latest")
	require.NoError(t, err)
	require.Equal(t, job.KindBootCheck, kept.Kind)
	require.Equal(t, p.ID, kept.Point())
	require.True(t, kept.Boot.Passed)
}

func content(t *testing.T, r *repo.Repository, p pipe.PointInfo) []byte {
	t.Helper()
	img, err := r.Open(t.Context(), p.ID, "disk0")
	require.NoError(t, err)
	defer img.Close()
	b := make([]byte, img.Size())
	_, err = img.ReadAt(t.Context(), b, 0)
	if !errors.Is(err, io.EOF) {
		require.NoError(t, err)
	}
	return b
}

// What does not start fails by name and soon, and leaves nothing: one that never says its word, one that resets, one without anything to
// boot, one whose probe says no, and a port where nobody listens.
func TestDoesNotBoot(t *testing.T) {
	needQEMU(t)
	t.Parallel()
	lives := bootSector("hikae lives", false)
	for name, c := range map[string]struct {
		disk pipe.Image
		opts bootcheck.Options
		want string
	}{
		"silent": {lives, bootcheck.Options{Serial: regexp.MustCompile("nothing of the kind"), Within: 4 * time.Second}, "not within 4s"},
		"resets": {bootSector("bye", true), bootcheck.Options{Serial: regexp.MustCompile("never"), Within: time.Minute}, "the machine ended"},
		"probe":  {lives, bootcheck.Options{Serial: regexp.MustCompile("lives"), Probe: []string{"/bin/sh", "-c", "echo no; exit 7"}, Within: time.Minute}, "exit status 7"},
		"slow":   {lives, bootcheck.Options{Serial: regexp.MustCompile("lives"), Probe: []string{"/bin/sleep", "60"}, ProbeWithin: time.Second, Within: time.Minute}, "not within 1s"},
		"port":   {lives, bootcheck.Options{Ports: []int{22}, Within: 5 * time.Second}, "port 22"},
		"agent":  {lives, bootcheck.Options{Agent: true, Within: 6 * time.Second}, "agent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := shortDir(t)
			begun := time.Now()
			r := newRepository(t)
			res, err := bootcheck.Run(t.Context(), emulated{kvm.BootOptions{Folder: folder}}, r, point(t, r, c.disk), &c.opts)
			require.ErrorIs(t, err, bootcheck.ErrFailed)
			require.ErrorContains(t, err, c.want)
			require.False(t, res.Passed)
			require.False(t, res.Checks[len(res.Checks)-1].Passed)
			require.Less(t, time.Since(begun), 45*time.Second)
			nothingLeft(t, folder)
		})
	}
	_, err := bootcheck.Run(t.Context(), emulated{}, newRepository(t), pipe.PointInfo{ID: "x"}, &bootcheck.Options{})
	require.ErrorContains(t, err, "nothing is waited for")
}

// Who cancels gets an end, and nothing is left.
func TestCancelled(t *testing.T) {
	needQEMU(t)
	t.Parallel()
	r := newRepository(t)
	folder := shortDir(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := bootcheck.Run(ctx, emulated{kvm.BootOptions{Folder: folder}}, r, point(t, r, bootSector("x", false)), &bootcheck.Options{Agent: true})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	nothingLeft(t, folder)
}

// A process that is killed takes its machine with it, and the next start sweeps what it left.
func TestKilled(t *testing.T) {
	needQEMU(t)
	if folder := os.Getenv("HIKAE_TEST_BOOT_VICTIM"); folder != "" {
		r := newRepository(t)
		j, err := hikae.OpenFileJournal(filepath.Join(folder, "journal"))
		require.NoError(t, err)
		_, err = kvm.Boot(t.Context(), r, point(t, r, bootSector("x", false)), &kvm.BootOptions{Folder: filepath.Join(folder, "m"), Accel: "tcg", MemoryMB: 64, Journal: j})
		require.NoError(t, err)
		fmt.Println("BOOTED")
		time.Sleep(time.Minute)
	}
	t.Parallel()
	folder := shortDir(t)
	require.NoError(t, os.Mkdir(filepath.Join(folder, "m"), 0o700))
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$", "-test.v")
	cmd.Env = append(os.Environ(), "HIKAE_TEST_BOOT_VICTIM="+folder)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	said := make([]byte, 0, 4096)
	for !bytes.Contains(said, []byte("BOOTED")) {
		var b [512]byte
		n, err := out.Read(b[:])
		said = append(said, b[:n]...)
		require.NoError(t, err, "%s", said)
	}
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	j, err := hikae.OpenFileJournal(filepath.Join(folder, "journal"))
	require.NoError(t, err)
	defer j.Close()
	_, err = j.Sweep(t.Context(), map[string]hikae.Sweeper{"kvm.boot": kvm.BootSweeper{}}, nil)
	require.NoError(t, err)
	nothingLeft(t, filepath.Join(folder, "m"))
	for _, bad := range []string{"/", "/tmp", "relative/hikae-boot-1", "/tmp/../etc/hikae-boot-1"} {
		require.Error(t, kvm.BootSweeper{}.Undo(t.Context(), hikae.Effect{Kind: kvm.KindBoot, Facts: map[string]string{"folder": bad}}, nil), bad)
	}
}

// A real guest boots from its point: its agent answers, and runs a program.
func TestGuestBoots(t *testing.T) {
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		t.Skip("boots a guest: needs HIKAE_TEST_TIER=long")
	}
	fixture, err := kvmtest.Build(t.Context())
	var missing *kvmtest.UnavailableError
	if errors.As(err, &missing) {
		t.Skip(err)
	}
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, kvmtest.MakeExt4(t.Context(), path, 64<<20))
	disk, err := os.ReadFile(path)
	require.NoError(t, err)
	r := newRepository(t)
	p := point(t, r, pipetest.Bytes(disk))
	kernel, initramfs, line := fixture.Boot()
	folder := shortDir(t)
	res, err := bootcheck.Run(t.Context(), emulated{kvm.BootOptions{Folder: folder, Bus: "virtio", Options: []string{"-kernel", kernel, "-initrd", initramfs, "-append", line}}},
		r, p, &bootcheck.Options{Agent: true, Serial: regexp.MustCompile("FX-READY"), Within: 3 * time.Minute})
	require.NoError(t, err, "%+v", res)
	for _, c := range res.Checks {
		t.Logf("%s after %.2f s", c.Name, c.Seconds)
	}
	require.Positive(t, res.Written)
	nothingLeft(t, folder)
}
