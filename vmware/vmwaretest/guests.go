package vmwaretest

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// dressGuests makes guest operations say that there are none here. In the simulator a reference is missing, without which
// clients crash, and a program started in a guest crashes the call.
func (s *Server) dressGuests() {
	for _, o := range s.reg.AllReference("GuestOperationsManager") {
		m, ok := o.(*simulator.GuestOperationsManager)
		if !ok || m.AuthManager != nil {
			continue
		}
		m.AuthManager = &types.ManagedObjectReference{Type: "GuestAuthManager", Value: "guestOperationsAuthManager"}
		s.reg.Put(&guestAuth{mo.GuestAuthManager{Self: *m.AuthManager}})
	}
}

type guestAuth struct{ mo.GuestAuthManager }

// guestCalls are the calls into guests, none of which has VMware Tools that take any.
type guestCalls struct{ overlaid }

func noGuest() *soap.Fault {
	return simulator.Fault("there are no guest operations here", &types.GuestOperationsUnavailable{})
}

// StartProgramInGuest is refused.
func (c *guestCalls) StartProgramInGuest(*simulator.Context, *types.StartProgramInGuest) soap.HasFault {
	return &methods.StartProgramInGuestBody{Fault_: noGuest()}
}

// ListProcessesInGuest is refused.
func (c *guestCalls) ListProcessesInGuest(*simulator.Context, *types.ListProcessesInGuest) soap.HasFault {
	return &methods.ListProcessesInGuestBody{Fault_: noGuest()}
}

// TerminateProcessInGuest is refused.
func (c *guestCalls) TerminateProcessInGuest(*simulator.Context, *types.TerminateProcessInGuest) soap.HasFault {
	return &methods.TerminateProcessInGuestBody{Fault_: noGuest()}
}

// ValidateCredentialsInGuest is refused.
func (c *guestCalls) ValidateCredentialsInGuest(*simulator.Context, *types.ValidateCredentialsInGuest) soap.HasFault {
	return &methods.ValidateCredentialsInGuestBody{Fault_: noGuest()}
}
