package hyperv_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// strike does something before one of the calls that come in, at whichever node.
type strike struct {
	mu    sync.Mutex
	n, at int
	do    func()
}

func (s *strike) before(hypervtest.Seen) *hypervtest.Failure {
	s.mu.Lock()
	s.n++
	var now func()
	if s.n == s.at {
		now = s.do
	}
	s.mu.Unlock()
	if now != nil {
		now()
	}
	return nil
}

func (s *strike) arm(at int, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n, s.at, s.do = 0, at, do
}

// movingGroup is two VMs on one shared volume of a cluster, and the storage that pins it.
type movingGroup struct {
	t       *testing.T
	c       *hypervtest.Cluster
	strike  *strike
	guests  []*hypervtest.Guest
	storage *hypervtest.Storage
	told    []string
}

func newMovingGroup(t *testing.T) *movingGroup {
	m := &movingGroup{t: t, strike: &strike{}}
	var err error
	m.c, err = hypervtest.StartCluster(&hypervtest.ClusterOptions{Host: hypervtest.Options{Generation: "2022", JobTime: time.Millisecond, Before: m.strike.before}})
	require.NoError(t, err)
	t.Cleanup(m.c.Close)
	for i := range 2 {
		id := m.c.AddVM("HV1", hypervtest.VM{Name: fmt.Sprint("web", i+1), GuestOS: "windows", Disks: []hypervtest.Disk{{Size: 3 * mib, BlockSize: mib}}})
		g := m.c.Hosts()[0].VM(id)
		require.NoError(t, g.Write(0, mib, []byte(fmt.Sprint("content of web", i+1))))
		m.guests = append(m.guests, g)
	}
	m.storage = m.c.Hosts()[0].Storage()
	return m
}

func (m *movingGroup) ids() []string { return []string{m.guests[0].ID(), m.guests[1].ID()} }

// connect is a session's own way to the cluster.
func (m *movingGroup) connect() (*hyperv.Provider, *hyperv.Site) {
	m.t.Helper()
	site, err := hyperv.ConnectSite(m.t.Context(), m.c.Address(m.c.Name(), hyperv.ProtocolCIM), cim.Login{User: "eva", Password: "pw"}, &hyperv.SiteOptions{
		Host: hyperv.Options{CIM: &cim.Options{Plain: true}}, Address: m.c.Address,
		Store: func(_ context.Context, machine string) (hyperv.Store, error) {
			return m.c.Host(machine).LocalFiles(), nil
		}})
	require.NoError(m.t, err)
	p, err := hyperv.New(site, nil, &hyperv.ProviderOptions{Procedure: hyperv.Production, Mode: hyperv.OffHost, Volumes: []hyperv.VolumeSnapshotter{array{m.storage}},
		Warn: func(_, text string) { m.told = append(m.told, text) }})
	require.NoError(m.t, err)
	return p, site
}

// other is the node that a VM is not on.
func (m *movingGroup) other(g *hypervtest.Guest) string {
	if m.c.Owner(g.ID()).Name() == "HV1" {
		return "HV2"
	}
	return "HV1"
}

// move moves VMs of the group; which, is the step's affair.
func (m *movingGroup) move(n int) func() {
	return func() {
		for i, g := range m.guests {
			if (n+1)>>i&1 == 1 || n%4 == 3 {
				_ = m.c.Move(g.ID(), m.other(g))
			}
		}
	}
}

// backup reads the group as a job does: one VM after the other, each released when it is read. It says how many were right.
func (m *movingGroup) backup(p *hyperv.Provider, j hikae.Journal) (right int, err error) {
	m.t.Helper()
	snaps, err := p.SnapshotGroup(m.t.Context(), m.ids(), &hikae.SnapshotOptions{Journal: j, Repository: "repo"})
	for i, s := range snaps {
		one := m.read(s)
		if one == nil {
			right++
			_, one = s.Prepare(m.t.Context())
		}
		if one == nil {
			one = s.Commit(m.t.Context())
		}
		one = errors.Join(one, s.Release(m.t.Context()))
		if i < len(snaps)-1 {
			require.Equal(m.t, 1, m.storage.Counts().Held, "it is there until the last VM's release: R099, R197")
		}
		err = errors.Join(err, one)
	}
	return right, err
}

// read compares each disk with what the guest's was at the freeze: an error is one of reading, and another byte ends the test.
func (m *movingGroup) read(s hikae.Snapshot) error {
	m.t.Helper()
	var g *hypervtest.Guest
	for _, one := range m.guests {
		if strings.EqualFold(one.ID(), s.VM().ID) {
			g = one
		}
	}
	for n, d := range s.VM().Disks {
		img, err := s.OpenDisk(m.t.Context(), d.Key)
		if err != nil {
			return err
		}
		got, want := make([]byte, img.Size()), make([]byte, g.Size(n))
		read, err := img.ReadAt(m.t.Context(), got, 0)
		if err := errors.Join(err, img.Close()); err != nil && read < len(got) {
			return err
		}
		_, _ = g.AtFreeze(n).ReadAt(want, 0)
		require.True(m.t, string(want) == string(got), "disk %d of %s is not what it was at the freeze", n, s.VM().Name)
	}
	return nil
}

// gone: no checkpoint, no volume snapshot and no AVHDX file is left, on whichever node; of reference points those that are kept, and those
// that were told.
func (m *movingGroup) gone(what string) {
	m.t.Helper()
	require.Zero(m.t, m.storage.Counts().Held, what)
	for _, h := range m.c.Hosts() {
		h.Settled(20 * time.Second)
		for _, line := range h.Leftovers() {
			require.Contains(m.t, line, "reference points", "%s, on %s", what, h.Name())
		}
	}
	for _, g := range m.guests {
		require.Empty(m.t, g.Checkpoints(), what)
		require.True(m.t, strings.HasSuffix(g.Tip(0), `\disk_1.vhdx`), "%s: %s", what, g.Tip(0))
	}
}

// R197, R099, and trap 3: VMs of one snapshot of a cluster's volume, off-host, whose owner node changes before each call of the backup: of the
// first, of the second, of both. The group follows, or fails by name and hands its clean-up over; the last VM ends it, and what a session could not
// undo the next start does, on the node that has the VM then.
func TestOffHostGroupMoves(t *testing.T) {
	t.Parallel()
	m := newMovingGroup(t)
	p, site := m.connect()
	m.strike.arm(0, nil)
	right, err := m.backup(p, nil)
	require.NoError(t, err)
	require.Equal(t, 2, right)
	calls := m.strike.n
	require.Greater(t, calls, 40)
	require.NoError(t, site.Close())

	every := calls/6 + 1
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		every = 1
	}
	followed, failed := 0, 0
	for n := 1; n <= calls; n += every {
		what := fmt.Sprintf("before call %d", n)
		for i, g := range m.guests {
			require.NoError(t, g.Write(0, int64(n%3)*mib, []byte{byte(n), byte(i), 'x'}))
		}
		dir := filepath.Join(t.TempDir(), "journal")
		j, err := hikae.OpenFileJournal(dir)
		require.NoError(t, err)
		p, site := m.connect()
		m.strike.arm(n, m.move(n))
		right, err := m.backup(p, j)
		m.strike.arm(0, nil)
		if err == nil {
			require.Equal(t, 2, right, what)
			followed++
		} else {
			failed++
			t.Logf("%s: %v", what, err)
			named(t, err)
		}
		require.NoError(t, j.Close())
		require.NoError(t, site.Close())

		next, err := hikae.OpenFileJournal(dir)
		require.NoError(t, err)
		p, site = m.connect()
		_, err = next.SweepFor(t.Context(), "repo", map[string]hikae.Sweeper{"hyperv.": p}, nil)
		require.NoError(t, err, what)
		for e, err := range next.Pending(t.Context()) {
			t.Errorf("%s: effect %+v %v stays", what, e, err)
		}
		m.gone(what)
		right, err = m.backup(p, next)
		require.NoError(t, err, what)
		require.Equal(t, 2, right, what)
		m.gone(what)
		require.NoError(t, next.Close())
		require.NoError(t, site.Close())
	}
	t.Logf("%d calls, every %d.: %d followed, %d failed by name", calls, every, followed, failed)
	require.Positive(t, followed)
}

// named: an error that a caller can act on, or that names the object.
func named(t *testing.T, err error) {
	t.Helper()
	var op *cim.OpError
	var pending *hyperv.PendingError
	var changed *hyperv.ChangedError
	var some *hyperv.GroupError
	require.True(t, errors.As(err, &op) || errors.As(err, &pending) || errors.As(err, &changed) || errors.As(err, &some) || errors.Is(err, fs.ErrNotExist), "%v", err)
}
