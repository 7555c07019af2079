package vmware

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// insider reads the fake server's disks from within it. What is tested with it is snapshots and changes, not transports.
type insider struct{ server *vmwaretest.Server }

func (t insider) Name() string { return "insider" }

func (t insider) Check(context.Context, *Pinned) error { return nil }

func (t insider) Open(_ context.Context, p *Pinned) (pipe.Image, error) {
	return t.server.OpenDisk(p.Disk.File, false)
}

// lab is a fake vSphere, a client of it, and a repository for its VMs.
type lab struct {
	*testing.T
	server  *vmwaretest.Server
	client  *Client
	repo    *repo.Repository
	journal string
	opts    Options
	rnd     *rand.ChaCha8
}

const labDisk = 2 << 20

func newLab(t *testing.T, opts vmwaretest.Options) *lab {
	t.Helper()
	if opts.DiskBytes == 0 {
		opts.DiskBytes = labDisk
	}
	server, err := vmwaretest.Start(&opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	l := &lab{T: t, server: server, journal: filepath.Join(t.TempDir(), "journal"), rnd: rand.NewChaCha8([32]byte{7})}
	l.opts.Transports = &TransportOptions{Order: []string{"insider"}, More: []Transport{insider{server}}}
	l.client = l.connect()
	t.Cleanup(func() { require.NoError(t, l.client.Close(context.WithoutCancel(t.Context()))) })
	l.repo, err = repo.Init(t.Context(), memstore.New(nil), nil, &repo.InitOptions{BlockSize: 64 << 10, NoEncryption: true}, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.repo.Close()) })
	for _, vm := range server.VMs() {
		l.tools(vm, types.VirtualMachineToolsRunningStatusGuestToolsRunning)
		for _, d := range vm.Disks() {
			l.scribble(d, 5)
		}
	}
	return l
}

func (l *lab) connect() *Client {
	l.Helper()
	c, err := Connect(l.Context(), l.server.URL(), Login{User: l.server.User(), Password: l.server.Password()},
		&ConnectOptions{Thumbprint: l.server.Thumbprint(), CallTimeout: 20 * time.Second, Latency: LatencyOptions{Off: true}})
	require.NoError(l, err)
	return c
}

// tools says whether VMware Tools run in a guest.
func (l *lab) tools(vm *vmwaretest.VM, status types.VirtualMachineToolsRunningStatus) {
	l.Helper()
	l.reconfigure(vm, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{
		&types.OptionValue{Key: "SET.guest.toolsRunningStatus", Value: string(status)},
	}})
}

func (l *lab) reconfigure(vm *vmwaretest.VM, spec types.VirtualMachineConfigSpec) {
	l.Helper()
	res, err := methods.ReconfigVM_Task(l.Context(), l.client.Vim(), &types.ReconfigVM_Task{This: vm.Ref(), Spec: spec})
	require.NoError(l, err)
	_, err = l.client.Wait(l.Context(), res.Returnval)
	require.NoError(l, err)
}

func (l *lab) vm() *vmwaretest.VM { return l.server.VM("web0") }

func (l *lab) refs() (out []types.ManagedObjectReference) {
	for _, vm := range l.server.VMs() {
		out = append(out, vm.Ref())
	}
	return out
}

func (l *lab) provider() *Provider {
	l.Helper()
	p, err := New(l.client, l.refs(), &l.opts)
	require.NoError(l, err)
	return p
}

// scribble writes as the guest does, here and there.
func (l *lab) scribble(d *vmwaretest.Disk, times int) {
	l.Helper()
	at := rand.New(l.rnd)
	for range times {
		p := make([]byte, 1+at.IntN(100_000))
		_, _ = l.rnd.Read(p) // it never fails
		require.NoError(l, d.Write(at.Int64N(d.Size()-int64(len(p))), p))
	}
}

func (l *lab) scribbleAll(times int) {
	l.Helper()
	for _, d := range l.vm().Disks() {
		l.scribble(d, times)
	}
}

func (l *lab) contents(vm *vmwaretest.VM) map[string][]byte {
	l.Helper()
	out := map[string][]byte{}
	for _, d := range vm.Disks() {
		p, err := d.Read(0, int(d.Size()))
		require.NoError(l, err)
		out[d.Key()] = p
	}
	return out
}

// try makes a point of web0, while whose disks are read the guest goes on writing.
func (l *lab) try(opts *job.BackupOptions) (job.Result, map[string][]byte, error) {
	l.Helper()
	return l.tryBy(l.Context(), l.provider(), l.vm(), opts)
}

func (l *lab) tryBy(ctx context.Context, p *Provider, vm *vmwaretest.VM, opts *job.BackupOptions) (job.Result, map[string][]byte, error) {
	l.Helper()
	var o job.BackupOptions
	if opts != nil {
		o = *opts
	}
	j, err := hikae.OpenFileJournal(l.journal)
	require.NoError(l, err)
	defer func() { require.NoError(l, j.Close()) }()
	o.Journal = j
	o.Workers = 1
	want := l.contents(vm)
	if vm.PoweredOn() {
		o.Wrap = func(_ context.Context, d hikae.Disk, img pipe.Image) (pipe.Image, error) {
			for _, g := range vm.Disks() {
				if err := g.Write(0, []byte(fmt.Sprint("while it is read ", time.Now()))); err != nil {
					return nil, err
				}
			}
			return img, nil
		}
	}
	res, err := job.Backup(ctx, p, vm.Ref().Value, l.repo, &o)
	return res, want, err
}

// point makes a point, which must hold what the guest had, and leave nothing on the server.
func (l *lab) point(opts *job.BackupOptions) job.Result {
	l.Helper()
	res, want, err := l.try(opts)
	require.NoError(l, err)
	l.holds(res.Point, want)
	l.clean()
	return res
}

// changed makes a point as an increment, and read makes one for which everything had to be read, for a reason.
func (l *lab) changed() job.Result {
	l.Helper()
	l.scribbleAll(3)
	res := l.point(nil)
	for _, d := range res.Disks {
		require.Equal(l, job.Changed, d.Method, "%v", res.Fallbacks)
	}
	return res
}

func (l *lab) read(reason string) job.Result {
	l.Helper()
	l.scribbleAll(3)
	res := l.point(nil)
	for _, d := range res.Disks {
		require.Equal(l, job.Allocated, d.Method)
	}
	require.NotEmpty(l, res.Fallbacks)
	for _, f := range res.Fallbacks {
		require.Equal(l, job.Changed, f.From)
		require.Contains(l, f.Reason, reason)
	}
	return res
}

// holds compares a point's disks with what the guest had.
func (l *lab) holds(point string, want map[string][]byte) {
	l.Helper()
	for key, content := range want {
		img, err := l.repo.Open(l.Context(), point, key)
		require.NoError(l, err)
		got := make([]byte, len(content))
		n, err := img.ReadAt(l.Context(), got, 0)
		if err != io.EOF {
			require.NoError(l, err)
		}
		require.Equal(l, len(content), n)
		require.NoError(l, img.Close())
		if !bytes.Equal(content, got) {
			at := 0
			for content[at] == got[at] {
				at++
			}
			require.Failf(l, "a wrong byte", "disk %s of point %s differs at %d", key, point, at)
		}
	}
}

// clean: nothing of ours is on the server, and nothing is in the journal.
func (l *lab) clean() {
	l.Helper()
	require.Empty(l, l.leftovers())
	require.Zero(l, l.sweep())
}

// sweep is what a new start does first.
func (l *lab) sweep() (swept int) {
	l.Helper()
	j, err := hikae.OpenFileJournal(l.journal)
	require.NoError(l, err)
	defer func() { require.NoError(l, j.Close()) }()
	s := &Sweeper{Connect: func(_ context.Context, server string) (*Client, error) {
		require.Equal(l, l.client.Address(), server)
		return l.connect(), nil
	}}
	defer func() { require.NoError(l, s.Close(context.WithoutCancel(l.Context()))) }()
	keep, err := job.KeepIDs(l.Context(), l.repo)
	require.NoError(l, err)
	ctx, cancel := context.WithTimeout(l.Context(), time.Minute)
	defer cancel()
	swept, err = j.Sweep(ctx, map[string]hikae.Sweeper{"vmware.": s}, keep)
	require.NoError(l, err)
	return swept
}

func (l *lab) newest() pipe.PointInfo {
	l.Helper()
	info, err := job.FindPoint(l.Context(), l.repo, "web0@latest")
	require.NoError(l, err)
	return info
}

// blobs are the configuration that stands in a point.
func (l *lab) blobs(point string) map[string][]byte {
	l.Helper()
	info, err := job.FindPoint(l.Context(), l.repo, point)
	require.NoError(l, err)
	out := map[string][]byte{}
	for _, b := range info.Blobs {
		r, err := l.repo.OpenBlob(l.Context(), point, b.Name)
		require.NoError(l, err)
		out[b.Name], err = io.ReadAll(r)
		require.NoError(l, err)
		require.NoError(l, r.Close())
	}
	return out
}

// image is the first disk of a point.
func (l *lab) image(point string) pipe.Image {
	l.Helper()
	img, err := l.repo.Open(l.Context(), point, l.vm().Disk(0).Key())
	require.NoError(l, err)
	l.Cleanup(func() { img.Close() })
	return img
}

// userSnapshot is the first snapshot of web0.
func (l *lab) userSnapshot() types.ManagedObjectReference { return l.vm().Snapshots()[0].Ref }

// revert goes back to a snapshot by a task, as people do.
func (l *lab) revert(ref types.ManagedObjectReference) {
	l.Helper()
	res, err := methods.RevertToSnapshot_Task(l.Context(), l.client.Vim(), &types.RevertToSnapshot_Task{This: ref})
	require.NoError(l, err)
	_, err = l.client.Wait(l.Context(), res.Returnval)
	require.NoError(l, err)
}

// leftovers are what the server still has of us, but for the sessions of clients that are in use.
func (l *lab) leftovers() (out []string) {
	users := map[string]bool{}
	for _, vm := range l.server.VMs() {
		for _, s := range vm.Snapshots() {
			if (snapshotNode{name: s.Name, description: s.Description}).mark() == "" {
				users[fmt.Sprintf("VM %s: snapshot %q (%s)", vm.Name(), s.Name, s.Ref.Value)] = true
			}
		}
	}
	for _, text := range l.server.Leftovers() {
		if !users[text] && !strings.HasPrefix(text, "session of ") {
			out = append(out, text)
		}
	}
	return out
}
