package guest

import (
	"fmt"
	"strings"
)

// Chart is a decision procedure as a value: what [Decide] walks and what the documents show is the same table.
type Chart struct {
	Name  string // windows-runtime, windows-persistent, linux-runtime, linux-persistent
	Title string
	nodes []node // the first is where it begins
}

// node is one question. yes, no and ours are the ids of other nodes, or actions.
type node struct {
	id       string
	question string
	asks     func(Choice, Probed) bool
	yes, no  string
	ours     string // where a no leads unless the chart is followed strictly; empty: as published
}

func (c *Chart) node(id string) *node {
	for i := range c.nodes {
		if c.nodes[i].id == id {
			return &c.nodes[i]
		}
	}
	return nil
}

// The questions, each in one place.
func adminShare(_ Choice, p Probed) bool   { return p.AdminShare }
func installer(_ Choice, p Probed) bool    { return p.Installer }
func component(_ Choice, p Probed) bool    { return p.Component }
func hypervisor(_ Choice, p Probed) bool   { return p.Hypervisor }
func certificates(_ Choice, p Probed) bool { return p.Certificates }
func network(_ Choice, p Probed) bool      { return p.Network }
func vSphere(c Choice, _ Probed) bool      { return c.VSphere }

const (
	askShare      = "ADMIN$ reached?"
	askInstaller  = "Installer service reached?"
	askComponent  = "Persistent component installed?"
	askHypervisor = "Hypervisor channel open?"
	askNetwork    = "SSH or WinRM open?"
)

var windowsRuntime = Chart{Name: "windows-runtime", Title: "Windows guest, option off: the runtime component", nodes: []node{
	{id: "share", question: askShare, asks: adminShare, yes: "present", no: "installer"},
	{id: "present", question: askComponent, asks: component, yes: "service", no: string(RuntimeByShare)},
	// The published chart ends here although ADMIN$ was reached just before.
	{id: "service", question: askInstaller, asks: installer, yes: string(UsePersistent), no: string(Fail), ours: string(RuntimeByShare)},
	{id: "installer", question: askInstaller, asks: installer, yes: "behind", no: "hypervisor"},
	{id: "behind", question: askComponent, asks: component, yes: string(UsePersistent), no: "hypervisor"},
	{id: "hypervisor", question: askHypervisor, asks: hypervisor, yes: string(RuntimeByHypervisor), no: string(Fail), ours: "network"},
	{id: "network", question: askNetwork, asks: network, yes: string(RuntimeByNetwork), no: string(Fail)},
}}

var windowsPersistent = Chart{Name: "windows-persistent", Title: "Windows guest, option on: the persistent component", nodes: []node{
	{id: "installer", question: askInstaller, asks: installer, yes: "certificates", no: "hypervisor"},
	{id: "hypervisor", question: askHypervisor, asks: hypervisor, yes: "certificates", no: string(Fail)},
	{id: "certificates", question: "Certificates valid?", asks: certificates, yes: "present", no: string(Fail)},
	{id: "present", question: askComponent, asks: component, yes: string(UsePersistent), no: string(InstallPersistent)},
}}

var linuxRuntime = Chart{Name: "linux-runtime", Title: "Linux guest, option off: the runtime component", nodes: []node{
	{id: "network", question: "SSH open?", asks: network, yes: string(RuntimeByNetwork), no: "hypervisor"},
	{id: "hypervisor", question: askHypervisor, asks: hypervisor, yes: string(RuntimeByHypervisor), no: string(Fail)},
}}

var linuxPersistent = Chart{Name: "linux-persistent", Title: "Linux guest, option on: the persistent component", nodes: []node{
	{id: "answers", question: "Persistent component answers?", asks: component, yes: string(UsePersistent), no: "network"},
	{id: "network", question: "SSH open?", asks: network, yes: string(RuntimeByNetwork), no: "vsphere"},
	{id: "vsphere", question: "On vSphere?", asks: vSphere, yes: "hypervisor", no: string(Fail), ours: "hypervisor"},
	{id: "hypervisor", question: askHypervisor, asks: hypervisor, yes: string(RuntimeByHypervisor), no: string(Fail)},
}}

// Charts are all procedures.
func Charts() []*Chart {
	return []*Chart{&windowsRuntime, &windowsPersistent, &linuxRuntime, &linuxPersistent}
}

// ChartFor is the procedure for a choice.
func ChartFor(c Choice) *Chart {
	switch {
	case c.Windows && c.Persistent:
		return &windowsPersistent
	case c.Windows:
		return &windowsRuntime
	case c.Persistent:
		return &linuxPersistent
	}
	return &linuxRuntime
}

// Mermaid draws the chart as Mermaid text. Dashed arrows are ours: they are not taken where the published chart is
// followed strictly, and the solid one from the same question is taken then.
func (c *Chart) Mermaid() string {
	var b strings.Builder
	fmt.Fprintf(&b, "flowchart TD\n")
	for _, n := range c.nodes {
		fmt.Fprintf(&b, "    %s{%q}\n", n.id, n.question)
	}
	for _, a := range c.actions() {
		fmt.Fprintf(&b, "    %s([%q])\n", mermaidID(string(a)), string(a))
	}
	for _, n := range c.nodes {
		fmt.Fprintf(&b, "    %s -->|yes| %s\n", n.id, mermaidID(n.yes))
		fmt.Fprintf(&b, "    %s -->|no| %s\n", n.id, mermaidID(n.no))
		if n.ours != "" {
			fmt.Fprintf(&b, "    %s -.->|no, not strict| %s\n", n.id, mermaidID(n.ours))
		}
	}
	return b.String()
}

// actions are those that the chart can end in, in the order of their first arrow.
func (c *Chart) actions() (list []Action) {
	seen := map[string]bool{}
	for _, n := range c.nodes {
		for _, to := range []string{n.yes, n.no, n.ours} {
			if to != "" && c.node(to) == nil && !seen[to] {
				seen[to] = true
				list = append(list, Action(to))
			}
		}
	}
	return list
}

// mermaidID is a word that Mermaid takes for a node.
func mermaidID(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, name)
}
