package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/replica"
	"github.com/hikae/hikae/job/replica/kvmsite"
	kvmreplica "github.com/hikae/hikae/kvm/replica"
)

func (t *tool) replicaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replica",
		Short: "Keep copies of VMs that are ready to run, and move a VM to its copy and back",
		Long: text(`
A replica is a VM's disks as qcow2 files that QEMU opens as they are: with one file more for each point that is kept. Nothing has to
be restored before it runs. SITE is a folder on the machine that would run it, in which every VM has a folder.

  sync      a new point of a VM: read from the VM itself, only what changed, or copied from a repository
  failover  start the replica. With --planned the VM is stopped first and nothing is lost
  undo      throw away what the replica wrote, and be a replica again
  failback  stop the replica, write what it has over the original, and start that

What is under way is written down in the site before it is done. Whatever is killed in the middle: the same command again goes on, and
hikae replica list says where things stand. docs/replication.md tells the whole story.`),
		Example: example(`
hikae replica sync /srv/replicas 'kvm:///run/web1.qmp?agent=/run/web1.qga&name=web1'
hikae replica list /srv/replicas
hikae replica failover /srv/replicas web1 --planned --source 'kvm:///run/web1.qmp?name=web1' --source-start /etc/vm/start-web1 -- qemu-system-x86_64 -M q35 -accel kvm -m 2G {disks}
hikae replica failback /srv/replicas web1 --to kvm:///run/web1.qmp --source-start /etc/vm/start-web1`),
		Args: want(),
	}
	cmd.RunE = func(*cobra.Command, []string) error {
		return errors.New("what to do is missing: sync, list, failover, failback, undo, check, keep or remove")
	}
	cmd.AddCommand(t.replicaSyncCommand(), t.replicaListCommand(), t.replicaFailoverCommand(), t.replicaFailbackCommand(), t.replicaUndoCommand(),
		t.replicaCheckCommand(), t.replicaKeepCommand(), t.replicaRemoveCommand())
	return cmd
}

// bookName is the folder in a site where it is written down what is under way.
const bookName = ".procedures"

// replicaSite is an open site.
type replicaSite struct {
	*kvmsite.Site
	book     *replica.Book
	place    *opened // the site as a place of points
	journal  *hikae.FileJournal
	sessions *job.Sessions
}

// openSite opens a site. A folder is made one by a sync alone.
func (t *tool) openSite(ctx context.Context, dir string, make bool) (_ *replicaSite, err error) {
	if _, err := os.Stat(dir); err != nil && !make {
		return nil, &outcome.Error{Object: dir, Text: "replica site", Err: err, Hint: "A site is a folder that `hikae replica sync` has made."}
	}
	inner, err := kvmreplica.Open(dir, &kvmreplica.Options{Warn: func(text string) { t.tell("warning: %s", text) }})
	if errors.Is(err, fs.ErrInvalid) {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: dir, Err: err, Hint: "A site is a folder of its own: name an empty one, or one that is not there yet."}
	}
	if err != nil {
		return nil, &outcome.Error{Object: dir, Text: "replica site " + dir, Err: err}
	}
	s := &replicaSite{Site: &kvmsite.Site{Site: inner}}
	s.place = &opened{place: inner, said: &said{}, target: "replica site " + dir}
	if s.book, err = replica.OpenBook(filepath.Join(inner.Dir(), bookName)); err != nil {
		return nil, &outcome.Error{Object: dir, Text: "replica site " + dir, Err: err}
	}
	if s.sessions, err = t.sessions(); err != nil {
		return nil, err
	}
	if s.journal, err = t.journal(ctx, s.place); err != nil {
		return nil, err
	}
	s.Options.Journal = s.journal
	return s, nil
}

func (s *replicaSite) Close() error { return errors.Join(s.journal.Close(), s.place.Close()) }

// of is the replica of a VM.
func (s *replicaSite) of(t *tool, vm string, keep int) *replica.Replica {
	return replica.New(s.Site, vm, s.book, &replica.Options{Keep: keep, Step: func(name string) {
		switch name { // the others are few, and each is a moment that one would like to know of
		case "sync", "keep", "running": // the last one is the end, and told by the result
		default:
			t.tell("%s: %s", vm, name)
		}
	}})
}

// known refuses a VM that has no replica.
func (s *replicaSite) known(ctx context.Context, vm string) error {
	for _, err := range s.Points(ctx, vm) {
		if err == nil || job.IsDamaged(err) {
			return nil
		}
		return err
	}
	return &outcome.Error{Kind: outcome.KindNotFound, Object: vm, Text: fmt.Sprintf("there is no replica of %s in %s", vm, s.Dir()),
		Hint: "`hikae replica list " + s.Dir() + "` tells which there are."}
}

// replied is what a call of the procedure leaves: its result, also where it failed.
func (s *replicaSite) replied(res replica.Result, err error, more *replicaRuns) (*reply, error) {
	doc := replicaDoc{Result: res, Runs: more}
	if err != nil {
		problem := outcome.Of(s.explain(res.VM, err))
		doc.Error = &problem
	}
	left := &reply{doc: doc, warnings: res.Warnings, text: func(w *show.Printer) error { return showReplica(w, &res, more, err != nil) }}
	if len(res.Warnings) > 0 {
		left.status = outcome.Warned
	}
	if err != nil && len(res.Steps) == 0 {
		return nil, s.explain(res.VM, err)
	}
	return left, s.explain(res.VM, err)
}

// explain adds what to do next.
func (s *replicaSite) explain(vm string, err error) error {
	if err == nil {
		return nil
	}
	e := &outcome.Error{Object: vm, Text: "replica of " + vm, Err: err}
	under, running := errors.AsType[*replica.UnderWayError](err)
	two, second := errors.AsType[*replica.TwoError](err)
	_, off := errors.AsType[*replica.OffError](err)
	_, uncertain := errors.AsType[*replica.UncertainError](err)
	at, stage := errors.AsType[*replica.StageError](err)
	switch list := "`hikae replica list " + s.Dir() + "`"; {
	case running:
		e.Kind, e.Hint = outcome.KindBusy, fmt.Sprintf("Run the command of the %s again to go on with it, or `hikae replica undo %s %s` where that can be undone.", under.What, s.Dir(), vm)
	case second && two.Running:
		e.Hint = "Stop it first, or move it with --planned. --force starts the replica all the same."
	case second:
		e.Hint = "Make sure that it does not run, for instance at its host's console, and say so by --force."
	case off:
		e.Hint = fmt.Sprintf("Start the VM by hand, or by `hikae replica undo %s %s --source-start PROGRAM`.", s.Dir(), vm)
	case uncertain:
		e.Hint = "See whether the replica runs: " + list + ". Start the VM again only when it does not, after `hikae replica undo`."
	case stage && at.Op == "failback" && at.State.Stage == replica.Ready:
		e.Hint = "Nothing was failed over: what would be brought back is made by `hikae replica failover`."
	case stage:
		e.Hint = list + " tells where the replica stands."
	case errors.Is(err, fs.ErrNotExist):
		e.Hint = list + " tells what is there."
	}
	return e
}

// replicaRuns is how a replica runs: what whoever starts it needs.
type replicaRuns struct {
	Monitor string   `json:"monitor"`
	Disks   []disk   `json:"disks"`
	Options []string `json:"options"` // for QEMU
	Command []string `json:"command"` // null: nothing was started
}

type disk struct {
	Key  string `json:"key"`
	Size int64  `json:"size"`
	Path string `json:"path"`
}

type replicaDoc struct {
	replica.Result
	Runs  *replicaRuns     `json:"runs,omitempty"`
	Error *outcome.Problem `json:"error,omitempty"`
}

// runs is how the replica of a VM runs; nil: it is no matter of that.
func (s *replicaSite) runs(ctx context.Context, vm string) *replicaRuns {
	st, err := s.Site.Site.State(ctx, vm)
	if err != nil || st.Stage != kvmreplica.FailedOver {
		return nil
	}
	out := &replicaRuns{Monitor: st.Monitor, Command: st.Command, Disks: []disk{}, Options: (&kvmreplica.Failed{State: st}).Options()}
	for _, d := range st.Disks {
		out.Disks = append(out.Disks, disk(d))
	}
	return out
}

func showReplica(w *show.Printer, r *replica.Result, runs *replicaRuns, failed bool) error {
	word := r.What
	switch {
	case failed:
		return w.Printf("%s  %s, failed after %s\n", w.Bold(outcome.Clean(r.VM)), word, show.Seconds(r.Seconds))
	case r.Already:
		word += ", done before"
	}
	if err := w.Printf("%s  %s  point %s  %s\n", w.Bold(outcome.Clean(r.VM)), word, short(r.Point), show.Seconds(r.Seconds)); err != nil {
		return err
	}
	facts := []string{}
	if !r.Time.IsZero() {
		facts = append(facts, "state of", show.Time(r.Time))
	}
	if r.Age > 0 {
		facts = append(facts, "lost", "what was written in the "+show.Seconds(r.Age)+" before the failover")
	}
	if r.Down > 0 {
		facts = append(facts, "nothing ran for", show.Seconds(r.Down))
	}
	if r.Moved > 0 {
		facts = append(facts, "moved", show.Size(r.Moved))
	}
	if runs != nil {
		facts = append(facts, "monitor", runs.Monitor)
		for _, d := range runs.Disks {
			facts = append(facts, "disk "+d.Key, d.Path)
		}
		if len(runs.Command) == 0 {
			facts = append(facts, "started", "nothing, for there was no COMMAND: the files are ready, start a VM on them by", "", "qemu-system-x86_64 … "+quoted(runs.Options))
		}
	}
	return w.Facts(facts...)
}

// quoted are words as a shell takes them.
func quoted(words []string) string {
	var out []string
	for _, word := range words {
		if strings.ContainsAny(word, " \t\n'\"\\$`*?[](){}<>|&;#~!") {
			word = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
		out = append(out, word)
	}
	return strings.Join(out, " ")
}

// deadlineFlag is how long a VM may take to stop or start.
func deadlineFlag(cmd *cobra.Command, within *time.Duration) {
	cmd.Flags().DurationVar(within, "within", 5*time.Minute, "how long a VM may take to be off, or to be there")
}
