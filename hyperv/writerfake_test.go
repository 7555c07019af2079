package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

var (
	errKilled  = errors.New("the session was killed")
	errSetGone = errors.New("the shadow copy was deleted by its host")
)

// vssHost is what a host's VSS keeps beyond sessions: its sets hold real copies of the VMs' files, made while no guest writes.
type vssHost struct {
	t      *testing.T
	h      *hypervtest.Host
	guests sync.Mutex // held while anything is written

	mu       sync.Mutex
	events   []string
	sets     map[string]*vssCopy // by mark
	sessions int                 // that are connected
	asked    []SetRequest

	hidden    map[string]bool   // VMs that the writer does not offer
	method    map[string]Method // else online
	failed    map[string]error  // VMs whose part fails
	blind     bool              // no auto-recovery runs
	recovery  bool              // disks are recovered in files of their own, as on 2012 R2
	takeFails error
	lateTake  error // after the set was made: the answer is lost
	stays     error // to who deletes a set

	kill int // the step from which on nothing gets through; zero: none
	step int
}

func newVSSHost(t *testing.T, h *hypervtest.Host) *vssHost {
	return &vssHost{t: t, h: h, sets: map[string]*vssCopy{}, hidden: map[string]bool{}, method: map[string]Method{}, failed: map[string]error{}}
}

// alive counts a step; half of them are killed before they do anything, half after.
func (v *vssHost) alive() (before, after error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.step++
	switch {
	case v.kill == 0 || 2*v.step < v.kill:
		return nil, nil
	case 2*v.step == v.kill:
		return nil, errKilled
	}
	return errKilled, errKilled
}

func (v *vssHost) event(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.events = append(v.events, fmt.Sprintf(format, args...))
}

func (v *vssHost) heard() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.events)
}

func (v *vssHost) left() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []string
	for mark, s := range v.sets {
		list = append(list, fmt.Sprintf("set %s (finished: %v)", mark, s.finished))
	}
	return list
}

// connect is ProviderOptions.Requester.
func (v *vssHost) connect(context.Context, *Host) (Requester, error) {
	before, after := v.alive()
	if before != nil {
		return nil, before
	}
	v.mu.Lock()
	v.sessions++
	v.mu.Unlock()
	v.event("connect")
	if after != nil {
		return nil, after
	}
	return &vssSession{v}, nil
}

type vssSession struct{ v *vssHost }

func (s *vssSession) Components(context.Context) (list []Component, err error) {
	if before, _ := s.v.alive(); before != nil {
		return nil, before
	}
	s.v.event("components")
	for _, id := range s.v.ids() {
		if !s.v.hidden[id] {
			list = append(list, Component{VM: strings.ToUpper(id), Caption: `Online\` + id, Method: s.v.methodOf(id)})
		}
	}
	return list, nil
}

func (v *vssHost) ids() (ids []string) {
	for _, n := range []int{1, 2, 3} {
		if id := vmGUID(n); v.h.VM(id) != nil {
			ids = append(ids, id)
		}
	}
	return ids
}

func vmGUID(n int) string { return fmt.Sprintf("0000000%d-0a0a-4000-8000-00000000000%d", n, n) }

func (v *vssHost) methodOf(id string) Method {
	if m := v.method[id]; m != "" {
		return m
	}
	return MethodOnline
}

// Take copies the VMs' files while no guest writes.
func (s *vssSession) Take(ctx context.Context, r SetRequest) (Set, error) {
	before, after := s.v.alive()
	if before != nil {
		return nil, before
	}
	s.v.guests.Lock()
	defer s.v.guests.Unlock()
	v := s.v
	v.event("take %d VMs", len(r.VMs))
	v.mu.Lock()
	v.asked = append(v.asked, r)
	v.mu.Unlock()
	if v.takeFails != nil {
		return nil, v.takeFails
	}
	c := &vssCopy{v: v, mark: r.Mark, dir: v.t.TempDir(), files: map[string][]string{}, frozen: map[string]io.ReaderAt{}}
	for _, id := range r.VMs {
		if err := c.take(id); err != nil {
			return nil, err
		}
	}
	v.mu.Lock()
	v.sets[r.Mark] = c
	v.mu.Unlock()
	if after == nil {
		after = v.lateTake
	}
	if after != nil {
		return nil, after
	}
	return c, nil
}

func (s *vssSession) DeleteSet(_ context.Context, mark string) error {
	before, after := s.v.alive()
	if before != nil {
		return before
	}
	s.v.event("delete by mark")
	if s.v.stays != nil {
		return s.v.stays
	}
	s.v.mu.Lock()
	delete(s.v.sets, mark)
	s.v.mu.Unlock()
	return after
}

func (s *vssSession) Close() error {
	before, _ := s.v.alive()
	if before != nil {
		return before
	}
	s.v.mu.Lock()
	s.v.sessions--
	s.v.mu.Unlock()
	s.v.event("close")
	return nil
}

// vssCopy is one set.
type vssCopy struct {
	v        *vssHost
	mark     string
	dir      string
	files    map[string][]string
	frozen   map[string]io.ReaderAt
	finished bool

	mu   sync.Mutex
	gone bool
}

// take copies one VM: what its disks hold now is what its restored ones have to hold.
func (c *vssCopy) take(id string) error {
	g := c.v.h.VM(id)
	for n := range g.Disks() {
		if err := g.Flush(n); err != nil {
			return err
		}
		c.frozen[fmt.Sprint(id, n)] = g.Now(n)
	}
	from := filepath.Join(c.v.h.Dir(), "C", "VMs", filepath.Base(strings.ReplaceAll(g.Folder(), `\`, "/")))
	to := filepath.Join(c.dir, "C", "VMs", filepath.Base(from))
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	err := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(filepath.Join(c.dir, "C"), path)
			c.files[id] = append(c.files[id], `C:\`+strings.ReplaceAll(rel, "/", `\`))
		}
		return err
	})
	if err != nil {
		return err
	}
	for n := range g.Disks() {
		if err := c.work(g, n); err != nil {
			return err
		}
	}
	return nil
}

// work is what the guest wrote between its own snapshot and the volume's, and what the writer does about it.
func (c *vssCopy) work(g *hypervtest.Guest, n int) error {
	path := filepath.Join(c.dir, "C", strings.ReplaceAll(strings.TrimPrefix(g.Tip(n), `C:\`), `\`, "/"))
	if !c.v.blind && !c.v.recovery {
		return nil
	}
	ctx := context.Background()
	d, err := vhdx.OpenDisk(ctx, path, nil)
	if err != nil {
		return err
	}
	if _, err := d.WriteAt(ctx, []byte("written after the guest's own snapshot"), 4096); err != nil {
		return err
	}
	if err := d.Commit(ctx); err != nil || c.v.blind {
		return err
	}
	t, err := vhdx.Create(ctx, strings.TrimSuffix(path, filepath.Ext(path))+"-AutoRecovery.avhdx", 0, &vhdx.CreateOptions{Parent: path, ParentName: g.Tip(n)})
	if err != nil {
		return err
	}
	p := make([]byte, 4096)
	if _, err := g.Now(n).ReadAt(p, 4096); err != nil {
		return err
	}
	if _, err := t.WriteAt(ctx, p, 4096); err != nil {
		return err
	}
	return t.Commit(ctx)
}

func (c *vssCopy) ID() string { return "{" + c.mark + "}" }

func (c *vssCopy) Outcome(vm string) SetOutcome {
	return SetOutcome{Method: c.v.methodOf(vm), Files: c.files[vm], Recovered: !c.v.blind, Err: c.v.failed[vm]}
}

func (c *vssCopy) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
}

func (c *vssCopy) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return errSetGone
	}
	return nil
}

func (c *vssCopy) Open(_ context.Context, name string) (pipe.Image, error) {
	if err := c.lost(); err != nil {
		return nil, err
	}
	img, err := diskfile.Open(filepath.Join(c.dir, "C", strings.ReplaceAll(strings.TrimPrefix(name, `C:\`), `\`, "/")), nil)
	if err != nil {
		return nil, err
	}
	return &vssFile{img, c}, nil
}

type vssFile struct {
	pipe.Image
	of *vssCopy
}

func (f *vssFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.of.lost(); err != nil {
		return 0, err
	}
	return f.Image.ReadAt(ctx, p, off)
}

func (c *vssCopy) Finish(_ context.Context, good map[string]bool) error {
	before, after := c.v.alive()
	if before != nil {
		return before
	}
	c.v.event("finish %d good", len(good))
	c.finished = true
	return after
}

func (c *vssCopy) Delete(context.Context) error {
	before, after := c.v.alive()
	if before != nil {
		return before
	}
	c.v.event("delete")
	if c.v.stays != nil {
		return c.v.stays
	}
	c.lose()
	c.v.mu.Lock()
	delete(c.v.sets, c.mark)
	c.v.mu.Unlock()
	return after
}

// the only set that there is.
func (v *vssHost) set() *vssCopy {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.sets {
		return s
	}
	return nil
}

// writers write into all disks of all VMs without end.
func (v *vssHost) writers(seed uint64) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	r := rand.New(rand.NewPCG(seed, 5))
	ids := v.ids()
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
			g := v.h.VM(ids[r.IntN(len(ids))])
			n := r.IntN(g.Disks())
			p := make([]byte, 512*(1+r.IntN(16)))
			for i := range p {
				p[i] = byte(r.Uint32())
			}
			v.guests.Lock()
			_ = g.Write(n, r.Int64N(g.Size(n)-int64(len(p)))&^511, p) // a VM that is off writes nothing
			v.guests.Unlock()
		}
	}()
	return sync.OnceFunc(func() { close(done); <-ended })
}

// requireFrozen: each disk of a snapshot holds what the guest's disk held at the freeze.
func requireFrozen(t *testing.T, s hikae.Snapshot, frozen func(n int) io.ReaderAt) {
	t.Helper()
	require.NotEmpty(t, s.VM().Disks)
	for n, d := range s.VM().Disks {
		img, err := s.OpenDisk(t.Context(), d.Key)
		require.NoError(t, err)
		got, want := make([]byte, img.Size()), make([]byte, img.Size())
		m, err := img.ReadAt(t.Context(), got, 0)
		require.Equal(t, len(got), m, "%v", err)
		_, err = frozen(n).ReadAt(want, 0)
		if err != io.EOF {
			require.NoError(t, err)
		}
		require.True(t, string(want) == string(got), "disk %s is not what it was at the freeze", d.Key)
		require.NoError(t, img.Close())
	}
}
