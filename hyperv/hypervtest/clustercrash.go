package hypervtest

import (
	"fmt"
	"io/fs"
	"slices"
)

// Crash ends a node as a power cut does, and the cluster starts its VMs at another one. Nobody answers at the node's addresses any more;
// its jobs are forgotten, a checkpoint whose files were made stays, merges begin anew, and change tracking knows what it knows after a
// power cut. Other nodes tell that it is down.
func (c *Cluster) Crash(node, to string) error {
	from, dest := c.Host(node), c.Host(to)
	if from == nil || dest == nil || from == dest {
		return fmt.Errorf("nodes %.64q and %.64q: %w", node, to, fs.ErrNotExist)
	}
	from.server.CloseClientConnections()
	if err := from.server.Listener.Close(); err != nil {
		return err
	}
	from.KillSMB()
	if err := c.SetDown(node, true); err != nil {
		return err
	}
	from.Lock()
	for _, j := range from.jobs {
		j.stop(from)
	}
	from.jobs = nil
	clear(from.contexts)
	from.Unlock()
	for _, vm := range from.VMs() {
		if c.Owner(vm) != from {
			continue // it is no role of the cluster, and stays down
		}
		if err := c.failOver(from.VM(vm), from, dest); err != nil {
			return err
		}
	}
	return nil
}

// failOver brings a VM up elsewhere.
func (c *Cluster) failOver(g *Guest, from, dest *Host) error {
	on := g.running()
	if err := g.PowerCut(); err != nil {
		return err
	}
	g.settle()
	if err := c.move(g, from, dest); err != nil {
		return err
	}
	defer g.hold()()
	g.setStatus(0)
	g.mu.Lock()
	pending := slices.DeleteFunc(slices.Clone(g.checkpoints), func(cp *checkpoint) bool { return cp.object != nil })
	g.mu.Unlock()
	for _, cp := range pending {
		dest.publish(g, cp, nil)
	}
	dest.collapse(g)
	if !on {
		return nil
	}
	return g.turn(stateOn)
}

// settle forgets merges that were under way.
func (g *Guest) settle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.drives {
		for _, n := range d.nodes {
			n.merging, n.fresh = false, nil
		}
	}
}
