package vss

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Libraries come from the system folder alone: one that lies beside the program must not be loaded by what runs as
// LocalSystem.
var (
	ole32    = windows.NewLazySystemDLL("ole32.dll")
	oleaut32 = windows.NewLazySystemDLL("oleaut32.dll")
	vssapi   = windows.NewLazySystemDLL("vssapi.dll")

	procCoInitializeEx       = ole32.NewProc("CoInitializeEx")
	procCoUninitialize       = ole32.NewProc("CoUninitialize")
	procCoInitializeSecurity = ole32.NewProc("CoInitializeSecurity")
	procSysFreeString        = oleaut32.NewProc("SysFreeString")
	procSysStringLen         = oleaut32.NewProc("SysStringLen")
	procCreate               = vssapi.NewProc("CreateVssBackupComponentsInternal")
	procFreeProperties       = vssapi.NewProc("VssFreeSnapshotPropertiesInternal")
)

// thread is an operating system thread in COM's multi-threaded apartment. Calls are made in it one after the other. One
// that does not come back is given up together with the thread; the program stays alive.
type thread struct {
	jobs  chan func()
	stuck atomic.Bool
}

// newThread starts a thread and sets COM up in it.
func newThread(ctx context.Context) (*thread, error) {
	t := &thread{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for job := range t.jobs {
			job()
		}
	}()
	err := t.do(ctx, initialize)
	if err != nil {
		close(t.jobs)
		return nil, err
	}
	return t, nil
}

// do makes a call in the thread. The context is the call's own business; stuckAfter its end the call is given up.
func (t *thread) do(ctx context.Context, f func() error) error {
	if t.stuck.Load() {
		return ErrStuck
	}
	done := make(chan error, 1)
	t.jobs <- func() { done <- f() }
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace := time.NewTimer(stuckAfter)
	defer grace.Stop()
	select {
	case err := <-done:
		return err
	case <-grace.C:
		t.stuck.Store(true)
		return fmt.Errorf("%w: %w", ErrStuck, context.Cause(ctx))
	}
}

// close ends the thread. A stuck one ends when its call does.
func (t *thread) close(ctx context.Context) {
	t.do(ctx, func() error { procCoUninitialize.Call(); return nil })
	close(t.jobs)
}

const (
	coinitMultithreaded  = 0
	authnPacketPrivacy   = 6
	impersonate          = 3
	capDynamicCloaking   = 0x40
	capDisableActivateAs = 0x1000 // no activation under the caller's identity
	capNoCustomMarshal   = 0x2000
)

// callers are who may call us back: writers run as services. Without them a writer's answer is refused (event 8194).
const callers = "O:BAG:BAD:(A;;0x3;;;SY)(A;;0x3;;;BA)(A;;0x3;;;BO)(A;;0x3;;;LS)(A;;0x3;;;NS)"

// initialize sets COM up: in each thread, and once in the process who may call back.
func initialize() error {
	r, _, _ := procCoInitializeEx.Call(0, coinitMultithreaded)
	if hr := HResult(uint32(r)); hr.Failed() && hr != eChangedMode {
		return &Error{Op: "CoInitializeEx", Code: hr}
	}
	relative, err := windows.SecurityDescriptorFromString(callers)
	if err != nil {
		return fmt.Errorf("who may call back: %w", err)
	}
	sd, err := relative.ToAbsolute()
	if err != nil {
		return fmt.Errorf("who may call back: %w", err)
	}
	all := ^uintptr(0)
	r, _, _ = procCoInitializeSecurity.Call(uintptr(unsafe.Pointer(sd)), all, 0, 0, authnPacketPrivacy, impersonate, 0,
		capDynamicCloaking|capDisableActivateAs|capNoCustomMarshal, 0)
	runtime.KeepAlive(sd)
	if hr := HResult(uint32(r)); hr.Failed() && hr != eTooLate {
		return &Error{Op: "CoInitializeSecurity", Code: hr}
	}
	return nil
}
