package requester

import (
	"context"
	"io"
	"time"
)

// VSS is the Volume Shadow Copy Service of the machine that this runs on: a Windows' own, or a model of it. Its methods may be
// called at once.
type VSS interface {
	// New makes a requester's backup: CreateVssBackupComponents.
	New(ctx context.Context) (Backup, error)
	// Volume is the volume that a folder lies on, mounted folders and cluster volumes among them: GetVolumePathName and
	// GetVolumeNameForVolumeMountPoint. The folder (it ends in a backslash) need not exist; its volume must, else it is fs.ErrNotExist.
	Volume(ctx context.Context, folder string) (Volume, error)
	// Open opens a file of a shadow copy for reading, by the copy's device and the path from its root (VMs\web1\web1.vhdx). A path
	// that leads out of the shadow copy, by a junction or a link, is fs.ErrPermission; none is fs.ErrNotExist.
	Open(ctx context.Context, device, path string) (File, error)
	// List are the entries of a folder of a shadow copy, at most MaxEntries; more are an error. The root is an empty path.
	List(ctx context.Context, device, path string) ([]Entry, error)
}

// Backup is one IVssBackupComponents. Its methods are those of that interface, with an IVssAsync waited for: they are called by
// one goroutine, one after the other, and end with their context. The order is in the package comment; a call out of order
// is an *Error with the code BadState.
type Backup interface {
	// Initialize is InitializeForBackup.
	Initialize(ctx context.Context) error
	// SetContext chooses which kind of shadow copies are made, or seen.
	SetContext(ctx context.Context, c Context) error
	// SetBackupState is that of a backup of components, without a bootable system state, and not partial.
	SetBackupState(ctx context.Context, t BackupType) error
	// EnableWriterClasses leaves all other writers out.
	EnableWriterClasses(ctx context.Context, classes ...ID) error
	// GatherWriterMetadata asks the writers what they have.
	GatherWriterMetadata(ctx context.Context) ([]Writer, error)
	AddComponent(ctx context.Context, w Writer, c Component) error
	// StartSnapshotSet gives the set's id. That another requester makes one is an *Error with the code SetInProgress.
	StartSnapshotSet(ctx context.Context) (ID, error)
	// AddToSnapshotSet gives the id of the shadow copy that is going to be made of a volume (\\?\Volume{…}\).
	AddToSnapshotSet(ctx context.Context, volume string) (ID, error)
	PrepareForBackup(ctx context.Context) error
	// GatherWriterStatus asks the writers how they are.
	GatherWriterStatus(ctx context.Context) ([]Status, error)
	// DoSnapshotSet has the writers freeze, the providers make the shadow copies, and the writers thaw and work in them: where one
	// recovers its data there, this takes minutes.
	DoSnapshotSet(ctx context.Context) error
	GetSnapshotProperties(ctx context.Context, shadow ID) (Snapshot, error)
	// SaveAsXML is the backup components document.
	SaveAsXML(ctx context.Context) (string, error)
	// SetBackupSucceeded tells the writer of a component whether its backup is good.
	SetBackupSucceeded(ctx context.Context, w Writer, c Component, good bool) error
	// BackupComplete ends the backup: writers do what follows from it.
	BackupComplete(ctx context.Context) error
	// AbortBackup ends it without success.
	AbortBackup(ctx context.Context) error
	// DeleteSnapshots deletes the shadow copies of a set. None is an *Error with the code ObjectNotFound.
	DeleteSnapshots(ctx context.Context, set ID) error
	// Query are all shadow copies that the context lets be seen.
	Query(ctx context.Context) ([]Snapshot, error)
	// Close is the last Release: what was neither completed nor aborted is aborted, and shadow copies that do not persist are
	// deleted. It has a limit of its own.
	Close() error
}

// ID is a GUID as {XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX}, in capital letters.
type ID string

// HyperVWriter is the class of Hyper-V's writer.
const HyperVWriter ID = "{66841CD4-6DED-4F4B-8F17-FD23F8DDC3DE}"

// Context is what SetContext takes: _VSS_SNAPSHOT_CONTEXT, and bits of _VSS_VOLUME_SNAPSHOT_ATTRIBUTES.
type Context uint32

// The contexts.
const (
	// ContextBackup has writers, lets them work in the shadow copies, and lets those go with the requester.
	ContextBackup Context = 0
	// ContextAll sees every shadow copy of the machine, and makes none.
	ContextAll Context = 0xFFFFFFFF

	// AttrNoAutorecovery is never set by us: it would make shadow copies that writers cannot work in.
	AttrNoAutorecovery Context = 0x00000002
	// AttrTransportable is for shadow copies that another machine mounts.
	AttrTransportable Context = 0x00000040
	// AttrAutorecover is found on shadow copies that writers have worked in.
	AttrAutorecover Context = 0x00400000
)

// BackupType is VSS_BACKUP_TYPE.
type BackupType uint32

// The types.
const (
	Full BackupType = 1 // logs of the guests' applications may go when it has succeeded
	Copy BackupType = 5 // nothing of theirs changes
)

// Writer is one writer and what it has.
type Writer struct {
	Instance, Class ID
	Name            string
	Components      []Component
}

// ComponentType says what a component is made of.
type ComponentType uint32

// The types.
const (
	Database  ComponentType = 1
	FileGroup ComponentType = 2
)

// Component is what is backed up as one: a VM, of Hyper-V's writer.
type Component struct {
	Type    ComponentType
	Path    string // logical; empty at the top
	Name    string // a VM's GUID
	Caption string // Online\web1
	Files   []FileSet
}

// FileSet is one of a component's file descriptions.
type FileSet struct {
	Path      string // of the folder
	Spec      string // a file's name, or a pattern with * and ?
	Recursive bool
}

// Volume is a volume of the machine.
type Volume struct {
	Name  string // \\?\Volume{…}\, or \\server\share\
	Mount string // where it is mounted: C:\, C:\ClusterStorage\Volume1\
	// Device is what the system calls the volume's device: \Device\HarddiskVolume3. A disk and its clone have the same GUIDs, and never one
	// device. Empty where it is not known.
	Device string
}

// Snapshot is a shadow copy.
type Snapshot struct {
	ID, Set    ID
	Device     string // \\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy5; empty where it is not on this machine
	Volume     string // of which it is: \\?\Volume{…}\
	Provider   ID
	Attributes Context
	Created    time.Time
}

// Status is how a writer is.
type Status struct {
	Instance ID
	Name     string
	State    string // in words
	Err      error  // nil: it is well. An *Error where there is a code
}

// File is an open file of a shadow copy. Reads may be made at once.
type File interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Entry is one of a folder.
type Entry struct {
	Name string
	Size int64 // 0 for a folder
	Dir  bool
}

// MaxEntries is how many entries a folder may have that is listed.
const MaxEntries = 20_000
