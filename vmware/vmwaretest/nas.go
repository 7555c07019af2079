package vmwaretest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// nases are the datastores that hosts mounted by NFS. What the simulator looks at of them lies in a folder of this machine:
// descriptors, and the files of machines. The content of disks is nowhere but on the server.
type nases struct {
	s *Server

	mu     sync.Mutex
	mounts map[string]*nas // by name of the datastore
	mapper string
}

// nas is one of them.
type nas struct {
	*nasClient
	name  string
	local string
	ref   types.ManagedObjectReference
}

// AskPortMapper makes hosts ask for NFS servers at this HOST:PORT, whatever the server's address is. They ask at its port 111
// otherwise, where only root can answer. Mounts that are there ask at the new place when they connect again.
func (s *Server) AskPortMapper(address string) {
	s.nases.mu.Lock()
	defer s.nases.mu.Unlock()
	s.nases.mapper = address
	for _, n := range s.nases.mounts {
		n.mu.Lock()
		n.mapper = address
		n.mu.Unlock()
	}
}

// newNASes are those of a server.
func newNASes(s *Server) *nases { return &nases{s: s, mounts: map[string]*nas{}} }

// start implements service.
func (a *nases) start() error {
	a.s.lay("HostDatastoreSystem", &storeSystemCalls{a.s.over("HostDatastoreSystem", "nas")})
	return nil
}

// stop implements service.
func (a *nases) stop() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for _, n := range a.mounts {
		n.close()
		errs = append(errs, os.RemoveAll(filepath.Dir(n.local)))
	}
	a.mounts = map[string]*nas{}
	return errors.Join(errs...)
}

// leftovers implements service.
func (a *nases) leftovers() (out []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.mounts {
		out = append(out, fmt.Sprintf("datastore %s is mounted from %s", n.name, n.host))
	}
	return out
}

// of is the mount that a datastore is, or nil.
func (a *nases) of(datastore string) *nas {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mounts[datastore]
}

// storeSystemCalls are the calls on a host's datastores.
type storeSystemCalls struct{ overlaid }

// CreateNasDatastore mounts an export: the server is asked for its port and for the path, and its files are listed.
func (c *storeSystemCalls) CreateNasDatastore(ctx *simulator.Context, req *types.CreateNasDatastore) soap.HasFault {
	body := &methods.CreateNasDatastoreBody{}
	ref, fault := c.s.nases.mount(ctx, req)
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = &types.CreateNasDatastoreResponse{Returnval: ref}
	return body
}

func (a *nases) mount(ctx *simulator.Context, req *types.CreateNasDatastore) (ref types.ManagedObjectReference, f types.BaseMethodFault) {
	dss, ok := a.s.reg.Get(req.This).(*simulator.HostDatastoreSystem)
	spec := req.Spec
	switch {
	case !ok:
		return ref, &types.ManagedObjectNotFound{Obj: req.This}
	case spec.RemoteHost == "" || spec.RemotePath == "" || spec.Type != "NFS" && spec.Type != "":
		return ref, &types.InvalidArgument{InvalidProperty: "spec"}
	case spec.LocalPath == "" || len(spec.LocalPath) > 42 || strings.ContainsAny(spec.LocalPath, `/\%[]`):
		return ref, &types.InvalidName{Name: spec.LocalPath}
	case a.s.datastore(spec.LocalPath) != nil:
		return ref, &types.DuplicateName{Name: spec.LocalPath, Object: a.s.datastore(spec.LocalPath).Self}
	}
	a.mu.Lock()
	mapper := a.mapper
	a.mu.Unlock()
	if mapper == "" {
		mapper = net.JoinHostPort(spec.RemoteHost, "111")
	}
	n := &nas{nasClient: &nasClient{host: spec.RemoteHost, path: spec.RemotePath, mapper: mapper, stopping: a.s.stopping}, name: spec.LocalPath}
	if err := n.open(); err != nil {
		n.close()
		fault := &types.PlatformConfigFault{Text: "unable to complete Sysinfo operation: unable to connect to NFS server"}
		fault.FaultCause = &types.LocalizedMethodFault{Fault: &types.SystemErrorFault{Reason: err.Error()}, LocalizedMessage: err.Error()}
		return ref, fault
	}
	if ref, f = n.enter(ctx, a.s, dss, req); f != nil {
		n.close()
		os.RemoveAll(filepath.Dir(n.local))
		return ref, f
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mounts[n.name] = n
	return ref, nil
}

// maxMirrored bounds a file that the simulator gets to see.
const maxMirrored = 1 << 20

// open mounts, and takes over what the simulator looks at.
func (n *nas) open() error {
	if err := n.mount(); err != nil {
		return err
	}
	files, err := n.list(n.root)
	if err != nil {
		return err
	}
	above, err := os.MkdirTemp("", "hikae-nas-")
	if err != nil {
		return err
	}
	n.local = filepath.Join(above, n.name)
	if err := os.Mkdir(n.local, 0o700); err != nil {
		return err
	}
	for name, f := range files {
		if f.folder || !f.known || f.size > maxMirrored || strings.HasSuffix(name, "-flat.vmdk") || !filepath.IsLocal(name) || filepath.Base(name) != name {
			continue
		}
		content := make([]byte, f.size)
		if err := n.read(f, content, 0); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(n.local, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// enter makes it a datastore of the host.
func (n *nas) enter(ctx *simulator.Context, s *Server, dss *simulator.HostDatastoreSystem, req *types.CreateNasDatastore) (types.ManagedObjectReference, types.BaseMethodFault) {
	own := *req
	own.Spec.LocalPath, own.Spec.Type = n.local, "NFS" // the simulator calls it by the last part
	var body *methods.CreateNasDatastoreBody
	ctx.WithLock(dss.Host, func() { body, _ = dss.CreateNasDatastore(ctx, &own).(*methods.CreateNasDatastoreBody) })
	if body == nil || body.Res == nil {
		return n.ref, &types.HostConfigFault{}
	}
	n.ref = body.Res.Returnval
	if ds, ok := s.reg.Get(n.ref).(*simulator.Datastore); ok {
		ctx.WithLock(ds, func() {
			info := ds.Info.(*types.NasDatastoreInfo)
			info.Nas.Name, ds.Summary.MultipleHostAccess = n.name, types.NewBool(false)
		})
	}
	return n.ref, nil
}

// RemoveDatastore unmounts an export, unless a machine is registered on it.
func (c *storeSystemCalls) RemoveDatastore(ctx *simulator.Context, req *types.RemoveDatastore) soap.HasFault {
	body := &methods.RemoveDatastoreBody{}
	if fault := c.s.nases.unmount(ctx, req); fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = &types.RemoveDatastoreResponse{}
	return body
}

func (a *nases) unmount(ctx *simulator.Context, req *types.RemoveDatastore) types.BaseMethodFault {
	dss, ok := a.s.reg.Get(req.This).(*simulator.HostDatastoreSystem)
	ds, there := a.s.reg.Get(req.Datastore).(*simulator.Datastore)
	if !ok || !there {
		return &types.NotFound{}
	}
	n := a.of(ds.Name)
	if n == nil {
		return &types.InvalidArgument{InvalidProperty: "datastore"}
	}
	var used bool
	ctx.WithLock(ds, func() { used = len(ds.Vm) > 0 })
	if used {
		return &types.ResourceInUse{Type: "Datastore", Name: n.name}
	}
	body, _ := ds.DestroyTask(ctx, &types.Destroy_Task{This: ds.Self}).(*methods.Destroy_TaskBody)
	if body == nil || body.Res == nil {
		return &types.HostConfigFault{}
	}
	if _, err := a.s.settled(body.Res.Returnval); err != nil {
		return asFault(err)
	}
	a.s.reg.Remove(a.s.context(), body.Res.Returnval) // it is a part of this call
	ctx.WithLock(dss.Host, func() { simulator.RemoveReference(&dss.Datastore, ds.Self) })
	a.forget(n)
	return nil
}

// forget lets go of a mount, and of the disks that were on it.
func (a *nases) forget(n *nas) {
	a.s.mu.Lock()
	for name, l := range a.s.layers {
		if l.name.Datastore == n.name {
			_ = l.store.close()
			delete(a.s.layers, name)
		}
	}
	a.s.mu.Unlock()
	_, _ = n.call(rpcMount, mountUmnt, xdr(nil).bytes([]byte(n.path)))
	n.close()
	os.RemoveAll(filepath.Dir(n.local))
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.mounts, n.name)
}

// folderOf is where a machine's own files are on its mount, or nil where they are on none.
func (v *VM) folderOf() (n *nas, folder string) {
	folder = v.Folder()
	store, dir, ok := strings.Cut(strings.TrimPrefix(folder, "["), "] ")
	if !ok || dir == "" || strings.Contains(dir, "/") {
		return nil, ""
	}
	return v.s.nases.of(store), dir
}

// push writes the machine's own files to its mount, as the host that runs it does.
func (v *VM) push() error {
	n, folder := v.folderOf()
	if n == nil {
		return nil
	}
	dir, err := n.folder(n.root, folder)
	if err != nil {
		return err
	}
	list, err := os.ReadDir(filepath.Join(n.local, folder))
	if err != nil {
		return err
	}
	for _, e := range list {
		if !e.Type().IsRegular() || slices.Contains(diskFiles, path.Ext(e.Name())) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(n.local, folder, e.Name()))
		if err != nil {
			return err
		}
		if err := n.put(dir, e.Name(), content); err != nil {
			return err
		}
	}
	return nil
}

// wipe removes a folder of a mount, with its files.
func (n *nas) wipe(folder string) error {
	dir, err := n.lookup(n.root, folder)
	if err != nil {
		return err
	}
	files, err := n.list(dir.handle)
	if err != nil {
		return err
	}
	for name := range files {
		if err := n.remove(dir.handle, name, false); err != nil {
			return fmt.Errorf("remove %s/%s: %w", folder, name, err)
		}
	}
	return n.remove(n.root, folder, true)
}
