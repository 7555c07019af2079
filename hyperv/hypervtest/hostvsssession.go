package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/hyperv/helper/requester"
)

// vssBackup is one requester's backup: IVssBackupComponents.
type vssBackup struct {
	v    *hostVSS
	name string          // in events and as owner of shadow copies
	life context.Context // ends with its process: calls under way are not waited for
	die  context.CancelFunc

	mu       sync.Mutex
	step     vssStep
	context  requester.Context
	hasCtx   bool
	kind     requester.BackupType
	classes  []requester.ID
	gathered bool
	writers  []requester.Writer
	chosen   map[string]bool // VMs, in small letters
	good     map[string]bool
	set      *vssSet
	status   error // of the writer
	dead     bool
}

// vssStep is how far a backup is.
type vssStep int

const (
	vssNew vssStep = iota
	vssInitialized
	vssSetStarted
	vssPrepared
	vssTaken
	vssEnded // completed or aborted
)

func vssError(op, object string, code requester.Code, text string) error {
	return &requester.Error{Op: op, Object: object, Code: code, Text: text,
		Again: code == requester.SetInProgress || code == requester.WriterRetryable || code == requester.WriterTimeout}
}

// Codes that requesters meet beside those that package requester names.
const (
	vssExists      requester.Code = 0x8004230D
	vssInvalid     requester.Code = 0x80070057
	vssNoProvider  requester.Code = 0x80042304
	vssTooMany     requester.Code = 0x80042317
	vssUnavailable requester.Code = 0x80070015
)

// enter begins a call: it must be the time for it.
func (b *vssBackup) enter(ctx context.Context, op string, in bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.dead {
		return vssError(op, "", vssUnavailable, "the requester was released")
	}
	if !in {
		return vssError(op, "", requester.BadState, "the backup components object is not in the state for this call")
	}
	return nil
}

// Initialize implements [requester.Backup].
func (b *vssBackup) Initialize(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.enter(ctx, "InitializeForBackup", b.step == vssNew); err != nil {
		return err
	}
	b.step = vssInitialized
	return nil
}

// SetContext implements [requester.Backup]: once, and before the writers are asked.
func (b *vssBackup) SetContext(ctx context.Context, c requester.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.enter(ctx, "SetContext", b.step == vssInitialized && !b.hasCtx && !b.gathered); err != nil {
		return err
	}
	if c != requester.ContextAll && c&^(requester.AttrNoAutorecovery|requester.AttrTransportable|requester.AttrAutorecover) != 0 {
		return vssError("SetContext", fmt.Sprintf("0x%X", uint32(c)), vssInvalid, "this host's model knows backups and queries only")
	}
	b.context, b.hasCtx = c, true
	return nil
}

// SetBackupState implements [requester.Backup].
func (b *vssBackup) SetBackupState(ctx context.Context, t requester.BackupType) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.enter(ctx, "SetBackupState", b.step == vssInitialized && !b.gathered); err != nil {
		return err
	}
	if t != requester.Full && t != requester.Copy {
		return vssError("SetBackupState", fmt.Sprint(t), vssInvalid, "an unknown type of backup")
	}
	b.kind = t
	return nil
}

// EnableWriterClasses implements [requester.Backup].
func (b *vssBackup) EnableWriterClasses(ctx context.Context, classes ...requester.ID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.enter(ctx, "EnableWriterClasses", b.step == vssInitialized && !b.gathered); err != nil {
		return err
	}
	b.classes = append(b.classes, classes...)
	return nil
}

// GatherWriterMetadata implements [requester.Backup]: once for each object.
func (b *vssBackup) GatherWriterMetadata(ctx context.Context) ([]requester.Writer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const op = "GatherWriterMetadata"
	if err := b.enter(ctx, op, b.step == vssInitialized && !b.gathered); err != nil {
		return nil, err
	}
	if err := b.v.fault("", "vss.gather", op); err != nil {
		return nil, err
	}
	b.gathered, b.chosen, b.good = true, map[string]bool{}, map[string]bool{}
	b.writers = b.v.writersOf(b.classes)
	return slices.Clone(b.writers), nil
}

// component finds what was gathered.
func (b *vssBackup) component(w requester.Writer, c requester.Component) bool {
	for _, own := range b.writers {
		if own.Instance != w.Instance || own.Class != w.Class {
			continue
		}
		for _, o := range own.Components {
			if o.Type == c.Type && o.Path == c.Path && strings.EqualFold(o.Name, c.Name) {
				return true
			}
		}
	}
	return false
}

// AddComponent implements [requester.Backup].
func (b *vssBackup) AddComponent(ctx context.Context, w requester.Writer, c requester.Component) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	const op = "AddComponent"
	if err := b.enter(ctx, op, b.gathered && b.kind != 0 && (b.step == vssInitialized || b.step == vssSetStarted)); err != nil {
		return err
	}
	id := strings.ToLower(c.Name)
	switch {
	case !b.component(w, c):
		return vssError(op, c.Name, requester.ObjectNotFound, "no writer has this component")
	case b.chosen[id]:
		return vssError(op, c.Name, vssExists, "the component is in the backup already")
	}
	if w.Class == requester.HyperVWriter {
		b.chosen[id] = true
	}
	return nil
}

// IsVolumeSupported implements [requester.Backup].
func (b *vssBackup) IsVolumeSupported(ctx context.Context, volume string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const op = "IsVolumeSupported"
	if err := b.enter(ctx, op, b.step >= vssInitialized && b.step < vssEnded); err != nil {
		return false, err
	}
	mount, err := b.v.mountOf(op, volume)
	return err == nil && b.v.copiable(mount), err
}

// StartSnapshotSet implements [requester.Backup].
func (b *vssBackup) StartSnapshotSet(ctx context.Context) (requester.ID, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const op = "StartSnapshotSet"
	if err := b.enter(ctx, op, b.step == vssInitialized && b.hasCtx && b.context != requester.ContextAll && b.gathered); err != nil {
		return "", err
	}
	if b.context&requester.AttrTransportable != 0 && !b.v.options().HardwareProvider {
		return "", vssError(op, "", vssNoProvider, "no hardware provider is there for transportable shadow copies")
	}
	b.v.mu.Lock()
	defer b.v.mu.Unlock()
	if b.v.making != nil {
		return "", vssError(op, "", requester.SetInProgress, "another shadow copy set is being made")
	}
	b.v.making = b
	b.v.shadows.sets++
	b.set = &vssSet{id: requester.ID("{" + guid("5E7", b.v.shadows.sets) + "}"), owner: b.name, copies: b.kind != requester.Full, ids: map[string]requester.ID{}}
	b.v.sets[b.set.id] = b.set
	b.step = vssSetStarted
	return b.set.id, nil
}

// AddToSnapshotSet implements [requester.Backup]. A set has 64 volumes at most.
func (b *vssBackup) AddToSnapshotSet(ctx context.Context, volume string) (requester.ID, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const op = "AddToSnapshotSet"
	if err := b.enter(ctx, op, b.step == vssSetStarted); err != nil {
		return "", err
	}
	mount, err := b.v.mountOf(op, volume)
	switch {
	case err != nil:
		return "", err
	case !b.v.copiable(mount) || isShare(mount) && b.context&requester.AttrTransportable != 0:
		return "", vssError(op, volume, requester.VolumeNotSupported, "no provider makes shadow copies of this volume")
	case b.set.ids[mount] != "":
		return "", vssError(op, volume, vssExists, "the volume is in the set already")
	case len(b.set.ids) >= 64:
		return "", vssError(op, volume, vssTooMany, "a set has 64 volumes at most")
	}
	b.set.ids[mount] = b.v.nextShadow()
	b.set.volumes = append(b.set.volumes, mount)
	return b.set.ids[mount], nil
}

// PrepareForBackup implements [requester.Backup].
func (b *vssBackup) PrepareForBackup(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	const op = "PrepareForBackup"
	if err := b.enter(ctx, op, b.step == vssSetStarted && b.kind != 0); err != nil {
		return err
	}
	if err := b.v.fault("", "vss.prepare", op); err != nil {
		return err
	}
	b.step = vssPrepared
	return nil
}

// GatherWriterStatus implements [requester.Backup].
func (b *vssBackup) GatherWriterStatus(ctx context.Context) ([]requester.Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.enter(ctx, "GatherWriterStatus", b.gathered); err != nil {
		return nil, err
	}
	var list []requester.Status
	for _, w := range b.writers {
		s := requester.Status{Instance: w.Instance, Name: w.Name, State: "stable"}
		if b.step == vssTaken {
			s.State = "waiting for completion"
		}
		if w.Class == requester.HyperVWriter && b.status != nil {
			s.State, s.Err = "failed", b.status
		}
		list = append(list, s)
	}
	return list, nil
}

// DoSnapshotSet implements [requester.Backup]. Where it fails the set is gone, and a new one can be started.
func (b *vssBackup) DoSnapshotSet(ctx context.Context) (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const op = "DoSnapshotSet"
	if err := b.enter(ctx, op, b.step == vssPrepared && len(b.set.volumes) > 0); err != nil {
		return err
	}
	defer func() {
		b.v.done(b)
		if err != nil {
			err = errors.Join(err, b.undo())
			b.step = vssInitialized
		}
	}()
	if err := b.v.fault("", "vss.do", op); err != nil {
		return err
	}
	for _, w := range b.writers {
		for _, c := range w.Components {
			if id := strings.ToLower(c.Name); w.Class == requester.HyperVWriter && b.chosen[id] {
				b.set.vms = append(b.set.vms, b.v.enrol(id))
			}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.life, cancel)()
	b.status, err = b.v.take(ctx, b.set, b.context)
	if err != nil {
		return err
	}
	b.step = vssTaken
	return nil
}

// undo takes back what a set made. It has a limit of its own: whoever asked may be gone.
func (b *vssBackup) undo() error {
	set := b.set
	if b.set = nil; set == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(b.v.end(ctx, set), b.v.deleteSet(ctx, set))
}

// GetSnapshotProperties implements [requester.Backup].
func (b *vssBackup) GetSnapshotProperties(ctx context.Context, id requester.ID) (requester.Snapshot, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const op = "GetSnapshotProperties"
	if err := b.enter(ctx, op, b.step >= vssInitialized); err != nil {
		return requester.Snapshot{}, err
	}
	for _, s := range b.v.find(func(s *shadow) bool { return strings.EqualFold(s.ID, string(id)) }) {
		return s.properties(), nil
	}
	return requester.Snapshot{}, vssError(op, string(id), requester.ObjectNotFound, "there is no such shadow copy")
}

func (s *shadow) properties() requester.Snapshot {
	p := requester.Snapshot{ID: requester.ID(s.ID), Set: requester.ID(s.Set), Device: s.Device, Volume: volumeName(s.Volume),
		Provider: "{B5946137-7B9F-4925-AF80-51ABD60B20D5}", Created: s.created}
	if s.shares != nil {
		p.Volume, p.Provider = s.Volume, "{89300202-3CEC-4981-9171-19F59559E0F2}"
	}
	if s.recovered.Load() {
		p.Attributes |= requester.AttrAutorecover
	}
	if s.transportable {
		p.Device, p.Provider = "", "{0A88A17A-0000-4000-8000-000000000001}"
		p.Attributes |= requester.AttrTransportable
	}
	return p
}

// SaveAsXML implements [requester.Backup]. The document is a list of what is in the backup, not that of the service.
func (b *vssBackup) SaveAsXML(ctx context.Context) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.enter(ctx, "SaveAsXML", b.gathered); err != nil {
		return "", err
	}
	var t strings.Builder
	t.WriteString(`<BACKUP_COMPONENTS xmlns="x-schema:#VssComponentMetadata" version="1.2">`)
	for _, w := range b.writers {
		fmt.Fprintf(&t, `<WRITER_COMPONENTS instanceId="%s" writerId="%s">`, strings.Trim(string(w.Instance), "{}"), strings.Trim(string(w.Class), "{}"))
		for _, c := range w.Components {
			if b.chosen[strings.ToLower(c.Name)] {
				fmt.Fprintf(&t, `<COMPONENT componentName="%s" componentType="filegroup"/>`, esc(c.Name))
			}
		}
		t.WriteString(`</WRITER_COMPONENTS>`)
	}
	t.WriteString(`</BACKUP_COMPONENTS>`)
	return t.String(), nil
}

// SetBackupSucceeded implements [requester.Backup].
func (b *vssBackup) SetBackupSucceeded(ctx context.Context, w requester.Writer, c requester.Component, good bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	const op = "SetBackupSucceeded"
	if err := b.enter(ctx, op, b.step == vssTaken); err != nil {
		return err
	}
	id := strings.ToLower(c.Name)
	if !b.chosen[id] || !b.component(w, c) {
		return vssError(op, c.Name, requester.ObjectNotFound, "the component is not in the backup")
	}
	b.good[id] = good
	return nil
}

// BackupComplete implements [requester.Backup].
func (b *vssBackup) BackupComplete(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	const op = "BackupComplete"
	if err := b.enter(ctx, op, b.step == vssTaken); err != nil {
		return err
	}
	if err := b.v.fault("", "vss.complete", op); err != nil {
		return err
	}
	for _, m := range b.set.vms {
		if b.good[m.id] {
			b.v.h.event(Event{Actor: "writer", Name: "backup complete", VM: m.id, Detail: map[bool]string{true: "copy", false: "full: logs of the guest may go"}[b.set.copies]})
		}
	}
	b.step = vssEnded
	return b.v.end(ctx, b.set)
}

// AbortBackup implements [requester.Backup]. A set that was made stays until it is deleted, or its requester goes.
func (b *vssBackup) AbortBackup(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.enter(ctx, "AbortBackup", b.step > vssNew && b.step < vssEnded); err != nil {
		return err
	}
	b.v.done(b)
	taken := b.step == vssTaken
	b.step = vssEnded
	b.v.h.event(Event{Actor: "requester", Name: "backup aborted", Detail: b.name})
	if !taken {
		return b.undo()
	}
	return b.v.end(ctx, b.set)
}

// DeleteSnapshots implements [requester.Backup]. A set of another requester can be deleted too, as by an administrator.
func (b *vssBackup) DeleteSnapshots(ctx context.Context, id requester.ID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	const op = "DeleteSnapshots"
	if err := b.enter(ctx, op, b.step > vssNew); err != nil {
		return err
	}
	if err := b.v.fault("", "vss.delete", op); err != nil {
		return err
	}
	set := b.v.setOf(id)
	if set == nil || !set.there() {
		return vssError(op, string(id), requester.ObjectNotFound, "there is no such shadow copy set")
	}
	return b.v.deleteSet(ctx, set)
}

// Query implements [requester.Backup].
func (b *vssBackup) Query(ctx context.Context) (list []requester.Snapshot, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.enter(ctx, "Query", b.step > vssNew); err != nil {
		return nil, err
	}
	for _, s := range b.v.find(func(s *shadow) bool {
		return s.owner != storageOwner && (b.context == requester.ContextAll || s.owner == b.name)
	}) {
		list = append(list, s.properties())
	}
	return list, nil
}

// Close implements [requester.Backup].
func (b *vssBackup) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead {
		return nil
	}
	b.dead = true
	b.die()
	b.v.done(b)
	b.v.mu.Lock()
	delete(b.v.open, b)
	b.v.mu.Unlock()
	return b.undo()
}

// kill is the death of the requester's process.
func (b *vssBackup) kill() error {
	b.v.h.event(Event{Actor: "host", Name: "requester died", Detail: b.name})
	b.die()
	return b.Close()
}

// done lets others make sets.
func (v *hostVSS) done(b *vssBackup) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.making == b {
		v.making = nil
	}
}
