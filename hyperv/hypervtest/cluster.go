package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// ClusterNamespace is where a node tells of its cluster.
const ClusterNamespace = "root/MSCluster"

// ClusterOptions say what a cluster is made of. Nil and zero fields are good defaults.
type ClusterOptions struct {
	Name  string // empty: CLUSTER1
	Nodes int    // how many. Zero: 2. They are called HV1, HV2 …
	// Host is what every node has in common; Name and Dir are the cluster's to choose.
	Host Options
	// Generations are those of single nodes, by position, where the cluster is being upgraded; empty ones are Host's.
	Generations []string
	// Level is the functional level. Zero: the highest that every node can have.
	Level int
	// Volumes are cluster shared volumes: C:\ClusterStorage\Volume1 … Zero: 1
	Volumes int
	// Dir holds everything of the cluster's. Empty: a temporary folder, removed by Close.
	Dir string
}

// Cluster is hosts that share volumes, and between which VMs move. Its methods may be called at once.
type Cluster struct {
	name    string
	level   int
	dir     string
	ours    bool // dir is
	hosts   []*Host
	volumes int

	mu     sync.Mutex
	owners map[string]int // node by VM, in small letters
	down   map[int]bool
	made   int // roles, ever
	steer  controls
}

// functionalLevels are those that a generation can have. The property came with 2016; 8 is what a cluster has meanwhile that comes
// from 2012 R2.
var functionalLevels = map[string]int{"2008r2": 7, "2012": 7, "2012r2": 8, "2016": 9, "2019": 10, "2022": 11, "2025": 12}

// StartCluster starts hosts on 127.0.0.1 that are nodes of one cluster.
func StartCluster(opts *ClusterOptions) (c *Cluster, err error) {
	var o ClusterOptions
	if opts != nil {
		o = *opts
	}
	if o.Name == "" {
		o.Name = "CLUSTER1"
	}
	if o.Nodes <= 0 {
		o.Nodes = 2
	}
	if o.Nodes > 64 {
		return nil, fmt.Errorf("%d nodes: a cluster has 64 at most", o.Nodes)
	}
	c = &Cluster{name: o.Name, level: o.Level, dir: o.Dir, volumes: max(o.Volumes, 1), owners: map[string]int{}, down: map[int]bool{}}
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "hvcluster"); err != nil {
			return nil, err
		}
		c.ours = true
	} else if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	if c.dir, err = filepath.EvalSymlinks(c.dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	lowest := 1 << 10
	for i := range o.Nodes {
		h, err := c.startNode(&o, i)
		if err != nil {
			return nil, fmt.Errorf("node %d: %w", i+1, err)
		}
		c.hosts = append(c.hosts, h)
		lowest = min(lowest, functionalLevels[h.gen.name])
	}
	if c.level == 0 {
		c.level = lowest
	}
	for _, h := range c.hosts {
		h.Lock()
		h.beside.cluster = c
		c.describe(h)
		h.Unlock()
	}
	return c, nil
}

// startNode starts one host, whose C:\ClusterStorage is the folder that all share.
func (c *Cluster) startNode(o *ClusterOptions, i int) (*Host, error) {
	set := o.Host
	set.Name, set.Dir = nodeName(i), filepath.Join(c.dir, nodeName(i))
	if i < len(o.Generations) && o.Generations[i] != "" {
		set.Generation = o.Generations[i]
	}
	shared := c.shared()
	for n := range c.volumes {
		if err := os.MkdirAll(filepath.Join(shared, fmt.Sprintf("Volume%d", n+1)), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(set.Dir, "C"), 0o755); err != nil {
		return nil, err
	}
	if err := os.Symlink(shared, filepath.Join(set.Dir, "C", "ClusterStorage")); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	h, err := Start(&set)
	if err == nil {
		h.mountAt(`C:\ClusterStorage`, shared)
	}
	return h, err
}

// shared is the folder of this machine that every node has as C:\ClusterStorage.
func (c *Cluster) shared() string { return filepath.Join(c.dir, "ClusterStorage") }

func nodeName(i int) string { return fmt.Sprintf("HV%d", i+1) }

// Hosts are the nodes, HV1 first.
func (c *Cluster) Hosts() []*Host { return slices.Clone(c.hosts) }

// Name is the cluster's.
func (c *Cluster) Name() string { return c.name }

// Host is the node of a name, in any letters; nil where there is none.
func (c *Cluster) Host(name string) *Host {
	if i := c.node(name); i >= 0 {
		return c.hosts[i]
	}
	return nil
}

func (c *Cluster) node(name string) int {
	short, _, _ := strings.Cut(name, ".")
	return slices.IndexFunc(c.hosts, func(h *Host) bool { return strings.EqualFold(h.opts.Name, short) })
}

// Address is where a node is reached by a protocol, "cim" or "smb"; of another name it is that name, so that nobody is reached
// by mistake. The cluster's own name is the first node that is not down.
func (c *Cluster) Address(node, protocol string) string {
	i := c.node(node)
	if strings.EqualFold(node, c.name) {
		i = c.up()
	}
	if i < 0 {
		return node
	}
	if protocol == "smb" {
		return c.hosts[i].SMB()
	}
	return c.hosts[i].Addr()
}

// up is the first node that is not down.
func (c *Cluster) up() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.IndexFunc(c.hosts, func(h *Host) bool { return !c.down[slices.Index(c.hosts, h)] })
}

// StartSMB serves the files of every node by a Samba of its own.
func (c *Cluster) StartSMB(ctx context.Context, opts *SMBOptions) error {
	for _, h := range c.hosts {
		if err := h.StartSMB(ctx, opts); err != nil {
			return err
		}
	}
	return nil
}

// Owner is the node that has a VM now; nil where no node has.
func (c *Cluster) Owner(vm string) *Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.owners[strings.ToLower(vm)]
	if !ok {
		return nil
	}
	return c.hosts[i]
}

// SetLevel raises or lowers the functional level.
func (c *Cluster) SetLevel(level int) {
	c.each(func(h *Host, _ int) {
		for _, o := range h.objects {
			if _, told := o.Values["ClusterFunctionalLevel"]; told {
				o.Set("ClusterFunctionalLevel", uint32(level))
			}
		}
	})
}

// SetDown says that a node is down, or up again: its cluster tells so. The node itself is not ended.
func (c *Cluster) SetDown(node string, down bool) error {
	i := c.node(node)
	if i < 0 {
		return fmt.Errorf("node %q: %w", node, os.ErrNotExist)
	}
	c.mu.Lock()
	c.down[i] = down
	c.mu.Unlock()
	state, build := uint32(0), any(c.hosts[i].gen.build)
	if down {
		state, build = 1, nil // nobody is there to say
	}
	c.each(func(h *Host, _ int) {
		for _, o := range h.objects {
			if o.Class == "MSCluster_Node" && o.Values["Name"] == c.hosts[i].opts.Name {
				o.Set("State", state)
				o.Set("BuildNumber", build)
			}
		}
	})
	return nil
}

// each calls a function for every node, one after the other, with its objects locked.
func (c *Cluster) each(do func(h *Host, i int)) {
	for i, h := range c.hosts {
		h.Lock()
		do(h, i)
		h.Unlock()
	}
}

// Leftovers are those of all nodes.
func (c *Cluster) Leftovers() []string {
	ctx, cancel := context.WithTimeout(context.Background(), leftoverLimit)
	defer cancel()
	return c.leftovers(ctx)
}

func (c *Cluster) leftovers(ctx context.Context) (out []string) {
	for _, h := range c.hosts {
		for _, text := range h.leftovers(ctx) {
			out = append(out, h.opts.Name+": "+text)
		}
	}
	return out
}

// Close ends the nodes and removes what is theirs.
func (c *Cluster) Close() {
	c.steer.close()
	for _, h := range c.hosts {
		h.Close()
	}
	if c.ours {
		_ = os.RemoveAll(c.dir)
	}
}

// Host is where the VM is now.
func (g *Guest) Host() *Host {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.h
}

// Name is the machine's.
func (h *Host) Name() string { return h.opts.Name }

// VMs are the GUIDs of the host's VMs, in small letters and in order.
func (h *Host) VMs() []string {
	h.Lock()
	defer h.Unlock()
	return slices.Sorted(maps.Keys(h.guests))
}
