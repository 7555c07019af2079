package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/kvm"
)

func (t *tool) kvmCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "kvm", Short: "Start, test and clean up virtual machines of QEMU/KVM", Args: want()}
	cmd.RunE = func(*cobra.Command, []string) error {
		return errors.New("what to do is missing: start, selftest or sweep")
	}
	cmd.AddCommand(t.kvmStartCommand(), t.kvmSelftestCommand(), t.kvmSweepCommand())
	return cmd
}

// startFlags are what is started, and where.
type startFlags struct {
	*access
	to, resume string
	disks      []string
	monitor    string
	limit      string
	wait       time.Duration
}

func (t *tool) kvmStartCommand() *cobra.Command {
	f := &startFlags{}
	cmd := &cobra.Command{
		Use:   "start --repo REPO {POINT --to FOLDER | --resume FOLDER} [-- COMMAND ARG…]",
		Short: "Start a VM from a restore point at once, and copy its disks while it runs",
		Long: text(`
Start a virtual machine from a restore point without restoring it first. Its disks are served from the repository, and
FOLDER gets a qcow2 file for each, which takes what the guest writes. While the guest runs, QEMU copies into these files
what they lack. When they are whole nothing needs the repository any more, and the command ends with 0; the VM runs on.

COMMAND starts the VM. In its arguments

  {disks}     alone: options for QEMU that attach every disk as a virtio disk
  {disk:KEY}  the path of the qcow2 file of one disk, for options of your own
  {monitor}   the path of a monitor's socket; where it is not used, and --monitor is not given, -qmp is added

What the VM prints goes to FOLDER/vm.log. Without COMMAND nothing is started: the line on stdout has the files and the
options, and the command waits for a QEMU at the monitor.

Nothing is lost whoever is killed. If this command is, or Ctrl-C ends it, the guest goes on, and waits where it reads
what is not copied, for --wait at most; the same command again, or --resume FOLDER, serves it again. If QEMU is killed,
that starts the VM again, with what it had written.

When the disks are served it prints one line of JSON:

  {"serving": FOLDER, "point": ID, "monitor": PATH, "disks": [{"key", "size", "path"}], "options": [ARG…]}`),
		Example: example(`
hikae kvm start --repo /backup/hikae web1@latest --to /vm/web1/ -- qemu-system-x86_64 -M q35 -accel kvm -m 2G {disks}
hikae kvm start --repo /backup/hikae --resume /vm/web1/
hikae kvm start --repo /backup/hikae web1@latest --to /vm/web1/ --limit 50MiB/s -- virt-install … --disk {disk:vda}`),
		Args: func(cmd *cobra.Command, args []string) error {
			if n := cmd.ArgsLenAtDash(); n >= 0 {
				args = args[:n]
			}
			if f.resume != "" {
				return want()(cmd, args)
			}
			return want("POINT")(cmd, args)
		},
	}
	f.access = repoFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "`FOLDER` for the disks; it is made where it is missing")
	flags.StringVar(&f.resume, "resume", "", "go on in this `FOLDER`")
	flags.StringArrayVar(&f.disks, "disk", nil, "only the disk with this `KEY`; may repeat")
	flags.StringVar(&f.monitor, "monitor", "", "`PATH` of a monitor's socket of the VM (default: FOLDER/qmp.sock)")
	flags.StringVar(&f.limit, "limit", "", "copy at most at this `RATE`, such as 50MiB/s")
	flags.DurationVar(&f.wait, "wait", 24*time.Hour, "how long the guest waits for a disk that is not served")
	cmd.MarkFlagsMutuallyExclusive("to", "resume")
	cmd.MarkFlagsOneRequired("to", "resume")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		point, command := "", args
		if f.resume == "" {
			point, command = args[0], args[1:]
		}
		return t.kvmStart(ctx, f, point, command)
	})
	return cmd
}

func (t *tool) kvmStart(ctx context.Context, f *startFlags, spec string, command []string) (left *reply, err error) {
	begun := time.Now()
	opts, err := f.options(t)
	if err != nil {
		return nil, err
	}
	if len(command) > 0 {
		opts.Command = command
	}
	r, err := t.open(ctx, f.access, false) // a lease keeps the point for as long as it is served
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	journal, err := t.journal(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	opts.Journal = journal
	bars := t.bars()
	opts.Progress = func(p kvm.StartProgress) { bars.Set(p.Key, p.Done, p.Total) }
	s, err := f.start(ctx, t, r, spec, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := t.serving(s); err != nil {
		return nil, err
	}
	if len(opts.Command) == 0 && f.resume == "" {
		t.tell("note: no command was given: waiting for a QEMU with these disks at %s", s.Monitor())
	}
	err = s.Finish(ctx)
	bars.Close()
	return f.finished(ctx, s, begun, err)
}

// options are the library's.
func (f *startFlags) options(t *tool) (*kvm.StartOptions, error) {
	opts := &kvm.StartOptions{Monitor: f.monitor, Disks: f.disks, Wait: f.wait,
		Warn: func(text string) { t.tell("note: %s", text) }}
	if f.wait < time.Second || f.wait > 365*24*time.Hour {
		return nil, outcome.Usage("Write it as 90m or 24h.", "--wait %v: a second at least, a year at most", f.wait)
	}
	if f.limit != "" {
		rate, err := parseRate(f.limit)
		if err != nil {
			return nil, err
		}
		opts.Limit = rate
	}
	return opts, nil
}

// start starts, or goes on where this command was before.
func (f *startFlags) start(ctx context.Context, t *tool, r *opened, spec string, opts *kvm.StartOptions) (*kvm.Started, error) {
	if f.resume != "" {
		s, err := kvm.Resume(ctx, r, f.resume, opts)
		return s, f.explain(err, f.resume)
	}
	point, err := findPoint(ctx, r, f.repo, spec)
	if err != nil {
		return nil, err
	}
	s, err := kvm.Start(ctx, r, point, f.to, opts)
	if before, ok := errors.AsType[*kvm.StartedError](err); ok && before.Point == point.ID {
		t.tell("note: %s: going on with what was started here", f.to)
		s, err = kvm.Resume(ctx, r, f.to, opts)
	}
	return s, f.explain(err, f.to)
}

// explain adds what to do next.
func (f *startFlags) explain(err error, folder string) error {
	switch started, ok := errors.AsType[*kvm.StartedError](err); {
	case err == nil:
		return nil
	case ok:
		return &outcome.Error{Object: folder, Err: err, Hint: fmt.Sprintf("`hikae kvm start --repo %s --resume %s` goes on with point %.12s; choose another folder for another point.", f.repo, folder, started.Point)}
	case errors.Is(err, fs.ErrInvalid):
		return &outcome.Error{Kind: outcome.KindUsage, Object: folder, Err: err}
	case errors.Is(err, fs.ErrExist):
		return &outcome.Error{Object: folder, Err: err, Hint: "Disks that are whole need Hikae no more: start the VM with them. For a new start choose an empty folder."}
	case errors.Is(err, fs.ErrNotExist) && f.resume != "":
		return &outcome.Error{Object: folder, Err: err, Hint: "If its disks are whole, start the VM with them. Otherwise start anew with POINT and --to."}
	}
	return &outcome.Error{Object: folder, Err: err}
}

// servingDoc is the line that says that the disks are there.
type servingDoc struct {
	Serving string            `json:"serving"`
	Point   string            `json:"point"`
	Monitor string            `json:"monitor"`
	Disks   []kvm.StartedDisk `json:"disks"`
	Options []string          `json:"options"`
}

func (t *tool) serving(s *kvm.Started) error {
	line, err := json.Marshal(servingDoc{s.Folder(), s.Point(), s.Monitor(), s.Disks(), s.Options()})
	if err == nil {
		_, err = t.stdout.Write(append(line, '\n'))
	}
	return err
}

// finished is what is left to say. Ctrl-C is an end in good order: the VM goes on.
func (f *startFlags) finished(ctx context.Context, s *kvm.Started, begun time.Time, err error) (*reply, error) {
	again := fmt.Sprintf("`hikae kvm start --repo %s --resume %s`", f.repo, s.Folder())
	switch {
	case err == nil:
		return &reply{notes: []string{fmt.Sprintf("the disks are whole after %s, and the VM runs on without Hikae: %s", show.Seconds(time.Since(begun).Seconds()), paths(s))}}, nil
	case context.Cause(ctx) == errInterrupted && !s.Seen():
		return &reply{status: outcome.Interrupted, warnings: []string{
			"no QEMU answered at " + s.Monitor() + ", so nothing was copied; start one with the files above and go on with " + again}}, nil
	case context.Cause(ctx) == errInterrupted:
		return &reply{status: outcome.Interrupted, warnings: []string{
			"the VM runs on, and waits where it reads what is not copied yet, for " + f.wait.String() + " at most; go on with " + again}}, nil
	case errors.Is(err, kvm.ErrVMEnded):
		return nil, &outcome.Error{Object: s.Folder(), Err: err, Hint: "Nothing that it wrote is lost. It starts again with " + again + "; what it printed is in vm.log."}
	}
	return nil, &outcome.Error{Object: s.Folder(), Err: err, Hint: "The VM may run on, and wait. Go on with " + again + "."}
}

func paths(s *kvm.Started) string {
	var names []string
	for _, d := range s.Disks() {
		names = append(names, filepath.Base(d.Path))
	}
	return strings.Join(names, ", ")
}
