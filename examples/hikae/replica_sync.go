package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/replica"
	"github.com/hikae/hikae/pipe"
)

// replicaSyncFlags are what a replica's new point is made of.
type replicaSyncFlags struct {
	backupFlags
	keep  int
	from  string
	every time.Duration
}

func (t *tool) replicaSyncCommand() *cobra.Command {
	f := &replicaSyncFlags{}
	cmd := &cobra.Command{
		Use:   "sync SITE {SOURCE… | --repo REPO VM}",
		Short: "Make a new point of a replica",
		Long: text(`
Bring a replica up to date: one more point in SITE, which is made where it is missing.

SOURCE is what hikae backup takes: the URL of a running VM, or its disk files with --name. The VM itself is read, as by a backup: only
what changed, with work in the guest where --guest says so; nothing is left out. With --repo the newest point of VM in a repository, or
the one that --point names, is copied instead: production is not read twice, and a VM of vSphere or Hyper-V gets a replica under QEMU
so. A point is read whole then, and what the replica has already is not written again.

--every makes a point again and again, until Ctrl-C: a minute apart from one begin to the next, say. One that fails is told and does not
end it. The oldest points are merged, until --keep are left: each is one more file that a read may have to look into.`),
		Example: example(`
hikae replica sync /srv/replicas 'kvm:///run/web1.qmp?agent=/run/web1.qga&name=web1' --every 1m
hikae replica sync /srv/replicas --repo /backup/hikae web1 --keep 4`),
		Args: want("SITE", "SOURCE…"),
	}
	f.access = &access{variable: "HIKAE_PASSWORD"}
	flags := cmd.Flags()
	flags.StringVar(&f.repo, "repo", "", "`REPO` to copy a point from; see: hikae help places")
	f.secretFlags(cmd)
	flags.StringVar(&f.from, "point", "", "with --repo: this `POINT` (default: the VM's newest)")
	flags.StringVar(&f.name, "name", "", "name of the `VM` (required for files)")
	flags.IntVar(&f.keep, "keep", replica.DefaultKeep, "keep `N` points")
	flags.StringVar(&f.limit, "limit", "", "read no more than `RATE`, such as 100MiB/s")
	flags.DurationVar(&f.every, "every", 0, "make a point every `TIME`, until interrupted")
	f.guest.flags(cmd)
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.replicaSync(ctx, f, args[0], args[1:])
	})
	return cmd
}

func (t *tool) replicaSync(ctx context.Context, f *replicaSyncFlags, dir string, sources []string) (_ *reply, err error) {
	switch {
	case f.keep < 1 || f.keep > 30:
		return nil, outcome.Usage("More make reads slow.", "--keep %d: 1 to 30 points", f.keep)
	case f.every != 0 && (f.every < time.Second || f.every > 24*time.Hour):
		return nil, outcome.Usage("Write it as 30s or 1m.", "--every %v: a second at least, a day at most", f.every)
	case f.repo == "" && f.from != "":
		return nil, outcome.Usage("Name the repository by --repo.", "--point is a point of a repository")
	case f.repo != "" && (len(sources) != 1 || f.name != ""):
		return nil, outcome.Usage("Name one VM: hikae replica sync SITE --repo REPO web1.", "with --repo the name of a VM is the only other argument")
	}
	site, err := t.openSite(ctx, dir, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	from, vm, done, err := f.source(ctx, t, site, sources)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	rep := site.of(t, vm, f.keep)
	if f.every > 0 {
		return t.replicaFollow(ctx, f, site, rep, from)
	}
	res, err := rep.Sync(ctx, from)
	res.VM = vm
	return site.replied(res, err, nil)
}

// replicaFollow makes points until it is interrupted, which is an end in good order.
func (t *tool) replicaFollow(ctx context.Context, f *replicaSyncFlags, site *replicaSite, rep *replica.Replica, from replica.Source) (*reply, error) {
	for {
		begun := time.Now()
		res, err := rep.Sync(ctx, from)
		for _, w := range res.Warnings {
			t.tell("%s: warning: %s", res.VM, w)
		}
		switch {
		case context.Cause(ctx) == errInterrupted:
			return &reply{}, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil && outcome.Of(site.explain(res.VM, err)).Kind == outcome.KindUsage:
			return nil, err
		case err != nil:
			t.tell("%s: %s", res.VM, firstLineOf(err))
		default:
			t.tell("%s: point %s of %s", res.VM, short(res.Point), res.Time.UTC().Format(time.RFC3339))
		}
		select {
		case <-ctx.Done():
		case <-time.After(max(0, f.every-time.Since(begun))):
		}
	}
}

// source is where the points come from, and the VM's name.
func (f *replicaSyncFlags) source(ctx context.Context, t *tool, site *replicaSite, sources []string) (replica.Source, string, func() error, error) {
	none := func() error { return nil }
	if f.repo == "" {
		s, err := f.direct(ctx, t, site, sources)
		if err != nil {
			return nil, "", none, err
		}
		return s, s.vm, none, nil
	}
	r, err := t.open(ctx, f.access, false) // a lease keeps the points from being pruned away meanwhile
	if err != nil {
		return nil, "", none, err
	}
	if err := errors.Join(r.ownName(sources[0]), r.readable()); err != nil {
		return nil, "", none, errors.Join(err, r.Close())
	}
	from := &replica.FromPoints{From: r, Copy: &job.CopyOptions{Events: t.bars().Event}}
	spec := f.from
	if spec == "" {
		spec = sources[0] + "@latest" // it is looked for here, where it is known what to do if there is none
	}
	if p, err := findPoint(ctx, r, f.repo, spec); f.from == "" && err != nil {
		return nil, "", none, errors.Join(err, r.Close())
	} else if f.from != "" {
		if err == nil && p.VM != sources[0] {
			err = outcome.Usage("", "--point %s is a point of %s, not of %s", f.from, p.VM, sources[0])
		}
		if err != nil {
			return nil, "", none, errors.Join(err, r.Close())
		}
		from.Point = p.ID
	}
	if f.limit != "" {
		bytes, err := parseRate(f.limit)
		if err != nil {
			return nil, "", none, errors.Join(err, r.Close())
		}
		limiter := pipe.NewLimiter(bytes)
		from.Copy.Wrap = func(_ string, img pipe.Image) pipe.Image { return pipe.Limit(img, limiter) }
	}
	return from, sources[0], r.Close, nil
}

// directSource reads the VM itself. It is looked for anew for each point: it may have been stopped or started meanwhile.
type directSource struct {
	t       *tool
	flags   backupFlags
	site    *replicaSite
	sources []string
	vm      string
}

// direct finds the VM once, for its name.
func (f *replicaSyncFlags) direct(ctx context.Context, t *tool, site *replicaSite, sources []string) (*directSource, error) {
	s := &directSource{t: t, flags: f.backupFlags, site: site, sources: sources}
	if len(sources) == 1 && isFarSource(sources[0]) {
		return nil, outcome.Usage("Back it up into a repository, and sync with --repo.", "a source behind a mover cannot be read into a replica")
	}
	found := s.flags
	if _, err := found.provider(ctx, t, sources); err != nil {
		return nil, err
	}
	if len(found.several) > 1 {
		return nil, outcome.Usage("Name one by &vm=.", "a sync is of one VM, and %d are meant", len(found.several))
	}
	if s.vm = found.name; s.vm == "" {
		return nil, outcome.Usage("Add &name=web1 to the URL, or --name web1.", "the VM has no name")
	}
	return s, nil
}

// Sync implements [replica.Source].
func (s *directSource) Sync(ctx context.Context, to pipe.Backend, vm string) (_ replica.Synced, err error) {
	done := func() error { return nil }
	defer func() { err = errors.Join(err, done()) }()
	from := &replica.FromVM{Open: func(ctx context.Context) (hikae.SnapshotProvider, string, *job.BackupOptions, error) {
		flags := s.flags
		provider, err := flags.provider(ctx, s.t, s.sources)
		if err != nil {
			return nil, "", nil, err
		}
		opts, err := flags.options()
		if err != nil {
			return nil, "", nil, err
		}
		opts.Sessions, opts.Journal, opts.Target, opts.Events = s.site.sessions, s.site.journal, s.site.place.target, s.t.bars().Event
		if s.t.server != nil || s.t.site != nil {
			opts.ReleaseDeadline = removalDeadline
		}
		if flags.off != nil { // nobody is in the guest
			var note string
			provider, note, err = flags.off.provider(ctx, s.site.place)
			opts.Notes = append(opts.Notes, note)
			return provider, "", opts, err
		}
		opts.Guest, done, err = s.t.guestWork(ctx, &flags.guest, vm)
		return provider, "", opts, err
	}}
	return from.Sync(ctx, to, vm)
}
