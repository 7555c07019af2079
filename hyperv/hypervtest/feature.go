package hypervtest

import (
	"strconv"
	"strings"
)

// A network card's connection to a switch has features: settings of the switch's port that are the VM's own, such as its VLAN. They are no
// parts of the VM's settings, but hang on the connection, and go with it.
const (
	classConnection  = "Msvm_EthernetPortAllocationSettingData"
	classFeatures    = "Msvm_EthernetPortSettingDataComponent"
	classVLAN        = "Msvm_EthernetSwitchPortVlanSettingData"
	vlanFeature      = `\952C5004-4465-451C-8CB8-FA9AB382B773`
	vlanAccess       = 1
	maxVLAN          = 4094
	codeBadParameter = 32773
)

// features are those of a connection.
func (s *Store) features(connection *Object) (list []*Object) {
	if connection.Class != classConnection {
		return nil
	}
	for _, o := range s.objects {
		if o.Class == classFeatures && o.Values["GroupComponent"] == any(connection) {
			list = append(list, o.Values["PartComponent"].(*Object))
		}
	}
	return list
}

// feature hangs one on a connection.
func (h *Host) feature(connection, o *Object) *Object {
	h.Add(V2, o)
	h.Add(V2, NewObject(classFeatures, "GroupComponent", connection, "PartComponent", o))
	return o
}

// tag puts a connection into a VLAN.
func (h *Host) tag(connection *Object, vlan uint16) {
	name, _ := connection.text("InstanceID")
	h.feature(connection, NewObject(classVLAN, "InstanceID", name+vlanFeature, "ElementName", "Ethernet Switch Port VLAN Settings",
		"OperationMode", uint32(vlanAccess), "AccessVlanId", vlan, "NativeVlanId", uint16(0), "PvlanMode", nil, "PrimaryVlanId", nil, "SecondaryVlanId", nil,
		"TrunkVlanIdArray", nil, "PruneVlanIdArray", nil, "SecondaryVlanIdArray", nil))
}

// addFeatures is AddFeatureSettings of the service that VMs are made by: a connection has one of a kind.
func addFeatures(c *Call) (uint32, []any) {
	h, on := c.Host, c.Refs["AffectedConfiguration"]
	g := h.holder(on)
	if g == nil || on.Class != classConnection || len(c.In["FeatureSettings"]) != 1 {
		return codeBadParameter, nil
	}
	in, err := parseEmbedded(c.In["FeatureSettings"][0])
	if err != nil || !strings.EqualFold(in.Class, classVLAN) {
		return codeBadParameter, nil
	}
	if text, ok := in.text("AccessVlanId"); ok {
		if n, err := strconv.Atoi(text); err != nil || n > maxVLAN {
			return codeBadParameter, nil
		}
	}
	name, _ := on.text("InstanceID")
	in.Class = classVLAN
	in.Set("InstanceID", name+vlanFeature)
	return 4096, []any{"ResultingFeatureSettings", nil, "Job", h.startJob(c.Method, g.id, "Adding features", h.opts.JobTime, func() error {
		if len(h.features(on)) > 0 {
			return &FaultError{Code: codeBadParameter, Reason: "the connection has VLAN settings, which can be modified"}
		}
		h.feature(on, in)
		return nil
	}, nil)}
}
