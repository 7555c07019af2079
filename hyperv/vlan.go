package hyperv

import (
	"context"
	"errors"
	"fmt"

	"github.com/hikae/hikae/hyperv/cim"
)

// What a switch's port does for one network card, such as its VLAN, hangs on the card's connection and is no part of the VM's settings. It is
// recorded beside them; of it, VLANs are brought back. What else there is (bandwidth, guards, lists of addresses) is named by a restore.
const (
	classFeatures = "Msvm_EthernetPortSettingDataComponent"
	classVLAN     = "Msvm_EthernetSwitchPortVlanSettingData"
)

var vlanSettings = map[string]string{"OperationMode": "uint32", "AccessVlanId": "uint16", "NativeVlanId": "uint16", "PvlanMode": "uint32", "PrimaryVlanId": "uint16",
	"SecondaryVlanId": "uint16", "TrunkVlanIdArray": "uint16[]", "PruneVlanIdArray": "uint16[]", "SecondaryVlanIdArray": "uint16[]"}

// features adds to settings what hangs on connections among their parts. A host that does not tell is no reason to have no point.
func (h *Host) features(ctx context.Context, s *Settings, parts []*cim.Instance) error {
	for _, p := range parts {
		if p.Class != classCable {
			continue
		}
		ref, err := p.Keyed(cim.Virtualization, "InstanceID")
		if err != nil {
			return err
		}
		list, err := cim.All(h.client.Associators(ctx, ref, cim.Hop{Association: classFeatures}, nil))
		var fault *cim.Fault
		if errors.As(err, &fault) && ctx.Err() == nil {
			s.Untold = append(s.Untold, fmt.Sprintf("what the switch's port of connection %s does, VLAN included: %v", p.Text("InstanceID"), fault))
			continue
		}
		if err != nil {
			return fmt.Errorf("features of %s: %w", p.Text("InstanceID"), err)
		}
		for _, in := range list {
			o, err := settingObject(in)
			if err != nil {
				return err
			}
			o.On = p.Text("InstanceID")
			if s.Parts = append(s.Parts, o); len(s.Parts) > maxParts {
				return fmt.Errorf("%w: more than %d settings", cim.ErrMalformed, maxParts)
			}
		}
	}
	return nil
}

// tag puts a connection of a planned VM into the recorded VLAN. Where the host does not take it the card stays in none, and that is said.
func (b *builder) tag(ctx context.Context, c *recordedCard, connection cim.Ref) (note string, err error) {
	if c.vlan == nil {
		return "", nil
	}
	set := &cim.Instance{Class: classVLAN}
	if err := settle(set, c.vlan, vlanSettings); err != nil {
		return "", err
	}
	_, err = b.h.manage(ctx, "AddFeatureSettings", cim.Property{Name: "AffectedConfiguration", Value: connection},
		cim.Property{Name: "FeatureSettings", Value: []*cim.Instance{set}})
	if refused(err) {
		return fmt.Sprintf("network card %q is in no VLAN: the host did not take the recorded one (mode %s, VLAN %s): %v", c.name, c.vlan.Text("OperationMode"), c.vlan.Text("AccessVlanId"), err), nil
	}
	return "", err
}
