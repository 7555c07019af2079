package vmware

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

func runIn(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skip(program + " is not installed")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

// TestHTTPS: flat and sparse disks, and a chain of them, read as what was put there; names need not be plain (R113).
func TestHTTPS(t *testing.T) {
	const size = 9<<20 + 512
	s := newShop(t, simulator.VPX())
	want := pipetest.NewPattern(31, size, pipetest.RandomLayout(31, size, pipe.Zero, pipe.Data, pipe.Data)...)
	for file, kind := range map[string]vmdk.Type{
		"web 1/wéb&1.vmdk": vmdk.VMFS, "web1/web1.vmdk": vmdk.MonolithicFlat, "sparse/disk+a.vmdk": vmdk.MonolithicSparse,
	} {
		p := s.put(t, file, kind, want)
		tr := newHTTPS()
		require.NoError(t, tr.Check(t.Context(), p))
		img, err := tr.Open(t.Context(), p)
		require.NoError(t, err, file)
		pipetest.TestImage(t, img, want)
		require.NoError(t, img.Close())
	}
}

// TestHTTPSChain: what a delta lacks comes from what it stands on, beside it and elsewhere; a base that was written to since
// is refused.
func TestHTTPSChain(t *testing.T) {
	const size = 4 << 20
	s := newShop(t, simulator.VPX())
	base := pipetest.NewPattern(32, size)
	s.put(t, "base/base.vmdk", vmdk.MonolithicSparse, base)
	require.NoError(t, os.Mkdir(filepath.Join(s.dir, "top"), 0o700))
	s.qemu(t, "top", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", "../base/base.vmdk", "top.vmdk")
	runIn(t, filepath.Join(s.dir, "top"), "qemu-io", "-c", "write -P 0x5a 1M 200k", "top.vmdk")
	want := make([]byte, size)
	_, _ = base.ReadAt(t.Context(), want, 0)
	copy(want[1<<20:], bytes.Repeat([]byte{0x5a}, 200<<10))
	p := s.pin("top/top.vmdk", size)
	img, err := newHTTPS().Open(t.Context(), p)
	require.NoError(t, err)
	pipetest.TestImage(t, img, pipetest.Bytes(want))
	require.NoError(t, img.Close())

	file := filepath.Join(s.dir, "base", "base.vmdk")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	at := bytes.Index(text, []byte("\nCID=")) + 5
	copy(text[at:at+8], "deadbeef")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	_, err = newHTTPS().Open(t.Context(), p)
	var cid *vmdk.CIDError
	require.ErrorAs(t, err, &cid)
}

// TestHTTPSRefuses: what cannot be read by files is told before any is asked for, and why.
func TestHTTPSRefuses(t *testing.T) {
	s := newShop(t, simulator.VPX())
	p := s.put(t, "web1/web1.vmdk", vmdk.VMFS, pipetest.NewPattern(33, 1<<20))
	check := func(change func(p *Pinned), want string) {
		q := *p
		change(&q)
		err := newHTTPS().Check(t.Context(), &q)
		require.ErrorContains(t, err, want)
		_, err = newHTTPS().Open(t.Context(), &q)
		require.ErrorContains(t, err, want)
	}
	require.NoError(t, newHTTPS().Check(t.Context(), p))
	check(func(p *Pinned) { p.Disk.Encrypted = true }, "encrypted")
	check(func(p *Pinned) { p.Snapshot = types.ManagedObjectReference{} }, "the VM runs")
	check(func(p *Pinned) { p.Disk.File = "[elsewhere] a/b.vmdk" }, "nothing on that datastore")
	check(func(p *Pinned) { p.Disk.File = "[" + s.store + "] ../../etc/passwd" }, "leads out")
	d := s.model.Map().Get(s.vm.Datastore[0]).(*simulator.Datastore)
	for _, kind := range []string{"vsan", "VVOL", "PMEM"} {
		d.Summary.Type = kind
		check(func(*Pinned) {}, "of kind "+kind)
	}
	d.Summary.Type = "VMFS"
	s.vm.LayoutEx = &types.VirtualMachineFileLayoutEx{
		File: []types.VirtualMachineFileLayoutExFileInfo{{Key: 5, Type: "diskDescriptor"}},
		Disk: []types.VirtualMachineFileLayoutExDiskLayout{{Key: 1, Chain: []types.VirtualMachineFileLayoutExDiskUnit{{FileKey: []int32{5}}}}},
	}
	check(func(*Pinned) {}, "none of the disk's files")
	s.vm.LayoutEx.File[0].Type = "diskExtent"
	require.NoError(t, newHTTPS().Check(t.Context(), p))
	_, err := newHTTPS().Open(t.Context(), s.pin("web1/none.vmdk", 1<<20))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestHTTPSWrites: the whole flat file is replaced at Commit, and not before.
func TestHTTPSWrites(t *testing.T) {
	const size = 3 << 20
	s := newShop(t, simulator.VPX())
	old := pipetest.NewPattern(34, size)
	p := s.put(t, "web1/web1.vmdk", vmdk.VMFS, old)
	p.PoweredOn, p.Snapshot, p.Scratch = false, types.ManagedObjectReference{}, t.TempDir()
	flat := filepath.Join(s.dir, "web1", "web1-flat.vmdk")
	target, err := newHTTPS().OpenTarget(t.Context(), p)
	require.NoError(t, err)
	_, err = target.WriteAt(t.Context(), []byte("new"), 0)
	require.NoError(t, err)
	require.NoError(t, target.Close())
	got, err := os.ReadFile(flat)
	require.NoError(t, err)
	require.Equal(t, contentOf(t, 34, size), got, "what was abandoned did not arrive")
	left, err := os.ReadDir(p.Scratch)
	require.NoError(t, err)
	require.Empty(t, left)

	want := pipetest.NewPattern(36, size, pipetest.RandomLayout(36, size, pipe.Zero, pipe.Data)...)
	target, err = newHTTPS().OpenTarget(t.Context(), p)
	require.NoError(t, err)
	_, err = pipe.Copy(t.Context(), target, want, nil)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	img, err := newHTTPS().Open(t.Context(), p)
	require.NoError(t, err)
	pipetest.TestImage(t, img, want)
	require.NoError(t, img.Close())
}

// TestHTTPSTarget holds what is put to the contract of a target.
func TestHTTPSTarget(t *testing.T) {
	dir := t.TempDir()
	pipetest.TestTarget(t, func(t testing.TB, n int64) (pipe.Target, func() pipe.Image) {
		shelf := newShelf(t, []byte("old"))
		at, err := url.Parse(shelf.URL + "/folder/d-flat.vmdk")
		require.NoError(t, err)
		scratch, err := newScratch(dir, n, 0)
		require.NoError(t, err)
		g := &getter{session: shelf, line: make(chan struct{}, 1), windows: newWindows(), renew: func(context.Context) error { return nil }}
		return &httpsTarget{getter: g, upload: make(chan struct{}, 1), scratch: scratch, name: "d", url: at}, func() pipe.Image { return pipetest.Bytes(shelf.content) }
	})
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestHTTPSTargetFails: an upload that is refused, cut or swallowed is an error of Commit.
func TestHTTPSTargetFails(t *testing.T) {
	for name, c := range map[string]struct {
		hook func(w http.ResponseWriter, r *http.Request, nth int64) bool
		want string
	}{
		"refused": {func(w http.ResponseWriter, _ *http.Request, _ int64) bool { w.WriteHeader(507); return true }, "507"},
		"cut":     {func(http.ResponseWriter, *http.Request, int64) bool { panic(http.ErrAbortHandler) }, "PUT d"},
		"swallowed": {func(_ http.ResponseWriter, r *http.Request, _ int64) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			return r.Method == http.MethodPut
		}, "has 3 bytes after 1048576"},
	} {
		shelf := newShelf(t, []byte("old"))
		shelf.hook = c.hook
		at, err := url.Parse(shelf.URL + "/folder/d-flat.vmdk")
		require.NoError(t, err)
		scratch, err := newScratch(t.TempDir(), 1<<20, 0)
		require.NoError(t, err)
		g := &getter{session: shelf, line: make(chan struct{}, 1), windows: newWindows(), renew: func(context.Context) error { return nil }}
		target := &httpsTarget{getter: g, upload: make(chan struct{}, 1), scratch: scratch, name: "d", url: at}
		require.ErrorContains(t, target.Commit(t.Context()), c.want, name)
		require.ErrorIs(t, target.Commit(t.Context()), fs.ErrClosed)
		require.NoError(t, target.Close())
	}
}

// TestPutIsReadBack: a server that takes a file and keeps another of the same length, or all but a part of it, is found.
func TestPutIsReadBack(t *testing.T) {
	const size = 4 << 20
	for name, keep := range map[string]func(body, old []byte) []byte{
		"nothing":      func(_, old []byte) []byte { return old },
		"the start":    func(body, old []byte) []byte { return append(body[:size/2], old[size/2:]...) },
		"not the end":  func(body, old []byte) []byte { return append(body[:size-1], old[size-1]) },
		"not in order": func(body, _ []byte) []byte { return append(body[size/2:], body[:size/2]...) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, simulator.VPX())
			p := s.put(t, "web1/web1.vmdk", vmdk.VMFS, pipetest.NewPattern(42, size))
			p.PoweredOn, p.Snapshot, p.Scratch = false, types.ManagedObjectReference{}, t.TempDir()
			flat := filepath.Join(s.dir, "web1", "web1-flat.vmdk")
			s.model.Service.ServeMux.HandleFunc("PUT /folder/", func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				old, readErr := os.ReadFile(flat)
				if err != nil || readErr != nil || len(body) != size || os.WriteFile(flat, keep(body, old), 0o600) != nil {
					w.WriteHeader(http.StatusInternalServerError)
				}
			})
			target, err := newHTTPS().OpenTarget(t.Context(), p)
			require.NoError(t, err)
			_, err = pipe.Copy(t.Context(), target, pipetest.NewPattern(99, size), nil)
			require.NoError(t, err)
			var lost *NotKeptError
			require.ErrorAs(t, target.Commit(t.Context()), &lost)
			require.Less(t, lost.Off, int64(size))
		})
	}
}

// TestLookBackIsBounded: few pieces of a large disk are read back, most of them where something was written, and its end.
func TestLookBackIsBounded(t *testing.T) {
	const size = 1 << 40
	s, err := newScratch(t.TempDir(), size, 0)
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.put(bytes.Repeat([]byte{1}, 1<<20), 700<<30))
	offs, err := (&httpsTarget{scratch: s}).somewhere(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, len(offs), 1+backWritten+backAnywhere)
	require.EqualValues(t, size-backBytes, offs[len(offs)-1])
	there := 0
	for _, off := range offs {
		if off >= 700<<30 && off < 700<<30+1<<20 {
			there++
		}
	}
	if fileSystemTellsHoles(t, s) {
		require.GreaterOrEqual(t, there, backWritten/2)
	}
}

// fileSystemTellsHoles: what was never written is no data.
func fileSystemTellsHoles(t *testing.T, s *scratch) bool {
	for e, err := range s.Extents(t.Context(), 0, 1<<20) {
		require.NoError(t, err)
		return e.Kind != pipe.Data
	}
	return false
}

// TestLinesAreTheServers: all that this process reads from a host goes over the same lines, and uploads have one of their own.
func TestLinesAreTheServers(t *testing.T) {
	s := newShop(t, simulator.VPX())
	p := s.put(t, "web1/web1.vmdk", vmdk.VMFS, pipetest.NewPattern(43, 1<<20))
	line := newHTTPS().getter(p).line
	require.Equal(t, httpsLines, cap(line))
	require.Equal(t, line, newHTTPS().getter(p).line, "another provider of the same server")
	other := *p
	other.Host.Value += "0"
	require.NotEqual(t, line, newHTTPS().getter(&other).line, "another host")
	require.NotEqual(t, line, uploadLine(p))
	require.Equal(t, 1, cap(uploadLine(p)))
	other = *p
	other.Client = limitedClient(t, Limits{})
	require.NotEqual(t, line, newHTTPS().getter(&other).line, "another server")
}

// TestHTTPSWritesOneFlatFile: a disk that is anything else is not written by halves.
func TestHTTPSWritesOneFlatFile(t *testing.T) {
	s := newShop(t, simulator.VPX())
	p := s.put(t, "web1/web1.vmdk", vmdk.MonolithicSparse, pipetest.NewPattern(35, 1<<20))
	p.PoweredOn, p.Snapshot, p.Scratch = false, types.ManagedObjectReference{}, t.TempDir()
	_, err := newHTTPS().OpenTarget(t.Context(), p)
	require.Error(t, err)
	q := s.put(t, "web2/web2.vmdk", vmdk.VMFS, pipetest.NewPattern(35, 1<<20))
	q.PoweredOn, q.Snapshot, q.Scratch = false, types.ManagedObjectReference{}, t.TempDir()
	q.Disk.Size += 512
	_, err = newHTTPS().OpenTarget(t.Context(), q)
	var unfit *UnfitError
	require.ErrorAs(t, err, &unfit)
}

// TestScratchRoom: a disk that does not fit is refused before anything is asked of a host.
func TestScratchRoom(t *testing.T) {
	dir := t.TempDir()
	_, err := newScratch(dir, 1<<20, 1<<60)
	var room *ScratchError
	require.ErrorAs(t, err, &room)
	require.Equal(t, dir, room.Folder)
	s, err := newScratch(dir, 1<<20, 0)
	require.NoError(t, err)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "it has no name that could outlive us")
	p := make([]byte, 4096)
	for range 100 {
		off := rand.Int64N(1<<20 - 4096)
		require.NoError(t, s.put(p, off))
	}
	require.ErrorIs(t, s.put(p, 1<<20-4095), fs.ErrInvalid)
	require.ErrorIs(t, s.put(p, -1), fs.ErrInvalid)
	got, err := io.ReadAll(s.reader(t.Context()))
	require.NoError(t, err)
	require.Len(t, got, 1<<20)
	require.NoError(t, s.Close())
}
