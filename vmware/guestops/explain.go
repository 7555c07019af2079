package guestops

import (
	"errors"
	"io/fs"
	"net"

	"github.com/hikae/hikae/guest"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// explain finds words for what vSphere answered. Faults that are about files become errors of io/fs.
func explain(step string, err error) error {
	e := &guest.WayError{Kind: guest.VSphere, Step: step, Err: withoutURL(err), Problem: guest.Printable(withoutURL(err).Error(), 300)}
	if !soap.IsSoapFault(err) {
		unreached(e, err)
		return e
	}
	switch f := soap.ToSoapFault(err).VimFault().(type) {
	case types.InvalidGuestLogin, types.GuestAuthenticationChallenge:
		e.Step, e.Problem = "login", "the guest does not take this account"
		e.Hint = "check the account's name and password in the guest; on Windows write DOMAIN\\User or .\\User"
	case types.GuestPermissionDenied:
		e.Step, e.Problem = "rights", "the account has not the right to do this in the guest"
		e.Hint = "on Windows use the built-in Administrator or a domain account: remote UAC cuts others down"
	case types.NoPermission:
		e.Step, e.Problem = "rights", "the vSphere account lacks the privilege "+guest.Printable(f.PrivilegeId, 100)
		e.Hint = "give its role VirtualMachine.GuestOperations.Query, .Modify and .Execute"
	case types.GuestOperationsUnavailable, types.ToolsUnavailable:
		e.Step, e.Problem = "tools", "VMware Tools do not answer in the guest"
		e.Hint = "install VMware Tools or open-vm-tools, see that they run, and wait until the guest has started"
	case types.GuestComponentsOutOfDate:
		e.Step, e.Problem, e.Hint = "tools", "VMware Tools in the guest are too old", "update them"
	case types.OperationDisabledByGuest, types.OperationNotSupportedByGuest:
		e.Step, e.Problem = "tools", "the guest's VMware Tools refuse this operation"
		e.Hint = "see to the section [guestoperations] of tools.conf in the guest"
	case types.InvalidPowerState, types.InvalidState:
		e.Step, e.Problem, e.Hint = "power", "the machine is not running", "start it, or leave its guest out"
	case types.TooManyGuestLogons:
		e.Step, e.Problem, e.Hint = "login", "too many logons in the guest", "try again later"
	case types.NotAuthenticated, types.InvalidLogin:
		e.Step, e.Problem, e.Hint = "connect", "the session with vSphere has ended", "log in again"
	case types.ManagedObjectNotFound:
		e.Step, e.Problem, e.Err = "connect", "vSphere does not know this machine", &fileError{err, fs.ErrNotExist}
	case types.FileNotFound:
		e.Problem, e.Err = "no such file in the guest", &fileError{err, fs.ErrNotExist}
	case types.FileAlreadyExists:
		e.Problem, e.Err = "the file is there already", &fileError{err, fs.ErrExist}
	case types.CannotAccessFile:
		e.Problem, e.Err = "the guest cannot open the file", &fileError{err, fs.ErrPermission}
	case types.NoDiskSpace:
		e.Problem, e.Hint = "the guest's disk is full", "free some space there"
	}
	return e
}

// fileError is a fault that is also one of io/fs.
type fileError struct {
	error
	kind error
}

func (e *fileError) Unwrap() []error { return []error{e.kind, e.error} }

func unreached(e *guest.WayError, err error) {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		e.Step, e.Hint = "resolve", "check the name of the vCenter or ESXi host"
	case soap.IsCertificateUntrusted(err):
		e.Step, e.Hint = "certificate", "give the client the authority's certificate or the host's thumbprint"
	default:
		e.Hint = "check that the vCenter or ESXi host can be reached at port 443"
	}
}

// aboutFiles says whether another folder is worth trying: the guest has answered, and it was about this one.
func aboutFiles(err error) bool {
	var e *guest.WayError
	if !errors.As(err, &e) {
		return false
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return true
	}
	if !soap.IsSoapFault(e.Err) {
		return false
	}
	switch soap.ToSoapFault(e.Err).VimFault().(type) {
	case types.NoDiskSpace, types.GuestOperationsFault:
		return true
	}
	return false
}
