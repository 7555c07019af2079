package kvm

import (
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hikae/hikae/kvm/libvirt"
)

// ParseURL reads the address of a machine:
//
//	kvm:///run/vm/qmp.sock?agent=/run/vm/qga.sock&name=web1&scratch=/var/tmp&disk=vda=/vm/web1.qcow2
//
// The path is that of the monitor's socket. All parameters may be left out; disk may be repeated. It names the image of a
// disk, for when the VM is off, by the key that the disk has while it runs; before the path, raw: or qcow2: says in which
// format it is, and a raw disk should have that: its content is the guest's word. Errors wrap fs.ErrInvalid.
func ParseURL(address string) (Machine, *Options, error) {
	u, query, err := splitURL(address, "kvm", "agent", "name", "scratch", "disk")
	if err != nil {
		return Machine{}, nil, err
	}
	if u.Host != "" {
		return Machine{}, nil, badURL(address, "it is not of the form kvm:///PATH")
	}
	m := Machine{QMP: u.Path, Agent: query.Get("agent"), Name: query.Get("name")}
	if filepath.Clean(m.QMP) == "/" || m.QMP == "" {
		return Machine{}, nil, badURL(address, "the path of the monitor's socket is missing")
	}
	if err := absolute(address, m.QMP, m.Agent, query.Get("scratch")); err != nil {
		return Machine{}, nil, err
	}
	for _, text := range query["disk"] {
		m.Disks = append(m.Disks, parseDisk(text))
	}
	if err := checkImages(m.Disks); err != nil {
		return Machine{}, nil, badURL(address, "%v", err)
	}
	return m, &Options{Scratch: query.Get("scratch")}, nil
}

// parseDisk reads KEY=[FORMAT:]PATH.
func parseDisk(text string) (d DiskImage) {
	d.Key, d.Path, _ = strings.Cut(text, "=")
	if format, path, ok := strings.Cut(d.Path, ":"); ok && (format == formatRaw || format == formatQcow2) {
		d.Format, d.Path = format, path
	}
	return d
}

// Host is a libvirt on this machine, and which of its domains are meant.
type Host struct {
	Socket string   // of its daemon; empty: where it usually is
	URI    string   // of its driver: qemu:///system or qemu:///session
	VMs    []string // names or UUIDs; empty: all that run
}

// ParseHostURL reads the address of domains of libvirt:
//
//	kvm+libvirt:///system?vm=web1&vm=db1&socket=/run/libvirt/libvirt-sock&scratch=/var/tmp
//
// The path is system or session. All parameters may be left out; vm may be repeated. Errors wrap fs.ErrInvalid.
func ParseHostURL(address string) (Host, *Options, error) {
	u, query, err := splitURL(address, "kvm+libvirt", "vm", "socket", "scratch")
	if err != nil {
		return Host{}, nil, err
	}
	if u.Host != "" && u.Host != "localhost" {
		return Host{}, nil, badURL(address, "libvirt on another machine hands no disks over: run this on %s, or bring its sockets and its scratch folder here", u.Host)
	}
	h := Host{Socket: query.Get("socket"), URI: "qemu://" + u.Path, VMs: query["vm"]}
	if u.Path != "/system" && u.Path != "/session" {
		return Host{}, nil, badURL(address, "the path is neither /system nor /session")
	}
	if err := absolute(address, h.Socket, query.Get("scratch")); err != nil {
		return Host{}, nil, err
	}
	return h, &Options{Scratch: query.Get("scratch")}, nil
}

func badURL(address, format string, args ...any) error {
	return fmt.Errorf("%s: %w: %s", address, fs.ErrInvalid, fmt.Sprintf(format, args...))
}

// splitURL takes an address apart that has no more than the known parameters, once each but for vm and disk.
func splitURL(address, scheme string, known ...string) (*url.URL, url.Values, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %v", fs.ErrInvalid, err)
	}
	if u.Scheme != scheme || u.Opaque != "" || u.User != nil || u.Fragment != "" {
		return nil, nil, badURL(address, "it is not of the form %s://…", scheme)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, nil, badURL(address, "%v", err)
	}
	for name, values := range query {
		if !slices.Contains(known, name) || slices.Contains(values, "") || len(values) > 1 && name != "vm" && name != "disk" {
			return nil, nil, badURL(address, "parameter %q is unknown, empty or given twice", name)
		}
	}
	return u, query, nil
}

func absolute(address string, paths ...string) error {
	for _, path := range paths {
		if path != "" && (!filepath.IsAbs(path) || strings.ContainsRune(path, 0)) {
			return badURL(address, "%q is no absolute path", path)
		}
	}
	return nil
}

// Machines finds the domains. One that is named and not there is an fs.ErrNotExist.
func (h Host) Machines(ctx context.Context) ([]Machine, error) {
	conn, err := dialLibvirt(ctx, h.Socket, h.URI)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	domains, err := conn.Domains(ctx)
	if err != nil {
		return nil, err
	}
	var out []Machine
	add := func(d libvirt.Domain) {
		out = append(out, Machine{Name: d.Name, Domain: &Domain{Socket: h.Socket, URI: h.URI, UUID: d.UUID.String()}})
	}
	if len(h.VMs) == 0 {
		for _, d := range domains {
			if d.ID >= 0 {
				add(d)
			}
		}
		return out, nil
	}
	for _, name := range h.VMs {
		i := slices.IndexFunc(domains, func(d libvirt.Domain) bool { return d.Name == name || d.UUID.String() == strings.ToLower(name) })
		if i < 0 {
			return nil, fmt.Errorf("domain %q of %s: %w", name, h.URI, fs.ErrNotExist)
		}
		add(domains[i])
	}
	return out, nil
}
