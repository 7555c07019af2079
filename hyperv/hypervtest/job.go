package hypervtest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"
)

// job is one that takes time, or something that happens later and that no job tells of.
type job struct {
	object *Object // nil: nobody is told
	due    time.Time
	end    func() error
	after  func() // once its end is told
	fault  *Fault
	vm     string // GUID of the VM that it is about; empty: none
	hangs  bool
	wake   *time.Timer
}

// stop takes its alarm away.
func (j *job) stop(h *Host) {
	if j.wake != nil && j.wake.Stop() {
		h.wakes.Done()
	}
	j.wake = nil
}

// StartJob makes a job that ends after a time by calling a function; its error fails the job.
func (h *Host) StartJob(caption string, after time.Duration, end func() error) *Object {
	return h.startJob("", "", caption, after, end, nil)
}

// startJob is StartJob of a method on a VM: faults may name it.
func (h *Host) startJob(method, vm, caption string, after time.Duration, end func() error, then func()) *Object {
	h.made++
	o := h.Add(V2, NewObject("Msvm_ConcreteJob", "InstanceID", guid("10B", h.made), "Caption", caption, "JobState", uint16(4),
		"PercentComplete", uint16(0), "ErrorCode", uint16(0), "ErrorDescription", nil, "JobStatus", "Job is running",
		"StartTime", time.Now().UTC().Truncate(time.Microsecond)))
	j := &job{object: o, end: end, after: then, vm: vm}
	if method != "" {
		j.fault = h.jobFault(vm, method)
	}
	if f := j.fault; f != nil {
		after += f.Delay
		j.hangs = f.Hang
	}
	h.await(j, after)
	return o
}

// later does something after a time, told by no job.
func (h *Host) later(after time.Duration, do func()) {
	h.await(&job{end: func() error { do(); return nil }}, after)
}

// laterOf is later of what is about a VM: as long as it is to come, the VM goes to no other host.
func (h *Host) laterOf(vm string, after time.Duration, do func()) {
	h.await(&job{vm: vm, end: func() error { do(); return nil }}, after)
}

// await has a job ended at its time, whether or not a call comes by then.
func (h *Host) await(j *job, after time.Duration) {
	j.due = time.Now().Add(after)
	h.jobs = append(h.jobs, j)
	if h.closed {
		return
	}
	h.wakes.Add(1)
	j.wake = time.AfterFunc(after, func() {
		defer h.wakes.Done()
		h.Lock()
		defer h.Unlock()
		if !h.closed {
			h.tick(time.Now())
		}
	})
}

// tick ends what is due.
func (h *Host) tick(now time.Time) {
	due, left := []*job{}, h.jobs[:0:0]
	for _, j := range h.jobs {
		if now.Before(j.due) || j.hangs {
			left = append(left, j)
		} else {
			due = append(due, j)
			j.stop(h)
		}
	}
	h.jobs = left
	for _, j := range due {
		h.finish(j)
	}
}

func (h *Host) finish(j *job) {
	f := j.fault
	var err error
	if f != nil && !f.Done && !f.Warn && !f.Gone {
		err = f.err()
	}
	if err == nil {
		err = j.end()
	}
	if err == nil && f != nil && f.Done {
		err = f.err()
	}
	if f != nil && f.Do != nil {
		h.aside.Go(f.Do)
	}
	if j.object != nil {
		j.object.conclude(err, f)
	}
	if f != nil && f.Gone && j.object != nil {
		h.Remove(j.object)
	}
	if j.after != nil {
		j.after()
	}
}

// conclude writes into a job how it ended.
func (o *Object) conclude(err error, f *Fault) {
	switch {
	case err != nil:
		code := uint16(32768)
		var known *FaultError
		if errors.As(err, &known) && known.Code != 0 && known.Code <= 0xffff {
			code = uint16(known.Code)
		}
		o.Set("JobState", uint16(10))
		o.Set("JobStatus", "Job failed")
		o.Set("ErrorCode", code)
		o.Set("ErrorDescription", err.Error())
	case f != nil && f.Warn:
		o.Set("JobState", uint16(32768))
		o.Set("JobStatus", "Job is completed with warnings")
		o.Set("PercentComplete", uint16(100))
		o.Set("ErrorDescription", f.Reason)
	default:
		o.Set("JobState", uint16(7))
		o.Set("JobStatus", "Job is completed")
		o.Set("PercentComplete", uint16(100))
	}
}

// affects tells which object a job made or changed.
func (h *Host) affects(j, o *Object) {
	h.Add(V2, NewObject("Msvm_AffectedJobElement", "AffectedElement", o, "AffectingElement", j))
}

// errorsOf is GetErrorEx.
func errorsOf(c *Call) (uint32, []any) {
	text, failed := c.Object.text("ErrorDescription")
	if !failed {
		return 0, []any{"Errors", nil}
	}
	return 0, []any{"Errors", []Embedded{{NewObject("Msvm_Error", "Message", text, "MessageID", "32768")}}}
}

func guid(kind string, n int) string { return fmt.Sprintf("%s00000-0000-4000-8000-%012X", kind, n) }

// newGUID is a random one, in capital letters.
func newGUID() string {
	var b [16]byte
	rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return strings.ToUpper(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}
