package qga

import (
	"context"
	"fmt"
	"time"
)

// ExecResult is what a program in the guest left.
type ExecResult struct {
	Stdout, Stderr []byte
	ExitCode       int  // -1: a signal ended it
	Truncated      bool // a stream was longer than what is here
}

// Exec runs a program in the guest, without a shell, and waits for its end; of each stream at most max bytes are
// returned. When the context ends first the program runs on: the agent has no means to stop it.
func (c *Client) Exec(ctx context.Context, path string, args []string, stdin []byte, max int) (ExecResult, error) {
	ctx, cancel := bounded(ctx, Timeout)
	defer cancel()
	request := map[string]any{"path": path, "arg": append([]string{}, args...), "capture-output": true}
	if len(stdin) > 0 {
		request["input-data"] = stdin
	}
	var started struct {
		PID int64 `json:"pid"`
	}
	if err := c.Do(ctx, "guest-exec", request, &started); err != nil {
		return ExecResult{}, err
	}
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		status, err := c.execStatus(ctx, started.PID)
		if err != nil {
			return ExecResult{}, fmt.Errorf("%s: %w", path, err)
		}
		if status.Exited {
			return status.result(max), nil
		}
		select {
		case <-ctx.Done():
			return ExecResult{}, fmt.Errorf("%s: it runs on in the guest: %w", path, ctx.Err())
		case <-time.After(wait):
		}
	}
}

type execStatus struct {
	Exited       bool   `json:"exited"`
	ExitCode     *int   `json:"exitcode"`
	Out          []byte `json:"out-data"`
	Err          []byte `json:"err-data"`
	OutTruncated bool   `json:"out-truncated"`
	ErrTruncated bool   `json:"err-truncated"`
}

// execStatus is not repeated: the agent forgets a program once it has told that it ended.
func (c *Client) execStatus(ctx context.Context, pid int64) (s execStatus, err error) {
	err = c.Do(ctx, "guest-exec-status", map[string]any{"pid": pid}, &s)
	return s, err
}

func (s *execStatus) result(max int) ExecResult {
	r := ExecResult{Stdout: s.Out, Stderr: s.Err, ExitCode: -1, Truncated: s.OutTruncated || s.ErrTruncated}
	if s.ExitCode != nil {
		r.ExitCode = *s.ExitCode
	}
	for _, stream := range []*[]byte{&r.Stdout, &r.Stderr} {
		if len(*stream) > max {
			*stream, r.Truncated = (*stream)[:max:max], true
		}
	}
	return r
}
