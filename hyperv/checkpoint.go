package hyperv

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
)

// kindCheckpoint is a production checkpoint of ours. Its effect is written down before the host is asked, so it cannot name an
// object: the mark in the checkpoint's name or notes is what finds it. A second one, written when the checkpoint is known,
// names the files that it made, and takes the first one's place.
const kindCheckpoint = "hyperv.checkpoint"

const (
	checkpointName = "hikae " // and the session, and the mark
	undoLimit      = 10 * time.Minute
	namingLimit    = 30 * time.Second // for finding out what to tell a person

	typeRecovery = 32768 // SnapshotType: a checkpoint for a backup
	recovery     = "Microsoft:Hyper-V:Snapshot:Recovery"

	levelApplication, levelCrash = uint8(1), uint8(2) // ConsistencyLevel
	backupFull, backupCopy       = uint8(1), uint8(2) // GuestBackupType
	buildGuestBackupType         = 15063              // knows it

	// A checkpoint may be in listings shortly after its job has ended only.
	listings    = 30
	listingWait = 500 * time.Millisecond
	jobPoll     = 500 * time.Millisecond // between two looks at a job, at most

	maxFacts = 32 << 10 // bytes of files that an effect names
)

var goodMark = regexp.MustCompile(`^[a-z2-7]{26}$`)

// marked is one checkpoint of ours: one that is going to be, is, or was.
type marked struct {
	p       *Provider
	vm      string // GUID
	mark    string
	name    string
	id      string   // InstanceID; empty: not made, or nothing proves which it is
	job     workID   // of the host, that makes it
	before  []string // InstanceIDs of all checkpoints that there were
	begun   time.Time
	warning string   // of the host, about the checkpoint that it made
	open    bool     // a call may have made one that nothing proves to be ours, or makes it yet
	unsure  bool     // it is there, and nobody told whether the guest was quiesced for it
	made    []string // files that the checkpoint made

	planned *planned
	journal hikae.Journal
	done    func(context.Context) error // nil: settled
}

// newMarked writes down that there is going to be a checkpoint.
func (p *Provider) newMarked(ctx context.Context, journal hikae.Journal, vm *planned, there []*cim.Instance) (*marked, error) {
	k := &marked{p: p, vm: vm.machine.ID, mark: strings.ToLower(rand.Text()), begun: time.Now(), planned: vm, journal: journal}
	k.name = checkpointName + k.mark
	if j, ok := journal.(interface{ Session() string }); ok && journal != nil {
		k.name = checkpointName + j.Session() + " " + k.mark
	}
	for _, in := range there {
		k.before = append(k.before, in.Text("InstanceID"))
	}
	return k, k.intend(ctx)
}

// intend writes down what is known. What was written before is replaced.
func (k *marked) intend(ctx context.Context) error {
	facts := map[string]string{"mark": k.mark, "name": k.planned.machine.Name, "begun": k.begun.UTC().Format(time.RFC3339)}
	if k.id == "" {
		facts["before"] = strings.Join(k.before, "\n")
		facts["job"], facts["jobHost"] = k.job.id, k.job.host
	} else {
		facts["checkpoint"] = k.id
	}
	var files []string
	for size, i := 0, 0; i < len(k.made); i++ {
		if size += len(k.made[i]) + 1; size > maxFacts {
			break
		}
		files = append(files, k.made[i])
	}
	facts["files"] = strings.Join(files, "\n")
	done, err := k.p.intend(ctx, k.journal, kindCheckpoint, k.planned, facts, "")
	if err != nil {
		return err
	}
	first := k.done
	if k.done = done; first == nil {
		return nil
	}
	return first(ctx)
}

// intend writes an effect down. Without a journal it is done at once.
func (p *Provider) intend(ctx context.Context, j hikae.Journal, kind string, vm *planned, facts map[string]string, repository string) (func(context.Context) error, error) {
	if j == nil {
		return func(context.Context) error { return nil }, nil
	}
	e := hikae.Effect{Kind: kind, VM: vm.machine.ID, Repository: repository, Facts: map[string]string{"site": p.site.Address(), "host": vm.host.Info().Name}}
	for k, v := range facts {
		if v != "" {
			e.Facts[k] = v
		}
	}
	return j.Intend(ctx, e)
}

// nameFiles writes down which files the checkpoint made, so that a later start can see whether they are merged.
func (k *marked) nameFiles(ctx context.Context, files []string) error {
	k.made = files
	return k.intend(ctx)
}

// wish is how a checkpoint is asked for.
type wish struct {
	level  uint8
	full   bool // of GuestBackupType
	ignore bool // disks that no checkpoint covers: the plan has named them all
}

// create asks for the checkpoint and waits for it. A VM that left its host meanwhile is asked for where it is now, once. That the
// host refused, or could not quiesce the guest, is its own error. Where its answer was lost, and nothing proves which checkpoint is
// ours, it is an *UnprovenError; the effect stays then.
func (k *marked) create(ctx context.Context, w wish) error {
	ctx, cancel := context.WithTimeoutCause(ctx, k.p.opts.CheckpointLimit, fmt.Errorf("no checkpoint within %v: %w", k.p.opts.CheckpointLimit, context.DeadlineExceeded))
	defer cancel()
	if err := k.anew(ctx); err != nil {
		return err
	}
	for try := 0; ; try++ {
		h, err := k.p.site.Owner(ctx, k.vm)
		var there bool
		if err == nil && try > 0 {
			there, err = k.cameAlong(ctx, h)
		}
		if err == nil && !there {
			err = k.createOn(ctx, h, w)
		}
		if !errors.Is(err, fs.ErrNotExist) || try > 0 || ctx.Err() != nil {
			return err
		}
	}
}

// cameAlong looks whether a VM that moved between the call and its answer took our checkpoint along: a second one would hide the first,
// which nobody would remove. Where the call's job had begun, and what may be its checkpoint bears no name, that is unproven.
func (k *marked) cameAlong(ctx context.Context, h *Host) (bool, error) {
	in, err := k.find(ctx, h, nil)
	if err != nil {
		return false, err
	}
	if in != nil {
		return true, k.giveName(ctx, h, in)
	}
	if k.job == (workID{}) {
		return false, nil
	}
	list, err := k.candidates(ctx, h)
	if err == nil && len(list) == 0 {
		return false, nil
	}
	k.open = true
	return false, k.proven(ctx, h, errors.Join(err, fmt.Errorf("VM %s moved while its checkpoint was made: %w", k.vm, errMoved)))
}

// errMoved is no fs.ErrNotExist, as errLate is none.
var errMoved = errors.New("its job is on another node")

// anew is where a call failed before. What it made, and what is gone again, is none of the next one's. What it may have made stays in
// the journal as it is: the next one has an effect of its own.
func (k *marked) anew(ctx context.Context) error {
	switch {
	case k.id != "":
		k.before = append(k.before, k.id)
	case k.open:
		h, err := k.p.site.Owner(ctx, k.vm)
		if err != nil {
			return err
		}
		there, err := h.checkpoints(ctx, k.vm)
		if err != nil {
			return err
		}
		for _, in := range there {
			k.before = append(k.before, in.Text("InstanceID"))
		}
		k.done = nil
	default:
		return nil
	}
	k.id, k.job, k.open, k.unsure, k.begun = "", workID{}, false, false, time.Now()
	return k.intend(ctx)
}

func (k *marked) createOn(ctx context.Context, h *Host, w wish) error {
	vm, err := h.vmRef(ctx, k.vm)
	if err != nil {
		return err
	}
	service, err := h.service(ctx, "Msvm_VirtualSystemSnapshotService")
	if err != nil {
		return err
	}
	set := &cim.Instance{Class: "Msvm_VirtualSystemSnapshotSettingData"}
	set.Set("ElementName", k.name) // a host that keeps it tells whose the checkpoint is from its first moment
	set.Set("ConsistencyLevel", w.level)
	set.Set("IgnoreNonSnapshottableDisks", w.ignore)
	if h.info.Build >= buildGuestBackupType {
		kind := backupCopy
		if w.full {
			kind = backupFull
		}
		set.Set("GuestBackupType", kind)
	}
	waiting := &cim.JobOptions{Limit: k.p.opts.CheckpointLimit, Poll: jobPoll, Started: func(job cim.Ref) error {
		k.job = workOf(h, job)
		return k.intend(ctx)
	}}
	out, err := h.client.Run(ctx, service, "CreateSnapshot", []cim.Property{{Name: "AffectedSystem", Value: vm},
		{Name: "SnapshotSettings", Value: set}, {Name: "SnapshotType", Value: uint16(typeRecovery)}}, waiting)
	var lost *cim.UnknownError
	if errors.As(err, &lost) {
		return k.unanswered(ctx, h, out, err)
	}
	return k.answered(ctx, h, out, err)
}

// answered is where the call, or its job, said how it ended.
func (k *marked) answered(ctx context.Context, h *Host, out *cim.Outcome, err error) error {
	var failed *cim.JobError
	if errors.As(err, &failed) { // some jobs do what they do, and fail then: nobody shall lose that out of sight
		in, found := k.find(ctx, h, out)
		if in == nil && found == nil {
			list, err := k.candidates(ctx, h)
			k.open, found = err != nil || len(list) > 0, err
		}
		return errors.Join(err, found)
	}
	if err != nil {
		return err
	}
	if out.State != nil && out.State.State == cim.JobWarnings {
		k.warning = cmp.Or(out.State.Description, out.State.Status, "no reason was given")
	}
	return k.proven(ctx, h, k.await(ctx, h, out))
}

// unanswered is where it is not known what became of the call. Where its job is known, that is asked once more; else nil says that a
// checkpoint is proven to be ours, and unsure that nobody told how it was made.
func (k *marked) unanswered(ctx context.Context, h *Host, out *cim.Outcome, why error) error {
	k.open = true
	if out != nil && !out.Job.Zero() {
		state, err := h.client.Wait(ctx, out.Job, &cim.JobOptions{Limit: k.p.opts.CheckpointLimit, Poll: jobPoll})
		var lost *cim.UnknownError
		if out.State = state; !errors.As(err, &lost) && (err == nil || state != nil) {
			return k.answered(ctx, h, out, err)
		}
	}
	if k.await(ctx, h, out) == nil {
		k.unsure = true
		return nil
	}
	return k.proven(ctx, h, why)
}

// proven adds to an error after which there may be a checkpoint of ours which of them that is, also when ctx is over.
func (k *marked) proven(ctx context.Context, h *Host, err error) error {
	if err == nil || !k.open || k.id != "" {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), namingLimit)
	defer cancel()
	return errors.Join(k.unproven(ctx, h), err)
}

// await waits until the checkpoint is listed. One that is not, after all that time, is errLate.
func (k *marked) await(ctx context.Context, h *Host, out *cim.Outcome) error {
	wait := listingWait / 16
	for deadline := time.Now().Add(listings * listingWait); ; wait = min(2*wait, listingWait) {
		in, err := k.find(ctx, h, out)
		if err != nil {
			return err
		}
		if in != nil {
			return k.giveName(ctx, h, in)
		}
		if time.Now().After(deadline) {
			k.open = true // it may be listed yet
			return fmt.Errorf("checkpoint %q of VM %s is not in its host's listings after %v: %w", k.name, k.vm, listings*listingWait, errLate)
		}
		if err := pause(ctx, wait); err != nil {
			k.open = true
			return err
		}
	}
}

// errLate is no fs.ErrNotExist: asking for another one would not help.
var errLate = errors.New("it came too late")

// find finds what a call made: what its job affected, else by mark. Its InstanceID is written down before anything else: some
// hosts name checkpoints themselves, and do not take our name.
func (k *marked) find(ctx context.Context, h *Host, out *cim.Outcome) (*cim.Instance, error) {
	if k.id == "" && out != nil {
		if err := k.resulted(ctx, h, out); err != nil {
			return nil, err
		}
		if k.id != "" {
			if err := k.intend(ctx); err != nil {
				return nil, err
			}
		}
	}
	known := k.id != ""
	in, err := k.look(ctx, h)
	if err == nil && in != nil && !known {
		err = k.intend(ctx)
	}
	return in, err
}

// resulted takes the InstanceID of what our own call, or its job, says that it made. Where they say nothing there is none.
func (k *marked) resulted(ctx context.Context, h *Host, out *cim.Outcome) error {
	in, err := h.resultOf(ctx, out, "ResultingSnapshot", cim.Hop{Association: "Msvm_AffectedJobElement", Result: settingClass})
	switch {
	case errors.Is(err, fs.ErrNotExist), out.Job.Zero() && errors.Is(err, cim.ErrMalformed):
		return nil
	case err != nil:
		return err
	case in.Text("VirtualSystemType") != recovery || !strings.EqualFold(in.Text("VirtualSystemIdentifier"), k.vm) || among(k.before, in.Text("InstanceID")):
		return fmt.Errorf("checkpoint of VM %s: %w: the host names %s as what it made", k.vm, cim.ErrMalformed, in.Text("InstanceID"))
	}
	k.id = in.Text("InstanceID")
	return nil
}

// giveName gives the checkpoint the name by which other sessions, and people, know whose it is. It is found without, too.
func (k *marked) giveName(ctx context.Context, h *Host, in *cim.Instance) error {
	if hasMark(in, k.mark) {
		return nil
	}
	service, err := h.service(ctx, "Msvm_VirtualSystemManagementService")
	if err != nil {
		return err
	}
	set := &cim.Instance{Class: settingClass}
	set.Set("InstanceID", k.id)
	set.Set("ElementName", k.name)
	set.Set("Notes", []string{k.mark})
	_, err = h.client.Run(ctx, service, "ModifySystemSettings", []cim.Property{{Name: "SystemSettings", Value: set}}, &cim.JobOptions{Poll: jobPoll})
	if err == nil || ctx.Err() != nil {
		return err
	}
	k.p.tell(k.vm, "checkpoint %s could not be given our name, so that other sessions do not know whose it is: %v", k.id, err)
	return nil
}

// look finds the checkpoint on a host, by reference where that is known, else by mark; nil where it is not there.
func (k *marked) look(ctx context.Context, h *Host) (*cim.Instance, error) {
	list, err := h.checkpoints(ctx, k.vm)
	if err != nil {
		return nil, err
	}
	for _, in := range list {
		id := in.Text("InstanceID")
		if k.id != "" && !strings.EqualFold(id, k.id) || k.id == "" && !hasMark(in, k.mark) {
			continue
		}
		if in.Text("VirtualSystemType") != recovery {
			return nil, fmt.Errorf("checkpoint %s of VM %s: %w: it is of type %.80q", id, k.vm, cim.ErrMalformed, in.Text("VirtualSystemType"))
		}
		k.id = id
		return in, nil
	}
	return nil, nil
}

// gone says whether nothing of it is listed any more, wherever the VM is.
func (k *marked) gone(ctx context.Context) (bool, error) {
	h, err := k.p.site.Owner(ctx, k.vm)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // with its VM
	}
	if err != nil {
		return false, err
	}
	in, err := k.look(ctx, h)
	return in == nil, err
}

const (
	removals   = 4 // times that a removal is asked for, where it was refused or its answer was lost
	firstPause = 50 * time.Millisecond
	pollEvery  = 2 * time.Second
)

// vanish returns nil when no checkpoint with the mark is listed. It asks where the VM runs now, each time: VMs move. Somebody
// else's work on the VM is waited for, as long as ctx lasts.
func (k *marked) vanish(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, undoLimit, fmt.Errorf("no end within %v: %w", undoLimit, context.DeadlineExceeded))
	defer cancel()
	var errs []error
	wait := firstPause
	for try := 0; try < removals; wait = min(2*wait, pollEvery) {
		h, err := k.p.site.Owner(ctx, k.vm)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		var in *cim.Instance
		if err == nil {
			in, err = k.look(ctx, h)
		}
		if err == nil && in == nil {
			return nil
		}
		if err == nil {
			err = h.destroyCheckpoint(ctx, in)
		}
		switch {
		case err == nil:
			try++ // it is looked for once more: listings may lag
		case !errors.Is(err, cim.ErrBusy) && !errors.Is(err, errState):
			errs = append(errs, err)
			try++
		}
		if paused := pause(ctx, wait); paused != nil {
			return fmt.Errorf("remove checkpoint %q of VM %s: %w", k.name, k.vm, errors.Join(append(errs, paused, err)...))
		}
	}
	if gone, err := k.gone(ctx); err != nil || gone {
		return err
	}
	return fmt.Errorf("remove checkpoint %q of VM %s: it is still listed: %w", k.name, k.vm, errors.Join(append(errs, errState)...))
}

// settle says that the checkpoint is gone. Where a call may have made one that nothing proves to be ours, that is for a sweep to see,
// when this session is over.
func (k *marked) settle(ctx context.Context) error {
	if k.done == nil {
		return nil
	}
	if k.open && k.id == "" {
		k.done = nil
		return nil
	}
	if err := k.done(ctx); err != nil {
		return err
	}
	k.done = nil
	return nil
}

const settingClass = "Msvm_VirtualSystemSettingData"

// errState says that an object is not in a state for what was asked: it may be soon.
var errState = errors.New("the VM is not in a state for this")

// destroyCheckpoint has the host remove one checkpoint. Its files are merged by the host, which may go on when this returns.
func (h *Host) destroyCheckpoint(ctx context.Context, in *cim.Instance) error {
	ref, err := in.Keyed(cim.Virtualization, "InstanceID")
	if err != nil {
		return err
	}
	service, err := h.service(ctx, "Msvm_VirtualSystemSnapshotService")
	if err != nil {
		return err
	}
	_, err = h.client.Run(ctx, service, "DestroySnapshot", []cim.Property{{Name: "AffectedSnapshot", Value: ref}}, &cim.JobOptions{Poll: jobPoll})
	var refused *cim.ReturnError
	if errors.As(err, &refused) && refused.Code == 32775 {
		return fmt.Errorf("%w: %w", errState, err)
	}
	return err
}

// checkpoints are all of a VM's, users' and backups'.
func (h *Host) checkpoints(ctx context.Context, vm string) ([]*cim.Instance, error) {
	ref, err := h.vmRef(ctx, vm)
	if err != nil {
		return nil, err
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	list, err := cim.All(h.client.Associators(ctx, ref, cim.Hop{Association: "Msvm_SnapshotOfVirtualSystem", Result: settingClass}, nil))
	if err != nil {
		return nil, fmt.Errorf("checkpoints of VM %s: %w", vm, err)
	}
	return list, nil
}

// ourCheckpoints are those that some session of this program made.
func ourCheckpoints(list []*cim.Instance) (ours []*cim.Instance) {
	for _, in := range list {
		name := in.Text("ElementName")
		words := strings.Fields(name)
		if in.Text("VirtualSystemType") == recovery && strings.HasPrefix(name, checkpointName) && len(words) > 1 && goodMark.MatchString(words[len(words)-1]) {
			ours = append(ours, in)
		}
	}
	return ours
}

// hasMark: the mark is a word of its name, or of its notes.
func hasMark(in *cim.Instance, mark string) bool {
	var set struct {
		Name  string   `cim:"ElementName,optional"`
		Notes []string `cim:"Notes"`
	}
	if in.Decode(&set) != nil {
		return false
	}
	return slices.ContainsFunc(append(set.Notes, set.Name), func(s string) bool { return slices.Contains(strings.Fields(s), mark) })
}

func (h *Host) vmRef(ctx context.Context, vm string) (cim.Ref, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	in, err := h.find(ctx, vm)
	if err != nil {
		return cim.Ref{}, err
	}
	return in.Keyed(cim.Virtualization, "CreationClassName", "Name")
}

// service is the only instance of a service's class.
func (h *Host) service(ctx context.Context, class string) (cim.Ref, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	in, err := cim.One(h.client.Query(ctx, cim.Virtualization, "SELECT * FROM "+class, nil))
	if err != nil {
		return cim.Ref{}, err
	}
	return in.Keyed(cim.Virtualization, "SystemCreationClassName", "SystemName", "CreationClassName", "Name")
}

// resultOf is what a method made: its output parameter, or what its job affected.
func (h *Host) resultOf(ctx context.Context, out *cim.Outcome, parameter string, hop cim.Hop) (*cim.Instance, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	if v, _ := out.Out.Value(parameter); v != nil {
		if ref, ok := v.(cim.Ref); ok {
			return h.client.Get(ctx, ref)
		}
	}
	if out.Job.Zero() {
		return nil, fmt.Errorf("%w: no %s, and no job", cim.ErrMalformed, parameter)
	}
	return cim.One(h.client.Associators(ctx, out.Job, hop, nil))
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
