package fsrvp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/helper"
	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/pipe"
)

// copier is the part of a host's VSS that makes shadow copies of shares: it asks the file server by the protocol, and the host reads them by SMB.
type copier struct {
	s     *fileServer
	mu    sync.Mutex
	reads int
}

// Copy implements hypervtest.ShareCopier.
func (c *copier) Copy(ctx context.Context, shares []string) (hypervtest.ShareSet, error) {
	before := c.s.left()
	o := c.s.options()
	conn, err := Dial(ctx, "fs1", c.s.login(), &o)
	if err != nil {
		return nil, err
	}
	set, err := conn.Take(ctx, shares, nil)
	if err = errors.Join(err, conn.Close()); err != nil {
		return nil, err
	}
	folders := slices.DeleteFunc(c.s.left(), func(name string) bool { return slices.Contains(before, name) })
	if len(folders) != 1 || len(set.Copies) != 1 {
		return nil, fmt.Errorf("%d folders for %d copies", len(folders), len(set.Copies))
	}
	return &sharedSet{c, set, filepath.Join(c.s.snaps, folders[0])}, nil
}

type sharedSet struct {
	of     *copier
	set    Set
	folder string
}

func (s *sharedSet) Share(string) (exposed, folder string) { return s.set.Copies[0].Exposed, s.folder }

func (s *sharedSet) Open(ctx context.Context, name string) (pipe.Image, error) {
	s.of.mu.Lock()
	s.of.reads++
	s.of.mu.Unlock()
	return s.of.s.Open(ctx, name)
}

func (s *sharedSet) Delete(ctx context.Context) error {
	return (&Snapshotter{Login: func(context.Context, string) (Login, error) { return s.of.s.login(), nil }, Options: s.of.s.options()}).drop(ctx, "fs1", s.set)
}

// writerScene is a host of a generation whose VSS has the file server make shadow copies of its share.
type writerScene struct {
	t      *testing.T
	server *fileServer
	host   *hypervtest.Host
	site   *hyperv.Site
	copier *copier
	book   requester.Book
}

func newWriterScene(t *testing.T, generation string) *writerScene {
	s := &writerScene{t: t, server: startFileServer(t), book: &requester.DirBook{Dir: t.TempDir()}}
	s.copier = &copier{s: s.server}
	var err error
	s.host, err = hypervtest.Start(&hypervtest.Options{Generation: generation, JobTime: time.Millisecond, User: "eva", Password: smbtest.Password, Dir: s.server.root})
	require.NoError(t, err)
	t.Cleanup(s.host.Close)
	// What a guest writes between its own snapshot and the share's is what auto-recovery has to take out again.
	s.host.SetVSS(hypervtest.VSSOptions{Shares: s.copier, HardwareProvider: true, InGap: func(g *hypervtest.Guest) {
		if err := g.Write(0, 1<<20, []byte("written in the gap")); err != nil {
			t.Error(err)
		}
	}})
	s.site, err = hyperv.ConnectSite(t.Context(), s.host.Addr(), cim.Login{User: "eva", Password: smbtest.Password}, &hyperv.SiteOptions{Host: hyperv.Options{CIM: &cim.Options{Plain: true}},
		Store: func(context.Context, string) (hyperv.Store, error) { return s.host.LocalFiles(), nil }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.site.Close()) })
	return s
}

func (s *writerScene) vm(folder string, disks ...hypervtest.Disk) *hypervtest.Guest {
	g := s.host.VM(s.host.AddVM(hypervtest.VM{Name: filepath.Base(strings.ReplaceAll(folder, `\`, "/")), GuestOS: "windows", Folder: folder, Disks: disks}))
	for i := range disks {
		require.NoError(s.t, g.Write(i, 1<<20, []byte(fmt.Sprintf("disk %d in %s", i, folder))))
	}
	return g
}

// provider has a requester's server run in this process, as it runs on a host.
func (s *writerScene) provider(o hyperv.ProviderOptions) *hyperv.Provider {
	var servers sync.WaitGroup
	s.t.Cleanup(servers.Wait)
	o.Requester = func(ctx context.Context, _ *hyperv.Host) (hyperv.Requester, error) {
		here, there := net.Pipe()
		servers.Go(func() {
			err := requester.Serve(context.Background(), there, s.host.VSS(), &requester.Options{Host: "HV1", Book: s.book})
			if err != nil && !errors.Is(err, io.EOF) {
				s.t.Error(err)
			}
		})
		return helper.Dial(ctx, here, nil)
	}
	p, err := hyperv.New(s.site, nil, &o)
	require.NoError(s.t, err)
	return p
}

func (s *writerScene) clean() {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return len(s.host.Shadows()) == 0 && s.host.Requesters() == 0 }, 20*time.Second, time.Millisecond)
	require.Empty(s.t, s.server.left())
	require.Empty(s.t, s.server.exposed())
	s.host.Settled(10 * time.Second)
	require.Empty(s.t, s.host.Leftovers())
}

// exposed are the shares of copies that the file server has.
func (s *fileServer) exposed() (list []string) {
	s.t.Helper()
	out, err := exec.CommandContext(s.t.Context(), "net", "-s", s.Config(), "conf", "listshares").CombinedOutput()
	require.NoError(s.t, err, "%s", out)
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); strings.Contains(line, "@") {
			list = append(list, line)
		}
	}
	return list
}

// same: each disk of a snapshot holds what the guest's held at the freeze.
func same(t *testing.T, s hikae.Snapshot, g *hypervtest.Guest) {
	t.Helper()
	require.Len(t, s.VM().Disks, g.Disks())
	for n, d := range s.VM().Disks {
		img, err := s.OpenDisk(t.Context(), d.Key)
		require.NoError(t, err)
		got, want := make([]byte, img.Size()), make([]byte, g.Size(n))
		m, err := img.ReadAt(t.Context(), got, 0)
		require.Equal(t, len(got), m, "%v", err)
		_, _ = g.AtFreeze(n).ReadAt(want, 0)
		require.True(t, string(want) == string(got), "disk %d is not what it was at the freeze", n)
		require.NoError(t, img.Close())
	}
}

// R041–R060, R064–R079, R100–R103 of VMs on shares: the host's VSS has the file server make the shadow copy, by FSRVP; the host's writer
// works in that, and disks are read from the share that shows it. A VM with a disk beside it on the host is in the same set.
func TestWritersOnShares(t *testing.T) {
	for _, c := range []struct {
		generation string
		procedure  hyperv.Procedure
	}{{"2012", hyperv.Writer2012}, {"2012r2", hyperv.Writer2012R2}, {"2012", hyperv.Requested}, {"2012r2", hyperv.Requested}, {"2022", hyperv.Requested}} {
		t.Run(c.generation+" "+string(c.procedure), func(t *testing.T) {
			if !longTier() && c.generation != "2022" {
				t.Skip("in the long tier")
			}
			s := newWriterScene(t, c.generation)
			disk := hypervtest.Disk{Size: 3 << 20, BlockSize: 1 << 20}
			guests := []*hypervtest.Guest{s.vm(`\\fs1\vms\web1`, disk, disk), s.vm(`\\fs1\vms\web2`, disk, hypervtest.Disk{Size: 2 << 20, BlockSize: 1 << 20, Path: `C:\Disks\web2.vhdx`})}
			for i, g := range guests {
				t.Cleanup(g.Churn(uint64(i)))
			}
			p := s.provider(hyperv.ProviderOptions{Procedure: c.procedure})
			ids := []string{guests[0].ID(), guests[1].ID()}
			groups, err := p.Group(t.Context(), ids)
			require.NoError(t, err)
			require.Len(t, groups, 1)
			snaps, err := p.SnapshotGroup(t.Context(), ids, nil)
			require.NoError(t, err)
			require.Len(t, snaps, 2)
			require.Len(t, s.server.left(), 1)
			for i, one := range snaps {
				require.Equal(t, hikae.Application, one.Consistency())
				require.Equal(t, string(c.procedure), one.VM().Facts["procedure"])
				same(t, one, guests[i])
				require.NotEmpty(t, one.VM().Config)
				_, err := one.Prepare(t.Context())
				require.NoError(t, err)
				require.NoError(t, one.Commit(t.Context()))
				require.NoError(t, one.Release(t.Context()))
				require.Equal(t, i == 0, len(s.server.left()) == 1, "the set goes with the last VM")
			}
			require.Positive(t, s.copier.reads, "they are read by SMB from the share that shows the copy")
			s.clean()
		})
	}
}

// A host that has nobody who makes shadow copies of shares, and a file server that refuses: an error that names the share, and nothing is left.
func TestWritersOnSharesRefused(t *testing.T) {
	s := newWriterScene(t, "2012r2")
	g := s.vm(`\\fs1\vms\web1`, hypervtest.Disk{Size: 3 << 20, BlockSize: 1 << 20})
	p := s.provider(hyperv.ProviderOptions{})
	s.host.SetVSS(hypervtest.VSSOptions{})
	_, err := p.Snapshot(t.Context(), g.ID(), nil)
	require.ErrorContains(t, err, `\\fs1\vms\`)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	s.clean()

	s.host.SetVSS(hypervtest.VSSOptions{Shares: s.copier})
	require.NoError(t, g.PowerOff())
	other := s.vm(`\\fs1\secret\web2`, hypervtest.Disk{Size: 2 << 20, BlockSize: 1 << 20})
	_, err = p.Snapshot(t.Context(), other.ID(), nil)
	require.ErrorContains(t, err, `fs1\secret`)
	s.clean()

	off := s.provider(hyperv.ProviderOptions{Mode: hyperv.OffHost, Volumes: []hyperv.VolumeSnapshotter{s.server.snapshotter()}})
	_, err = off.Snapshot(t.Context(), g.ID(), nil)
	var refused *hyperv.PlanError
	require.ErrorAs(t, err, &refused)
	require.ErrorContains(t, err, `or no disk lies on a share (\\fs1\vms)`)
	s.clean()
}
