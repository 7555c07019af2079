package vmware

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/internal/nfcsoap"
	"github.com/hikae/hikae/vmware/nfc"
	"github.com/vmware/govmomi/vim25/types"
)

// nbdOpID is what a host writes into its log beside a session of ours, so that its administrator finds it.
const nbdOpID = "hikae-disk"

// overNFC reads and writes disks by the network disk service of their host: wherever a disk lies, and encrypted ones too. The
// server hands out a ticket, which is good for one connection to port 902 of the host that it names.
//
//	NfcGetVmFiles ──► ticket ──► host:902 ──► "[store1] web1/web1.vmdk", as the snapshot pinned it
type overNFC struct {
	name  string
	clear bool // content crosses the line in the clear

	mu      sync.Mutex
	service map[*Client]types.ManagedObjectReference
}

func newNFC(name string) *overNFC {
	return &overNFC{name: name, clear: name == NBD, service: map[*Client]types.ManagedObjectReference{}}
}

func (t *overNFC) Name() string { return t.name }

// Check implements [Transport].
func (t *overNFC) Check(_ context.Context, p *Pinned) error {
	if p.Snapshot.Value == "" && p.PoweredOn {
		return &UnfitError{Transport: t.name, Reason: "the VM runs, and the host lets nobody read a disk that it writes to"}
	}
	return nil
}

// CheckTarget implements [Writer].
func (t *overNFC) CheckTarget(_ context.Context, p *Pinned) error {
	if p.PoweredOn {
		return &UnfitError{Transport: t.name, Reason: "the VM runs, and the host lets nobody write to its disks"}
	}
	return nil
}

// Open implements [Transport]. A connection that is lost is replaced by another, with a new ticket; closing the image ends it.
func (t *overNFC) Open(ctx context.Context, p *Pinned) (pipe.Image, error) {
	d, err := t.open(ctx, p, false)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// OpenTarget implements [Writer]. The target has a base, what the disk holds, unless the disk was just made.
func (t *overNFC) OpenTarget(ctx context.Context, p *Pinned) (pipe.Target, error) {
	d, err := t.open(ctx, p, true)
	if err != nil {
		return nil, err
	}
	target, err := d.Target(&nfc.TargetOptions{Base: !p.Fresh, Fresh: p.Fresh})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", t.name, err), d.Close())
	}
	return &nfcTarget{target, d}, nil
}

func (t *overNFC) open(ctx context.Context, p *Pinned, write bool) (*nfc.Disk, error) {
	ticket, err := t.ticket(ctx, p, write)
	if err != nil {
		return nil, fmt.Errorf("%s: ticket: %w", t.name, err)
	}
	c, err := nfc.Dial(ctx, ticket, &nfc.Options{
		Clear: t.clear, Size: p.Disk.Size, OpID: nbdOpID,
		Redial: func(ctx context.Context) (nfc.Ticket, error) { return t.ticket(ctx, p, write) },
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.name, err)
	}
	d, err := c.Open(ctx, p.Disk.File, write)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", t.name, err), c.Close())
	}
	return d, nil
}

// ticket asks for one connection.
func (t *overNFC) ticket(ctx context.Context, p *Pinned, write bool) (nfc.Ticket, error) {
	service, err := t.find(ctx, p.Client)
	if err != nil {
		return nfc.Ticket{}, err
	}
	var got *types.HostServiceTicket
	if write {
		got, err = nfcsoap.OpenDisk(ctx, p.Client.Vim(), service, p.VM, p.Disk.Device, p.Host)
	} else {
		got, err = nfcsoap.GetVMFiles(ctx, p.Client.Vim(), service, p.VM, p.Host)
	}
	if err != nil {
		return nfc.Ticket{}, err
	}
	out := nfc.Ticket{Host: got.Host, Port: int(got.Port), Service: got.Service, SessionID: got.SessionId, Thumbprint: got.SslThumbprint}
	if out.Host == "" || out.Host == "*" { // a bare host means itself
		out.Host = p.Client.address.Hostname()
	}
	if out.Thumbprint == "" && out.Host == p.Client.address.Hostname() {
		out.Thumbprint, err = p.Client.serverDigest(ctx)
	}
	return out, err
}

// find finds the server's object that hands out tickets, once.
func (t *overNFC) find(ctx context.Context, c *Client) (types.ManagedObjectReference, error) {
	t.mu.Lock()
	ref, ok := t.service[c]
	t.mu.Unlock()
	if ok {
		return ref, nil
	}
	ref, err := nfcsoap.Find(ctx, c.Vim())
	if err != nil {
		return ref, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.service[c] = ref
	return ref, nil
}

// nfcTarget ends its session with its Commit.
type nfcTarget struct {
	*nfc.Target
	disk *nfc.Disk
}

// Image implements [Readable].
func (t *nfcTarget) Image() pipe.Image { return stayingOpen{t.disk} }

// Commit implements [pipe.Target].
func (t *nfcTarget) Commit(ctx context.Context) error {
	return errors.Join(t.Target.Commit(ctx), t.Target.Close())
}

// stayingOpen is an image whose Close is somebody else's.
type stayingOpen struct{ pipe.Image }

func (stayingOpen) Close() error { return nil }

// Unwrap implements [pipe.Wrapper].
func (o stayingOpen) Unwrap() pipe.Image { return o.Image }
