package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job/engine"
	"github.com/hikae/hikae/job/jobfile"
)

// follower runs a job by its schedule.
type follower struct {
	t     *tool
	flags *jobFlags
	file  *jobfile.File
	state string // the file with its memory
	last  memory
}

// memory is what a follower knows after a restart.
type memory struct {
	Meant time.Time `json:"meant"`          // the run that was done or begun last, by the schedule
	Open  string    `json:"open,omitempty"` // the id of a run that was not ended
}

const (
	maxMemory = 64 << 10
	// nap is the longest sleep: a clock that is set, and a machine that slept, are noticed after it.
	nap = time.Minute
)

func (t *tool) jobFollow(ctx context.Context, flags *jobFlags, file *jobfile.File) (*reply, error) {
	if len(file.Runs()) == 0 {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: file.Name, Text: "the job has no schedule to follow",
			Hint: `Add one to the file: schedule: {at: daily at 22:00}. Without --follow the job runs at once.`}
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	defer signal.Stop(terminated)
	dir, err := t.stateDir()
	if err != nil {
		return nil, err
	}
	claims, err := t.claims()
	if err != nil {
		return nil, err
	}
	own, err := claims.Claim(ctx, "job "+file.Name, "hikae job run --follow") // two would do each run twice
	if err != nil {
		return nil, &outcome.Error{Object: file.Name, Err: err, Hint: "One follower of a job is enough. Another job needs a name of its own."}
	}
	defer func() { _ = own.Release(context.WithoutCancel(ctx)) }() // it ends with the process at the latest
	f := &follower{t: t, flags: flags, file: file, state: filepath.Join(dir, "jobs", file.Name+".json")}
	if err := f.load(); err != nil {
		return nil, err
	}
	left, err := f.run(ctx)
	if ctx.Err() == nil {
		return left, err
	}
	select { // the same signal comes to us and to who ended the context
	case <-terminated:
		return left, nil
	case <-time.After(100 * time.Millisecond):
		return left, context.Cause(ctx)
	}
}

// load reads the memory. Where there is none, the past is none of our business.
func (f *follower) load() error {
	data, err := readSmall(f.state, maxMemory)
	if errors.Is(err, fs.ErrNotExist) {
		return f.save(memory{Meant: time.Now()})
	}
	if err == nil {
		err = json.Unmarshal(data, &f.last)
	}
	if err != nil {
		return &outcome.Error{Object: f.state, Text: "what is known of the job's past runs", Err: err, Hint: "Remove the file: the job then goes on from now."}
	}
	return nil
}

func (f *follower) save(m memory) error {
	f.last = m
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return replaceFile(f.state, append(data, '\n'))
}

// run goes on until the context ends, and leaves the document of the last run.
func (f *follower) run(ctx context.Context) (left *reply, err error) {
	if f.last.Open != "" {
		f.t.tell("going on with run %s", f.last.Open)
		left = f.once(ctx, f.last)
	} else if f.flags.now {
		left = f.once(ctx, memory{Meant: f.last.Meant, Open: newRunID(time.Now())})
	}
	var told time.Time
	for ctx.Err() == nil {
		now := time.Now()
		if at, due := f.file.Runs().Due(f.last.Meant, now, max(time.Duration(f.file.Schedule.CatchUp), 2*nap)); due {
			if late := now.Sub(at); late > 2*nap {
				f.t.tell("the run of %s was missed, and is made up for", at.Format(time.RFC3339))
			}
			left = f.once(ctx, memory{Meant: at, Open: newRunID(now)})
			continue
		}
		next, ok := f.file.Runs().Next(now)
		if !ok {
			return left, fmt.Errorf("the schedule of %s never comes again", f.file.Name)
		}
		if !next.Equal(told) {
			f.t.tell("next run: %s", next.Format("Mon 2006-01-02 15:04 MST"))
			told = next
		}
		f.sleep(ctx, next)
	}
	return left, nil
}

// sleep waits until a time, or a part of the way there.
func (f *follower) sleep(ctx context.Context, until time.Time) {
	timer := time.NewTimer(min(max(time.Until(until), time.Millisecond), nap))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// once is one run. What goes wrong is told, and the next run has its turn.
func (f *follower) once(ctx context.Context, m memory) *reply {
	f.warn(f.save(m))
	progress, err := engine.OpenProgress(filepath.Join(filepath.Dir(f.state), m.Open+".progress"))
	if err != nil { // points are known by their runs as well
		f.warn(err)
	}
	one := *f.t // what a run is logged in to is let go of with it
	one.ends = nil
	doc, err := one.runJob(ctx, f.flags, f.file, m.Open, progress)
	one.end()
	if ctx.Err() != nil && doc != nil && doc.State == "cancelled" {
		if progress != nil {
			f.warn(progress.Close())
		}
		f.t.tell("run %s was ended before its time: the next start goes on with it", m.Open)
		return nil
	}
	if progress != nil {
		f.warn(progress.Remove())
	}
	f.warn(f.save(memory{Meant: m.Meant}))
	f.warn(err)
	if doc == nil {
		return nil
	}
	left, _ := doc.reply(nil)
	f.t.remark(left)
	f.t.tell("run %s: %s; %d of %d VMs have a new point", doc.Run, doc.State, len(doc.VMs)-doc.failed(), len(doc.VMs))
	return &reply{doc: left.doc}
}

func (f *follower) warn(err error) {
	if err == nil {
		return
	}
	p := outcome.Of(err)
	fmt.Fprint(f.t.stderr, p.Text(f.t.printer(f.t.stderr).Red("error:")))
}
