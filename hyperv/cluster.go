package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strings"

	"github.com/hikae/hikae/hyperv/cim"
)

// Functional levels of clusters, as far as procedures go by them.
const level2016 = 9

var levelNames = map[int]string{8: "2012 R2", 9: "2016", 10: "2019", 11: "2022", 12: "2025"}

// Cluster is what a cluster says of itself at one moment.
type Cluster struct {
	Name   string
	Level  int    // its functional level: 9 is that of 2016. Zero: it tells none, as before 2016
	Root   string // of its shared volumes: C:\ClusterStorage
	BackUp bool   // somebody's backup of its volumes is under way
	Nodes  []Node // by name
}

// Node is one of a cluster's machines.
type Node struct {
	Name  string
	State uint32 // NodeUp, NodeDown …
	Build int    // zero: not told
}

// States of nodes.
const (
	NodeUp      = 0
	NodeDown    = 1
	NodePaused  = 2
	NodeJoining = 3
)

// Runs says that VMs can be on it: a paused node keeps those that it has.
func (n Node) Runs() bool { return n.State == NodeUp || n.State == NodePaused }

const maxNodes = 1024 // of a cluster: Windows allows 64

// nodesFound says of which releases nodes are, and whether all of them are of 2016 or later. One that tells nothing is where the
// level does not let older ones in.
func (c *Cluster) nodesFound() (found string, met bool) {
	met = len(c.Nodes) > 0
	var list []string
	for _, n := range c.Nodes {
		release := "not known"
		if n.Build > 0 {
			release = HostInfo{Build: n.Build}.release()
		}
		list = append(list, n.Name+" "+release)
		met = met && (n.Build >= build2016 || n.Build == 0 && c.Level >= level2016)
	}
	return c.Name + ": " + orUnknown(strings.Join(list, ", ")), met
}

func (c *Cluster) levelFound() string {
	switch {
	case c.Level == 0:
		return c.Name + ": none is told, as before 2016"
	case levelNames[c.Level] != "":
		return fmt.Sprintf("%s: %d, of %s", c.Name, c.Level, levelNames[c.Level])
	}
	return fmt.Sprintf("%s: %d", c.Name, c.Level)
}

// cluster asks for the cluster that a host is a node of; nil where it is in none.
func (h *Host) cluster(ctx context.Context) (*Cluster, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	list, err := cim.All(h.client.Query(ctx, cim.Cluster, "SELECT * FROM MSCluster_Cluster", nil))
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(list) == 0:
		return nil, nil
	case err != nil && h.clusterOff(ctx, err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("host %s: cluster: %w", h.info.Name, err)
	case len(list) > 1:
		return nil, fmt.Errorf("host %s: %w: it is in %d clusters", h.info.Name, cim.ErrMalformed, len(list))
	}
	var told struct {
		Name  string `cim:"Name"`
		Level uint32 `cim:"ClusterFunctionalLevel,optional"`
		Root  string `cim:"SharedVolumesRoot,optional"`
		Busy  string `cim:"BackupInProgress,optional"` // a number
	}
	if err := list[0].Decode(&told); err != nil {
		return nil, fmt.Errorf("host %s: %w", h.info.Name, err)
	}
	c := &Cluster{Name: told.Name, Level: int(told.Level), Root: told.Root, BackUp: told.Busy != "" && told.Busy != "0" && told.Busy != "false"}
	if told.Name == "" {
		return nil, fmt.Errorf("host %s: %w: a cluster without a name", h.info.Name, cim.ErrMalformed)
	}
	if c.Nodes, err = h.nodes(ctx); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", c.Name, err)
	}
	return c, nil
}

// clusterOff: where the feature is installed and no cluster was made, its classes are there and fail. Whether it runs tells its
// service; what nobody may look at is no answer.
func (h *Host) clusterOff(ctx context.Context, err error) bool {
	var f *cim.Fault
	if !errors.As(err, &f) || errors.Is(err, fs.ErrPermission) || errors.Is(err, cim.ErrTimedOut) || errors.Is(err, cim.ErrBusy) {
		return false
	}
	service, err := cim.One(h.client.Query(ctx, cim.CIMV2, "SELECT Name, State FROM Win32_Service WHERE Name = 'ClusSvc'", nil))
	return err == nil && strings.EqualFold(service.Text("State"), "Stopped")
}

func (h *Host) nodes(ctx context.Context) (nodes []Node, err error) {
	list, err := cim.All(h.client.Query(ctx, cim.Cluster, "SELECT * FROM MSCluster_Node", &cim.QueryOptions{MaxItems: maxNodes}))
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, in := range list {
		var told struct {
			Name  string `cim:"Name"`
			State uint32 `cim:"State,optional"`
			Build string `cim:"BuildNumber,optional"`
		}
		if err := in.Decode(&told); err != nil {
			return nil, err
		}
		low := strings.ToLower(told.Name)
		if told.Name == "" || seen[low] {
			return nil, fmt.Errorf("%w: node %.60q without a name of its own", cim.ErrMalformed, told.Name)
		}
		seen[low] = true
		nodes = append(nodes, Node{Name: told.Name, State: told.State, Build: buildOf(told.Build)})
	}
	sort.Slice(nodes, func(i, j int) bool { return strings.ToLower(nodes[i].Name) < strings.ToLower(nodes[j].Name) })
	return nodes, nil
}

// buildOf is zero where a build is not told as a number.
func buildOf(s string) (n int) {
	if _, err := fmt.Sscanf(s, "%d", &n); err != nil || n < 0 {
		return 0
	}
	return n
}

// clusterOwner is the node that the cluster says a VM is on, empty where it does not know: the VM may be in no role of it.
func (h *Host) clusterOwner(ctx context.Context, vm string) (string, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	const wql = "SELECT * FROM MSCluster_Resource WHERE Type = 'Virtual Machine'"
	for in, err := range h.client.Query(ctx, cim.Cluster, wql, nil) {
		if err != nil {
			return "", err
		}
		if strings.EqualFold(resourceVM(in), vm) {
			return in.Text("OwnerNode"), nil
		}
	}
	return "", nil
}

// resourceVM is the GUID among a resource's own properties, which are an object in the object.
func resourceVM(in *cim.Instance) string {
	v, _ := in.Value("PrivateProperties")
	switch v := v.(type) {
	case *cim.Instance:
		return v.Text("VmID")
	case string:
		if inner, err := cim.ParseXML([]byte(v)); err == nil {
			return inner.Text("VmID")
		}
	}
	return in.Text("VmID")
}
