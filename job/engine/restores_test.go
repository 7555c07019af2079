package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/engine"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
)

// yard keeps restored VMs in memory. The first attempt at each fails.
type yard struct {
	mu    sync.Mutex
	tried map[string]bool
	whole map[string]*made
}

type made struct {
	of    *yard
	name  string
	disks map[string]*pipe.Memory
	sizes map[string]int64
}

func (y *yard) Create(_ context.Context, vm hikae.VM, _ *hikae.RestoreOptions) (hikae.Draft, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if !y.tried[vm.Name] {
		y.tried[vm.Name] = true
		return nil, errors.New("the host is busy")
	}
	m := &made{of: y, name: vm.Name, disks: map[string]*pipe.Memory{}, sizes: map[string]int64{}}
	for _, d := range vm.Disks {
		m.sizes[d.Key] = d.Size
	}
	return m, nil
}

func (y *yard) InPlace(context.Context, string, *hikae.RestoreOptions) (hikae.Draft, error) {
	return nil, errors.ErrUnsupported
}

func (m *made) OpenDisk(_ context.Context, key string) (pipe.Target, error) {
	m.disks[key] = pipe.NewMemory(m.sizes[key])
	return m.disks[key], nil
}

func (m *made) Commit(context.Context) (string, error) {
	m.of.mu.Lock()
	defer m.of.mu.Unlock()
	m.of.whole[m.name] = m
	return "new-" + m.name, nil
}

func (m *made) Close() error { return nil }

// pointsOf backs up a shop, and lists its points in the order of their commits.
func pointsOf(t *testing.T, s *shop, r *repo.Repository) (points []pipe.PointInfo) {
	t.Helper()
	tasks, release, err := engine.Backups(t.Context(), s, nil, r, nil)
	require.NoError(t, err)
	_, err = engine.Run(t.Context(), "nightly", tasks, nil)
	require.NoError(t, err)
	require.NoError(t, release(t.Context()))
	for p, err := range r.Points(t.Context(), "") {
		require.NoError(t, err)
		points = append(points, p)
	}
	return points
}

// Many points are brought back at once, each tried again where its host was busy, byte for byte.
func TestRestores(t *testing.T) {
	s := newShop(5, 2, 1<<20, 4)
	r := openRepository(t, t.TempDir())
	defer func() { require.NoError(t, r.Close()) }()
	points := pointsOf(t, s, r)
	y := &yard{tried: map[string]bool{}, whole: map[string]*made{}}
	told := 0
	tasks := engine.Restores(r, points, y, &engine.RestoresOptions{Needs: func(pipe.PointInfo) []string { return []string{"host/spare"} }})
	res, err := engine.Run(t.Context(), "disaster", tasks, &engine.Options{Limits: map[string]int{"host/spare": 2}, Retry: engine.Retry{First: 1},
		Events: func(e engine.Event) {
			if e.What == engine.Told {
				told++
			}
		}})
	require.NoError(t, err)
	require.Equal(t, 5, res.Count(engine.Done))
	require.Positive(t, told)
	require.Len(t, y.whole, 5)
	for i, task := range res.Tasks {
		require.Equal(t, 2, task.Attempts)
		require.Equal(t, points[i].ID, task.Point)
		require.Equal(t, job.KindRestore, task.Record.Kind)
		require.Equal(t, points[i].VM, task.Record.Restore.VM)
		var n int
		_, err := fmt.Sscanf(task.VM, "vm%d", &n)
		require.NoError(t, err)
		require.Len(t, y.whole[task.VM].disks, 1)
		for _, disk := range y.whole[task.VM].disks {
			diff, err := pipe.Compare(t.Context(), disk, pipetest.NewPattern(uint64(n)+1, 1<<20), nil)
			require.NoError(t, err)
			require.Empty(t, diff)
		}
	}
}

// A task claims the VM that it writes into, and nothing for a new one.
func TestRestoreClaims(t *testing.T) {
	points := []pipe.PointInfo{{ID: "p1", VM: "a"}, {ID: "p2", VM: "b"}}
	tasks := engine.Restores(nil, points, nil, &engine.RestoresOptions{Each: func(p pipe.PointInfo) *job.RestoreOptions {
		if p.VM == "a" {
			return &job.RestoreOptions{InPlace: "vm-7"}
		}
		return nil
	}})
	require.Equal(t, "vm/vm-7", tasks[0].Claim)
	require.Empty(t, tasks[1].Claim)
}

// Points are copied VM by VM in their order; what is there is known, and what would come too late is a warning.
func TestCopies(t *testing.T) {
	s := newShop(3, 2, 1<<20, 4)
	r, far := openRepository(t, t.TempDir()), openRepository(t, t.TempDir())
	defer func() { require.NoError(t, errors.Join(r.Close(), far.Close())) }()
	pointsOf(t, s, r)
	points := pointsOf(t, s, r)
	require.Len(t, points, 6)
	newest := map[string]pipe.PointInfo{}
	for _, p := range points {
		newest[p.VM] = p
	}
	latest := []pipe.PointInfo{newest["vm000"], newest["vm001"], newest["vm002"]}
	res, err := engine.Run(t.Context(), "copies", engine.Copies(far, r, latest, nil), nil)
	require.NoError(t, err)
	require.Equal(t, 3, res.Count(engine.Done))
	for i, task := range res.Tasks {
		require.Len(t, task.Copied, 1)
		require.False(t, task.Copied[0].Already)
		require.Equal(t, latest[i].ID, task.Copied[0].From)
		require.Equal(t, task.Copied[0].To, task.Point)
	}
	res, err = engine.Run(t.Context(), "copies", engine.Copies(far, r, points, nil), nil)
	require.NoError(t, err)
	require.Equal(t, engine.Warned, res.State)
	for _, task := range res.Tasks {
		require.Len(t, task.Warnings, 1, "the older one comes too late")
		require.Len(t, task.Copied, 1)
		require.True(t, task.Copied[0].Already)
	}
	there := 0
	for _, err := range far.Points(t.Context(), "") {
		require.NoError(t, err)
		there++
	}
	require.Equal(t, 3, there)
}
