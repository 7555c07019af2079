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
	ref   cim.Ref
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
		h, err := p.site.Owner(ctx, vm)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		var left []reference
		if err == nil {
			left, err = h.references(ctx, vm)
		}
		left = slices.DeleteFunc(left, func(r reference) bool {
			return !slices.ContainsFunc(ids, func(id string) bool { return strings.EqualFold(id, r.ID) })
		})
		if err == nil && len(left) == 0 {
			return nil
		}
		if last = err; try < removals {
			for _, r := range left {
				last = errors.Join(last, h.destroyReference(ctx, r))
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

// succession is the old base of a disk's tracking and the new one. Until the point is durable the new one can go; afterwards the
// old one does. At no moment is neither there.
type succession struct {
	k       *marked
	vm      *planned
	journal hikae.Journal
	repo    string
	before  []string // ids of all that there were
	base    []string // ids of the old base: the caller's point names them
	now     reference
	done    func(context.Context) error // nil: settled
}

// convert turns the checkpoint into a reference point, which also removes the checkpoint. Nil and no id: the host refused, and the
// checkpoint is as it was; why tells it.
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
	if err := c.intend(ctx, map[string]string{"references": strings.Join(c.before, "\n")}); err != nil {
		return nil, err
	}
	out, asked := c.ask(ctx, h)
	var lost *cim.UnknownError
	unanswered := errors.As(asked, &lost)
	if asked == nil {
		err = c.told(ctx, h, out)
	}
	if err == nil && c.now.ID == "" {
		err = c.find(ctx, asked != nil, unanswered)
	}
	if err != nil {
		return nil, errors.Join(asked, err)
	}
	if c.now.ID == "" {
		if asked == nil || unanswered || ctx.Err() != nil {
			return nil, fmt.Errorf("checkpoint %q of VM %s: the reference point is not there: %w", c.k.name, c.k.vm, errors.Join(asked, fs.ErrNotExist))
		}
		return asked, c.settle(ctx) // nothing was made, and nothing is to be looked for
	}
	return nil, c.intend(ctx, map[string]string{"reference": c.now.ID, "base": strings.Join(c.base, "\n")})
}

// intend writes the effect down; one that was written before is replaced.
func (c *succession) intend(ctx context.Context, facts map[string]string) error {
	facts["mark"], facts["checkpoint"], facts["begun"] = c.k.mark, c.k.id, c.k.begun.UTC().Format(time.RFC3339)
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
	return h.client.Run(ctx, service, "ConvertToReferencePoint", []cim.Property{{Name: "AffectedSnapshot", Value: ref},
		{Name: "ReferencePointSettings", Value: ""}}, &cim.JobOptions{Limit: c.k.p.opts.CheckpointLimit, Poll: jobPoll})
}

// told is what the host says it made: that alone is ours, whatever else is new. Where it says nothing, find looks.
func (c *succession) told(ctx context.Context, h *Host, out *cim.Outcome) error {
	in, err := h.resultOf(ctx, out, "ResultingReferencePoint", cim.Hop{Association: "Msvm_AffectedJobElement", Result: referenceClass})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, cim.ErrMalformed) {
		return nil
	}
	if err != nil {
		return err
	}
	id := in.Text("InstanceID")
	if slices.ContainsFunc(c.before, func(b string) bool { return strings.EqualFold(b, id) }) {
		return fmt.Errorf("VM %s: %w: the host names %s as what it made, which was there before", c.k.vm, cim.ErrMalformed, id)
	}
	wait := firstPause
	for n := 0; n < listings; n++ { // listings may lag
		list, err := h.references(ctx, c.k.vm)
		if err != nil {
			return err
		}
		for _, r := range list {
			if strings.EqualFold(r.ID, id) {
				c.now = r
				return nil
			}
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, listingWait)
	}
	return fmt.Errorf("VM %s: reference point %s is made and not in its host's listings: %w", c.k.vm, id, errLate)
}

// find looks for what became of the checkpoint where the host did not say: where it is still there nothing did, else one reference
// point is new. Listings may lag. After a call that failed a checkpoint that stays for a while has stayed, and one that is gone was made
// nothing of: what is new then is somebody else's.
func (c *succession) find(ctx context.Context, failed, unanswered bool) error {
	wait := firstPause
	for n := 0; n < listings; n++ {
		gone, err := c.k.gone(ctx)
		if err != nil {
			return err
		}
		if !gone && failed && n > 3 || gone && failed && !unanswered {
			return nil
		}
		if gone {
			fresh, err := c.fresh(ctx, nil)
			if err != nil {
				return err
			}
			if len(fresh) == 1 {
				c.now = fresh[0]
				return nil
			}
			if len(fresh) > 1 {
				return c.ambiguous(fresh)
			}
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, listingWait)
	}
	return nil
}

func (c *succession) ambiguous(list []reference) error {
	var ids []string
	for _, r := range list {
		ids = append(ids, r.ID)
	}
	return fmt.Errorf("VM %s: %d reference points are new, and which is ours is not known: %s; nothing was removed", c.k.vm, len(list), strings.Join(ids, ", "))
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
		same := func(id string) bool { return strings.EqualFold(id, r.ID) }
		if !slices.ContainsFunc(c.before, same) && !slices.ContainsFunc(named, same) {
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
	if c.now.ID == "" {
		if err := c.unproven(ctx, nil); err != nil {
			return err
		}
	} else {
		if err := c.k.p.dropReferences(ctx, c.k.vm, []string{c.now.ID}); err != nil {
			return err
		}
	}
	return c.settle(ctx)
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
		if m, err := parseMoment(id); err == nil && !slices.Contains(out, m.ref) {
			out = append(out, m.ref)
		}
	}
	return out
}

// undoReference lets a reference point go that no committed point names; where one names it, the base that it replaced goes, as that
// session would have done. Where the session died before it knew the id, the one that is new since then is meant, and only where
// there is exactly one.
func undoReference(ctx context.Context, p *Provider, e hikae.Effect, keep []hikae.ChangeID) error {
	k, err := markedOf(p, e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.opts.CheckpointLimit)
	defer cancel()
	c := &succession{k: k, done: func(context.Context) error { return nil }, before: linesOf(e.Facts["references"]), base: linesOf(e.Facts["base"])}
	if c.now.ID = e.Facts["reference"]; c.now.ID != "" {
		kept := referencesOf(keep)
		named := func(id string) bool {
			return slices.ContainsFunc(kept, func(k string) bool { return strings.EqualFold(k, id) })
		}
		c.base = slices.DeleteFunc(c.base, named)
		if named(c.now.ID) {
			return c.commit(ctx)
		}
		return c.abandon(ctx)
	}
	if err := k.vanish(ctx); err != nil { // what is being turned into one is busy, and waited for
		return err
	}
	return c.unproven(ctx, keep)
}

// unproven leaves alone what is new and may be ours: other products make reference points too, and theirs are bases of theirs. A person
// is told. One that is too many costs its host a little, and somebody's base that is gone a full backup.
func (c *succession) unproven(ctx context.Context, keep []hikae.ChangeID) error {
	fresh, err := c.fresh(ctx, keep)
	if err != nil {
		return err
	}
	for _, r := range fresh {
		c.k.p.tell(c.k.vm, "reference point %s is new since a session of ours ended without an answer; nothing proves that it is ours, and it was left", r.ID)
	}
	return c.settle(ctx)
}

func linesOf(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}
