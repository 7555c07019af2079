package proxy

import (
	"cmp"
	"fmt"
	"slices"
)

// GuestRules are what a job says about its guest interaction proxy.
type GuestRules struct {
	// Manual are the machines that were chosen by hand. They are tried in this order. Empty: the choice is automatic.
	Manual []string `json:"manual,omitempty"`
	// WindowsOnly allows machines with Windows Server only. Else machines with Linux may serve Windows guests, too: our
	// SMB and service control need no Windows.
	WindowsOnly bool `json:"windowsOnly,omitempty"`
	// AnyGuest lets proxies serve guests of all operating systems. Else they serve those with Windows, and the backup
	// server does the others.
	AnyGuest bool `json:"anyGuest,omitempty"`
	// TryAll asks every other fit machine before the backup server takes over. Else it takes over at once.
	TryAll bool `json:"tryAll,omitempty"`
	// ManagedAccount says that guests are entered with a group managed service account of Domain.
	ManagedAccount bool   `json:"managedAccount,omitempty"`
	Domain         string `json:"domain,omitempty"`
	// Networkless leaves out the network: only the hypervisor's own way is used.
	Networkless bool `json:"networkless,omitempty"`
}

// GuestChoice is what a guest interaction proxy is chosen from.
type GuestChoice struct {
	VM      VM         `json:"vm"`
	Workers []Worker   `json:"workers"` // the backup server among them
	Rules   GuestRules `json:"rules"`
}

// GuestDecision says who works in a guest. It prints with every candidate, its rank, and why it lost.
type GuestDecision struct {
	VM string `json:"vm"`
	// Try are the machines in the order in which they are asked. The backup server is one of them, and the last unless
	// its place among those that are fit is further ahead.
	Try []string `json:"try"`
	// Waits: the first runs as many tasks as it may; this one comes after.
	Waits bool `json:"waits,omitempty"`
	// FailOver: no machine is fit, and the backup server does it because somebody has to.
	FailOver   bool        `json:"failOver,omitempty"`
	Candidates []Candidate `json:"candidates"` // in the order of the decision, those that are not fit behind
	Reasons    []string    `json:"reasons"`
	Warnings   []string    `json:"warnings,omitempty"`
}

// Chosen is who is asked first.
func (d *GuestDecision) Chosen() string { return d.Try[0] }

// Candidate is a machine that was looked at.
type Candidate struct {
	Machine
	// Rank is the priority, 1 being the best; zero where it is not fit. Among equals load decides, and then the name.
	Rank     int      `json:"rank,omitempty"`
	RankText string   `json:"rankText,omitempty"`
	Tasks    int      `json:"tasks"`
	Limit    int      `json:"limit,omitempty"`
	Chosen   bool     `json:"chosen,omitempty"`
	Problems []string `json:"problems,omitempty"` // requirements that it does not meet
	Lost     string   `json:"lost,omitempty"`     // why it was not taken

	place int // in a list by hand
}

// Fit reports whether it meets all requirements.
func (c *Candidate) Fit() bool { return len(c.Problems) == 0 }

func (c *Candidate) full() bool { return c.Limit > 0 && c.Tasks >= c.Limit }

// Guest chooses the guest interaction proxy for one guest. The same choice gives the same decision, in whatever order
// the machines stand. An error is a *[SettingError].
//
// Automatic: machines in the VM's network before others, within that others before the backup server, of equals the one
// with the fewest tasks (R163 … R168). By hand: in the order of the list. In both only machines that meet every
// requirement (R155 … R158), and after them the backup server (R169, R170).
func Guest(c *GuestChoice) (*GuestDecision, error) {
	server, err := c.check()
	if err != nil {
		return nil, err
	}
	d := &GuestDecision{VM: c.VM.Name, Candidates: make([]Candidate, 0, len(c.Workers))}
	for i := range c.Workers {
		d.Candidates = append(d.Candidates, c.candidate(&c.Workers[i]))
	}
	c.add(d)
	slices.SortFunc(d.Candidates, c.compare)
	fit := slices.IndexFunc(d.Candidates, func(x Candidate) bool { return !x.Fit() })
	if fit < 0 {
		fit = len(d.Candidates)
	}
	c.decide(d, d.Candidates[:fit], server)
	d.explain(c, server)
	return d, nil
}

// check finds what makes a choice impossible, and the backup server.
func (c *GuestChoice) check() (server string, err error) {
	seen := map[string]bool{}
	for i := range c.Workers {
		w := &c.Workers[i]
		switch {
		case w.Name == "":
			return "", setting(ErrUnknownMachine, "workers", "a machine has no name", "name it")
		case seen[w.Name]:
			return "", setting(ErrUnknownMachine, "workers", w.Name+" stands there twice", "give each machine a name of its own")
		case w.BackupServer && server != "":
			return "", setting(ErrUnknownMachine, "workers", fmt.Sprintf("%s and %s are both the backup server", server, w.Name), "say which one it is")
		case w.BackupServer:
			server = w.Name
		}
		seen[w.Name] = true
	}
	if server == "" {
		return "", setting(ErrUnknownMachine, "workers", "the backup server is not among the machines", "add it: it takes over where nobody else can")
	}
	return server, nil
}

// candidate looks at one machine.
func (c *GuestChoice) candidate(w *Worker) Candidate {
	x := Candidate{Machine: w.Machine, Tasks: w.Tasks, Limit: w.Limit, place: slices.Index(c.Rules.Manual, w.Name)}
	if x.Problems = c.problems(w); x.Fit() {
		x.Rank, x.RankText = rank(w, &c.VM)
	}
	return x
}

// add looks at names by hand that no machine has.
func (c *GuestChoice) add(d *GuestDecision) {
	for i, name := range c.Rules.Manual {
		known := slices.ContainsFunc(d.Candidates, func(x Candidate) bool { return x.Name == name })
		if !known {
			d.Candidates = append(d.Candidates, Candidate{Machine: Machine{Name: name}, place: i, Problems: []string{"no machine of the infrastructure has this name"}})
		}
	}
}

// The four priorities (R163 … R166).
var rankTexts = [...]string{
	1: "in the VM's network, not the backup server",
	2: "in the VM's network, the backup server",
	3: "in another network, not the backup server",
	4: "in another network, the backup server",
}

func rank(w *Worker, vm *VM) (int, string) {
	n := 1
	if !sameNetwork(w, vm) {
		n += 2
	}
	if w.BackupServer {
		n++
	}
	return n, rankTexts[n]
}

// compare orders candidates: those that are fit before others; by the list or by rank, room, load; by name.
func (c *GuestChoice) compare(a, b Candidate) int {
	if by := first(a.Fit(), b.Fit()); by != 0 || !a.Fit() {
		return cmp.Or(by, cmp.Compare(a.Name, b.Name), cmp.Compare(a.place, b.place))
	}
	if len(c.Rules.Manual) > 0 {
		return cmp.Compare(a.place, b.place)
	}
	return cmp.Or(cmp.Compare(a.Rank, b.Rank), first(!a.full(), !b.full()), cmp.Compare(a.Tasks, b.Tasks), cmp.Compare(a.Name, b.Name))
}

// decide fills in who is tried: the best of those that are fit, or all of them, and the backup server wherever it stands,
// at the latest in the end.
func (c *GuestChoice) decide(d *GuestDecision, fit []Candidate, server string) {
	if len(c.Rules.Manual) == 0 && !c.Rules.TryAll {
		fit = fit[:min(1, len(fit))]
	}
	for _, x := range fit {
		d.Try = append(d.Try, x.Name)
	}
	if !slices.Contains(d.Try, server) {
		d.Try = append(d.Try, server)
	}
	d.FailOver = len(fit) == 0
	chosen := slices.IndexFunc(d.Candidates, func(x Candidate) bool { return x.Name == d.Try[0] })
	d.Candidates[chosen].Chosen = true
	d.Waits = d.Candidates[chosen].full()
}

// proxied reports whether proxies serve this guest at all.
func (c *GuestChoice) proxied() bool { return windows(c.VM.OS) || c.Rules.AnyGuest }
