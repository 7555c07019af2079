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
	address *vmware.Address
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
	return &vsphere{c, a}, nil
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

func loginHint(err error) string {
	var print *vmware.ThumbprintError
	var untrusted *vmware.UntrustedError
	switch {
	case errors.As(err, &print):
		return "The server shows another certificate than the address says. Find out why before you go on."
	case errors.As(err, &untrusted):
		return "Add &ca=FILE with the authority's certificate, or &thumbprint= after you have compared it on the server itself."
	}
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
	v, err := t.vsphereAt(ctx, source)
	if err != nil {
		return nil, err
	}
	t.atEnd(v.close)
	t.server = v
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
	return vmware.New(v.Client, vmware.Refs(found), &v.address.Options)
}

// found are the VMs that are meant, without those that nobody backs up.
func (v *vsphere) found(ctx context.Context, source string) ([]vmware.Found, error) {
	list, err := v.Find(ctx, v.address.Select)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "`hikae vsphere list` shows what there is."
		}
		return nil, &outcome.Error{Object: v.Address(), Text: "VMs of " + v.Address(), Err: err, Hint: hint}
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
	p, err := vmware.New(m.server.Client, m.refs, &m.server.address.Options)
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
