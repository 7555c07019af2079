package vss

import (
	"context"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Backup is a backup whose steps its caller chooses: one IVssBackupComponents, for those who make shadow copies of their
// own to read from. [Applications] is for guests. Its methods are called one after the other; each ends with its context, and
// with ErrStuck where the service does not even answer a cancellation. They return *Error.
type Backup struct{ c *components }

// OpenBackup makes one. Of writers of the class describe it reads which files they have, too.
func OpenBackup(describe GUID) (*Backup, error) {
	c, err := openComponents()
	if err != nil {
		return nil, err
	}
	c.describe = describe
	return &Backup{c}, nil
}

// Initialize is InitializeForBackup.
func (b *Backup) Initialize(ctx context.Context) error {
	return b.c.simple(ctx, "InitializeForBackup", "", func() *call { return b.c.backup.method(slotInitializeForBackup).number(0) })
}

// SetContext takes a context and attributes of shadow copies.
func (b *Backup) SetContext(ctx context.Context, context uint32) error {
	return b.c.simple(ctx, "SetContext", "", func() *call { return b.c.backup.method(slotSetContext).number(uintptr(context)) })
}

// SetBackupState is for a backup of components, and not of the system's own state. Type is VSS_BACKUP_TYPE.
func (b *Backup) SetBackupState(ctx context.Context, kind uint32) error {
	return b.c.simple(ctx, "SetBackupState", "", func() *call {
		return b.c.backup.method(slotSetBackupState).flag(true).flag(false).number(uintptr(kind)).flag(false)
	})
}

// EnableWriterClasses leaves all other writers out.
func (b *Backup) EnableWriterClasses(ctx context.Context, classes []GUID) error {
	return b.c.simple(ctx, "EnableWriterClasses", "", func() *call {
		return out(b.c.backup.method(slotEnableWriterClasses), &classes[0]).number(uintptr(len(classes)))
	})
}

// Writers is GatherWriterMetadata.
func (b *Backup) Writers(ctx context.Context) ([]Writer, error) { return b.c.Writers(ctx) }

// Add is AddComponent.
func (b *Backup) Add(ctx context.Context, w Writer, part Component) error {
	return b.c.Add(ctx, w, part)
}

// StartSet is StartSnapshotSet.
func (b *Backup) StartSet(ctx context.Context) (set GUID, err error) {
	err = b.c.simple(ctx, "StartSnapshotSet", "", func() *call { return out(b.c.backup.method(slotStartSnapshotSet), &set) })
	return set, err
}

// AddVolume is AddToSnapshotSet, for whichever provider fits.
func (b *Backup) AddVolume(ctx context.Context, volume string) (GUID, error) {
	s, err := b.c.AddVolume(ctx, volume)
	return s.ID, err
}

// Prepare is PrepareForBackup.
func (b *Backup) Prepare(ctx context.Context) error { return b.c.Prepare(ctx) }

// Status is GatherWriterStatus.
func (b *Backup) Status(ctx context.Context) ([]Status, error) { return b.c.Status(ctx) }

// Snapshot is DoSnapshotSet.
func (b *Backup) Snapshot(ctx context.Context) error { return b.c.Snapshot(ctx) }

// Document is SaveAsXML.
func (b *Backup) Document(ctx context.Context) (string, error) { return b.c.Document(ctx) }

// Succeeded is SetBackupSucceeded.
func (b *Backup) Succeeded(ctx context.Context, w Writer, part Component, good bool) error {
	return b.c.simple(ctx, "SetBackupSucceeded", part.String(), func() *call {
		return b.c.backup.method(slotSetBackupSucceeded).guid(w.Instance).guid(w.Class).number(uintptr(part.Type)).
			text(part.Path, true).text(part.Name, false).flag(good)
	})
}

// Complete is BackupComplete.
func (b *Backup) Complete(ctx context.Context) error { return b.c.Complete(ctx) }

// Abort is AbortBackup.
func (b *Backup) Abort(ctx context.Context) error { return b.c.Abort(ctx) }

// Close gives everything back. What was neither completed nor aborted the service aborts, and shadow copies that do not
// persist go.
func (b *Backup) Close() error { return b.c.Close() }

// The kinds of objects (VSS_OBJECT_TYPE).
const (
	objectNone        = 1
	objectSnapshotSet = 2
	objectSnapshot    = 3
)

// DeleteSet is DeleteSnapshots of a whole set, by force: nothing that hinders it is asked.
func (b *Backup) DeleteSet(ctx context.Context, set GUID) error {
	return b.c.t.do(ctx, func() error {
		var deleted int32
		var stayed GUID
		c := b.c.backup.method(slotDeleteSnapshots).guid(set).number(objectSnapshotSet).flag(true)
		return out(out(c, &deleted), &stayed).run("DeleteSnapshots", set.String())
	})
}

// Found is a shadow copy as the service has it.
type Found struct {
	ID, Set, Provider GUID
	Device, Volume    string
	Attributes        uint32
	Created           time.Time
}

// Properties is GetSnapshotProperties.
func (b *Backup) Properties(ctx context.Context, id GUID) (found Found, err error) {
	err = b.c.t.do(ctx, func() error {
		p := &snapshotProperties{}
		if err := out(b.c.backup.method(slotGetSnapshotProperties).guid(id), p).run("GetSnapshotProperties", id.String()); err != nil {
			return err
		}
		found = p.take()
		return nil
	})
	return found, err
}

// take reads properties, and frees them.
func (p *snapshotProperties) take() Found {
	f := Found{ID: p.ID, Set: p.Set, Provider: p.Provider, Attributes: uint32(p.Attributes),
		Device: windows.UTF16PtrToString(p.Device), Volume: windows.UTF16PtrToString(p.Volume)}
	if p.Created > 0 {
		ft := windows.Filetime{LowDateTime: uint32(p.Created), HighDateTime: uint32(p.Created >> 32)}
		f.Created = time.Unix(0, ft.Nanoseconds())
	}
	if procFreeProperties.Find() == nil {
		procFreeProperties.Call(uintptr(unsafe.Pointer(p)))
	}
	return f
}

// objectProperties is VSS_OBJECT_PROP, as large as its largest member.
type objectProperties struct {
	Type uint32
	Snap snapshotProperties
}

// maxFound bounds a query: a volume has 512 shadow copies at most, and others have fewer.
const maxFound = 65_536

// Query is that of all shadow copies which the context lets be seen.
func (b *Backup) Query(ctx context.Context) (all []Found, err error) {
	err = b.c.t.do(ctx, func() error {
		var list *object
		q := b.c.backup.method(slotQuery).guid(GUID{}).number(objectNone).number(objectSnapshot)
		if err := out(q, &list).run("Query", ""); err != nil {
			return err
		}
		defer list.release()
		for len(all) < maxFound && ctx.Err() == nil {
			one, fetched := &objectProperties{}, uint32(0)
			if err := out(out(list.method(slotNext).number(1), one), &fetched).run("Next", ""); err != nil {
				return err
			}
			if fetched == 0 {
				return nil
			}
			if one.Type == objectSnapshot {
				all = append(all, one.Snap.take())
			}
		}
		return ctx.Err()
	})
	return all, err
}
