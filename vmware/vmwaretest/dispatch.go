package vmwaretest

import (
	"reflect"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// overlaid is the root of objects whose methods take the place of the simulator's, for all objects of one type. A call finds
// the method by its name ("CreateSnapshot_Task" is CreateSnapshotTask), and in the request's This the object that is meant.
// They are called without any lock of the simulator's.
//
// A managed object comes first in them, as in all that is in the simulator's registry: its searches look into every object there,
// and end the call where there is none.
type overlaid struct {
	mo.ExtensibleManagedObject
	s *Server
}

// Lock and Unlock make the simulator take no lock around a call.
func (o *overlaid) Lock()   {}
func (o *overlaid) Unlock() {}

// lay puts an overlay over all objects of a type. What was laid first is asked first.
func (s *Server) lay(kind string, o mo.Reference) {
	s.reg.Put(o)
	s.overlays[kind] = append(s.overlays[kind], o)
}

// over is the root of an overlay for a type.
func (s *Server) over(kind, part string) overlaid {
	self := types.ManagedObjectReference{Type: "Overlay" + kind, Value: part}
	return overlaid{ExtensibleManagedObject: mo.ExtensibleManagedObject{Self: self}, s: s}
}

// overlay lays all that this package does better.
func (s *Server) overlay() {
	s.overlays = map[string][]mo.Reference{}
	s.lay("VirtualMachine", &vmCalls{s.over("VirtualMachine", "core")})
	s.lay("VirtualMachineSnapshot", &snapshotCalls{s.over("VirtualMachineSnapshot", "core")})
	s.lay("Task", &taskCalls{s.over("Task", "core")})
	s.lay("Folder", &folderCalls{s.over("Folder", "core")})
	s.lay("SearchIndex", &searchCalls{s.over("SearchIndex", "core")})
	s.lay("Datastore", &datastoreCalls{s.over("Datastore", "core")})
	s.lay("AuthorizationManager", &authorizationCalls{s.over("AuthorizationManager", "core")})
	s.lay("PerformanceManager", &performanceCalls{s.over("PerformanceManager", "core")})
	s.lay("GuestProcessManager", &guestCalls{s.over("GuestProcessManager", "core")})
	s.lay("GuestAuthManager", &guestCalls{s.over("GuestAuthManager", "core")})
	s.reg.Handler = s.handle
}

// handle sees every call before the simulator does. It refuses it, or leads it to an overlay.
func (s *Server) handle(ctx *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if ctx.Session == nil || ctx.Session.UserName == "" { // nobody, or the simulator itself
		return nil, nil
	}
	if f := s.refuse(ctx.Session.UserName, m); f != nil {
		return nil, f
	}
	if f := s.meet(m.Name, m.This.Value, inSOAP); f != nil {
		if f.InTask {
			withFault(ctx, f)
		} else {
			s.pause(f.Delay)
			if f.Fault != nil {
				return nil, f.Fault
			}
		}
	}
	if o := s.overlayFor(m); o != nil {
		m.This = o.Reference()
	}
	return nil, nil
}

func (s *Server) overlayFor(m *simulator.Method) mo.Reference {
	name := m.Name
	if base, ok := strings.CutSuffix(name, "_Task"); ok {
		name = base + "Task"
	}
	for _, o := range s.overlays[m.This.Type] {
		if reflect.ValueOf(o).MethodByName(name).IsValid() {
			return o
		}
	}
	return nil
}

// refuse is what stands between a user and a call: the licence, privileges, methods that are disabled.
func (s *Server) refuse(user string, m *simulator.Method) types.BaseMethodFault {
	need := privilegesOf[m.Name]
	if need != nil && s.isRestricted() && !strings.HasPrefix(need[0], "System.") {
		return &types.RestrictedVersion{}
	}
	for _, p := range need {
		if !s.may(user, p) {
			return &types.NoPermission{Object: &m.This, PrivilegeId: p}
		}
	}
	if v := s.VMByRef(m.This); v != nil && v.isDisabled(m.Name) {
		return &types.MethodDisabled{}
	}
	return nil
}
