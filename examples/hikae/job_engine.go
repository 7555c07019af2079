package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job/engine"
	"github.com/hikae/hikae/job/hooks"
)

// options are how the VMs are run as the file has it.
func (r *jobRun) options(ctx context.Context) *engine.Options {
	f := r.file
	o := &engine.Options{Claims: r.claims, Progress: r.progress, Run: r.id, Control: &r.control, Limits: f.Limits.Of(), Events: func(e engine.Event) { r.event(ctx, e) },
		Retry: engine.Retry{Attempts: f.Retry.Attempts, First: time.Duration(f.Retry.First), Most: time.Duration(f.Retry.Most), Permanent: permanent}}
	if f.Limits.Tasks == 0 {
		o.Limits["tasks"] = defaultTasks
	}
	if f.Limits.Shared {
		o.Shared = r.claims
	}
	for url, n := range f.Limits.Repositories {
		o.Limits["repository/"+outcome.Redact(url)] = n
	}
	if !f.Opening().Always() {
		o.Window, o.StopAtClose = f.Opening().At, f.Window.AtClose == "stop"
	}
	return o
}

// event tells people what happens, and calls the hooks of a VM that is done, beside the others that are at work.
func (r *jobRun) event(ctx context.Context, e engine.Event) {
	switch e.What {
	case engine.Begun:
		r.t.tell("%s: begun%s", e.VM, again(e.Attempt))
	case engine.Retried:
		r.t.tell("%s: %s; tried again in %s", e.VM, firstLineOf(e.Err), show.Seconds(e.Wait.Seconds()))
	case engine.Rested:
		r.t.tell("%s: several VMs failed there (%s): its VMs wait %s", e.Needs, firstLineOf(e.Err), show.Seconds(e.Wait.Seconds()))
	case engine.Waiting: // one for each resource: the others behind it wait for the same
		if !r.waiting[e.Needs] {
			r.waiting[e.Needs] = true
			by := ""
			if busy, ok := errors.AsType[*hikae.BusyError](e.Err); ok {
				by = " (" + busy.Owner + ")"
			}
			r.t.tell("%s: waits for %s, as do others that need it%s", e.VM, e.Needs, by)
		}
	case engine.Ended:
		r.ended(ctx, e.Result)
	default:
		r.held(e, "the VMs that were left")
	}
}

// held tells what holds up the run: a window that is closed, or a pause. It stands in the notes too, so that the report says why it took so long.
func (r *jobRun) held(e engine.Event, what string) {
	text, now := "", time.Now().Format("15:04:05 MST")
	switch e.What {
	case engine.Closed:
		until := ""
		if !e.Until.IsZero() {
			until = e.Until.Format("Mon 2006-01-02 15:04 MST")
			text, until = " until "+until, ", and opens "+until
		}
		text = fmt.Sprintf("the window was closed at %s: %s waited for it%s", now, what, text)
		r.t.tell("the window is closed%s: what waits is not begun", until)
	case engine.Paused:
		text = fmt.Sprintf("the run was paused at %s: %s waited", now, what)
		r.t.tell("paused: what runs goes on, and nothing is begun until SIGUSR2")
	case engine.Resumed:
		text = "it went on at " + now
		r.t.tell("it goes on")
	default:
		return
	}
	r.doc.Notes = append(r.doc.Notes, text)
}

// stepEvent tells people what happens after the VMs.
func (r *jobRun) stepEvent(e engine.Event) {
	if e.What == engine.Begun {
		r.t.tell("%s: begun", e.VM)
	}
	r.held(e, "what comes after the VMs")
}

func again(attempt int) string {
	if attempt < 2 {
		return ""
	}
	return fmt.Sprintf(" again, try %d", attempt)
}

// firstLineOf is an error on one line that is not too long for a log.
func firstLineOf(err error) string {
	p := outcome.Of(err)
	return p.Message[:min(len(p.Message), 300)]
}

func (r *jobRun) ended(ctx context.Context, done *engine.TaskResult) {
	if done.Earlier {
		return
	}
	r.t.tell("%s: %s in %s", done.VM, done.State, show.Seconds(done.Seconds))
	c := hooks.Call{Hook: hooks.AfterVM, VM: done.VM, State: string(done.State), Point: done.Point, Warnings: done.Warnings, Seconds: done.Seconds}
	if done.Err != nil {
		c.Error = done.Err.Error()
	}
	r.telling.Go(func() { r.hooks.after(ctx, c) })
}
