package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

// A restore in place writes what differs, leaves the rest, and the next backups are right: the first reads all of it, because change
// tracking saw nothing of the restore, and the one after that is incremental again.
func TestRestoreInPlace(t *testing.T) {
	t.Parallel()
	d := newDepot(t, hypervtest.Options{})
	g := d.vm("web1", func(v *hypervtest.VM) { v.Notes = []string{"the web server"} })
	_, first := d.keep(g)
	require.NoError(t, g.Write(0, 5<<20, []byte("written later")))
	require.NoError(t, g.Write(0, 1<<20, make([]byte, 4096)))
	d.keep(g)
	require.NoError(t, g.Write(1, 3<<20, []byte("and in no point")))

	j := newNote()
	_, err := job.Restore(t.Context(), d.repo, first, d.restorer(nil), &job.RestoreOptions{InPlace: g.ID(), Journal: j})
	var running *RunningError
	require.ErrorAs(t, err, &running)
	var busy *hikae.BusyError
	require.ErrorAs(t, err, &busy)
	require.Empty(t, j.left())

	res, err := job.Restore(t.Context(), d.repo, first, d.restorer(&RestorerOptions{PowerOff: true, PowerOn: true}), &job.RestoreOptions{InPlace: g.ID(), Journal: j, Compare: true})
	require.NoError(t, err)
	require.Equal(t, g.ID(), res.ID)
	require.Empty(t, j.left())
	require.EqualValues(t, 8192, res.Disks[0].Written, "two cells")
	require.EqualValues(t, 4096, res.Disks[1].Written)
	d.holds(g, first)
	m, err := d.machine(g)
	require.NoError(t, err)
	require.Equal(t, Running, m.State)
	require.NotEmpty(t, restoredWord(m.Notes))
	require.NoError(t, unfinishedError(m.Name, m.Notes))
	require.Contains(t, strings.Join(m.Notes, "\n"), "the web server")

	require.NoError(t, g.Write(0, 6<<20, []byte("after the restore")))
	res3, third := d.keep(g)
	for _, disk := range res3.Disks {
		require.NotEqual(t, job.Changed, disk.Method, "tracking saw nothing of the restore")
	}
	d.holds(g, third)
	require.NoError(t, g.Write(1, 0, []byte("and later")))
	res4, fourth := d.keep(g)
	require.Equal(t, job.Changed, res4.Disks[0].Method, "%v", res4.Fallbacks)
	d.holds(g, fourth)
	d.fake.Settled(10 * time.Second)
	require.Empty(t, d.fake.Leftovers())
}

// What must not be written over is not, and says why; nothing is touched.
func TestRestoreInPlaceRefuses(t *testing.T) {
	t.Parallel()
	d := newDepot(t, hypervtest.Options{})
	g := d.vm("web1", nil)
	_, point := d.keep(g)
	d.fake.Settled(10 * time.Second)
	require.NoError(t, g.PowerOff())
	again := func(o *RestorerOptions, id string) error {
		j := newNote()
		_, err := job.Restore(t.Context(), d.repo, point, d.restorer(o), &job.RestoreOptions{InPlace: id, Journal: j})
		require.Empty(t, j.left())
		return err
	}
	user, err := g.Checkpoint("a user's")
	require.NoError(t, err)
	var points *CheckpointsError
	require.ErrorAs(t, again(nil, g.ID()), &points)
	require.Equal(t, []string{"a user's"}, points.Names)
	require.NoError(t, again(&RestorerOptions{UnderCheckpoints: true}, g.ID()))
	require.NoError(t, g.RemoveCheckpoint(user))
	d.fake.Settled(10 * time.Second)
	require.ErrorIs(t, again(nil, "00000000-0000-4000-8000-00000000dead"), fs.ErrNotExist)

	mark := strings.Repeat("b", 26)
	d.notes(g, "["+"hikae "+mark+" place 2026-11-22T10:00:00Z elsewhere"+noteEnds, "the web server")
	var busy *hikae.BusyError
	require.ErrorAs(t, again(nil, g.ID()), &busy)
	require.Contains(t, busy.Owner, "elsewhere")
	require.NoError(t, again(&RestorerOptions{TakeOver: true}, g.ID()))

	other := d.vm("other", func(v *hypervtest.VM) { v.Disks = v.Disks[:1] })
	require.NoError(t, other.PowerOff())
	err = again(nil, other.ID())
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "has none of that key")
	m, err := d.machine(other)
	require.NoError(t, err)
	require.Empty(t, restoredWord(m.Notes))
	require.NoError(t, g.PowerOn())
	d.holds(g, point)
}

// mortalStore dies with its session.
type mortalStore struct {
	Store
	*fate
}

// fate lets a session do so many things outside of its memory, and none after them.
type fate struct {
	*note
	left  int
	after bool // the last of them is done, and nobody hears of it
	dead  bool
	end   context.CancelFunc
	open  []vhdx.File // a system closes what a dead program had open
}

var errDead = errors.New("the session is dead")

// step says whether the session lives on, and whether this is done all the same.
func (f *fate) step() (lives bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return false
	}
	if f.left--; f.left == 0 {
		f.dead = true
		time.AfterFunc(20*time.Millisecond, f.end) // when it heard of what was done last, it waits for nothing more
	}
	return !f.dead
}

func (f *fate) ended() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.dead }

func (f *fate) before(hypervtest.Seen) *hypervtest.Failure {
	f.mu.Lock()
	was := f.dead
	f.mu.Unlock()
	if f.step() {
		return nil
	}
	return &hypervtest.Failure{Cut: was || !f.after, Lose: !was && f.after}
}

func (s mortalStore) Create(ctx context.Context, name string) (vhdx.File, error) {
	if !s.step() {
		return nil, errDead
	}
	f, err := s.Store.Create(ctx, name)
	return s.opened(f), err
}

func (s mortalStore) OpenFile(ctx context.Context, name string) (vhdx.File, error) {
	if !s.step() {
		return nil, errDead
	}
	f, err := s.Store.OpenFile(ctx, name)
	return s.opened(f), err
}

func (f *fate) opened(file vhdx.File) vhdx.File {
	f.mu.Lock()
	defer f.mu.Unlock()
	if file != nil {
		f.open = append(f.open, file)
	}
	return mortalFile{file, f}
}

func (s mortalStore) MakeDir(ctx context.Context, name string) error {
	if !s.step() {
		return errDead
	}
	return s.Store.MakeDir(ctx, name)
}

func (s mortalStore) Remove(ctx context.Context, name string) error {
	if !s.step() {
		return errDead
	}
	return s.Store.Remove(ctx, name)
}

type mortalFile struct {
	vhdx.File
	*fate
}

func (f mortalFile) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if !f.step() {
		return 0, errDead
	}
	return f.File.WriteAt(ctx, p, off)
}

// mortal is a session that dies after n of what it does outside of its memory; 0: it lives.
func (d *depot) mortal(n int, after bool, f *fate, o *RestorerOptions) *Restorer {
	d.t.Helper()
	f.mu.Lock()
	f.left, f.after, f.dead = n, after, false
	f.mu.Unlock()
	r := d.restorer(o)
	r.site.opts.Store = func(context.Context, string) (Store, error) { return mortalStore{d.fake.LocalFiles(), f}, nil }
	f.note.at = func(string) error {
		if !f.step() {
			return errDead
		}
		return nil
	}
	return r
}

// live is a session without an end in good order: a dead one closes nothing.
func (d *depot) live(r *Restorer, f *fate, point pipe.PointInfo, in string) (err error) {
	ctx, cancel := context.WithCancel(d.t.Context())
	defer cancel()
	f.mu.Lock()
	f.end, f.open = cancel, nil
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, file := range f.open {
			file.Close()
		}
	}()
	vm := hikae.VM{Name: point.VM, Facts: point.Facts, Config: d.blobs(point)}
	for _, disk := range point.Disks {
		vm.Disks = append(vm.Disks, hikae.Disk{Key: disk.Key, Size: disk.Size})
	}
	var draft hikae.Draft
	if in == "" {
		d2 := &newVM{}
		if draft, err = r.begun(ctx, vm, f.note, d2); err != nil {
			return err
		}
	} else {
		if draft, err = r.InPlace(ctx, in, &hikae.RestoreOptions{Journal: f.note, VM: &vm}); err != nil {
			return err
		}
		defer draft.(*placeDraft).free()
		if err := draft.(job.Placer).Ready(ctx, vm.Disks, nil); err != nil {
			return err
		}
	}
	for _, disk := range vm.Disks {
		img, err := d.repo.Open(ctx, point.ID, disk.Key)
		if err != nil {
			return err
		}
		defer img.Close()
		target, err := draft.OpenDisk(ctx, disk.Key)
		if err != nil {
			return err
		}
		if _, err := pipe.Copy(ctx, target, img, &pipe.CopyOptions{Workers: 1}); err != nil {
			return err
		}
		if err := target.Commit(ctx); err != nil {
			return err
		}
	}
	_, err = draft.Commit(ctx)
	return err
}

// begun is Create without its own tidying up.
func (r *Restorer) begun(ctx context.Context, vm hikae.VM, j hikae.Journal, d *newVM) (hikae.Draft, error) {
	*d = newVM{restorer: r, vm: vm, name: "again", disks: map[string]*newVMDisk{}, journal: j}
	mark := newMark()
	if err := d.plan(ctx, mark); err != nil {
		return nil, err
	}
	return d, d.begin(ctx, mark)
}

// A session that dies at any step: a sweep from the journal alone leaves nothing of a new VM, nothing foreign is touched, and a VM
// that was written over is made whole by the next restore, or was not touched.
func TestKilledRestores(t *testing.T) {
	t.Parallel()
	for _, place := range []bool{false, true} {
		t.Run(fmt.Sprintf("place=%t", place), func(t *testing.T) {
			t.Parallel()
			f := &fate{note: newNote(), left: -1}
			var armed atomic.Bool
			d := newDepot(t, hypervtest.Options{Before: func(s hypervtest.Seen) *hypervtest.Failure {
				if !armed.Load() {
					return nil
				}
				return f.before(s)
			}})
			g := d.vm("web1", func(v *hypervtest.VM) { v.Disks = v.Disks[:1] })
			_, point := d.keep(g)
			require.NoError(t, g.Write(0, 0, []byte("not in the point")))
			d.fake.Settled(10 * time.Second)
			require.NoError(t, g.PowerOff())
			in := ""
			if place {
				in = g.ID()
			}
			deadline := time.Now().Add(12 * time.Second)
			every := 5
			if longTier() {
				every, deadline = 1, time.Now().Add(5*time.Minute)
			}
			n := 1
			for ; time.Now().Before(deadline); n += every {
				after := n%2 == 0
				d.site = d.connect()
				r := d.mortal(n, after, f, nil)
				armed.Store(true)
				err := d.live(r, f, point, in)
				armed.Store(false)
				f.note.at = nil
				if !f.ended() {
					require.NoError(t, err)
					break
				}
				d.fake.Settled(10 * time.Second)
				d.site = d.connect()
				d.swept(t, g, f.note, place, n)
			}
			t.Logf("%d steps", n)
			require.Greater(t, n, 30)
		})
	}
}

// swept: the next start has undone what a dead session left.
func (d *depot) swept(t *testing.T, g *hypervtest.Guest, j *note, place bool, n int) {
	t.Helper()
	for _, e := range j.left() {
		err := d.provider(nil).Undo(t.Context(), e, nil)
		var half *IncompleteError
		if place && errors.As(err, &half) {
			continue
		}
		require.NoError(t, err, "step %d", n)
		j.mu.Lock()
		delete(j.effects, e.ID)
		j.mu.Unlock()
	}
	m, err := d.machine(g)
	require.NoError(t, err)
	if place {
		_, half := unfinishedOf(m.Notes)
		require.Equal(t, half, len(j.left()) > 0, "step %d", n)
		if half { // only what this journal names may be written over again
			for _, e := range j.left() {
				deadPlacings.Store(e.Facts["mark"], true)
			}
		}
		return
	}
	require.Empty(t, j.left())
	for _, id := range d.fake.VMs() {
		if id == g.ID() {
			continue
		}
		// The session died when the VM was whole: it stays, and is one like any other.
		v := d.fake.VM(id)
		m, err := d.machine(v)
		require.NoError(t, err)
		require.NoError(t, unfinishedError(m.Name, m.Notes), "step %d", n)
		require.Empty(t, d.markers(`C:\VMs\again`), "step %d", n)
		h, err := d.site.Owner(t.Context(), id)
		require.NoError(t, err)
		require.NoError(t, h.destroyOne(t.Context(), vmSettings{VM: id, Name: m.Name, Type: realized}))
		require.NoError(t, d.fake.LocalFiles().Remove(t.Context(), m.Disks[0].Path))
		for _, sub := range append(foldersOfVM, "") {
			require.NoError(t, removeEmpty(t.Context(), d.fake.LocalFiles(), `C:\VMs\again`+sub))
		}
	}
	_, err = d.fake.LocalFiles().List(t.Context(), `C:\VMs\again`)
	require.ErrorIs(t, err, fs.ErrNotExist, "step %d", n)
	require.Empty(t, d.fake.Leftovers(), "step %d", n)
}

// A sweep believes no effect that does not hold together, and removes nothing that bears no mark of the effect's.
func TestRestoreUndoIsStrict(t *testing.T) {
	t.Parallel()
	d := newDepot(t, hypervtest.Options{})
	g := d.vm("web1", nil)
	mark := strings.Repeat("d", 26)
	facts := func(pairs ...string) map[string]string {
		m := map[string]string{"site": d.site.Address(), "host": "HV1", "mark": mark, "what": restoresNew, "folder": `C:\VMs\web1`, "files": `C:\VMs\web1\disk_1.vhdx`}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	for _, bad := range []map[string]string{facts("mark", "x"), facts("what", "?"), facts("folder", "web1"), facts("files", `C:\VMs\other\a.vhdx`), facts("files", `C:\VMs\web1\..\a.vhdx`),
		facts("made", `C:\Elsewhere`), facts("host", "HV9"), facts("site", "elsewhere:1")} {
		require.Error(t, d.provider(nil).Undo(t.Context(), hikae.Effect{ID: "1", Kind: kindRestore, VM: g.ID(), Facts: bad}, nil), "%v", bad)
	}
	require.NoError(t, g.PowerOff())
	require.NoError(t, d.provider(nil).Undo(t.Context(), hikae.Effect{ID: "1", Kind: kindRestore, VM: g.ID(), Facts: facts()}, nil), "there is no mark of it")
	require.NoError(t, d.provider(nil).Undo(t.Context(), hikae.Effect{ID: "1", Kind: kindRestore, VM: g.ID(), Facts: facts("what", restoresPlace)}, nil))
	store := d.fake.LocalFiles() // with the mark in the folder too, what a VM uses stays
	require.NoError(t, putFile(t.Context(), store, `C:\VMs\web1`+fileMarker+mark+".txt", []byte("x")))
	require.NoError(t, d.provider(nil).Undo(t.Context(), hikae.Effect{ID: "1", Kind: kindRestore, VM: g.ID(), Facts: facts()}, nil))
	require.NoError(t, g.PowerOn())
	_, err := g.Read(0, 0, 512)
	require.NoError(t, err)
	require.Empty(t, d.markers(`C:\VMs\web1`))
}
