package proxy_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/proxy"
)

// reader is a proxy as the table describes it.
func reader(name, reach, transport, room string, tasks int) proxy.Proxy {
	x := proxy.Proxy{Machine: proxy.Machine{Name: name, Site: here}, Tasks: tasks, Limit: 100, Reaches: []string{"ds1"}}
	switch reach {
	case "far":
		x.Site = there
	case "no":
		x.Reaches = []string{"ds2"}
	}
	if transport != "network" {
		x.Transports = map[string][]proxy.Transport{"ds1": {proxy.Network, proxy.Transport(transport)}}
	}
	if room == "no" {
		x.Tasks, x.Limit = tasks*20, tasks*20
	}
	return x
}

// R171, R172: every pair of proxies, against a table that was written from the rows.
func TestBackupPriority(t *testing.T) {
	t.Parallel()
	table := tableOf(t, "backup-priority.txt", 8)
	used := make([]int, len(table))
	tasks := map[string][2]int{"less": {1, 2}, "same": {3, 3}, "more": {4, 1}}
	reach, transports := []string{"yes", "far", "no"}, []string{"storage", "attach", "network"}
	every([][]string{reach, transports, always, reach, transports, always, {"less", "same", "more"}}, func(f []string) {
		if f[2] == "no" && f[5] == "no" && f[6] != "same" {
			return // both are full: each has as many tasks as its size
		}
		want := verdictOf(t, table, used, f)
		n := tasks[f[6]]
		c := &proxy.BackupChoice{Host: "esx1", Site: here, Datastore: "ds1"}
		c.Proxies = []proxy.Proxy{reader("a", f[0], f[1], f[2], n[0]), reader("b", f[3], f[4], f[5], n[1])}
		for range 2 {
			slices.Reverse(c.Proxies)
			d, err := proxy.Backup(c)
			if want == "nobody" {
				require.ErrorIs(t, err, proxy.ErrNoProxy)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, want, d.Proxy, "%v\n%s", f, d)
			won := f[:3]
			if want == "b" {
				won = f[3:6]
			}
			require.Equal(t, won[1], string(d.Transport))
			require.Equal(t, won[2] == "no", d.Waits)
		}
	})
	for i, n := range used {
		require.NotZero(t, n, "no combination reaches line %v", table[i])
	}
}

// R173: an off-host backup is read by a machine on which the volume's snapshot can be mounted, and by no other.
func TestOffHost(t *testing.T) {
	t.Parallel()
	c := &proxy.BackupChoice{Host: "hv1", Site: here, Datastore: "csv1", Transports: []proxy.Transport{proxy.OffHost}}
	c.Proxies = []proxy.Proxy{{Machine: proxy.Machine{Name: "idle", Site: here}, Reaches: []string{"csv1"}}}
	_, err := proxy.Backup(c)
	require.ErrorIs(t, err, proxy.ErrNoProxy)
	require.ErrorContains(t, err, "idle: it reads csv1 by network, and the job allows offhost")
	c.Proxies = append(c.Proxies, proxy.Proxy{Machine: proxy.Machine{Name: "mounts", Site: here}, Reaches: []string{"csv1"}, Tasks: 7,
		Transports: map[string][]proxy.Transport{"csv1": {proxy.OffHost}}})
	d, err := proxy.Backup(c)
	require.NoError(t, err)
	require.Equal(t, "mounts", d.Proxy)
	require.Equal(t, proxy.OffHost, d.Transport)
	c.Transports = nil // in an on-host backup whoever has the better transport
	d, err = proxy.Backup(c)
	require.NoError(t, err)
	require.Equal(t, "mounts", d.Proxy)
	require.Contains(t, d.String(), "idle in tokyo, 0 tasks: offhost is the better transport")
}

// R171: a session's plan shows for each route who could have read it; and the transports that the job allows hold there.
func TestPlacementShares(t *testing.T) {
	t.Parallel()
	s := session(proxy.Repository{Kind: proxy.LinuxMachine, Site: here, Machine: "store1"})
	s.Proxies[1].Transports = map[string][]proxy.Transport{"ds1": {proxy.Attach}}
	p, err := proxy.Place(s)
	require.NoError(t, err)
	r := p.Routes[0]
	require.Equal(t, "proxy2", r.SourceMover.Name)
	require.Equal(t, proxy.Attach, r.Transport)
	require.Len(t, r.Candidates, 2)
	require.Equal(t, "attach is the better transport", r.Candidates[1].Lost)
	data, err := json.Marshal(p)
	require.NoError(t, err)
	require.Contains(t, string(data), `"transport":"attach"`)
	s.Transports = []proxy.Transport{proxy.Network}
	p, err = proxy.Place(s)
	require.NoError(t, err)
	require.Equal(t, "proxy1", p.Routes[0].SourceMover.Name)
}

// The decision is the same for every order of the proxies, and never one that does not reach the datastore from there.
func TestBackupProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := &proxy.BackupChoice{Host: "h", Site: here, Datastore: "ds1", Gateway: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "gateway")}
		for _, name := range []string{"a", "b", "c", "d"} {
			pick := func(from ...string) string { return rapid.SampledFrom(from).Draw(t, name) }
			x := reader(name, pick("yes", "far", "no"), pick("storage", "network"), "yes", rapid.IntRange(0, 2).Draw(t, "tasks"))
			x.Limit = rapid.IntRange(0, 2).Draw(t, "limit")
			c.Proxies = append(c.Proxies, x)
		}
		d, err := proxy.Backup(c)
		other := *c
		other.Proxies = rapid.Permutation(c.Proxies).Draw(t, "order")
		again, againErr := proxy.Backup(&other)
		require.Equal(t, d, again)
		require.Equal(t, err == nil, againErr == nil)
		if err != nil {
			require.Equal(t, err.Error(), againErr.Error())
			require.ErrorIs(t, err, proxy.ErrNoProxy)
			return
		}
		for _, x := range c.Proxies {
			if x.Name == d.Proxy {
				require.Equal(t, here, x.Site)
				require.Contains(t, x.Reaches, "ds1")
			}
		}
	})
}
