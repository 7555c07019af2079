//go:build linux

package kvm

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
)

// made restores a machine of two disks with one of its disks, and returns what it is started by.
func made(t *testing.T, r record, xml string, line ...string) (folder, script, domain string, notes []string) {
	t.Helper()
	text, err := json.Marshal(r)
	require.NoError(t, err)
	folder = filepath.Join(t.TempDir(), "vm")
	config := map[string][]byte{"command-line": []byte(strings.Join(line, "\x00") + "\x00"), recordBlob: text}
	if xml != "" {
		config["domain.xml"] = []byte(xml)
	}
	d, err := NewRestorer(&RestorerOptions{Folder: folder}).Create(t.Context(),
		hikae.VM{Name: "web1", Disks: []hikae.Disk{{Key: "vda", Size: mib1}}, Config: config}, nil)
	require.NoError(t, err)
	defer d.Close()
	target, err := d.OpenDisk(t.Context(), "vda")
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	_, err = d.Commit(t.Context())
	require.NoError(t, err)
	start, err := os.ReadFile(filepath.Join(folder, startScript))
	require.NoError(t, err)
	if xml != "" {
		content, err := os.ReadFile(filepath.Join(folder, "domain.xml"))
		require.NoError(t, err)
		domain = string(content)
	}
	return folder, string(start), domain, d.(interface{ Notes() []string }).Notes()
}

func wasDisk(key, path, node string) recordedDisk {
	return recordedDisk{DiskImage: DiskImage{Key: key, Path: path, Format: formatQcow2}, Node: node, Device: "/machine/peripheral/" + key}
}

// The old disk stood on a backing file that the command line names. Under the restored one, whose zeros are holes, the
// old content would show through.
func TestRestoredDiskStandsAlone(t *testing.T) {
	t.Parallel()
	base := `{"driver":"qcow2","node-name":"base","read-only":true,"file":{"driver":"file","filename":"/vm/base.qcow2"}}`
	for name, line := range map[string][]string{
		"JSON":       {"-blockdev", base, "-blockdev", `{"driver":"qcow2","node-name":"top","file":{"driver":"file","filename":"/vm/top.qcow2"},"backing":"base"}`},
		"two nodes":  {"-blockdev", base, "-blockdev", `{"driver":"qcow2","node-name":"top","file":"st","backing":"base"}`, "-blockdev", `{"driver":"file","filename":"/vm/top.qcow2","node-name":"st"}`},
		"a filter":   {"-blockdev", base, "-blockdev", `{"driver":"throttle","node-name":"thr","file":"fmt","throttle-group":"g"}`, "-blockdev", `{"driver":"qcow2","node-name":"fmt","file":"st","backing":"base"}`, "-blockdev", `{"driver":"file","filename":"/vm/top.qcow2","node-name":"st"}`},
		"options":    {"-blockdev", base, "-blockdev", "driver=qcow2,node-name=top,file.driver=file,file.filename=/vm/top.qcow2,backing=base"},
		"apart":      {"-blockdev", "driver=qcow2,node-name=top,backing=base,file=st", "-blockdev", "driver=file,node-name=st,filename=/vm/top.qcow2"},
		"drive":      {"-drive", "file=/vm/top.qcow2,format=qcow2,backing.file.filename=/vm/base.qcow2"},
		"all inside": {"-blockdev", `{"driver":"qcow2","node-name":"top","file":{"driver":"file","filename":"/vm/top.qcow2"},"backing":` + base + `}`},
	} {
		_, script, _, _ := made(t, record{Disks: []recordedDisk{wasDisk("vda", "/vm/top.qcow2", "top")}}, "", append([]string{"qemu"}, line...)...)
		_, command, _ := strings.Cut(script, "exec ")
		require.NotContains(t, command, "backing", name)
		require.NotContains(t, command, "/vm/top.qcow2", name)
		require.Contains(t, command, "vda.qcow2", name)
		require.NotContains(t, script, "exit 1\n\n", name)
	}
	_, script, _, _ := made(t, record{Disks: []recordedDisk{wasDisk("vda", "/vm/top.qcow2", "top")}}, "", "qemu", "-blockdev", "driver=raw,node-name=top,offset=512,file.driver=file,file.filename=/vm/top.qcow2")
	require.Contains(t, script, "exit 1")
}

// QEMU itself shows zeros where the point has them.
func TestRestoredDiskStandsAloneInQEMU(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img", "qemu-system-x86_64")
	s := &parked{t: t}
	base := filepath.Join(t.TempDir(), "base.qcow2")
	s.run("qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
	_, script, _, _ := made(t, record{Disks: []recordedDisk{wasDisk("vda", "/vm/top.qcow2", "top")}}, "",
		"qemu-system-x86_64", "-S", "-M", "none", "-nodefaults", "-display", "none", "-blockdev", "driver=qcow2,node-name=base,read-only=on,file.driver=file,file.filename="+base,
		"-blockdev", `{"driver":"qcow2","node-name":"top","file":{"driver":"file","filename":"/vm/top.qcow2"},"backing":"base"}`, "-monitor", "stdio")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh")
	cmd.Args = []string{"sh", "-c", script}
	cmd.Stdin = strings.NewReader("info block -n -v top\nquit\n")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "vda.qcow2")
	require.NotContains(t, string(out), "Backing file")
}

// Only one of two disks was restored. The new machine must not start with the old machine's other one.
func TestRestoredWithoutOthersDisks(t *testing.T) {
	t.Parallel()
	r := record{Disks: []recordedDisk{wasDisk("vda", "/vm/a.qcow2", "a"), wasDisk("vdb", "/vm/b.qcow2", "b")}, Firmware: []recordedMemory{{Path: "/vm/vars.fd"}}}
	line := []string{"qemu", "-drive", "file=/vm/a.qcow2", "-drive", "file=/vm/b.qcow2"}
	_, script, _, notes := made(t, r, "<domain><disk><source file='/vm/b.qcow2'/></disk></domain>", line...)
	require.Contains(t, script, "exit 1", "the old machine's disk would be written to")
	require.Contains(t, strings.Join(notes, "\n"), "domain.xml: disk vdb is not part")
	r.Disks[1].Skip = skipReadOnly
	_, script, _, _ = made(t, r, "", line...)
	require.NotContains(t, script, "exit 1\n\n")
	_, script, _, _ = made(t, r, "", append(line, "-drive", "if=pflash,file=/vm/vars.fd")...)
	require.Contains(t, script, "exit 1", "the old machine's variables would be written to")
}

// The same in libvirt's words.
func TestRestoredDomainStandsAlone(t *testing.T) {
	t.Parallel()
	xml := `<domain><devices><disk type='file'><driver type='qcow2'/><source file='/vm/top.qcow2' index='1'/><backingStore type='file' index='2'><format type='qcow2'/>` +
		`<source file='/vm/base.qcow2'/><backingStore type='file'><source file='/vm/root.qcow2'/><backingStore/></backingStore></backingStore><target dev='vda'/></disk>` +
		`<disk type='file'><source file='/vm/other.qcow2'/><backingStore type='file'><source file='/vm/theirs.qcow2'/></backingStore></disk></devices></domain>`
	_, _, domain, _ := made(t, record{Disks: []recordedDisk{wasDisk("vda", "/vm/top.qcow2", "top")}}, xml, "qemu", "-drive", "file=/vm/top.qcow2")
	require.NotContains(t, domain, "/vm/base.qcow2")
	require.NotContains(t, domain, "/vm/root.qcow2")
	require.Contains(t, domain, "<backingStore/><target dev='vda'/>")
	require.Contains(t, domain, "/vm/theirs.qcow2", "of what was not restored nothing is changed")
	bad, err := aloneInXML("<domain><disk>", map[string]bool{})
	require.Error(t, err)
	require.Equal(t, "<domain><disk>", bad)
}
