package proxy_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/proxy"
)

// company is a backup server, two proxies in the guest's network, one in another, and one that is not fit.
func company(change ...func(*proxy.GuestChoice)) *proxy.GuestChoice {
	worker := func(name string, tasks int, addresses ...string) proxy.Worker {
		w := proxy.Worker{Machine: proxy.Machine{Name: name}, OS: "windows", Server: true, Managed: true, PowerShell: "5.1", Tasks: tasks}
		for _, a := range addresses {
			w.Addresses = append(w.Addresses, netip.MustParseAddr(a))
		}
		return w
	}
	c := &proxy.GuestChoice{VM: proxy.VM{Name: "mail1", OS: "windows", Networks: []netip.Prefix{guestNet}}}
	server := worker("server", 0, "10.9.9.1")
	server.BackupServer = true
	unmanaged := worker("unmanaged", 0, "10.1.2.9")
	unmanaged.Managed = false
	linux := worker("linux", 1, "10.1.2.8")
	linux.OS, linux.Server = "linux", false
	c.Workers = []proxy.Worker{server, worker("near", 2, "10.1.2.7"), linux, worker("far", 0, "10.8.8.8"), unmanaged}
	for _, f := range change {
		f(c)
	}
	return c
}

func rules(r proxy.GuestRules) func(*proxy.GuestChoice) {
	return func(c *proxy.GuestChoice) { c.Rules = r }
}

func only(names ...string) func(*proxy.GuestChoice) {
	return func(c *proxy.GuestChoice) {
		c.Workers = slices.DeleteFunc(c.Workers, func(w proxy.Worker) bool { return !slices.Contains(names, w.Name) })
	}
}

func guestOS(os string) func(*proxy.GuestChoice) {
	return func(c *proxy.GuestChoice) { c.VM.OS = os }
}

// R140, R148, R149, R151, R161, R162, R169, R170 and decision 9: who is asked, and who after that.
func TestGuestOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		choice   *proxy.GuestChoice
		want     []string
		failOver bool
	}{
		"R163 R167 R169": {company(), []string{"linux", "server"}, false},
		"R155, strict":   {company(rules(proxy.GuestRules{WindowsOnly: true})), []string{"near", "server"}, false},
		"all before the backup server, which has a priority of its own": {
			company(rules(proxy.GuestRules{TryAll: true})), []string{"linux", "near", "far", "server"}, false},
		"R140 R151":                                {company(guestOS("linux")), []string{"server"}, false},
		"R140 R151, by hand all the same":          {company(guestOS("freebsd"), rules(proxy.GuestRules{Manual: []string{"near"}})), []string{"server"}, false},
		"guests of any system, where a job allows": {company(guestOS("linux"), rules(proxy.GuestRules{AnyGuest: true})), []string{"linux", "server"}, false},
		"R165 R166":                                {company(only("far", "server")), []string{"far", "server"}, false},
		"R148 R166, the only one that is fit":      {company(only("server", "unmanaged")), []string{"server"}, false},
		"R170, nobody is fit":                      {company(rules(proxy.GuestRules{WindowsOnly: true, ManagedAccount: true, Domain: "corp"})), []string{"server"}, true},
		"R162 decision 9, in the order of the list": {
			company(rules(proxy.GuestRules{Manual: []string{"far", "near"}})), []string{"far", "near", "server"}, false},
		"decision 9, those that are not fit are left out": {
			company(rules(proxy.GuestRules{Manual: []string{"unmanaged", "nobody", "near"}})), []string{"near", "server"}, false},
		"decision 9, the backup server where the list has it": {
			company(rules(proxy.GuestRules{Manual: []string{"server", "near"}})), []string{"server", "near"}, false},
		"decision 9 R170, nobody of the list is fit": {company(rules(proxy.GuestRules{Manual: []string{"unmanaged"}})), []string{"server"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := proxy.Guest(c.choice)
			require.NoError(t, err)
			require.Equal(t, c.want, d.Try, "%s", d)
			require.Equal(t, c.failOver, d.FailOver)
			require.NotEmpty(t, d.Reasons)
		})
	}
}

// R152 … R154: each site's guests are served by the proxy that stands there, not by one across the WAN.
func TestGuestSites(t *testing.T) {
	t.Parallel()
	c := company()
	for i, site := range map[int]string{1: "osaka", 2: "kobe", 3: "nara"} {
		c.Workers[i].Site, c.Workers[i].Addresses = site, []netip.Addr{faraway}
	}
	for site, want := range map[string]string{"osaka": "near", "kobe": "linux", "nara": "far", "": "server"} {
		c.VM.Site = site
		d, err := proxy.Guest(c)
		require.NoError(t, err)
		require.Equal(t, want, d.Chosen(), "%s", d)
		require.Equal(t, "server", d.Try[len(d.Try)-1])
	}
	c.VM.Site = "kyoto" // nobody is there
	d, err := proxy.Guest(c)
	require.NoError(t, err)
	require.True(t, d.FailOver)
}

// R163: an address in one of the VM's networks, of either family; what every machine has on every link proves nothing.
func TestSameNetwork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		networks, addresses string
		same                bool
	}{
		{"10.1.2.3/24", "10.1.2.200", true},
		{"10.1.2.3/24", "10.1.3.200", false},
		{"10.1.2.3/23", "10.1.3.200", true},
		{"10.1.2.3/24", "::ffff:10.1.2.9", true},
		{"::ffff:10.1.2.3/120", "10.1.2.9", true},
		{"::ffff:10.1.2.3/120", "10.1.3.9", false},
		{"2001:db8:1:2::5/64", "2001:db8:1:2:ffff::1", true},
		{"2001:db8:1:2::5/64", "2001:db8:1:3::1", false},
		{"fe80::5/64", "fe80::6", false},
		{"fe80::5/64", "fe80::6%eth0", false},
		{"169.254.1.1/16", "169.254.7.7", false},
		{"127.0.0.1/8", "127.0.0.1", false},
		{"::1/128", "::1", false},
		{"0.0.0.0/0", "10.1.2.3", false},
		{"10.0.0.0/0", "10.1.2.3", false},
		{"fd00:1::5/48", "fd00:1:0:7::9", true},
		{"192.0.2.7/32", "192.0.2.8", false},
	} {
		w := proxy.Worker{Machine: proxy.Machine{Name: "m", BackupServer: true}, OS: "windows", Server: true, Managed: true, Addresses: []netip.Addr{netip.MustParseAddr(c.addresses)}}
		vm := proxy.VM{OS: "windows", Networks: []netip.Prefix{netip.MustParsePrefix(c.networks)}}
		d, err := proxy.Guest(&proxy.GuestChoice{VM: vm, Workers: []proxy.Worker{w}})
		require.NoError(t, err)
		require.Equal(t, c.same, d.Candidates[0].Rank == 2, "%v", c)
	}
	vm := proxy.VM{OS: "windows", Networks: []netip.Prefix{{}}}
	_, err := proxy.Guest(&proxy.GuestChoice{VM: vm, Workers: []proxy.Worker{{Machine: proxy.Machine{Name: "m", BackupServer: true}, Addresses: []netip.Addr{{}}, Reaches: []netip.Prefix{{}}}}})
	require.NoError(t, err)
}

// A choice that makes no sense says which setting does not.
func TestGuestSettings(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*proxy.GuestChoice){
		"no backup server":   only("near", "far"),
		"no machines":        only(),
		"two backup servers": func(c *proxy.GuestChoice) { c.Workers[1].BackupServer = true },
		"one stands twice":   func(c *proxy.GuestChoice) { c.Workers[1].Name = "far" },
		"no name":            func(c *proxy.GuestChoice) { c.Workers[1].Name = "" },
	} {
		t.Run(name, func(t *testing.T) {
			d, err := proxy.Guest(company(change))
			require.Nil(t, d)
			require.ErrorIs(t, err, proxy.ErrUnknownMachine)
			var wrong *proxy.SettingError
			require.ErrorAs(t, err, &wrong)
			require.NotEmpty(t, wrong.Hint)
		})
	}
}

// A choice can be explained: every candidate, its rank, and why it lost, as text and as JSON.
func TestGuestExplanation(t *testing.T) {
	t.Parallel()
	d, err := proxy.Guest(company(func(c *proxy.GuestChoice) {
		c.Workers[1].Tasks, c.Workers[1].Limit, c.Workers[2].Limit = 3, 3, 1
		third := c.Workers[1]
		third.Name = "third"
		c.Workers = append(c.Workers, third)
	}))
	require.NoError(t, err)
	want, err := os.ReadFile("testdata/guest-explanation.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), d.String())

	data, err := json.Marshal(d)
	require.NoError(t, err)
	var back struct {
		Try        []string
		Waits      bool
		Candidates []struct {
			Name, RankText, Lost string
			Rank, Tasks          int
			Chosen               bool
			Problems             []string
		}
	}
	require.NoError(t, json.Unmarshal(data, &back))
	require.Equal(t, d.Try, back.Try)
	require.True(t, back.Waits)
	require.Len(t, back.Candidates, 6)
	for i, x := range back.Candidates {
		require.True(t, x.Chosen != (x.Lost != ""), "%v", x)
		require.Equal(t, i == 5, len(x.Problems) > 0, "%v", x)
		require.Equal(t, x.Rank > 0, x.RankText != "")
	}
}

// Whatever the choice: the decision is the same for every order of the machines, its candidates are all there, nobody is
// asked who does not meet the requirements but the backup server, and nobody twice.
func TestGuestProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := drawChoice(t)
		d, err := proxy.Guest(c)
		require.NoError(t, err)
		again, err := proxy.Guest(c)
		require.NoError(t, err)
		require.Equal(t, d, again)
		other := *c
		other.Workers = rapid.Permutation(c.Workers).Draw(t, "order")
		again, err = proxy.Guest(&other)
		require.NoError(t, err)
		require.Equal(t, d, again)

		fit := map[string]bool{}
		for _, x := range d.Candidates {
			fit[x.Name] = x.Fit()
		}
		seen := map[string]bool{}
		for _, name := range d.Try {
			assert.True(t, fit[name] || name == "server", "%s is asked and not fit\n%s", name, d)
			assert.False(t, seen[name], "%s is asked twice\n%s", name, d)
			seen[name] = true
		}
		assert.True(t, seen["server"], "%s", d)
		assert.Equal(t, d.FailOver, !fit[d.Chosen()], "%s", d)
		assert.NotEmpty(t, d.String())
		for _, w := range c.Workers {
			assert.Contains(t, fit, w.Name)
		}
	})
}

func drawChoice(t *rapid.T) *proxy.GuestChoice {
	pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
	yes := func(label string) bool { return rapid.Bool().Draw(t, label) }
	c := &proxy.GuestChoice{VM: proxy.VM{Name: "vm", OS: pick("guest", "windows", "linux"), Site: pick("site", "", "osaka"), Host: "h1",
		HostVersion: pick("host", "", "10.0.14393"), Version: pick("version", "", "10.0.1"), Direct: proxy.Direct(pick("direct", "", "psdirect", "vsphere")),
		Networks: []netip.Prefix{guestNet}}}
	names := []string{"server", "a", "b", "c", "d", "e"}
	for _, name := range names[:rapid.IntRange(1, len(names)).Draw(t, "machines")] {
		w := proxy.Worker{Machine: proxy.Machine{Name: name, Site: pick("its site", "", "osaka"), BackupServer: name == "server"}, OS: pick("os", "windows", "linux", "aix"),
			Server: yes("server"), Managed: yes("managed"), PowerShell: pick("powershell", "", "2.0"), Domain: pick("domain", "", "corp"),
			Tasks: rapid.IntRange(0, 3).Draw(t, "tasks"), Limit: rapid.IntRange(0, 3).Draw(t, "limit"), Addresses: []netip.Addr{faraway}}
		if yes("near") {
			w.Addresses[0] = nearby
		}
		if yes("known") {
			w.Reaches = []netip.Prefix{farNet}
		}
		c.Workers = append(c.Workers, w)
	}
	c.Rules = proxy.GuestRules{WindowsOnly: yes("only"), AnyGuest: yes("any"), TryAll: yes("all"), ManagedAccount: yes("gmsa"), Domain: "corp", Networkless: yes("noNet")}
	if yes("manual") {
		c.Rules.Manual = rapid.SliceOfN(rapid.SampledFrom(append(names, "ghost")), 1, 4).Draw(t, "list")
	}
	return c
}
