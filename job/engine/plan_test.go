package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/engine"
)

// together is a shop where some VMs share a snapshot. Nobody in these tests takes one.
type together struct {
	*shop
	groups [][]string
}

func (s *together) Group(context.Context, []string) ([][]string, error) { return s.groups, nil }
func (s *together) SnapshotGroup(context.Context, []string, *hikae.SnapshotOptions) ([]hikae.Snapshot, error) {
	return nil, errors.New("only planned")
}

// R161, R197: a plan says what would be done, disk by disk, what stops it and in what order; it changes nothing, and goes through JSON unchanged.
func TestPlan(t *testing.T) {
	s := newShop(4, 2, 1<<20, 4)
	r := openRepository(t, t.TempDir())
	defer func() { require.NoError(t, r.Close()) }()
	tasks, release, err := engine.Backups(t.Context(), s, []string{"vm-0", "vm-1"}, r, nil)
	require.NoError(t, err)
	res, err := engine.Run(t.Context(), "nightly", tasks, nil)
	require.NoError(t, err)
	require.NoError(t, release(t.Context()))

	s.vms[0].Disks = append(s.vms[0].Disks, hikae.Disk{Key: "new", Size: 5}, hikae.Disk{Key: "raw", Size: 6, Skip: "it is a physical disk"})
	s.vms[1].Disks = []hikae.Disk{{Key: "disk0", Size: 2 << 20}}
	taken, errQuiet := s.taken.Load(), errors.New("the host does not answer")
	p, err := engine.PlanBackups(t.Context(), &together{s, [][]string{{"vm-0", "vm-3"}}}, nil, r, &engine.PlanOptions{
		Check: func(_ context.Context, vm hikae.VM) ([]engine.Problem, error) {
			switch vm.ID {
			case "vm-2":
				return []engine.Problem{{What: "tracking is off", Means: "each backup reads all"}}, nil
			case "vm-3":
				return nil, errQuiet
			}
			return nil, nil
		}})
	require.NoError(t, err)
	require.Equal(t, taken, s.taken.Load(), "nothing is pinned for a plan")
	require.Equal(t, []engine.Planned{
		{ID: "vm-0", VM: "vm000", Needs: []string{"host/esx0"}, Claim: "vm/vm-0", Group: 1, Base: res.Tasks[0].Point, Facts: map[string]string{"host": "esx0"},
			Problems: []engine.Problem{}, Disks: []engine.PlannedDisk{{Key: "disk0", Size: 1 << 20, Method: job.Changed},
				{Key: "new", Size: 5, Method: job.Allocated, Why: "the disk is new"}, {Key: "raw", Size: 6, Why: "it is a physical disk"}}},
		{ID: "vm-3", VM: "vm003", Needs: []string{"host/esx1"}, Claim: "vm/vm-3", Group: 1, Facts: map[string]string{"host": "esx1"}, Stopped: true,
			Problems: []engine.Problem{{What: "the host does not answer", Means: "whether it can be backed up is not known", Stops: true, Err: errQuiet}},
			Disks:    []engine.PlannedDisk{{Key: "disk0", Size: 1 << 20, Method: job.Allocated, Why: "there is no point to build on"}}},
		{ID: "vm-1", VM: "vm001", Needs: []string{"host/esx1"}, Claim: "vm/vm-1", Base: res.Tasks[1].Point, Facts: map[string]string{"host": "esx1"},
			Problems: []engine.Problem{}, Disks: []engine.PlannedDisk{{Key: "disk0", Size: 2 << 20, Method: job.Allocated, Why: "the disk was resized from 1048576 to 2097152 bytes"}}},
		{ID: "vm-2", VM: "vm002", Needs: []string{"host/esx0"}, Claim: "vm/vm-2", Facts: map[string]string{"host": "esx0"},
			Problems: []engine.Problem{{What: "tracking is off", Means: "each backup reads all"}},
			Disks:    []engine.PlannedDisk{{Key: "disk0", Size: 1 << 20, Method: job.Allocated, Why: "there is no point to build on"}}},
	}, p.Tasks)
	require.Equal(t, 1, p.Stopped())
	for _, line := range []string{"vm000: base " + res.Tasks[0].Point + ", needs host/esx0, shares snapshot 1\n", "  disk0: 1048576 bytes, what changed\n",
		"  raw: 6 bytes, skipped: it is a physical disk\n", "  stopped: the host does not answer (whether it can be backed up is not known)\n",
		"  problem: tracking is off (each backup reads all)\n"} {
		require.Contains(t, p.String(), line)
	}
	text, err := json.Marshal(p)
	require.NoError(t, err)
	var again engine.Plan
	require.NoError(t, json.Unmarshal(text, &again))
	p.Tasks[1].Problems[0].Err = nil // an error is for programs: its words are in the document
	require.Equal(t, *p, again)

	_, err = engine.PlanBackups(t.Context(), s, []string{"vm-9"}, r, nil)
	var missing *engine.NoVMError
	require.ErrorAs(t, err, &missing)
}

// What a run does stands in the order of its plan.
func TestGroupsStandTogether(t *testing.T) {
	s := &together{newShop(6, 2, 1<<20, 4), [][]string{{"vm-5", "vm-1"}, {"vm-4", "vm-2"}}}
	r := openRepository(t, t.TempDir())
	defer func() { require.NoError(t, r.Close()) }()
	tasks, release, err := engine.Backups(t.Context(), s, nil, r, nil)
	require.NoError(t, err)
	var order []string
	for _, task := range tasks {
		order = append(order, task.ID)
	}
	require.Equal(t, []string{"vm-0", "vm-1", "vm-5", "vm-2", "vm-4", "vm-3"}, order)
	require.NoError(t, release(t.Context()))
	p, err := engine.PlanBackups(t.Context(), s, nil, r, nil)
	require.NoError(t, err)
	for i, one := range p.Tasks {
		require.Equal(t, order[i], one.ID)
	}
}
