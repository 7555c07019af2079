package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/hyperv/cim"
)

// UnprovenError says that a host may have made a checkpoint for us, or a reference point, and that nothing proves which of those that
// are new it is: the answer to our call was lost, or the session died before it knew, and the host kept neither our name nor the
// job. Other products make them too, so none is taken, renamed or removed. A person can tell.
type UnprovenError struct {
	VM         string      // GUID
	What       string      // checkpoint, reference point
	Candidates []Candidate // those that may be ours
	Hint       string      // what a person can do
}

// Candidate is one that may be ours.
type Candidate struct {
	ID   string    // InstanceID
	Name string    // as the host calls it
	Made time.Time // by the host's clock; zero where it does not say
}

func (c Candidate) String() string {
	text := fmt.Sprintf("%.200q (%.200s", c.Name, c.ID)
	if !c.Made.IsZero() {
		text += ", made " + c.Made.UTC().Format(time.RFC3339)
	}
	return text + ")"
}

func (e *UnprovenError) Error() string {
	var list []string
	for _, c := range e.Candidates {
		list = append(list, c.String())
	}
	return fmt.Sprintf("VM %s: a %s may be ours, and nothing proves it, so it was left as it is: %s", e.VM, e.What, strings.Join(list, ", "))
}

const (
	unprovenCheckpoint = "if no other backup product works with this VM, or none of its backups is under way, remove it on the host: Get-VMSnapshot -VMName NAME -SnapshotType Recovery, and Remove-VMSnapshot; its files grow until then. This ends by itself when none of them is left"
	unprovenReference  = "if no other backup product works with this VM, remove it on the host by Msvm_VirtualSystemReferencePointService.DestroyReferencePoint; one too many costs the host a little, and one that is another product's makes its next backup a full one"
)

// clockSlack is how far a host's clock, which stamps checkpoints, may be from ours.
const clockSlack = time.Hour

// candidates are the checkpoints for a backup that were not there before, that were made when ours was asked for, or may have been,
// and that no session of ours has put a mark on.
func (k *marked) candidates(ctx context.Context, h *Host) (out []Candidate, err error) {
	list, err := h.checkpoints(ctx, k.vm)
	if err != nil {
		return nil, err
	}
	for _, in := range list {
		c := candidateOf(in)
		timely := c.Made.IsZero() || c.Made.After(k.begun.Add(-clockSlack)) && c.Made.Before(k.begun.Add(k.p.opts.CheckpointLimit+clockSlack))
		if in.Text("VirtualSystemType") == recovery && timely && !among(k.before, c.ID) && len(ourCheckpoints([]*cim.Instance{in})) == 0 {
			out = append(out, c)
		}
	}
	return out, nil
}

func candidateOf(in *cim.Instance) Candidate {
	return Candidate{ID: in.Text("InstanceID"), Name: in.Text("ElementName"), Made: madeAt(in)}
}

// madeAt is zero where the host does not say, or not in a form that is known.
func madeAt(in *cim.Instance) time.Time {
	var set struct {
		Made time.Time `cim:"CreationTime,optional"`
	}
	if in.Decode(&set) != nil {
		return time.Time{}
	}
	return set.Made
}

// unproven is an *UnprovenError where there are candidates, and nil where there are none.
func (k *marked) unproven(ctx context.Context, h *Host) error {
	list, err := k.candidates(ctx, h)
	if err != nil || len(list) == 0 {
		return err
	}
	return &UnprovenError{VM: k.vm, What: "checkpoint", Candidates: list, Hint: unprovenCheckpoint}
}

// workID is a job of a host that a call of ours started. Only such a job's result is ours: that one is about the same VM, at the same
// time, proves nothing.
type workID struct{ id, host string }

func workOf(h *Host, job cim.Ref) workID { return workID{job.Key("InstanceID"), h.info.Name} }

// end waits for a job to end, and returns it as an outcome on its host; none where the host does not know it any more, or is gone.
func (w workID) end(ctx context.Context, p *Provider) (*Host, *cim.Outcome, error) {
	if w.id == "" || w.host == "" {
		return nil, nil, nil
	}
	h, err := p.site.HostNamed(ctx, w.host)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	job := cim.Ref{Namespace: cim.Virtualization, Class: "Msvm_ConcreteJob", Keys: []cim.Key{{Name: "InstanceID", Value: w.id}}}
	_, err = h.client.Wait(ctx, job, &cim.JobOptions{Limit: sweepMerge, Poll: jobPoll})
	var failed *cim.JobError
	switch {
	case errors.Is(err, cim.ErrJobGone):
		return nil, nil, nil
	case err != nil && !errors.As(err, &failed): // one that failed may have made it all the same
		return nil, nil, fmt.Errorf("job %.60s of %s: %w", w.id, w.host, err)
	}
	return h, &cim.Outcome{Out: &cim.Instance{}, Job: job}, nil
}

// among: ids differ in no more than the case of their letters.
func among(ids []string, id string) bool {
	return slices.ContainsFunc(ids, func(one string) bool { return strings.EqualFold(one, id) })
}
