package kvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/libvirt"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/kvm/qmp"
)

// Domain is a machine that libvirt owns. Its monitor and its guest agent are reached by libvirt's own connection to
// them, which it calls custom and marks the domain "tainted" for in its log.
type Domain struct {
	Socket string // of libvirt's daemon; empty: where it usually is
	URI    string // of the driver: qemu:///system or qemu:///session
	UUID   string // of the domain, which stays when it is renamed
}

// ID is how the domain is named to the provider.
func (d Domain) ID() string { return d.URI + "#" + d.UUID }

// connect finds the domain.
func (d Domain) connect(ctx context.Context) (*libvirt.Conn, libvirt.Domain, error) {
	id, err := libvirt.ParseUUID(d.UUID)
	if err != nil {
		return nil, libvirt.Domain{}, err
	}
	conn, err := dialLibvirt(ctx, d.Socket, d.URI)
	if err != nil {
		return nil, libvirt.Domain{}, err
	}
	dom, err := conn.Lookup(ctx, id)
	if err != nil {
		conn.Close()
		return nil, libvirt.Domain{}, err
	}
	return conn, dom, nil
}

func dialLibvirt(ctx context.Context, socket, uri string) (*libvirt.Conn, error) {
	if socket == "" {
		var err error
		if socket, err = libvirt.Socket(uri); err != nil {
			return nil, err
		}
	}
	return libvirt.Dial(ctx, socket, uri)
}

// domainMonitor is a QEMU's monitor by way of libvirt: one command at a time, no events, and beside others.
type domainMonitor struct {
	conn    *libvirt.Conn
	dom     libvirt.Domain
	version qmp.Version
}

// openDomain opens the monitor of a domain that runs. One that is off is ErrOff.
func openDomain(ctx context.Context, d Domain) (*domainMonitor, error) {
	conn, dom, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	m := &domainMonitor{conn: conn, dom: dom}
	if err = m.running(ctx); err == nil {
		err = m.Execute(ctx, "query-version", nil, &m.version)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return m, nil
}

func (m *domainMonitor) running(ctx context.Context) error {
	state, reason, err := m.conn.State(ctx, m.dom)
	switch {
	case err != nil:
		return err
	case state == libvirt.Off && reason == libvirt.OffMigrated:
		return fmt.Errorf("domain %s: %w: %w", m.dom.Name, ErrMigrated, ErrOff)
	case state == libvirt.Off:
		return m.saved(ctx, reason)
	case state == libvirt.Crashed || state == libvirt.NoState:
		return fmt.Errorf("domain %s: %w", m.dom.Name, ErrOff)
	}
	return nil
}

// saved tells a domain that is off from one that sleeps: what its memory holds is not on its disks, and does not fit
// others. A libvirt that cannot say may still have said so as the reason.
func (m *domainMonitor) saved(ctx context.Context, reason int) error {
	saved, err := m.conn.Saved(ctx, m.dom)
	var refused *libvirt.Error
	switch {
	case err != nil && !errors.As(err, &refused):
		return err
	case saved || err != nil && reason == libvirt.OffSaved:
		return fmt.Errorf("domain %s: %w: %w", m.dom.Name, ErrSaved, ErrOff)
	}
	return fmt.Errorf("domain %s: %w", m.dom.Name, ErrOff)
}

// Version is that of the domain's QEMU.
func (m *domainMonitor) Version() qmp.Version { return m.version }

// Close ends the connection to libvirt.
func (m *domainMonitor) Close() error { return m.conn.Close() }

// Execute implements monitor.
func (m *domainMonitor) Execute(ctx context.Context, command string, args, out any) error {
	full := map[string]any{"execute": command}
	if args != nil {
		full["arguments"] = args
	}
	line, err := json.Marshal(full)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	text, err := m.conn.Monitor(ctx, m.dom, line)
	if err != nil {
		return fmt.Errorf("%s: %w", command, m.explain(err))
	}
	return qmp.DecodeAnswer(command, text, out)
}

// explain tells what callers act on.
func (m *domainMonitor) explain(err error) error {
	switch {
	case libvirt.IsCode(err, libvirt.CodeOperationInvalid):
		return fmt.Errorf("%w: %w", ErrOff, err)
	case libvirt.IsCode(err, libvirt.CodeOperationTimeout):
		return fmt.Errorf("%w (%w)", &hikae.BusyError{What: "domain " + m.dom.Name, Owner: "another job of libvirt"}, err)
	}
	return err
}

const domainPoll = 100 * time.Millisecond

// Until implements monitor, without events.
func (m *domainMonitor) Until(ctx context.Context, check func(ctx context.Context) (bool, error), _ ...string) error {
	ctx, cancel := context.WithTimeout(ctx, qmp.Timeout)
	defer cancel()
	for {
		ok, err := check(ctx)
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(domainPoll):
		}
	}
}

// describe adds libvirt's own description of the domain to a configuration, byte for byte: as it runs, and as it will
// start the next time where that is defined.
func (m *domainMonitor) describe(ctx context.Context, config map[string][]byte) error {
	active, err := m.conn.XML(ctx, m.dom, false)
	if err != nil {
		return err
	}
	inactive, err := m.conn.XML(ctx, m.dom, true)
	if err != nil {
		return err
	}
	config["domain.xml"], config["domain-inactive.xml"] = active, inactive
	return nil
}

// folder is where libvirt lets this domain's QEMU, and no other, make files: that of its monitor's socket. Access
// control that goes by names (AppArmor) allows files in it, not in folders below it. It goes with the QEMU.
func (m *domainMonitor) folder(ctx context.Context) (string, error) {
	var devices []struct {
		Label    string `json:"label"`
		Filename string `json:"filename"`
	}
	if err := m.Execute(ctx, "query-chardev", nil, &devices); err != nil {
		return "", err
	}
	for _, d := range devices {
		path, isUnix := strings.CutPrefix(d.Filename, "unix:")
		path, _, _ = strings.Cut(path, ",")
		if d.Label == "charmonitor" && isUnix && filepath.IsAbs(path) {
			return filepath.Dir(path), nil
		}
	}
	return "", fmt.Errorf("the folder of domain %s: %w", m.dom.Name, fs.ErrNotExist)
}

// hasAgent reports whether a domain has a port for the guest agent.
func hasAgent(xml []byte) bool { return bytes.Contains(xml, []byte("org.qemu.guest_agent.0")) }

// carrier is the way to a domain's guest agent. Each request has a connection of its own: libvirt holds the port, and
// lets one request after the other through.
func (d Domain) carrier() qga.Carrier {
	return func(ctx context.Context, request []byte) ([]byte, error) {
		conn, dom, err := d.connect(ctx)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		answer, err := conn.Agent(ctx, dom, request)
		return answer, agentError(err, request)
	}
}

// agentError tells a refusal of the agent, which libvirt reports in its own words, and an agent that is not there, from
// what leaves open whether a command was run. A freeze without an answer is always the latter.
func agentError(err error, request []byte) error {
	var e *libvirt.Error
	switch {
	case !errors.As(err, &e):
		return err
	case strings.Contains(e.Message, "unable to execute QEMU agent command"):
		return &qga.Error{Desc: e.Message}
	case bytes.Contains(request, []byte("guest-fsfreeze-freeze")):
		return err
	case e.Code == libvirt.CodeAgentUnresponsive || e.Code == libvirt.CodeOperationInvalid || e.Code == libvirt.CodeNoAgent:
		return fmt.Errorf("%w: %w", qga.ErrSilent, err)
	}
	return err
}
