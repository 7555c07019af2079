package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/hyperv/cim"
)

// Site is where VMs are: one host, or the nodes of a cluster. Its methods may be called at once.
type Site struct {
	addr  string // HOST[:PORT], as it was given
	name  string // what effects name it by
	login cim.Login
	opts  SiteOptions
	first *siteNode // what was connected to
	inOne bool      // it is a cluster

	mu     sync.Mutex
	closed bool
	nodes  map[string]*siteNode // by name, in small letters
	owners map[string]string    // VM to node, as it was last: where to ask first
	stores map[string]*siteStore

	servers map[string]bool // file servers that the login is shown to, in small letters
}

// SiteOptions change how a site is reached. Nil and zero fields are good defaults.
type SiteOptions struct {
	Host Options
	// Address is where a node of a cluster, or a file server, is reached, for "cim" or "smb". Nil: by its name, at the usual port. HOST or
	// HOST:PORT.
	Address func(node, protocol string) string
	// Store opens a machine's files. Nil: by SMB, with the login of the site.
	Store func(ctx context.Context, machine string) (Store, error)
	// Servers are file servers that the login is shown to, besides those that VMs' configurations name: see [Site.TrustServer].
	Servers []string
	// NodeLimit bounds the logon to one node of a cluster. Zero: 30 s.
	NodeLimit time.Duration
}

// What [SiteOptions].Address is asked for.
const (
	ProtocolCIM = "cim"
	ProtocolSMB = "smb"
)

var errClosed = errors.New("the site is closed")

// ConnectSite logs on to a host, or to a cluster by any of its names, and looks which it is.
func ConnectSite(ctx context.Context, addr string, login cim.Login, opts *SiteOptions) (*Site, error) {
	s := &Site{addr: addr, login: login, nodes: map[string]*siteNode{}, owners: map[string]string{}, stores: map[string]*siteStore{},
		servers: map[string]bool{}}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.NodeLimit <= 0 {
		s.opts.NodeLimit = 30 * time.Second
	}
	for _, server := range s.opts.Servers {
		s.TrustServer(server)
	}
	h, err := Connect(ctx, addr, login, &s.opts.Host)
	if err != nil {
		return nil, err
	}
	s.first = &siteNode{name: h.info.Name, host: h}
	s.nodes[strings.ToLower(h.info.Name)] = s.first
	c, err := h.cluster(ctx)
	if err != nil {
		h.Close()
		return nil, err
	}
	if s.name = s.withPort(addr); c != nil {
		s.name, s.inOne = strings.ToLower(c.Name), true
	}
	return s, nil
}

// withPort is HOST:PORT in small letters, so that one address has one name.
func (s *Site) withPort(addr string) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return strings.ToLower(addr)
	}
	port := "5986"
	if s.opts.Host.CIM != nil && s.opts.Host.CIM.Plain {
		port = "5985"
	}
	return strings.ToLower(net.JoinHostPort(strings.Trim(addr, "[]"), port))
}

// Address is what effects name as "site": a cluster's own name, whichever of its machines was connected to, and HOST:PORT of a host
// that is by itself.
func (s *Site) Address() string { return s.name }

// Cluster is the cluster as it is now, and nil where the site is one host. Nodes of which the cluster tells no release are asked
// themselves; one that does not answer has none.
func (s *Site) Cluster(ctx context.Context) (*Cluster, error) {
	if !s.inOne {
		return nil, nil
	}
	c, err := s.askCluster(ctx)
	if err != nil {
		return nil, err
	}
	var ask []*siteNode
	var at []int
	for i, n := range c.Nodes {
		if node := s.known(n.Name); n.Build == 0 && n.Runs() && node != nil {
			ask, at = append(ask, node), append(at, i)
		}
	}
	s.each(ctx, ask, func(i int, h *Host) error { c.Nodes[at[i]].Build = h.info.Build; return nil })
	return c, context.Cause(ctx)
}

// askCluster asks any node for the cluster, and learns of its nodes.
func (s *Site) askCluster(ctx context.Context) (c *Cluster, err error) {
	err = s.anyone(ctx, func(h *Host) error {
		c, err = h.cluster(ctx)
		if err == nil && c == nil {
			return fmt.Errorf("host %s is in no cluster any more: %w", h.info.Name, fs.ErrNotExist)
		}
		if err == nil && !strings.EqualFold(c.Name, s.name) {
			return fmt.Errorf("host %s is in cluster %s, and was in %s: %w", h.info.Name, c.Name, s.name, fs.ErrNotExist)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	for _, n := range c.Nodes {
		if low := strings.ToLower(n.Name); s.nodes[low] == nil {
			s.nodes[low] = &siteNode{name: n.Name}
		}
	}
	return c, nil
}

// anyone asks the hosts that are connected until one answers: any node speaks for the cluster.
func (s *Site) anyone(ctx context.Context, ask func(h *Host) error) error {
	s.mu.Lock()
	list := []*siteNode{s.first}
	for _, n := range s.nodes {
		if n != s.first {
			list = append(list, n)
		}
	}
	s.mu.Unlock()
	var failed []error
	for _, n := range list {
		h, err := n.get(ctx, s)
		if err == nil {
			err = ask(h)
		}
		if err == nil {
			return nil
		}
		if failed = append(failed, err); ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// members are the nodes that VMs can be on now, and the names of those that do not run. A host that is by itself is the only one.
func (s *Site) members(ctx context.Context) (list []*siteNode, down []string, err error) {
	if !s.inOne {
		return []*siteNode{s.first}, nil, nil
	}
	c, err := s.askCluster(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range c.Nodes {
		node := s.known(n.Name)
		switch {
		case !n.Runs():
			down = append(down, n.Name)
		case node == nil:
			return nil, nil, errClosed // or the list would be short, and what is on it gone
		default:
			list = append(list, node)
		}
	}
	return list, down, nil
}

// each asks all nodes at once. Errors are in the order of the nodes, nil where there was none.
func (s *Site) each(ctx context.Context, list []*siteNode, ask func(i int, h *Host) error) []error {
	errs := make([]error, len(list))
	var wait sync.WaitGroup
	for i, n := range list {
		wait.Go(func() {
			h, err := n.get(ctx, s)
			if err == nil {
				err = ask(i, h)
			}
			errs[i] = err
		})
	}
	wait.Wait()
	return errs
}

// Owner is the host that runs a VM now. It asks anew each time: VMs move. A VM that no host has is fs.ErrNotExist; where some
// hosts could not be asked the error is theirs, for it may be there.
func (s *Site) Owner(ctx context.Context, vm string) (*Host, error) {
	if !isGUID(vm) {
		return nil, fmt.Errorf("VM %.60q: %w: a VM is named by its GUID", vm, cim.ErrArgument)
	}
	vm = strings.ToLower(vm)
	if h := s.lastOwner(ctx, vm); h != nil {
		return h, nil
	}
	list, down, err := s.members(ctx)
	if err != nil {
		return nil, err
	}
	has := make([]*Host, len(list))
	errs := s.each(ctx, list, func(i int, h *Host) error {
		on, err := h.has(ctx, vm)
		if on {
			has[i] = h
		}
		return err
	})
	var found []*Host
	for _, h := range has {
		if h != nil {
			found = append(found, h)
		}
	}
	switch lost := errors.Join(errs...); {
	case len(found) > 1:
		return s.arbitrate(ctx, vm, found)
	case len(found) == 1:
		return s.owns(vm, found[0]), nil
	case lost != nil:
		return nil, fmt.Errorf("VM %s: not every host could be asked: %w", vm, lost)
	case len(down) > 0: // it comes up elsewhere in a moment, or with its node
		return nil, fmt.Errorf("VM %s: %w: it is on no node that runs, and may be on %s", vm, errNodeDown, strings.Join(down, ", "))
	}
	return nil, fmt.Errorf("VM %s: %w on %s", vm, fs.ErrNotExist, s.name)
}

// errNodeDown is no fs.ErrNotExist: what is looked for may come back with its node.
var errNodeDown = errors.New("a node of the cluster is down")

// lastOwner asks the host that had the VM: mostly it still has. While the VM is on its way all are asked.
func (s *Site) lastOwner(ctx context.Context, vm string) *Host {
	s.mu.Lock()
	n := s.nodes[s.owners[vm]]
	s.mu.Unlock()
	if n == nil {
		return nil
	}
	h, err := n.get(ctx, s)
	if err != nil {
		return nil
	}
	in, err := h.find(ctx, vm)
	if err != nil || s.inOne && migrating(in) {
		return nil
	}
	return h
}

func (s *Site) owns(vm string, h *Host) *Host {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owners[vm] = strings.ToLower(h.info.Name)
	return h
}

// settled finds a VM for the end of an effect of it. No machine and no error: it is gone. One that moves between two questions is on its
// old host no more, or was on the new one not yet when that was asked: neither is gone.
func (s *Site) settled(ctx context.Context, vm string) (*Host, *Machine, error) {
	missed := false
	for try := 0; ; try++ {
		h, err := s.Owner(ctx, vm)
		var m *Machine
		switch {
		case errors.Is(err, fs.ErrNotExist) && (missed || !s.inOne):
			return nil, nil, nil
		case errors.Is(err, fs.ErrNotExist):
			missed = true
		case err != nil:
			return nil, nil, err
		default:
			m, err = h.Machine(ctx, vm)
		}
		if err == nil {
			return h, m, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || try == removals {
			return nil, nil, err
		}
		if err := pause(ctx, firstPause); err != nil {
			return nil, nil, err
		}
	}
}

// arbitrate: while a VM moves two hosts have it, and the cluster says whose it is.
func (s *Site) arbitrate(ctx context.Context, vm string, found []*Host) (*Host, error) {
	var owner string
	err := s.anyone(ctx, func(h *Host) (err error) {
		owner, err = h.clusterOwner(ctx, vm)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("VM %s: two hosts have it, and whose it is cannot be asked: %w", vm, err)
	}
	var names []string
	for _, h := range found {
		if sameMachine(h.info.Name, owner) {
			return s.owns(vm, h), nil
		}
		names = append(names, h.info.Name)
	}
	return nil, fmt.Errorf("VM %s: %w: it is on %s at once, and the cluster names %q", vm, cim.ErrBusy, strings.Join(names, " and "), owner)
}

// HostNamed is the host of that name; one that is not of the site is fs.ErrNotExist.
func (s *Site) HostNamed(ctx context.Context, name string) (*Host, error) {
	if sameMachine(name, s.first.name) {
		return s.first.get(ctx, s)
	}
	if s.inOne {
		if _, _, err := s.members(ctx); err != nil {
			return nil, err
		}
	}
	if n := s.known(name); n != nil {
		return n.get(ctx, s)
	}
	return nil, fmt.Errorf("host %.60q: %w in %s", name, fs.ErrNotExist, s.name)
}

func (s *Site) known(name string) *siteNode {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if sameMachine(name, n.name) {
			return n
		}
	}
	return nil
}

// sameMachine compares names of which one may be with its domain.
func sameMachine(a, b string) bool {
	short := func(s string) string { s, _, _ = strings.Cut(s, "."); return s }
	if strings.Contains(a, ".") && strings.Contains(b, ".") {
		return strings.EqualFold(a, b)
	}
	return a != "" && strings.EqualFold(short(a), short(b))
}

// Hosts are those that can be reached now; the others are in the error, beside a list that is good.
func (s *Site) Hosts(ctx context.Context) ([]*Host, error) {
	list, _, err := s.members(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]*Host, len(list))
	errs := s.each(ctx, list, func(i int, h *Host) error { all[i] = h; return nil })
	var hosts []*Host
	for _, h := range all {
		if h != nil {
			hosts = append(hosts, h)
		}
	}
	return hosts, errors.Join(errs...)
}

// Close ends all connections.
func (s *Site) Close() error {
	s.mu.Lock()
	nodes, stores := s.nodes, s.stores
	s.nodes, s.stores, s.closed = nil, nil, true
	s.mu.Unlock()
	var failed []error
	for _, st := range stores {
		failed = append(failed, st.close())
	}
	for _, n := range nodes {
		failed = append(failed, n.close())
	}
	return errors.Join(failed...)
}
