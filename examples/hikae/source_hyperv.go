package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/smbchannel"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/dcom"
	"github.com/hikae/hikae/hyperv/fsrvp"
	"github.com/hikae/hikae/hyperv/helper"
	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

const hypervScheme = "hyperv://"

func isHyperV(source string) bool { return strings.HasPrefix(source, hypervScheme) }

const hypervExample = "For instance 'hyperv://backup@hv1.example.org/?vm=web1'."

// hypervSite is a host, or a cluster, that this command is logged on to.
type hypervSite struct {
	*hyperv.Site
	address  *hyperv.Address
	password string

	mu   sync.Mutex
	told map[string]bool // warnings that were printed
	said *said           // where warnings go besides; nil: nowhere yet

	early []string // warnings from before that
}

// hypervAt reads an address and logs on. What it opens is let go of when the command ends.
func (t *tool) hypervAt(ctx context.Context, source string) (*hypervSite, error) {
	a, err := hyperv.ParseURL(source)
	if err != nil {
		return nil, outcome.Usage(hypervExample, "%v", err)
	}
	return t.hypervLogin(ctx, a)
}

func (t *tool) hypervLogin(ctx context.Context, a *hyperv.Address) (*hypervSite, error) {
	password := t.env(sourcePassword)
	switch {
	case a.User == "":
		return nil, outcome.Usage("For instance 'hyperv://backup@"+a.Host+"/?vm=web1'.", "the address names no user")
	case password == "":
		return nil, &outcome.Error{Kind: outcome.KindSecret, Object: a.Host, Text: "there is no password for " + a.User, Hint: "Put it into " + sourcePassword + "."}
	}
	opts, err := a.SiteOptions()
	if err != nil {
		return nil, err
	}
	if a.Transport == hyperv.TransportDCOM {
		opts.Host.Route = dcom.Route(nil)
	}
	site, err := hyperv.ConnectSite(ctx, a.Host, a.Login(password), opts)
	if err != nil {
		return nil, &outcome.Error{Object: a.Host, Text: "log on to " + a.Host, Err: err}
	}
	s := &hypervSite{Site: site, address: a, password: password, told: map[string]bool{}}
	t.atEnd(func() { _ = site.Close() })
	t.site = s
	return s, nil
}

// options are the provider's as the address has them, with what this program brings: the helper for hosts whose VSS has to be asked,
// and shadow copies of shares.
func (s *hypervSite) options(t *tool) *hyperv.ProviderOptions {
	o := s.address.Options
	o.Requester = func(ctx context.Context, h *hyperv.Host) (hyperv.Requester, error) {
		dir, err := t.agentDir()
		if err != nil {
			return nil, err
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("%w in %s", outcome.ErrNoHelper, dir)
		}
		s.note(t, requester.Unverified)
		return helper.For(s.way, helper.ProgramsIn(os.DirFS(dir)), nil)(ctx, h)
	}
	o.UndoRequester = func(ctx context.Context, e hikae.Effect) error {
		way, err := s.way(e.Facts["host"])
		if err != nil {
			return err
		}
		return helper.Undo(ctx, way, e)
	}
	o.Volumes = []hyperv.VolumeSnapshotter{&fsrvp.Snapshotter{Files: siteFiles{s}, Options: fsrvp.Options{Address: s.SMB},
		Login: func(context.Context, string) (fsrvp.Login, error) {
			return fsrvp.Login{User: s.address.User, Password: s.password}, nil
		}}}
	o.Warn = func(_, text string) { s.warn(t, text) }
	o.Swept = func(vm, what string) { t.tell("note: removed from VM %s: %s", vm, what) }
	return &o
}

// way is how the helper comes to a host: by SMB, with the site's login.
func (s *hypervSite) way(host string) (guest.Way, error) {
	if host == "" {
		return nil, fmt.Errorf("it names no host: %w", fs.ErrInvalid)
	}
	if err := s.onePlace(host); err != nil {
		return nil, err
	}
	a := s.address
	return smbchannel.New(cmp.Or(s.SMB(host), host), guest.Credential{User: a.User, Password: s.password, KerberosOnly: a.Realm != "", Realm: a.Realm, KDCs: a.KDCs}, nil), nil
}

// onePlace refuses an address that leads to one place for several nodes: what was left on one of them would be looked for on another, and
// called gone.
func (s *hypervSite) onePlace(host string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := s.Cluster(ctx)
	if err != nil || c == nil {
		return err
	}
	for _, n := range c.Nodes {
		if at := s.SMB(host); at != "" && !strings.EqualFold(n.Name, host) && s.SMB(n.Name) == at {
			return outcome.Usage("Say &smb.NODE=HOST:PORT for each node.", "&smb= leads to %s for %s and for %s", at, host, n.Name)
		}
	}
	return nil
}

// warn prints a warning once, and has it in the result.
func (s *hypervSite) warn(t *tool, text string) {
	s.mu.Lock()
	known, heard := s.told[text], s.said
	s.told[text] = true
	if !known && heard == nil {
		s.early = append(s.early, text)
	}
	s.mu.Unlock()
	if known {
		return
	}
	fmt.Fprintf(t.stderr, "%s %s\n", t.printer(t.stderr).Yellow("warning:"), outcome.Clean(text))
	if heard != nil {
		heard.add(text)
	}
}

// note prints something once.
func (s *hypervSite) note(t *tool, text string) {
	s.mu.Lock()
	known := s.told[text]
	s.told[text] = true
	s.mu.Unlock()
	if !known {
		t.tell("note: %s", text)
	}
}

// siteFiles opens files of shares, as any host of the site does.
type siteFiles struct{ site *hypervSite }

// Open implements [hyperv.Files].
func (f siteFiles) Open(ctx context.Context, name string) (pipe.Image, error) {
	hosts, err := f.site.Hosts(ctx)
	if len(hosts) == 0 {
		return nil, err
	}
	store, err := f.site.Store(ctx, hosts[0])
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, name)
}

// found are the VMs that an address means.
func (s *hypervSite) found(ctx context.Context) ([]vmOf, error) {
	ids, err := s.Select(ctx, s.address.Select)
	if err != nil {
		return nil, s.notFound(err)
	}
	p, err := hyperv.New(s.Site, ids, nil)
	if err != nil {
		return nil, err
	}
	var list []vmOf
	for vm, err := range p.VMs(ctx) {
		if err != nil {
			return nil, s.notFound(err)
		}
		list = append(list, vmOf{id: vm.ID, name: vm.Name})
	}
	if len(list) == 0 {
		return nil, &outcome.Error{Kind: outcome.KindNotFound, Object: s.Address(), Text: "there is no VM on " + s.Address()}
	}
	return list, nil
}

// reachable are the VMs that an address means on the hosts that answer, and what is lost with the others: one entry with an error for each.
// What cannot be asked is no reason to leave all VMs without a backup.
func (s *hypervSite) reachable(ctx context.Context) (list, lost []vmOf, err error) {
	ids, gone, err := s.SelectReachable(ctx, s.address.Select)
	if err != nil {
		return nil, nil, s.notFound(err)
	}
	lost = s.lost(gone)
	if len(ids) == 0 && gone != nil {
		return nil, lost, nil
	}
	p, err := hyperv.New(s.Site, ids, nil)
	if err != nil {
		return nil, nil, err
	}
	places := map[string]bool{}
	for vm, err := range p.VMs(ctx) {
		switch {
		case ctx.Err() != nil:
			return nil, nil, context.Cause(ctx)
		case err == nil:
			for _, d := range vm.Disks {
				at, _, _ := strings.Cut(vm.Facts["disk."+d.Key], " ")
				places[strings.ToLower(d.Key)], places[strings.ToLower(at)] = true, true
			}
			list = append(list, vmOf{id: vm.ID, name: vm.Name})
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil, s.notFound(err)
		default:
			lost = append(lost, s.lost(err)...)
		}
	}
	if len(list)+len(lost) == 0 {
		return nil, nil, &outcome.Error{Kind: outcome.KindNotFound, Object: s.Address(), Text: "there is no VM on " + s.Address()}
	}
	if len(lost) > 0 {
		return list, lost, nil // a disk that is to be left out may be of a VM that nobody sees now
	}
	for _, word := range s.address.Options.IgnoreDisks {
		if !places[strings.ToLower(word)] {
			return nil, nil, outcome.Usage("There are "+strings.Join(slices.Sorted(maps.Keys(places)), ", ")+".", "&ignore=%s names no disk of the VMs that are meant", word)
		}
	}
	return list, nil, nil
}

// lost is an entry for each error of several.
func (s *hypervSite) lost(err error) (list []vmOf) {
	if err == nil {
		return nil
	}
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range several.Unwrap() {
			list = append(list, s.lost(one)...)
		}
		return list
	}
	name := s.Address()
	if node, _, ok := strings.Cut(err.Error(), ": "); ok && len(node) <= 80 {
		name = node // "node HV2"
	}
	return []vmOf{{name: name, err: err}}
}

// notFound says in words for people that what is named is not there.
func (s *hypervSite) notFound(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return &outcome.Error{Object: s.Address(), Text: "VMs of " + s.Address(), Err: err}
	}
	return &outcome.Error{Kind: outcome.KindNotFound, Object: s.Address(), Hint: "`hikae hyperv list` shows what there is.",
		Text: strings.ReplaceAll(err.Error(), ": "+fs.ErrNotExist.Error(), " is not there")}
}

// one is the only VM that is meant.
func (s *hypervSite) one(ctx context.Context, what string) (vmOf, error) {
	list, err := s.found(ctx)
	if err != nil {
		return vmOf{}, err
	}
	if len(list) != 1 {
		return vmOf{}, outcome.Usage("Name one VM by &vm=.", "%d VMs are meant, and %s", len(list), what)
	}
	return list[0], nil
}

// hypervProvider makes VMs of an address. What it holds open is let go of when the command ends.
func (f *backupFlags) hypervProvider(ctx context.Context, t *tool, source string) (hikae.SnapshotProvider, error) {
	if len(f.changed) > 0 || f.forceLive {
		return nil, outcome.Usage("Hyper-V knows itself what changed, and a VM is read at one moment.", "--changed and --force-live are for disk image files")
	}
	s, err := t.hypervAt(ctx, source)
	if err != nil {
		return nil, err
	}
	list, lost, err := s.reachable(ctx)
	switch {
	case err != nil:
		return nil, err
	case len(list) == 0:
		return nil, &outcome.Error{Object: s.Address(), Text: "VMs of " + s.Address(), Err: lostError(lost)}
	case len(lost) > 0 && s.named(list): // all that were named are there
		s.warn(t, fmt.Sprintf("not every host answers, and another VM of that name may be there: %v", lostError(lost)))
		lost = nil
	}
	if len(list) > 1 && (f.name != "" || f.base != "") {
		return nil, outcome.Usage("Name one VM by &vm=.", "--name and --base are for one VM, and %d are meant", len(list))
	}
	if len(list) > 1 {
		if err := oneName(list); err != nil {
			return nil, err
		}
	}
	var ids []string
	for _, vm := range list {
		ids = append(ids, vm.id)
	}
	p, err := hyperv.New(s.Site, ids, s.options(t))
	if err != nil {
		return nil, err
	}
	provider := &checkedHyperV{Provider: p, unchecked: s.address.NoCheck}
	if len(list) == 1 && len(lost) == 0 {
		f.name = cmp.Or(f.name, list[0].name)
		return provider, nil
	}
	f.several = slices.Concat(list, lost)
	grouped, err := job.NewGrouped(ctx, provider, ids, &job.GroupOptions{ReleaseDeadline: removalDeadline})
	if err != nil {
		return nil, &outcome.Error{Object: s.Address(), Text: "group VMs of " + s.Address(), Err: err}
	}
	return &hypervVMs{grouped, s}, nil
}

// named reports whether the address names each VM that it means, and these are all.
func (s *hypervSite) named(list []vmOf) bool {
	sel := s.address.Select
	return len(sel.Patterns) == 0 && len(sel.VMs) > 0 && len(sel.VMs) == len(list)
}

func lostError(lost []vmOf) error {
	var all []error
	for _, one := range lost {
		all = append(all, one.err)
	}
	return errors.Join(all...)
}

// oneName refuses two VMs of one name: their points would be of one VM.
func oneName(list []vmOf) error {
	seen := map[string]bool{}
	for _, vm := range list {
		if seen[vm.name] {
			return &outcome.Error{Kind: outcome.KindAmbiguous, Object: vm.name, Text: fmt.Sprintf("several of the VMs that are meant are called %s", vm.name),
				Hint: "Back each up by &vm=GUID, with a --name of its own. `hikae hyperv list` shows the GUIDs."}
		}
		seen[vm.name] = true
	}
	return nil
}

// checkedHyperV is a provider that looks for what would stop a backup before anything is touched.
type checkedHyperV struct {
	*hyperv.Provider
	unchecked bool
}

func (p *checkedHyperV) check(ctx context.Context, id string) error {
	if p.unchecked {
		return nil
	}
	found, err := p.Preflight(ctx, id)
	if err != nil {
		return err
	}
	return found.Err()
}

// Snapshot implements [hikae.SnapshotProvider].
func (p *checkedHyperV) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	if err := p.check(ctx, id); err != nil {
		return nil, err
	}
	return p.Provider.Snapshot(ctx, id, opts)
}

// SnapshotGroup implements [hikae.GroupSnapshotter]: a VM that cannot be backed up does not keep the others from it.
func (p *checkedHyperV) SnapshotGroup(ctx context.Context, ids []string, opts *hikae.SnapshotOptions) ([]hikae.Snapshot, error) {
	failed := map[string]error{}
	for _, id := range ids {
		if err := p.check(ctx, id); err != nil {
			failed[id] = err
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	good := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return failed[id] != nil })
	if len(good) == 0 {
		return nil, &hyperv.GroupError{VMs: failed}
	}
	list, err := p.Provider.SnapshotGroup(ctx, good, opts)
	partly, ok := errors.AsType[*hyperv.GroupError](err)
	switch {
	case err != nil && !ok:
		return list, err
	case ok:
		for id, why := range partly.VMs {
			failed[id] = why
		}
	}
	if len(failed) == 0 {
		return list, nil
	}
	return list, &hyperv.GroupError{VMs: failed}
}

// hypervVMs is a provider of several VMs. Those that share a set, or a snapshot of a volume, are pinned together.
type hypervVMs struct {
	*job.Grouped
	site *hypervSite
}

// only is the provider of one VM: it alone is asked for, and pinned with its group.
func (m *hypervVMs) only(id string) hikae.SnapshotProvider { return onlyVM{m.Grouped, m.site, id} }

// close releases what was pinned and not asked for.
func (m *hypervVMs) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removalDeadline)
	defer cancel()
	return m.Grouped.Close(ctx)
}

// onlyVM is one VM of several.
type onlyVM struct {
	*job.Grouped
	site *hypervSite
	id   string
}

// VMs implements [hikae.SnapshotProvider].
func (o onlyVM) VMs(ctx context.Context) iter.Seq2[hikae.VM, error] {
	p, err := hyperv.New(o.site.Site, []string{o.id}, nil)
	if err != nil {
		return func(yield func(hikae.VM, error) bool) { yield(hikae.VM{}, err) }
	}
	return p.VMs(ctx)
}

// hypervSweeper takes back what a killed command left on a host. Only a command that is logged on to that site can.
type hypervSweeper struct {
	t    *tool
	repo *opened // nil: what only its points can judge stays
}

func (s hypervSweeper) Undo(ctx context.Context, e hikae.Effect, _ []hikae.ChangeID) error {
	at := e.Facts["site"]
	if s.t.site == nil || s.t.site.Address() != at {
		return fmt.Errorf("it is on %s: `hikae hyperv sweep hyperv://USER@%s/` removes it, and so does the next backup from there", at, at)
	}
	p, err := hyperv.New(s.t.site.Site, nil, s.t.site.options(s.t))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sweepLimit)
	defer cancel()
	if e.Repository == "" {
		return p.Undo(ctx, e, nil)
	}
	if s.repo == nil {
		return &hyperv.PendingError{VM: e.VM, What: "a reference point: whether it is needed, the restore points of its repository tell", Hint: "The next backup to there looks after it."}
	}
	keep, err := job.KeepIDs(ctx, s.repo)
	if err != nil {
		return err
	}
	return p.Undo(ctx, e, keep)
}

// sweepLimit is how long taking back one thing may take: a merge that takes longer goes on by itself.
const sweepLimit = 2 * time.Hour

// hear has warnings stand in the result of a backup.
func (s *hypervSite) hear(heard *said) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = heard
	for _, text := range s.early {
		heard.add(text)
	}
	s.early = nil
}
