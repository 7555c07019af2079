package kvm

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
)

func editOf(args ...string) *commandEdit {
	return &commandEdit{record: record{Folder: "/home/vm"}, args: append([]string{"qemu-system-x86_64"}, args...)}
}

// A disk's file is found wherever QEMU takes one, and nothing else is touched.
func TestMoveDisk(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("paths of unix")
	}
	for _, c := range []struct{ name, arg, format, want string }{
		{"blockdev", "driver=file,node-name=f0,filename=/vm/a.qcow2,discard=unmap", "", "driver=file,node-name=f0,filename=/new,, x/a,discard=unmap"},
		{"drive", "file=/vm/a.qcow2,format=qcow2,if=virtio", "raw", "file=/new,, x/a,format=raw,if=virtio"},
		{"with a protocol", "file=file:/vm/a.qcow2", "", "file=/new,, x/a"},
		{"nested", "driver=qcow2,node-name=disk0,file.driver=file,file.filename=/vm/a.qcow2", "raw", "driver=raw,node-name=disk0,file.driver=file,file.filename=/new,, x/a"},
		{"relative", "file=../../vm/a.qcow2", "", "file=/new,, x/a"},
		{"alone", "/vm/a.qcow2", "", "/new, x/a"},
		{"JSON", `{"driver":"file","filename":"/vm/a.qcow2","node-name":"f0"}`, "", `{"driver":"file","filename":"/new, x/a","node-name":"f0"}`},
		{"nested JSON", `{"driver":"qcow2","node-name":"disk0","file":{"driver":"file","filename":"/vm/a.qcow2"},"n":12345678901234567}`, "raw",
			`{"driver":"raw","file":{"driver":"file","filename":"/new, x/a"},"n":12345678901234567,"node-name":"disk0"}`},
	} {
		e := editOf("-blockdev", c.arg)
		require.True(t, e.move("/vm/a.qcow2", "/new, x/a", "disk0", c.format), c.name)
		require.Equal(t, c.want, e.args[2], c.name)
		require.False(t, e.mentions("/vm/a.qcow2"), c.name)
	}
	for _, arg := range []string{"file=/vm/a.qcow2.bak", "file=/vm/b.qcow2,,x", "-name", "", "{", `{"filename":5}`, "driver=raw,node-name=disk1", "a.qcow2"} {
		e := editOf(arg)
		require.False(t, e.move("/vm/a.qcow2", "/x", "disk0", "raw"), arg)
		require.Equal(t, arg, e.args[1])
	}
	over := editOf("driver=qcow2,node-name=disk0,file=f0")
	require.False(t, over.move("/vm/a.qcow2", "/x", "disk0", "raw"), "its file is in another argument")
	require.Equal(t, "driver=raw,node-name=disk0,file=f0", over.args[1])
}

func TestCleanCommand(t *testing.T) {
	e := editOf("-name", "guest=web1,debug-threads=on", "-incoming", "tcp:0:4444", "-m", "64", "--loadvm", "s1", "-netdev", "tap,fd=25,id=n", "-add-fd", "fd=3,set=1")
	e.clean()
	e.rename("web,2")
	require.Equal(t, []string{"qemu-system-x86_64", "-name", "guest=web,,2,debug-threads=on", "-m", "64", "-netdev", "tap,fd=25,id=n", "-add-fd", "fd=3,set=1"}, e.args)
	require.Len(t, e.notes, 3)
	require.Len(t, e.stops, 3)
	text := string(e.script("x\ny"))
	require.Contains(t, text, "exit 1")
	require.NotContains(t, text, "x\ny")
	plain := editOf("-name", "web1")
	plain.rename("db")
	require.Equal(t, "db", plain.args[2])
	require.Equal(t, []string{"/run/q", "/home/vm/a"}, editOf("-qmp", "unix:/run/q,server=on", "-chardev", "socket,id=c,path=a,server=on", "-chardev", "socket,id=d,path=/no").sockets())
}

func TestQuoteShell(t *testing.T) {
	for in, want := range map[string]string{"": "''", "a=b,c:/d-e_f.g": "a=b,c:/d-e_f.g", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "~": "'~'", "é": "'é'", "-x\n": "'-x\n'"} {
		require.Equal(t, want, quoteShell(in))
	}
}

// A disk that was attached while the machine ran is added; one whose file is not understood, or where it was is not
// known, stops the script; libvirt's description gets the new files.
func TestRestoreOddMachines(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("paths of unix")
	}
	config := func(line string, r record) map[string][]byte {
		text, err := json.Marshal(r)
		require.NoError(t, err)
		return map[string][]byte{"command-line": []byte(line), recordBlob: text,
			"domain.xml": []byte(`<disk><driver name='qemu' type='qcow2'/><source file='/vm/a&amp;b.qcow2'/></disk><nvram>/vm/vars.fd</nvram>`)}
	}
	make := func(line string, r record, opts *RestorerOptions) (script, xml string, notes []string) {
		opts.Folder = filepath.Join(t.TempDir(), "vm")
		d, err := NewRestorer(opts).Create(t.Context(), hikae.VM{Name: "web1", Disks: []hikae.Disk{{Key: "vda", Size: mib1}}, Config: config(line, r)}, nil)
		require.NoError(t, err)
		defer d.Close()
		target, err := d.OpenDisk(t.Context(), "vda")
		require.NoError(t, err)
		require.NoError(t, target.Commit(t.Context()))
		_, err = d.Commit(t.Context())
		require.NoError(t, err)
		text, err := os.ReadFile(filepath.Join(opts.Folder, startScript))
		require.NoError(t, err)
		domain, err := os.ReadFile(filepath.Join(opts.Folder, "domain.xml"))
		require.NoError(t, err)
		return strings.ReplaceAll(string(text), opts.Folder, "FOLDER"), strings.ReplaceAll(string(domain), opts.Folder, "FOLDER"), d.(interface{ Notes() []string }).Notes()
	}
	was := recordedDisk{DiskImage: DiskImage{Key: "vda", Path: "/vm/a&b.qcow2", Format: "qcow2"}, Node: "disk0", Device: "/machine/peripheral/vda/virtio-backend"}

	script, xml, _ := make("qemu\x00-m\x0064\x00", record{Disks: []recordedDisk{was}}, &RestorerOptions{})
	require.Contains(t, script, "filename=FOLDER/vda.qcow2")
	require.Contains(t, script, "serial=vda")
	require.NotContains(t, script, "exit 1\n\n")
	require.Contains(t, xml, "<source file='FOLDER/vda.qcow2'/>")

	script, _, notes := make("qemu\x00-drive\x00file=/vm/base,id=x\x00-device\x00virtio-blk-pci,id=vda\x00", record{Disks: []recordedDisk{was}}, &RestorerOptions{})
	require.Contains(t, script, "which the command line does not name")
	require.Contains(t, strings.Join(notes, " "), "needs a person first")
	script, _, _ = make("qemu\x00-drive\x00file=json:{\"filename\":\"/vm/a&b.qcow2\"}\x00", record{Disks: []recordedDisk{was}}, &RestorerOptions{})
	require.Contains(t, script, "in a way that is not understood")
	script, _, _ = make("qemu\x00", record{}, &RestorerOptions{})
	require.Contains(t, script, "is not known")
	script, _, _ = make("qemu\x00-drive\x00file=/vm/a&b.qcow2,format=qcow2\x00", record{Disks: []recordedDisk{was}}, &RestorerOptions{Format: "raw"})
	require.Contains(t, script, "-drive file=FOLDER/vda.raw,format=raw")
}

const mib1 = 1 << 20

// The shell reads of a script exactly the arguments that it was made of, whatever is in them.
func TestScriptWords(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("sh is not installed")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		e := editOf()
		e.args[0], e.record.Folder = "printf", ""
		e.args = append(e.args, `%s\0`)
		for range 1 + rng.IntN(20) {
			word := make([]byte, rng.IntN(12))
			for i := range word {
				word[i] = byte(1 + rng.IntN(255))
			}
			e.args = append(e.args, "-"+string(word))
		}
		cmd := exec.CommandContext(t.Context(), sh)
		cmd.Stdin = strings.NewReader(string(e.script("a 'title' $(reboot)\n`reboot`")))
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, e.args[2:], strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"))
	}
}

// What a point's configuration says was written by whoever could write to the repository: it names no file outside of the
// folder, and is no panic.
func FuzzRestoreConfig(f *testing.F) {
	f.Add([]byte("qemu\x00-drive\x00file=/a,,b,format=raw\x00"), []byte(`{"folder":"/x","disks":[{"key":"vda","path":"/a,b","format":"raw","node":"n"}],"firmware":[{"path":"/f","blob":"firmware/0"}]}`))
	f.Add([]byte("qemu\x00{\"filename\":\"/a\"}\x00-incoming\x00"), []byte(`{"disks":[{"key":"../x","path":"nbd:x"}],"firmware":[{"path":"","blob":"../../x"}]}`))
	f.Fuzz(func(t *testing.T, line, text []byte) {
		config := map[string][]byte{"command-line": line, recordBlob: text}
		r, ok, err := readRecord(config)
		if err != nil {
			return
		}
		d := &createDraft{restorer: NewRestorer(nil), record: r, recorded: ok, final: "/new/vm", disks: map[string]*createDisk{},
			vm: hikae.VM{Name: "x", Disks: []hikae.Disk{{Key: "vda", Size: 512}}, Config: config}}
		require.NoError(t, d.plan())
		require.Contains(t, []string{"vda.raw", "vda.qcow2"}, d.disks["vda"].Path)
		for _, m := range r.Firmware {
			if plainBlob(m.Blob) {
				require.True(t, filepath.IsLocal(filepath.FromSlash(m.Blob)))
			}
		}
		if script, why := d.script(); script == nil {
			require.NotEmpty(t, why)
		}
		if images, err := RecordedDisks(config); err == nil {
			require.NoError(t, checkImages(images))
		}
	})
}
