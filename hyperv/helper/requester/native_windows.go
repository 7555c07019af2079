package requester

import (
	"context"

	"github.com/hikae/hikae/guest/agent/vss"
)

// native is a Backup in the service.
type native struct{ b *vss.Backup }

func idOf(g vss.GUID) ID { return ID(g.String()) }

func (n *native) Initialize(ctx context.Context) error { return explain(n.b.Initialize(ctx)) }

func (n *native) SetContext(ctx context.Context, c Context) error {
	return explain(n.b.SetContext(ctx, uint32(c)))
}

func (n *native) SetBackupState(ctx context.Context, t BackupType) error {
	return explain(n.b.SetBackupState(ctx, uint32(t)))
}

func (n *native) EnableWriterClasses(ctx context.Context, classes ...ID) error {
	list := make([]vss.GUID, len(classes))
	for i, id := range classes {
		var err error
		if list[i], err = vss.ParseGUID(string(id)); err != nil {
			return err
		}
	}
	return explain(n.b.EnableWriterClasses(ctx, list))
}

func (n *native) GatherWriterMetadata(ctx context.Context) (all []Writer, err error) {
	found, err := n.b.Writers(ctx)
	if err != nil {
		return nil, explain(err)
	}
	for _, w := range found {
		one := Writer{Instance: idOf(w.Instance), Class: idOf(w.Class), Name: w.Name}
		for _, c := range w.Components {
			part := Component{Type: ComponentType(c.Type), Path: c.Path, Name: c.Name, Caption: c.Caption}
			for _, f := range c.Files {
				part.Files = append(part.Files, FileSet(f))
			}
			one.Components = append(one.Components, part)
		}
		all = append(all, one)
	}
	return all, nil
}

// theirs is a writer and a component as the service has them.
func theirs(w Writer, c Component) (vss.Writer, vss.Component, error) {
	instance, err := vss.ParseGUID(string(w.Instance))
	if err != nil {
		return vss.Writer{}, vss.Component{}, err
	}
	class, err := vss.ParseGUID(string(w.Class))
	return vss.Writer{Instance: instance, Class: class, Name: w.Name},
		vss.Component{Type: vss.ComponentType(c.Type), Path: c.Path, Name: c.Name}, err
}

func (n *native) AddComponent(ctx context.Context, w Writer, c Component) error {
	writer, part, err := theirs(w, c)
	if err != nil {
		return err
	}
	return explain(n.b.Add(ctx, writer, part))
}

func (n *native) StartSnapshotSet(ctx context.Context) (ID, error) {
	id, err := n.b.StartSet(ctx)
	return idOf(id), explain(err)
}

func (n *native) AddToSnapshotSet(ctx context.Context, volume string) (ID, error) {
	id, err := n.b.AddVolume(ctx, volume)
	return idOf(id), explain(err)
}

func (n *native) PrepareForBackup(ctx context.Context) error { return explain(n.b.Prepare(ctx)) }

func (n *native) GatherWriterStatus(ctx context.Context) (all []Status, err error) {
	found, err := n.b.Status(ctx)
	if err != nil {
		return nil, explain(err)
	}
	for _, s := range found {
		all = append(all, Status{Instance: idOf(s.Instance), Name: s.Name, State: s.State.String(), Err: explain(s.Err())})
	}
	return all, nil
}

func (n *native) DoSnapshotSet(ctx context.Context) error { return explain(n.b.Snapshot(ctx)) }

func (n *native) GetSnapshotProperties(ctx context.Context, shadow ID) (Snapshot, error) {
	id, err := vss.ParseGUID(string(shadow))
	if err != nil {
		return Snapshot{}, err
	}
	found, err := n.b.Properties(ctx, id)
	return snapshotOf(found), explain(err)
}

func snapshotOf(f vss.Found) Snapshot {
	return Snapshot{ID: idOf(f.ID), Set: idOf(f.Set), Provider: idOf(f.Provider), Device: f.Device, Volume: f.Volume,
		Attributes: Context(f.Attributes), Created: f.Created}
}

func (n *native) SaveAsXML(ctx context.Context) (string, error) {
	text, err := n.b.Document(ctx)
	return text, explain(err)
}

func (n *native) SetBackupSucceeded(ctx context.Context, w Writer, c Component, good bool) error {
	writer, part, err := theirs(w, c)
	if err != nil {
		return err
	}
	return explain(n.b.Succeeded(ctx, writer, part, good))
}

func (n *native) BackupComplete(ctx context.Context) error { return explain(n.b.Complete(ctx)) }
func (n *native) AbortBackup(ctx context.Context) error    { return explain(n.b.Abort(ctx)) }

func (n *native) DeleteSnapshots(ctx context.Context, set ID) error {
	id, err := vss.ParseGUID(string(set))
	if err != nil {
		return err
	}
	return explain(n.b.DeleteSet(ctx, id))
}

func (n *native) Query(ctx context.Context) (all []Snapshot, err error) {
	found, err := n.b.Query(ctx)
	for _, f := range found {
		all = append(all, snapshotOf(f))
	}
	return all, explain(err)
}

func (n *native) Close() error { return explain(n.b.Close()) }
