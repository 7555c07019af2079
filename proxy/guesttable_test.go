package proxy_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/proxy"
)

// tableOf reads a table of testdata: words in columns, the part behind # is for people.
func tableOf(t testing.TB, name string, columns int) [][]string {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	require.NoError(t, err)
	var out [][]string
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		if f := strings.Fields(line); len(f) > 0 {
			require.Len(t, f, columns, line)
			out = append(out, f)
		}
	}
	require.NotEmpty(t, out)
	return out
}

// verdictOf is the last column of the first row that matches.
func verdictOf(t testing.TB, table [][]string, used []int, facts []string) string {
	t.Helper()
	for i, row := range table {
		if matches(row[:len(row)-1], facts) {
			used[i]++
			return row[len(row)-1]
		}
	}
	require.Fail(t, "the table says nothing", "%v", facts)
	return ""
}

func matches(row, facts []string) bool {
	for i, want := range row {
		if want != "*" && want != facts[i] {
			return false
		}
	}
	return true
}

// every calls f with each combination of one value of each column.
func every(columns [][]string, f func([]string)) {
	pick := make([]string, len(columns))
	var step func(int)
	step = func(i int) {
		if i == len(columns) {
			f(pick)
			return
		}
		for _, v := range columns[i] {
			pick[i] = v
			step(i + 1)
		}
	}
	step(0)
}

var (
	guestNet = netip.MustParsePrefix("10.1.2.3/24")
	farNet   = netip.MustParsePrefix("10.9.9.0/24")
	nearby   = netip.MustParseAddr("10.1.2.77")
	faraway  = netip.MustParseAddr("10.9.9.77")
	always   = []string{"yes", "no"}
)

// standing is a choice of one machine for one guest, as a row of the table of requirements describes it.
func standing(f []string) *proxy.GuestChoice {
	yes := func(i int) bool { return f[i] == "yes" }
	vm := proxy.VM{Name: "vm", OS: f[0], Site: here, Networks: []netip.Prefix{guestNet}, Host: "host1", HostVersion: "6.3.9600", Version: "6.3.9600"}
	if f[8] != "none" {
		vm.Direct = proxy.Direct(f[8])
	}
	if yes(11) {
		vm.HostVersion = "10.0.14393"
	}
	if yes(12) {
		vm.Version = "10.0.10240"
	}
	w := proxy.Worker{Managed: yes(5), Addresses: []netip.Addr{faraway}, Hosts: []string{"host1"}, Reaches: []netip.Prefix{farNet}, Domain: "CORP"}
	w.Machine = proxy.Machine{Name: "m", Site: here, BackupServer: yes(2)}
	switch f[3] {
	case "server":
		w.OS, w.Server = "windows", true
	case "client":
		w.OS = "windows"
	default:
		w.OS = f[3]
	}
	if !yes(6) {
		w.Site = there
	}
	switch f[7] {
	case "yes":
		w.Reaches = []netip.Prefix{guestNet.Masked()}
	case "?":
		w.Reaches = nil
	}
	if !yes(9) {
		w.Hosts = []string{"host2"}
	}
	if f[10] != "none" {
		w.PowerShell = f[10]
	}
	r := proxy.GuestRules{AnyGuest: yes(1), WindowsOnly: yes(4), Networkless: yes(14)}
	switch f[13] {
	case "in":
		r.ManagedAccount, r.Domain = true, "corp"
	case "other":
		r.ManagedAccount, r.Domain = true, "lab"
	}
	c := &proxy.GuestChoice{VM: vm, Workers: []proxy.Worker{w}, Rules: r}
	if !w.BackupServer {
		c.Workers = append(c.Workers, unfitServer())
	}
	return c
}

// unfitServer is a backup server that meets no requirement: it is there to take over.
func unfitServer() proxy.Worker {
	return proxy.Worker{Machine: proxy.Machine{Name: "server", Site: there, BackupServer: true}, OS: "bsd"}
}

// R139, R140, R141, R150, R151, R155 … R159: every combination of what the requirements ask about, against a table that
// was written from them. A machine that does not meet them is never asked; the backup server takes over (R169, R170).
func TestGuestRequirements(t *testing.T) {
	t.Parallel()
	table := tableOf(t, "guest-requirements.txt", 16)
	used := make([]int, len(table))
	checked := 0
	every([][]string{
		{"windows", "linux"}, always, always, {"server", "client", "linux", "other"}, always, always, always, {"yes", "no", "?"},
		{"none", "vsphere", "psdirect"}, always, {"none", "1.0", "2.0", "5.1"}, always, always, {"no", "in", "other"}, always,
	}, func(f []string) {
		if skip(f) {
			return
		}
		checked++
		fit := verdictOf(t, table, used, f) == "fit"
		c := standing(f)
		d, err := proxy.Guest(c)
		if err != nil {
			require.NoError(t, err, "%v", f)
		}
		m := d.Candidates[0]
		if m.Name != "m" {
			m = d.Candidates[1]
		}
		if fit != m.Fit() || fit != (d.Chosen() == "m" && !d.FailOver) && !c.Workers[0].BackupServer {
			require.Equal(t, fit, m.Fit(), "%v\n%s", f, d)
			require.Equal(t, fit, d.Chosen() == "m", "%v\n%s", f, d)
		}
		if last := d.Try[len(d.Try)-1]; last != "server" && last != "m" || !fit && c.Workers[0].BackupServer && !d.FailOver {
			require.Fail(t, "nobody takes over", "%v\n%s", f, d)
		}
	})
	require.Greater(t, checked, 50_000)
	for i, n := range used {
		require.NotZero(t, n, "no combination reaches line %v", table[i])
	}
}

// skip leaves out what is twice the same: versions that only PowerShell Direct asks about.
func skip(f []string) bool {
	return f[8] != "psdirect" && (f[10] != "none" || f[11] != "yes" || f[12] != "yes") || f[8] == "none" && f[9] != "yes"
}

// duel is two fit machines for one guest.
func duel(aNet, aServer, bNet, bServer string, aTasks, bTasks int) *proxy.GuestChoice {
	worker := func(name, network, server string, tasks int) proxy.Worker {
		w := proxy.Worker{Machine: proxy.Machine{Name: name, BackupServer: server == "yes"}, OS: "windows", Server: true, Managed: true, Tasks: tasks}
		w.Addresses = []netip.Addr{faraway}
		if network == "same" {
			w.Addresses = append(w.Addresses, nearby)
		}
		return w
	}
	c := &proxy.GuestChoice{VM: proxy.VM{Name: "vm", OS: "windows", Networks: []netip.Prefix{guestNet}}}
	c.Workers = []proxy.Worker{worker("a", aNet, aServer, aTasks), worker("b", bNet, bServer, bTasks)}
	if aServer == "no" && bServer == "no" {
		c.Workers = append(c.Workers, unfitServer())
	}
	return c
}

// R162 … R168, R184: every pair of machines, against a table that was written from the rows.
func TestGuestPriority(t *testing.T) {
	t.Parallel()
	table := tableOf(t, "guest-priority.txt", 6)
	used := make([]int, len(table))
	loads := map[string][][2]int{"less": {{0, 1}, {3, 9}}, "same": {{0, 0}, {4, 4}}, "more": {{1, 0}, {9, 3}}}
	nets := []string{"same", "other"}
	every([][]string{nets, always, nets, always, {"less", "same", "more"}}, func(f []string) {
		if f[1] == "yes" && f[3] == "yes" {
			return
		}
		want := verdictOf(t, table, used, f)
		for _, tasks := range loads[f[4]] {
			c := duel(f[0], f[1], f[2], f[3], tasks[0], tasks[1])
			for range len(c.Workers) { // in whatever order they stand
				c.Workers = append(c.Workers[1:], c.Workers[0])
				d, err := proxy.Guest(c)
				require.NoError(t, err)
				require.Equal(t, want, d.Chosen(), "%v\n%s", f, d)
			}
		}
	})
	for i, n := range used {
		require.NotZero(t, n, "no combination reaches line %v", table[i])
	}
}
