package vmware

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// kindRelocation is that a VM cannot be moved to other storage while it is read: its files would leave under the reader.
const kindRelocation = "vmware.relocation"

var relocation = []string{"RelocateVM_Task"}

// hold is relocation disabled. The server keeps who did so by a name, and lets it go by the same name only: what others
// disabled stays disabled.
type hold struct {
	client *Client
	vm     types.ManagedObjectReference
	source string
	done   func(context.Context) error
}

func (s *snapshot) hold(ctx context.Context) error {
	if s.provider.opts.AllowRelocation || !s.client.IsVCenter() || s.client.vim.ServiceContent.AuthorizationManager == nil {
		return nil
	}
	h := &hold{client: s.client, vm: s.ref, source: namePrefix + newMark()}
	var err error
	h.done, err = intend(ctx, s.opts.Journal, s.client.effect(kindRelocation, s.ref.Value, map[string]string{
		"source": h.source, "uuid": s.was.Config.InstanceUuid,
	}))
	if err != nil {
		return err
	}
	s.held = h
	err = object.NewAuthorizationManager(s.client.vim).DisableMethods(ctx, []types.ManagedObjectReference{s.ref},
		[]object.DisabledMethodRequest{{Method: relocation[0], Reason: "a backup is reading the virtual machine"}}, h.source)
	switch {
	case err == nil:
		return nil
	case isAnswer(err): // nothing was disabled
		s.held = nil
		s.vm.Facts["relocation"] = fmt.Sprintf("could not be disabled: %v", err)
		return h.done(ctx)
	}
	return fmt.Errorf("disable relocation: %w", err)
}

// letGo lets the VM be moved again.
func (h *hold) letGo(ctx context.Context) error {
	if h == nil || h.done == nil {
		return nil
	}
	if err := h.client.allowRelocation(ctx, h.vm, h.source); err != nil {
		return err
	}
	if err := h.done(ctx); err != nil {
		return err
	}
	h.done = nil
	return nil
}

func (c *Client) allowRelocation(ctx context.Context, vm types.ManagedObjectReference, source string) error {
	if c.vim.ServiceContent.AuthorizationManager == nil {
		return nil
	}
	err := object.NewAuthorizationManager(c.vim).EnableMethods(ctx, []types.ManagedObjectReference{vm}, relocation, source)
	if err == nil || isGone(err) || isFault[*types.MethodNotFound](err) {
		return nil
	}
	return fmt.Errorf("enable relocation of VM %s again: %w", vm.Value, err)
}
