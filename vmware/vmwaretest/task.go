package vmwaretest

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// job is a task of the server. It outlives the session that asked for it, and its machine's properties can be read meanwhile.
type job struct {
	s      *Server
	task   *simulator.Task
	ctx    *simulator.Context
	cancel chan struct{} // nil: it cannot be cancelled
	fault  *Fault
	done   func() // gives back what was taken for the task, whether its work was done or not; nil: nothing was
}

type work func(*job) (types.AnyType, types.BaseMethodFault)

// start runs work as a task on an object.
func (s *Server) start(ctx *simulator.Context, on types.ManagedObjectReference, name string, cancelable bool, do work) types.ManagedObjectReference {
	return s.startHolding(ctx, on, name, cancelable, nil, do)
}

// startHolding is start for work on what was taken before, and is given back by done before the task's end is told.
func (s *Server) startHolding(ctx *simulator.Context, on types.ManagedObjectReference, name string, cancelable bool, done func(), do work) types.ManagedObjectReference {
	t := simulator.CreateTask(on, name+"Task", nil)
	s.mu.Lock()
	s.nextTask++
	t.Self = types.ManagedObjectReference{Type: "Task", Value: fmt.Sprintf("task-%d", 100_000+s.nextTask)}
	s.mu.Unlock()
	t.Info.Key, t.Info.Task, t.Info.Cancelable = t.Self.Value, t.Self, cancelable
	if ctx.Session != nil {
		t.Info.Reason = &types.TaskReasonUser{UserName: ctx.Session.UserName}
	}
	now := time.Now()
	t.Info.StartTime, t.Info.State = &now, types.TaskInfoStateRunning
	j := &job{s: s, task: t, ctx: s.context(), fault: faultOf(ctx), done: done}
	if cancelable {
		j.cancel = make(chan struct{})
	}
	ref := t.Self
	s.mu.Lock()
	s.jobs[ref] = j
	s.mu.Unlock()
	s.reg.WithLock(ctx, on, func() { s.reg.Put(t) }) // the task is put among the object's recent ones, which others read meanwhile
	s.tasks.Go(func() { j.run(do) })
	return ref
}

func (j *job) run(do work) {
	res, f := j.attempt(do)
	if j.done != nil {
		j.done()
	}
	j.s.mu.Lock()
	delete(j.s.jobs, j.task.Self)
	j.s.mu.Unlock()
	changes := []types.PropertyChange{{Name: "info.completeTime", Val: time.Now()}, {Name: "info.state", Val: types.TaskInfoStateSuccess}}
	if f != nil {
		changes[1].Val = types.TaskInfoStateError
		changes = append(changes, types.PropertyChange{Name: "info.error", Val: types.LocalizedMethodFault{Fault: f, LocalizedMessage: faultName(f)}})
	} else if res != nil {
		changes = append(changes, types.PropertyChange{Name: "info.result", Val: res})
	}
	j.s.reg.AtomicUpdate(j.ctx, j.task, changes)
}

// attempt does the work, with the fault that was asked for before it, after it, or instead of it.
func (j *job) attempt(do work) (types.AnyType, types.BaseMethodFault) {
	if j.fault == nil {
		return do(j)
	}
	if !j.wait(j.fault.Delay) {
		return nil, &types.RequestCanceled{}
	}
	switch {
	case j.fault.Fault == nil || j.fault.Halfway:
		return do(j)
	case j.fault.After:
		if res, f := do(j); f != nil {
			return res, f
		}
	}
	return nil, j.fault.Fault
}

// wait lets time pass. It is false where the task was cancelled, or the server ends.
func (j *job) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-j.cancel:
	case <-j.s.stopping:
	}
	return false
}

// broken is the fault that shall leave a removal halfway, or nil.
func (j *job) broken() types.BaseMethodFault {
	if j.fault == nil || !j.fault.Halfway {
		return nil
	}
	return j.fault.Fault
}

// taskCalls are the calls on tasks.
type taskCalls struct{ overlaid }

// CancelTask stops a task that can be stopped.
func (c *taskCalls) CancelTask(_ *simulator.Context, req *types.CancelTask) soap.HasFault {
	body := &methods.CancelTaskBody{}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	j := c.s.jobs[req.This]
	switch {
	case j == nil:
		body.Fault_ = simulator.Fault("the task is over", &types.InvalidState{})
	case j.cancel == nil:
		body.Fault_ = simulator.Fault("the task cannot be cancelled", &types.NotSupported{})
	default:
		select {
		case <-j.cancel:
		default:
			close(j.cancel)
		}
		body.Res = &types.CancelTaskResponse{}
	}
	return body
}

// errUnsettled says that the simulator did not end a task of its own.
var errUnsettled = errors.New("the simulator's task does not end")

// settled waits for a task of the simulator's own.
func (s *Server) settled(ref types.ManagedObjectReference) (*types.TaskInfo, error) {
	deadline := time.Now().Add(30 * time.Second)
	for ctx := s.context(); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
		t, ok := s.reg.Get(ref).(*simulator.Task)
		if !ok {
			return nil, fmt.Errorf("%s: %w", ref.Value, errUnsettled)
		}
		var info types.TaskInfo
		ctx.WithLock(t, func() { info = t.Info })
		switch {
		case info.State == types.TaskInfoStateSuccess:
			return &info, nil
		case info.State == types.TaskInfoStateError && info.Error != nil:
			return &info, faultError(info.Error.Fault)
		}
	}
	return nil, fmt.Errorf("%s: %w", ref.Value, errUnsettled)
}

// faultName is a fault's type.
func faultName(f types.BaseMethodFault) string { return reflect.TypeOf(f).Elem().Name() }
