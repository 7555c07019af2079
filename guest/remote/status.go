package remote

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"github.com/hikae/hikae/guest"
)

// Status is how a proxy is: what a choice among proxies needs to know of it.
type Status struct {
	Version int    `json:"version"` // of the protocol
	Product string `json:"product"` // the program's version
	Arch    string `json:"arch"`
	System  System `json:"system"`
	// Addresses are the machine's own, without those of the loopback.
	Addresses []netip.Addr `json:"addresses"`
	Kinds     []guest.Kind `json:"kinds"`   // of channels that it has
	Tasks     int          `json:"tasks"`   // that there are, without the one that asked
	Limit     int          `json:"limit"`   // guests that are worked in at once
	Waiting   int          `json:"waiting"` // tasks that wait for room
	// Leftovers are what dead processes of this proxy may have left. [Client.Sweep] takes them away.
	Leftovers []Leftover `json:"leftovers"`
}

// System is what a proxy's machine is.
type System struct {
	OS         string `json:"os"`         // windows, linux, as Go calls them
	Server     bool   `json:"server"`     // a server edition of Windows
	Version    string `json:"version"`    // 10.0.20348; 12 on Debian
	PowerShell string `json:"powershell"` // its version; empty where there is none
	Domain     string `json:"domain"`     // Active Directory domain; empty where it is in none, or that is not known
}

// sort puts lists in an order, and bounds them.
func (s *Status) sort() {
	slices.Sort(s.Kinds)
	slices.SortFunc(s.Leftovers, func(a, b Leftover) int { return cmp.Or(cmp.Compare(a.Guest, b.Guest), cmp.Compare(a.Folder, b.Folder)) })
}

const maxAddresses = 256

// addresses are this machine's.
func addresses() (out []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if ip, ok := netip.AddrFromSlice(n.IP); ok && !ip.IsLoopback() && len(out) < maxAddresses {
			out = append(out, ip.Unmap())
		}
	}
	return out
}
