package proxy_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/proxy"
)

const (
	here  = "tokyo"
	there = "osaka"
)

// session is a host in Tokyo with one datastore, two proxies there, and whatever a case changes.
func session(repo proxy.Repository, change ...func(*proxy.Session)) *proxy.Session {
	repo.Name = "vault"
	s := &proxy.Session{
		Sources: []proxy.Source{{Host: "esx1", Site: here, Datastores: []string{"ds1"}}},
		Proxies: []proxy.Proxy{
			{Machine: proxy.Machine{Name: "proxy1", Site: here}, Reaches: []string{"ds1"}},
			{Machine: proxy.Machine{Name: "proxy2", Site: here}, Reaches: []string{"ds1", "ds2"}},
		},
		Machines: []proxy.Machine{
			{Name: "server", Site: here, BackupServer: true}, {Name: "store1", Site: here}, {Name: "gate1", Site: here},
			{Name: "store9", Site: there}, {Name: "gate9", Site: there},
		},
		Repository: repo,
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func tasks(name string, running, limit int) func(*proxy.Session) {
	return func(s *proxy.Session) {
		for i := range s.Proxies {
			if s.Proxies[i].Name == name {
				s.Proxies[i].Tasks, s.Proxies[i].Limit = running, limit
			}
		}
	}
}

func farProxy(s *proxy.Session) {
	s.Proxies = append(s.Proxies, proxy.Proxy{Machine: proxy.Machine{Name: "proxy9", Site: there}, Reaches: []string{"ds1"}})
}

func noProxy(s *proxy.Session) { s.Proxies = nil }

// TestPlace holds the rows about placement, one case for each combination that they name.
func TestPlace(t *testing.T) {
	repo := func(kind proxy.Kind, site, machine, gateway string) proxy.Repository {
		return proxy.Repository{Kind: kind, Site: site, Machine: machine, Gateway: gateway}
	}
	cases := []struct {
		rows    string
		session *proxy.Session
		want    string // the route as it prints
		err     error
		says    string // in the error's hint, a reason or a warning
	}{
		{"R024 R025 R176", session(repo(proxy.WindowsMachine, here, "store1", "")),
			"ds1 on esx1: proxy1 in tokyo --LAN--> store1 in tokyo", nil, "runs the target-side mover itself"},
		{"R024 R025 R176", session(repo(proxy.LinuxMachine, here, "store1", "")),
			"ds1 on esx1: proxy1 in tokyo --LAN--> store1 in tokyo", nil, ""},
		{"R024, the proxy has the disk", session(repo(proxy.LinuxMachine, here, "proxy2", "")),
			"ds1 on esx1: proxy2 in tokyo (both movers)", nil, "runs the target-side mover itself"},
		{"R030 R031 R028 R172 R176", session(repo(proxy.WindowsMachine, there, "store9", "")),
			"ds1 on esx1: proxy1 in tokyo --WAN--> store9 in osaka", nil, "one mover is in site tokyo near the source"},
		{"R030 R031 R028 R172 R176", session(repo(proxy.LinuxMachine, there, "store9", ""), farProxy),
			"ds1 on esx1: proxy1 in tokyo --WAN--> store9 in osaka", nil, ""},
		{"R176, no machine", session(repo(proxy.LinuxMachine, here, "", "")), "", proxy.ErrNoTarget, "name the machine that has"},
		{"R176, unknown machine", session(repo(proxy.LinuxMachine, here, "store2", "")), "", proxy.ErrUnknownMachine, "add it"},
		{"R176, machine of another site", session(repo(proxy.LinuxMachine, here, "store9", "")), "", proxy.ErrUnknownMachine, "one site"},
		{"R176, a gateway that nobody needs", session(repo(proxy.LinuxMachine, here, "store1", "gate1")),
			"ds1 on esx1: proxy1 in tokyo --LAN--> store1 in tokyo", nil, "gate1 is not used"},

		{"R177 R178, the backup server", session(repo(proxy.SharedFolder, here, "", "server")),
			"ds1 on esx1: proxy1 in tokyo --LAN--> server in tokyo --LAN--> repository", nil, "is the gateway"},
		{"R177 R178, another machine", session(repo(proxy.SharedFolder, here, "", "gate1")),
			"ds1 on esx1: proxy1 in tokyo --LAN--> gate1 in tokyo --LAN--> repository", nil, ""},
		{"R026 R027 R179", session(repo(proxy.SharedFolder, here, "", "proxy2")),
			"ds1 on esx1: proxy2 in tokyo (both movers) --LAN--> repository", nil, "proxy and gateway at once"},
		{"R026 R003, the gateway is busier", session(repo(proxy.SharedFolder, here, "", "proxy2"), tasks("proxy2", 1, 0)),
			"ds1 on esx1: proxy1 in tokyo --LAN--> proxy2 in tokyo --LAN--> repository", nil, "least busy"},
		{"R177 R181, no gateway", session(repo(proxy.SharedFolder, here, "", "")), "", proxy.ErrNoGateway, "name the machine in site tokyo"},
		{"R181, no gateway off-site", session(repo(proxy.SharedFolder, there, "", "")), "", proxy.ErrNoGateway, "name the machine in site osaka"},
		{"R178, unknown gateway", session(repo(proxy.SharedFolder, here, "", "gate2")), "", proxy.ErrUnknownMachine, "add it"},
		{"R028 R032 R033 R180 R181", session(repo(proxy.SharedFolder, there, "", "gate9")),
			"ds1 on esx1: proxy1 in tokyo --WAN--> gate9 in osaka --LAN--> repository", nil, "the WAN is between them"},
		{"R180, gateway at the source", session(repo(proxy.SharedFolder, there, "", "gate1")), "", proxy.ErrAcrossWAN, "name a gateway in site osaka"},
		{"R180, the proxy as gateway", session(repo(proxy.SharedFolder, there, "", "proxy1")), "", proxy.ErrAcrossWAN, "name a gateway in site osaka"},
		{"R180, gateway far from an on-site share", session(repo(proxy.SharedFolder, here, "", "gate9")), "", proxy.ErrAcrossWAN, "name a gateway in site tokyo"},

		{"R177, mounted where it is said", session(repo(proxy.MountedFolder, here, "store1", "")),
			"ds1 on esx1: proxy1 in tokyo --LAN--> store1 in tokyo --LAN--> repository", nil, ""},
		{"R177, the gateway goes first", session(repo(proxy.MountedFolder, here, "store1", "gate1")),
			"ds1 on esx1: proxy1 in tokyo --LAN--> gate1 in tokyo --LAN--> repository", nil, ""},
		{"R026 R027, mounted on the proxy", session(repo(proxy.MountedFolder, here, "proxy1", "")),
			"ds1 on esx1: proxy1 in tokyo (both movers) --LAN--> repository", nil, ""},
		{"R032 R033, mounted", session(repo(proxy.MountedFolder, there, "", "gate9")),
			"ds1 on esx1: proxy1 in tokyo --WAN--> gate9 in osaka --LAN--> repository", nil, ""},
		{"R180, mounted across the WAN", session(repo(proxy.MountedFolder, there, "proxy1", "")), "", proxy.ErrAcrossWAN, ""},
		{"R177, mounted nowhere", session(repo(proxy.MountedFolder, here, "", "")), "", proxy.ErrNoGateway, ""},

		{"object store", session(repo(proxy.ObjectStore, here, "", "")),
			"ds1 on esx1: proxy1 in tokyo (both movers) --LAN--> repository", nil, "needs nobody near it"},
		{"object store off-site", session(repo(proxy.ObjectStore, there, "", "")),
			"ds1 on esx1: proxy1 in tokyo (both movers) --WAN--> repository", nil, "in another site"},
		{"R028, object store off-site with a gateway", session(repo(proxy.ObjectStore, there, "", "gate9")),
			"ds1 on esx1: proxy1 in tokyo --WAN--> gate9 in osaka --LAN--> repository", nil, ""},
		{"object store, a gateway elsewhere", session(repo(proxy.ObjectStore, there, "", "gate1")),
			"ds1 on esx1: proxy1 in tokyo --LAN--> gate1 in tokyo --WAN--> repository", nil, "is not in the site of object store"},
		{"object store, unknown gateway", session(repo(proxy.ObjectStore, there, "", "x")), "", proxy.ErrUnknownMachine, ""},

		{"R171, no proxy is named", session(repo(proxy.LinuxMachine, here, "store1", ""), noProxy), "", proxy.ErrNoProxy, "name a proxy in site tokyo"},
		{"R171, none reaches the datastore", session(repo(proxy.LinuxMachine, here, "store1", ""), func(s *proxy.Session) {
			s.Sources[0].Datastores = []string{"ds3"}
		}), "", proxy.ErrNoProxy, "with access to ds3"},
		{"R172, only one in the other site", session(repo(proxy.LinuxMachine, there, "store9", ""), noProxy, farProxy),
			"", proxy.ErrNoProxy, "proxy9: it reaches ds1 from site osaka"},
		{"R003, the only one that reaches", session(repo(proxy.LinuxMachine, here, "store1", ""), tasks("proxy2", 9, 0), func(s *proxy.Session) {
			s.Sources[0].Datastores = []string{"ds2"}
		}), "ds2 on esx1: proxy2 in tokyo --LAN--> store1 in tokyo", nil, ""},
		{"R003, the least busy", session(repo(proxy.LinuxMachine, here, "store1", ""), tasks("proxy1", 2, 0), tasks("proxy2", 1, 0)),
			"ds1 on esx1: proxy2 in tokyo --LAN--> store1 in tokyo", nil, "of 2 proxies that do it is the least busy (1 tasks)"},
		{"R003, busy for its size", session(repo(proxy.LinuxMachine, here, "store1", ""), tasks("proxy1", 2, 8), tasks("proxy2", 1, 2)),
			"ds1 on esx1: proxy1 in tokyo --LAN--> store1 in tokyo", nil, "2 of 8 tasks"},
		{"R003, one is full", session(repo(proxy.LinuxMachine, here, "store1", ""), tasks("proxy1", 1, 1), tasks("proxy2", 7, 0)),
			"ds1 on esx1: proxy2 in tokyo --LAN--> store1 in tokyo", nil, ""},
		{"R003, all are full", session(repo(proxy.LinuxMachine, here, "store1", ""), tasks("proxy1", 2, 2), tasks("proxy2", 1, 1)),
			"ds1 on esx1: proxy1 in tokyo --LAN--> store1 in tokyo, waits", nil, "so this one waits"},

		{"unknown kind", session(repo("tape", here, "store1", "")), "", proxy.ErrUnknownKind, "say windows, linux"},
		{"nothing to do", session(repo(proxy.LinuxMachine, here, "store1", ""), func(s *proxy.Session) { s.Sources = nil }), "", proxy.ErrNothing, ""},
		{"two sites for one machine", session(repo(proxy.LinuxMachine, here, "store1", ""), func(s *proxy.Session) {
			s.Machines = append(s.Machines, proxy.Machine{Name: "proxy1", Site: there})
		}), "", proxy.ErrUnknownMachine, "one site"},
		{"a machine without a name", session(repo(proxy.LinuxMachine, here, "store1", ""), func(s *proxy.Session) {
			s.Machines = append(s.Machines, proxy.Machine{})
		}), "", proxy.ErrUnknownMachine, "name it"},
	}
	for _, c := range cases {
		t.Run(c.rows, func(t *testing.T) {
			before, _ := json.Marshal(c.session)
			got, err := proxy.Place(c.session)
			after, _ := json.Marshal(c.session)
			require.Equal(t, string(before), string(after), "what was asked is not changed")
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
				var se *proxy.SettingError
				require.ErrorAs(t, err, &se)
				require.NotEmpty(t, se.Setting)
				require.NotEmpty(t, se.Hint)
				require.Contains(t, err.Error(), c.says)
				require.Nil(t, got)
				return
			}
			require.NoError(t, err)
			require.Len(t, got.Routes, 1)
			require.Equal(t, c.want, got.Routes[0].String())
			require.Contains(t, got.String(), c.says)
		})
	}
}

// R002, R003: several hosts and datastores share the proxies out evenly, each where it can.
func TestSharesTheWork(t *testing.T) {
	s := session(proxy.Repository{Kind: proxy.LinuxMachine, Site: here, Machine: "store1"})
	s.Sources = []proxy.Source{
		{Host: "esx1", Site: here, Datastores: []string{"ds1", "ds2"}},
		{Host: "esx2", Site: here, Datastores: []string{"ds1"}},
		{Host: "esx9", Site: there, Datastores: []string{"ds9"}},
	}
	s.Proxies = append(s.Proxies, proxy.Proxy{Machine: proxy.Machine{Name: "proxy9", Site: there}, Reaches: []string{"ds9"}})
	p, err := proxy.Place(s)
	require.NoError(t, err)
	var got []string
	for _, r := range p.Routes {
		got = append(got, fmt.Sprint(r.SourceMover.Name, " ", r.Link, " ", r.OffSite))
	}
	require.Equal(t, []string{"proxy1 LAN false", "proxy2 LAN false", "proxy1 LAN false", "proxy9 WAN true"}, got)
}

// Whatever is combined: a typed error that names a setting, or routes that keep every rule.
func TestEveryCombination(t *testing.T) {
	kinds := []proxy.Kind{proxy.WindowsMachine, proxy.LinuxMachine, proxy.SharedFolder, proxy.MountedFolder, proxy.ObjectStore, ""}
	names := []string{"", "server", "store1", "gate1", "store9", "gate9", "proxy1", "proxy2", "proxy9", "nobody"}
	placed, refused := 0, 0
	for _, kind := range kinds {
		for _, repoSite := range []string{here, there, ""} {
			for _, machine := range names {
				for _, gateway := range names {
					for _, change := range []func(*proxy.Session){func(*proxy.Session) {}, farProxy, noProxy, tasks("proxy1", 3, 3)} {
						s := session(proxy.Repository{Kind: kind, Site: repoSite, Machine: machine, Gateway: gateway}, change)
						p, err := proxy.Place(s)
						if err != nil {
							refused++
							var se *proxy.SettingError
							require.ErrorAs(t, err, &se)
							continue
						}
						placed++
						keepsTheRules(t, s, p)
					}
				}
			}
		}
	}
	assert.Greater(t, placed, 200)
	assert.Greater(t, refused, 1000)
}

func keepsTheRules(t *testing.T, s *proxy.Session, p *proxy.Placement) {
	t.Helper()
	what := p.String()
	again, err := proxy.Place(s)
	require.NoError(t, err)
	require.Equal(t, p, again, "the same question has the same answer")
	for _, r := range p.Routes {
		i := slices.IndexFunc(s.Proxies, func(x proxy.Proxy) bool { return x.Name == r.SourceMover.Name })
		require.GreaterOrEqual(t, i, 0, "R024, R030: the source-side mover is on a proxy: %s", what)
		require.Contains(t, s.Proxies[i].Reaches, r.Datastore, "R171: %s", what)
		require.Equal(t, s.Sources[0].Site, r.SourceMover.Site, "R172: %s", what)
		switch s.Repository.Kind {
		case proxy.SharedFolder, proxy.MountedFolder:
			require.Equal(t, proxy.LAN, r.Write, "R180: no share across the WAN: %s", what)
			require.Contains(t, []string{s.Repository.Gateway, s.Repository.Machine}, r.TargetMover.Name, "R177: %s", what)
		case proxy.WindowsMachine, proxy.LinuxMachine:
			require.Equal(t, s.Repository.Machine, r.TargetMover.Name, "R176: %s", what)
			require.Equal(t, proxy.Within, r.Write, what)
		}
		same := r.SourceMover.Name == r.TargetMover.Name
		require.Equal(t, same, r.Link == proxy.Within, what)
		require.Equal(t, r.SourceMover.Site != r.TargetMover.Site, r.Link == proxy.WAN, what)
		if s.Repository.Kind != proxy.ObjectStore {
			require.Equal(t, r.OffSite, r.Link == proxy.WAN, "R028, R031, R033: %s", what)
		}
		require.NotEmpty(t, r.Reasons)
	}
}

// The plan prints for a person and marshals for a program.
func TestPrints(t *testing.T) {
	s := session(proxy.Repository{Kind: proxy.SharedFolder, Site: there, Gateway: "gate9"})
	p, err := proxy.Place(s)
	require.NoError(t, err)
	require.Equal(t, strings.TrimPrefix(`
repository vault (share)
  ds1 on esx1: proxy1 in tokyo --WAN--> gate9 in osaka --LAN--> repository
      proxy1 reads ds1: it reaches it, and of 2 proxies that do it is the least busy (0 tasks)
      gate9 is the gateway of the repository
      the repository is off-site: one mover is in site tokyo near the source, the other in site osaka near the repository, and the WAN is between them
`, "\n"), p.String())
	raw, err := json.Marshal(p)
	require.NoError(t, err)
	var back proxy.Placement
	require.NoError(t, json.Unmarshal(raw, &back))
	require.Equal(t, *p, back)
	for _, field := range []string{`"sourceMover":{"name":"proxy1","site":"tokyo"}`, `"link":"WAN"`, `"write":"LAN"`, `"offSite":true`, `"waits":false`} {
		require.Contains(t, string(raw), field)
	}
	var asked proxy.Session
	raw, err = json.Marshal(s)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &asked))
	require.Equal(t, *s, asked)
}

// R024: an installation of one site need not name it.
func ExamplePlace() {
	plan, err := proxy.Place(&proxy.Session{
		Sources:    []proxy.Source{{Host: "esx1", Datastores: []string{"ds1"}}},
		Proxies:    []proxy.Proxy{{Machine: proxy.Machine{Name: "gate"}, Reaches: []string{"ds1"}}},
		Repository: proxy.Repository{Name: "nas", Kind: proxy.SharedFolder, Gateway: "gate"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(plan)
	// Output:
	// repository nas (share)
	//   ds1 on esx1: gate (both movers) --LAN--> repository
	//       gate reads ds1: it reaches it
	//       gate is proxy and gateway at once: both movers run there
}
