package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
)

// kindReference is a reference point that a checkpoint of ours is turned into. Whether it stays depends on which points were
// committed, so only a sweep that knows the repository's points undoes it. It is written down twice: before the host is asked, with
// the reference points that there are, and when ours is known, with its id.
const kindReference = "hyperv.reference"

const (
	referenceClass   = "Msvm_VirtualSystemReferencePoint"
	referenceService = "Msvm_VirtualSystemReferencePointService"
	maxReferences    = 512
)

// reference is one reference point as its host describes it.
type reference struct {
	ID    string   `cim:"InstanceID"`
	Disks []string `cim:"VirtualDiskIdentifiers"`
	RCT   []string `cim:"ResilientChangeTrackingIdentifiers"`
	Name  string   `cim:"ElementName,optional"`
	made  time.Time
	ref   cim.Ref
	on    *Host
}

// references are all reference points of a VM: ours and those of other programs.
func (h *Host) references(ctx context.Context, vm string) ([]reference, error) {
	system, err := h.vmRef(ctx, vm)
	if err != nil {
		return nil, err
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	list, err := cim.All(h.client.Associators(ctx, system, cim.Hop{Association: "Msvm_ReferencePointOfVirtualSystem", Result: referenceClass}, nil))
	if err != nil {
		return nil, fmt.Errorf("reference points of VM %s: %w", vm, err)
	}
	if len(list) > maxReferences {
		return nil, fmt.Errorf("VM %s: %w: %d reference points", vm, cim.ErrMalformed, len(list))
	}
	out := make([]reference, len(list))
	for i, in := range list {
		if err := in.Decode(&out[i]); err != nil {
			return nil, err
		}
		out[i].on, out[i].made = h, madeAt(in)
		if out[i].ref, err = in.Keyed(cim.Virtualization, "InstanceID"); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// rct is the host's change id of a disk. The host calls disks by the settings that name their files, or by the disks' own ids; never
// by their order.
func (r *reference) rct(d *Disk) (string, error) {
	if len(r.Disks) != len(r.RCT) {
		return "", fmt.Errorf("reference point %s: %w: %d disks and %d change ids", r.ID, cim.ErrMalformed, len(r.Disks), len(r.RCT))
	}
	found := ""
	for i, name := range r.Disks {
		if !d.called(name) {
			continue
		}
		if found != "" && found != r.RCT[i] {
			return "", fmt.Errorf("reference point %s: %w: disk %s has two change ids", r.ID, cim.ErrMalformed, d.Key)
		}
		found = r.RCT[i]
	}
	if len(found) > maxRCT {
		return "", fmt.Errorf("reference point %s: %w: a change id of %d bytes", r.ID, cim.ErrMalformed, len(found))
	}
	return found, nil
}

// called says whether an identifier is the disk's: its own id, or the InstanceID of its setting, which begins with the id of the VM or
// of the checkpoint.
func (d *Disk) called(name string) bool {
	if strings.EqualFold(strings.Trim(name, "{}"), d.Key) {
		return true
	}
	_, mine, ok := strings.Cut(d.instance, `\`)
	_, its, is := strings.Cut(name, `\`)
	return ok && is && mine != "" && strings.EqualFold(mine, its)
}

// destroyReference has the host let go of a reference point. One that is not there is no error.
func (h *Host) destroyReference(ctx context.Context, r reference) error {
	service, err := h.service(ctx, referenceService)
	if err != nil {
		return err
	}
	_, err = h.client.Run(ctx, service, "DestroyReferencePoint", []cim.Property{{Name: "AffectedReferencePoint", Value: r.ref}}, &cim.JobOptions{Poll: jobPoll})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reference point %s: %w", r.ID, err)
	}
	return nil
}

// dropReferences destroys those of a VM that are named, wherever it is now, and sees that they are gone. A VM that is gone has
// none.
func (p *Provider) dropReferences(ctx context.Context, vm string, ids []string) error {
	var last error
	wait := firstPause
	for try := 0; try <= removals && len(ids) > 0; try++ {
		left, err := p.referencesNamed(ctx, vm, ids)
		if err == nil && len(left) == 0 {
			return nil
		}
		if last = err; try < removals {
			for _, r := range left {
				last = errors.Join(last, r.on.destroyReference(ctx, r))
			}
		}
		if last != nil || try > 0 {
			if err := pause(ctx, wait); err != nil {
				return fmt.Errorf("reference points of VM %s: %w", vm, errors.Join(err, last))
			}
			wait *= 2
		}
	}
	if last == nil && len(ids) > 0 {
		last = fmt.Errorf("%d that were destroyed are still listed", len(ids))
	}
	if last != nil {
		return fmt.Errorf("reference points of VM %s: %w", vm, last)
	}
	return nil
}

// referencesNamed are those of a VM that are named, wherever it is now. A VM that is gone has none.
func (p *Provider) referencesNamed(ctx context.Context, vm string, ids []string) ([]reference, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	h, err := p.site.Owner(ctx, vm)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := h.references(ctx, vm)
	return slices.DeleteFunc(list, func(r reference) bool { return !among(ids, r.ID) }), err
}

// sweepReferences is dropReferences, and tells of those that were there.
func (p *Provider) sweepReferences(ctx context.Context, vm string, ids []string) error {
	there, err := p.referencesNamed(ctx, vm, ids)
	if err == nil {
		err = p.dropReferences(ctx, vm, ids)
	}
	if err != nil {
		return err
	}
	for _, r := range there {
		p.swept(vm, "reference point %s", r.ID)
	}
	return nil
}

// succession is the old base of a disk's tracking and the new one. Until the point is durable the new one can go; afterwards the
// old one does. At no moment is neither there.
type succession struct {
	k       *marked
	vm      *planned
	journal hikae.Journal
	repo    string
	job     workID   // of the host, that makes the new one
	before  []string // ids of all that there were
	base    []string // ids of the old base: the last point names them
	now     reference
	done    func(context.Context) error // nil: settled
}

// convert turns the checkpoint into a reference point, which also removes the checkpoint. Nil and no id: there is none that is proven to
// be ours, because the host refused, or its answer was lost; why tells it. The point is good all the same.
func (c *succession) convert(ctx context.Context) (why, err error) {
	h, err := c.k.p.site.Owner(ctx, c.k.vm)
	if err != nil {
		return nil, err
	}
	there, err := h.references(ctx, c.k.vm)
	if err != nil {
		return nil, err
	}
	for _, r := range there {
		c.before = append(c.before, r.ID)
	}
	if err := c.intend(ctx); err != nil {
		return nil, err
	}
	out, asked := c.ask(ctx, h)
	if ctx.Err() != nil && asked != nil {
		return nil, asked
	}
	if err := c.told(ctx, h, out); err != nil {
		return nil, errors.Join(asked, err)
	}
	if c.now.ID == "" {
		var lost *cim.UnknownError
		switch {
		case asked == nil:
			return errors.New("the host does not say what it made of it"), nil
		case errors.As(asked, &lost):
			return asked, nil
		}
		return asked, c.settle(ctx) // nothing was made, and nothing is to be looked for
	}
	return nil, c.intend(ctx)
}

// intend writes the effect down; one that was written before is replaced.
func (c *succession) intend(ctx context.Context) error {
	facts := map[string]string{"mark": c.k.mark, "checkpoint": c.k.id, "begun": c.k.begun.UTC().Format(time.RFC3339), "base": strings.Join(c.base, "\n")}
	if facts["reference"] = c.now.ID; c.now.ID == "" {
		facts["references"], facts["job"], facts["jobHost"] = strings.Join(c.before, "\n"), c.job.id, c.job.host
	}
	done, err := c.k.p.intend(ctx, c.journal, kindReference, c.vm, facts, c.repo)
	if err != nil {
		return err
	}
	first := c.done
	c.done = done
	if first == nil {
		return nil
	}
	return first(ctx)
}

func (c *succession) ask(ctx context.Context, h *Host) (*cim.Outcome, error) {
	in, err := c.k.look(ctx, h)
	if err != nil {
		return nil, err
	}
	if in == nil {
		return nil, fmt.Errorf("checkpoint %q of VM %s: %w", c.k.name, c.k.vm, fs.ErrNotExist)
	}
	ref, err := in.Keyed(cim.Virtualization, "InstanceID")
	if err != nil {
		return nil, err
	}
	service, err := h.service(ctx, "Msvm_VirtualSystemSnapshotService")
	if err != nil {
		return nil, err
	}
	waiting := &cim.JobOptions{Limit: c.k.p.opts.CheckpointLimit, Poll: jobPoll, Started: func(job cim.Ref) error {
		c.job = workOf(h, job)
		return c.intend(ctx)
	}}
	return h.client.Run(ctx, service, "ConvertToReferencePoint", []cim.Property{{Name: "AffectedSnapshot", Value: ref},
		{Name: "ReferencePointSettings", Value: ""}}, waiting)
}

// told is what the host says it made, by the call or by its job: that alone is ours, whatever else is new. Where it says nothing there is
// none, and what is new may be somebody else's: its ids may be of a later moment, and what was written between would be in no
// increment.
func (c *succession) told(ctx context.Context, h *Host, out *cim.Outcome) error {
	if out == nil {
		return nil
	}
	in, err := h.resultOf(ctx, out, "ResultingReferencePoint", cim.Hop{Association: "Msvm_AffectedJobElement", Result: referenceClass})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, cim.ErrMalformed) {
		return nil
	}
	if err != nil {
		return err
	}
	id := in.Text("InstanceID")
	if among(c.before, id) {
		return fmt.Errorf("VM %s: %w: the host names %s as what it made, which was there before", c.k.vm, cim.ErrMalformed, id)
	}
	// It is ours from here on, whatever becomes of the VM's place and of the listing.
	c.now = reference{ID: id}
	if err := c.intend(ctx); err != nil {
		return err
	}
	var last error
	wait := firstPause
	for n := 0; n < listings; n++ { // listings may lag, and the VM may have left
		list, err := c.k.p.referencesNamed(ctx, c.k.vm, []string{id})
		if last = err; err == nil && len(list) > 0 {
			c.now = list[0]
			return nil
		}
		if err := pause(ctx, wait); err != nil {
			return errors.Join(err, last)
		}
		wait = min(2*wait, listingWait)
	}
	if last != nil {
		return last
	}
	return fmt.Errorf("VM %s: reference point %s is made and not in its host's listings: %w", c.k.vm, id, errLate)
}

// fresh are the reference points that were not there before, but those that points name.
func (c *succession) fresh(ctx context.Context, keep []hikae.ChangeID) (out []reference, err error) {
	h, err := c.k.p.site.Owner(ctx, c.k.vm)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := h.references(ctx, c.k.vm)
	if err != nil {
		return nil, err
	}
	named := referencesOf(keep)
	for _, r := range list {
		if !among(c.before, r.ID) && !among(named, r.ID) {
			out = append(out, r)
		}
	}
	return out, nil
}

// commit lets the old base go: the new one is the point's from now on.
func (c *succession) commit(ctx context.Context) error {
	if err := c.k.p.dropReferences(ctx, c.k.vm, c.base); err != nil {
		return err
	}
	return c.settle(ctx)
}

// abandon lets the new one go, and leaves the old base as it is. The checkpoint must be gone: it could become a reference point yet.
func (c *succession) abandon(ctx context.Context) error {
	if c.done == nil {
		return nil
	}
	if err := c.byJob(ctx); err != nil {
		return err
	}
	if c.now.ID == "" {
		if err := c.left(ctx, nil); err != nil {
			return err
		}
	} else if err := c.k.p.dropReferences(ctx, c.k.vm, []string{c.now.ID}); err != nil {
		return err
	}
	return c.settle(ctx)
}

// byJob asks the job that our own call started what it made, where nobody has told yet.
func (c *succession) byJob(ctx context.Context) error {
	if c.now.ID != "" {
		return nil
	}
	h, out, err := c.job.end(ctx, c.k.p)
	if err != nil {
		return err
	}
	return c.told(ctx, h, out)
}

func (c *succession) settle(ctx context.Context) error {
	if c.done == nil {
		return nil
	}
	if err := c.done(ctx); err != nil {
		return err
	}
	c.done = nil
	return nil
}

// referencesOf are the reference points that change ids of ours name.
func referencesOf(ids []hikae.ChangeID) (out []string) {
	for _, id := range ids {
		if m, err := parseMoment(id); err == nil && !among(out, m.ref) {
			out = append(out, m.ref)
		}
	}
	return out
}

// undoReference lets a reference point go that no committed point names. Where one names it, that session's point is durable, and the base
// that it left behind goes, as that session would have done; only a point after it rests on anything. Where the session died before it
// knew the id, its job tells which one is meant; where nothing does, what is new is left, and told.
func undoReference(ctx context.Context, p *Provider, e hikae.Effect, keep []hikae.ChangeID) error {
	k, err := markedOf(p, e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.opts.CheckpointLimit)
	defer cancel()
	id := e.Facts["reference"]
	if id != "" && among(referencesOf(keep), id) {
		return p.sweepReferences(ctx, k.vm, linesOf(e.Facts["base"]))
	}
	c := &succession{k: k, job: k.job, before: linesOf(e.Facts["references"])}
	if c.now.ID = id; id == "" {
		if err := k.sweep(ctx); err != nil { // what is being turned into one is busy, and waited for
			return err
		}
	}
	if err := c.byJob(ctx); err != nil {
		return err
	}
	if c.now.ID == "" {
		return c.left(ctx, keep)
	}
	return p.sweepReferences(ctx, k.vm, []string{c.now.ID})
}

// left tells of what is new and may be ours, which is left: one that is too many costs its host a little, and somebody's base that is gone
// a full backup.
func (c *succession) left(ctx context.Context, keep []hikae.ChangeID) error {
	err := c.unproven(ctx, keep)
	if unproven := (*UnprovenError)(nil); errors.As(err, &unproven) {
		c.k.p.tell(c.k.vm, "%v (%s)", unproven, unproven.Hint)
		return nil
	}
	return err
}

// unproven is an *UnprovenError where there are new ones that may be ours.
func (c *succession) unproven(ctx context.Context, keep []hikae.ChangeID) error {
	fresh, err := c.fresh(ctx, keep)
	if err != nil || len(fresh) == 0 {
		return err
	}
	e := &UnprovenError{VM: c.k.vm, What: "reference point", Hint: unprovenReference}
	for _, r := range fresh {
		e.Candidates = append(e.Candidates, Candidate{ID: r.ID, Name: r.Name, Made: r.made})
	}
	return e
}

func linesOf(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}
