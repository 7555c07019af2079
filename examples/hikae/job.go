package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job/jobfile"
)

func (t *tool) jobCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "job", Short: "Protect many VMs as a file says: backups, retention, copies, checks, notifications", Args: want()}
	cmd.RunE = func(*cobra.Command, []string) error { return errors.New("what to do is missing: run or plan") }
	cmd.AddCommand(t.jobRunCommand(), t.jobPlanCommand())
	return cmd
}

// jobFlags are what of a job is done, and when.
type jobFlags struct {
	only   []string
	follow bool
	now    bool
	beside queueFlags // of a fleet; without an address: none
}

func (t *tool) jobRunCommand() *cobra.Command {
	f := &jobFlags{}
	cmd := &cobra.Command{
		Use:   "run FILE [--only VM]… [--follow]",
		Short: "Run a job, now or by its schedule",
		Long: text(`
Do what the job file says: back up its VMs, as many at once as it allows; then copy, replicate, forget, check and tell as it says. One VM
that fails does not keep the others from their points; it is tried again, and in the end the command ends with 1. docs/jobs.md
describes the file.

Without more the job runs at once and the command ends with it. --follow stays in the foreground and runs the job by its schedule,
until SIGTERM (exit status 0) or Ctrl-C (130): this is what a service does. A run that was missed is made up for as the file says,
and one that was ended is gone on with at the next start. --now with --follow runs it once at the beginning, too.

Where the file has a window, nothing is started outside of it: what is due waits until it opens.

VM in --only is a name, or a pattern with * ? [a-z]. Retention, copies and checks are then for these VMs alone.

With --queue the job keeps apart from the workers of a fleet (hikae fleet, hikae worker): a VM that one of them is at is busy, and theirs
waits while this job is at it.`),
		Example: example(`
hikae job run nightly.yaml
hikae job run nightly.yaml --only 'web*' --json
hikae job run nightly.yaml --follow`),
		Args: want("FILE"),
	}
	cmd.Flags().StringArrayVar(&f.only, "only", nil, "only the `VM`s of this name or pattern; may repeat")
	cmd.Flags().BoolVar(&f.follow, "follow", false, "stay, and run the job by its schedule")
	cmd.Flags().BoolVar(&f.now, "now", false, "run it at once; with --follow besides the schedule")
	f.beside.flags(cmd)
	cmd.MarkFlagsRequiredTogether("queue", "credentials-file")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		file, err := readJob(t, args[0])
		if err != nil {
			return nil, err
		}
		if f.follow {
			return t.jobFollow(ctx, f, file)
		}
		return t.jobRunOnce(ctx, f, file)
	})
	return cmd
}

func (t *tool) jobPlanCommand() *cobra.Command {
	f := &jobFlags{}
	cmd := &cobra.Command{
		Use:   "plan FILE [--only VM]…",
		Short: "Say what a job would do, and change nothing",
		Long: text(`
Read the job file, find its VMs and what their next points would be built on, and say what a run would do and when. Nothing is
changed anywhere: no VM is touched, no program of a hook is run, nobody is told. A VM that would fail for a reason that is known
now ends the command with exit status 1.`),
		Example: example(`
hikae job plan nightly.yaml
hikae job plan nightly.yaml --json`),
		Args: want("FILE"),
	}
	cmd.Flags().StringArrayVar(&f.only, "only", nil, "only the `VM`s of this name or pattern; may repeat")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		file, err := readJob(t, args[0])
		if err != nil {
			return nil, err
		}
		return t.jobPlan(ctx, f, file)
	})
	return cmd
}

// readJob reads a job file. Its mistakes are told line by line on stderr.
func readJob(t *tool, path string) (*jobfile.File, error) {
	file, err := jobfile.Read(path)
	bad, ok := errors.AsType[*jobfile.Error](err)
	switch {
	case err == nil:
		return file, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, outcome.Usage("Check the path; docs/jobs.md has a file to begin with.", "there is no job file %s", path)
	case !ok:
		return nil, &outcome.Error{Object: path, Text: "job file", Err: err, Hint: "Check the path; docs/jobs.md has a file to begin with."}
	case len(bad.Problems) == 1:
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: path, Text: bad.Error(), Hint: "docs/jobs.md describes the file."}
	}
	for _, p := range bad.Problems {
		one := &jobfile.Error{File: bad.File, Problems: []jobfile.Problem{p}}
		fmt.Fprintln(t.stderr, outcome.Clean(one.Error()))
	}
	text := fmt.Sprintf("%s has %d mistakes", path, len(bad.Problems))
	if t.json {
		text += ": " + bad.Error()
	}
	return nil, &outcome.Error{Kind: outcome.KindUsage, Object: path, Text: text, Hint: "docs/jobs.md describes the file."}
}
