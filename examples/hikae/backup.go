package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/bars"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/kvm"
	kvmreplica "github.com/hikae/hikae/kvm/replica"
	"github.com/hikae/hikae/pipe"
)

// backupFlags are how a backup is made.
type backupFlags struct {
	*access
	name        string
	compression string
	changed     []string
	base        string
	time        string
	limit       string
	lock        string
	forceLive   bool

	excludeSwap, excludeFree bool
	excludeFiles             []string

	guest   inGuestFlags
	line    lineFlags
	off     *offline // the VM, where it turned out to be off
	several []vmOf   // the VMs, where a URL means more than one
}

func (t *tool) backupCommand() *cobra.Command {
	f := &backupFlags{}
	cmd := &cobra.Command{
		Use:   "backup --repo REPO --name VM SOURCE…",
		Short: "Back up the disks of a VM",
		Long: text(`
Make a restore point of a VM from its disk images.

SOURCE is a raw or qcow2 file (with its backing files) or KEY=FILE, or the URL of a running VM. Several are several disks of one VM, with the keys
disk0, disk1 … by position unless they are given. The key is the disk's identity from one run to the next, whatever the
file's format or name.

Every point is complete. Blocks that the repository holds already, from this VM or any other, are not stored again; so
the second backup is small without being told what changed. --changed saves the reading as well: it names a JSON list of
{"start": …, "length": …} in bytes, relative to --base. [] says that the disk did not change. Disks that are not named
are read whole.

A running VM of QEMU is named by the socket of its monitor, and by that of its guest agent where it has one, which
then freezes its file systems for an instant: kvm:///run/vm/qmp.sock?agent=/run/vm/qga.sock&name=web1. Its second backup
reads only what changed. scratch= names the folder for what the VM overwrites meanwhile (default /var/tmp).

VMs of VMware vSphere are named by their server: 'vsphere://USER@HOST/?vm=web1' or by &match=, &tag=, &folder= and &pool=;
docs/vmware.md has all that can be said there. VMs of Microsoft Hyper-V are named by their host, or any host of a cluster:
'hyperv://USER@HOST/?vm=web1' or by &match=; see docs/hyperv.md. The password is in HIKAE_SOURCE_PASSWORD.

Swap space, and free space of file systems that are known (ext2/3/4, XFS, NTFS, FAT, also on LVM), are not stored; they
read as zero after a restore. --exclude-file leaves out files too: a path from the root of a volume with * ? [a-z], and **
for any folders; a glob without a slash fits in any folder; ! in front keeps what fits; VOLUME:: in front means one volume,
by label, UUID or name. What is doubtful is stored whole, and ` + "`hikae report`" + ` says of each volume what was left out and why.

A file that QEMU has open for writing is refused, because a copy of it would be of no one moment; --force-live takes it
all the same, and the command ends with exit status 3.`),
		Example: example(`
hikae backup --repo /backup/hikae --name web1 /vm/web1.qcow2
hikae backup --repo /backup/hikae --name db1 system=/vm/db1-sda.raw data=/vm/db1-sdb.qcow2

# a VM while it runs
hikae backup --repo /backup/hikae "kvm:///run/vm/qmp.sock?agent=/run/vm/qga.sock&name=web1"
hikae backup --repo /backup/hikae "kvm+libvirt:///system?vm=web1"

# a VM of vSphere; the second time only what changed is read
hikae backup --repo /backup/hikae 'vsphere://backup@vcenter.example.org/?vm=web1'

# VMs of Hyper-V; those that share a volume are pinned together where the procedure does that
hikae backup --repo /backup/hikae 'hyperv://backup@hv1.example.org/?vm=web1&vm=db1'

# without the guest's temporary files and caches
hikae backup --repo /backup/hikae --name web1 --exclude-file '**/tmp/**' --exclude-file 'data::/cache' /vm/web1.qcow2

# with a list of changed ranges from a hypervisor, at night, gently
hikae backup --repo /backup/hikae --name web1 --changed disk0=changed.json --limit 100MiB/s /vm/web1.raw`),
		Args: want("SOURCE…"),
	}
	f.access = repoFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "name of the `VM` in the repository (required for files)")
	flags.StringVar(&f.compression, "compression", "", "`LEVEL`: none, fast, default, better, max (default: as the repository was made)")
	flags.StringArrayVar(&f.changed, "changed", nil, "`KEY=FILE` with the ranges of a disk that changed since the base; may repeat")
	flags.StringVar(&f.base, "base", "", "`POINT` to build on (default VM@latest)")
	flags.StringVar(&f.time, "time", "", "when the VM was in this state, as `RFC3339` (default now)")
	flags.StringVar(&f.limit, "limit", "", "read no more than `RATE`, such as 100MiB/s or 400Mbit/s")
	flags.StringVar(&f.lock, "lock", "", "have the store keep the new point for `TIME`, such as 30d or 36h, whoever asks; see docs/immutability.md")
	flags.BoolVar(&f.forceLive, "force-live", false, "take disks that QEMU is writing to")
	flags.BoolVar(&f.excludeSwap, "exclude-swap", true, "leave out swap space (--exclude-swap=false keeps it)")
	flags.BoolVar(&f.excludeFree, "exclude-free", true, "leave out free space of file systems (--exclude-free=false keeps it)")
	flags.StringArrayVar(&f.excludeFiles, "exclude-file", nil, "leave out files of the guest that match `GLOB`, or with ! in front keep them; may repeat")
	f.guest.flags(cmd)
	f.line.flags(cmd)
	f.access.line = &f.line
	completeWith(cmd, "compression", levels...)
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.backup(ctx, f, args)
	})
	return cmd
}

func (t *tool) backup(ctx context.Context, f *backupFlags, sources []string) (*reply, error) {
	if err := f.access.lockNew(f.lock); err != nil {
		return nil, err
	}
	if len(sources) == 1 && isFarSource(sources[0]) {
		return t.collect(ctx, f, sources[0])
	}
	provider, err := f.provider(ctx, t, sources)
	if err != nil {
		return nil, err
	}
	opts, err := f.options()
	if err != nil {
		return nil, err
	}
	if opts.Sessions, err = t.sessions(); err != nil {
		return nil, err
	}
	r, err := t.open(ctx, f.access, false)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := errors.Join(r.ownName(f.name), r.covers(f.name)); err != nil {
		return nil, err
	}
	opts.Target = r.target
	journal, err := t.journal(ctx, r)
	if err != nil {
		return nil, err
	}
	defer journal.Close()
	opts.Journal = journal
	if f.off != nil {
		var note string
		if provider, note, err = f.off.provider(ctx, r); err != nil {
			return nil, err
		}
		opts.Notes = append(opts.Notes, note)
	}
	if opts.Compression == "" {
		opts.Compression = r.params().Compression
	}
	opts.Exclude = f.excluder(int64(r.params().BlockSize))
	if opts.Base, err = f.basePoint(ctx, r); err != nil {
		return nil, err
	}
	if len(f.guest.urls) > 0 && (len(f.several) > 1 || !isKVM(sources[0]) && !isVSphere(sources[0]) && !isHyperV(sources[0])) {
		return nil, outcome.Usage("Name one running VM by its URL.", "--guest is for one running VM")
	}
	work, done, err := t.guestWork(ctx, &f.guest, f.name)
	if err != nil {
		return nil, err
	}
	defer done()
	opts.Guest = work
	if t.site != nil {
		t.site.hear(r.said)
	}
	if t.server != nil || t.site != nil {
		opts.ReleaseDeadline = removalDeadline
	}
	progress := t.bars()
	opts.Events = progress.Event
	if each, ok := provider.(severalVMs); ok {
		defer progress.Close()
		return t.backupSeveral(ctx, f, each, r, opts)
	}
	result, err := job.Backup(ctx, provider, "", r, opts)
	progress.Close()
	if err != nil {
		return nil, about(f.repo, "", err)
	}
	return backedUp(result, r.said), nil
}

// backedUp is what a backup that made its point leaves. A warning is exit status 3.
func backedUp(result job.Result, heard *said) *reply {
	result.Started = result.Started.UTC()
	toPrint := result.Warnings
	result.Warnings = heard.onto(result.Warnings)
	for _, f := range result.Fallbacks {
		// That a file says nothing of what changed is how it is, and no news; that a record of changes was lost is.
		// So is why a disk took long though nothing was lost.
		switch {
		case f.From != job.Changed:
		case strings.HasPrefix(f.Reason, hikae.ErrTrackingLost.Error()):
			result.Notes = append(result.Notes, fmt.Sprintf("disk %s was read whole: %s", f.Disk, f.Reason))
		case strings.HasSuffix(f.Reason, ": read in full"):
			result.Notes = append(result.Notes, fmt.Sprintf("disk %s: %s", f.Disk, f.Reason))
		}
	}
	left := &reply{doc: result, warnings: toPrint, notes: result.Notes,
		text: func(w *show.Printer) error { return printBackup(w, result) }}
	if len(result.Warnings) > 0 {
		left.status = outcome.Warned
	}
	return left
}

func printBackup(w *show.Printer, r job.Result) error {
	if err := w.Printf("%s  point %s  %s\n\n", w.Bold(outcome.Clean(r.VM)), r.Point, show.Seconds(r.Seconds)); err != nil {
		return err
	}
	table := show.NewTable("DISK", ">SIZE", "HOW", ">READ", ">SKIPPED", ">DEDUPLICATED", ">MOVED", ">STORED", ">PARITY")
	for _, d := range r.Disks {
		skipped := int64(0)
		for _, n := range d.Skipped {
			skipped += n
		}
		table.Row(d.Key, show.Size(d.Size), string(d.Method), show.Size(d.Read), show.Size(skipped),
			show.Size(d.Deduplicated), show.Size(d.Moved), show.Size(d.Stored), show.Size(d.Parity))
	}
	if err := table.Print(w); err != nil {
		return err
	}
	bottleneck := r.Bottleneck
	if bottleneck == "" {
		bottleneck = "none: there was nothing to copy"
	}
	return w.Printf("\nconsistency %s, bottleneck %s; more with `hikae report %s`\n", r.Consistency, bottleneck, r.Session)
}

// provider makes a VM of the sources.
func (f *backupFlags) provider(ctx context.Context, t *tool, sources []string) (hikae.SnapshotProvider, error) {
	switch {
	case len(sources) == 1 && isKVM(sources[0]):
		return f.kvmProvider(ctx, sources[0])
	case len(sources) == 1 && isVSphere(sources[0]):
		return f.vsphereProvider(ctx, t, sources[0])
	case len(sources) == 1 && isHyperV(sources[0]):
		return f.hypervProvider(ctx, t, sources[0])
	}
	for _, s := range sources {
		if meantMover(s) {
			return nil, notMover(s)
		}
		if scheme, _, ok := strings.Cut(s, "://"); ok {
			return nil, &outcome.Error{Kind: outcome.KindUsage, Object: s,
				Text: fmt.Sprintf("sources at %s:// are not there yet", scheme), Hint: "Name disk image files, or one vsphere://, hyperv://, kvm://, kvm+libvirt:// or mover:// URL."}
		}
	}
	if f.name == "" {
		return nil, outcome.Usage("Name the VM: --name web1. The name is how its points are found again.",
			"--name is missing: disk files have no name of their own")
	}
	files, err := diskvm.ParseFiles(sources)
	if err != nil {
		return nil, err
	}
	changed, err := f.changedRanges()
	if err != nil {
		return nil, err
	}
	return diskvm.Open(ctx, f.name, files, &diskvm.Options{Force: f.forceLive, Changed: changed, Formats: diskFormats()})
}

// changedRanges reads the lists of --changed, by disk key.
func (f *backupFlags) changedRanges() (map[string][]diskvm.Range, error) {
	out := map[string][]diskvm.Range{}
	for _, arg := range f.changed {
		key, path, ok := strings.Cut(arg, "=")
		if !ok || key == "" || path == "" {
			return nil, outcome.Usage("For instance --changed disk0=changed.json.", "--changed %q is not KEY=FILE", arg)
		}
		if _, twice := out[key]; twice {
			return nil, outcome.Usage("", "--changed names disk %s twice", key)
		}
		list, err := readRanges(path)
		if err != nil {
			return nil, err
		}
		out[key] = list
	}
	return out, nil
}

func readRanges(path string) ([]diskvm.Range, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	list, err := diskvm.ParseRanges(io.Reader(file))
	if err != nil {
		return nil, &outcome.Error{Object: path, Text: path, Err: err,
			Hint: `A list of changes is JSON: [{"start": 0, "length": 65536}, …], in bytes.`}
	}
	return list, nil
}

func (f *backupFlags) options() (*job.BackupOptions, error) {
	opts := &job.BackupOptions{Name: f.name}
	err := f.checkGlobs()
	if err != nil {
		return nil, err
	}
	if f.compression != "" {
		if opts.Compression, err = parseCompression(f.compression); err != nil {
			return nil, err
		}
	}
	if f.time != "" {
		if opts.Time, err = time.Parse(time.RFC3339, f.time); err != nil {
			return nil, outcome.Usage("For instance --time 2026-03-02T09:30:00Z.", "--time %q is not a time of RFC 3339", f.time)
		}
	}
	if f.limit != "" {
		bytesPerSecond, err := parseRate(f.limit)
		if err != nil {
			return nil, err
		}
		opts.Wrap = limited(pipe.NewLimiter(bytesPerSecond))
	}
	return opts, nil
}

// limited puts one limit around all disks together.
func limited(l *rate.Limiter) func(context.Context, hikae.Disk, pipe.Image) (pipe.Image, error) {
	return func(_ context.Context, _ hikae.Disk, img pipe.Image) (pipe.Image, error) {
		return pipe.Limit(img, l), nil
	}
}

// basePoint is the id of the point that --base names; empty: the VM's newest.
func (f *backupFlags) basePoint(ctx context.Context, r *opened) (string, error) {
	if f.base == "" {
		return "", nil
	}
	p, err := findPoint(ctx, r, f.repo, f.base)
	if err != nil {
		return "", err
	}
	if p.VM != f.name {
		return "", outcome.Usage("", "--base %s is a point of %s, not of %s", f.base, p.VM, f.name)
	}
	return p.ID, nil
}

// findPoint finds a point by what the user wrote.
func findPoint(ctx context.Context, r *opened, place, spec string) (pipe.PointInfo, error) {
	if err := r.ownName(spec); err != nil {
		return pipe.PointInfo{}, err
	}
	p, err := r.Resolve(ctx, spec)
	if errors.Is(err, fs.ErrNotExist) {
		return p, noPoint(ctx, r, place, spec)
	}
	if err != nil {
		return p, &outcome.Error{Object: spec, Text: "point " + spec, Err: err, Hint: missingHint(err, place)}
	}
	return p, nil
}

// noPoint says that there is none, and what was meant if it is a VM's name.
func noPoint(ctx context.Context, r *opened, place, spec string) error {
	e := &outcome.Error{Kind: outcome.KindNotFound, Object: spec, Text: fmt.Sprintf("there is no point %s", spec), Hint: missingHint(fs.ErrNotExist, place)}
	for _, err := range r.Points(ctx, spec) {
		if err == nil {
			e.Text, e.Hint = fmt.Sprintf("%s is a VM, not a point", spec), fmt.Sprintf("Its newest point is %s@latest.", spec)
		}
		break
	}
	return e
}

// sessions is where reports of past sessions are kept.
func (t *tool) sessions() (*job.Sessions, error) {
	state, err := t.stateDir()
	if err != nil {
		return nil, err
	}
	return job.OpenSessions(filepath.Join(state, "sessions"))
}

// journal is where effects are written down before they happen. What a killed command left is taken back first, but for
// what the repository's points stand on.
func (t *tool) journal(ctx context.Context, r *opened) (*hikae.FileJournal, error) {
	j, err := t.openJournal()
	if err != nil {
		return nil, err
	}
	undone, err := j.SweepFor(ctx, r.ID(), t.sweepers(r), nil)
	if undone > 0 {
		t.tell("note: of what an earlier, killed command left, %s", removed(undone))
	}
	stands, err := leftStanding(err)
	for _, text := range stands {
		t.tell("note: %s", text)
	}
	if err != nil { // it is tried again next time
		t.tell("note: what an earlier, killed command left could not be removed: %v", err)
	}
	return j, nil
}

// sweepers take back what sessions that backed up into a repository left.
func (t *tool) sweepers(r *opened) map[string]hikae.Sweeper {
	return map[string]hikae.Sweeper{"diskvm.": diskvm.Sweeper{}, "kvm.start": kvm.StartSweeper{}, "kvm.boot": kvm.BootSweeper{}, "kvm.replica": kvmreplica.Sweeper{}, "kvm.": kvmSweeper{r}, "vmware.": vsphereSweeper{t},
		"hyperv.": hypervSweeper{t, r}}
}

func (t *tool) openJournal() (*hikae.FileJournal, error) {
	state, err := t.stateDir()
	if err != nil {
		return nil, err
	}
	return hikae.OpenFileJournal(filepath.Join(state, "journal"))
}

// bars shows progress on a terminal, and nowhere else.
func (t *tool) bars() *bars.Bars {
	if t.quiet || !isTerminal(t.stderr) || t.env("TERM") == "dumb" {
		return nil
	}
	return bars.New(t.stderr)
}
