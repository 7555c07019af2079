package qmp

import (
	"context"
	"fmt"
)

// Job is one background job of QEMU.
type Job struct {
	ID     string `json:"id"`
	Type   string `json:"type"`
	Status string `json:"status"` // created, running, paused, ready, standby, waiting, pending, aborting, concluded, null
	Error  string `json:"error"`
}

// jobEvents tell that a job's state has changed.
var jobEvents = []string{"JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "BLOCK_JOB_ERROR", "BLOCK_JOB_READY"}

// WaitJob waits until a job has gone, or stands concluded because it was started with auto-dismiss off. It returns the
// error that the job concluded with. A job that dismisses itself takes its error along: watch BLOCK_JOB_COMPLETED for
// that, or turn auto-dismiss off.
func (c *Conn) WaitJob(ctx context.Context, id string) error {
	return c.Until(ctx, func(ctx context.Context) (bool, error) {
		var jobs []Job
		if err := c.Execute(ctx, "query-jobs", nil, &jobs); err != nil {
			return false, err
		}
		for _, j := range jobs {
			if j.ID != id {
				continue
			}
			if j.Status == "concluded" && j.Error != "" {
				return false, fmt.Errorf("job %s: %s", id, j.Error)
			}
			return j.Status == "concluded", nil
		}
		return true, nil
	}, jobEvents...)
}

// WaitExport waits until a block export has gone.
func (c *Conn) WaitExport(ctx context.Context, id string) error {
	return c.Until(ctx, func(ctx context.Context) (bool, error) {
		var exports []struct {
			ID string `json:"id"`
		}
		if err := c.Execute(ctx, "query-block-exports", nil, &exports); err != nil {
			return false, err
		}
		for _, e := range exports {
			if e.ID == id {
				return false, nil
			}
		}
		return true, nil
	}, "BLOCK_EXPORT_DELETED")
}
