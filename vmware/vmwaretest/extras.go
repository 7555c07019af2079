package vmwaretest

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// extras are what stands beside the inventory: files over HTTP, leases, tickets, disks of others, control from outside.
type extras struct {
	s   *Server
	ctx context.Context // ends with the server
	end context.CancelFunc

	folder      folder
	leases      leases
	disks       diskService
	attachments attachments
	proxies     proxies
	controls    controls

	work sync.WaitGroup // started by later
}

// newExtras are those of a server.
func newExtras(s *Server) *extras {
	e := &extras{s: s}
	e.ctx, e.end = context.WithCancel(context.Background())
	e.folder.s, e.disks.s = s, s
	return e
}

// start implements service.
func (e *extras) start() error {
	e.lay()
	e.s.sim.Config.Handler = e.serve(e.s.sim.Config.Handler)
	return e.disks.start()
}

// stop implements service.
func (e *extras) stop() error {
	e.end()
	e.controls.close()
	e.leases.close()
	err := errors.Join(e.proxies.close(), e.disks.close())
	e.work.Wait()
	return err
}

// leftovers implements service.
func (e *extras) leftovers() []string {
	return slices.Concat(e.leases.leftovers(), e.disks.leftovers(), e.attachments.leftovers(e.s))
}

// serve answers what is about files and leases, and leaves the rest to next.
func (e *extras) serve(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, folderPrefix):
			e.folder.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, leasePrefix):
			e.leases.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// lay puts the calls that are done here over the simulator's.
func (e *extras) lay() {
	s := e.s
	s.lay("SessionManager", &sessionCalls{s.over("SessionManager", "extras")})
	s.lay("VirtualDiskManager", &diskCalls{s.over("VirtualDiskManager", "extras")})
	s.lay("FileManager", &fileCalls{s.over("FileManager", "extras")})
	s.lay("ResourcePool", &poolCalls{s.over("ResourcePool", "extras")})
	s.lay("VirtualMachine", &machineCalls{s.over("VirtualMachine", "extras")})
	s.lay("VirtualMachineSnapshot", &pinnedCalls{s.over("VirtualMachineSnapshot", "extras")})

	before := &newVMCalls{s.over("Folder", "extras"), &folderCalls{s.over("Folder", "core")}}
	s.reg.Put(before)
	s.overlays["Folder"] = append([]mo.Reference{before}, s.overlays["Folder"]...)
	s.changeDisk = s.changeForeign
}

// later does work that a call does not wait for.
func (s *Server) later(work func()) {
	s.extras.work.Add(1)
	go func() {
		defer s.extras.work.Done()
		work()
	}()
}

// datastoreFolders are where the datastores lie on this machine.
func (s *Server) datastoreFolders() (out []string) {
	for _, e := range s.reg.All("Datastore") {
		if ds, ok := e.(*simulator.Datastore); ok {
			out = append(out, ds.Summary.Url)
		}
	}
	return out
}

// reaches reports whether the host of a VM has the datastore of a file.
func (s *Server) reaches(vm *simulator.VirtualMachine, file string) bool {
	var p object.DatastorePath
	if !p.FromString(file) || vm.Runtime.Host == nil {
		return false
	}
	host, ok := s.reg.Get(*vm.Runtime.Host).(*simulator.HostSystem)
	return ok && slices.ContainsFunc(host.Datastore, func(ref types.ManagedObjectReference) bool {
		ds, ok := s.reg.Get(ref).(*simulator.Datastore)
		return ok && ds.Name == p.Datastore
	})
}
