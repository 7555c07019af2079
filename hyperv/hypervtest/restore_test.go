package hypervtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/vhdx"
)

func embedded(class string, pairs ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<INSTANCE CLASSNAME="%s">`, class)
	for i := 0; i+1 < len(pairs); i += 2 {
		if name, array := strings.CutSuffix(pairs[i], "[]"); array {
			fmt.Fprintf(&b, `<PROPERTY.ARRAY NAME="%s" TYPE="string"><VALUE.ARRAY><VALUE>%s</VALUE></VALUE.ARRAY></PROPERTY.ARRAY>`, name, esc(pairs[i+1]))
		} else {
			fmt.Fprintf(&b, `<PROPERTY NAME="%s" TYPE="string"><VALUE>%s</VALUE></PROPERTY>`, pairs[i], esc(pairs[i+1]))
		}
	}
	return b.String() + `</INSTANCE>`
}

// A VM is defined part by part, and runs with the disk that was made for it.
func TestDefine(t *testing.T) {
	h, _ := core(t, Options{}, VM{})
	_, err := h.do(t, images, "CreateVirtualHardDisk", map[string][]string{"VirtualDiskSettingData": {embedded("Msvm_VirtualHardDiskSettingData", "Path", `C:\new\a.vhdx`,
		"Type", "3", "Format", "3", "MaxInternalSize", "8388608", "BlockSize", "1048576")}}, nil)
	require.NoError(t, err)
	_, err = h.do(t, images, "CreateVirtualHardDisk", map[string][]string{"VirtualDiskSettingData": {embedded("Msvm_VirtualHardDiskSettingData", "Path", `c:\NEW\A.vhdx`,
		"Type", "3", "Format", "3", "MaxInternalSize", "8388608")}}, nil)
	require.ErrorContains(t, err, "0x80070050", "names are alike whatever their case")
	out, err := h.do(t, management, "DefineSystem", map[string][]string{"SystemSettings": {embedded("Msvm_VirtualSystemSettingData", "ElementName", "new",
		"VirtualSystemSubType", "Microsoft:Hyper-V:SubType:2", "ConfigurationDataRoot", `C:\new`, "Version", "8.0")}}, nil)
	require.NoError(t, err)
	vm := given(out, "ResultingSystem").(*Object)
	id, _ := vm.text("Name")
	g := h.VM(id)
	require.NotNil(t, g)
	require.True(t, h.exists(`C:\new\Virtual Machines\`+id+".vmcx"))
	parent := ""
	for _, p := range [][]string{{"Msvm_ResourceAllocationSettingData", "ResourceType", "6", "ResourceSubType", "Microsoft:Hyper-V:Synthetic SCSI Controller"},
		{"Msvm_ResourceAllocationSettingData", "ResourceType", "17", "ResourceSubType", "Microsoft:Hyper-V:Synthetic Disk Drive", "AddressOnParent", "0"},
		{"Msvm_StorageAllocationSettingData", "ResourceType", "31", "ResourceSubType", subDisk, "HostResource[]", `C:\new\a.vhdx`}} {
		if parent != "" {
			p = append(p, "Parent", parent)
		}
		out, err := h.do(t, management, "AddResourceSettings", map[string][]string{"ResourceSettings": {embedded(p[0], p[1:]...)}}, map[string]*Object{"AffectedConfiguration": g.set})
		require.NoError(t, err)
		parent = h.Path(h.opts.Name, given(out, "ResultingResourceSettings").([]*Object)[0])
	}
	_, err = h.do(t, management, "AddResourceSettings", map[string][]string{"ResourceSettings": {embedded("Msvm_StorageAllocationSettingData", "ResourceSubType", subDisk,
		"HostResource[]", `C:\new\none.vhdx`, "Parent", parent)}}, map[string]*Object{"AffectedConfiguration": g.set})
	require.ErrorContains(t, err, "cannot find the file")
	require.ErrorIs(t, g.Write(0, 0, []byte("x")), errOff)
	require.NoError(t, g.PowerOn())
	require.NoError(t, g.Write(0, 4096, []byte("hello")))
	got, err := g.Read(0, 4096, 5)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	_, err = h.do(t, management, "DestroySystem", nil, map[string]*Object{"AffectedSystem": vm})
	require.ErrorContains(t, err, "32775", "it runs")
	require.NoError(t, g.PowerOff())
	_, err = h.do(t, management, "DestroySystem", nil, map[string]*Object{"AffectedSystem": vm})
	require.NoError(t, err)
	require.Nil(t, h.VM(id))
	require.True(t, h.exists(`C:\new\a.vhdx`), "disks stay")
	require.False(t, h.exists(`C:\new\Virtual Machines\`+id+".vmcx"))
}

// The configuration of a checkpoint becomes a planned system; it is realised when all that it names is there, and has the same secret.
func TestPlanned(t *testing.T) {
	h, g := core(t, Options{}, VM{TPM: true, Disks: []Disk{{Size: 4 << 20, BlockSize: 1 << 20}}})
	require.NoError(t, g.Write(0, 512, bytes.Repeat([]byte{7}, 100_000)))
	set, err := h.recovery(t, g, 1)
	require.NoError(t, err)
	id, _ := set.text("ConfigurationID")
	secret := g.Secret()
	for _, ending := range []string{".vmcx", ".vmrs", ".vmgs"} { // as a restore brings it
		b, err := h.read(`C:\VMs\web1\Snapshots\` + id + ending)
		require.NoError(t, err)
		require.NoError(t, h.write(`C:\restored\Virtual Machines\`+strings.ToUpper(g.ID())+ending, b))
	}
	file := `C:\restored\Virtual Machines\` + strings.ToUpper(g.ID()) + ".vmcx"
	whole := h.hold(t, h.files(set)[0])
	require.NoError(t, h.makeRestored(`C:\restored\disk.vhdx`, whole))
	_, err = h.do(t, management, "ImportSystemDefinition", map[string][]string{"SystemDefinitionFile": {file}, "GenerateNewSystemIdentifier": {"false"}}, nil)
	require.ErrorContains(t, err, "exists already")
	out, err := h.do(t, management, "ImportSystemDefinition", map[string][]string{"SystemDefinitionFile": {file}, "GenerateNewSystemIdentifier": {"true"}}, nil)
	require.NoError(t, err)
	var plan *Object
	for _, o := range h.asked(t, "SELECT * FROM Msvm_PlannedComputerSystem") {
		plan = o
	}
	require.NotNil(t, plan)
	require.Equal(t, plan, h.madeBy(given(out, "job").(*Object)))
	name, _ := plan.text("Name")
	p := h.VM(name)
	require.Error(t, p.PowerOn())
	refs := map[string]*Object{"PlannedSystem": plan}
	for _, o := range h.partsOf(p.set) {
		if sub, _ := o.text("ResourceSubType"); sub == subDisk {
			for _, to := range []string{`C:\restored\none.vhdx`, `C:\restored\disk.vhdx`} {
				instance, _ := o.text("InstanceID")
				_, err := h.do(t, management, "ModifyResourceSettings", map[string][]string{"ResourceSettings": {embedded(o.Class, "InstanceID", instance, "HostResource[]", to)}}, nil)
				require.NoError(t, err)
				_, err = h.do(t, management, "ValidatePlannedSystem", nil, refs)
				require.Equal(t, strings.HasSuffix(to, "none.vhdx"), err != nil, "%v", err)
				if err != nil {
					_, err = h.do(t, management, "RealizePlannedSystem", nil, refs)
					require.ErrorContains(t, err, "none.vhdx")
				}
			}
		}
	}
	instance, _ := p.set.text("InstanceID")
	_, err = h.do(t, management, "ModifySystemSettings", map[string][]string{"SystemSettings": {embedded("Msvm_VirtualSystemSettingData", "InstanceID", instance,
		"ElementName", "web1 restored", "ConfigurationDataRoot", `C:\restored`)}}, nil)
	require.NoError(t, err)
	_, err = h.do(t, management, "RealizePlannedSystem", nil, refs)
	require.NoError(t, err)
	require.Empty(t, h.asked(t, "SELECT * FROM Msvm_PlannedComputerSystem"))
	require.NoError(t, p.PowerOn())
	require.Equal(t, secret, p.Secret())
	got, err := p.Read(0, 0, len(whole))
	require.NoError(t, err)
	require.True(t, bytes.Equal(whole, got))
	require.NoError(t, p.Write(0, 0, []byte("the restored one goes on")))
	require.Equal(t, `C:\restored\disk.vhdx`, p.Tip(0))
}

func (h *Host) partsOf(set *Object) []*Object { h.Lock(); defer h.Unlock(); return h.parts(set) }

// made4 is what a job made.
func (h *Host) madeBy(job *Object) *Object {
	h.Lock()
	defer h.Unlock()
	for _, o := range h.objects {
		if o.Class == "Msvm_AffectedJobElement" && o.Values["AffectingElement"] == any(job) {
			return o.Values["AffectedElement"].(*Object)
		}
	}
	return nil
}

func (h *Host) makeRestored(name string, content []byte) error {
	path, err := h.volumePath(name)
	if err != nil {
		return err
	}
	w, err := vhdx.Create(context.Background(), path, int64(len(content)), &vhdx.CreateOptions{BlockSize: 1 << 20})
	if err != nil {
		return err
	}
	if _, err := w.WriteAt(context.Background(), content, 0); err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Commit(context.Background())
}

// Whoever writes into the disk of a VM that is off changes what its guest finds, and no id of change tracking tells of it.
func TestWrittenFromOutside(t *testing.T) {
	for _, format := range []string{"vhdx", "vhd"} {
		h, g := core(t, Options{}, VM{Disks: []Disk{{Size: 4 << 20, BlockSize: 1 << 20, Format: format}}})
		require.NoError(t, g.Write(0, 0, []byte("before")))
		store := h.LocalFiles()
		name := g.Tip(0)
		_, err := store.Open(t.Context(), name)
		require.ErrorIs(t, err, ErrSharing)
		_, err = store.OpenFile(t.Context(), name)
		require.ErrorIs(t, err, ErrSharing)
		require.ErrorIs(t, store.Remove(t.Context(), name), ErrSharing)
		require.NoError(t, g.PowerOff())
		f, err := store.OpenFile(t.Context(), name)
		require.NoError(t, err)
		_, err = store.OpenFile(t.Context(), name)
		require.ErrorIs(t, err, ErrSharing)
		require.NoError(t, f.Close())
		path, err := h.volumePath(name)
		require.NoError(t, err)
		time.Sleep(15 * time.Millisecond) // a VHD has only its time to tell
		var d file
		if format == "vhd" {
			d, err = openVHD(path)
		} else {
			d, err = vhdx.OpenDisk(t.Context(), path, nil)
		}
		require.NoError(t, err)
		_, err = d.WriteAt(t.Context(), []byte("AFTER!"), 0)
		require.NoError(t, err)
		require.NoError(t, d.Commit(t.Context()))
		require.NoError(t, g.PowerOn())
		require.Equal(t, "AFTER!", string(all(t, g.Now(0), 6)))
	}
}

// Names lead nowhere but into the host's own folder.
func TestNames(t *testing.T) {
	h, _ := core(t, Options{}, VM{})
	for _, bad := range []string{"", "a", `C:\..\x`, `C:\a\..\..\..\etc\passwd`, `\\..\x\y`, `\\fs1\..\y`, `\\fs1`, `/etc/passwd`, "C:\\a\x00", `C:/etc`, `CC:\x`, `\\fs1\a/b\c`, `C:x`, `C:\a:b`} {
		_, err := h.volumePath(bad)
		require.ErrorIs(t, err, fs.ErrInvalid, "%q", bad)
	}
	for good, want := range map[string]string{`C:\a\B.vhdx`: "/C/a/B.vhdx", `d:\x`: "/D/x", `\\fs1.example.org\Vms\x`: "/UNC/fs1.example.org/vms/x", `\\hv1\C$\a`: "/C/a", `C:\`: "/C"} {
		got, err := h.volumePath(good)
		require.NoError(t, err)
		require.Equal(t, h.dir+want, got)
	}
	h.mountAt(`C:\ClusterStorage\Volume1`, "/elsewhere")
	got, err := h.volumePath(`c:\clusterstorage\VOLUME1\x`)
	require.NoError(t, err)
	require.Equal(t, "/elsewhere/x", got)
	h.unmount(`C:\ClusterStorage\Volume1`)
	got, err = h.volumePath(`C:\ClusterStorage\Volume1\x`)
	require.NoError(t, err)
	require.Equal(t, h.dir+"/C/ClusterStorage/Volume1/x", got)
	_, err = os.Stat(h.dir)
	require.NoError(t, err)
}
