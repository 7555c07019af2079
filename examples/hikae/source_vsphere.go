package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/vmware"
)

const vsphereScheme = "vsphere://"

func isVSphere(source string) bool { return strings.HasPrefix(source, vsphereScheme) }

// Where the secrets of a source stand: never on the command line.
const (
	sourcePassword = "HIKAE_SOURCE_PASSWORD"
	sourceToken    = "HIKAE_SOURCE_TOKEN"   // a SAML token, as XML, or the name of a file that holds it behind an @
	sourceSession  = "HIKAE_SOURCE_SESSION" // the cookie vmware_soap_session
)

// vsphere is a server that this command is logged in to.
type vsphere struct {
	*vmware.Client
	address   *vmware.Address
	unchecked bool // what would stop a backup is not looked for
}

// vsphereAt reads an address and logs in. The caller closes it.
func (t *tool) vsphereAt(ctx context.Context, source string) (*vsphere, error) {
	a, err := vmware.ParseURL(source)
	if err != nil {
		return nil, outcome.Usage("For instance 'vsphere://backup@vcenter.example.org/?vm=web1'.", "%v", err)
	}
	return t.vsphereLogin(ctx, a)
}

func (t *tool) vsphereLogin(ctx context.Context, a *vmware.Address) (*vsphere, error) {
	who, err := t.vsphereUser(a)
	if err != nil {
		return nil, err
	}
	c, err := vmware.Connect(ctx, a.Server, who, &a.Connect)
	if err != nil {
		return nil, &outcome.Error{Object: a.Server.Host, Text: "log in to " + a.Server.Host, Err: err, Hint: loginHint(err)}
	}
	return &vsphere{Client: c, address: a}, nil
}

func (t *tool) vsphereUser(a *vmware.Address) (who vmware.Login, err error) {
	who = vmware.Login{User: a.User, Password: t.env(sourcePassword), Token: t.env(sourceToken), Session: t.env(sourceSession)}
	if file, ok := strings.CutPrefix(who.Token, "@"); ok {
		data, err := os.ReadFile(file)
		if err != nil {
			return who, &outcome.Error{Kind: outcome.KindSecret, Object: file, Text: sourceToken, Err: err}
		}
		who.Token = string(data)
	}
	switch {
	case who.Token != "" || who.Session != "":
		return who, nil
	case who.User == "":
		return who, outcome.Usage("For instance vsphere://backup@"+a.Server.Host+"/?vm=web1.", "the address names no user")
	case who.Password == "":
		return who, &outcome.Error{Kind: outcome.KindSecret, Object: a.Server.Host, Text: "there is no password for " + who.User,
			Hint: "Put it into " + sourcePassword + "."}
	}
	return who, nil
}

// loginHint is for a server that is not there; of what else goes wrong package outcome knows.
func loginHint(err error) string {
	var lost net.Error
	if errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &lost) && lost.Timeout() {
		return "The address is that of a vCenter Server or an ESXi host, at port 443 where none is given."
	}
	return ""
}

// close logs out. A session that stays behind ends by itself, but servers have room for few.
func (v *vsphere) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = v.Client.Close(ctx)
}

// vsphereProvider makes VMs of an address. What it holds open is let go of by f.done.
func (f *backupFlags) vsphereProvider(ctx context.Context, t *tool, source string) (hikae.SnapshotProvider, error) {
	if len(f.changed) > 0 || f.forceLive {
		return nil, outcome.Usage("vSphere knows itself what changed, and a VM is read at one moment.",
			"--changed and --force-live are for disk image files")
	}
	source, unchecked, err := cutCheck(source)
	if err != nil {
		return nil, err
	}
	v, err := t.vsphereAt(ctx, source)
	if err != nil {
		return nil, err
	}
	t.atEnd(v.close)
	t.server, v.unchecked = v, unchecked
	found, err := v.found(ctx, source)
	if err != nil {
		return nil, err
	}
	if len(found) > 1 && (f.name != "" || f.base != "") {
		return nil, outcome.Usage("Name one VM by &vm=.", "--name and --base are for one VM, and %d are meant", len(found))
	}
	for _, one := range found {
		f.several = append(f.several, vmOf{id: one.Ref.Value, name: one.Name})
	}
	if len(found) > 1 {
		return vsphereVMs{v, vmware.Refs(found)}, nil
	}
	if f.name == "" {
		f.name = found[0].Name
	}
	f.several = nil
	return v.provider(vmware.Refs(found))
}

// cutCheck takes &check=off out of an address: it is said to this command, and not to the server.
func cutCheck(source string) (rest string, off bool, err error) {
	u, err := url.Parse(source)
	if err != nil {
		return source, false, nil // who reads the address says it better
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil || !query.Has("check") {
		return source, false, nil
	}
	if len(query["check"]) != 1 || query.Get("check") != "off" {
		return source, false, outcome.Usage("What would stop a backup is looked for first; &check=off goes on without.", "&check= can be off, and nothing else")
	}
	query.Del("check")
	u.RawQuery = query.Encode()
	return u.String(), true, nil
}

// checked is a provider that looks for what would stop a backup before anything is touched.
type checked struct {
	*vmware.Provider
	server *vsphere
}

func (v *vsphere) provider(refs []types.ManagedObjectReference) (hikae.SnapshotProvider, error) {
	p, err := vmware.New(v.Client, refs, &v.address.Options)
	if err != nil || v.unchecked {
		return p, err
	}
	return checked{p, v}, nil
}

// Snapshot implements [hikae.SnapshotProvider].
func (p checked) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	o := p.server.address.Options
	look := &vmware.PreflightOptions{Quiesce: o.Quiesce, KeepTracking: o.KeepTracking, Transports: named(o.Transports)}
	if opts != nil && opts.Quiescer != nil {
		look.Quiesce = vmware.NoQuiesce // a component of ours quiesces, and VMware Tools are not asked
	}
	found, err := p.server.Preflight(ctx, types.ManagedObjectReference{Type: "VirtualMachine", Value: id}, look)
	if err == nil {
		err = found.Err()
	}
	if err != nil {
		return nil, err
	}
	return p.Provider.Snapshot(ctx, id, opts)
}

// named are the transports that an address names; nil: the usual ones.
func named(o *vmware.TransportOptions) (out []string) {
	for _, name := range o.Order {
		if !strings.HasPrefix(name, "!") {
			out = append(out, name)
		}
	}
	return out
}

// found are the VMs that are meant, without those that nobody backs up.
func (v *vsphere) found(ctx context.Context, source string) ([]vmware.Found, error) {
	list, err := v.Find(ctx, v.address.Select)
	if err != nil {
		return nil, v.notFound(err)
	}
	var out []vmware.Found
	var skipped []string
	for _, f := range list {
		if f.Skip == "" {
			out = append(out, f)
		} else {
			skipped = append(skipped, f.Path+": "+f.Skip)
		}
	}
	if len(out) == 0 {
		text := "no VM of " + v.Address() + " is meant"
		if len(skipped) > 0 {
			text += "; left out: " + strings.Join(skipped[:min(len(skipped), maxListed)], "; ")
		}
		return nil, &outcome.Error{Kind: outcome.KindNotFound, Object: v.Address(), Text: text, Hint: "`hikae vsphere list` shows what there is."}
	}
	return out, nil
}

// removalDeadline is how long a snapshot's removal may take: what the VM wrote meanwhile is merged, and on a slow datastore
// that takes hours. Given up, it goes on by itself, and the next command looks after it.
const removalDeadline = 6 * time.Hour

// notFound says in words for people that what is named is not there.
func (v *vsphere) notFound(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return &outcome.Error{Object: v.Address(), Text: "VMs of " + v.Address(), Err: err}
	}
	return &outcome.Error{Kind: outcome.KindNotFound, Object: v.Address(), Hint: "`hikae vsphere list` shows what there is.",
		Text: strings.ReplaceAll(err.Error(), ": "+fs.ErrNotExist.Error(), " is not there")}
}

// vsphereVMs is a provider of several VMs, each of which is backed up in its turn.
type vsphereVMs struct {
	server *vsphere
	refs   []types.ManagedObjectReference
}

func (m vsphereVMs) VMs(ctx context.Context) iter.Seq2[hikae.VM, error] {
	return func(yield func(hikae.VM, error) bool) {
		p, err := vmware.New(m.server.Client, m.refs, &m.server.address.Options)
		if err != nil {
			yield(hikae.VM{}, err)
			return
		}
		p.VMs(ctx)(yield)
	}
}

func (m vsphereVMs) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	p, err := m.server.provider(m.refs)
	if err != nil {
		return nil, err
	}
	return p.Snapshot(ctx, id, opts)
}

// only is the provider of one VM.
func (m vsphereVMs) only(id string) hikae.SnapshotProvider {
	m.refs = []types.ManagedObjectReference{{Type: "VirtualMachine", Value: id}}
	return m
}

// vsphereSweeper takes back what a killed command left on a server. Only a command that is logged in to that server can.
type vsphereSweeper struct{ t *tool }

func (s vsphereSweeper) Undo(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	server := e.Facts["server"]
	if s.t.server == nil || s.t.server.Address() != server {
		host := server
		if u, err := url.Parse(server); err == nil {
			host = u.Host
		}
		return fmt.Errorf("it is on %s: `hikae vsphere sweep vsphere://USER@%s/` removes it, and so does the next backup from there", server, host)
	}
	p, err := vmware.New(s.t.server.Client, nil, nil)
	if err != nil {
		return err
	}
	return p.Undo(ctx, e, keep)
}
