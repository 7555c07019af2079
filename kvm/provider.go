package kvm

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
)

// Machine is one virtual machine and how to talk to it.
type Machine struct {
	QMP   string // path of the monitor's unix socket; the machine's id
	Agent string // path of the guest agent's unix socket; empty: there is none, and snapshots are crash-consistent
	Name  string // empty: the name that QEMU was started with
}

// Options change how snapshots are taken. Nil and zero fields are good defaults.
type Options struct {
	// Scratch is the folder for fleecing images and sockets, which QEMU must be able to reach by the same path. Empty:
	// /var/tmp, or the system's temporary folder where there is none.
	Scratch string
	// FleeceBytes bounds each disk's fleecing image. Zero: the size of the disk and what describes it, at most half of
	// what is free in Scratch, shared by the disks.
	FleeceBytes int64
	// DialTimeout bounds the wait for a monitor that serves another client. Zero: 10 s.
	DialTimeout time.Duration
	// Guard thaws the guest if this process dies while it is frozen. Nil: nobody does before the next sweep.
	Guard Guard
	// ThawTimeout is how long thawing is tried again until the guest confirms it. Zero: 60 s.
	ThawTimeout time.Duration
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
	if p.opts.Scratch == "" {
		p.opts.Scratch = "/var/tmp"
		if _, err := os.Stat(p.opts.Scratch); err != nil {
			p.opts.Scratch = os.TempDir()
		}
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
	mon, err := p.dial(ctx, m.QMP)
	if err != nil {
		return hikae.VM{}, err
	}
	defer mon.Close()
	inv, err := takeInventory(ctx, mon)
	if err != nil {
		return hikae.VM{}, fmt.Errorf("%s: %w", m.QMP, err)
	}
	return inv.vm(m), nil
}

func (p *Provider) dial(ctx context.Context, path string) (*qmp.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.DialTimeout)
	defer cancel()
	mon, err := qmp.Dial(ctx, path)
	return mon, busy(path, err)
}

func (p *Provider) machine(id string) (Machine, error) {
	for _, m := range p.machines {
		if m.QMP == id {
			return m, nil
		}
	}
	return Machine{}, fmt.Errorf("VM %q: %w", id, fs.ErrNotExist)
}
