package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"sync"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// undoers undo effects, by kind. Undoing what never happened, or was undone already, is no error. Each file that makes effects
// adds its kinds here. Every effect's facts name the server as "server": what Client.Address says.
var undoers = map[string]func(ctx context.Context, c *Client, e hikae.Effect, keep []hikae.ChangeID) error{
	kindSnapshot:   undoSnapshot,
	kindRestore:    undoRestore,
	kindRelocation: undoRelocation,
	kindTracking:   undoTracking,
	kindStart:      undoStart,
}

// undo undoes one effect by a client of the server that it was made on.
func undo(ctx context.Context, c *Client, e hikae.Effect, keep []hikae.ChangeID) error {
	f := undoers[e.Kind]
	if f == nil {
		return fmt.Errorf("effect %s: %q is unknown", e.ID, e.Kind)
	}
	return f(ctx, c, e, keep)
}

// effect is an effect on the server of this client.
func (c *Client) effect(kind, vm string, facts map[string]string) hikae.Effect {
	all := map[string]string{"server": c.Address()}
	for k, v := range facts {
		all[k] = v
	}
	return hikae.Effect{Kind: kind, VM: vm, Facts: all}
}

// intend writes an effect down. Without a journal it is done at once.
func intend(ctx context.Context, j hikae.Journal, e hikae.Effect) (done func(context.Context) error, err error) {
	if j == nil {
		return func(context.Context) error { return nil }, nil
	}
	return j.Intend(ctx, e)
}

// Undo implements [hikae.Sweeper] for effects on the provider's server.
func (p *Provider) Undo(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	if server := e.Facts["server"]; server != p.client.Address() {
		return fmt.Errorf("effect %s was made on %s, this is %s: %w", e.ID, server, p.client.Address(), errors.ErrUnsupported)
	}
	return undo(ctx, p.client, e, keep)
}

// Sweeper undoes what dead sessions left on any server. It stays connected to each until Close. Its methods may be called at
// once.
type Sweeper struct {
	// Connect logs in to the server at an address that [Client.Address] gave.
	Connect func(ctx context.Context, server string) (*Client, error)

	mu      sync.Mutex
	clients map[string]*Client
}

var _ hikae.Sweeper = (*Sweeper)(nil)

// Undo implements [hikae.Sweeper] for all kinds that begin with "vmware.". It touches what bears the session's mark and
// nothing else.
func (s *Sweeper) Undo(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	server := e.Facts["server"]
	if server == "" {
		return fmt.Errorf("effect %s: it names no server: %w", e.ID, fs.ErrInvalid)
	}
	c, err := s.client(ctx, server)
	if err != nil {
		return fmt.Errorf("effect %s: %w", e.ID, err)
	}
	return undo(ctx, c, e, keep)
}

func (s *Sweeper) client(ctx context.Context, server string) (*Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[server]; c != nil {
		return c, nil
	}
	c, err := s.Connect(ctx, server)
	if err != nil {
		return nil, err
	}
	if s.clients == nil {
		s.clients = map[string]*Client{}
	}
	s.clients[server] = c
	return c, nil
}

// Close logs out everywhere.
func (s *Sweeper) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, c := range s.clients {
		errs = append(errs, c.Close(ctx))
	}
	s.clients = nil
	return errors.Join(errs...)
}

// sameVM finds the VM of an effect. References are given anew when a VM leaves the inventory and comes back, and on a single
// host to another VM even; its own UUID tells which one it is.
func (c *Client) sameVM(ctx context.Context, e hikae.Effect) (vm types.ManagedObjectReference, found bool, err error) {
	vm = types.ManagedObjectReference{Type: "VirtualMachine", Value: e.VM}
	uuid := e.Facts["uuid"]
	var m mo.VirtualMachine
	err = c.properties(ctx, vm, []string{"config.instanceUuid"}, &m)
	switch {
	case err != nil && !isGone(err):
		return vm, false, fmt.Errorf("VM %s: %w", e.VM, err)
	case err == nil && (uuid == "" || m.Config == nil || m.Config.InstanceUuid == uuid):
		return vm, true, nil
	case uuid == "" || c.vim.ServiceContent.SearchIndex == nil:
		return vm, false, nil
	}
	yes := true
	res, err := methods.FindByUuid(ctx, c.vim, &types.FindByUuid{This: *c.vim.ServiceContent.SearchIndex, Uuid: uuid, VmSearch: true, InstanceUuid: &yes})
	if err != nil {
		return vm, false, fmt.Errorf("VM with UUID %s: %w", uuid, err)
	}
	if res.Returnval == nil {
		return vm, false, nil
	}
	return *res.Returnval, true, nil
}

// sameOrRenumbered is sameVM for effects that a mark finds. A VM may have been given another UUID meanwhile, which administrators
// do: then the one that has the reference is looked at too, and renumbered says that only what bears the mark is ours.
func (c *Client) sameOrRenumbered(ctx context.Context, e hikae.Effect) (vm types.ManagedObjectReference, renumbered, found bool, err error) {
	vm, found, err = c.sameVM(ctx, e)
	if err != nil || found {
		return vm, false, found, err
	}
	vm = types.ManagedObjectReference{Type: "VirtualMachine", Value: e.VM}
	var m mo.VirtualMachine
	err = c.properties(ctx, vm, []string{"name"}, &m)
	if isGone(err) {
		return vm, false, false, nil
	}
	return vm, true, err == nil, err
}

var goodMark = regexp.MustCompile(`^[a-z2-7]{26}$`)

// undoSnapshot removes a snapshot by the mark in its description. One that was being made when its session died is waited for.
func undoSnapshot(ctx context.Context, c *Client, e hikae.Effect, _ []hikae.ChangeID) error {
	mark := e.Facts["mark"]
	if !goodMark.MatchString(mark) {
		return fmt.Errorf("effect %s: mark %.40q: %w", e.ID, mark, fs.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.TaskTimeout)
	defer cancel()
	vm, renumbered, found, err := c.sameOrRenumbered(ctx, e)
	if err != nil || !found {
		return err
	}
	k := &marked{client: c, vm: vm, mark: mark}
	_, there, err := k.look(ctx)
	if err != nil || renumbered && !there {
		return err
	}
	if there {
		if err := k.vanish(ctx); err != nil {
			return err
		}
	}
	return c.consolidate(ctx, vm, mark, false)
}

// undoRelocation lets a VM be moved again, and what else was disabled with that.
func undoRelocation(ctx context.Context, c *Client, e hikae.Effect, _ []hikae.ChangeID) error {
	source := e.Facts["source"]
	if source == "" {
		return fmt.Errorf("effect %s: it names no source: %w", e.ID, fs.ErrInvalid)
	}
	methods, err := methodsOf(e)
	if err != nil {
		return err
	}
	vm, _, found, err := c.sameOrRenumbered(ctx, e)
	if err != nil || !found {
		return err
	}
	return c.enable(ctx, vm, methods, source) // what others disabled stays: it is by source
}
