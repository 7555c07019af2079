package vmwaretest

import (
	"context"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/hikae/hikae/vmware/internal/nfcsoap"
	"github.com/hikae/hikae/vmware/nfc/nfctest"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// ticketLives is how long a ticket of the disk service waits for its client.
const ticketLives = 5 * time.Minute

// diskService is the hosts' network disk service, at one port for all hosts, with the tickets that it takes.
type diskService struct {
	s      *Server
	server *nfctest.Server

	mu      sync.Mutex
	allowed map[string]grant // by session
}

type grant struct {
	access
	until time.Time
}

// DiskService is the network disk service, to set its faults and read its sums.
func (s *Server) DiskService() *nfctest.Server { return s.extras.disks.server }

// start listens, and puts the object that hands out tickets into the inventory.
func (d *diskService) start() (err error) {
	d.allowed = map[string]grant{}
	certificate := d.s.sim.TLS.Certificates[0]
	d.server, err = nfctest.Listen("127.0.0.1:0", &nfctest.Options{Open: d.open, Certificate: &certificate})
	if err != nil {
		return fmt.Errorf("the disk service: %w", err)
	}
	ref := nfcsoap.OfVCenter
	if d.s.opts.ESX {
		ref = nfcsoap.OfHost
	}
	d.s.reg.Put(&ticketService{ExtensibleManagedObject: mo.ExtensibleManagedObject{Self: ref}, disks: d})
	for _, e := range d.s.reg.AllReference("ServiceInstance") {
		if si, ok := e.(*simulator.ServiceInstance); ok {
			d.s.reg.Put(&serviceInstance{ServiceInstance: si, service: ref})
		}
	}
	return nil
}

func (d *diskService) close() error {
	if d.server == nil {
		return nil
	}
	return d.server.Close()
}

func (d *diskService) leftovers() []string {
	if d.server == nil {
		return nil
	}
	return d.server.Leftovers()
}

// admit makes a ticket. A host alone leaves its name out.
func (d *diskService) admit(a access) (types.HostServiceTicket, error) {
	t := types.HostServiceTicket{
		Host: d.server.Addr().IP.String(), Port: int32(d.server.Addr().Port), Service: "vpxa-nfc", ServiceVersion: "1.1",
		SslThumbprint: d.s.ThumbprintSHA1(), SessionId: newUUID(),
	}
	if d.s.opts.ESX {
		t.Host, t.Service = "", "nfc"
	}
	now := time.Now()
	err := d.server.AddTicket(nfctest.Ticket{Session: t.SessionId, Service: t.Service, Write: a.write, Expires: now.Add(ticketLives)})
	if err != nil {
		return t, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, old := range d.allowed {
		if now.After(old.until) {
			delete(d.allowed, id)
		}
	}
	d.allowed[t.SessionId] = grant{access: a, until: now.Add(24 * time.Hour)} // its connection may last
	return t, nil
}

// open opens what a ticket's connection names.
func (d *diskService) open(_ context.Context, session, path string, write bool) (nfctest.Disk, error) {
	d.mu.Lock()
	g, ok := d.allowed[session]
	d.mu.Unlock()
	if !ok {
		return nil, fs.ErrPermission
	}
	img, err := g.open(d.s, path, write)
	if err != nil {
		return nil, err
	}
	return img, nil
}
