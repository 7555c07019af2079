package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/engine"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// shop is a provider of many small VMs on some hosts. It sees to it that limits hold: more snapshots at once than a host bears are a failure.
type shop struct {
	vms   []hikae.VM
	each  int64 // bytes
	limit int
	pause time.Duration // of a read

	mu    sync.Mutex
	open  map[string]int
	most  int // at once, in all
	over  int // moments at which a host had more than it bears
	taken atomic.Int64
}

func newShop(vms, hosts int, each int64, limit int) *shop {
	s := &shop{each: each, limit: limit, open: map[string]int{}}
	for i := range vms {
		s.vms = append(s.vms, hikae.VM{ID: fmt.Sprintf("vm-%d", i), Name: fmt.Sprintf("vm%03d", i), Facts: map[string]string{"host": fmt.Sprintf("esx%d", i%hosts)},
			Disks: []hikae.Disk{{Key: "disk0", Size: each}}})
	}
	return s
}

func (s *shop) VMs(context.Context) iter.Seq2[hikae.VM, error] {
	return func(yield func(hikae.VM, error) bool) {
		for _, vm := range s.vms {
			if !yield(vm, nil) {
				return
			}
		}
	}
}

func (s *shop) Snapshot(_ context.Context, id string, _ *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	for i, vm := range s.vms {
		if vm.ID == id {
			s.taken.Add(1)
			s.mu.Lock()
			defer s.mu.Unlock()
			host := vm.Facts["host"]
			s.open[host]++
			s.open["all"]++
			s.most = max(s.most, s.open["all"])
			if s.open[host] > s.limit {
				s.over++
			}
			return &pinned{s, vm, uint64(i) + 1}, nil
		}
	}
	return nil, errors.New("no such VM")
}

type pinned struct {
	of   *shop
	vm   hikae.VM
	seed uint64
}

func (p *pinned) VM() hikae.VM                   { return p.vm }
func (p *pinned) Consistency() hikae.Consistency { return hikae.Crash }
func (p *pinned) OpenDisk(context.Context, string) (pipe.Image, error) {
	img := pipetest.NewPattern(p.seed, p.of.each)
	return pipetest.HookImage(img, func(context.Context, *pipetest.Op) error { time.Sleep(p.of.pause); return nil }), nil
}
func (p *pinned) Changed(context.Context, string, hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) { yield(pipe.Extent{}, hikae.ErrTrackingLost) }
}
func (p *pinned) Prepare(context.Context) (map[string]hikae.ChangeID, error) { return nil, nil }
func (p *pinned) Commit(context.Context) error                               { return nil }
func (p *pinned) Release(context.Context) error {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.of.open[p.vm.Facts["host"]]--
	p.of.open["all"]--
	return nil
}

func openRepository(t *testing.T, dir string) *repo.Repository {
	t.Helper()
	opts := &repo.OpenOptions{StateDir: filepath.Join(dir, "state"), CacheDir: filepath.Join(dir, "cache")}
	path := filepath.Join(dir, "repo")
	if _, err := os.Stat(path); err != nil {
		st, err := dirstore.Init(path)
		require.NoError(t, err)
		r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{NoEncryption: true, BlockSize: 64 << 10}, opts)
		require.NoError(t, err)
		return r
	}
	st, err := dirstore.Open(path)
	require.NoError(t, err)
	r, err := repo.Open(t.Context(), st, nil, opts)
	require.NoError(t, err)
	return r
}

func longTier() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// R198, R201, R203: 200 VMs, 16 at once, four of each host: limits hold at every moment, every VM has its point, and the engine itself costs next
// to nothing: what it costs is measured by the same run with tasks that only sleep.
func TestManyVMs(t *testing.T) {
	vms, each := 40, int64(1<<20)
	if longTier() {
		vms, each = 200, 4<<20
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(448 << 20)) // as the tool does: what lives is 300 MiB, the rest would be garbage
	s := newShop(vms, 5, each, 4)
	r := openRepository(t, t.TempDir())
	defer func() { require.NoError(t, r.Close()) }()
	tasks, closeGroups, err := engine.Backups(t.Context(), s, nil, r, nil)
	require.NoError(t, err)
	told := map[engine.What]int{}
	limits := map[string]int{"tasks": 16, "host/*": 4}
	begun := time.Now()
	res, err := engine.Run(t.Context(), "nightly", tasks, &engine.Options{Limits: limits, Events: func(e engine.Event) { told[e.What]++ }})
	require.NoError(t, err)
	require.NoError(t, closeGroups(t.Context()))
	require.Equal(t, engine.Done, res.State)
	require.Equal(t, vms, res.Count(engine.Done))
	require.Zero(t, s.over, "a host had more than four")
	require.LessOrEqual(t, s.most, 16)
	require.Equal(t, vms, told[engine.Begun])
	took := time.Since(begun)
	for i, task := range res.Tasks {
		img, err := r.Open(t.Context(), task.Point, "disk0")
		require.NoError(t, err)
		if i%10 == 0 {
			diff, err := pipe.Compare(t.Context(), img, pipetest.NewPattern(uint64(i)+1, each), nil)
			require.NoError(t, err)
			require.Empty(t, diff)
		}
		require.NoError(t, img.Close())
	}

	// The engine alone: the same tasks, which take as long and do nothing.
	idle := make([]engine.Task, len(tasks))
	for i := range tasks {
		idle[i] = tasks[i]
		idle[i].Do = func(_ context.Context, a *engine.Attempt) (engine.Outcome, error) {
			for range 10 {
				a.Events(job.DiskProgress{})
				time.Sleep(10 * time.Millisecond)
			}
			return engine.Outcome{}, nil
		}
	}
	cpu, resident := used()
	begun = time.Now()
	_, err = engine.Run(t.Context(), "idle", idle, &engine.Options{Limits: limits, Events: func(engine.Event) {}})
	require.NoError(t, err)
	after, _ := used()
	share := (after - cpu) / (time.Since(begun).Seconds() * float64(runtime.NumCPU()))
	t.Logf("%d VMs in %.1f s, at most %d at once; the engine alone: %.2f %% of the processors; %d MiB resident at most", vms, took.Seconds(), s.most, 100*share, resident>>20)
	if longTier() {
		require.Less(t, share, 0.02)
		require.Less(t, resident, int64(512<<20))
	}
}

// killer kills a program that has said often enough that a task ended.
type killer struct {
	said         bytes.Buffer
	after, ended int
	kill         func()
}

func (k *killer) Write(p []byte) (int, error) {
	before := k.ended
	k.ended += bytes.Count(p, []byte("ENDED"))
	n, err := k.said.Write(p)
	if k.kill != nil && before < k.after && k.ended >= k.after {
		k.kill()
	}
	return n, err
}

// A run that is killed in the middle goes on: every VM has exactly one point of the run, whatever was under way.
func TestKilledRun(t *testing.T) {
	const vms = 12
	if dir := os.Getenv("HIKAE_TEST_ENGINE_VICTIM"); dir != "" {
		s := newShop(vms, 3, 2<<20, 4)
		s.pause = 50 * time.Millisecond
		r := openRepository(t, dir)
		p, err := engine.OpenProgress(filepath.Join(dir, "progress"))
		require.NoError(t, err)
		claims, err := hikae.OpenFileClaims(filepath.Join(dir, "claims"))
		require.NoError(t, err)
		tasks, closeGroups, err := engine.Backups(t.Context(), s, nil, r, nil)
		require.NoError(t, err)
		_, err = engine.Run(t.Context(), "nightly", tasks, &engine.Options{Limits: map[string]int{"tasks": 2}, Progress: p, Claims: claims,
			Events: func(e engine.Event) {
				if e.What == engine.Ended {
					fmt.Println("ENDED", e.Task)
				}
			}})
		require.NoError(t, err)
		require.NoError(t, closeGroups(t.Context()))
		require.NoError(t, errors.Join(p.Close(), r.Close()))
		fmt.Println("WHOLE")
		return
	}
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(3, 4))
	kills, whole, most := 0, false, 2
	if longTier() {
		most = 5
	}
	for round := 0; !whole; round++ {
		require.Less(t, round, 40)
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledRun$", "-test.v")
		cmd.Env = append(os.Environ(), "HIKAE_TEST_ENGINE_VICTIM="+dir)
		var out killer
		if round < most { // then it may end
			out.after = 1 + rnd.IntN(2)
			out.kill = func() {
				time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond)
				cmd.Process.Kill()
			}
		}
		cmd.Stdout, cmd.Stderr = &out, &out
		require.NoError(t, cmd.Start())
		if err := cmd.Wait(); out.kill == nil {
			require.NoError(t, err, out.said.String())
		} else if err != nil {
			require.GreaterOrEqual(t, out.ended, out.after, out.said.String())
			kills++
		}
		whole = bytes.Contains(out.said.Bytes(), []byte("WHOLE"))
	}
	require.GreaterOrEqual(t, kills, most-1)
	r := openRepository(t, dir)
	defer r.Close()
	made := map[string]int{}
	for p, err := range r.Points(t.Context(), "") {
		require.NoError(t, err)
		made[p.VM]++
		require.Contains(t, p.Facts[engine.RunFact], "nightly/")
	}
	require.Len(t, made, vms)
	for vm, n := range made {
		require.Equal(t, 1, n, vm)
	}
	t.Logf("%d kills", kills)
}
