package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/install"
	"github.com/hikae/hikae/guest/install/pack"
	"github.com/hikae/hikae/guest/install/service"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// installFlags say how a persistent component is put into a guest.
type installFlags struct {
	waysFlags
	address  string
	listen   string
	dir      string
	packages string
	signers  []string
	folder   string
	system   string
	valid    time.Duration
}

func (t *tool) guestInstallCommand() *cobra.Command {
	f := &installFlags{}
	cmd := &cobra.Command{
		Use:   "install GUEST…",
		Short: "Put a persistent component into a guest",
		Long: text(`
Put an installer service and the component into the guest, to stay: for guests whose shells and shares will be closed. From
then on one port leads there, and direct://HOST is its way. Each side knows the other by its key; the password of the way
that was used for it is kept nowhere.

With --folder nothing is connected. A folder is written that holds the program, a kit and a script, to be run in the guest
by hand or by whatever runs scripts there. The kit is a secret until the guest was met, which the first command with
direct:// does. Making another kit for the same guest voids the one before.

Components are signed with a key that this machine makes for itself and keeps in HIKAE_STATE_DIR. --packages takes packages
that were signed elsewhere; then --signer names whose signature the guest shall trust.`),
		Example: example(`
hikae guest install ssh://root@web1
hikae guest probe direct://web1
hikae guest install --guest-name web2 --folder web2-kit --system linux-amd64`),
		Args: want("[GUEST…]"),
	}
	f.flags(cmd, "")
	flags := cmd.Flags()
	flags.StringVar(&f.address, "address", "", "`HOST[:PORT]` at which the guest is reached afterwards (default: the host in the first URL)")
	flags.StringVar(&f.listen, "listen", service.DefaultListen, "where the service in the guest listens: `[HOST]:PORT`")
	flags.StringVar(&f.dir, "dir", "", "`FOLDER` of the service in the guest (default: the usual one of its system)")
	flags.StringVar(&f.packages, "packages", "", "`FOLDER` of packages that were signed elsewhere")
	flags.StringArrayVar(&f.signers, "signer", nil, "public `KEY` whose signatures the guest shall trust; with --packages")
	flags.StringVar(&f.folder, "folder", "", "write a new `FOLDER` from which the service is set up by hand, and connect to nothing")
	flags.StringVar(&f.system, "system", "linux-amd64", "with --folder: the guest's `SYSTEM`: linux-amd64, linux-arm64, windows-amd64")
	flags.DurationVar(&f.valid, "valid", install.DefaultKitLife, "how long the kit is good for, at most 720h")
	cmd.MarkFlagsRequiredTogether("packages", "signer")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		switch {
		case f.folder != "" && len(args) == 0:
			return t.guestFolder(f)
		case f.folder == "" && len(args) > 0:
			return t.guestInstall(ctx, f, args)
		}
		return nil, outcome.Usage("See: hikae guest install --help", "name the ways into the guest, or --folder")
	})
	return cmd
}

// installDoc is what install prints for scripts.
type installDoc struct {
	Guest   string `json:"guest"`
	Address string `json:"address"` // where it is reached, as direct://…
	Version string `json:"version"` // of the component
	Folder  string `json:"folder,omitempty"`
}

func (t *tool) guestInstall(ctx context.Context, f *installFlags, urls []string) (*reply, error) {
	g, err := t.reach(ctx, &f.waysFlags, urls)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	if g.here.Persist != nil {
		return nil, outcome.Usage("Name an ssh:// or smb:// URL.", "direct:// is the way that is to be made")
	}
	c, opts, err := t.kit(f, g.here.Programs)
	if err != nil {
		return nil, err
	}
	if opts.Address, err = f.meetAt(urls[0]); err != nil {
		return nil, err
	}
	opts.Dir, opts.Journal = f.dir, g.journal
	ch, err := g.open(ctx)
	if err != nil {
		return nil, aboutGuest(g.here.Guest, err)
	}
	defer ch.Close()
	if err := c.InstallOver(ctx, g.here.Guest, ch, g.here.Programs, opts); err != nil {
		return nil, aboutGuest(g.here.Guest, err)
	}
	found := c.Guest(g.here.Guest, opts.Address, nil).Probe(ctx)
	doc := installDoc{Guest: g.here.Guest, Address: "direct://" + opts.Address, Version: found.Version}
	left := &reply{doc: doc, text: func(w *show.Printer) error {
		return w.Printf("%s has component %s; it is reached as %s\n", outcome.Clean(doc.Guest), outcome.Clean(doc.Version), outcome.Clean(doc.Address))
	}}
	if found.Problem != "" {
		return left, &outcome.Error{Object: doc.Guest, Text: found.Problem, Hint: found.Hint}
	}
	return left, nil
}

// meetAt is where the guest is met when its service is up.
func (f *installFlags) meetAt(url string) (string, error) {
	host, port, err := net.SplitHostPort(f.listen)
	if err != nil {
		return "", outcome.Usage("For instance --listen :7421.", "--listen %q is no [HOST]:PORT", f.listen)
	}
	if f.address != "" {
		if _, _, err := net.SplitHostPort(f.address); err == nil {
			return f.address, nil
		}
		return net.JoinHostPort(f.address, port), nil
	}
	u, err := parseWay(url)
	if err != nil {
		return "", err
	}
	if host == "" {
		host = u.Hostname()
	}
	if host == "" {
		return "", outcome.Usage("Add --address HOST.", "%s does not say where the guest is in the network", url)
	}
	return net.JoinHostPort(host, port), nil
}

// open opens the first way that is open.
func (g *guestReached) open(ctx context.Context) (guest.Channel, error) {
	var errs []error
	for _, w := range g.here.Ways {
		ch, err := w.Open(ctx)
		if err == nil {
			return ch, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// guestFolder writes a folder for an installation by hand.
func (t *tool) guestFolder(f *installFlags) (*reply, error) {
	switch {
	case f.name == "":
		return nil, outcome.Usage("Add --guest-name web2, what the guest is called here.", "a kit is for one guest, and --folder names none")
	case f.dir != "" || f.address != "":
		return nil, outcome.Usage("install.sh takes --dir; the address is said by direct://HOST[:PORT].", "--dir and --address are for an installation over a way into the guest")
	}
	system, arch, ok := strings.Cut(f.system, "-")
	if !ok {
		return nil, outcome.Usage("For instance --system linux-amd64.", "--system %q is none", f.system)
	}
	programs, err := t.programs()
	if err != nil {
		return nil, err
	}
	build, err := programs.Build(system, arch)
	if err != nil {
		return nil, &outcome.Error{Object: f.system, Err: err}
	}
	c, opts, err := t.kit(f, programs)
	if err != nil {
		return nil, err
	}
	opts.Kit.Guest = f.name
	kit, err := c.NewKit(opts.Kit)
	if err != nil {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Text: "kit", Err: err}
	}
	if err := install.WriteFolder(f.folder, kit, build, opts.Packages); err != nil {
		return nil, errors.Join(&outcome.Error{Object: f.folder, Err: err}, c.VoidKit(f.name))
	}
	doc := installDoc{Guest: f.name, Folder: f.folder}
	return &reply{doc: doc, text: func(w *show.Printer) error {
		return w.Printf("%s is ready: copy it into the guest and run install there as its administrator; the kit is a secret, and good for %s\n",
			outcome.Clean(f.folder), f.valid)
	}}, nil
}

const controllerDir = "guest-controller"

func (t *tool) controller() (*install.Controller, string, error) {
	state, err := t.stateDir()
	if err != nil {
		return nil, "", err
	}
	dir := filepath.Join(state, controllerDir)
	c, err := install.OpenController(dir)
	return c, dir, err
}

// guestAt is the name of the guest that was met at an address, whatever it is called; empty: none was.
func (t *tool) guestAt(address string) (string, error) {
	c, _, err := t.controller()
	if err != nil {
		return "", err
	}
	known, err := c.Guests()
	if err != nil {
		return "", err
	}
	for name, k := range known {
		if k.Address == install.WithPort(address) {
			return name, nil
		}
	}
	return "", nil
}

// persistent is the way to a guest's installer service.
func (t *tool) persistent(name, address string) (guest.Persistent, error) {
	c, dir, err := t.controller()
	if err != nil {
		return nil, err
	}
	programs, err := t.programs()
	if err != nil {
		return nil, err
	}
	key, err := signingKey(dir)
	if err != nil {
		return nil, err
	}
	return c.Guest(name, address, &signed{programs, t.agentVersion, key}), nil
}

// kit is what a guest is set up with.
func (t *tool) kit(f *installFlags, programs guest.Programs) (*install.Controller, *install.OverOptions, error) {
	c, dir, err := t.controller()
	if err != nil {
		return nil, nil, err
	}
	opts := &install.OverOptions{Kit: &install.KitOptions{Listen: f.listen, Lifetime: f.valid}}
	if f.packages != "" {
		opts.Packages = install.PackagesIn(os.DirFS(f.packages))
		for _, text := range f.signers {
			key, err := pack.ParseKey(text)
			if err != nil {
				return nil, nil, &outcome.Error{Kind: outcome.KindUsage, Text: "--signer", Err: err}
			}
			opts.Kit.Signers = append(opts.Kit.Signers, key)
		}
		return c, opts, nil
	}
	key, err := signingKey(dir)
	if err != nil {
		return nil, nil, err
	}
	opts.Packages, opts.Kit.Signers = &signed{programs, t.agentVersion, key}, []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
	return c, opts, nil
}

const signerFile = "signer"

// signingKey is this machine's own key for packages, made the first time.
func signingKey(dir string) (key ed25519.PrivateKey, err error) {
	err = trust.LockFolder(context.Background(), dir, func() error {
		text, err := readSmall(filepath.Join(dir, signerFile), 1<<10)
		if errors.Is(err, fs.ErrNotExist) {
			_, key, err = ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			return trust.WriteFile(dir, signerFile, []byte(base64.StdEncoding.EncodeToString(key.Seed())+"\n"))
		}
		if err != nil {
			return err
		}
		seed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
		if err != nil || len(seed) != ed25519.SeedSize {
			return fmt.Errorf("%s: not a key for signing packages: %w", filepath.Join(dir, signerFile), fs.ErrInvalid)
		}
		key = ed25519.NewKeyFromSeed(seed)
		return nil
	})
	return key, err
}

// signed makes packages of the programs that are at hand.
type signed struct {
	programs guest.Programs
	version  func() (string, error)
	key      ed25519.PrivateKey
}

// Package implements install.Packages.
func (s *signed) Package(system, arch string) (*pack.File, error) {
	b, err := s.programs.Build(system, arch)
	if err != nil {
		return nil, err
	}
	version, err := s.version()
	if err != nil {
		return nil, err
	}
	data, err := pack.Make(b.Content, pack.Header{Name: service.Component, Version: version, OS: system, Arch: arch}, s.key)
	if err != nil {
		return nil, err
	}
	return pack.ReadFrom(bytes.NewReader(data))
}

// versionFile is beside the components, and says which version they call themselves: a package that says another is refused.
const versionFile = "version"

// agentVersion is the version of the components.
func (t *tool) agentVersion() (string, error) {
	dir, err := t.agentDir()
	if err != nil {
		return "", err
	}
	text, err := readSmall(filepath.Join(dir, versionFile), 64)
	version := strings.TrimSpace(string(text))
	if err == nil {
		_, err = pack.Compare(version, "0.0.0")
	}
	if err != nil {
		return "", &outcome.Error{Object: dir, Text: "which version the components in " + dir + " are is not known", Err: err,
			Hint: "`make agents` writes it into the file " + versionFile + " there."}
	}
	return version, nil
}

func (t *tool) guestUninstallCommand() *cobra.Command {
	f := &installFlags{}
	cmd := &cobra.Command{
		Use:   "uninstall GUEST…",
		Short: "Take a persistent component out of a guest",
		Long: text(`
Take the persistent component and its installer service out of the guest, and forget its key. With direct:// the service
takes itself away; with another URL it is taken away over that, also where it answers no more.`),
		Example: example(`
hikae guest uninstall direct://web1
hikae guest uninstall ssh://root@web1`),
		Args: want("GUEST…"),
	}
	f.flags(cmd, "")
	cmd.Flags().StringVar(&f.dir, "dir", "", "`FOLDER` of the service in the guest, where another than the usual was given")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.guestUninstall(ctx, f, args) })
	return cmd
}

func (t *tool) guestUninstall(ctx context.Context, f *installFlags, urls []string) (*reply, error) {
	g, err := t.reach(ctx, &f.waysFlags, urls)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	c, _, err := t.controller()
	if err != nil {
		return nil, err
	}
	if len(g.here.Ways) == 0 {
		err = c.Remove(ctx, g.here.Guest)
	} else {
		err = g.uninstallOver(ctx, c, f.dir)
	}
	if err != nil {
		return nil, aboutGuest(g.here.Guest, err)
	}
	doc := installDoc{Guest: g.here.Guest}
	return &reply{doc: doc, text: func(w *show.Printer) error {
		return w.Printf("%s: nothing of ours is left there\n", outcome.Clean(doc.Guest))
	}}, nil
}

func (g *guestReached) uninstallOver(ctx context.Context, c *install.Controller, dir string) error {
	ch, err := g.open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(c.RemoveOver(ctx, g.here.Guest, ch, dir), ch.Close())
}

// knownDoc is a guest with a persistent component, for scripts.
type knownDoc struct {
	Guest string    `json:"guest"`
	URL   string    `json:"url"`
	Key   string    `json:"key"`
	Since time.Time `json:"since"`
}

func (t *tool) guestListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the guests with a persistent component of this machine",
		Long:    "List the guests with a persistent component that this machine has met. Nobody is asked whether it is there still; hikae guest probe does that.",
		Example: example(`hikae guest list`),
		Args:    want(),
		RunE: t.act(func(context.Context, []string) (*reply, error) {
			c, _, err := t.controller()
			if err != nil {
				return nil, err
			}
			all, err := c.Guests()
			if err != nil {
				return nil, err
			}
			doc := struct {
				Guests []knownDoc `json:"guests"`
			}{[]knownDoc{}}
			for name, k := range all {
				doc.Guests = append(doc.Guests, knownDoc{name, "direct://" + k.Address, k.Pin.String(), k.Since.UTC()})
			}
			slices.SortFunc(doc.Guests, func(a, b knownDoc) int { return strings.Compare(a.Guest, b.Guest) })
			return &reply{doc: doc, loud: true, text: func(w *show.Printer) error {
				if len(doc.Guests) == 0 {
					return w.Printf("no guests\n")
				}
				table := show.NewTable("GUEST", "WAY", "KEY", "MET")
				for _, k := range doc.Guests {
					table.Row(outcome.Clean(k.Guest), outcome.Clean(k.URL), k.Key, show.Time(k.Since))
				}
				return table.Print(w)
			}}, nil
		}),
	}
}
