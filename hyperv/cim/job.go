package cim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// JobState is a job's of CIM_ConcreteJob and of Hyper-V's own.
type JobState uint16

const (
	JobNew        JobState = 2
	JobStarting   JobState = 3
	JobRunning    JobState = 4
	JobSuspended  JobState = 5
	JobShutting   JobState = 6
	JobDone       JobState = 7
	JobTerminated JobState = 8
	JobKilled     JobState = 9
	JobException  JobState = 10
	JobService    JobState = 11
	JobWarnings   JobState = 32768 // done, with warnings: not documented everywhere
)

var jobNames = map[JobState]string{JobNew: "new", JobStarting: "starting", JobRunning: "running", JobSuspended: "suspended",
	JobShutting: "shutting down", JobDone: "done", JobTerminated: "terminated", JobKilled: "killed", JobException: "failed",
	JobService: "in service", JobWarnings: "done with warnings"}

func (s JobState) String() string {
	if n := jobNames[s]; n != "" {
		return n
	}
	return fmt.Sprintf("state %d", uint16(s))
}

// Running says that it has not ended. A state that we do not know is an end: it is no success.
func (s JobState) Running() bool { return s >= JobNew && s <= JobShutting || s == JobService }

// Job is a job at one moment.
type Job struct {
	State       JobState `cim:"JobState"`
	Percent     uint16   `cim:"PercentComplete,optional"`
	Code        uint16   `cim:"ErrorCode,optional"`
	Description string   `cim:"ErrorDescription,optional"`
	Status      string   `cim:"JobStatus,optional"`
}

// JobOptions change how a job is waited for. Nil and zero fields are good defaults.
type JobOptions struct {
	Limit time.Duration // zero: 10 min, or what the context leaves
	Poll  time.Duration // between two looks, at most; it begins at a tenth. Zero: 1 s
	// Progress hears each look.
	Progress func(Job)
	// Started hears which job [Client.Run] started, before that is waited for: it is what proves later whose the job's result is. Where
	// it fails, so does Run, with an [*UnknownError]; the job goes on.
	Started func(job Ref) error
}

// JobError says how a job ended badly.
type JobError struct {
	Job    Job
	Errors []string // of GetErrorEx, as text
}

func (e *JobError) Error() string {
	s := fmt.Sprintf("the job %s", e.Job.State)
	if e.Job.Code != 0 {
		s += fmt.Sprintf(" (%d)", e.Job.Code)
	}
	switch {
	case len(e.Errors) > 0:
		s += ": " + line(cut(e.Errors[0]))
	case e.Job.Description != "":
		s += ": " + line(cut(e.Job.Description))
	}
	return s
}

// JobLimitError says that a job, or the method that starts it, had no end in time. It may go on.
type JobLimitError struct{ After time.Duration }

func (e *JobLimitError) Error() string { return fmt.Sprintf("no end within %v", e.After) }
func (e *JobLimitError) Unwrap() error { return context.DeadlineExceeded }

// Timeout tells those who ask for it, as with errors of package net.
func (e *JobLimitError) Timeout() bool { return true }

// ErrJobGone says that a job is not there any more: how it ended is not known. The host keeps ended ones for a while only.
var ErrJobGone = errors.New("the job is gone, and how it ended is not known")

// Wait looks at a job until it has ended. Warnings are no error; Job.State tells them.
func (c *Client) Wait(ctx context.Context, job Ref, opts *JobOptions) (*Job, error) {
	return wait(ctx, c, job, opts)
}

func wait(ctx context.Context, c Core, job Ref, opts *JobOptions) (*Job, error) {
	ctx, cancel := withLimit(ctx, opts)
	defer cancel()
	var o JobOptions
	if opts != nil {
		o = *opts
	}
	most := or(o.Poll, time.Second)
	for wait := most / 10; ; wait = min(wait*2, most) {
		in, err := c.Get(ctx, job)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &UnknownError{fmt.Errorf("%w (%s)", ErrJobGone, job)}
		}
		if err != nil {
			return nil, ended(ctx, err)
		}
		var j Job
		if err := in.Decode(&j); err != nil {
			return nil, &UnknownError{err}
		}
		if o.Progress != nil {
			o.Progress(j)
		}
		switch {
		case j.State == JobDone || j.State == JobWarnings:
			return &j, nil
		case !j.State.Running():
			return &j, &JobError{Job: j, Errors: jobErrors(ctx, c, job)}
		}
		if err := pause(ctx, wait); err != nil {
			return &j, ended(ctx, err)
		}
	}
}

// ended gives an error that came of the end of the wait that end's reason.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = errors.Join(cause, err)
	}
	return &UnknownError{err}
}

const maxJobErrors = 16

// jobErrors asks a job what went wrong. A job that does not know the method tells no more than its description.
func jobErrors(ctx context.Context, c Core, job Ref) (list []string) {
	out, err := c.Invoke(ctx, job, "GetErrorEx", nil)
	if err != nil {
		return nil
	}
	var got struct {
		Errors []string `cim:"Errors"`
	}
	if out.Decode(&got) != nil {
		return nil
	}
	for _, text := range got.Errors[:min(len(got.Errors), maxJobErrors)] {
		list = append(list, errorText(text))
	}
	return list
}

// errorText takes the message out of an embedded instance of Msvm_Error, and leaves other text as it is.
func errorText(s string) string {
	in, err := ParseXML([]byte(s))
	if err != nil {
		return cut(s)
	}
	if m := in.Text("Message"); m != "" {
		return cut(m)
	}
	return cut(s)
}
