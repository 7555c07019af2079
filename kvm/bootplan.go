package kvm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// bootPlan is what a machine is booted with, and why.
type bootPlan struct {
	memory   int64 // MiB
	cpus     int
	firmware string // path of the code; empty: QEMU's own BIOS
	vars     string // path of its variables, to be copied
	accel    string
	bus      string
	mapping  []string
	ports    map[int]string // of the guest → address on this machine
}

// recorded is what is known of a machine.
type recorded struct {
	by       string // who recorded it
	memory   int64
	cpus     int
	firmware string
}

const (
	bootMemory = 2048
	bootCPUs   = 2
	mostCPUs   = 4
	mostMemory = 1 << 20 // MiB
)

// ovmf are the places in which distributions have a UEFI firmware, code and variables.
var ovmf = [][2]string{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	{"/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"},
}

func planBoot(o *BootOptions) (p bootPlan, err error) {
	r := recordOf(o.Config)
	p.set("memory", r.memory > 0, fmt.Sprintf("%d MiB", r.memory), func() string {
		p.memory = first(o.MemoryMB, r.memory, bootMemory)
		return fmt.Sprintf("%d MiB", p.memory)
	})
	p.set("processors", r.cpus > 0, strconv.Itoa(r.cpus), func() string {
		p.cpus = int(first(int64(o.CPUs), int64(min(r.cpus, mostCPUs)), bootCPUs))
		return strconv.Itoa(p.cpus)
	})
	if p.memory < 16 || p.memory > mostMemory || p.cpus < 1 || p.cpus > 255 {
		return p, fmt.Errorf("%d MiB and %d processors: %w", p.memory, p.cpus, fs.ErrInvalid)
	}
	if err := p.setFirmware(o.Firmware, r.firmware); err != nil {
		return p, err
	}
	p.bus = o.Bus
	if p.bus == "" {
		p.bus = "sata" // every guest of this century has a driver for it in what it boots from
		if r.by == "QEMU" {
			p.bus = "virtio"
		}
	}
	if p.bus != "virtio" && p.bus != "sata" {
		return p, fmt.Errorf("bus %q: there are virtio and sata: %w", p.bus, fs.ErrInvalid)
	}
	p.set("disks", false, "", func() string { return "on " + p.bus + ", in the point's order" })
	p.accel = o.Accel
	if p.accel == "" {
		p.accel = "tcg"
		if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
			f.Close()
			p.accel = "kvm"
		}
	}
	if p.accel != "kvm" && p.accel != "tcg" {
		return p, fmt.Errorf("acceleration %q: there are kvm and tcg: %w", p.accel, fs.ErrInvalid)
	}
	p.set("processor", false, "", func() string { return map[string]string{"kvm": "this machine's, by KVM", "tcg": "emulated"}[p.accel] })
	p.set("network", false, "", func() string {
		if len(o.Ports) == 0 {
			return "none"
		}
		return fmt.Sprintf("none but ports %v from this machine", o.Ports)
	})
	if r.by != "" && r.by != "QEMU" {
		p.mapping = append(p.mapping, "recorded by "+r.by+": what else it had is left out")
	}
	for _, extra := range o.Options {
		if extra == "" {
			return p, fmt.Errorf("an empty option for QEMU: %w", fs.ErrInvalid)
		}
	}
	return p, nil
}

// first is the first that is not zero.
func first(values ...int64) int64 {
	return values[slices.IndexFunc(values, func(v int64) bool { return v != 0 })]
}

func (p *bootPlan) set(what string, known bool, was string, choose func() string) {
	now := choose()
	switch {
	case !known && was == "" && (what == "disks" || what == "processor" || what == "network"):
		p.mapping = append(p.mapping, what+": "+now)
	case !known:
		p.mapping = append(p.mapping, fmt.Sprintf("%s: %s (not recorded)", what, now))
	case was == now:
		p.mapping = append(p.mapping, fmt.Sprintf("%s: %s, as recorded", what, now))
	default:
		p.mapping = append(p.mapping, fmt.Sprintf("%s: %s (recorded: %s)", what, now, was))
	}
}

func (p *bootPlan) setFirmware(asked, was string) error {
	want := asked
	if want == "" {
		want = was
	}
	if want == "" {
		want = "bios"
	}
	p.set("firmware", was != "", was, func() string { return want })
	switch want {
	case "bios":
		return nil
	case "efi":
	default:
		return fmt.Errorf("firmware %q: there are bios and efi: %w", want, fs.ErrInvalid)
	}
	for _, pair := range ovmf {
		if _, err := os.Stat(pair[0]); err == nil {
			p.firmware, p.vars = pair[0], pair[1]
			return nil
		}
	}
	return fmt.Errorf("the machine has a UEFI firmware, and none is installed here (Debian's package is ovmf): %w", fs.ErrNotExist)
}

// recordOf takes what it can from a recorded configuration. What is not readable is not known.
func recordOf(config map[string][]byte) (r recorded) {
	if text := config["qmp/query-memory-size-summary.json"]; text != nil {
		r.by = "QEMU"
		var m struct {
			Base int64 `json:"base-memory"`
		}
		if json.Unmarshal(text, &m) == nil && m.Base > 0 {
			r.memory = m.Base >> 20
		}
		var cpus []json.RawMessage
		if json.Unmarshal(config["qmp/query-cpus-fast.json"], &cpus) == nil {
			r.cpus = len(cpus)
		}
		for _, arg := range strings.Split(string(config["command-line"]), "\x00") {
			if strings.Contains(arg, "OVMF_CODE") || strings.Contains(arg, "edk2-x86_64") {
				r.firmware = "efi"
			}
		}
		return r
	}
	for name, text := range config {
		if strings.HasSuffix(name, ".vmx") {
			r.by = "vSphere"
			r.vmx(text)
		}
	}
	return r
}

// vmx takes what it can from a .vmx: lines of name = "value".
func (r *recorded) vmx(text []byte) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if !ok {
			continue
		}
		value = strings.Trim(strings.TrimSpace(value), `"`)
		n, _ := strconv.ParseInt(value, 10, 32)
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "memsize":
			r.memory = max(0, n)
		case "numvcpus":
			r.cpus = int(max(0, n))
		case "firmware":
			r.firmware = strings.ToLower(value)
		}
	}
}

// choosePorts finds free ports of this machine's own address.
func (p *bootPlan) choosePorts(ports []int) error {
	p.ports = map[int]string{}
	var open []net.Listener
	defer func() {
		for _, l := range open {
			l.Close()
		}
	}()
	for _, port := range ports {
		if port < 1 || port > 65535 {
			return fmt.Errorf("port %d: %w", port, fs.ErrInvalid)
		}
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		open = append(open, l)
		p.ports[port] = l.Addr().String()
	}
	return nil
}

// firstBoot leaves room in the boot order for what further options bring: a kernel has 0.
const firstBoot = 10

// command is QEMU's.
func (p *bootPlan) command(dir string, disks []StartedDisk, o *BootOptions) []string {
	program := o.QEMU
	if program == "" {
		program = "qemu-system-x86_64"
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	args := []string{
		program, "-name", filepath.Base(dir), "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", p.accel, "-cpu", "max",
		"-m", strconv.FormatInt(p.memory, 10), "-smp", strconv.Itoa(p.cpus), "-display", "none", "-vga", "std", "-no-reboot",
		"-chardev", "ringbuf,id=serial,size=" + strconv.Itoa(serialRing), "-serial", "chardev:serial",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,path=" + at("qga.sock") + ",server=on,wait=off",
		"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
		"-device", "virtio-rng-pci",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	}
	if p.firmware != "" {
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+p.firmware,
			"-drive", "if=pflash,format=raw,snapshot=on,file="+p.vars)
	}
	for i, d := range disks {
		n, order := strconv.Itoa(i), strconv.Itoa(i+firstBoot)
		args = append(args, "-blockdev", "driver=qcow2,node-name=d"+n+",discard=unmap,file.driver=file,file.discard=unmap,file.filename="+d.Path)
		switch p.bus {
		case "virtio":
			device := "virtio-blk-pci,drive=d" + n + ",bootindex=" + order
			if len(d.Key) <= maxSerial && plainKey.MatchString(d.Key) {
				device += ",serial=" + d.Key
			}
			args = append(args, "-device", device)
		default: // the machine's own controller has six ports; others get one each six
			if i%6 == 0 {
				args = append(args, "-device", "ahci,id=sata"+strconv.Itoa(i/6))
			}
			args = append(args, "-device", fmt.Sprintf("ide-hd,drive=d%s,bus=sata%d.%d,bootindex=%s", n, i/6, i%6, order))
		}
	}
	if len(p.ports) > 0 {
		line := "user,id=net,restrict=on"
		for port, address := range p.ports {
			line += fmt.Sprintf(",hostfwd=tcp:%s-:%d", address, port)
		}
		card := "e1000e"
		if p.bus == "virtio" {
			card = "virtio-net-pci"
		}
		args = append(args, "-netdev", line, "-device", card+",netdev=net")
	}
	args = append(args, monitorOptions(at("qmp.sock"))...)
	return append(args, o.Options...)
}
