package vmwaretest

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Server is a vCenter Server, or a single host. Its methods may be called at once.
type Server struct {
	opts     Options
	model    *simulator.Model
	sim      *simulator.Server
	reg      *simulator.Registry
	ca       string
	overlays map[string][]mo.Reference // by type of managed object
	services []service
	extras   *extras // the one of them that is there
	nases    *nases  // datastores that hosts mounted
	// changeDisk, if set, is asked first about a change of a disk; ok is false where it is no business of its own.
	changeDisk func(v *VM, c *types.VirtualDeviceConfigSpec, d *types.VirtualDisk) (pass bool, then func() types.BaseMethodFault, f types.BaseMethodFault, ok bool)
	tasks      sync.WaitGroup // under way
	whole      chan struct{}  // closed when all that answers is in its place
	stopping   chan struct{}

	mu         sync.Mutex
	vms        map[types.ManagedObjectReference]*VM
	retired    map[string]retired // by the path of the file that they are registered by
	layers     map[string]*layer  // by datastore path
	users      map[string]*user
	faults     []*Fault
	nextTask   int
	jobs       map[types.ManagedObjectReference]*job
	latency    map[string]int64 // milliseconds, by name of datastore
	restricted bool
	broken     error // the first call that panicked
}

// Start starts a server with its machines. Close ends it and leaves nothing.
func Start(opts *Options) (*Server, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("start a vSphere: %w", err)
	}
	s := &Server{
		opts: o, whole: make(chan struct{}), stopping: make(chan struct{}), vms: map[types.ManagedObjectReference]*VM{}, layers: map[string]*layer{}, retired: map[string]retired{},
		users: map[string]*user{}, jobs: map[types.ManagedObjectReference]*job{}, latency: map[string]int64{},
	}
	s.nases = newNASes(s)
	s.AddUser(o.User, o.Password, nil)
	if err := s.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("start a vSphere: %w", err), s.Close())
	}
	close(s.whole)
	return s, nil
}

// gate keeps who connects waiting until the server is whole: the simulator listens before what stands in front of it can be set.
func (s *Server) gate(*tls.ClientHelloInfo) (*tls.Config, error) {
	select {
	case <-s.whole:
		return nil, nil // the one that there is
	case <-s.stopping:
		return nil, net.ErrClosed
	}
}

func (s *Server) build() (err error) {
	s.model = simulator.VPX()
	if s.opts.ESX {
		s.model = simulator.ESX()
	} else {
		s.model.Host, s.model.Cluster, s.model.ClusterHost = s.opts.Hosts, 0, 0
	}
	s.model.Machine, s.model.Datastore, s.model.Autostart = 0, s.opts.Datastores, false
	if err := s.model.Create(); err != nil {
		return err
	}
	s.reg = s.model.Map()
	s.dress()
	if err := s.machines(); err != nil {
		return err
	}
	s.overlay()
	return s.listen()
}

func (s *Server) listen() (err error) {
	defer func() { // the simulator has no other way to say that it cannot listen
		if r := recover(); r != nil {
			err = fmt.Errorf("listen on %s: %v", s.opts.Listen, r)
		}
	}()
	service := s.model.Service
	service.TLS = &tls.Config{GetConfigForClient: s.gate}
	service.Listen = &url.URL{Host: s.opts.Listen, User: url.UserPassword(s.opts.User, s.opts.Password)}
	s.reg.SessionManager().ValidLogin = s.mayLogin
	service.RegisterEndpoints = true
	s.frontHTTP(service)
	s.sim = service.NewServer()
	if s.ca, err = s.sim.CertificateFile(); err != nil {
		return err
	}
	return s.startServices()
}

// Close ends the server, with its tasks, and removes its files.
func (s *Server) Close() error {
	select {
	case <-s.stopping:
		return nil
	default:
		close(s.stopping)
	}
	err := s.stopServices()
	if s.sim != nil {
		s.sim.CloseClientConnections()
		s.sim.Close()
	}
	s.tasks.Wait()
	s.mu.Lock()
	err = errors.Join(err, s.broken)
	for _, l := range s.layers {
		err = errors.Join(err, l.store.close())
	}
	s.layers = nil
	s.mu.Unlock()
	if s.model != nil && s.model.Service != nil {
		s.model.Remove()
	}
	return err
}

// URL is where SOAP is spoken, https://127.0.0.1:PORT/sdk, without a user.
func (s *Server) URL() *url.URL {
	u := *s.sim.URL
	u.User = nil
	return &u
}

// User is who may do everything.
func (s *Server) User() string { return s.opts.User }

// Password is that user's.
func (s *Server) Password() string { return s.opts.Password }

// Thumbprint is the certificate's by SHA-256, in hexadecimal with colons.
func (s *Server) Thumbprint() string {
	sum := sha256.Sum256(s.sim.Certificate().Raw)
	var parts []string
	for _, b := range sum {
		parts = append(parts, strings.ToUpper(hex.EncodeToString([]byte{b})))
	}
	return strings.Join(parts, ":")
}

// ThumbprintSHA1 is the certificate's as old hosts publish it.
func (s *Server) ThumbprintSHA1() string { return s.sim.CertificateInfo().ThumbprintSHA1 }

// CAFile is a file with the certificate, in PEM.
func (s *Server) CAFile() string { return s.ca }

// Options are those that the server was started with, defaults filled in.
func (s *Server) Options() Options { return s.opts }

// VM is the machine of that name, or nil.
func (s *Server) VM(name string) *VM {
	for _, v := range s.VMs() {
		if v.Name() == name {
			return v
		}
	}
	return nil
}

// VMByRef is the machine of that reference, or nil.
func (s *Server) VMByRef(ref types.ManagedObjectReference) *VM {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.vms[ref]
}

// VMs are all machines that are registered, in the order of their names.
func (s *Server) VMs() []*VM {
	s.mu.Lock()
	out := make([]*VM, 0, len(s.vms))
	for _, v := range s.vms {
		out = append(out, v)
	}
	s.mu.Unlock()
	sortBy(out, func(v *VM) string { return v.Name() })
	return out
}

// Stunned is for how long a VM would have stood still, by the model of stuns.
func (s *Server) Stunned(vm types.ManagedObjectReference) time.Duration {
	v := s.VMByRef(vm)
	if v == nil {
		return 0
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.stun
}

// context is for one act on the simulator: contexts own its locks.
func (s *Server) context() *simulator.Context {
	c := *s.model.Service.Context
	c.Context = context.Background()
	return &c
}

// datastore is that of a name, or nil.
func (s *Server) datastore(name string) *simulator.Datastore {
	for _, e := range s.reg.All("Datastore") {
		if ds, ok := e.(*simulator.Datastore); ok && ds.Name == name {
			return ds
		}
	}
	return nil
}

// local is a datastore's file on this machine.
func (s *Server) local(p object.DatastorePath) (string, error) {
	ds := s.datastore(p.Datastore)
	if ds == nil || !filepath.IsLocal(filepath.FromSlash(p.Path)) {
		return "", fmt.Errorf("%s leads nowhere", p.String())
	}
	return filepath.Join(ds.Summary.Url, filepath.FromSlash(p.Path)), nil
}

// LocalFile is where a datastore's file ("[datastore] folder/file") is on this machine.
func (s *Server) LocalFile(path string) (string, error) {
	var p object.DatastorePath
	if !p.FromString(path) {
		return "", fmt.Errorf("%q is no datastore path", path)
	}
	return s.local(p)
}

// keep and forget note the files of disks that are open.
func (s *Server) keep(l *layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[l.name.String()] = l
}

func (s *Server) forget(l *layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.layers, l.name.String())
}

func (s *Server) layerOf(path string) *layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.layers[path]
}
