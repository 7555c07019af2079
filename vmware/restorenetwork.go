package vmware

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// networks are what the cards of a new VM can hang on.
type networks struct {
	client *Client
	in     inventory
	host   spot
	asked  map[string]string // RestorerOptions.Networks
	used   []string          // the names by which a card's network may have been meant
	cards  []string          // what the recorded cards hung on
	there  []spot
}

// allUsed refuses a mapping of a network that no card hung on: somebody meant another one, and the card would hang where it hung.
func (n *networks) allUsed() error {
	for from := range n.asked {
		if !slices.Contains(n.used, from) {
			return fmt.Errorf("a network was named for %q, and no card hung there; they hung on %s: %w", from, strings.Join(n.cards, ", "), fs.ErrInvalid)
		}
	}
	return nil
}

func (r *Restorer) networks(ctx context.Context, w *where) (*networks, error) {
	var h mo.HostSystem
	if err := property.DefaultCollector(r.client.vim).RetrieveOne(ctx, w.host.ref, []string{"network"}, &h); err != nil {
		return nil, fmt.Errorf("networks of host %s: %w", w.host.name, err)
	}
	n := &networks{client: r.client, in: w.in, host: w.host, asked: r.opts.Networks}
	for _, ref := range h.Network {
		if s, ok := w.in[ref]; ok {
			n.there = append(n.there, s)
		}
	}
	slices.SortFunc(n.there, func(a, b spot) int { return strings.Compare(n.in.path(a.ref), n.in.path(b.ref)) })
	return n, nil
}

var errNoCard = errors.New("the card is left out")

// backing is what a recorded card hangs on in the new VM: what is asked for, else what it hung on. errNoCard: nothing.
func (n *networks) backing(ctx context.Context, card *types.VirtualEthernetCard) (types.BaseVirtualDeviceBackingInfo, error) {
	name, key := networkOf(card.Backing)
	label := labelOf(card.VirtualDevice)
	n.cards = append(n.cards, fmt.Sprintf("%s (%s)", name, label))
	n.used = append(n.used, label, name, key)
	for _, by := range []string{label, name, key} {
		switch to, ok := n.asked[by]; {
		case by == "" || !ok:
		case to == NoCard:
			return nil, errNoCard
		default:
			s, err := n.in.pick("network", n.there, to)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", label, err)
			}
			return n.hang(ctx, s)
		}
	}
	for _, s := range n.there {
		if key != "" && s.ref.Value == key || key == "" && name != "" && s.name == name {
			return n.hang(ctx, s)
		}
	}
	err := n.in.absent("network", cmp.Or(name, key), n.there)
	err.Hint = "say what " + cmp.Or(label, "the card") + " hangs on instead; these are what host " + n.host.name + " reaches"
	return nil, fmt.Errorf("%s: %w", cmp.Or(label, "network card"), err)
}

func (n *networks) hang(ctx context.Context, s spot) (types.BaseVirtualDeviceBackingInfo, error) {
	ref, ok := object.NewReference(n.client.vim, s.ref).(object.NetworkReference)
	if !ok {
		return nil, fmt.Errorf("network %s: a card cannot hang on a %s", s.name, s.ref.Type)
	}
	b, err := ref.EthernetCardBackingInfo(ctx)
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", s.name, err)
	}
	return b, nil
}

// networkOf is what a card hung on: a network by its name, or a port group of a distributed switch by its key.
func networkOf(b types.BaseVirtualDeviceBackingInfo) (name, key string) {
	switch b := b.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		return b.DeviceName, ""
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		return "", b.Port.PortgroupKey
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		return b.OpaqueNetworkId, ""
	}
	return "", ""
}

func labelOf(d types.VirtualDevice) string {
	if d.DeviceInfo == nil {
		return ""
	}
	return d.DeviceInfo.GetDescription().Label
}
