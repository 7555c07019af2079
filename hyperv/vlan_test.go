package hyperv

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// R103: a network card is in its VLAN again, and a VM of generation 1 starts from what it started from. What the host does not take, or did
// not tell when the point was made, is said: a card in the wrong network is nobody's surprise.
func TestRestoreVLANAndBootOrder(t *testing.T) {
	t.Parallel()
	var mute atomic.Bool
	d := newDepot(t, hypervtest.Options{Before: func(s hypervtest.Seen) *hypervtest.Failure {
		if mute.Load() && strings.Contains(s.Query, classFeatures) {
			return &hypervtest.Failure{Subcode: "InvalidParameter", HRESULT: 0x80041010, Reason: "invalid class"}
		}
		return nil
	}})
	g := d.vm("web1", func(v *hypervtest.VM) { v.Generation, v.VLAN, v.Disks[0].IDE = 1, 12, true })
	d.starts(g, 3, 2, 1, 0)
	_, point := d.keep(g)
	res, err := d.restored(point, nil, "again")
	require.NoError(t, err)
	require.NotContains(t, strings.Join(res.Notes, "\n"), "not brought back: "+classVLAN)
	again := d.fake.VM(res.ID)
	_, copied := d.keep(again)
	rec, err := readRecord(d.blobs(copied))
	require.NoError(t, err)
	require.Len(t, rec.cards, 1)
	require.NotNil(t, rec.cards[0].vlan)
	require.Equal(t, "12", rec.cards[0].vlan.Text("AccessVlanId"))
	require.Equal(t, "1", rec.cards[0].vlan.Text("OperationMode"))
	order, err := typedValue("uint16[]", valueOf(rec.system, bootOrder))
	require.NoError(t, err)
	require.Equal(t, []uint16{3, 2, 1, 0}, order)

	d.fake.Fail(hypervtest.Fault{Job: "AddFeatureSettings", Code: 32768, Reason: "the switch has no VLANs"})
	res, err = d.restored(point, nil, "elsewhere")
	require.NoError(t, err)
	require.Contains(t, strings.Join(res.Notes, "\n"), "is in no VLAN: the host did not take the recorded one (mode 1, VLAN 12)")

	mute.Store(true)
	_, untold := d.keep(g)
	mute.Store(false)
	res, err = d.restored(untold, nil, "untold")
	require.NoError(t, err)
	require.Contains(t, strings.Join(res.Notes, "\n"), "not recorded, as its host did not tell")
}

// starts has a VM start from devices in an order, as a person sets it.
func (l *lab) starts(g *hypervtest.Guest, order ...uint16) {
	l.t.Helper()
	require.NoError(l.t, g.PowerOff())
	h, err := l.site.Owner(l.t.Context(), g.ID())
	require.NoError(l.t, err)
	var now vmSettings
	require.NoError(l.t, h.realized(l.t.Context(), g.ID(), &now))
	set := &cim.Instance{Class: settingClass}
	set.Set("InstanceID", now.ID)
	set.Set(bootOrder, order)
	_, err = h.manage(l.t.Context(), "ModifySystemSettings", cim.Property{Name: "SystemSettings", Value: set})
	require.NoError(l.t, err)
	require.NoError(l.t, g.PowerOn())
}

func valueOf(in *cim.Instance, name string) any { v, _ := in.Value(name); return v }
