package diskvm

import (
	"bytes"
	"context"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/pipetest"
)

const mib = 1 << 20

// rawDisk makes a file of size bytes with data in a few places and holes elsewhere.
func rawDisk(t *testing.T, path string, seed uint64, size int64) []byte {
	t.Helper()
	data := make([]byte, size)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 6 {
		at := r.Int64N(size)
		n := min(size-at, 1+r.Int64N(size/8))
		for i := at; i < at+n; i++ {
			data[i] = byte(r.Uint32())
		}
	}
	writeSparse(t, path, data)
	return data
}

func writeSparse(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(int64(len(data))))
	for off := 0; off < len(data); off += 4096 {
		if p := data[off:min(off+4096, len(data))]; len(bytes.Trim(p, "\x00")) > 0 {
			_, err := f.WriteAt(p, int64(off))
			require.NoError(t, err)
		}
	}
	require.NoError(t, f.Close())
}

func open(t *testing.T, args []string, opts *Options) *Provider {
	t.Helper()
	files, err := ParseFiles(args)
	require.NoError(t, err)
	p, err := Open(t.Context(), "web1", files, opts)
	require.NoError(t, err)
	return p
}

func backup(t *testing.T, p *Provider, b pipe.Backend, opts *job.BackupOptions) job.Result {
	t.Helper()
	res, err := job.Backup(t.Context(), p, "", b, opts)
	require.NoError(t, err)
	return res
}

func restore(t *testing.T, b pipe.Backend, point, to string, opts *RestorerOptions, ropts *job.RestoreOptions) job.RestoreResult {
	t.Helper()
	info, err := job.FindPoint(t.Context(), b, point)
	require.NoError(t, err)
	r, err := NewRestorer(to, opts)
	require.NoError(t, err)
	res, err := job.Restore(t.Context(), b, info, r, ropts)
	require.NoError(t, err)
	return res
}

// R005, R007, R013, R014, R016, R182: a VM of two files goes into a backend and comes back, changes known and unknown
// give the same point, and its configuration is there byte for byte.
func TestBackupAndRestoreOfFiles(t *testing.T) {
	dir := t.TempDir()
	boot, data := filepath.Join(dir, "boot.img"), filepath.Join(dir, "data.img")
	bootWant := rawDisk(t, boot, 1, 3*mib+512)
	dataWant := rawDisk(t, data, 2, 2*mib)
	config := map[string][]byte{"web1.vmx": []byte("a = \"b\"\r\n\x00"), "nvram/vars.fd": {0, 1, 2}}
	b := pipetest.NewBackend(64 << 10)

	full := backup(t, open(t, []string{boot, "data=" + data}, &Options{Config: config}), b, nil)
	require.Equal(t, "offline", full.Consistency)
	require.Len(t, full.Disks, 2)
	require.Empty(t, full.Warnings)
	require.Empty(t, full.Fallbacks)

	first := filepath.Join(dir, "first")
	res := restore(t, b, full.Point, first+"/", nil, &job.RestoreOptions{Compare: true})
	require.True(t, res.Disks[0].Compared && res.Disks[1].Compared)
	requireFile(t, filepath.Join(first, "disk0.raw"), bootWant)
	requireFile(t, filepath.Join(first, "data.raw"), dataWant)
	for name, want := range config {
		requireFile(t, filepath.Join(first, "config", filepath.FromSlash(name)), want)
	}
	requireSparse(t, filepath.Join(first, "disk0.raw"), boot)

	// a day later: some bytes, and a range that became zero
	f, err := os.OpenFile(boot, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("changed"), mib+3)
	require.NoError(t, err)
	_, err = f.WriteAt(make([]byte, 512<<10), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	copy(bootWant[mib+3:], "changed")
	clear(bootWant[:512<<10])

	known := backup(t, open(t, []string{boot, "data=" + data}, &Options{Changed: map[string][]Range{
		"disk0": {{mib + 3, 7}, {0, 512 << 10}, {100, 5}}, "data": {},
	}}), b, &job.BackupOptions{Base: full.Point})
	require.Equal(t, job.Changed, known.Disks[0].Method)
	require.LessOrEqual(t, known.Disks[0].Read, int64(512<<10+64<<10))
	require.Zero(t, known.Disks[1].Read)
	require.Equal(t, int64(2*mib), known.Disks[1].Skipped["unchanged"])
	require.Empty(t, known.Fallbacks)

	unknown := backup(t, open(t, []string{boot, "data=" + data}, nil), b, &job.BackupOptions{Base: full.Point})
	require.Equal(t, job.Allocated, unknown.Disks[0].Method)
	require.Len(t, unknown.Fallbacks, 2)
	require.Equal(t, job.Fallback{Disk: "disk0", From: job.Changed, To: job.Allocated, Reason: ErrNoTracking.Error()}, unknown.Fallbacks[0])

	for _, point := range []string{known.Point, unknown.Point} {
		to := filepath.Join(dir, point[:8]) + "/"
		restore(t, b, point, to, nil, nil)
		requireFile(t, to+"disk0.raw", bootWant)
		requireFile(t, to+"data.raw", dataWant)
	}
}

func requireFile(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), path)
}

func requireSparse(t *testing.T, path, like string) {
	t.Helper()
	var a, b unix.Stat_t
	require.NoError(t, unix.Stat(path, &a))
	require.NoError(t, unix.Stat(like, &b))
	require.LessOrEqual(t, a.Blocks, b.Blocks+8, "holes stay holes")
}

func TestFilesThatCannotBeMeant(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.img"), filepath.Join(dir, "b=c.img")
	rawDisk(t, a, 1, mib)
	rawDisk(t, b, 2, mib)
	link := filepath.Join(dir, "link.img")
	require.NoError(t, os.Symlink(a, link))
	require.NoError(t, os.Link(a, filepath.Join(dir, "hard.img")))

	files, err := ParseFiles([]string{a, "boot=" + b, b})
	require.NoError(t, err)
	require.Equal(t, []File{{Key: "disk0", Path: a}, {Key: "boot", Path: b}, {Key: "disk2", Path: b}}, files)

	var usage *UsageError
	for _, args := range [][]string{
		{}, {"x="}, {"disk1=" + a, b}, {"a=" + a, "a=" + b}, {a, link}, {a, filepath.Join(dir, "hard.img")}, {a, a},
	} {
		files, err := ParseFiles(args)
		if err == nil {
			_, err = Open(t.Context(), "vm", files, nil)
		}
		require.ErrorAs(t, err, &usage, args)
	}
	_, err = Open(t.Context(), "vm", []File{{Key: "../x", Path: a}}, nil)
	require.ErrorAs(t, err, &usage)
	_, err = Open(t.Context(), "", []File{{Key: "x", Path: a}}, nil)
	require.ErrorAs(t, err, &usage)
	_, err = Open(t.Context(), "vm", []File{{Key: "x", Path: filepath.Join(dir, "missing")}}, nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, list := range [][]Range{{{mib, 1}}, {{mib + 1, 0}}, {{-1, 2}}, {{0, -2}}, {{1, 1<<63 - 1}}} {
		_, err = Open(t.Context(), "vm", []File{{Key: "x", Path: a}}, &Options{Changed: map[string][]Range{"x": list}})
		require.ErrorAs(t, err, &usage, list)
	}
	_, err = Open(t.Context(), "vm", []File{{Key: "x", Path: a}}, &Options{Changed: map[string][]Range{"y": {}}})
	require.ErrorAs(t, err, &usage)
	_, err = Open(t.Context(), "vm", []File{{Key: "x", Path: a}}, &Options{Changed: map[string][]Range{"x": {{mib, 0}, {0, mib}}}})
	require.NoError(t, err)
}

func TestParseRanges(t *testing.T) {
	for text, want := range map[string][]Range{
		`[]`:                             {},
		` [ {"start":0,"length":0} ] `:   {},
		`[{"start":5,"length":3}]`:       {{5, 3}},
		`[{"start":5,"length":3,"x":1}]`: {{5, 3}},
		`[{"start":8,"length":2},{"start":1,"length":3},{"start":4,"length":1},{"start":2,"length":1}]`: {{1, 4}, {8, 2}},
		`[{"start":9223372036854775806,"length":1}]`:                                                    {{9223372036854775806, 1}},
	} {
		got, err := ParseRanges(strings.NewReader(text))
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	var usage *UsageError
	for _, text := range []string{
		``, `{}`, `null`, `[`, `[{}]`, `[{"start":1}]`, `[{"length":1}]`, `[{"start":-1,"length":1}]`, `[{"start":1,"length":-1}]`,
		`[{"start":1.5,"length":1}]`, `[{"start":"1","length":1}]`, `[{"start":9223372036854775807,"length":1}]`,
		`[{"start":1,"length":1}`, `[{"start":1,"length":1}]]`, `[] []`, `[{"start":18446744073709551616,"length":1}]`, `[1]`, `[null]`, "[\x00]",
	} {
		_, err := ParseRanges(strings.NewReader(text))
		require.ErrorAs(t, err, &usage, text)
	}
}

func FuzzParseRanges(f *testing.F) {
	f.Add([]byte(`[{"start":8,"length":2},{"start":1,"length":3}]`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`[{"start":-8,"length":2}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := ParseRanges(bytes.NewReader(text))
		if err != nil {
			return
		}
		end := int64(-1)
		for _, r := range list {
			require.Greater(t, r.Start, end, "ascending, with gaps between")
			require.Positive(t, r.Length)
			end = r.Start + r.Length
		}
		require.Equal(t, list, merge(list))
	})
}

// QEMU's write lock, as another open of the file holds it.
func TestFileThatIsOpenForWriting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.img")
	rawDisk(t, path, 1, mib)
	vm, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer vm.Close()
	require.NoError(t, unix.FcntlFlock(vm.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 101, Len: 1}))
	requireLive(t, path)
}

func TestFileThatQEMUWritesTo(t *testing.T) {
	qemu, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skip("qemu-io is not installed")
	}
	path := filepath.Join(t.TempDir(), "a.img")
	rawDisk(t, path, 1, mib)
	cmd := exec.Command(qemu, "-f", "raw", path)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = in.Write([]byte("length\n"))
	require.NoError(t, err)
	_, err = out.Read(make([]byte, 100)) // it has opened the file
	require.NoError(t, err)
	requireLive(t, path)
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
	backup(t, open(t, []string{path}, nil), pipetest.NewBackend(0), nil)
}

func requireLive(t *testing.T, path string) {
	t.Helper()
	b := pipetest.NewBackend(0)
	_, err := job.Backup(t.Context(), open(t, []string{path}, nil), "", b, nil)
	var live *LiveError
	require.ErrorAs(t, err, &live)
	require.Equal(t, path, live.Path)
	require.NotEmpty(t, live.Hint())
	res := backup(t, open(t, []string{path}, &Options{Force: true}), b, nil)
	require.Equal(t, "unknown", res.Consistency)
	require.Len(t, res.Warnings, 1)
	require.Contains(t, res.Warnings[0], "no one moment")
	info, err := job.FindPoint(t.Context(), b, "web1@latest")
	require.NoError(t, err)
	require.Equal(t, "unknown", info.Consistency)
}

// What changes while it is read makes no point, whichever of the disks it was.
func TestFileThatChangesWhileItIsRead(t *testing.T) {
	changes := map[string]func(t *testing.T, path string){
		"written": func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte("x"), 5)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		},
		"longer":  func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 2*mib)) },
		"shorter": func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, mib/2)) },
		"replaced": func(t *testing.T, path string) {
			rawDisk(t, path+".new", 3, mib)
			require.NoError(t, os.Rename(path+".new", path))
		},
		"removed": func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
	}
	for name, change := range changes {
		for _, which := range []string{"disk0", "disk1"} {
			t.Run(name+" "+which, func(t *testing.T) {
				dir := t.TempDir()
				a, c := filepath.Join(dir, "disk0"), filepath.Join(dir, "disk1")
				rawDisk(t, a, 1, mib)
				rawDisk(t, c, 2, mib)
				b := pipetest.NewBackend(0)
				_, err := job.Backup(t.Context(), open(t, []string{a, c}, nil), "", b, &job.BackupOptions{Events: func(e job.Event) {
					if d, ok := e.(job.DiskDone); ok && d.Key == "disk1" { // disk0 was read and closed by then
						change(t, filepath.Join(dir, which))
					}
				}})
				var changed *diskfile.ChangedError
				require.ErrorAs(t, err, &changed)
				_, err = job.FindPoint(t.Context(), b, "web1@latest")
				require.ErrorIs(t, err, fs.ErrNotExist)
			})
		}
	}
}

func TestRestorePlaces(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a.img")
	want := rawDisk(t, a, 1, mib)
	b := pipetest.NewBackend(0)
	point := backup(t, open(t, []string{a, "x=" + a2(t, dir)}, &Options{Config: map[string][]byte{"c": []byte("c")}}), b, nil).Point
	info, err := job.FindPoint(t.Context(), b, point)
	require.NoError(t, err)
	try := func(to string, opts *job.RestoreOptions) error {
		r, err := NewRestorer(to, nil)
		require.NoError(t, err)
		_, err = job.Restore(t.Context(), b, info, r, opts)
		return err
	}
	file := filepath.Join(dir, "out.img")
	var usage *UsageError
	require.ErrorAs(t, try(file, nil), &usage, "two disks into one file")
	require.NoFileExists(t, file)
	require.NoError(t, try(file, &job.RestoreOptions{Disks: []string{"disk0"}}))
	requireFile(t, file, want)
	require.ErrorIs(t, try(file, &job.RestoreOptions{Disks: []string{"disk0"}}), fs.ErrExist)
	require.ErrorIs(t, try(file, &job.RestoreOptions{Disks: []string{"nope"}}), fs.ErrNotExist)
	require.NoError(t, os.WriteFile(file, []byte("old"), 0o600))
	require.NoError(t, try(file, &job.RestoreOptions{Disks: []string{"disk0"}, Overwrite: true}))
	requireFile(t, file, want)

	folder := filepath.Join(dir, "deep", "er") + "/"
	require.NoError(t, try(folder, nil))
	require.ErrorIs(t, try(folder, nil), fs.ErrExist)
	require.NoError(t, try(folder, &job.RestoreOptions{Overwrite: true}))
	requireNames(t, folder, "config", "disk0.raw", "x.raw")

	require.NoError(t, os.Remove(folder+"x.raw"))
	require.ErrorIs(t, try(folder, nil), fs.ErrExist, "one of them is there")
	requireNames(t, folder, "config", "disk0.raw")

	dev := filepath.Join(dir, "inplace.img")
	writeSparse(t, dev, bytes.Repeat([]byte{7}, mib))
	require.NoError(t, try(folder, &job.RestoreOptions{InPlace: dev, Disks: []string{"disk0"}, Compare: true}))
	requireFile(t, dev, want)
}

func TestRestoreFormat(t *testing.T) {
	for to, want := range map[string]string{"x.img": "raw", "x": "raw", "x.QCOW2": "qcow2", "x.raw": "raw", "x.qcow2/": "raw"} {
		r, err := NewRestorer(to, nil)
		require.NoError(t, err)
		require.Equal(t, want, r.format.Name(), to)
	}
	var usage *UsageError
	for to, format := range map[string]string{"x.vhdx": "", "x.vmdk": "", "x.img": "zip", "": ""} {
		_, err := NewRestorer(to, &RestorerOptions{Format: format})
		require.ErrorAs(t, err, &usage, to)
	}
	_, err := NewRestorer("x.vmdk", &RestorerOptions{Format: "raw"})
	require.NoError(t, err)
}

func a2(t *testing.T, dir string) string {
	path := filepath.Join(dir, "second.img")
	rawDisk(t, path, 9, mib)
	return path
}

func requireNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	require.Equal(t, want, names)
}

// A restore that fails, at whichever operation, leaves no file and no folder.
func TestRestoreThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a.img")
	rawDisk(t, a, 1, mib)
	b := pipetest.NewBackend(0)
	backup(t, open(t, []string{a, a2(t, dir)}, &Options{Config: map[string][]byte{"c": []byte("c")}}), b, nil)
	info, err := job.FindPoint(t.Context(), b, "web1@latest")
	require.NoError(t, err)
	for n := int64(1); ; n++ {
		fault := pipetest.FailNth(n, false)
		to := filepath.Join(dir, "to")
		r, err := NewRestorer(to+"/", nil)
		require.NoError(t, err)
		_, err = job.Restore(t.Context(), pipetest.HookBackend(b, fault.Hook), info, r, nil)
		if !fault.Fired() {
			require.NoError(t, err)
			require.Greater(t, n, int64(4))
			break
		}
		require.ErrorIs(t, err, pipetest.ErrFault)
		require.NoDirExists(t, to)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := NewRestorer(filepath.Join(dir, "canceled")+"/", nil)
	require.NoError(t, err)
	_, err = job.Restore(ctx, b, info, r, &job.RestoreOptions{Events: func(e job.Event) {
		if _, ok := e.(job.DiskDone); ok {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.NoDirExists(t, filepath.Join(dir, "canceled"))
}

// A salvage goes on, names what is missing, and the rest is right.
func TestSalvage(t *testing.T) {
	dir := t.TempDir()
	a, out := filepath.Join(dir, "a.img"), filepath.Join(dir, "out.img")
	want := bytes.Repeat([]byte("0123456789abcdef"), mib/16)
	writeSparse(t, a, want)
	b := pipetest.NewBackend(64 << 10)
	backup(t, open(t, []string{a}, nil), b, nil)
	info, err := job.FindPoint(t.Context(), b, "web1@latest")
	require.NoError(t, err)
	bad := func(_ context.Context, op *pipetest.Op) error {
		if op.Name == "readat" && op.Off < 192<<10 && op.End() > 128<<10 {
			return pipetest.ErrFault
		}
		return nil
	}
	r, err := NewRestorer(out, nil)
	require.NoError(t, err)
	_, err = job.Restore(t.Context(), pipetest.HookBackend(b, bad), info, r, nil)
	require.ErrorIs(t, err, pipetest.ErrFault)
	require.NoFileExists(t, out)
	res, err := job.Restore(t.Context(), pipetest.HookBackend(b, bad), info, r, &job.RestoreOptions{Salvage: true, Compare: true})
	require.NoError(t, err)
	require.Equal(t, []job.Hole{{Disk: "disk0", Offset: 128 << 10, Length: 64 << 10}}, res.Holes)
	require.NotEmpty(t, res.Warnings)
	clear(want[128<<10 : 192<<10])
	requireFile(t, out, want)
}

func TestHostileConfigurationNames(t *testing.T) {
	for _, name := range []string{"../x", "/etc/passwd", "a/../../x", "", ".", "a//b", "C:x", `a\b`, "a\x00", ".hidden", "a/" + strings.Repeat("b", 300)} {
		_, err := configName(name)
		require.ErrorIs(t, err, fs.ErrInvalid, name)
	}
	dir := t.TempDir()
	a := filepath.Join(dir, "a.img")
	rawDisk(t, a, 1, mib)
	b := pipetest.NewBackend(0)
	backup(t, open(t, []string{a}, &Options{Config: map[string][]byte{"../../evil": []byte("x")}}), b, nil)
	info, err := job.FindPoint(t.Context(), b, "web1@latest")
	require.NoError(t, err)
	r, err := NewRestorer(filepath.Join(dir, "to", "x")+"/", nil)
	require.NoError(t, err)
	_, err = job.Restore(t.Context(), b, info, r, nil)
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.NoFileExists(t, filepath.Join(dir, "evil"))
	require.NoDirExists(t, filepath.Join(dir, "to", "x"))
}

// What a killed restore left is swept by its note in the journal, and nothing else is.
func TestSweepOfAKilledRestore(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	j, err := hikae.OpenFileJournal(state)
	require.NoError(t, err)
	r, err := NewRestorer(dir+"/", nil)
	require.NoError(t, err)
	d, err := r.Create(t.Context(), hikae.VM{Name: "web1", Disks: []hikae.Disk{{Key: "disk0", Size: mib}}}, &hikae.RestoreOptions{Journal: j})
	require.NoError(t, err)
	target, err := d.OpenDisk(t.Context(), "disk0")
	require.NoError(t, err)
	defer target.Close()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600))
	require.NoError(t, j.Close()) // as when the process is gone

	next, err := hikae.OpenFileJournal(state)
	require.NoError(t, err)
	defer next.Close()
	n, err := next.Sweep(t.Context(), map[string]hikae.Sweeper{"diskvm": Sweeper{}}, nil)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	requireNames(t, dir, "mine")
	for _, facts := range []map[string]string{{}, {"folder": dir, "stage": "mine"}, {"folder": dir, "stage": "../x"}, {"folder": "rel", "stage": stagePrefix + "aaaaaaaaaaaaaaaa"}} {
		require.ErrorIs(t, Sweeper{}.Undo(t.Context(), hikae.Effect{Kind: effectKind, Facts: facts}, nil), fs.ErrInvalid)
	}
	requireNames(t, dir, "mine")
}

// The real thing: qcow2 made and compared by qemu-img.
func TestQcow2ThereAndBack(t *testing.T) {
	qemu, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed")
	}
	run := func(args ...string) {
		t.Helper()
		out, err := exec.Command(qemu, args...).CombinedOutput()
		require.NoError(t, err, "%v: %s", args, out)
	}
	dir := t.TempDir()
	raw, disk := filepath.Join(dir, "a.img"), filepath.Join(dir, "a.qcow2")
	rawDisk(t, raw, 5, 8*mib)
	run("convert", "-O", "qcow2", "-c", raw, disk)
	b := pipetest.NewBackend(0)
	res := backup(t, open(t, []string{disk}, nil), b, nil)
	require.Equal(t, job.Allocated, res.Disks[0].Method)
	for _, out := range []string{"out.qcow2", "out.img"} {
		to := filepath.Join(dir, out)
		restore(t, b, res.Point, to, nil, &job.RestoreOptions{Compare: true})
		run("compare", disk, to)
	}
	run("check", filepath.Join(dir, "out.qcow2"))
	// the same disk, in another format, is the same disk
	again := backup(t, open(t, []string{raw}, nil), b, nil)
	require.Zero(t, again.Disks[0].Stored)
}
