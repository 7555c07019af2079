package vss

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// components is the requester over one IVssBackupComponents.
type components struct {
	t        *thread
	backup   *object
	gathered bool // writer metadata is to be freed
	describe GUID // the class of writers whose files are read too
}

func open() (requester, error) {
	c, err := openComponents()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// openComponents makes the object. The service is started by it where it does not run yet.
func openComponents() (*components, error) {
	ctx, cancel := context.WithTimeout(context.Background(), finishLimit)
	defer cancel()
	t, err := newThread(ctx)
	if err != nil {
		return nil, err
	}
	c := &components{t: t}
	err = t.do(ctx, func() error {
		if err := procCreate.Find(); err != nil {
			return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
		}
		r, _, _ := procCreate.Call(uintptr(unsafe.Pointer(&c.backup)))
		if hr := HResult(uint32(r)); hr.Failed() {
			return &Error{Op: "CreateVssBackupComponents", Code: hr}
		}
		return nil
	})
	if err != nil {
		t.close(ctx)
		return nil, err
	}
	return c, nil
}

// simple makes a call that answers at once.
func (c *components) simple(ctx context.Context, op, on string, prepare func() *call) error {
	return c.t.do(ctx, func() error { return prepare().run(op, on) })
}

// async makes a call that goes on behind an IVssAsync, and waits for its end.
func (c *components) async(ctx context.Context, slot int, op string) error {
	return c.t.do(ctx, func() error {
		var a *object
		if err := out(c.backup.method(slot), &a).run(op, ""); err != nil {
			return err
		}
		defer a.release()
		return wait(ctx, a, op)
	})
}

// pause is how long one look at a pending operation takes, so that an end of the context is seen.
const pause = 250 * time.Millisecond

// wait waits until an operation has ended, or cancels it.
func wait(ctx context.Context, a *object, op string) error {
	for ctx.Err() == nil {
		began := time.Now()
		if err := a.method(slotWait).number(uintptr(pause.Milliseconds())).run(op, "wait"); err != nil {
			return err
		}
		done, err := ended(a, op)
		if done {
			return err
		}
		if time.Since(began) < pause/2 { // some versions do not wait
			time.Sleep(pause / 2)
		}
	}
	a.method(slotCancel).do()
	a.method(slotWait).number(uintptr((stuckAfter / 2).Milliseconds())).do()
	return fmt.Errorf("%s: %w", op, context.Cause(ctx))
}

// ended reports whether an operation has, and how.
func ended(a *object, op string) (bool, error) {
	var hr HResult
	var reserved int32
	q := out(out(a.method(slotQueryStatus), &hr), &reserved)
	if err := q.run(op, "status"); err != nil {
		return true, err
	}
	switch {
	case hr == sAsyncPending:
		return false, nil
	case hr == sAsyncCancelled:
		return true, fmt.Errorf("%s: %w", op, context.Canceled)
	case hr.Failed():
		return true, &Error{Op: op, Code: hr}
	}
	return true, nil
}

func (c *components) Begin(ctx context.Context, t backupType) error {
	return c.t.do(ctx, func() error {
		if err := c.backup.method(slotInitializeForBackup).number(0).run("InitializeForBackup", ""); err != nil {
			return err
		}
		if err := c.backup.method(slotSetContext).number(0).run("SetContext", ""); err != nil {
			return err
		}
		return c.backup.method(slotSetBackupState).flag(true).flag(true).number(uintptr(t)).flag(false).run("SetBackupState", "")
	})
}

func (c *components) Add(ctx context.Context, w Writer, part Component) error {
	return c.simple(ctx, "AddComponent", part.String(), func() *call {
		return c.backup.method(slotAddComponent).guid(w.Instance).guid(w.Class).number(uintptr(part.Type)).
			text(part.Path, true).text(part.Name, false)
	})
}

func (c *components) Succeeded(ctx context.Context, w Writer, part Component) error {
	return c.simple(ctx, "SetBackupSucceeded", part.String(), func() *call {
		return c.backup.method(slotSetBackupSucceeded).guid(w.Instance).guid(w.Class).number(uintptr(part.Type)).
			text(part.Path, true).text(part.Name, false).flag(true)
	})
}

func (c *components) Volumes(ctx context.Context) ([]string, error) {
	names, err := volumeNames()
	if err != nil {
		return nil, err
	}
	var supported []string
	for _, name := range names {
		if driveType(name) != windows.DRIVE_FIXED {
			continue
		}
		var yes int32
		err := c.simple(ctx, "IsVolumeSupported", name, func() *call {
			return out(c.backup.method(slotIsVolumeSupported).guid(GUID{}).text(name, false), &yes)
		})
		if errors.Is(err, ErrStuck) || ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err())
		}
		if err == nil && yes != 0 { // a volume that the service does not know is not supported
			supported = append(supported, name)
		}
	}
	return supported, nil
}

func (c *components) StartSet(ctx context.Context) error {
	var set GUID
	return c.simple(ctx, "StartSnapshotSet", "", func() *call { return out(c.backup.method(slotStartSnapshotSet), &set) })
}

func (c *components) AddVolume(ctx context.Context, volume string) (Shadow, error) {
	s := Shadow{Volume: volume}
	err := c.simple(ctx, "AddToSnapshotSet", volume, func() *call {
		return out(c.backup.method(slotAddToSnapshotSet).text(volume, false).guid(GUID{}), &s.ID)
	})
	return s, err
}

func (c *components) Prepare(ctx context.Context) error {
	return c.async(ctx, slotPrepareForBackup, "PrepareForBackup")
}

func (c *components) Snapshot(ctx context.Context) error {
	return c.async(ctx, slotDoSnapshotSet, "DoSnapshotSet")
}

func (c *components) Complete(ctx context.Context) error {
	return c.async(ctx, slotBackupComplete, "BackupComplete")
}

func (c *components) Abort(ctx context.Context) error {
	return c.simple(ctx, "AbortBackup", "", func() *call { return c.backup.method(slotAbortBackup) })
}

func (c *components) Document(ctx context.Context) (string, error) {
	var text bstr
	err := c.simple(ctx, "SaveAsXML", "", func() *call { return out(c.backup.method(slotSaveAsXML), &text.p) })
	if err != nil {
		return "", err
	}
	return text.take(maxDocument / 2), nil
}

// snapshotProperties is VSS_SNAPSHOT_PROP.
type snapshotProperties struct {
	ID, Set                                                    GUID
	Count                                                      int32
	Device, Volume, Machine, Service, exposedName, exposedPath *uint16
	Provider                                                   GUID
	Attributes                                                 int32
	Created                                                    int64
	Status                                                     uint32
}

func (c *components) Properties(ctx context.Context, s Shadow) (Shadow, error) {
	err := c.t.do(ctx, func() error {
		p := &snapshotProperties{}
		if err := out(c.backup.method(slotGetSnapshotProperties).guid(s.ID), p).run("GetSnapshotProperties", s.Volume); err != nil {
			return err
		}
		s.Device = windows.UTF16PtrToString(p.Device)
		if procFreeProperties.Find() == nil {
			procFreeProperties.Call(uintptr(unsafe.Pointer(p)))
		}
		return nil
	})
	return s, err
}

// Close gives everything back. What was neither completed nor aborted the service aborts.
func (c *components) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), abortLimit)
	defer cancel()
	err := c.t.do(ctx, func() error {
		if c.gathered {
			c.backup.method(slotFreeWriterMetadata).do()
		}
		c.backup.release()
		return nil
	})
	c.t.close(ctx)
	return err
}
