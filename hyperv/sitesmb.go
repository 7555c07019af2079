package hyperv

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"strings"

	"github.com/hikae/hikae/hyperv/hostfs"
)

// openStore reaches a machine's files by SMB, with the site's login.
func (s *Site) openStore(_ context.Context, machine string) (Store, error) {
	return hostfs.New(hostfs.Options{Machine: machine, Login: s.smbLogin, Address: s.whereFiles})
}

// smbLogin tells who logs on to a server, if it is one that is known: whoever is logged on to learns what an attack on the password
// needs, and a disk file can name anybody's server as its parent's.
func (s *Site) smbLogin(_ context.Context, server string) (hostfs.Login, error) {
	if !s.trusts(server) {
		return hostfs.Login{}, fmt.Errorf("server %.60q: %w: it is none of %s, and no VM's configuration names it (name it by smb.%s)", server, fs.ErrPermission, s.name, server)
	}
	return hostfs.Login(s.login), nil
}

// trusts: hosts of the site, the cluster by its own name, and what [Site.TrustServer] was told.
func (s *Site) trusts(server string) bool {
	if s.known(server) != nil || s.inOne && sameMachine(server, s.name) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.servers[strings.ToLower(server)]
}

// TrustServer says that files of a file server are wanted: the site's login is shown to it. VMs' configurations, as the hosts tell
// them, do so by themselves; what a disk file names as its parent's place does not.
func (s *Site) TrustServer(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.servers) < maxServers {
		s.servers[strings.ToLower(server)] = true
	}
}

const maxServers = 10_000

// trustFiles takes the servers that a VM's disks lie on.
func (s *Site) trustFiles(m *Machine) {
	for _, d := range m.Disks {
		if server := serverOf(d.Path); server != "" && !d.Physical {
			s.TrustServer(server)
		}
	}
}

// serverOf is the server in \\server\share\…, empty in any other name.
func serverOf(file string) string {
	rest, ok := strings.CutPrefix(file, `\\`)
	server, share, found := strings.Cut(rest, `\`)
	if !ok || !found || share == "" || server == "." || strings.Contains(server, ":") || !isHostPort(server) {
		return "" // \\.\ and \\?\ are devices
	}
	return server
}

// whereFiles is where a machine's SMB is reached: a host of the site where its management is, at the usual port.
func (s *Site) whereFiles(server string) string {
	if s.opts.Address != nil {
		if addr := s.opts.Address(server, ProtocolSMB); addr != "" {
			return addr
		}
	}
	n := s.known(server)
	if n == nil {
		return ""
	}
	addr := s.addr
	if n != s.first {
		addr = s.where(n.name)
	}
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return strings.Trim(addr, "[]")
}
