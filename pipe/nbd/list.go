package nbd

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// Listed is an export as a server lists it.
type Listed struct {
	Name        string
	Description string // for people; may be empty
}

// List asks a server which exports it has. The export in the URI does not matter.
func List(ctx context.Context, uri string, opts *Options) ([]Listed, error) {
	var list []Listed
	err := ask(ctx, uri, opts, func(h *haggling) error {
		return h.ask(optList, nil, func(kind uint32, data []byte) error {
			name, rest, ok := cutString(data)
			if kind != repServer || !ok || len(rest) > maxString {
				return broken("reply %d of %d bytes to LIST", kind, len(data))
			}
			list = append(list, Listed{Name: name, Description: string(rest)})
			return nil
		})
	})
	return list, err
}

// ListContexts asks which metadata contexts an export has. queries narrow that, as the server has it: "qemu:" is all of
// QEMU's. Without any, all contexts are listed.
func ListContexts(ctx context.Context, uri string, opts *Options, queries ...string) ([]string, error) {
	if len(queries) > maxQueries {
		return nil, fmt.Errorf("NBD: %d queries, at most %d: %w", len(queries), maxQueries, fs.ErrInvalid)
	}
	var names []string
	err := ask(ctx, uri, opts, func(h *haggling) error {
		if err := h.chooseForm(); err != nil {
			return err
		}
		found, err := h.contexts(optListMetaContext, queries)
		names = slices.Sorted(maps.Keys(found))
		return err
	})
	return names, err
}

// ask shakes hands, does one thing, and leaves in good order.
func ask(ctx context.Context, uri string, opts *Options, one func(*haggling) error) error {
	addr, err := ParseURI(uri)
	if err != nil {
		return err
	}
	o, err := opts.orDefault(addr)
	if err != nil {
		return err
	}
	h, err := connect(ctx, addr, o)
	if err == nil {
		defer h.abort()
		err = h.within(ctx, func(context.Context) error { return one(h) })
	}
	if err != nil {
		return fmt.Errorf("%v: %w", addr, err)
	}
	return nil
}
