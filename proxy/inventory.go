package proxy

import (
	"net/netip"
	"strconv"
	"strings"
)

// Role is something that a machine does for the infrastructure.
type Role string

// The roles. Any machine may have several, and with any of them be a guest interaction proxy.
const (
	BackupProxyRole Role = "backup proxy"
	RepositoryRole  Role = "repository"
	GatewayRole     Role = "gateway"
	HostRole        Role = "hypervisor host"
)

// Worker is a machine that may work in guests: a candidate for guest interaction proxy.
type Worker struct {
	Machine
	OS      string `json:"os"`                // windows, linux
	Server  bool   `json:"server,omitempty"`  // a server edition of Windows
	Version string `json:"version,omitempty"` // of its operating system
	// PowerShell is its version, as "5.1"; empty where there is none.
	PowerShell string `json:"powershell,omitempty"`
	// Domain is the Active Directory domain that it is a member of.
	Domain string `json:"domain,omitempty"`
	// Managed says that it was added to the infrastructure, so that our service runs on it.
	Managed bool   `json:"managed"`
	Roles   []Role `json:"roles,omitempty"`

	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Reaches are networks that it reaches besides those that its addresses lie in. Nil: what it reaches is not known,
	// and it is asked to try.
	Reaches []netip.Prefix `json:"reaches,omitempty"`
	// Hosts are hypervisor hosts by which it reaches guests without a network. Nil: not known; those of its own site.
	Hosts []string `json:"hosts,omitempty"`

	Tasks int `json:"tasks"`           // that it is running now
	Limit int `json:"limit,omitempty"` // tasks that it may run at once; zero: no limit

	// Away says in words why it cannot be asked just now; empty where it can.
	Away string `json:"away,omitempty"`
}

// VM is a guest that is to be worked in, and what is known of it from outside.
type VM struct {
	Name    string `json:"name"`
	OS      string `json:"os"`                // windows, linux, or what else it calls itself
	Version string `json:"version,omitempty"` // of its operating system: "10.0.17763" for Windows
	Site    string `json:"site,omitempty"`
	// Networks are its addresses with the lengths of their networks' prefixes: 10.1.2.3/24.
	Networks []netip.Prefix `json:"networks,omitempty"`
	// Host is where it runs, HostVersion the version of that system, Direct the hypervisor's own way in.
	Host        string `json:"host,omitempty"`
	HostVersion string `json:"hostVersion,omitempty"`
	Direct      Direct `json:"direct,omitempty"`
}

// Direct is a hypervisor's own way into its guests, which needs no network.
type Direct string

// The hypervisors' ways.
const (
	VSphere  Direct = "vsphere"  // vSphere guest operations
	PSDirect Direct = "psdirect" // PowerShell Direct
	QGA      Direct = "qga"      // the QEMU guest agent
)

func windows(os string) bool { return strings.EqualFold(os, "windows") }

// sameNetwork reports whether one of the worker's addresses lies in one of the VM's networks. Addresses that mean
// something on one link only, which every machine has, tell nothing.
func sameNetwork(w *Worker, vm *VM) bool {
	for _, n := range vm.Networks {
		if n = plainPrefix(n); !telling(n) {
			continue
		}
		for _, a := range w.Addresses {
			if a = plain(a); n.Contains(a) {
				return true
			}
		}
	}
	return false
}

// telling reports whether a network says where a machine is.
func telling(n netip.Prefix) bool {
	a := n.Addr()
	return n.IsValid() && n.Bits() > 0 && !a.IsUnspecified() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast()
}

// plain is an address without a zone, and one of IPv4 as such.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// plainPrefix is the same for a network.
func plainPrefix(n netip.Prefix) netip.Prefix {
	a, bits := n.Addr(), n.Bits()
	if a.Is4In6() {
		bits -= 96
	}
	return netip.PrefixFrom(plain(a), bits)
}

// routed reports whether one of the VM's addresses lies in a network that the worker is said to reach.
func routed(w *Worker, vm *VM) bool {
	for _, n := range vm.Networks {
		for _, r := range w.Reaches {
			if r = plainPrefix(r); r.IsValid() && r.Contains(plain(n.Addr())) {
				return true
			}
		}
	}
	return false
}

// atLeast compares versions number by number. What is no version is less than any.
func atLeast(version, least string) bool {
	have, ok := numbers(version)
	if !ok {
		return false
	}
	want, _ := numbers(least)
	for i, w := range want {
		n := 0 // "2" is 2.0
		if i < len(have) {
			n = have[i]
		}
		if n != w {
			return n > w
		}
	}
	return true
}

func numbers(version string) (out []int, ok bool) {
	for part := range strings.SplitSeq(strings.TrimSpace(version), ".") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 || len(out) == 8 {
			return nil, false
		}
		out = append(out, n)
	}
	return out, true
}
