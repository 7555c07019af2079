package stripe_test

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/smbchannel/smbtest"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/s3store"
	"github.com/hikae/hikae/repo/store/s3store/s3test"
	"github.com/hikae/hikae/repo/store/smbstore"
	"github.com/hikae/hikae/repo/store/storetest"
	"github.com/hikae/hikae/repo/store/stripe"
)

// mixed is a repository over two folders, two folders of an SMB share and two buckets, on real servers.
type mixed struct {
	site
	samba  *smbtest.Samba
	shares string // the folder that is shared
	s3     *s3test.Server
	seats  []func() (store.Store, error)
}

func newMixed(t *testing.T) *mixed {
	m := &mixed{site: site{t: t, root: t.TempDir(), state: t.TempDir()}, shares: t.TempDir()}
	m.samba = smbtest.StartSamba(t, smbtest.Settings{NoAdmin: true, Shares: []smbtest.Share{{Name: "backup", Path: m.shares}}})
	m.s3 = s3test.Start(t)
	m.seats = []func() (store.Store, error){m.dir("a"), m.dir("b"), m.smb("c"), m.smb("d"), m.bucket(), m.bucket()}
	return m
}

func (m *mixed) dir(name string) func() (store.Store, error) {
	return func() (store.Store, error) { return dirstore.Init(filepath.Join(m.root, name)) }
}

func (m *mixed) smb(name string) func() (store.Store, error) {
	at := smbstore.Address{Host: m.samba.HostPort(), Share: "backup", Folder: name}
	creds := func(context.Context) (smbstore.Credentials, error) {
		return smbstore.Credentials{User: m.samba.User, Password: m.samba.Password}, nil
	}
	opts := &smbstore.Options{Timeout: 10 * time.Second, GiveUp: time.Second, SeveralWriters: true}
	return func() (store.Store, error) { return smbstore.Init(m.t.Context(), at, creds, opts) }
}

func (m *mixed) bucket() func() (store.Store, error) {
	at := s3store.Address{Host: m.s3.Host, Bucket: m.s3.Bucket(m.t, s3test.Plain), Plain: true}
	creds := s3store.Static(s3store.Credentials{AccessKey: m.s3.AccessKey, SecretKey: m.s3.SecretKey})
	opts := &s3store.Options{GiveUp: time.Second, Timeout: 5 * time.Second}
	return func() (store.Store, error) { return s3store.Open(m.t.Context(), at, creds, opts) }
}

// members are the stores of all seats; one that cannot be opened is nil, as the tool has it.
func (m *mixed) members(without ...int) (list []store.Store) {
	for i, open := range m.seats {
		var st store.Store
		if !slices.Contains(without, i) {
			var err error
			st, err = open()
			require.NoError(m.t, err, "seat %d", i)
		}
		list = append(list, st)
	}
	return list
}

func (m *mixed) set(opts *stripe.Options, without ...int) *stripe.Store {
	st, err := stripe.Open(m.t.Context(), m.members(without...), opts)
	require.NoError(m.t, err)
	return st
}

func (m *mixed) open(opts *stripe.Options, without ...int) (*repo.Repository, *stripe.Store) {
	st := m.set(opts, without...)
	r, err := repo.Open(m.t.Context(), st, testKey, m.options())
	require.NoError(m.t, err)
	return r, st
}

// holds restores every point with members lost. Nothing is written meanwhile, so that whoever is lost is not behind later.
func (m *mixed) holds(points map[string]pipe.Image, without ...int) {
	m.t.Helper()
	r, st := m.open(nil, without...)
	defer m.close(r, st)
	for id, want := range points {
		m.same(r, id, want)
	}
}

// pairs are the twos out of six: all of them in the longer tiers, and else each kind and one mixture.
func pairs() (list [][]int) {
	if !long() {
		return [][]int{{0, 1}, {2, 3}, {4, 5}, {1, 4}}
	}
	for b := range 6 {
		for a := range b {
			list = append(list, []int{a, b})
		}
	}
	return list
}

// A set of three kinds of store is written to, loses any two, gets two back that are of another kind than what was lost, and
// goes on under another arbiter when the first one is gone.
func TestMixedKinds(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	m := newMixed(t)
	st, err := stripe.Init(ctx, m.members(), stripe.InitOptions{Data: 4, Parity: 2, Labels: labels(6)}, nil)
	require.NoError(t, err)
	can, err := st.Probe(ctx)
	require.NoError(t, err)
	require.True(t, can.Shared(), "%+v", can)
	r, err := repo.Init(ctx, st, testKey, &repo.InitOptions{BlockSize: 64 << 10}, m.options())
	require.NoError(t, err)
	points := map[string]pipe.Image{}
	for seed := range uint64(2) {
		img := pattern(seed)
		points[m.backup(r, img)] = img
	}
	m.close(r, st)
	for _, lost := range pairs() {
		m.holds(points, lost...)
	}

	// A folder of the share and a bucket are lost for good. A bucket and a folder take their seats.
	m.replace(3, m.bucket(), 3, 5)
	m.replace(5, m.dir("new"), 5)
	for _, lost := range [][]int{{1, 2}, {0, 4}} {
		m.holds(points, lost...)
	}

	// The arbiter goes, and a bucket becomes the arbiter.
	st = m.set(nil, 0)
	require.ErrorIs(t, st.Create(ctx, "data/x", nil), stripe.ErrNoArbiter)
	require.NoError(t, st.Promote(ctx, "e", nil))
	require.NoError(t, st.Close())
	r, st = m.open(&stripe.Options{Degraded: true}, 0)
	img := pattern(9)
	points[m.backup(r, img)] = img
	m.close(r, st)
	m.replace(0, m.smb("instead"), 0)
	for _, lost := range [][]int{nil, {1, 4}, {2, 3}} {
		m.holds(points, lost...)
	}
	st = m.set(nil)
	report, err := st.Scrub(ctx, nil)
	require.NoError(t, err)
	assert.Empty(t, report.Damaged)
	assert.Empty(t, report.Lost)
	require.NoError(t, st.Close())
}

// replace has a lost member's seat taken by another store.
func (m *mixed) replace(seat int, by func() (store.Store, error), lost ...int) {
	m.t.Helper()
	st := m.set(nil, lost...)
	fresh, err := by()
	require.NoError(m.t, err)
	done, err := st.Rebuild(m.t.Context(), labels(6)[seat], &stripe.RebuildOptions{Store: fresh, Alone: true})
	require.NoError(m.t, err)
	assert.Empty(m.t, done.Lost)
	assert.Positive(m.t, done.Shards)
	require.NoError(m.t, st.Close())
	m.seats[seat] = by
}

// A file server dies under an open repository: what it had is read from the others. When the bucket's server dies too, four of six
// are gone, and that is said.
func TestServersDie(t *testing.T) {
	if !long() {
		t.Skip("long tier: it waits for servers that are gone")
	}
	t.Parallel()
	ctx := t.Context()
	m := newMixed(t)
	st, err := stripe.Init(ctx, m.members(), stripe.InitOptions{Data: 4, Parity: 2, Labels: labels(6)}, nil)
	require.NoError(t, err)
	r, err := repo.Init(ctx, st, testKey, &repo.InitOptions{BlockSize: 64 << 10}, m.options())
	require.NoError(t, err)
	img := pattern(1)
	point := m.backup(r, img)
	found, err := storetest.Collect(st.List(ctx, "data/"))
	require.NoError(t, err)
	packs := slices.Sorted(maps.Keys(found))[:1]
	m.close(r, st)

	r, st = m.open(nil)
	defer st.Close()
	defer r.Close()
	m.samba.Kill()
	m.same(r, point, img)
	m.s3.Stop()
	for _, name := range packs {
		begin := time.Now()
		_, err = st.ReadAt(ctx, name, make([]byte, 1<<20), 0)
		require.ErrorIs(t, err, stripe.ErrTooFew)
		assert.Less(t, time.Since(begin), 5*time.Second)
	}
	disk, err := r.Open(ctx, point, "disk0")
	if err == nil {
		_, err = disk.ReadAt(ctx, make([]byte, 1<<20), 0)
		require.NoError(t, disk.Close())
	}
	require.ErrorIs(t, err, stripe.ErrTooFew)
}
