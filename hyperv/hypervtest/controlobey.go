package hypervtest

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// steered is what a control connection reaches.
type steered struct {
	hosts    []*Host
	cluster  *Cluster // nil: there is one host
	controls *controls
}

// obey does what one line says.
func (s steered) obey(o *order) (*answer, error) {
	switch o.Do {
	case "hello":
		return nil, nil
	case "vms":
		var ids []string
		for _, h := range s.hosts {
			ids = append(ids, h.VMs()...)
		}
		slices.Sort(ids)
		return &answer{Lines: ids}, nil
	case "leftovers":
		if s.cluster != nil {
			return &answer{Lines: s.cluster.Leftovers()}, nil
		}
		return &answer{Lines: s.hosts[0].Leftovers()}, nil
	case "add":
		return s.add(o)
	case "fail":
		if o.Fault == nil {
			return nil, errors.New("fail: no fault")
		}
		return nil, s.some(o.Host, func(h *Host) { h.Fail(o.Fault.Fault) })
	case "settle":
		var busy []string
		for _, h := range s.hosts {
			if !h.Settled(min(time.Duration(o.N), moveLimit)) {
				busy = append(busy, h.opts.Name)
			}
		}
		if busy != nil {
			return nil, fmt.Errorf("something is under way on %s", strings.Join(busy, ", "))
		}
		return nil, nil
	case "heal":
		return nil, s.some("", (*Host).Heal)
	case "events":
		var a answer
		return &a, s.some(o.Host, func(h *Host) { a.Events = append(a.Events, h.Events()...) })
	case "clearevents":
		return nil, s.some("", (*Host).ClearEvents)
	}
	return s.obeyVM(o)
}

// some does something with one host by its name, or with all of them.
func (s steered) some(name string, do func(*Host)) error {
	found := false
	for _, h := range s.hosts {
		if name == "" || strings.EqualFold(name, h.opts.Name) {
			found = true
			do(h)
		}
	}
	if !found {
		return fmt.Errorf("host %.64q: %w", name, fs.ErrNotExist)
	}
	return nil
}

func (s steered) add(o *order) (*answer, error) {
	if o.New == nil {
		return nil, errors.New("add: no VM")
	}
	at := slices.IndexFunc(s.hosts, func(h *Host) bool { return o.Host == "" || strings.EqualFold(o.Host, h.opts.Name) })
	switch {
	case at < 0:
		return nil, fmt.Errorf("host %.64q: %w", o.Host, fs.ErrNotExist)
	case s.cluster != nil:
		return &answer{Text: s.cluster.AddVM(s.hosts[at].opts.Name, *o.New)}, nil
	}
	return &answer{Text: s.hosts[at].AddVM(*o.New)}, nil
}

// guest finds a VM, wherever it is now.
func (s steered) guest(vm string) *Guest {
	for _, h := range s.hosts {
		if g := h.VM(vm); g != nil {
			return g
		}
	}
	return nil
}

func (s steered) obeyVM(o *order) (*answer, error) {
	g := s.guest(o.VM)
	if g == nil {
		return nil, fmt.Errorf("VM %.64q: %w", o.VM, fs.ErrNotExist)
	}
	switch o.Do {
	case "on":
		return nil, g.PowerOn()
	case "off":
		return nil, g.PowerOff()
	case "cut":
		return nil, g.PowerCut()
	case "churn":
		return nil, s.controls.churn(g.ID(), func() func() { return g.Churn(o.Seed) })
	case "stopchurn":
		return nil, s.controls.churn(g.ID(), nil)
	case "checkpoint":
		id, err := g.Checkpoint(o.Name)
		return &answer{Text: id}, err
	case "apply":
		return nil, g.ApplyCheckpoint(o.Name)
	case "uncheckpoint":
		return nil, g.RemoveCheckpoint(o.Name)
	case "owner":
		return &answer{Text: g.Host().opts.Name}, nil
	case "move":
		if s.cluster == nil {
			return nil, errors.New("move: there is no cluster")
		}
		return nil, s.cluster.Move(o.VM, o.Name)
	}
	if o.Disk < 0 || o.Disk >= g.Disks() {
		return nil, fmt.Errorf("VM %s: disk %d: %w", o.VM, o.Disk, fs.ErrNotExist)
	}
	return obeyDisk(g, o)
}

func obeyDisk(g *Guest, o *order) (*answer, error) {
	switch o.Do {
	case "size":
		return &answer{N: g.Size(o.Disk)}, nil
	case "tip":
		return &answer{Text: g.Tip(o.Disk)}, nil
	case "write":
		return nil, g.Write(o.Disk, o.Off, o.Data)
	case "read":
		if o.N < 0 || o.N > controlData {
			return nil, fmt.Errorf("read: %d bytes", o.N)
		}
		p, err := g.Read(o.Disk, o.Off, int(o.N))
		return &answer{Data: p}, err
	case "extend":
		return nil, g.Extend(o.Disk, o.N)
	case "replace":
		if o.New == nil || len(o.New.Disks) != 1 {
			return nil, errors.New("replace: not one disk")
		}
		return nil, g.Replace(o.Disk, o.New.Disks[0])
	case "losetracking":
		g.LoseTracking(o.Disk)
		return nil, nil
	case "sum":
		sum, err := sumOf(guestReader{g, o.Disk}, g.Size(o.Disk))
		return &answer{Text: sum}, err
	case "freezesum":
		sum, err := sumOf(g.AtFreeze(o.Disk), g.Size(o.Disk))
		return &answer{Text: sum}, err
	}
	return nil, fmt.Errorf("%.64q: unknown", o.Do)
}
