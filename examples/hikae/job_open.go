package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/job/jobfile"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
)

// openJob is a job with its repository open and its VMs found.
type openJob struct {
	t    *tool
	file *jobfile.File

	access  *access
	repo    *opened
	sources []*jobSource
	vms     []*jobVM
	limit   *rate.Limiter // of all VMs together; nil: none
	only    []string      // VMs that are asked for; none: all
}

// jobSource is a place where VMs are, that this command is logged in to.
type jobSource struct {
	tool     *tool // with the source's secrets, and what it is logged in to
	flags    *backupFlags
	urls     []string
	provider hikae.SnapshotProvider
	journal  *hikae.FileJournal
	host     string

	from *jobfile.Source
	lost error // it is not there
}

// jobVM is one VM of a job.
type jobVM struct {
	name     string
	source   *jobSource
	provider hikae.SnapshotProvider // of this VM alone
	told     hikae.VM               // when it was found
	err      error                  // it is known already that it cannot be backed up
}

// fork is this tool with other variables of the environment, for a part of a command that logs in by itself. What it leaves to be let
// go of at the end is this one's.
func (t *tool) fork(variables map[string]string) *tool {
	one := t.with(variables)
	one.server, one.site, one.ends = nil, nil, nil
	t.atEnd(one.end)
	return one
}

// with is this tool with other variables of the environment.
func (t *tool) with(variables map[string]string) *tool {
	one := *t
	one.env = func(name string) string {
		if v, ok := variables[name]; ok {
			return v
		}
		return t.env(name)
	}
	return &one
}

// secretFrom is a secret by the file or variable that a job names; empty where it names none.
func (t *tool) secretFrom(file, variable string) (string, error) {
	switch {
	case file != "":
		return firstLine(file)
	case variable == "":
		return "", nil
	}
	if v := t.env(variable); v != "" {
		return v, nil
	}
	return "", &outcome.Error{Kind: outcome.KindSecret, Object: variable, Text: "the environment has no " + variable}
}

// setting is a variable with a secret of a job, where it names one.
func (t *tool) setting(name, file, variable string) (map[string]string, error) {
	secret, err := t.secretFrom(file, variable)
	if err != nil || secret == "" {
		return nil, err
	}
	return map[string]string{name: secret}, nil
}

// openPlace opens a repository that a job names.
func (t *tool) openPlace(ctx context.Context, r *jobfile.Repository, readOnly bool) (*access, *opened, error) {
	variables, err := t.setting("HIKAE_PASSWORD", "", r.PasswordEnv)
	if err != nil {
		return nil, nil, err
	}
	a := &access{repo: r.URL, passwordFile: r.PasswordFile, keyFile: r.KeyFile, identity: r.IdentityFile, variable: "HIKAE_PASSWORD",
		lock: time.Duration(r.Lock)}
	if r.Lock > 0 && strings.HasPrefix(r.URL, moverScheme) {
		return nil, nil, outcome.Usage("Lock points where the repository is.", "repository.lock is for a repository that this machine reaches itself")
	}
	place, err := t.fork(variables).open(ctx, a, readOnly)
	if err != nil {
		return nil, nil, aboutPlace(r, err)
	}
	return a, place, nil
}

// aboutPlace names the lines of the job file that a person can change, or what makes the repository that they mean.
func aboutPlace(r *jobfile.Repository, err error) error {
	flag, what := "", "HIKAE_PASSWORD"
	for _, o := range []struct{ field, value, flag string }{
		{"password-file", r.PasswordFile, "--password-file"}, {"key-file", r.KeyFile, "--key-file"}, {"identity-file", r.IdentityFile, "--identity"},
		{"password-env", r.PasswordEnv, ""},
	} {
		if o.value == "" {
			continue
		}
		if what = fmt.Sprintf("%s %s, which the job names", o.field, o.value); o.flag != "" {
			flag = fmt.Sprintf("%s %s ", o.flag, o.value)
		}
	}
	hint, kind := "", outcome.Kind("")
	switch {
	case errors.Is(err, errNoSecret):
		hint, kind = "Set HIKAE_PASSWORD, or write password-file, password-env, key-file or identity-file below the job's repository.", outcome.KindUsage
	case errors.Is(err, repo.ErrSecret):
		hint = fmt.Sprintf("Check %s.", what)
	case errors.Is(err, repo.ErrNotRepository):
		hint = fmt.Sprintf("Check the job's repository.url, or make a repository there: hikae init %s%s", flag, r.URL)
	default:
		return err
	}
	return &outcome.Error{Kind: kind, Place: r.URL, Hint: hint, Err: err}
}

// openJob opens the repository, logs in to the sources and finds the VMs. The caller closes it.
func (t *tool) openJob(ctx context.Context, f *jobFlags, file *jobfile.File, readOnly bool) (_ *openJob, err error) {
	j := &openJob{t: t, file: file, only: f.only}
	if file.Limits.Rate != "" {
		bytes, err := parseRate(string(file.Limits.Rate))
		if err != nil {
			return nil, err
		}
		j.limit = pipe.NewLimiter(bytes)
	}
	if j.access, j.repo, err = t.openPlace(ctx, &file.Repository, readOnly); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.Close())
		}
	}()
	for i := range file.Sources {
		if err := j.addSource(ctx, &file.Sources[i]); err != nil {
			return nil, err
		}
	}
	if err := j.choose(); err != nil {
		return nil, err
	}
	return j, nil
}

// Close lets go of what the job's sources share, and of the repository.
func (j *openJob) Close() error {
	var errs []error
	for _, s := range j.sources {
		errs = append(errs, s.close())
	}
	return errors.Join(append(errs, j.repo.Close())...)
}

func (s *jobSource) close() (err error) {
	if shared, ok := s.provider.(sharedVMs); ok {
		if err = shared.close(context.Background()); err != nil {
			err = fmt.Errorf("what VMs shared could not be released: %w", err)
		}
	}
	if s.journal != nil {
		err = errors.Join(err, s.journal.Close())
	}
	return err
}

// addSource logs in, and adds the VMs that are meant. A source that is not there does not keep the others from their turn.
func (j *openJob) addSource(ctx context.Context, from *jobfile.Source) error {
	variables, err := j.t.setting(sourcePassword, from.PasswordFile, from.PasswordEnv)
	if err != nil {
		return err
	}
	s := &jobSource{tool: j.t.fork(variables), host: hostOf(from.URL), from: from}
	j.sources = append(j.sources, s)
	err = s.find(ctx, j, from, from.URL)
	if err != nil && (ctx.Err() != nil || outcome.Of(err).Kind == outcome.KindUsage) {
		return err
	}
	s.lost = err
	return nil
}

// name is what a source is called in a report.
func (s *jobSource) name() string { return cmp.Or(s.from.Name, addressOf(s.from.URL)) }

// missing are the sources that are not there, each as a VM that cannot be backed up.
func (j *openJob) missing() (out []*jobVM) {
	for _, s := range j.sources {
		if s.lost != nil {
			out = append(out, &jobVM{name: s.name(), source: s, err: s.lost})
		}
	}
	return out
}

// find makes VMs of a source's address.
func (s *jobSource) find(ctx context.Context, j *openJob, from *jobfile.Source, address string) error {
	s.flags, s.urls = j.flags(from), []string{address}
	if from.URL == "" {
		s.urls = from.Disks
	} else if len(from.Tags) > 0 {
		s.urls[0] = withParameters(address, "tag", from.Tags, false)
	}
	var err error
	if s.provider, err = s.flags.provider(ctx, s.tool, s.urls); err != nil {
		return err
	}
	if len(s.flags.several) == 0 {
		if len(from.Include)+len(from.Exclude) > 0 && !from.Takes(s.flags.name) {
			return nil
		}
		j.vms = append(j.vms, &jobVM{name: s.flags.name, source: s, provider: s.provider, told: toldOf(ctx, s.provider)})
		return nil
	}
	return s.several(ctx, j, from, address)
}

// several adds VMs of an address that means more than one.
func (s *jobSource) several(ctx context.Context, j *openJob, from *jobfile.Source, address string) error {
	var ids []string
	var out []*jobVM
	each := s.provider.(severalVMs)
	for _, vm := range s.flags.several {
		if vm.err == nil && (!from.Takes(vm.name) || !jobfile.Fits(j.only, vm.name)) {
			continue
		}
		one := &jobVM{name: vm.name, source: s, err: vm.err}
		if vm.err == nil {
			one.provider = each.only(vm.id)
			one.told = toldOf(ctx, one.provider)
			ids = append(ids, vm.id)
		}
		out = append(out, one)
	}
	// Groups are made of all VMs of an address: where some are left out, it is asked for the others alone.
	if _, shared := s.provider.(sharedVMs); shared && len(ids) > 0 && len(out) < len(s.flags.several) {
		if err := s.close(); err != nil {
			return err
		}
		return s.find(ctx, j, &jobfile.Source{URL: from.URL, ForceLive: from.ForceLive}, withParameters(address, "vm", ids, true))
	}
	j.vms = append(j.vms, out...)
	return nil
}

// toldOf is what the hypervisor tells of one VM; what cannot be asked now fails in its backup.
func toldOf(ctx context.Context, p hikae.SnapshotProvider) hikae.VM {
	for vm, err := range p.VMs(ctx) {
		if err == nil {
			return vm
		}
		break
	}
	return hikae.VM{}
}

// withParameters adds parameters of one name to an address, in the place of all that select VMs where alone is said.
func withParameters(address, name string, values []string, alone bool) string {
	u, err := url.Parse(address)
	if err != nil {
		return address // who reads it says it better
	}
	q := u.Query()
	if alone {
		for _, selects := range []string{"vm", "match", "tag", "folder", "pool"} {
			q.Del(selects)
		}
	}
	for _, v := range values {
		q.Add(name, v)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// hostOf is the host in an address; this machine where it names none.
func hostOf(address string) string {
	if u, err := url.Parse(address); err == nil && u.Hostname() != "" {
		return u.Hostname()
	}
	return "localhost"
}

// addressOf is an address without user and parameters.
func addressOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "a source"
	}
	return u.Scheme + "://" + u.Host + u.Path
}

// flags are a backup's as the job has them.
func (j *openJob) flags(s *jobfile.Source) *backupFlags {
	file, off := j.file, func(b *bool) bool { return b == nil || *b }
	return &backupFlags{access: j.access, name: s.Name, compression: file.Compression, forceLive: s.ForceLive,
		excludeSwap: off(file.Exclude.Swap), excludeFree: off(file.Exclude.Free), excludeFiles: file.Exclude.Files}
}

// choose holds the VMs to those that are asked for, and their names to be different.
func (j *openJob) choose() error {
	j.vms = append(j.vms, j.missing()...)
	names := map[string]bool{}
	for _, vm := range j.vms {
		if names[vm.name] {
			return &outcome.Error{Kind: outcome.KindAmbiguous, Object: vm.name, Text: fmt.Sprintf("several of the VMs that are meant are called %s", vm.name),
				Hint: "Their points would be of one VM. Leave one out by exclude, or give it a source with a name of its own."}
		}
		names[vm.name] = true
	}
	for _, pattern := range j.only {
		if _, err := path.Match(pattern, ""); err != nil {
			return outcome.Usage("Names of VMs, in which * ? and [a-z] are wild.", "--only %q is no pattern", pattern)
		}
		if !slices.ContainsFunc(j.vms, func(vm *jobVM) bool { return jobfile.Fits([]string{pattern}, vm.name) }) {
			if err := j.away(); err != nil {
				return err
			}
			return outcome.Usage("`hikae job plan` lists the VMs of a job.", "--only %s: no VM of the job is called that", pattern)
		}
	}
	j.vms = slices.DeleteFunc(j.vms, func(vm *jobVM) bool { return vm.source.lost == nil && !jobfile.Fits(j.only, vm.name) })
	if len(j.vms) == 0 {
		return &outcome.Error{Kind: outcome.KindNotFound, Object: j.file.Name, Text: "no VM is meant: the sources have none that include and exclude let through"}
	}
	for _, vm := range j.vms {
		if vm.err == nil {
			if err := errors.Join(j.repo.ownName(vm.name), j.repo.covers(vm.name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// host is where a VM runs, for limits.
func (vm *jobVM) host() string { return cmp.Or(vm.told.Facts["host"], vm.source.host) }

// guestOf is what is done inside a VM; nil: nothing.
func (j *openJob) guestOf(name string) *jobfile.Guest {
	for i := range j.file.Guest {
		if g := &j.file.Guest[i]; jobfile.Fits(g.VMs, name) {
			return g
		}
	}
	return nil
}

// jobGuest is a backup's flags for the guest of a VM.
func jobGuest(g *jobfile.Guest, vm string) *inGuestFlags {
	f := &inGuestFlags{policy: cmp.Or(g.Policy, "require"), scripts: cmp.Or(g.Scripts, "require"), copy: cmp.Or(g.Copy, "auto"),
		noApplications: g.Applications != nil && !*g.Applications, skip: g.Skip, truncate: g.TruncateLogs, index: g.Index,
		hold: g.Hold.Or(8 * time.Second), changed: func() string { return "" },
		waysFlags: waysFlags{name: vm, proxies: g.Proxies, credentials: g.Credentials, sshKey: g.SSHKey, sshAgent: g.SSHAgent,
			knownHosts: g.KnownHosts, fingerprints: g.Fingerprints, trustFirst: g.TrustFirst, timeout: g.Timeout.Or(guest.ProbeLimit)}}
	for _, way := range g.Ways {
		f.urls = append(f.urls, strings.ReplaceAll(way, "{vm}", vm))
	}
	return f
}

// expand puts the job's name, the run and its day into the name of a file.
func expand(name, job, run string, at time.Time) string {
	return strings.NewReplacer("{job}", job, "{run}", run, "{date}", at.Format(time.DateOnly)).Replace(name)
}
