package hypervtest

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// moveLimit bounds how long a migration waits for what is under way with the VM.
const moveLimit = 20 * time.Second

var errMoveBusy = errors.New("something is under way with the virtual machine")

// AddVM adds a VM to a node, on the first shared volume where it names no folder, and makes it a role of the cluster.
func (c *Cluster) AddVM(node string, v VM) string {
	i := c.node(node)
	if i < 0 {
		panic("no node " + node)
	}
	if v.Folder == "" {
		v.Folder = `C:\ClusterStorage\Volume1\` + v.Name
	}
	if v.ID == "" { // hosts count by themselves, and would give the same ones
		c.mu.Lock()
		v.ID = guid("C1A", c.made+1)
		c.mu.Unlock()
	}
	id := c.hosts[i].AddVM(v)
	c.join(id, v.Name, i, v.State == 0 || v.State == 2)
	return id
}

// Move is a live migration: the VM's objects leave one node and are at the other, with its checkpoints and reference points, and
// the guest goes on. Calls to the old node find nothing any more, as they do in reality. A job that is under way with the VM is
// waited for, up to a limit: Hyper-V does not begin one in the midst of the other. Change tracking goes on, more coarsely.
func (c *Cluster) Move(vm, to string) error {
	g, from, dest, err := c.travel(vm, to)
	if err != nil || from == dest {
		return err
	}
	for end := time.Now().Add(moveLimit); ; time.Sleep(5 * time.Millisecond) {
		err := c.move(g, from, dest)
		if !errors.Is(err, errMoveBusy) || time.Now().After(end) {
			return err
		}
	}
}

// travel finds a VM and where it goes.
func (c *Cluster) travel(vm, to string) (g *Guest, from, dest *Host, err error) {
	dest = c.Host(to)
	if dest == nil {
		return nil, nil, nil, fmt.Errorf("node %.64q: %w", to, fs.ErrNotExist)
	}
	from = c.Owner(vm)
	if from != nil {
		g = from.VM(vm)
	}
	if g == nil {
		return nil, nil, nil, fmt.Errorf("VM %.64q in the cluster: %w", vm, fs.ErrNotExist)
	}
	return g, from, dest, nil
}

// move does it at one moment.
func (c *Cluster) move(g *Guest, from, dest *Host) error {
	first, second := from, dest
	if c.node(from.opts.Name) > c.node(dest.opts.Name) {
		first, second = dest, from
	}
	first.Lock()
	second.Lock()
	unlock := func() { second.Unlock(); first.Unlock() }
	if slices.ContainsFunc(from.jobs, func(j *job) bool { return strings.EqualFold(j.vm, g.id) }) {
		from.tick(time.Now())
		unlock()
		return fmt.Errorf("VM %s: %w", g.id, errMoveBusy)
	}
	err := g.carry(from, dest)
	unlock()
	if err != nil {
		return fmt.Errorf("VM %s to %s: %w", g.id, dest.opts.Name, err)
	}
	from.event(Event{Actor: "host", Name: "migrate", VM: g.id, Detail: "to " + dest.opts.Name})
	dest.event(Event{Actor: "host", Name: "arrive", VM: g.id, Detail: "from " + from.opts.Name})
	c.reown(g.id, c.node(dest.opts.Name))
	return nil
}

// carry takes a guest from one host to another. Both are locked.
func (g *Guest) carry(from, dest *Host) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v := g.version(); !dest.supports(v) || dest.gen.hidden(g.object.Namespace) {
		return &FaultError{Code: 32768, Reason: fmt.Sprintf("migration of '%s' failed at '%s': configuration version %s is not supported on this host", g.name, dest.opts.Name, v)}
	}
	for _, d := range g.drives {
		for _, n := range d.nodes {
			if !strings.HasPrefix(strings.ToLower(n.name), `c:\clusterstorage\`) && !strings.HasPrefix(n.name, `\\`) {
				return fmt.Errorf("%s is not on a volume that both have: %w", n.name, errors.ErrUnsupported)
			}
		}
	}
	for _, d := range g.drives {
		if err := d.shut(); err != nil {
			return err
		}
		d.track.coarsen(grainFile)
	}
	dest.receive(from, from.release(g.object))
	delete(from.guests, g.id)
	dest.guests[g.id] = g
	g.h = dest
	from.places.Lock()
	from.ordered = slices.DeleteFunc(from.ordered, func(o *Guest) bool { return o == g })
	from.places.Unlock()
	dest.places.Lock()
	dest.ordered = append(dest.ordered, g)
	dest.places.Unlock()
	return nil
}

// release takes away what belongs to a VM: what associations lead to from it, but for what is the host's own. Jobs stay.
func (h *Host) release(vm *Object) (list []*Object) {
	taken := map[*Object]bool{vm: true}
	for found := true; found; {
		found = false
		for _, a := range h.objects {
			if !h.classes[key(a.Namespace, a.Class)].Association || taken[a] {
				continue
			}
			ends := a.ends()
			if !slices.ContainsFunc(ends, func(o *Object) bool { return taken[o] }) {
				continue
			}
			taken[a], found = true, true
			for _, o := range ends {
				if !h.own(o) {
					taken[o] = true
				}
			}
		}
	}
	keep := h.objects[:0:0]
	for _, o := range h.objects {
		switch {
		case !taken[o]:
			keep = append(keep, o)
		case !slices.ContainsFunc(o.ends(), func(end *Object) bool { return strings.HasSuffix(end.Class, "ConcreteJob") }):
			list = append(list, o)
		}
	}
	h.objects = keep
	return list
}

// own are objects that are the host's: itself, its services, and jobs.
func (h *Host) own(o *Object) bool {
	if o == h.machine || strings.HasSuffix(o.Class, "ConcreteJob") || !strings.EqualFold(o.Namespace, V2) {
		return true
	}
	for _, s := range h.services {
		if o == s {
			return true
		}
	}
	return false
}

// ends are what an object refers to.
func (o *Object) ends() (list []*Object) {
	for _, v := range o.Values {
		if end, ok := v.(*Object); ok && end != nil {
			list = append(list, end)
		}
	}
	return list
}

// receive adds objects of another host's, which then name this one. What an older host has no class for it does not have.
func (h *Host) receive(from *Host, list []*Object) {
	unknown := map[*Object]bool{}
	for _, o := range list {
		unknown[o] = h.classes[key(o.Namespace, o.Class)] == nil
	}
	list = slices.DeleteFunc(list, func(o *Object) bool {
		return unknown[o] || slices.ContainsFunc(o.ends(), func(end *Object) bool { return unknown[end] })
	})
	other := map[*Object]*Object{from.machine: h.machine}
	for name, s := range from.services {
		other[s] = h.services[name]
	}
	here, there := `\\`+from.opts.Name+`\`, `\\`+h.opts.Name+`\`
	rename := func(s string) string {
		if rest, ok := strings.CutPrefix(s, here); ok && strings.HasPrefix(strings.ToLower(rest), "root") {
			return there + rest
		}
		return s
	}
	for _, o := range list {
		for n, v := range o.Values {
			switch v := v.(type) {
			case *Object:
				if mine := other[v]; mine != nil {
					o.Values[n] = mine
				}
			case string:
				o.Values[n] = rename(v)
			case []string:
				renamed := make([]string, len(v))
				for i, s := range v {
					renamed[i] = rename(s)
				}
				o.Values[n] = renamed
			}
		}
	}
	h.objects = append(h.objects, list...)
}

// hold locks the host that a guest is on, and returns what unlocks it. Until then the guest does not move.
func (g *Guest) hold() (unlock func()) {
	for {
		h := g.Host()
		h.Lock()
		if g.Host() == h {
			return h.Unlock
		}
		h.Unlock()
	}
}
