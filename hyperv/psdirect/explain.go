package psdirect

import (
	"fmt"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
)

// explain finds words for a script that did not come to its end. What it says itself stands after the mark.
func explain(r hikae.RunResult, mark string) error {
	_, said, marked := strings.Cut(string(r.Stderr), mark+" ")
	if !marked {
		said = string(r.Stderr)
	}
	said = guest.Printable(strings.Join(strings.Fields(said), " "), 300)
	e := &guest.WayError{Kind: guest.PSDirect, Step: "host", Problem: fmt.Sprintf("the script on the Hyper-V host ended with %d: %s", r.ExitCode, said)}
	if !marked {
		return e
	}
	switch r.ExitCode {
	case exitPowerShell:
		e.Problem, e.Hint = "the Hyper-V host has PowerShell "+said, "PowerShell Direct needs version 5; a guest interaction proxy at least 2.0"
	case exitHost:
		e.Problem, e.Hint = "the Hyper-V host runs Windows "+said, "PowerShell Direct needs Windows 10 or Windows Server 2016 there"
	case exitNoHyperV:
		e.Problem = "the host has no Hyper-V module for PowerShell"
		e.Hint = "connect to the Hyper-V host itself, and install Hyper-V-PowerShell there"
	case exitNoMachine:
		e.Step, e.Problem = "machine", "the host does not know the machine "+said
		e.Hint = "the machine may have moved to another host; the account on the host must be in Hyper-V Administrators"
	case exitState:
		e.Step, e.Problem, e.Hint = "power", "the machine is "+said, "start it, or leave its guest out"
	case exitSession:
		e.Step, e.Problem = "login", "no session into the guest: "+said
		e.Hint = "check the account; the guest must be Windows 10 or Windows Server 2016 or newer, and have started"
	case exitGuest:
		e.Step, e.Problem = "guest", "the guest runs Windows "+said
		e.Hint = "PowerShell Direct needs Windows 10 or Windows Server 2016 there"
	}
	return e
}
