package cim

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

var errNone = fmt.Errorf("no such instance: %w", fs.ErrNotExist)

// Invoke calls a method. What it returns has the output parameters and ReturnValue, which is the caller's to judge; [Client.Run]
// does. It is called once: an answer that is lost is an [*UnknownError].
func (c *Client) Invoke(ctx context.Context, r Ref, method string, args []Property) (*Instance, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	m := &message{action: r.resource() + "/" + method, resource: r.resource(), selectors: r.Keys}
	if !isName(r.Class) || !isName(method) {
		return nil, about(method, r.String(), fmt.Errorf("%w: a name", ErrArgument))
	}
	if err := m.element(method+"_INPUT", r.resource(), args); err != nil {
		return nil, about(method, r.String(), err)
	}
	body, err := c.exchange(ctx, m)
	if err != nil {
		return nil, about(method, r.String(), unknown(err))
	}
	out, err := instanceIn(body)
	if err != nil {
		return nil, about(method, r.String(), &UnknownError{err})
	}
	return out, nil
}

// Codes that Hyper-V's methods return.
const (
	Completed  = 0
	JobStarted = 4096
)

// What the methods' return values mean: the documentation of CIM_Service's subclasses names them alike.
var returnNames = map[uint32]string{
	1: "not supported", 2: "failed", 3: "timed out", 4: "invalid parameter", 5: "invalid state", 6: "invalid type",
	32768: "failed", 32769: "access denied", 32770: "not supported", 32771: "status is unknown", 32772: "timed out",
	32773: "invalid parameter", 32774: "the system is in use", 32775: "invalid state for this operation",
	32776: "incorrect data type", 32777: "the system is not available", 32778: "out of memory",
}

// ReturnError is a method's refusal.
type ReturnError struct{ Code uint32 }

func (e *ReturnError) Error() string {
	if n := returnNames[e.Code]; n != "" {
		return fmt.Sprintf("returned %d: %s", e.Code, n)
	}
	return fmt.Sprintf("returned %d", e.Code)
}

// Is sorts the codes that callers act on.
func (e *ReturnError) Is(target error) bool {
	switch target {
	case fs.ErrPermission:
		return e.Code == 32769
	case ErrArgument:
		return e.Code == 4 || e.Code == 32773
	case ErrBusy:
		return e.Code == 32774
	}
	return false
}

// Returned is the ReturnValue of a method's output.
func Returned(out *Instance) (uint32, error) {
	s := strings.TrimSpace(out.Text("ReturnValue"))
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%w: ReturnValue %.40q", ErrMalformed, s)
	}
	return uint32(n), nil
}

// Run calls a method and waits for the job that it may start. Out has the output parameters; Job is zero where there was none.
// A *ReturnError is the method's refusal, a *JobError its job's. Where the context ends first the job goes on, and out
// tells which it is.
func (c *Client) Run(ctx context.Context, r Ref, method string, args []Property, opts *JobOptions) (*Outcome, error) {
	return run(ctx, c, r, method, args, opts)
}

func run(ctx context.Context, c Core, r Ref, method string, args []Property, opts *JobOptions) (out *Outcome, err error) {
	ctx, cancel := withLimit(ctx, opts)
	defer cancel()
	got, err := c.Invoke(ctx, r, method, args)
	if err != nil {
		return nil, err
	}
	out = &Outcome{Out: got}
	code, err := Returned(got)
	switch {
	case err != nil:
		return out, about(method, r.String(), &UnknownError{err})
	case code == Completed:
		return out, nil
	case code != JobStarted:
		return out, about(method, r.String(), &ReturnError{code})
	}
	v, _ := got.Value("Job")
	job, ok := v.(Ref)
	if !ok {
		return out, about(method, r.String(), &UnknownError{fmt.Errorf("%w: a job was started and not named", ErrMalformed)})
	}
	out.Job = job
	if opts != nil && opts.Started != nil {
		if err := opts.Started(job); err != nil {
			return out, about(method, r.String(), &UnknownError{err})
		}
	}
	out.State, err = wait(ctx, c, job, opts)
	if err != nil {
		return out, about(method, r.String(), err)
	}
	return out, nil
}

// Outcome is what a method left.
type Outcome struct {
	Out   *Instance // output parameters
	Job   Ref       // zero: there was none
	State *Job      // at its end
}

func withLimit(ctx context.Context, opts *JobOptions) (context.Context, context.CancelFunc) {
	limit := 10 * time.Minute
	if opts != nil && opts.Limit > 0 {
		limit = opts.Limit
	}
	return context.WithTimeoutCause(ctx, limit, &JobLimitError{limit})
}
