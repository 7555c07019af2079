package vss

import (
	"context"
	"errors"
	"time"
)

// ErrNotWindows says that there is no such service on this system.
var ErrNotWindows = errors.New("shadow copies exist on Windows alone")

// backupType is VSS_BACKUP_TYPE.
type backupType uint32

const (
	fullBackup backupType = 1 // writers may throw logs away when it has succeeded
	copyBackup backupType = 5 // nothing of theirs changes
)

func (t backupType) String() string {
	if t == copyBackup {
		return "copy"
	}
	return "full"
}

// Shadow is a shadow copy of one volume.
type Shadow struct {
	ID     GUID   `json:"-"`
	Volume string `json:"volume"` // \\?\Volume{…}\
	Device string `json:"device"` // \\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy1; empty until the snapshot
}

// requester is what a session needs of one IVssBackupComponents. Calls are made one after the other; each ends with its
// context, and with ErrStuck where the service does not even answer a cancellation. Close ends everything from any
// state, within stuckAfter.
type requester interface {
	// Begin is InitializeForBackup, SetContext for shadow copies that go with the requester, and SetBackupState with
	// components and bootable state.
	Begin(ctx context.Context, t backupType) error
	// Writers is GatherWriterMetadata and what it found.
	Writers(ctx context.Context) ([]Writer, error)
	Add(ctx context.Context, w Writer, c Component) error
	// Volumes are those that can have shadow copies: local, fixed, supported.
	Volumes(ctx context.Context) ([]string, error)
	StartSet(ctx context.Context) error
	AddVolume(ctx context.Context, volume string) (Shadow, error)
	Prepare(ctx context.Context) error
	// Status is GatherWriterStatus and what it found.
	Status(ctx context.Context) ([]Status, error)
	Snapshot(ctx context.Context) error
	// Properties fills in where the shadow copy is.
	Properties(ctx context.Context, s Shadow) (Shadow, error)
	Document(ctx context.Context) (string, error)
	Succeeded(ctx context.Context, w Writer, c Component) error
	Complete(ctx context.Context) error
	Abort(ctx context.Context) error
	Close() error
}

// Limits of waits.
const (
	stuckAfter   = 10 * time.Second // what a cancelled call gets to come back
	holdLimit    = 70 * time.Second // writers freeze for 60 s at most
	settleLimit  = 2 * time.Minute  // logs are thrown away in it
	finishLimit  = 30 * time.Second
	abortLimit   = 20 * time.Second
	prepareLimit = 60 * time.Second
	maxLimit     = 10 * time.Minute
)

// again calls what answers that another snapshot set is in progress until it does not, waiting 1 s, 2 s … 10 s between.
func again(ctx context.Context, sleep func(context.Context, time.Duration) error, call func() error) error {
	for wait := time.Second; ; wait = min(2*wait, 10*time.Second) {
		err := call()
		var e *Error
		if err == nil || !errors.As(err, &e) || e.Code != SnapshotSetInProgress {
			return err
		}
		if sleep(ctx, wait) != nil {
			return err // says more than that the time is up
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
