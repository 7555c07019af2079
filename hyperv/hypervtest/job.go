package hypervtest

import (
	"fmt"
	"time"
)

// job is one that takes time. Nothing runs meanwhile: what is due is done at the next call.
type job struct {
	object *Object
	due    time.Time
	end    func() error
}

// StartJob makes a job that ends after a time by calling a function; its error fails the job.
func (h *Host) StartJob(caption string, after time.Duration, end func() error) *Object {
	h.made++
	o := h.Add(V2, NewObject("Msvm_ConcreteJob", "InstanceID", guid("10B", h.made), "Caption", caption, "JobState", uint16(4),
		"PercentComplete", uint16(0), "ErrorCode", uint16(0), "ErrorDescription", nil, "JobStatus", "Job is running",
		"StartTime", time.Now().UTC().Truncate(time.Microsecond)))
	h.jobs = append(h.jobs, &job{object: o, due: time.Now().Add(after), end: end})
	return o
}

// later does something after a time, told by no job.
func (h *Host) later(after time.Duration, do func()) {
	h.jobs = append(h.jobs, &job{due: time.Now().Add(after), end: func() error { do(); return nil }})
}

func (h *Host) tick(now time.Time) {
	due, left := []*job{}, h.jobs[:0:0]
	for _, j := range h.jobs {
		if now.Before(j.due) {
			left = append(left, j)
		} else {
			due = append(due, j)
		}
	}
	h.jobs = left
	for _, j := range due {
		err := j.end()
		switch {
		case j.object == nil:
		case err != nil:
			j.object.Set("JobState", uint16(10))
			j.object.Set("JobStatus", "Job failed")
			j.object.Set("ErrorCode", uint16(32768))
			j.object.Set("ErrorDescription", err.Error())
		default:
			j.object.Set("JobState", uint16(7))
			j.object.Set("JobStatus", "Job is completed")
			j.object.Set("PercentComplete", uint16(100))
		}
	}
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
