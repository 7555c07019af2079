package proxy

import (
	"fmt"
	"slices"
	"strings"
)

// Versions that the requirements name.
const (
	leastPowerShell  = "2.0"
	leastDirectHost  = "10.0.14393" // Hyper-V 2016
	leastDirectGuest = "10.0"       // Windows 10, Windows Server 2016
)

// problems are the requirements that a machine does not meet for this guest, each in words with what was found.
func (c *GuestChoice) problems(w *Worker) (out []string) {
	say := func(wrong bool, format string, args ...any) {
		if wrong {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	if !c.proxied() { // nothing is asked of the backup server
		say(!w.BackupServer, "the guest runs %s: the backup server does that itself", nameOS(c.VM.OS))
		return out
	}
	say(len(c.Rules.Manual) > 0 && !slices.Contains(c.Rules.Manual, w.Name), "it is not among those chosen by hand")
	out = append(out, c.systemProblems(w)...)
	say(w.Away != "", "%s", w.Away)
	say(!w.Managed, "it was not added to the infrastructure")
	out = append(out, c.accountProblems(w)...)
	return append(out, c.reachProblems(w)...)
}

// systemProblems is requirement 1 (R155).
func (c *GuestChoice) systemProblems(w *Worker) []string {
	switch {
	case windows(w.OS) && w.Server:
		return nil
	case windows(w.OS):
		return []string{"it runs Windows, but not Windows Server"}
	case !strings.EqualFold(w.OS, "linux"):
		return []string{fmt.Sprintf("it runs %s, not Windows Server or Linux", nameOS(w.OS))}
	case c.Rules.WindowsOnly:
		return []string{"it runs Linux, and the job allows Windows Server only"}
	}
	return nil
}

// accountProblems: a group managed service account is for Windows machines of its domain, and not for a hypervisor's
// way in.
func (c *GuestChoice) accountProblems(w *Worker) (out []string) {
	if !c.Rules.ManagedAccount {
		return nil
	}
	if !windows(w.OS) {
		out = append(out, "group managed service accounts need Windows")
	} else if c.Rules.Domain == "" || !strings.EqualFold(w.Domain, c.Rules.Domain) {
		out = append(out, fmt.Sprintf("it is not in the domain of the group managed service account (%s)", orNone(c.Rules.Domain)))
	}
	if c.Rules.Networkless {
		out = append(out, "group managed service accounts cannot be used without a network")
	}
	return out
}

// reachProblems are requirements 3 and 4 (R157, R158, R141): a LAN or the hypervisor's own way, one is enough.
func (c *GuestChoice) reachProblems(w *Worker) []string {
	lan := c.lanProblem(w)
	if lan == "" {
		return nil
	}
	if c.Rules.ManagedAccount {
		return []string{lan}
	}
	direct := c.directProblem(w)
	if direct == "" {
		return nil
	}
	return []string{lan, direct}
}

// lanProblem is why a machine has no LAN connection to the VM, empty where it has one or may have one.
func (c *GuestChoice) lanProblem(w *Worker) string {
	switch {
	case c.Rules.Networkless:
		return "the job leaves out the network"
	case w.Site != c.VM.Site:
		return fmt.Sprintf("no LAN connection: it is in %s, the VM in %s", site(w.Site), site(c.VM.Site))
	case w.Reaches == nil, sameNetwork(w, &c.VM), routed(w, &c.VM):
		return ""
	}
	return "no LAN connection: it reaches none of the VM's networks"
}

// directProblem is why the hypervisor's own way is closed to a machine.
func (c *GuestChoice) directProblem(w *Worker) string {
	vm := &c.VM
	switch {
	case vm.Direct == "":
		return "the hypervisor offers no way into this guest"
	case w.Hosts == nil && w.Site != vm.Site:
		return fmt.Sprintf("%s runs in %s, and it is not said that this machine reaches it", hostName(vm.Host), site(vm.Site))
	case w.Hosts != nil && !slices.Contains(w.Hosts, vm.Host):
		return fmt.Sprintf("it does not reach %s", hostName(vm.Host))
	case vm.Direct != PSDirect:
		return ""
	case !atLeast(vm.HostVersion, leastDirectHost):
		return fmt.Sprintf("PowerShell Direct needs Hyper-V 2016 (%s) or newer, %s has %s", leastDirectHost, hostName(vm.Host), orNone(vm.HostVersion))
	case !atLeast(vm.Version, leastDirectGuest):
		return fmt.Sprintf("PowerShell Direct needs Windows 10 or Server 2016 (%s) or newer in the guest, there is %s", leastDirectGuest, orNone(vm.Version))
	case !atLeast(w.PowerShell, leastPowerShell):
		return fmt.Sprintf("PowerShell Direct needs PowerShell %s or newer, it has %s", leastPowerShell, orNone(w.PowerShell))
	}
	return ""
}
