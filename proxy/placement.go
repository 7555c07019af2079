// Package proxy decides which machine does what in a session. Its functions are pure: a description goes in, a decision
// with its reasons comes out; nothing is asked, opened or remembered, but by a [Pool].
//
// # Placement
//
// VM data goes through two movers. The one at the source runs on a backup proxy that reaches the datastore; the one at
// the target runs as close to the repository as can be. [Place] says where both run and which link the data takes:
//
//	repository              target-side mover          on-site                        off-site
//	Windows, Linux machine  on that machine            proxy ──LAN── machine          proxy ──WAN── machine
//	shared folder           on the named gateway       proxy ──LAN── gateway ──LAN── share
//	                                                   (or both on one machine)       proxy ──WAN── gateway ──LAN── share
//	mounted folder          where it is mounted, or    as a shared folder             as a shared folder
//	                        on the named gateway
//	object store            on the proxy, or on the    proxy ──LAN── store            proxy ──WAN── store
//	                        named gateway
//
// Off-site means that the repository is in another site than the source. A share is never written to across a WAN: SMB
// and NFS take a round trip for each request and nothing is left out of what they carry, so the gateway stands in the
// share's site, and the WAN is between the two movers, who deduplicate, compress, resume and reconnect.
//
// # Which proxy
//
// Of the proxies that the job names, those in the source's site that reach the datastore by a transport that the job
// allows; of these, the one with the best transport, then the one with the fewest tasks for its size; of equals, the
// gateway, which saves a trip over the LAN, and then the first by name. [Backup] is that choice alone.
//
// # Who works in a guest
//
// [Guest] chooses the machine that brings components into one guest. Windows guests are served by a guest interaction
// proxy, others by the backup server. A [Pool] counts what machines are doing, so that many guests are spread over them.
package proxy

import (
	"cmp"
	"fmt"
	"slices"
)

// Kind is what a repository is kept on.
type Kind string

const (
	WindowsMachine Kind = "windows" // a disk of a Windows machine
	LinuxMachine   Kind = "linux"   // a disk of a Linux machine
	SharedFolder   Kind = "share"   // an SMB share that our own client writes to
	MountedFolder  Kind = "mounted" // a folder of another machine that the operating system has mounted
	ObjectStore    Kind = "object"  // a bucket
)

// Machine is a machine of the infrastructure.
type Machine struct {
	Name         string `json:"name"`
	Site         string `json:"site,omitempty"` // empty: where everything is that names no site
	BackupServer bool   `json:"backupServer,omitempty"`
}

// Proxy is a machine that may read from datastores.
type Proxy struct {
	Machine
	Reaches []string `json:"reaches"`         // datastores
	Tasks   int      `json:"tasks"`           // that it is running now
	Limit   int      `json:"limit,omitempty"` // tasks that it may run at once; zero: no limit
	// Transports are by which it reads a datastore. None for one that it reaches: [Network].
	Transports map[string][]Transport `json:"transports,omitempty"`
}

// Source is a host whose datastores hold the disks.
type Source struct {
	Host       string   `json:"host"`
	Site       string   `json:"site,omitempty"`
	Datastores []string `json:"datastores"`
}

// Repository is where the backups go.
type Repository struct {
	Name    string `json:"name"`
	Kind    Kind   `json:"kind"`
	Site    string `json:"site,omitempty"`    // of the machine, the share's server, the store
	Machine string `json:"machine,omitempty"` // that has the disk, or has the folder mounted
	Gateway string `json:"gateway,omitempty"` // that writes to a shared or mounted folder or an object store
}

// Session is what a decision is made from.
type Session struct {
	Sources    []Source   `json:"sources"`
	Proxies    []Proxy    `json:"proxies"`  // that the job may use
	Machines   []Machine  `json:"machines"` // that the infrastructure has, proxies included or not
	Repository Repository `json:"repository"`
	// Transports are those that the job allows, best first. Empty: [DefaultTransports].
	Transports []Transport `json:"transports,omitempty"`
}

// Link is what carries data between two machines.
type Link string

const (
	Within Link = "one machine"
	LAN    Link = "LAN"
	WAN    Link = "WAN"
)

// Placement is the decision for a session. It prints as a plan.
type Placement struct {
	Repository string   `json:"repository"`
	Kind       Kind     `json:"kind"`
	Routes     []Route  `json:"routes"` // one for each datastore of each source, in their order
	Warnings   []string `json:"warnings,omitempty"`
}

// Route is how one datastore's data goes.
type Route struct {
	Host        string   `json:"host"`
	Datastore   string   `json:"datastore"`
	OffSite     bool     `json:"offSite"`
	SourceMover Machine  `json:"sourceMover"`
	TargetMover Machine  `json:"targetMover"`
	Link        Link     `json:"link"`  // between the movers
	Write       Link     `json:"write"` // from the target-side mover to what the repository is kept on
	Waits       bool     `json:"waits"` // the proxy runs as many tasks as it may: this one comes after
	Reasons     []string `json:"reasons"`
	// Transport is how the proxy reads the datastore, Candidates who else could, and why they do not.
	Transport  Transport   `json:"transport"`
	Candidates []Candidate `json:"candidates"`
}

// Place decides where the movers of a session run. Every route is placed, or none: what is missing is a *[SettingError]
// that says what to set. The same session gives the same decision.
func Place(s *Session) (*Placement, error) {
	p := &placer{Session: s, machines: map[string]Machine{}, tasks: map[string]int{}}
	if err := p.know(); err != nil {
		return nil, err
	}
	out := &Placement{Repository: s.Repository.Name, Kind: s.Repository.Kind, Routes: []Route{}}
	for _, src := range s.Sources {
		for _, ds := range src.Datastores {
			r, err := p.route(src, ds)
			if err != nil {
				return nil, err
			}
			out.Routes = append(out.Routes, r)
		}
	}
	if len(out.Routes) == 0 {
		return nil, setting(ErrNothing, "sources", "no datastore is named", "name a source host with the datastores of its VMs")
	}
	out.Warnings = p.warnings()
	return out, nil
}

// placer works on one session.
type placer struct {
	*Session
	machines map[string]Machine
	tasks    map[string]int // by proxy, those of this session included
}

// know lists the machines by name, and finds two that are one.
func (p *placer) know() error {
	add := func(m Machine, where string) error {
		if m.Name == "" {
			return setting(ErrUnknownMachine, where, "a machine has no name", "name it")
		}
		if known, ok := p.machines[m.Name]; ok && known.Site != m.Site {
			return setting(ErrUnknownMachine, where, fmt.Sprintf("%s is in %s and in %s", m.Name, site(known.Site), site(m.Site)),
				"give it one site")
		}
		m.BackupServer = m.BackupServer || p.machines[m.Name].BackupServer
		p.machines[m.Name] = m
		return nil
	}
	for _, m := range p.Machines {
		if err := add(m, "machines"); err != nil {
			return err
		}
	}
	for _, x := range p.Proxies {
		if err := add(x.Machine, "proxies"); err != nil {
			return err
		}
		p.tasks[x.Name] = x.Tasks
	}
	return nil
}

func (p *placer) route(src Source, datastore string) (Route, error) {
	r := Route{Host: src.Host, Datastore: datastore, OffSite: src.Site != p.Repository.Site}
	target, err := p.target(&r)
	if err != nil {
		return Route{}, err
	}
	proxy, err := p.proxy(&r, src, target)
	if err != nil {
		return Route{}, err
	}
	r.SourceMover = p.machines[proxy.Name]
	if target == nil { // an object store without a gateway
		target = &r.SourceMover
	}
	r.TargetMover = *target
	r.Link = between(r.SourceMover, r.TargetMover)
	r.Write = p.write(r.TargetMover)
	p.tasks[proxy.Name]++
	r.explain(p.Repository)
	return r, nil
}

// between is the link from one machine to another.
func between(a, b Machine) Link {
	switch {
	case a.Name == b.Name:
		return Within
	case a.Site == b.Site:
		return LAN
	}
	return WAN
}

// write is the link from the target-side mover to the disk.
func (p *placer) write(from Machine) Link {
	switch p.Repository.Kind {
	case WindowsMachine, LinuxMachine:
		return Within
	}
	if from.Site == p.Repository.Site {
		return LAN
	}
	return WAN
}

// target is the machine of the target-side mover, nil where the proxy itself will do.
func (p *placer) target(r *Route) (*Machine, error) {
	repo := p.Repository
	switch repo.Kind {
	case WindowsMachine, LinuxMachine:
		return p.machine(r, "repository.machine", repo.Machine,
			"name the machine that has the repository's disk: it runs the target-side mover itself")
	case SharedFolder:
		return p.gateway(r, repo.Gateway)
	case MountedFolder:
		return p.gateway(r, cmp.Or(repo.Gateway, repo.Machine))
	case ObjectStore:
		if repo.Gateway == "" {
			return nil, nil
		}
		return p.machine(nil, "repository.gateway", repo.Gateway, "")
	}
	return nil, setting(ErrUnknownKind, "repository.kind", fmt.Sprintf("%q is no kind of repository", string(repo.Kind)),
		"say windows, linux, share, mounted or object")
}

// machine finds a machine by the name that a setting has. With a route it has to be in the repository's site.
func (p *placer) machine(r *Route, where, name, hint string) (*Machine, error) {
	if name == "" {
		return nil, setting(ErrNoTarget, where, fmt.Sprintf("repository %s names no machine", p.Repository.Name), hint)
	}
	m, ok := p.machines[name]
	if !ok {
		return nil, setting(ErrUnknownMachine, where, fmt.Sprintf("%s is no machine of the infrastructure", name),
			"add it, or name another")
	}
	if r != nil && m.Site != p.Repository.Site {
		return nil, setting(ErrUnknownMachine, where,
			fmt.Sprintf("%s is in %s and repository %s in %s", name, site(m.Site), p.Repository.Name, site(p.Repository.Site)),
			"give both one site")
	}
	return &m, nil
}

// gateway finds the machine that writes to a folder of another. It has to be in that folder's site.
func (p *placer) gateway(r *Route, name string) (*Machine, error) {
	const where = "repository.gateway"
	repo := p.Repository
	if name == "" {
		return nil, setting(ErrNoGateway, where, fmt.Sprintf("repository %s is a folder of another machine and names no gateway", repo.Name),
			fmt.Sprintf("name the machine in %s that writes to it: the backup server, a proxy, or another", site(repo.Site)))
	}
	m, err := p.machine(nil, where, name, "")
	if err != nil {
		return nil, err
	}
	if m.Site != repo.Site {
		return nil, setting(ErrAcrossWAN, where,
			fmt.Sprintf("gateway %s is in %s, and would write to the folder of repository %s in %s across the WAN", name, site(m.Site), repo.Name, site(repo.Site)),
			fmt.Sprintf("name a gateway in %s: then the WAN is between the two movers, who resume where a line breaks", site(repo.Site)))
	}
	return m, nil
}

// proxy chooses who reads a datastore.
func (p *placer) proxy(r *Route, src Source, target *Machine) (*Proxy, error) {
	c := &BackupChoice{Host: src.Host, Site: src.Site, Datastore: r.Datastore, Transports: p.Transports, Proxies: slices.Clone(p.Proxies)}
	for i := range c.Proxies {
		c.Proxies[i].Tasks = p.tasks[c.Proxies[i].Name]
	}
	if target != nil {
		c.Gateway = target.Name
	}
	d, err := Backup(c)
	if err != nil {
		return nil, err
	}
	best := &c.Proxies[slices.IndexFunc(c.Proxies, func(x Proxy) bool { return x.Name == d.Proxy })]
	r.Waits, r.Transport, r.Candidates = d.Waits, d.Transport, d.Candidates
	fit := 0
	for _, x := range d.Candidates {
		if x.Fit() {
			fit++
		}
	}
	r.chosen(best, fit, best.Tasks)
	return best, nil
}

// first orders who has something before who has not.
func first(a, b bool) int {
	switch {
	case a && !b:
		return -1
	case b && !a:
		return 1
	}
	return 0
}

// warnings are what is allowed and should be known.
func (p *placer) warnings() (out []string) {
	repo := p.Repository
	switch {
	case repo.Gateway == "":
	case repo.Kind == WindowsMachine || repo.Kind == LinuxMachine:
		out = append(out, fmt.Sprintf("repository %s is a machine and needs no gateway: %s is not used", repo.Name, repo.Gateway))
	case repo.Kind == ObjectStore && p.machines[repo.Gateway].Site != repo.Site:
		out = append(out, fmt.Sprintf("gateway %s is not in the site of object store %s", repo.Gateway, repo.Name))
	}
	return out
}
