package outcome

import (
	"errors"
	"strings"

	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/helper"
	"github.com/hikae/hikae/hyperv/hostfs"
)

// What to do about a Hyper-V host that does not do what was asked.
const (
	hypervLogin  = "Check the user in the address and HIKAE_SOURCE_PASSWORD. One of a domain is written DOMAIN%5Cuser or user%40example.org in an address."
	hypervReach  = "Is this a Hyper-V host, with WinRM on port 5985, or 5986 with &tls=1? docs/hyperv.md says how to set it up."
	hypervTLS    = "&thumbprint=DIGITS names the host's certificate (on the host: Get-ChildItem Cert:\\LocalMachine\\My), &ca=FILE who made it; without &tls=1, port 5985 encrypts by NTLM or Kerberos."
	hypervRights = "The account must be in Hyper-V Administrators and Remote Management Users; for files over SMB, and procedures that ask the host's VSS, in Administrators."
	hypervChecks = "`hikae hyperv check` says more. &check=off goes on all the same, where you know better."
	hypervNames  = "`hikae hyperv list` shows the GUID of each, which &vm= takes too."
	hypervPlans  = "`hikae hyperv check` shows each condition, and what was found. Without &procedure= and &mode= the best that is possible is chosen."
)

// ErrNoHelper says that what is brought to Hyper-V hosts is not there.
var ErrNoHelper = errors.New("there is no helper for Hyper-V hosts")

// hypervRules are lines of the table for errors of Hyper-V.
func hypervRules() []rule {
	return []rule{
		{is(ErrNoHelper), KindNotFound, Failed, "`make agents` builds it beside the program; HIKAE_AGENT_DIR names another folder."},
		{reachStep("login"), KindSecret, Failed, hypervLogin},
		{reachStep("certificate"), KindPermission, Failed, hypervTLS},
		{reachStep("rights"), KindPermission, Failed, hypervRights},
		{as[*cim.ReachError], KindFailed, Failed, hypervReach},
		{is(hostfs.ErrLogon), KindSecret, Failed, hypervLogin},
		{as[*hyperv.PreflightError], KindFailed, Failed, hypervChecks},
		{as[*hyperv.PlanError], KindUnsupported, Failed, hypervPlans},
		{as[*hyperv.UnprovenError], KindFailed, Failed, "Look at the checkpoint on the host; the backup can be run again at once."},
		{as[*hyperv.AmbiguousError], KindAmbiguous, Failed, hypervNames},
		{as[*hyperv.RoomError], KindNoSpace, Failed, "Make room there, choose another folder by &path=, or &provisioning=dynamic."},
		{as[*hyperv.PowerOnError], KindFailed, Failed, "The VM is whole: look at it in Hyper-V Manager, and start it there."},
		{is(helper.ErrBusy), KindBusy, Failed, "Run the command again when the other backup of this host has ended."},
		{is(helper.ErrWriter), KindFailed, Failed, "On the host, `vssadmin list writers` shows the state of the Hyper-V writer."},
	}
}

func reachStep(step string) func(error) bool {
	return func(err error) bool {
		e, ok := errors.AsType[*cim.ReachError](err)
		return ok && e.Step == step
	}
}

// hypervMessage is an error of Hyper-V in words for people. Empty where it is another error.
func hypervMessage(err error) string {
	if e, ok := errors.AsType[*hyperv.PreflightError](err); ok {
		return e.Error()
	}
	if reachStep("login")(err) {
		return "the host does not take this user with this password"
	}
	return ""
}

// hypervHint is what an error of the way to a host says itself, which fits better than the table's line.
func hypervHint(err error) string {
	if e, ok := errors.AsType[*cim.ReachError](err); ok && e.Step != "login" && e.Step != "certificate" {
		return strings.TrimSpace(e.Hint)
	}
	if e, ok := errors.AsType[*hyperv.UnprovenError](err); ok {
		return e.Hint
	}
	if e, ok := errors.AsType[*hyperv.PreflightError](err); ok {
		for _, f := range e.Preflight.Findings { // what cannot be reached does not get better by not being looked at
			if f.Severity == hyperv.Stop && f.Name == hyperv.FindRights {
				return f.Hint
			}
		}
	}
	return ""
}

// hypervObject is the VM that an error of Hyper-V is about.
func hypervObject(err error) string {
	if e, ok := errors.AsType[*hyperv.PreflightError](err); ok {
		return e.Preflight.Name
	}
	if e, ok := errors.AsType[*hyperv.PlanError](err); ok {
		return e.Name
	}
	return ""
}
