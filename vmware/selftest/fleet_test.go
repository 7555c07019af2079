package selftest

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/vmware"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// R118, R198: many VMs, four at once: quiesced snapshot, changed blocks, copy, commit, release. Every point holds what the guest
// had, although it goes on writing, and nothing is left. In the long tier all 32 VMs.
func TestFleet(t *testing.T) {
	vms := 6
	if long() {
		vms = 32
	}
	l := newLabOf(t, &vmwaretest.Options{VMs: vms, DisksPerVM: 2, DiskBytes: 4 << 20, Hosts: 2, Datastores: 2})
	dir := t.TempDir()
	st, err := dirstore.Init(filepath.Join(dir, "repo"))
	require.NoError(t, err)
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{BlockSize: 64 << 10, NoEncryption: true}, &repo.OpenOptions{StateDir: filepath.Join(dir, "state")})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	j, err := hikae.OpenFileJournal(filepath.Join(dir, "journal"))
	require.NoError(t, err)
	defer func() { require.NoError(t, j.Close()) }()
	var refs []types.ManagedObjectReference
	for i, vm := range l.VMs() {
		refs = append(refs, vm.Ref())
		l.toolsOf(t, vm.Ref())
		for n, d := range vm.Disks() {
			require.NoError(t, d.Write(1<<20, pattern(1<<20, i*2+n)))
		}
	}
	p, err := vmware.New(l.client, refs, &vmware.Options{Quiesce: vmware.RequireQuiesce, Transports: &vmware.TransportOptions{Order: []string{vmware.NBDSSL}}})
	require.NoError(t, err)
	begun := time.Now()
	var read, disks atomic.Int64
	for round, method := range []job.Method{job.Allocated, job.Changed} {
		g, ctx := errgroup.WithContext(t.Context())
		g.SetLimit(4)
		for i, vm := range l.VMs() {
			g.Go(func() error {
				for n, d := range vm.Disks() {
					if err := d.Write(int64(i)*4096, pattern(100_000, round*1000+i*2+n)); err != nil {
						return err
					}
				}
				want := contents(t, vm)
				res, err := job.Backup(ctx, p, vm.Ref().Value, r, &job.BackupOptions{Journal: j, Workers: 1,
					Wrap: func(_ context.Context, _ hikae.Disk, img pipe.Image) (pipe.Image, error) {
						for _, d := range vm.Disks() {
							if err := d.Write(2<<20, pattern(512, i)); err != nil {
								return nil, err
							}
						}
						return img, nil
					}})
				if err != nil {
					return fmt.Errorf("%s: %w", vm.Name(), err)
				}
				if res.Consistency != hikae.Filesystem.String() {
					return fmt.Errorf("%s: consistency %s", vm.Name(), res.Consistency)
				}
				for _, d := range res.Disks {
					if d.Method != method {
						return fmt.Errorf("%s, disk %s: read by %s: %v", vm.Name(), d.Key, d.Method, res.Fallbacks)
					}
					read.Add(d.Read)
					disks.Add(1)
				}
				same(t, r, res.Point, want)
				return nil
			})
		}
		require.NoError(t, g.Wait())
		require.Empty(t, l.left())
	}
	effects, err := j.Sweep(t.Context(), map[string]hikae.Sweeper{"": p}, nil)
	require.NoError(t, err)
	require.Zero(t, effects)
	require.NoError(t, l.client.Close(t.Context()))
	require.Empty(t, l.Leftovers(), "sessions, too")
	t.Logf("figure: %d VMs, 2 disks each, 4 at once, twice: %d disk reads, %d MiB read, all the same, in %.1f s", vms, disks.Load(), read.Load()>>20, time.Since(begun).Seconds())
}

// pattern is content that tells where it belongs.
func pattern(n, salt int) []byte {
	p := make([]byte, n)
	x := uint32(salt)*2654435761 + 1
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return p
}
