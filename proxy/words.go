package proxy

import (
	"fmt"
	"strings"
)

// site is a site in a sentence.
func site(name string) string {
	if name == "" {
		return "the only site"
	}
	return "site " + name
}

// chosen tells why a proxy was taken.
func (r *Route) chosen(x *Proxy, of, tasks int) {
	why := fmt.Sprintf("%s reads %s: it reaches it", x.Name, r.Datastore)
	if of > 1 {
		why += fmt.Sprintf(", and of %d proxies that do it is the least busy (%s)", of, load(tasks, x.Limit))
	}
	if r.Waits {
		why += "; it runs as many tasks as it may, so this one waits"
	}
	r.Reasons = append(r.Reasons, why)
}

func load(tasks, limit int) string {
	if limit > 0 {
		return fmt.Sprintf("%d of %d tasks", tasks, limit)
	}
	return fmt.Sprintf("%d tasks", tasks)
}

// explain tells why the target-side mover is where it is, and which way the data goes.
func (r *Route) explain(repo Repository) {
	name := r.TargetMover.Name
	var why string
	switch {
	case repo.Kind == WindowsMachine || repo.Kind == LinuxMachine:
		why = fmt.Sprintf("%s has the repository's disk and runs the target-side mover itself", name)
	case repo.Kind == ObjectStore && name == r.SourceMover.Name:
		why = fmt.Sprintf("an object store needs nobody near it: %s runs both movers", name)
	case name == r.SourceMover.Name:
		why = fmt.Sprintf("%s is proxy and gateway at once: both movers run there", name)
	default:
		why = fmt.Sprintf("%s is the gateway of the repository", name)
	}
	r.Reasons = append(r.Reasons, why)
	switch {
	case r.Link == WAN:
		r.Reasons = append(r.Reasons, fmt.Sprintf("the repository is off-site: one mover is in %s near the source, the other in %s near the repository, and the WAN is between them",
			site(r.SourceMover.Site), site(r.TargetMover.Site)))
	case r.Write == WAN:
		r.Reasons = append(r.Reasons, "the object store is in another site: what is new goes there across the WAN")
	}
}

// String is one line: who reads, who writes, over what.
func (r Route) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s: %s", r.Datastore, r.Host, r.SourceMover)
	if r.Link == Within {
		b.WriteString(" (both movers)")
	} else {
		fmt.Fprintf(&b, " --%s--> %s", r.Link, r.TargetMover)
	}
	if r.Write != Within {
		fmt.Fprintf(&b, " --%s--> repository", r.Write)
	}
	if r.Waits {
		b.WriteString(", waits")
	}
	return b.String()
}

// String is the machine's name with its site.
func (m Machine) String() string {
	if m.Site == "" {
		return m.Name
	}
	return m.Name + " in " + m.Site
}

// String is the plan: each route, its reasons below it, and the warnings.
func (p *Placement) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "repository %s (%s)\n", p.Repository, p.Kind)
	for _, r := range p.Routes {
		fmt.Fprintf(&b, "  %s\n", r)
		for _, why := range r.Reasons {
			fmt.Fprintf(&b, "      %s\n", why)
		}
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(&b, "  warning: %s\n", w)
	}
	return b.String()
}
