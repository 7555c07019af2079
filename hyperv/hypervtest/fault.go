package hypervtest

import (
	"errors"
	"slices"
	"strings"
	"time"
)

// Fault is one thing that goes wrong. Exactly one of Call, Job and Event says where.
type Fault struct {
	// Call is a method's name, or Get, Put, Enumerate, Pull, Release, as a call comes in.
	Call string
	// Job is the method whose job it is.
	Job string
	// Event is something that the host does by itself:
	//
	//	freeze      the guest is quiesced; Reason is what its writers say
	//	thaw        the guest goes on
	//	checkpoint  the children of the disks are made
	//	merge       a child goes into its parent, from the second half on
	//	late        the checkpoint is in listings, and nothing of it before; with Delay
	//	changes     a list of changes is asked for; Code is what the host answers (0xC03A0030)
	//	track       a change is to be recorded: it is lost, and ids with it
	//	import      a configuration is read
	//	realize     a planned VM becomes one
	Event string
	VM    string // GUID: only for this VM. Empty: any, and all calls
	Skip  int    // so many times it goes well first
	Times int    // how often it happens then. Zero: once; below zero: always

	Failure *Failure      // of a call: what the wire answers
	Code    uint32        // of a call: its ReturnValue; of a job: its ErrorCode; of an event: an error's code
	Reason  string        // in words
	Hang    bool          // of a job or event: it does not end until [Host.Heal]
	Warn    bool          // of a job: it ends with 32768, completed with warnings
	Done    bool          // of a job: what it does is done, and then it fails
	Gone    bool          // of a job: it is done, and nothing is known of the job any more
	Delay   time.Duration // of a job or event: so much longer
	// Do is called when it happens, from no lock: of a call before it is answered, else at about the same time.
	Do func()
}

// FaultError is an error that a fault made.
type FaultError struct {
	Code   uint32
	Reason string
}

func (e *FaultError) Error() string { return e.Reason }

// fault is one and how often it happened.
type fault struct {
	Fault
	seen, done int
}

// Fail adds a fault.
func (h *Host) Fail(f Fault) {
	h.faulty.Lock()
	defer h.faulty.Unlock()
	h.faults = append(h.faults, &fault{Fault: f})
}

// Heal takes all faults away. What hangs goes on.
func (h *Host) Heal() {
	h.faulty.Lock()
	h.faults = nil
	h.faulty.Unlock()
	h.Lock()
	defer h.Unlock()
	now := time.Now()
	for _, j := range h.jobs {
		if j.hangs {
			j.hangs, j.due = false, now
		}
	}
	h.tick(now)
}

// hit finds the fault that a place has now, and counts it.
func (h *Host) hit(vm string, at func(*Fault) string, name string) *Fault {
	h.faulty.Lock()
	defer h.faulty.Unlock()
	for i, f := range h.faults {
		if w := at(&f.Fault); w == "" || !strings.EqualFold(w, name) || f.VM != "" && !strings.EqualFold(f.VM, vm) {
			continue
		}
		if f.seen++; f.seen <= f.Skip {
			continue
		}
		f.done++
		if f.Times >= 0 && f.done >= max(f.Times, 1) {
			h.faults = slices.Delete(h.faults, i, i+1)
		}
		return &f.Fault
	}
	return nil
}

func (h *Host) jobFault(vm, name string) *Fault {
	return h.hit(vm, func(f *Fault) string { return f.Job }, name)
}

func (h *Host) eventFault(vm, name string) *Fault {
	f := h.hit(vm, func(f *Fault) string { return f.Event }, name)
	if f != nil && f.Do != nil {
		h.aside.Go(f.Do)
	}
	return f
}

// err is a fault as an error; no fault is none.
func (f *Fault) err() error {
	if f == nil || f.Code == 0 && f.Reason == "" {
		return nil
	}
	e := &FaultError{Code: f.Code, Reason: f.Reason}
	if e.Reason == "" {
		e.Reason = "the operation failed"
	}
	return e
}

var errOff = errors.New("the virtual machine is not running")

// wireFault is what a fault has the wire answer to a call. It runs before the call, from no lock of the objects.
func (h *Host) wireFault(action string) *Failure {
	f := h.hit("", func(f *Fault) string {
		if f.Failure == nil && f.Code == 0 && f.Do != nil {
			return f.Call
		}
		if f.Failure != nil {
			return f.Call
		}
		return ""
	}, action)
	if f == nil {
		return nil
	}
	if f.Do != nil {
		f.Do()
	}
	return f.Failure
}

// run calls a method, unless a fault has it refused.
func (h *Host) run(c *Call, m Method) (uint32, []any) {
	vm := ""
	for _, o := range c.Refs {
		if id := h.vmOf(o); id != "" {
			vm = id
		}
	}
	f := h.hit(vm, func(f *Fault) string {
		if f.Failure == nil && f.Code != 0 {
			return f.Call
		}
		return ""
	}, c.Method)
	if f != nil {
		if f.Do != nil {
			h.aside.Go(f.Do)
		}
		return f.Code, nil
	}
	return m(c)
}

// vmOf is the VM that an object is of: the VM itself, or settings.
func (h *Host) vmOf(o *Object) string {
	if o == nil {
		return ""
	}
	for _, name := range []string{"VirtualSystemIdentifier", "Name"} {
		if v, ok := o.text(name); ok && h.guests[strings.ToLower(v)] != nil {
			return strings.ToLower(v)
		}
	}
	return ""
}
