package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/bootcheck"
	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/pipe"
)

// bootFlags are what is started, and what it has to do.
type bootFlags struct {
	*access
	kvm.BootOptions
	agent, screen bool
	ports         []int
	serial        string
	probe         []string
	inGuest       []string
	within        time.Duration
	memory        string
	picture       string
}

func (t *tool) bootcheckCommand() *cobra.Command {
	f := &bootFlags{}
	cmd := &cobra.Command{
		Use:   "bootcheck --repo REPO POINT {--agent | --port N… | --serial REGEXP | --screen} [--probe PROGRAM [--probe ARG]…]",
		Short: "Start a restore point to see whether it boots, and throw it away",
		Long: text(`
Start the machine of a restore point under QEMU on this machine, from where the point lies and without restoring it, and wait for a sign
that it lives. What it writes goes into files that are thrown away with it; the point is only read. It has no network, but the ports that
are asked for, from this machine alone.

Everything that is asked for has to come within --within:

  --agent          the QEMU guest agent in it answers
  --port N         somebody listens at that TCP port of it; may repeat
  --serial REGEXP  it prints this at its serial port
  --screen         its screen shows something, and comes to rest

Then --in-guest runs a program in it by its agent, and --probe a program on this machine: 0 passes. For arguments repeat the option. The
probe has HIKAE_VM, HIKAE_POINT and HIKAE_PORT_N=HOST:PORT in its environment, and no password of ours.

Memory, processors and firmware are as recorded where the point tells them (QEMU, vSphere); disks hang on virtio where QEMU recorded them,
else on SATA, which every guest can boot from. The mapping is printed. Without KVM on this machine the guest is emulated, ten times slower:
give it time.

A machine that does not pass is exit status 1, with the document on stdout, and the last of its screen and serial port in it.`),
		Example: example(`
hikae bootcheck --repo /backup/hikae web1@latest --agent
hikae bootcheck --repo /backup/hikae web1@latest --port 22 --port 443 --probe ./ask-web1.sh --picture web1.png
hikae bootcheck --repo /backup/hikae db1@latest --agent --in-guest /usr/bin/pg_isready --within 15m`),
		Args: want("POINT"),
	}
	f.access = repoFlags(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.agent, "agent", false, "wait for the guest's agent")
	flags.IntSliceVar(&f.ports, "port", nil, "wait for this TCP `PORT` of the guest; may repeat")
	flags.StringVar(&f.serial, "serial", "", "wait for a text at its serial port: a `REGEXP`")
	flags.BoolVar(&f.screen, "screen", false, "wait for a screen that shows something, and comes to rest")
	flags.StringArrayVar(&f.probe, "probe", nil, "`PROGRAM` on this machine, and its arguments, that says whether all is well; may repeat")
	flags.StringArrayVar(&f.inGuest, "in-guest", nil, "`PROGRAM` in the guest, and its arguments; may repeat")
	flags.DurationVar(&f.within, "within", 5*time.Minute, "how long it may take")
	flags.StringVar(&f.memory, "memory", "", "`SIZE` of its memory, such as 4GiB (default: as recorded, else 2GiB)")
	flags.IntVar(&f.CPUs, "cpus", 0, "its processors (default: as recorded, at most 4, else 2)")
	flags.StringVar(&f.Firmware, "firmware", "", "bios or efi (default: as recorded, else bios)")
	flags.StringVar(&f.Bus, "bus", "", "of its disks: virtio or sata")
	flags.StringVar(&f.Accel, "accel", "", "kvm or tcg, which emulates (default: kvm where this machine has it)")
	flags.StringVar(&f.QEMU, "qemu", "", "`PROGRAM` to start it by (default: qemu-system-x86_64)")
	flags.StringVar(&f.picture, "picture", "", "write its screen, as it was at the end, to `FILE` as PNG")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.bootcheck(ctx, f, args[0]) })
	return cmd
}

// bootStarter starts machines on this one.
type bootStarter struct{ kvm.BootOptions }

func (s bootStarter) Start(ctx context.Context, backend pipe.Backend, point pipe.PointInfo, opts *bootcheck.StartOptions) (bootcheck.Machine, error) {
	o := s.BootOptions
	o.Ports, o.Journal = opts.Ports, opts.Journal
	b, err := kvm.Boot(ctx, backend, point, &o)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (t *tool) bootcheck(ctx context.Context, f *bootFlags, spec string) (left *reply, err error) {
	opts := &bootcheck.Options{Agent: f.agent, Ports: f.ports, Screen: f.screen, Probe: f.probe, InGuest: f.inGuest, Within: f.within}
	if f.serial != "" {
		if opts.Serial, err = regexp.Compile(f.serial); err != nil {
			return nil, outcome.Usage("The syntax is that of Go's package regexp.", "--serial: %v", err)
		}
	}
	if !f.agent && !f.screen && opts.Serial == nil && len(f.ports) == 0 && len(f.inGuest) == 0 {
		return nil, outcome.Usage("Give --agent, --port, --serial or --screen.", "nothing is waited for")
	}
	if f.memory != "" {
		n, err := parseSize(f.memory)
		if err != nil {
			return nil, outcome.Usage("For instance --memory 4GiB.", "--memory: %v", err)
		}
		f.MemoryMB = n >> 20
	}
	r, err := t.open(ctx, f.access, false) // a lease keeps the point while it runs
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := r.readable(); err != nil {
		return nil, err
	}
	point, err := findPoint(ctx, r, f.repo, spec)
	if err != nil {
		return nil, err
	}
	if f.Config, err = job.PointConfig(ctx, r, point); err != nil {
		return nil, err
	}
	f.Facts = point.Facts
	journal, err := t.journal(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	if opts.Sessions, err = t.sessions(); err != nil {
		return nil, err
	}
	opts.Journal = journal
	res, err := bootcheck.Run(ctx, bootStarter{f.BootOptions}, r, point, opts)
	left = &reply{doc: res, warnings: res.Warnings, text: func(w *show.Printer) error { return showBoot(w, &res) }}
	if f.picture != "" && len(res.Screen) > 0 {
		err = errors.Join(err, os.WriteFile(f.picture, res.Screen, 0o644))
	}
	if err != nil && len(res.Checks) == 0 {
		return nil, &outcome.Error{Object: point.ID, Err: err}
	}
	return left, err
}

func showBoot(w *show.Printer, res *job.BootResult) error {
	word := "boots"
	if !res.Passed {
		word = "does not pass"
	}
	if err := w.Printf("point %s of %s %s\n", res.Point, res.VM, word); err != nil {
		return err
	}
	for _, m := range res.Mapping {
		if err := w.Printf("  %s\n", m); err != nil {
			return err
		}
	}
	for _, c := range res.Checks {
		mark := "passed"
		if !c.Passed {
			mark = "FAILED"
		}
		line := fmt.Sprintf("  %-10s %s after %.1f s", c.Name, mark, c.Seconds)
		if c.Detail != "" {
			line += ": " + c.Detail
		}
		if err := w.Printf("%s\n", line); err != nil {
			return err
		}
	}
	return nil
}
