package kvm

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
)

// Machine is one virtual machine and how to talk to it: by sockets of its QEMU, or as a domain of libvirt.
type Machine struct {
	QMP    string  // path of the monitor's unix socket
	Agent  string  // path of the guest agent's unix socket; empty: there is none, and snapshots are crash-consistent
	Domain *Domain // where libvirt owns the machine: then QMP and Agent are empty
	Name   string  // empty: the name that QEMU was started with

	// Disks are the images of the VM's disks, by the keys that they have while it runs. Where nobody listens at the
	// monitor's socket the VM is off, and these are read. Empty: a VM that is off is an error.
	Disks []DiskImage
	// Config is the configuration that a point of the VM gets while it is off, when nobody can be asked for it.
	Config map[string][]byte
}

// ID is how the machine is named to the provider.
func (m Machine) ID() string {
	if m.Domain != nil {
		return m.Domain.ID()
	}
	return m.QMP
}

// Options change how snapshots are taken. Nil and zero fields are good defaults.
type Options struct {
	// Scratch is the folder for fleecing images and sockets, which QEMU must be able to reach by the same path. Empty:
	// the folder that libvirt made for the domain, else /var/tmp, else the system's temporary folder.
	Scratch string
	// FleeceBytes bounds each disk's fleecing image. Zero: the size of the disk and what describes it, at most half of
	// what is free in Scratch, shared by the disks. With QEMU before 7.1 it is watched rather than enforced: what the
	// guest writes within a tenth of a second may be more.
	FleeceBytes int64
	// DialTimeout bounds the wait for a monitor that serves another client. Zero: 10 s.
	DialTimeout time.Duration
	// Guard looks after the guest if this process dies while it is frozen, or while with a QEMU before 7.1 somebody must
	// watch. Nil: nobody does before the next sweep.
	Guard Guard
	// ThawTimeout is how long thawing is tried again until the guest confirms it. Zero: 60 s.
	ThawTimeout time.Duration

	pretend *qmp.Version // in tests: the QEMU is talked to as if it were this old
}

// Provider is a set of machines.
type Provider struct {
	machines []Machine
	opts     Options
}

var (
	_ hikae.SnapshotProvider = (*Provider)(nil)
	_ hikae.Sweeper          = (*Provider)(nil)
)

// New makes a provider of the given machines. Nothing is connected yet.
func New(machines []Machine, opts *Options) *Provider {
	p := &Provider{machines: machines}
	if opts != nil {
		p.opts = *opts
	}
	if p.opts.DialTimeout <= 0 {
		p.opts.DialTimeout = 10 * time.Second
	}
	if p.opts.ThawTimeout <= 0 {
		p.opts.ThawTimeout = time.Minute
	}
	return p
}

// VMs implements [hikae.SnapshotProvider]. A machine that cannot be talked to is an error.
func (p *Provider) VMs(ctx context.Context) iter.Seq2[hikae.VM, error] {
	return func(yield func(hikae.VM, error) bool) {
		for _, m := range p.machines {
			vm, err := p.describe(ctx, m)
			if !yield(vm, err) || err != nil {
				return
			}
		}
	}
}

func (p *Provider) describe(ctx context.Context, m Machine) (hikae.VM, error) {
	mon, err := p.monitor(ctx, m)
	if m.isOff(err) {
		vm, err := p.describeOff(ctx, m)
		if err == nil {
			images := map[string]string{}
			for _, d := range m.Disks {
				images[d.Key] = d.Path
			}
			tellPlaces(ctx, vm, images)
		}
		return vm, err
	}
	if err != nil {
		return hikae.VM{}, err
	}
	defer mon.Close()
	inv, err := takeInventory(ctx, mon)
	if err != nil {
		return hikae.VM{}, fmt.Errorf("%s: %w", m.ID(), err)
	}
	vm := inv.vm(m)
	tellPlaces(ctx, vm, inv.images(mon))
	return vm, nil
}

func (p *Provider) dial(ctx context.Context, path string) (*qmp.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.DialTimeout)
	defer cancel()
	mon, err := qmp.Dial(ctx, path)
	return mon, busy(path, err)
}

func (p *Provider) machine(id string) (Machine, error) {
	for _, m := range p.machines {
		if m.ID() == id {
			return m, nil
		}
	}
	return Machine{}, fmt.Errorf("VM %q: %w", id, fs.ErrNotExist)
}

// scratch is the folder for what QEMU and we both must reach.
func (p *Provider) scratch() (string, error) {
	dir := p.opts.Scratch
	if dir == "" {
		dir = "/var/tmp"
		if _, err := os.Stat(dir); err != nil {
			dir = os.TempDir()
		}
	}
	return filepath.Abs(dir)
}
