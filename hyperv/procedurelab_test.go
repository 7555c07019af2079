package hyperv_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/helper"
	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

const mib = 1 << 20

// lab is a host of a generation with its VSS, a real helper on it, its storage, and VMs that write without end.
type lab struct {
	t      *testing.T
	h      *hypervtest.Host
	site   *hyperv.Site
	guests []*hypervtest.Guest
	tips   []string
	book   requester.Book

	mu      sync.Mutex
	said    []string
	links   []net.Conn // to helpers
	helpers sync.WaitGroup
}

// newLab: systems are windows or linux, one for each VM.
func newLab(t *testing.T, generation string, systems ...string) *lab {
	t.Helper()
	h, err := hypervtest.Start(&hypervtest.Options{Generation: generation, JobTime: time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(h.Close)
	l := &lab{t: t, h: h, book: &requester.DirBook{Dir: t.TempDir()}}
	for i, system := range systems {
		l.addVM(fmt.Sprintf("web%d", i+1), system, "")
	}
	o := &hyperv.SiteOptions{Host: hyperv.Options{CIM: &cim.Options{Plain: true}},
		Store: func(context.Context, string) (hyperv.Store, error) { return h.LocalFiles(), nil }}
	l.site, err = hyperv.ConnectSite(t.Context(), h.Addr(), cim.Login{User: "eva", Password: "pw"}, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, l.site.Close())
		l.cut()
		l.helpers.Wait()
	})
	return l
}

func (l *lab) addVM(name, system, folder string) *hypervtest.Guest {
	id := l.h.AddVM(hypervtest.VM{Name: name, GuestOS: system, Folder: folder, Disks: []hypervtest.Disk{
		{Size: 3 * mib, BlockSize: mib}, {Size: 2 * mib, BlockSize: mib, Fixed: true}}})
	g := l.h.VM(id)
	for disk := range 2 {
		require.NoError(l.t, g.Write(disk, mib, []byte(fmt.Sprintf("disk %d of %s", disk, name))))
	}
	l.guests, l.tips = append(l.guests, g), append(l.tips, g.Tip(0))
	return g
}

// churn has all guests write until the test ends.
func (l *lab) churn() {
	for i, g := range l.guests {
		l.t.Cleanup(g.Churn(uint64(i)))
	}
}

func (l *lab) ids() (ids []string) {
	for _, g := range l.guests {
		ids = append(ids, g.ID())
	}
	return ids
}

// requester runs a helper's server in this process, as it runs on a host.
func (l *lab) requester(ctx context.Context, _ *hyperv.Host) (hyperv.Requester, error) {
	here, there := net.Pipe()
	l.mu.Lock()
	l.links = append(l.links, here)
	l.mu.Unlock()
	l.helpers.Go(func() {
		err := requester.Serve(context.Background(), there, l.h.VSS(), &requester.Options{Host: "HV1", Book: l.book})
		if err != nil && !errors.Is(err, io.EOF) {
			l.warn("", "helper: "+err.Error())
		}
	})
	return helper.Dial(ctx, here, nil)
}

// cut ends all connections to helpers, as the death of whoever has them does.
func (l *lab) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.links {
		c.Close()
	}
	l.links = nil
}

func (l *lab) warn(_, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, text)
}

func (l *lab) provider(o hyperv.ProviderOptions) *hyperv.Provider {
	l.t.Helper()
	o.Requester, o.Warn = l.requester, l.warn
	p, err := hyperv.New(l.site, nil, &o)
	require.NoError(l.t, err)
	return p
}

// clean: nothing of a backup is left on the host, and VMs write where they wrote before.
func (l *lab) clean() {
	l.t.Helper()
	require.Eventually(l.t, func() bool { return len(l.h.Shadows()) == 0 && l.h.Requesters() == 0 }, 10*time.Second, time.Millisecond)
	for i, g := range l.guests {
		require.Equal(l.t, l.tips[i], g.Tip(0))
	}
	require.Zero(l.t, l.h.Storage().Counts().Held)
}

// frozen: each disk of a snapshot holds what the guest's held at the freeze.
func frozen(t *testing.T, s hikae.Snapshot, g *hypervtest.Guest) {
	t.Helper()
	require.Equal(t, g.ID(), s.VM().ID)
	require.Len(t, s.VM().Disks, g.Disks())
	for n, d := range s.VM().Disks {
		img, err := s.OpenDisk(t.Context(), d.Key)
		require.NoError(t, err)
		require.Equal(t, g.Size(n), img.Size())
		got, want := make([]byte, img.Size()), make([]byte, img.Size())
		m, err := img.ReadAt(t.Context(), got, 0)
		require.Equal(t, len(got), m, "%v", err)
		_, _ = g.AtFreeze(n).ReadAt(want, 0)
		require.True(t, string(want) == string(got), "disk %d is not what it was at the freeze", n)
		require.NoError(t, img.Close())
	}
}

// rows are the events of a VM, and of all, in order: row, who, what.
func (l *lab) rows(vm string) (lines []string) {
	for _, e := range l.h.Events() {
		if e.VM != "" && e.VM != vm || strings.HasPrefix(e.Name, "merge") || e.Name == "backup complete" || e.Name == "remove" || e.Name == "read" {
			continue
		}
		row := e.Row
		if row == "" {
			row = "-"
		}
		lines = append(lines, row+" "+e.Actor+" "+e.Name)
	}
	return lines
}

// order is what the host does for a VM, from the requirement rows; a line in brackets is once for each disk.
func order(t *testing.T, name string, disks int) (lines []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("hypervtest", "testdata", "hostvss", name))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		n := 1
		if strings.HasPrefix(line, "[") {
			line, n = strings.Trim(line, "[]"), disks
		}
		for range n {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
	}
	return lines
}

// array is a storage vendor's snapshotter, on the fake's storage.
type array struct{ s *hypervtest.Storage }

const kindArray = "hyperv.volume.array"

func (a array) Name() string { return "array" }

func (a array) Volume(_ context.Context, _, file string) (string, error) { return a.s.Volume(file) }

func (a array) Take(ctx context.Context, host, mark string, volumes []string, j hikae.Journal) (hyperv.VolumeSnapshot, error) {
	return a.mount(ctx, mark, j, func() (string, error) { return a.s.Snapshot(ctx, mark, volumes) })
}

func (a array) Transport(ctx context.Context, host, mark, set string, volumes []string, j hikae.Journal) (hyperv.VolumeSnapshot, error) {
	return a.mount(ctx, mark, j, func() (string, error) { return a.s.Import(mark, set) })
}

func (a array) mount(ctx context.Context, mark string, j hikae.Journal, make func() (string, error)) (hyperv.VolumeSnapshot, error) {
	v := &arraySnapshot{of: a, done: func(context.Context) error { return nil }}
	if j != nil {
		var err error
		if v.done, err = j.Intend(ctx, hikae.Effect{Kind: kindArray, Facts: map[string]string{"snapshotter": a.Name(), "mark": mark}}); err != nil {
			return nil, err
		}
	}
	var err error
	if v.id, err = make(); err == nil {
		v.folders, err = a.s.Mount(ctx, v.id)
	}
	if err != nil {
		return nil, errors.Join(err, v.Delete(context.WithoutCancel(ctx)))
	}
	return v, nil
}

func (a array) Undo(ctx context.Context, e hikae.Effect) error {
	for _, id := range a.s.Find(e.Facts["mark"]) {
		if err := errors.Join(a.s.Unmount(ctx, id), a.s.Delete(ctx, id)); err != nil {
			return err
		}
	}
	return nil
}

type arraySnapshot struct {
	of      array
	id      string
	folders map[string]string
	done    func(context.Context) error
}

func (v *arraySnapshot) ID() string { return v.id }

func (v *arraySnapshot) Open(_ context.Context, name string) (pipe.Image, error) {
	for mount, dir := range v.folders {
		if len(name) > len(mount) && strings.EqualFold(name[:len(mount)], mount) {
			return diskfile.Open(filepath.Join(dir, filepath.FromSlash(strings.ReplaceAll(name[len(mount):], `\`, "/"))), nil)
		}
	}
	return nil, fmt.Errorf("%s: no volume of it is mounted: %w", name, fs.ErrNotExist)
}

func (v *arraySnapshot) Delete(ctx context.Context) error {
	if v.id != "" {
		if err := errors.Join(v.of.s.Unmount(ctx, v.id), v.of.s.Delete(ctx, v.id)); err != nil {
			return err
		}
	}
	return v.done(ctx)
}

var _ hyperv.SetTransporter = array{}
