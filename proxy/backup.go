package proxy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Transport is how a proxy reads the disks on a datastore.
type Transport string

// The transports, in the order in which they are preferred where nothing else is said.
const (
	Storage Transport = "storage" // the proxy is connected to the storage that the datastore lies on
	Attach  Transport = "attach"  // the disks are attached to the proxy, which runs on a host with the datastore
	OffHost Transport = "offhost" // a snapshot of the host's volume is mounted on the proxy
	Network Transport = "network" // the host sends what it reads
)

// DefaultTransports are all there are, best first.
var DefaultTransports = []Transport{Storage, Attach, OffHost, Network}

// BackupChoice is what the backup proxy for one datastore is chosen from.
type BackupChoice struct {
	Host      string `json:"host"`
	Site      string `json:"site,omitempty"` // of the host
	Datastore string `json:"datastore"`
	// Proxies are those that the job may use.
	Proxies []Proxy `json:"proxies"`
	// Transports are those that the job allows, best first. Empty: [DefaultTransports]. Off-host backup is OffHost alone.
	Transports []Transport `json:"transports,omitempty"`
	// Gateway is the machine of the target-side mover: of equals it is taken, which saves a trip over the LAN.
	Gateway string `json:"gateway,omitempty"`
}

// BackupDecision says who reads a datastore, and how. It prints with every candidate and why it lost.
type BackupDecision struct {
	Proxy      string      `json:"proxy"`
	Transport  Transport   `json:"transport"`
	Waits      bool        `json:"waits,omitempty"` // it runs as many tasks as it may: this one comes after
	Candidates []Candidate `json:"candidates"`
}

// Backup chooses the backup proxy for one datastore: of those in the host's site that reach it by a transport that the
// job allows (R171 … R173), one with room before a full one, the better transport before another, then the fewest
// tasks for its size, the gateway, the first by name. An error is a *[SettingError].
func Backup(c *BackupChoice) (*BackupDecision, error) {
	d := &BackupDecision{Candidates: make([]Candidate, 0, len(c.Proxies))}
	for i := range c.Proxies {
		d.Candidates = append(d.Candidates, c.candidate(&c.Proxies[i]))
	}
	slices.SortFunc(d.Candidates, c.compare)
	if len(d.Candidates) == 0 || !d.Candidates[0].Fit() {
		return nil, c.nobody(d.Candidates)
	}
	best := &d.Candidates[0]
	best.Chosen = true
	d.Proxy, d.Transport, d.Waits = best.Name, c.transports()[best.Rank-1], best.full()
	for i := range d.Candidates {
		d.Candidates[i].Lost = c.lost(&d.Candidates[i], best)
	}
	return d, nil
}

func (c *BackupChoice) transports() []Transport {
	if len(c.Transports) > 0 {
		return c.Transports
	}
	return DefaultTransports
}

// candidate looks at one proxy. Its rank is the place of the best transport that it has.
func (c *BackupChoice) candidate(x *Proxy) Candidate {
	out := Candidate{Machine: x.Machine, Tasks: x.Tasks, Limit: x.Limit}
	switch {
	case !slices.Contains(x.Reaches, c.Datastore):
		out.Problems = append(out.Problems, fmt.Sprintf("it does not reach %s", c.Datastore))
		return out
	case x.Site != c.Site:
		out.Problems = append(out.Problems, fmt.Sprintf("it reaches %s from %s, and would read it across the WAN", c.Datastore, site(x.Site)))
		return out
	}
	has := x.Transports[c.Datastore]
	if len(has) == 0 {
		has = []Transport{Network}
	}
	for i, t := range c.transports() {
		if slices.Contains(has, t) {
			out.Rank, out.RankText = i+1, fmt.Sprintf("reads %s by %s", c.Datastore, t)
			return out
		}
	}
	out.Problems = append(out.Problems, fmt.Sprintf("it reads %s by %s, and the job allows %s", c.Datastore, list(has), list(c.transports())))
	return out
}

func list(transports []Transport) string {
	words := make([]string, len(transports))
	for i, t := range transports {
		words[i] = string(t)
	}
	return strings.Join(words, ", ")
}

func (c *BackupChoice) compare(a, b Candidate) int {
	if by := first(a.Fit(), b.Fit()); by != 0 || !a.Fit() {
		return cmp.Or(by, cmp.Compare(a.Name, b.Name))
	}
	return cmp.Or(
		first(!a.full(), !b.full()),
		cmp.Compare(a.Rank, b.Rank),
		cmp.Compare(a.Tasks*max(1, b.Limit), b.Tasks*max(1, a.Limit)),
		first(a.Name == c.Gateway, b.Name == c.Gateway),
		cmp.Compare(a.Name, b.Name),
	)
}

// lost is why a candidate was not taken.
func (c *BackupChoice) lost(x, best *Candidate) string {
	switch {
	case x.Chosen:
		return ""
	case !x.Fit():
		return "it cannot read this datastore for this job"
	case x.full() != best.full():
		return fmt.Sprintf("it is full (%s)", load(x.Tasks, x.Limit))
	case x.Rank != best.Rank:
		return fmt.Sprintf("%s is the better transport", c.transports()[best.Rank-1])
	case x.Tasks*max(1, best.Limit) != best.Tasks*max(1, x.Limit):
		return fmt.Sprintf("it is busier for its size (%s)", load(x.Tasks, x.Limit))
	case best.Name == c.Gateway:
		return fmt.Sprintf("%s is the gateway, too", best.Name)
	}
	return fmt.Sprintf("it is as busy as %s, whose name comes first", best.Name)
}

// nobody is the error where no proxy is fit.
func (c *BackupChoice) nobody(all []Candidate) error {
	var why []string
	for i := range all {
		if x := &all[i]; x.Site != c.Site || !strings.HasPrefix(x.Problems[0], "it does not reach") {
			why = append(why, fmt.Sprintf("%s: %s", x.Name, x.Problems[0]))
		}
	}
	problem := fmt.Sprintf("no proxy of the job in %s reaches datastore %s of %s", site(c.Site), c.Datastore, c.Host)
	if len(why) > 0 {
		problem += " (" + strings.Join(why, "; ") + ")"
	}
	return setting(ErrNoProxy, "proxies", problem, fmt.Sprintf("name a proxy in %s with access to %s", site(c.Site), c.Datastore))
}

// String is the decision with every candidate on a line.
func (d *BackupDecision) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s by %s", d.Proxy, d.Transport)
	if d.Waits {
		b.WriteString(", waits")
	}
	b.WriteByte('\n')
	for _, c := range d.Candidates {
		fmt.Fprintf(&b, "    %s\n", c)
	}
	return b.String()
}
