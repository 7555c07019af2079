package vmware

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// staged is a task whose state the test sets.
func staged(t *testing.T, f *front, info types.TaskInfo) types.ManagedObjectReference {
	t.Helper()
	ref := types.ManagedObjectReference{Type: "Task", Value: fmt.Sprintf("task-%s-%d", t.Name(), time.Now().UnixNano())}
	task := &stagedTask{Task: simulator.Task{}}
	task.Self = ref
	info.Task, info.Key = ref, ref.Value
	task.Info = info
	f.model.Map().Put(task)
	return ref
}

type stagedTask struct{ simulator.Task }

func (f *front) stage(ref types.ManagedObjectReference, change func(info *types.TaskInfo)) {
	f.model.Map().WithLock(f.model.Service.Context, ref, func() { change(&f.model.Map().Get(ref).(*stagedTask).Info) })
}

func TestWait(t *testing.T) {
	f := newFront(t, small())
	c := f.connect(t, ConnectOptions{})
	vm := c.someVM(t)

	res, err := methods.CreateSnapshot_Task(t.Context(), c.Vim(), &types.CreateSnapshot_Task{This: vm, Name: "one"})
	require.NoError(t, err)
	info, err := c.Wait(t.Context(), res.Returnval)
	require.NoError(t, err)
	assert.IsType(t, types.ManagedObjectReference{}, info.Result)

	ref := staged(t, f, types.TaskInfo{State: types.TaskInfoStateError, Name: "CreateSnapshot_Task", EntityName: "web1",
		Error: &types.LocalizedMethodFault{Fault: &types.ApplicationQuiesceFault{}, LocalizedMessage: "writers failed"}})
	info, err = c.Wait(t.Context(), ref)
	var failed *TaskError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, ref, failed.Task)
	assert.Equal(t, "CreateSnapshot_Task of web1: writers failed (ApplicationQuiesceFault)", err.Error())
	assert.True(t, IsFault[*types.ApplicationQuiesceFault](err))
	assert.NotNil(t, info)

	_, err = c.Wait(t.Context(), staged(t, f, types.TaskInfo{State: types.TaskInfoStateError}))
	require.ErrorContains(t, err, "without a word")

	var lost *TaskLostError
	_, err = c.Wait(t.Context(), types.ManagedObjectReference{Type: "Task", Value: "task-none"})
	require.ErrorAs(t, err, &lost)
}

// The wait goes on over a session that is lost and a server that is not there for a while.
func TestWaitOutlives(t *testing.T) {
	f := newFront(t, small())
	c := f.connect(t, ConnectOptions{})
	ref := staged(t, f, types.TaskInfo{State: types.TaskInfoStateRunning})
	done := make(chan error, 1)
	go func() {
		_, err := c.Wait(context.Background(), ref)
		done <- err
	}()
	time.Sleep(30 * time.Millisecond)
	f.forget(t, c)
	time.Sleep(30 * time.Millisecond)
	f.on(func(w http.ResponseWriter, call string, nth int) bool {
		away := call == "RetrievePropertiesEx" && nth < 4
		if away {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return away
	})
	require.Eventually(t, func() bool { return f.count("RetrievePropertiesEx") > 5 }, 20*time.Second, time.Millisecond)
	select {
	case err := <-done:
		require.Failf(t, "it is not over", "%v", err)
	default:
	}
	f.stage(ref, func(info *types.TaskInfo) { info.State = types.TaskInfoStateSuccess })
	require.NoError(t, <-done)
}

func TestWaitInterrupted(t *testing.T) {
	f := newFront(t, small())
	c := f.connect(t, ConnectOptions{})
	soon := func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(t.Context(), 50*time.Millisecond)
	}
	var cut *InterruptedError

	// It cannot be cancelled, and goes on.
	ctx, cancel := soon()
	defer cancel()
	ref := staged(t, f, types.TaskInfo{State: types.TaskInfoStateRunning, Name: "RemoveSnapshot_Task"})
	f.on(nil)
	info, err := c.Wait(ctx, ref)
	require.ErrorAs(t, err, &cut)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, types.TaskInfoStateRunning, cut.State)
	assert.ErrorContains(t, err, "RemoveSnapshot_Task ("+ref.Value+")")
	assert.ErrorContains(t, err, "goes on at the server: it cannot be cancelled")
	assert.NotNil(t, info)
	assert.Zero(t, f.count("CancelTask"))

	// It can.
	ctx, cancel = soon()
	defer cancel()
	ref = staged(t, f, types.TaskInfo{State: types.TaskInfoStateRunning, Name: "CloneVM_Task", Cancelable: true})
	f.on(func(w http.ResponseWriter, call string, _ int) bool {
		if call == "CancelTask" {
			f.stage(ref, func(info *types.TaskInfo) {
				info.State, info.Cancelled = types.TaskInfoStateError, true
				info.Error = &types.LocalizedMethodFault{Fault: &types.RequestCanceled{}, LocalizedMessage: "cancelled"}
			})
			fmt.Fprint(w, answerTo("CancelTask"))
			return true
		}
		return false
	})
	_, err = c.Wait(ctx, ref)
	require.ErrorAs(t, err, &cut)
	assert.Equal(t, types.TaskInfoStateError, cut.State)
	assert.ErrorContains(t, err, "was cancelled")
	assert.True(t, IsFault[*types.RequestCanceled](err))

	// It was done in the meantime, and its result is not lost.
	ctx, cancel = soon()
	defer cancel()
	ref = staged(t, f, types.TaskInfo{State: types.TaskInfoStateRunning, Name: "CreateSnapshot_Task", Cancelable: true})
	f.on(func(w http.ResponseWriter, call string, _ int) bool {
		if call == "CancelTask" {
			f.stage(ref, func(info *types.TaskInfo) {
				info.State, info.Result = types.TaskInfoStateSuccess, refTo("VirtualMachineSnapshot", "snapshot-9")
			})
			fmt.Fprint(w, answerTo("CancelTask"))
			return true
		}
		return false
	})
	info, err = c.Wait(ctx, ref)
	require.ErrorAs(t, err, &cut)
	assert.Equal(t, types.TaskInfoStateSuccess, cut.State)
	assert.ErrorContains(t, err, "was done all the same")
	assert.Equal(t, refTo("VirtualMachineSnapshot", "snapshot-9"), info.Result)

	// Our own patience has an end too, and cancels nothing.
	c.opts.TaskTimeout = 50 * time.Millisecond
	f.on(nil)
	_, err = c.Wait(t.Context(), staged(t, f, types.TaskInfo{State: types.TaskInfoStateQueued, Cancelable: true}))
	require.ErrorAs(t, err, &cut)
	assert.ErrorContains(t, err, "longer than 50ms")
	assert.Zero(t, f.count("CancelTask"))
	c.opts.TaskTimeout = time.Hour
}

func answerTo(call string) string {
	return strings.ReplaceAll(`<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>`+
		`<CALLResponse xmlns="urn:vim25"></CALLResponse></soapenv:Body></soapenv:Envelope>`, "CALL", call)
}
