package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
)

// ErrVMEnded says that a VM ended before its disks were whole. They keep what it wrote; [Resume] starts it again.
var ErrVMEnded = errors.New("the VM ended before its disks were copied")

// errNotAttached: the VM runs, and has not opened the disk (yet).
var errNotAttached = errors.New("the VM has not opened the disk")

// StartProgress is how far the copy of one disk has come.
type StartProgress struct {
	Key         string
	Done, Total int64 // bytes of the disk that have been looked at; the total may grow
}

const (
	lookEvery = 500 * time.Millisecond
	// attachWithin is how long a VM that answers may take to open a disk.
	attachWithin = 5 * time.Minute
	// busyWithin is how long something else, such as a backup, may keep a disk from being copied.
	busyWithin = time.Hour
	// copyTries is how often a copy that failed is begun anew. It goes on where it was.
	copyTries = 5
)

// copyOf is the copy of one disk: QEMU's job that reads from the export what the overlay lacks. The monitor is taken for
// each step anew, so that others get their turn.
type copyOf struct {
	s     *Started
	disk  StartedDisk
	job   string // its id
	tries int
	begun time.Time // of waiting for something that keeps it from being started
}

func (s *Started) newCopy(i int) *copyOf {
	return &copyOf{s: s, disk: s.folder.state.Disks[i], job: fmt.Sprintf(prefix+"copy-%d", i)}
}

// run copies until the disk stands alone, and that is durable.
func (c *copyOf) run(ctx context.Context) error {
	for {
		backing, err := backingOf(c.disk.Path)
		if err != nil {
			return err
		}
		if backing == "" {
			return c.alone(ctx)
		}
		err = c.s.withMonitor(ctx, c.step)
		if err != nil {
			return fmt.Errorf("disk %s: %w", c.disk.Key, err)
		}
		if err := c.s.pause(ctx); err != nil {
			return err
		}
	}
}

// step looks at the job, and does what comes next.
func (c *copyOf) step(ctx context.Context, mon *qmp.Conn) error {
	job, err := findJob(ctx, mon, c.job)
	switch {
	case err != nil:
		return err
	case job == nil:
		return c.start(ctx, mon)
	}
	c.s.opts.Progress(StartProgress{Key: c.disk.Key, Done: job.Current, Total: max(job.Total, c.disk.Size)})
	switch job.Status {
	case "pending":
		return c.finish(ctx, mon)
	case "concluded":
		err := mon.Execute(ctx, "job-dismiss", map[string]any{"id": c.job}, nil)
		if err != nil || job.Error == "" {
			return err
		}
		if c.tries++; c.tries == copyTries {
			return fmt.Errorf("copy: %s", job.Error)
		}
		c.s.warn("disk %s: the copy failed and begins anew: %s", c.disk.Key, job.Error)
	}
	return nil
}

// start begins the copy. The job stops before its end, so that what it wrote is durable before the image says of itself
// that it is whole.
//
// A snapshot of the VM and a copy never meet: QEMU 7.2.22 ends with a segmentation fault, and the guest with it, where a
// filter of the one was in the graph when the other changed it. So the copy waits for a snapshot's nodes to go; and its
// own filter has a name by which a snapshot knows that the VM is in use.
func (c *copyOf) start(ctx context.Context, mon *qmp.Conn) error {
	err := noSession(ctx, mon, c.disk.Key)
	if err == nil {
		err = c.stream(ctx, mon)
	}
	if err == nil {
		if err = noSession(ctx, mon, c.disk.Key); err != nil { // by another monitor it may have come in between
			mon.Execute(ctx, "job-cancel", map[string]any{"id": c.job}, nil) // an answer of any kind is looked for by the next step
		}
	}
	if err == nil {
		c.begun = time.Time{}
		return nil
	}
	limit, used := busyWithin, new(hikae.BusyError)
	if err == errNotAttached {
		limit = attachWithin
	} else if !qmp.Refused(err) && !errors.As(err, &used) {
		return err
	}
	if c.begun.IsZero() {
		c.begun = time.Now()
		c.s.warn("disk %s cannot be copied yet: %v", c.disk.Key, err)
	}
	if time.Since(c.begun) > limit {
		return err
	}
	return nil
}

func (c *copyOf) stream(ctx context.Context, mon *qmp.Conn) error {
	node, err := nodeOf(ctx, mon, c.disk.Path)
	if err != nil {
		return err
	}
	return mon.Execute(ctx, "block-stream", map[string]any{
		"job-id": c.job, "device": node, "speed": c.s.opts.Limit, "on-error": "report",
		"auto-finalize": false, "auto-dismiss": false, "filter-node-name": c.job,
	}, nil)
}

// noSession says that the VM has none of a snapshot's nodes.
func noSession(ctx context.Context, mon *qmp.Conn, key string) error {
	var nodes []struct {
		Name string `json:"node-name"`
	}
	if err := mon.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
		return err
	}
	for _, n := range nodes {
		if sessionNode.MatchString(n.Name) {
			return &hikae.BusyError{What: "disk " + key, Owner: "a backup of the VM (block node " + n.Name + ")"}
		}
	}
	return nil
}

// sessionNode are the names of nodes that a snapshot makes.
var sessionNode = regexp.MustCompile(`^hikae-[a-z2-7]{16}-[a-z]+[0-9]+$`)

// finish lets the job take the name of the export out of the image. Before that all that it wrote is made durable: QEMU
// keeps tables of the image in memory, and a kill or a power cut between the two would leave an image that says that it
// is whole and is not. Most of it is synced by us, while the guest goes on.
func (c *copyOf) finish(ctx context.Context, mon *qmp.Conn) error {
	if err := syncFile(c.disk.Path); err != nil {
		return err
	}
	node, err := nodeOf(ctx, mon, c.disk.Path)
	if err != nil {
		return err
	}
	if err := flush(ctx, mon, node); err != nil {
		return err
	}
	if err := covered(c.disk.Path); err != nil { // what a flush came to, QEMU does not tell
		if c.tries++; c.tries == copyTries {
			return err
		}
		return nil // it is looked at again
	}
	if err := syncFile(c.disk.Path); err != nil { // cache=unsafe does not sync
		return err
	}
	return mon.Execute(ctx, "job-finalize", map[string]any{"id": c.job}, nil)
}

// flush makes QEMU write down what it keeps in memory of a node. There is no command of QMP's own for it.
func flush(ctx context.Context, mon *qmp.Conn, node string) error {
	var said string
	err := mon.Execute(ctx, "human-monitor-command", map[string]any{"command-line": "qemu-io " + node + " flush"}, &said)
	if err == nil && said != "" {
		err = fmt.Errorf("flush: %s", said)
	}
	return err
}

// alone is what is left to do when the image needs the export no more.
func (c *copyOf) alone(ctx context.Context) error {
	if err := syncFile(c.disk.Path); err != nil {
		return err
	}
	err := c.s.withMonitor(ctx, func(ctx context.Context, mon *qmp.Conn) error {
		err := mon.Until(ctx, func(ctx context.Context) (bool, error) {
			job, err := findJob(ctx, mon, c.job)
			return job == nil || job.Status == "concluded", err
		}, "JOB_STATUS_CHANGE")
		if err != nil {
			return err
		}
		return refusedIsNil(mon.Execute(ctx, "job-dismiss", map[string]any{"id": c.job}, nil))
	})
	if errors.Is(err, ErrVMEnded) { // the disk is whole all the same
		err = nil
	}
	c.s.opts.Progress(StartProgress{Key: c.disk.Key, Done: c.disk.Size, Total: c.disk.Size})
	return err
}

// cancel ends a copy that is not over. What it has copied stays.
func (c *copyOf) cancel(ctx context.Context) error {
	return c.s.withMonitor(ctx, func(ctx context.Context, mon *qmp.Conn) error {
		job, err := findJob(ctx, mon, c.job)
		if err != nil || job == nil {
			return err
		}
		if err := refusedIsNil(mon.Execute(ctx, "job-cancel", map[string]any{"id": c.job}, nil)); err != nil {
			return err
		}
		err = mon.Until(ctx, func(ctx context.Context) (bool, error) {
			job, err := findJob(ctx, mon, c.job)
			return job == nil || job.Status == "concluded", err
		}, "JOB_STATUS_CHANGE")
		if err != nil {
			return err
		}
		return refusedIsNil(mon.Execute(ctx, "job-dismiss", map[string]any{"id": c.job}, nil))
	})
}

// copyJob is a job and how far it is.
type copyJob struct {
	qmp.Job
	Current int64 `json:"current-progress"`
	Total   int64 `json:"total-progress"`
}

// findJob returns nil where there is no such job.
func findJob(ctx context.Context, mon *qmp.Conn, id string) (*copyJob, error) {
	var jobs []copyJob
	if err := mon.Execute(ctx, "query-jobs", nil, &jobs); err != nil {
		return nil, err
	}
	for _, j := range jobs {
		if j.ID == id {
			return &j, nil
		}
	}
	return nil, nil
}

// nodeOf is the block node of an overlay, by the path of its file.
func nodeOf(ctx context.Context, mon *qmp.Conn, path string) (string, error) {
	var nodes []struct {
		Name   string `json:"node-name"`
		Driver string `json:"drv"`
		File   string `json:"file"`
	}
	if err := mon.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
		return "", err
	}
	for _, n := range nodes {
		if n.Driver == "qcow2" && fileOf(n.File) == path {
			return n.Name, nil
		}
	}
	return "", errNotAttached
}

// fileOf is the path in what QEMU calls a node's file: that, or options where those say more than a path could.
func fileOf(name string) string {
	if len(name) < 5 || name[:5] != "json:" {
		return name
	}
	var options struct {
		File struct {
			Filename string `json:"filename"`
		} `json:"file"`
	}
	json.Unmarshal([]byte(name[5:]), &options) // what is not understood is no path of ours
	return options.File.Filename
}
