package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"

	"github.com/hikae/hikae/hyperv/cim"
)

// siteNode is a host of a site, connected to when it is first needed. One that could not be reached is tried again when it is next
// asked for.
type siteNode struct {
	name string

	mu     sync.Mutex
	host   *Host
	closed bool
}

// get is the host behind it. Who waits for somebody else's logon waits no longer than that is allowed to take.
func (n *siteNode) get(ctx context.Context, s *Site) (*Host, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errClosed
	}
	if n.host != nil {
		return n.host, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.NodeLimit, fmt.Errorf("no logon within %v: %w", s.opts.NodeLimit, context.DeadlineExceeded))
	defer cancel()
	h, err := Connect(ctx, s.where(n.name), s.login, s.nodeOptions())
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", n.name, err)
	}
	if !sameMachine(h.info.Name, n.name) {
		h.Close()
		return nil, fmt.Errorf("node %s: %w: %s answers in its place", n.name, cim.ErrMalformed, h.info.Name)
	}
	n.host = h
	return h, nil
}

func (n *siteNode) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	if n.host == nil {
		return nil
	}
	return n.host.Close()
}

// nodeOptions are those of the site, without what is only the first machine's: the name in its certificate.
func (s *Site) nodeOptions() *Options {
	o := s.opts.Host
	if o.CIM != nil {
		c := *o.CIM
		c.ServerName = ""
		o.CIM = &c
	}
	return &o
}

// where a node is reached: nodes tell their short names, and the first one's domain is likely theirs.
func (s *Site) where(node string) string {
	if s.opts.Address != nil {
		if addr := s.opts.Address(node, ProtocolCIM); addr != "" {
			return addr
		}
	}
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		host, port = strings.Trim(s.addr, "[]"), ""
	}
	if _, domain, ok := strings.Cut(host, "."); ok && net.ParseIP(host) == nil && !strings.Contains(node, ".") {
		node += "." + domain
	}
	if port != "" {
		return net.JoinHostPort(node, port)
	}
	return node
}

// has says whether a VM is on a host.
func (h *Host) has(ctx context.Context, vm string) (bool, error) {
	_, err := h.find(ctx, vm)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

const statusMigrating = 32774 // OperationalStatus[1]

// migrating: it is on its way to another host, or comes from one.
func migrating(in *cim.Instance) bool {
	var system struct {
		Status []uint16 `cim:"OperationalStatus"`
	}
	return in.Decode(&system) == nil && len(system.Status) > 1 && system.Status[1] == statusMigrating
}
