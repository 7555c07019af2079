package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/job/hooks"
	"github.com/hikae/hikae/job/jobfile"
)

// errHookStops is a hook's failure for which the file says that the work is not begun.
var errHookStops = errors.New("a hook that is to stop the work failed")

// jobHooks are the hooks of a run, and what became of those that were called.
type jobHooks struct {
	t    *tool
	list []jobfile.Hook
	call hooks.Call // what all calls have in common

	mu   sync.Mutex
	said []hooks.Record
}

// afterDeadline bounds a hook after a run that was cancelled: somebody waits for the end.
const afterDeadline = 20 * time.Second

// before calls the hooks of a moment before the work. An error wraps errHookStops.
func (h *jobHooks) before(ctx context.Context, when hooks.When, vm string) error {
	call := h.call
	call.Hook, call.VM, call.Time = when, vm, time.Now()
	for i := range h.list {
		one := &h.list[i]
		if one.When != string(when) {
			continue
		}
		if err := h.one(ctx, one, call); err != nil && one.OnFailure == "stop" {
			return errors.Join(errHookStops, err)
		}
	}
	return nil
}

// after calls the hooks of a moment after the work. What fails is a warning. It is called also where ctx was cancelled.
func (h *jobHooks) after(ctx context.Context, call hooks.Call) {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), afterDeadline)
		defer cancel()
	}
	call.Job, call.Run, call.Time = h.call.Job, h.call.Run, time.Now()
	for i := range h.list {
		one := &h.list[i]
		if one.When == string(call.Hook) && (len(one.If) == 0 || slices.Contains(one.If, call.State)) {
			_ = h.one(ctx, one, call) // it stands in the records
		}
	}
}

func (h *jobHooks) one(ctx context.Context, hook *jobfile.Hook, call hooks.Call) error {
	record, err := h.run(ctx, hook, call)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.said) < maxHookRecords {
		h.said = append(h.said, record)
	}
	return err
}

// maxHookRecords bounds what a report has of hooks.
const maxHookRecords = 10_000

func (h *jobHooks) run(ctx context.Context, hook *jobfile.Hook, call hooks.Call) (hooks.Record, error) {
	if hook.URL == "" {
		s := hooks.Script{Argv: hook.Run, Env: hook.Env, Deadline: time.Duration(hook.Deadline)}
		return s.Run(ctx, call)
	}
	secret, err := h.t.secretFrom(hook.SecretFile, hook.SecretEnv)
	if err != nil {
		return hooks.Record{Hook: call.Hook, VM: call.VM, What: addressOf(hook.URL), Error: err.Error()}, err
	}
	w := hooks.Webhook{URL: hook.URL, Secret: []byte(secret), Plain: hook.Plain, Deadline: time.Duration(hook.Deadline)}
	return w.Send(ctx, call)
}

// records are what became of the hooks so far.
func (h *jobHooks) records() []hooks.Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]hooks.Record{}, h.said...)
}
