package vmware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	pollFirst   = 20 * time.Millisecond
	pollMost    = 5 * time.Second
	awayTimeout = time.Hour        // that a server may be away while its task goes on
	cancelCall  = 15 * time.Second // for asking the server to cancel
	cancelWait  = 30 * time.Second // until a task that was cancelled has ended
)

// TaskLostError says that the server no longer knows a task: it was restarted, or the task ended long ago. How the task went
// is to be seen from the objects alone.
type TaskLostError struct {
	Task types.ManagedObjectReference
	Err  error
}

func (e *TaskLostError) Error() string {
	return fmt.Sprintf("the server no longer knows %s; how it went is not known: %v", e.Task.Value, e.Err)
}

func (e *TaskLostError) Unwrap() error { return e.Err }

// InterruptedError says what became of a task that nobody waits for any more.
type InterruptedError struct {
	Task types.ManagedObjectReference
	Name string
	// State is success where it was done all the same, error where it was cancelled or failed, running or queued where it
	// goes on at the server, and empty where the server did not say.
	State types.TaskInfoState
	// Why is empty or why it goes on: it cannot be cancelled, or was not in time.
	Why string
	Err error // why nobody waits: the context's end, or the end of TaskTimeout
}

func (e *InterruptedError) Error() string {
	what := "goes on at the server"
	switch e.State {
	case types.TaskInfoStateSuccess:
		what = "was done all the same"
	case types.TaskInfoStateError:
		what = "was cancelled"
	case "":
		what = "may go on at the server"
	}
	if e.Why != "" {
		what += ": " + e.Why
	}
	return fmt.Sprintf("%s (%s): %v; it %s", e.Name, e.Task.Value, e.Err, what)
}

func (e *InterruptedError) Unwrap() error { return e.Err }

// wait asks again and again, each time a little later: a tenth longer than the task took so far, at most. A filter of the
// property collector would tell at once, but belongs to a session and is lost with it.
func (c *Client) wait(ctx context.Context, task types.ManagedObjectReference) (*types.TaskInfo, error) {
	limited, cancel := context.WithTimeout(ctx, c.opts.TaskTimeout)
	defer cancel()
	info, err := c.poll(limited, task)
	switch {
	case ctx.Err() != nil && !isOver(info):
		return c.cancelTask(ctx, task, info)
	case limited.Err() != nil && !isOver(info):
		return info, interrupted(task, info, "", fmt.Errorf("it took longer than %v: %w", c.opts.TaskTimeout, context.DeadlineExceeded))
	case err != nil:
		return info, err
	}
	return info, taskError(info)
}

// poll returns when the task is over, with what is last known of it else.
func (c *Client) poll(ctx context.Context, task types.ManagedObjectReference) (last *types.TaskInfo, err error) {
	began := time.Now()
	var gone time.Time // since when the server is away
	for {
		info, err := c.taskInfo(ctx, task)
		switch {
		case err == nil && isOver(info):
			return info, nil
		case err == nil:
			last, gone = info, time.Time{}
		case ctx.Err() != nil:
			return last, ctx.Err()
		case isGone(err):
			return last, &TaskLostError{Task: task, Err: err}
		case !isAway(err):
			return last, fmt.Errorf("task %s: %w", task.Value, err)
		case gone.IsZero():
			gone = time.Now()
		case time.Since(gone) > awayTimeout:
			return last, fmt.Errorf("task %s: the server is away for %v: %w", task.Value, awayTimeout, err)
		}
		if err := sleep(ctx, min(pollMost, max(pollFirst, time.Since(began)/10))); err != nil {
			return last, err
		}
	}
}

func isOver(info *types.TaskInfo) bool {
	return info != nil && (info.State == types.TaskInfoStateSuccess || info.State == types.TaskInfoStateError)
}

func (c *Client) taskInfo(ctx context.Context, task types.ManagedObjectReference) (*types.TaskInfo, error) {
	var t mo.Task
	if err := c.properties(ctx, task, []string{"info"}, &t); err != nil {
		return nil, err
	}
	if t.Info.State == "" {
		return nil, errors.New("the server says nothing about its state")
	}
	return &t.Info, nil
}

// taskError is the fault of a task that is over.
func taskError(info *types.TaskInfo) error {
	if info.State != types.TaskInfoStateError {
		return nil
	}
	e := &TaskError{Task: info.Task, Name: taskName(info), Object: info.EntityName, Fault: &types.MethodFault{}, Text: "it failed without a word"}
	if info.Error != nil {
		e.Text = info.Error.LocalizedMessage
		if info.Error.Fault != nil {
			e.Fault = info.Error.Fault
		}
	}
	return e
}

func taskName(info *types.TaskInfo) string {
	switch {
	case info == nil:
		return "a task"
	case info.Name != "":
		return info.Name
	case info.DescriptionId != "":
		return info.DescriptionId
	}
	return "a task"
}

func interrupted(task types.ManagedObjectReference, info *types.TaskInfo, why string, err error) *InterruptedError {
	e := &InterruptedError{Task: task, Name: taskName(info), Why: why, Err: err}
	if info != nil {
		e.State = info.State
	}
	return e
}

// cancelTask asks the server to stop a task for which nobody waits any more, and says what became of it. The bound of each
// step is short: somebody wants to end.
func (c *Client) cancelTask(ctx context.Context, task types.ManagedObjectReference, last *types.TaskInfo) (*types.TaskInfo, error) {
	cause := context.Cause(ctx)
	// A look comes first: the task may be over by now, and then it is neither cancelled nor lost.
	look, end := context.WithTimeout(context.WithoutCancel(ctx), cancelCall)
	defer end()
	info, err := c.taskInfo(look, task)
	switch {
	case err != nil:
		e := interrupted(task, last, "it could not be asked for: "+err.Error(), cause)
		e.State = ""
		return last, e
	case isOver(info):
		return info, errors.Join(interrupted(task, info, "", cause), taskError(info))
	case !info.Cancelable:
		return info, interrupted(task, info, "it cannot be cancelled", cause)
	}
	if _, err := methods.CancelTask(look, c.vim, &types.CancelTask{This: task}); err != nil {
		return info, interrupted(task, info, "it was not cancelled: "+err.Error(), cause)
	}
	rest, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelWait)
	defer stop()
	if over, err := c.poll(rest, task); err == nil {
		return over, errors.Join(interrupted(task, over, "", cause), taskError(over))
	}
	return info, interrupted(task, info, fmt.Sprintf("it did not end within %v of being cancelled", cancelWait), cause)
}
