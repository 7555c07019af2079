package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/remote"
)

func (t *tool) guestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "guest",
		Short: "Work inside virtual machines: consistent applications, frozen file systems",
		Long: text(`
Before a snapshot a small component is brought into the guest. It makes applications ready (PostgreSQL, MariaDB, VSS
writers), freezes file systems for the moment of the snapshot, and is removed again. These commands try that out, step by
step, before a backup counts on it:

  probe        which ways into the guest are open, and what to change where one is not
  deploy       bring the component in, see what it finds, and remove it
  freeze-test  freeze and thaw for real, and say how consistent a backup would be
  remove       remove what is left of ours in a guest
  install      put a persistent component there; uninstall, list
  logs         keep the transaction logs of databases between backups, and restore to a moment

A guest is named by the ways into it, one or more URLs that are tried in their order:

  ssh://USER@HOST[:PORT]    Linux, or Windows with OpenSSH
  smb://USER@HOST[:PORT]    Windows, by ADMIN$ and the service control manager
  qga:///PATH               the QEMU guest agent's unix socket on this host; no network is needed
  direct://HOST[:PORT]      a persistent component that hikae guest install has put there

The password is in HIKAE_GUEST_PASSWORD, or everything is in a file of --credentials. SSH takes keys by --ssh-key and
--ssh-agent; host keys are always checked.

With --via-proxy another machine does the work (hikae proxy), and this one does it where that fails.

A backup does all this by itself: hikae backup --guest URL.`),
		Example: example(`
hikae guest probe ssh://root@web1 qga:///run/web1.qga
hikae guest freeze-test --yes ssh://root@web1
hikae backup --repo /backup/hikae --guest ssh://root@web1 'kvm:///run/web1.qmp'`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(t.guestProbeCommand(), t.guestDeployCommand(), t.guestFreezeCommand(), t.guestRemoveCommand(),
		t.guestInstallCommand(), t.guestUninstallCommand(), t.guestListCommand(), t.guestLogsCommand())
	return cmd
}

// waysFlags are how to log in to a guest.
type waysFlags struct {
	name         string
	proxies      []string
	credentials  string
	sshKey       string
	sshAgent     bool
	knownHosts   []string
	fingerprints []string
	trustFirst   bool
	timeout      time.Duration
}

// flags defines them, in a command that has others too with a prefix.
func (f *waysFlags) flags(cmd *cobra.Command, prefix string) {
	flags := cmd.Flags()
	flags.StringVar(&f.name, "guest-name", "", "`NAME` of the guest in reports and in the file of credentials (default: the VM's name, or the host in the first URL)")
	flags.StringArrayVar(&f.proxies, prefix+"via-proxy", nil, "have the proxy at `mover://HOST[:PORT]/NAME` work in the guest, and this machine where it fails; may repeat")
	flags.StringVar(&f.credentials, prefix+"credentials", "", "`FILE` of credentials for guests: JSON, see docs/guest.md; nobody else may read it")
	flags.StringVar(&f.sshKey, prefix+"ssh-key", "", "`FILE` with a private key for SSH; its passphrase is in HIKAE_GUEST_PASSWORD")
	flags.BoolVar(&f.sshAgent, prefix+"ssh-agent", false, "use the keys of the SSH agent")
	flags.StringArrayVar(&f.knownHosts, prefix+"known-hosts", nil, "`FILE` of host keys (default: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts)")
	flags.StringArrayVar(&f.fingerprints, prefix+"fingerprint", nil, "take this host key and no other: `SHA256:…`")
	flags.BoolVar(&f.trustFirst, prefix+"trust-first", false, "take an unknown host key the first time, and hold to it from then on")
	flags.DurationVar(&f.timeout, prefix+"timeout", guest.ProbeLimit, "how long each way may take to answer")
	cmd.MarkFlagsMutuallyExclusive(prefix+"credentials", prefix+"ssh-key")
}

// guestReached is one guest with the ways into it.
type guestReached struct {
	here      *guest.Here
	deployers []guest.Deployer // proxies, and then this machine
	clients   []*remote.Client // of the proxies
	journal   *hikae.FileJournal
	order     guest.Order
	choice    guest.Choice
}

// Close ends what proxies do for this command.
func (g *guestReached) Close() error {
	var errs []error
	for _, c := range g.clients {
		errs = append(errs, c.Close())
	}
	if g.journal != nil {
		errs = append(errs, g.journal.Close())
	}
	return errors.Join(errs...)
}

// reach sets the ways up. Nothing is connected yet but for what a killed command left: that is taken away first, where it
// was in this guest.
func (t *tool) reach(ctx context.Context, f *waysFlags, urls []string) (*guestReached, error) {
	g, err := t.reachQuietly(ctx, f, urls)
	if err != nil {
		return nil, err
	}
	t.sweepGuest(ctx, g)
	return g, nil
}

// reachQuietly is reach without taking anything away.
func (t *tool) reachQuietly(ctx context.Context, f *waysFlags, urls []string) (*guestReached, error) {
	programs, err := t.programs()
	if err != nil {
		return nil, err
	}
	here := &guest.Here{Guest: f.name, Programs: programs, Timeout: f.timeout}
	if here.Machine, err = os.Hostname(); err != nil {
		here.Machine = ""
	}
	g := &guestReached{here: here}
	if here.Guest == "" {
		if here.Guest, err = t.guestNameOf(urls[0]); err != nil {
			return nil, err
		}
	}
	var far []remote.Way
	kinds := map[guest.Kind]bool{}
	for _, u := range urls {
		way, err := t.wayOf(ctx, f, here.Guest, u)
		if err != nil {
			return nil, err
		}
		if kinds[way.kind] {
			return nil, outcome.Usage("Name one URL of each kind.", "two ways are of the kind %s", way.kind)
		}
		kinds[way.kind] = true
		g.add(way)
		if way.far != nil {
			far = append(far, *way.far)
		}
	}
	if err := t.addProxies(g, f, far); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	g.deployers = append(g.deployers, here)
	state, err := t.stateDir()
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	if g.journal, err = hikae.OpenFileJournal(filepath.Join(state, "guest-journal")); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// add adds a way from this machine.
func (g *guestReached) add(way *wayInto) {
	if way.persist != nil {
		g.here.Persist, g.choice.Persistent = way.persist, true
		return
	}
	g.here.Ways, g.order = append(g.here.Ways, way.here), append(g.order, way.kind)
}

// addProxies puts proxies before this machine.
func (t *tool) addProxies(g *guestReached, f *waysFlags, ways []remote.Way) error {
	if len(f.proxies) > 0 && len(ways) == 0 {
		return outcome.Usage("Name an ssh:// or smb:// URL too, or leave --via-proxy out.", "none of these ways can be gone from a proxy")
	}
	for _, url := range f.proxies {
		c, err := t.proxyClient(url)
		if err != nil {
			return err
		}
		g.clients = append(g.clients, c)
		g.deployers = append(g.deployers, &remote.Deployer{Client: c, Guest: g.here.Guest, Ways: ways, Timeout: f.timeout})
	}
	return nil
}

// first has the first machine that can do a step in the guest. What is left behind there stays that machine's.
func (t *tool) first(ctx context.Context, g *guestReached, do func(guest.Deployer) error) error {
	var errs []error
	for _, d := range g.deployers {
		err := do(d)
		if err == nil {
			return nil
		}
		if len(g.deployers) > 1 {
			err = fmt.Errorf("from %s: %w", d.Name(), err)
		}
		errs = append(errs, err)
		if errors.Is(err, guest.ErrLeftover) || ctx.Err() != nil {
			break
		}
		if len(errs) < len(g.deployers) {
			t.tell("warning: %v; %s takes its place", outcome.Clean(err.Error()), g.deployers[len(errs)].Name())
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// sweepGuest takes away what killed commands left in this guest.
func (t *tool) sweepGuest(ctx context.Context, g *guestReached) {
	undone, err := g.journal.SweepFor(ctx, "", map[string]hikae.Sweeper{guest.EffectKind: g.sweeper()}, nil)
	if undone > 0 {
		t.tell("note: of what an earlier, killed command left in guests, %s", removed(undone))
	}
	if err != nil { // it is tried again next time
		t.tell("note: what an earlier, killed command left in a guest could not be removed: %v", err)
	}
}

// sweeper knows this guest's ways alone: what is in another one waits for a command that names it.
func (g *guestReached) sweeper() *guest.Sweeper {
	return &guest.Sweeper{Way: func(_ context.Context, name string, kind guest.Kind) (guest.Way, error) {
		if name == g.here.Guest {
			for _, w := range g.here.Ways {
				if w.Kind() == kind {
					return w, nil
				}
			}
		}
		return nil, fmt.Errorf("this command knows no way of kind %s into guest %s: `hikae guest remove` with its URL removes it (and --guest-name, where it had one)", kind, name)
	}}
}

// agentDir is where the components are: in the folder that HIKAE_AGENT_DIR names, or beside this program.
func (t *tool) agentDir() (string, error) {
	if dir := t.env("HIKAE_AGENT_DIR"); dir != "" {
		return dir, nil
	}
	self, err := os.Executable()
	return filepath.Join(filepath.Dir(self), "agents"), err
}

// programs are the components.
func (t *tool) programs() (guest.Programs, error) {
	dir, err := t.agentDir()
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, &outcome.Error{Kind: outcome.KindNotFound, Object: dir, Text: "there are no components for guests in " + dir,
			Hint: "`make agents` builds them beside the program; HIKAE_AGENT_DIR names another folder."}
	}
	return guest.ProgramsIn(os.DirFS(dir)), nil
}
