package vmware

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// kindRelocation is that a VM cannot be moved to other storage while it is read: its files would leave under the reader. While
// it is written over nobody can take a snapshot of it or start it, either.
const kindRelocation = "vmware.relocation"

var (
	relocation = []string{"RelocateVM_Task"}
	whilePlace = []string{"RelocateVM_Task", "CreateSnapshot_Task", "PowerOnVM_Task"}
)

// hold is methods of a VM disabled. The server keeps who did so by a name, and lets it go by the same name only: what others
// disabled stays disabled.
type hold struct {
	client  *Client
	vm      types.ManagedObjectReference
	methods []string
	source  string
	done    func(context.Context) error
}

func (s *snapshot) hold(ctx context.Context) error {
	if s.provider.opts.AllowRelocation {
		return nil
	}
	held, why, err := s.client.disable(ctx, s.opts.Journal, s.was, relocation, "a backup is reading the virtual machine")
	if s.held = held; why != "" {
		s.vm.Facts["relocation"] = "could not be disabled: " + why
	}
	return err
}

// movable reports whether the VM's files may have been moved to other storage while they were read.
func (s *snapshot) movable() bool {
	return s.provider.opts.AllowRelocation || s.client.IsVCenter() && s.held == nil
}

// disable keeps everybody from calling methods of a VM. Where the server has not the means, or does not let us, there is nothing
// to hold, and why says so. After an error the methods may be disabled: what is returned is let go all the same.
func (c *Client) disable(ctx context.Context, journal hikae.Journal, m *machine, methods []string, reason string) (held *hold, why string, err error) {
	if !c.IsVCenter() || c.vim.ServiceContent.AuthorizationManager == nil {
		return nil, "the server has no means to", nil
	}
	h := &hold{client: c, vm: m.Self, methods: methods, source: namePrefix + newMark()}
	h.done, err = intend(ctx, journal, c.effect(kindRelocation, m.Self.Value, map[string]string{
		"source": h.source, "uuid": m.Config.InstanceUuid, "methods": strings.Join(methods, ","),
	}))
	if err != nil {
		return nil, "", err
	}
	var list []object.DisabledMethodRequest
	for _, name := range methods {
		list = append(list, object.DisabledMethodRequest{Method: name, Reason: reason})
	}
	err = object.NewAuthorizationManager(c.vim).DisableMethods(ctx, []types.ManagedObjectReference{m.Self}, list, h.source)
	switch {
	case err == nil:
		return h, "", nil
	case isAnswer(err): // nothing was disabled
		return nil, err.Error(), h.done(ctx)
	}
	return h, "", fmt.Errorf("disable %s: %w", strings.Join(methods, ", "), err)
}

// letGo enables the methods again.
func (h *hold) letGo(ctx context.Context) error {
	if h == nil || h.done == nil {
		return nil
	}
	if err := h.client.enable(ctx, h.vm, h.methods, h.source); err != nil {
		return err
	}
	if err := h.done(ctx); err != nil {
		return err
	}
	h.done = nil
	return nil
}

func (c *Client) enable(ctx context.Context, vm types.ManagedObjectReference, methods []string, source string) error {
	if c.vim.ServiceContent.AuthorizationManager == nil {
		return nil
	}
	err := object.NewAuthorizationManager(c.vim).EnableMethods(ctx, []types.ManagedObjectReference{vm}, methods, source)
	if err == nil || isGone(err) || isFault[*types.MethodNotFound](err) {
		return nil
	}
	return fmt.Errorf("enable %s of VM %s again: %w", strings.Join(methods, ", "), vm.Value, err)
}

// methodsOf are the methods that an effect disabled: none but those that this package disables.
func methodsOf(e hikae.Effect) ([]string, error) {
	text, ok := e.Facts["methods"]
	if !ok {
		return relocation, nil
	}
	list := strings.Split(text, ",")
	for _, name := range list {
		if !slices.Contains(whilePlace, name) {
			return nil, fmt.Errorf("effect %s: method %.40q: %w", e.ID, name, fs.ErrInvalid)
		}
	}
	return list, nil
}
