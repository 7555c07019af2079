package install

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path"
	"strings"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/install/pack"
	"github.com/hikae/hikae/guest/install/service"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// Packages has signed packages for each kind of system.
type Packages interface {
	// Package is the newest for a system. Where there is none the error is an fs.ErrNotExist.
	Package(os, arch string) (*pack.File, error)
}

// PackagesIn are the packages of a folder, whatever they are called.
func PackagesIn(dir fs.FS) Packages { return &packages{dir} }

type packages struct{ dir fs.FS }

// maxPackages bounds what is looked at in a folder.
const maxPackages = 256

func (p *packages) Package(os, arch string) (best *pack.File, err error) {
	names, err := fs.Glob(p.dir, "*"+pack.Ending)
	if err != nil {
		return nil, err
	}
	for _, name := range names[:min(len(names), maxPackages)] {
		f, err := p.read(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path.Base(name), err)
		}
		if f.OS != os || f.Arch != arch {
			continue
		}
		if best != nil {
			if order, err := pack.Compare(f.Version, best.Version); err != nil || order <= 0 {
				continue
			}
		}
		best = f
	}
	if best == nil {
		return nil, fmt.Errorf("no package for %.40q on %.40q: %w", os, arch, fs.ErrNotExist)
	}
	return best, nil
}

func (p *packages) read(name string) (*pack.File, error) {
	f, err := p.dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return pack.ReadFrom(f)
}

// Guest is the way to one guest's installer service and persistent component.
type Guest struct {
	controller *Controller
	name       string
	address    string
	packages   Packages
}

var _ guest.Persistent = (*Guest)(nil)

// Guest is the way to a guest at an address, host or host:port. Where the address is empty it is the one at which it was
// met. packages may be nil where nothing is to be installed.
func (c *Controller) Guest(name, address string, packages Packages) *Guest {
	return &Guest{controller: c, name: name, address: address, packages: packages}
}

// known is the guest as it was met; one that was not is met now, where a kit is good.
func (g *Guest) known(ctx context.Context) (Known, error) {
	k, err := g.controller.Known(g.name)
	if errors.Is(err, ErrNotMet) && g.address != "" {
		return g.controller.Enrol(ctx, g.name, g.address)
	}
	if err == nil && g.address != "" {
		k.Address = WithPort(g.address)
	}
	return k, err
}

// Probe implements guest.Persistent. A guest that has a kit of ours, and was not met yet, is met.
func (g *Guest) Probe(ctx context.Context) (f guest.PersistentFinding) {
	began := time.Now()
	defer func() { f.Millis = time.Since(began).Milliseconds() }()
	c, err := g.installer(ctx)
	if err == nil {
		defer c.Close()
		f.Installer, f.Certificates = true, true
		f.Version, f.Component = installedOf(c.Hello().Product)
		return f
	}
	f.Problem = guest.Printable(err.Error(), 400)
	var unreached *net.OpError
	switch {
	case errors.As(err, &unreached) && unreached.Op == "dial":
		f.Hint = "set the installer service up in the guest, or open TCP " + strings.TrimPrefix(service.DefaultListen, ":") + " to it"
	case errors.Is(err, ErrNotMet):
		f.Installer, f.Hint = g.listens(ctx), "make a kit and lay it down in the guest"
	case errors.Is(err, trust.ErrWrongServer):
		f.Installer, f.Hint = true, "the guest was set up with another kit, or anew: lay the newest kit down there"
	case errors.Is(err, trust.ErrRefused):
		f.Installer, f.Hint = true, "the guest does not know this machine: lay a kit of this machine down there, or let it in from one that is"
	default:
		f.Installer = g.listens(ctx)
	}
	return f
}

// listens reports whether anything answers at the guest's port.
func (g *Guest) listens(ctx context.Context) bool {
	if g.address == "" {
		return false
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", WithPort(g.address))
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// installer begins a session with the installer service.
func (g *Guest) installer(ctx context.Context) (*guest.Component, error) {
	k, err := g.known(ctx)
	if err != nil {
		return nil, err
	}
	return g.controller.talk(ctx, k.Address, k.Pin, service.ALPNInstaller)
}

// installedOf reads what an installer service says of itself: "hikae-installer 1.0.0; hikae-agent 1.4.0".
func installedOf(product string) (version string, ok bool) {
	_, after, ok := strings.Cut(product, "; "+service.Component+" ")
	if _, err := pack.Compare(after, "0.0.0"); err != nil {
		return "", false
	}
	return after, ok
}

// Open implements guest.Persistent.
func (g *Guest) Open(ctx context.Context) (io.ReadWriteCloser, error) {
	k, err := g.known(ctx)
	if err != nil {
		return nil, err
	}
	return Dial(ctx, k.Address, g.controller.id, k.Pin, service.ALPNAgent)
}

// Install implements guest.Persistent: the newest package for the guest's system, unless that is what is installed.
func (g *Guest) Install(ctx context.Context) error {
	if g.packages == nil {
		return fmt.Errorf("no packages are at hand: %w", fs.ErrNotExist)
	}
	c, err := g.installer(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	h := c.Hello()
	f, err := g.packages.Package(h.OS, h.Arch)
	if err != nil {
		return err
	}
	if version, ok := installedOf(h.Product); ok && version == f.Version {
		return nil
	}
	a, err := c.Install(ctx, wire.InstallArgs{Name: f.Name, Version: f.Version, OS: f.OS, Arch: f.Arch, Size: f.Size,
		SHA256: f.SHA256[:], Downgrade: f.Downgrade, Signature: f.Signature}, bytes.NewReader(f.Program))
	if err == nil && a.Installed != f.Version {
		err = fmt.Errorf("the installer service says that %.40q is installed now, and not %s", a.Installed, f.Version)
	}
	return err
}

func decodeKey(text string) (ed25519.PublicKey, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("a key that is none: %w", fs.ErrInvalid)
	}
	return raw, nil
}
