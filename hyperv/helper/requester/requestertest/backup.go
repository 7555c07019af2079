package requestertest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hikae/hikae/hyperv/helper/requester"
)

// state is how far a backup has come.
type state int

const (
	created state = iota
	initialized
	stated
	gathered
	started
	prepared
	done
	complete
	aborted
)

type backup struct {
	s       *Service
	state   state
	context requester.Context
	set     requester.ID
	shadows []*copied
	closed  bool
}

// in holds the caller to an order.
func (b *backup) in(op string, states ...state) error {
	for _, one := range states {
		if b.state == one && !b.closed {
			return nil
		}
	}
	return &requester.Error{Op: op, Code: requester.BadState, Text: fmt.Sprintf("in state %d", b.state)}
}

func (b *backup) step(ctx context.Context, to state, call string, states ...state) error {
	op, _, _ := strings.Cut(call, " ")
	if err := b.in(op, states...); err != nil {
		return err
	}
	if err := b.s.say(ctx, "%s", call); err != nil {
		return err
	}
	b.state = to
	return nil
}

func (b *backup) Initialize(ctx context.Context) error {
	return b.step(ctx, initialized, "Initialize", created)
}

func (b *backup) SetContext(ctx context.Context, c requester.Context) error {
	b.context = c
	return b.step(ctx, initialized, fmt.Sprintf("SetContext %#x", uint32(c)), initialized)
}

func (b *backup) SetBackupState(ctx context.Context, t requester.BackupType) error {
	return b.step(ctx, stated, fmt.Sprintf("SetBackupState %d", t), initialized)
}

func (b *backup) EnableWriterClasses(ctx context.Context, classes ...requester.ID) error {
	return b.step(ctx, stated, fmt.Sprintf("EnableWriterClasses %s", classes), stated)
}

func (b *backup) GatherWriterMetadata(ctx context.Context) ([]requester.Writer, error) {
	if err := b.step(ctx, gathered, "GatherWriterMetadata", stated); err != nil {
		return nil, err
	}
	return []requester.Writer{{Instance: Writer, Class: requester.HyperVWriter, Name: "Microsoft Hyper-V VSS Writer", Components: b.s.VMs}}, nil
}

func (b *backup) AddComponent(ctx context.Context, w requester.Writer, c requester.Component) error {
	if w.Instance != Writer || w.Class != requester.HyperVWriter {
		return &requester.Error{Op: "AddComponent", Code: requester.ObjectNotFound}
	}
	return b.step(ctx, gathered, "AddComponent "+c.Name, gathered)
}

func (b *backup) StartSnapshotSet(ctx context.Context) (requester.ID, error) {
	if err := b.step(ctx, started, "StartSnapshotSet", gathered); err != nil {
		return "", err
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if b.s.making != nil {
		b.state = gathered
		return "", &requester.Error{Op: "StartSnapshotSet", Code: requester.SetInProgress, Again: true}
	}
	b.s.making = b
	b.set = b.s.id("77777777")
	return b.set, nil
}

func (s *Service) id(begin string) requester.ID {
	s.last++
	return requester.ID(fmt.Sprintf("{%s-0000-0000-0000-%012X}", begin, s.last))
}

func (b *backup) AddToSnapshotSet(ctx context.Context, volume string) (requester.ID, error) {
	if err := b.step(ctx, started, "AddToSnapshotSet "+volume, started); err != nil {
		return "", err
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	one := &copied{Snapshot: requester.Snapshot{ID: b.s.id("99999999"), Set: b.set, Volume: volume, Created: time.Now()}}
	b.shadows = append(b.shadows, one)
	return one.ID, nil
}

func (b *backup) PrepareForBackup(ctx context.Context) error {
	return b.step(ctx, prepared, "PrepareForBackup", started)
}

func (b *backup) GatherWriterStatus(ctx context.Context) ([]requester.Status, error) {
	if err := b.step(ctx, b.state, "GatherWriterStatus", prepared, done, complete); err != nil {
		return nil, err
	}
	one := requester.Status{Instance: Writer, Name: "Microsoft Hyper-V VSS Writer", State: "stable"}
	if b.state == done {
		one.Err = b.s.WriterErr
	}
	return []requester.Status{one}, nil
}

func (b *backup) DoSnapshotSet(ctx context.Context) error {
	if err := b.step(ctx, done, "DoSnapshotSet", prepared); err != nil {
		return err
	}
	for _, one := range b.shadows {
		if err := b.copy(one); err != nil {
			return err
		}
	}
	b.release()
	return nil
}

func (b *backup) copy(one *copied) error {
	root, err := os.MkdirTemp("", "shadow")
	if err != nil {
		return err
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if b.s.copies == nil {
		b.s.copies = map[string]*copied{}
	}
	b.s.last++
	one.root, one.Device = root, fmt.Sprintf(`\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy%d`, b.s.last)
	one.Attributes = b.context | requester.AttrAutorecover
	b.s.copies[one.Device] = one
	for mount, dir := range b.s.Volumes {
		if nameOf(mount) == one.Volume {
			return os.CopyFS(root, os.DirFS(dir))
		}
	}
	return &requester.Error{Op: "DoSnapshotSet", Object: one.Volume, Code: requester.ObjectNotFound}
}

// release lets others make sets.
func (b *backup) release() {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if b.s.making == b {
		b.s.making = nil
	}
}

func (b *backup) GetSnapshotProperties(ctx context.Context, id requester.ID) (requester.Snapshot, error) {
	if err := b.step(ctx, b.state, "GetSnapshotProperties", done, complete); err != nil {
		return requester.Snapshot{}, err
	}
	for _, one := range b.shadows {
		if one.ID == id {
			return one.Snapshot, nil
		}
	}
	return requester.Snapshot{}, &requester.Error{Op: "GetSnapshotProperties", Code: requester.ObjectNotFound}
}

func (b *backup) SaveAsXML(ctx context.Context) (string, error) {
	return "<BACKUP_COMPONENTS/>", b.step(ctx, b.state, "SaveAsXML", done)
}

func (b *backup) SetBackupSucceeded(ctx context.Context, _ requester.Writer, c requester.Component, good bool) error {
	return b.step(ctx, done, fmt.Sprintf("SetBackupSucceeded %s %v", c.Name, good), done)
}

func (b *backup) BackupComplete(ctx context.Context) error {
	return b.step(ctx, complete, "BackupComplete", done)
}

func (b *backup) AbortBackup(ctx context.Context) error {
	b.release()
	return b.step(ctx, aborted, "AbortBackup", initialized, stated, gathered, started, prepared, done)
}

func (b *backup) DeleteSnapshots(ctx context.Context, set requester.ID) error {
	if err := b.s.say(ctx, "DeleteSnapshots"); err != nil {
		return err
	}
	return b.s.drop(set)
}

func (s *Service) drop(set requester.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for device, one := range s.copies {
		if one.Set == set {
			found = true
			delete(s.copies, device)
			if err := os.RemoveAll(one.root); err != nil {
				return err
			}
		}
	}
	if !found {
		return &requester.Error{Op: "DeleteSnapshots", Object: string(set), Code: requester.ObjectNotFound}
	}
	return nil
}

func (b *backup) Query(ctx context.Context) (list []requester.Snapshot, err error) {
	if err := b.step(ctx, b.state, "Query", initialized); err != nil {
		return nil, err
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	for _, one := range b.s.copies {
		list = append(list, one.Snapshot)
	}
	return list, nil
}

func (b *backup) Close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	b.release()
	_ = b.s.say(context.Background(), "Close")
	if b.set != "" && !b.s.Persist {
		_ = b.s.drop(b.set) // there may be none
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.live--
	return nil
}
