package requester

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/hyperv/helper/wire"
)

// Limits of waits.
const (
	takeLimit   = 20 * time.Minute // where a client says nothing
	mostLimit   = 4 * time.Hour
	undoLimit   = time.Minute // to take back what failed
	finishLimit = 10 * time.Minute
	deleteLimit = 5 * time.Minute
	askLimit    = 3 * time.Minute // for what the writers have
)

// set is a set of shadow copies, from its begin to its end. It belongs to one call at a time.
type set struct {
	vss    VSS
	book   Book
	mark   string
	backup Backup
	id     ID // empty until it was begun
	vms    []vm
	shadow []Snapshot
	places []place

	noted    bool // the book has it
	prepared bool // writers wait for an end
	finished bool
	gone     bool // the shadow copies are
	closed   bool
}

// place is where a mounted volume's files are in the set.
type place struct{ mount, device string }

// teller is told how far a set has come.
type teller func(stage, detail string)

// take makes a set. After an error nothing of it is left, unless the error says so.
func take(ctx context.Context, v VSS, book Book, m *wire.Take, tell teller) (*set, error) {
	if err := validTake(m); err != nil {
		return nil, err
	}
	limit := time.Duration(m.LimitMillis) * time.Millisecond
	if limit == 0 {
		limit = takeLimit
	}
	ctx, cancel := context.WithTimeout(ctx, min(limit, mostLimit))
	defer cancel()
	s := &set{vss: v, book: book, mark: m.Mark}
	err := s.make(ctx, m, tell)
	if err == nil {
		return s, nil
	}
	tell(wire.StageUndo, err.Error())
	if failed := s.end(ctx, undoLimit); failed != nil {
		err = errors.Join(err, fmt.Errorf("take it back: %w", failed))
	}
	return nil, err
}

func validTake(m *wire.Take) error {
	if !markRule.MatchString(m.Mark) {
		return fmt.Errorf("mark %.40q: 26 of a-z and 2-7: %w", m.Mark, fs.ErrInvalid)
	}
	if len(m.VMs) == 0 || len(m.VMs) > maxSetVMs {
		return fmt.Errorf("%d VMs, 1 to %d: %w", len(m.VMs), maxSetVMs, fs.ErrInvalid)
	}
	for i, id := range m.VMs {
		if slices.Contains(m.VMs[:i], id) || vmID(id) != id {
			return fmt.Errorf("VM %.80q: twice, or not a GUID in small letters: %w", id, fs.ErrInvalid)
		}
	}
	return nil
}

// make is the order of R041 and of what follows in the host's hands: R042 to R049, R064 to R077, R101.
func (s *set) make(ctx context.Context, m *wire.Take, tell teller) (err error) {
	kind, look := Copy, ContextBackup
	if m.Full {
		kind = Full
	}
	if m.Transportable {
		look |= AttrTransportable
	}
	tell(wire.StageGather, "")
	var writers []Writer
	if s.backup, writers, err = begin(ctx, s.vss, look, kind); err != nil {
		return err
	}
	if s.vms, err = choose(ctx, s.vss, writers, m.VMs); err != nil {
		return err
	}
	for _, one := range s.vms {
		if err := s.backup.AddComponent(ctx, one.writer, one.component); err != nil {
			return err
		}
	}
	if err := s.addVolumes(ctx, tell); err != nil {
		return err
	}
	tell(wire.StagePrepare, "")
	s.prepared = true
	if err := s.backup.PrepareForBackup(ctx); err != nil {
		return err
	}
	if err := well(ctx, s.backup, s.vms); err != nil {
		return err
	}
	tell(wire.StageSnapshot, "guests freeze, volumes are pinned, data are recovered in the shadow copies")
	if err := s.backup.DoSnapshotSet(ctx); err != nil {
		return err
	}
	tell(wire.StageStatus, "")
	if err := well(ctx, s.backup, s.vms); err != nil {
		return err
	}
	return s.look(ctx)
}

// addVolumes begins the set, writes it down, and puts each volume into it once.
func (s *set) addVolumes(ctx context.Context, tell teller) (err error) {
	var names []string
	for _, one := range s.vms {
		for _, v := range one.volumes {
			if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, v.Name) }) {
				names = append(names, v.Name)
			}
		}
	}
	if len(names) > maxVolumes {
		return fmt.Errorf("%d volumes, at most %d in a set: make smaller groups", len(names), maxVolumes)
	}
	tell(wire.StageStart, "")
	waiting := func() { tell(wire.StageStart, "another program makes a shadow copy") }
	if s.id, err = startSet(ctx, s.backup, waiting); err != nil {
		return err
	}
	s.noted = true
	if err := s.book.Put(ctx, s.mark, s.id); err != nil {
		return fmt.Errorf("write down what is begun: %w", err)
	}
	for _, name := range names {
		id, err := s.backup.AddToSnapshotSet(ctx, name)
		if err != nil {
			return err
		}
		s.shadow = append(s.shadow, Snapshot{ID: id, Volume: name})
	}
	return nil
}

// look finds where the shadow copies are.
func (s *set) look(ctx context.Context) error {
	for i, one := range s.shadow {
		found, err := s.backup.GetSnapshotProperties(ctx, one.ID)
		if err != nil {
			return err
		}
		if err := s.checked(one, found); err != nil {
			return err
		}
		s.shadow[i].Device, s.shadow[i].Attributes = found.Device, found.Attributes
	}
	for _, m := range s.vms {
		for _, v := range m.volumes {
			p := place{v.Mount, s.of(v).Device}
			if p.device != "" && !slices.Contains(s.places, p) {
				s.places = append(s.places, p)
			}
		}
	}
	return nil
}

// of is the shadow copy of a volume.
func (s *set) of(v Volume) Snapshot {
	for _, one := range s.shadow {
		if strings.EqualFold(one.Volume, v.Name) {
			return one
		}
	}
	return Snapshot{}
}

// recovered reports whether a VM's writer has worked in all shadow copies of it.
func (s *set) recovered(m vm) bool {
	for _, v := range m.volumes {
		if s.of(v).Attributes&AttrAutorecover == 0 {
			return false
		}
	}
	return true
}

// finish tells the writers, and ends the backup. The shadow copies stay.
func (s *set) finish(ctx context.Context, good []string) error {
	if s.finished || s.gone {
		return errOrder
	}
	for _, id := range good {
		if !slices.ContainsFunc(s.vms, func(m vm) bool { return m.id == id }) {
			return fmt.Errorf("VM %.80q is not in the set: %w", id, fs.ErrInvalid)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, finishLimit)
	defer cancel()
	if len(good) == 0 {
		return s.abort(ctx)
	}
	for _, m := range s.vms {
		if err := s.backup.SetBackupSucceeded(ctx, m.writer, m.component, slices.Contains(good, m.id)); err != nil {
			return err
		}
	}
	if err := s.backup.BackupComplete(ctx); err != nil {
		return err
	}
	s.finished = true
	return well(ctx, s.backup, s.vms)
}

// abort tells the writers that there is no backup. That nothing had begun is no error.
func (s *set) abort(ctx context.Context) error {
	err := s.backup.AbortBackup(ctx)
	if codeOf(err) == BadState {
		err = nil
	}
	s.finished = err == nil
	return err
}

// end takes back all that there is of a set, from any state, in a time of its own. It may be called again after an error.
func (s *set) end(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	var problems []error
	if s.backup != nil && s.prepared && !s.finished && !s.closed {
		problems = append(problems, s.abort(ctx))
	}
	if err := s.remove(ctx); err != nil {
		problems = append(problems, err)
	} else if s.noted {
		err := s.book.Drop(ctx, s.mark, s.id)
		s.noted = err != nil
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// remove deletes the shadow copies, and lets go of the service, which deletes them too. They are gone when the service said that it
// deleted them, or when a look at all that there are finds none of them.
func (s *set) remove(ctx context.Context) error {
	if s.backup == nil {
		return nil
	}
	var failed error
	if !s.closed {
		s.closed = true
		failed = errors.Join(s.deleteOwn(ctx), s.backup.Close())
	}
	if s.id == "" || s.gone {
		return failed
	}
	// What does not persist went with its requester, or goes now: see.
	if err := deleteSet(ctx, s.vss, s.id); err != nil {
		return errors.Join(failed, err)
	}
	s.gone = true
	return nil
}

// deleteOwn deletes what was begun. That there is none, or that the service is not where it can say so, is no error: whoever looks sees.
func (s *set) deleteOwn(ctx context.Context) error {
	if s.id == "" || s.gone {
		return nil
	}
	err := s.backup.DeleteSnapshots(ctx, s.id)
	s.gone = err == nil
	if code := codeOf(err); code == ObjectNotFound || code == BadState {
		return nil
	}
	return err
}

// deleteSet deletes a set that any requester made, and looks whether it is gone.
func deleteSet(ctx context.Context, v VSS, id ID) (err error) {
	b, err := v.New(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := b.Initialize(ctx); err != nil {
		return err
	}
	if err := b.SetContext(ctx, ContextAll); err != nil {
		return err
	}
	there, err := has(ctx, b, id)
	if err != nil || !there {
		return err
	}
	if err := b.DeleteSnapshots(ctx, id); err != nil && codeOf(err) != ObjectNotFound {
		return err
	}
	if there, err = has(ctx, b, id); err == nil && there {
		err = fmt.Errorf("shadow copies of set %s are deleted and still there", string(id))
	}
	return err
}

func has(ctx context.Context, b Backup, id ID) (bool, error) {
	list, err := b.Query(ctx)
	return slices.ContainsFunc(list, func(s Snapshot) bool { return s.Set == id }), err
}

// sweep deletes what the book has of a mark.
func sweep(ctx context.Context, v VSS, book Book, mark string) (deleted []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, deleteLimit)
	defer cancel()
	ids, err := book.Sets(ctx, mark)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if failed := deleteSet(ctx, v, id); failed != nil {
			err = errors.Join(err, fmt.Errorf("set %s: %w", string(id), failed))
			continue
		}
		if failed := book.Drop(ctx, mark, id); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		deleted = append(deleted, string(id))
	}
	return deleted, err
}
