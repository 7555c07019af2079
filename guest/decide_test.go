package guest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// expected is one row of testdata/charts.txt.
type expected struct {
	line            int
	want            string // "A1 I- …"
	published, ours Action
}

func (e expected) matches(p Probed) bool {
	for cell := range strings.FieldsSeq(e.want) {
		have := map[byte]bool{'A': p.AdminShare, 'I': p.Installer, 'P': p.Component, 'H': p.Hypervisor, 'C': p.Certificates,
			'N': p.Network}[cell[0]]
		if cell[1] != '-' && have != (cell[1] == '1') {
			return false
		}
	}
	return true
}

// readCharts reads the table that was written by hand.
func readCharts(t *testing.T) map[string][]expected {
	data, err := os.ReadFile(filepath.Join("testdata", "charts.txt"))
	require.NoError(t, err)
	cell := regexp.MustCompile(`^((?:[AIPHCN][01-] ){5}[AIPHCN][01-])   (\S.*?)  +(\S.*)$`)
	out, chart := map[string][]expected{}, ""
	for i, line := range strings.Split(string(data), "\n") {
		if name, ok := strings.CutPrefix(line, "chart "); ok {
			chart = name
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		m := cell.FindStringSubmatch(line)
		require.NotNil(t, m, "line %d", i+1)
		out[chart] = append(out[chart], expected{line: i + 1, want: m[1], published: Action(m[2]), ours: Action(m[3])})
	}
	return out
}

// worlds are all that can be found out about a guest.
func worlds() (list []Probed) {
	for i := range 64 {
		list = append(list, Probed{AdminShare: i&1 != 0, Installer: i&2 != 0, Component: i&4 != 0, Hypervisor: i&8 != 0,
			Certificates: i&16 != 0, Network: i&32 != 0})
	}
	return list
}

// choices by the name that the table has for them.
var choices = map[string]Choice{
	"windows-runtime":             {Windows: true},
	"windows-persistent":          {Windows: true, Persistent: true},
	"linux-runtime":               {},
	"linux-persistent on vSphere": {Persistent: true, VSphere: true},
	"linux-persistent elsewhere":  {Persistent: true},
}

// R119, R123, R138, R185: each value of the option has its own procedure; every combination is held against a table
// that was written from the procedures' text.
func TestDecideEveryCombination(t *testing.T) {
	table := readCharts(t)
	require.Len(t, table, len(choices))
	for name, choice := range choices {
		for _, p := range worlds() {
			var rows []expected
			for _, row := range table[name] {
				if row.matches(p) {
					rows = append(rows, row)
				}
			}
			require.Len(t, rows, 1, "%s %+v: exactly one row of the table", name, p)

			strict := choice
			strict.Strict = true
			published, ours := Decide(strict, p), Decide(choice, p)
			require.Equal(t, rows[0].published, published.Action, "%s line %d %+v: %v", name, rows[0].line, p, published)
			require.Equal(t, rows[0].ours, ours.Action, "%s line %d %+v: %v", name, rows[0].line, p, ours)
			require.Equal(t, published.Action != ours.Action, ours.FellThrough, "%s %+v: %v", name, p, ours)
			require.False(t, published.FellThrough)
			require.NotEmpty(t, ours.Path)
		}
	}
}

func count(c Choice) map[Action]int {
	n := map[Action]int{}
	for _, p := range worlds() {
		n[Decide(c, p).Action]++
	}
	return n
}

// R138: the published figures: 64 worlds, and 8 of the 20 failures come although ADMIN$ is open.
func TestDecideCounts(t *testing.T) {
	require.Equal(t, map[Action]int{RuntimeByShare: 16, UsePersistent: 16, RuntimeByHypervisor: 12, Fail: 20},
		count(Choice{Windows: true, Strict: true}))
	require.Equal(t, map[Action]int{UsePersistent: 12, InstallPersistent: 12, Fail: 40},
		count(Choice{Windows: true, Persistent: true, Strict: true}))

	needless := 0
	for _, p := range worlds() {
		strict := Decide(Choice{Windows: true, Strict: true}, p)
		if strict.Action == Fail && (p.AdminShare || p.Hypervisor) {
			needless++
			require.Equal(t, RuntimeByShare, Decide(Choice{Windows: true}, p).Action)
		}
	}
	require.Equal(t, 8, needless)

	for _, p := range worlds() {
		if Decide(Choice{Windows: true}, p).Action == Fail {
			require.False(t, p.AdminShare || p.Hypervisor || p.Network, "ours fails although a channel is open: %+v", p)
		}
	}
}

// R124, R125, R126: with the option off a persistent component may be used; once it is uninstalled it never is.
func TestDecidePersistentWithOptionOff(t *testing.T) {
	used := false
	for _, p := range worlds() {
		d := Decide(Choice{Windows: true}, p)
		used = used || d.Action == UsePersistent
		p.Component = false
		require.NotContains(t, []Action{UsePersistent, InstallPersistent}, Decide(Choice{Windows: true}, p).Action)
	}
	require.True(t, used)
}

// R128, R129: with the option on nothing depends on ADMIN$ or on SSH and WinRM, so that they can be closed. R130, R137:
// nothing works without the installer service or the hypervisor, and a component that is missing is installed.
func TestDecidePersistentNeedsOnePort(t *testing.T) {
	for _, p := range worlds() {
		with := Decide(Choice{Windows: true, Persistent: true}, p)
		closed := p
		closed.AdminShare, closed.Network = !p.AdminShare, !p.Network
		require.Equal(t, with, Decide(Choice{Windows: true, Persistent: true}, closed))
		if !p.Installer && !p.Hypervisor {
			require.Equal(t, Fail, with.Action)
		}
		if p.Installer && p.Certificates && !p.Component {
			require.Equal(t, InstallPersistent, with.Action)
		}
	}
}

func TestDecisionSaysWhy(t *testing.T) {
	d := Decide(Choice{Windows: true}, Probed{AdminShare: true, Component: true})
	require.Equal(t, "runtime by ADMIN$ (ADMIN$ reached? yes; Persistent component installed? yes; "+
		"Installer service reached? no), where the published chart fails", d.String())
}

// The charts have no cycle, nothing that cannot be reached, and arrows to what is there.
func TestChartsAreSound(t *testing.T) {
	known := []Action{RuntimeByShare, RuntimeByHypervisor, RuntimeByNetwork, UsePersistent, InstallPersistent, Fail}
	for _, c := range Charts() {
		at := map[string]int{}
		for i, n := range c.nodes {
			require.NotContains(t, at, n.id)
			at[n.id] = i
		}
		reached := map[string]bool{c.nodes[0].id: true}
		for i, n := range c.nodes {
			for _, to := range []string{n.yes, n.no, n.ours} {
				if j, isNode := at[to]; isNode {
					require.Greater(t, j, i, "%s: %s leads back to %s", c.Name, n.id, to)
					reached[to] = true
				} else if to != "" {
					require.Contains(t, known, Action(to))
				}
			}
		}
		require.Len(t, reached, len(c.nodes), c.Name)
	}
}

// The diagrams of the documents come from the table that Decide walks.
func TestChartsAreDrawn(t *testing.T) {
	var b strings.Builder
	for _, c := range Charts() {
		b.WriteString("%% " + c.Name + ": " + c.Title + "\n" + c.Mermaid() + "\n")
	}
	path := filepath.Join("testdata", "charts.mermaid")
	if os.Getenv("HIKAE_UPDATE") != "" {
		require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	}
	drawn, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(drawn), b.String(), "HIKAE_UPDATE=1 go test ./guest -run Drawn draws them anew")

	// What docs/guest.md shows is the same text, once it is there.
	doc, err := os.ReadFile(filepath.Join("..", "docs", "guest.md"))
	if os.IsNotExist(err) {
		return
	}
	require.NoError(t, err)
	for _, c := range Charts() {
		require.Contains(t, string(doc), "```mermaid\n"+c.Mermaid()+"```", "docs/guest.md: chart %s", c.Name)
	}
}
