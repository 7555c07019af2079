package kvm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hikae/hikae/kvm/qmp"
)

// monitor is the way to a QEMU: a socket of its own, or what libvirt hands through.
type monitor interface {
	Version() qmp.Version
	// Execute runs one command. A refusal by QEMU is a *qmp.Error; any other error leaves open whether it was run.
	Execute(ctx context.Context, command string, args, out any) error
	// Until asks check again and again until it holds. Events only make it ask sooner: they come by a socket alone.
	Until(ctx context.Context, check func(ctx context.Context) (bool, error), events ...string) error
	Close() error
}

// batcher is the ability to say several things in one message, which QEMU does to its end whatever becomes of us.
type batcher interface {
	Batch(ctx context.Context, cmds []*qmp.Command) error
}

var _ interface {
	monitor
	batcher
} = (*qmp.Conn)(nil)

// monitor takes the way to a machine, for as long as it is needed. A socket serves one client at a time.
func (p *Provider) monitor(ctx context.Context, m Machine) (monitor, error) {
	mon, err := p.reach(ctx, m)
	if err == nil && p.opts.pretend != nil {
		mon = older{mon, *p.opts.pretend}
	}
	return mon, err
}

func (p *Provider) reach(ctx context.Context, m Machine) (monitor, error) {
	if m.Domain == nil {
		mon, err := p.dial(ctx, m.QMP)
		if err != nil {
			return nil, err // not a nil *qmp.Conn, which would be no nil monitor
		}
		return mon, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.opts.DialTimeout)
	defer cancel()
	mon, err := openDomain(ctx, *m.Domain)
	if err != nil {
		return nil, err // as above
	}
	return mon, nil
}

// older says that a QEMU has a lower version than it has, and so is talked to in older words. Newer ones know those too.
type older struct {
	monitor
	version qmp.Version
}

func (o older) Version() qmp.Version { return o.version }

// base is the way to a QEMU without what was put around it.
func base(mon monitor) monitor {
	if o, ok := mon.(older); ok {
		return o.monitor
	}
	return mon
}

// processOf tells a QEMU from the one that has its monitor after it; empty where that cannot be known.
func processOf(mon monitor) string {
	switch m := base(mon).(type) {
	case interface{ PeerPID() (int, bool) }:
		if pid, ok := m.PeerPID(); ok {
			return processStart(pid)
		}
	case *domainMonitor:
		return fmt.Sprintf("domain %d", m.dom.ID) // libvirt counts starts
	}
	return ""
}

// words are what a QEMU knows that older ones do not.
type words struct {
	flat    bool // 5.0: nodes are listed without all that is below each
	exports bool // 5.2: exports have commands of their own
	nodes   bool // 7.1: an export's bitmap may be named with its node
	filters bool // 7.1: a filter that gives the snapshot up rather than the guest
}

func speaks(mon monitor) words {
	v := mon.Version()
	return words{flat: v.AtLeast(5, 0), exports: v.AtLeast(5, 2), nodes: v.AtLeast(7, 1), filters: v.AtLeast(7, 1)}
}

// waitGone waits until none of what a query lists has an id or device of ours.
func waitGone(ctx context.Context, mon monitor, query string, mine func(id string) bool, events ...string) error {
	return mon.Until(ctx, func(ctx context.Context) (bool, error) {
		ids, err := listed(ctx, mon, query, mine)
		return len(ids) == 0, err
	}, events...)
}

// listed are the ids, or the devices where that is what a query calls them, that are ours.
func listed(ctx context.Context, mon monitor, query string, mine func(id string) bool) (ids []string, err error) {
	var all []struct {
		ID     string `json:"id"`
		Device string `json:"device"`
	}
	if err := mon.Execute(ctx, query, nil, &all); err != nil {
		return nil, err
	}
	for _, a := range all {
		if id := cmpOr(a.ID, a.Device); mine(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// refusedFor reports whether QEMU refused something with these words in its reason.
func refusedFor(err error, words string) bool {
	var e *qmp.Error
	return errors.As(err, &e) && strings.Contains(e.Desc, words)
}
