package replica

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// Of two writers of one VM one has it, and the other is told who that is. Another VM is nobody's business.
func TestTwoWriters(t *testing.T) {
	s := newSite(t)
	other, err := Open(s.dir, nil)
	require.NoError(t, err)
	require.Equal(t, s.ID(), other.ID())
	w, err := s.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	var busy *hikae.BusyError
	for what, try := range map[string]func() error{
		"write":    func() error { _, err := other.Begin(t.Context(), "vm", nil); return err },
		"keep":     func() error { _, err := other.Keep(t.Context(), "vm", 1); return err },
		"failover": func() error { _, err := other.Failover(t.Context(), "vm", nil); return err },
		"undo":     func() error { return other.Undo(t.Context(), "vm") },
		"seal":     func() error { _, err := other.Seal(t.Context(), "vm"); return err },
		"remove":   func() error { return other.Remove(t.Context(), "vm") },
	} {
		require.ErrorAs(t, try(), &busy, what)
		require.Contains(t, busy.Owner, "began to write a point")
	}
	second, err := other.Begin(t.Context(), "another", nil)
	require.NoError(t, err)
	require.NoError(t, second.Close())
	_, err = Open(s.dir, &Options{Warn: func(text string) { t.Error(text) }})
	require.NoError(t, err, "what is being written is left alone")
	_, err = w.Commit(t.Context(), nil)
	require.NoError(t, err)
	second, err = other.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	require.NoError(t, second.Close())
}

// While somebody reads, no points are merged or removed; everything else goes on.
func TestReaderBesideMerge(t *testing.T) {
	s, m := twoPoints(t)
	img, err := s.Open(t.Context(), m.ids[1], "disk0")
	require.NoError(t, err)
	var busy *hikae.BusyError
	_, err = s.Keep(t.Context(), "vm", 1)
	require.ErrorAs(t, err, &busy)
	require.ErrorAs(t, s.Remove(t.Context(), "vm"), &busy)
	w, err := s.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, img.Close())
	m.keep(t, s, "vm", 1)
	m.check(t, s, "vm", false)

	files, err := takeFiles(s.folder("vm"), "vm")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = s.Open(ctx, m.ids[0], "disk0")
	require.ErrorAs(t, err, &busy, "a reader waits for files that are moved, and not for ever")
	require.NoError(t, files.release())
	require.NoError(t, s.Remove(t.Context(), "vm"))
	require.NoError(t, s.Remove(t.Context(), "vm"), "again")
	names, err := s.VMs(t.Context())
	require.NoError(t, err)
	require.Empty(t, names)
}

// Chains have a bound, and merging makes them short again.
func TestChainBound(t *testing.T) {
	s, base := newSite(t), ""
	for {
		w, err := s.Begin(t.Context(), "vm", &pipe.PointOptions{Base: base})
		if errors.Is(err, fs.ErrInvalid) {
			break
		}
		require.NoError(t, err)
		target, err := w.Disk(t.Context(), "disk", clusterSize)
		require.NoError(t, err)
		_, err = target.WriteAt(t.Context(), []byte("x"+base), 100)
		require.NoError(t, err)
		require.NoError(t, target.Commit(t.Context()))
		base, err = w.Commit(t.Context(), nil)
		require.NoError(t, err)
	}
	list, _, err := listFolder(s.folder("vm"))
	require.NoError(t, err)
	require.Len(t, list, maxChain)
	removed, err := s.Keep(t.Context(), "vm", 3)
	require.NoError(t, err)
	require.Len(t, removed, maxChain-3)
	w, err := s.Begin(t.Context(), "vm", &pipe.PointOptions{Base: base})
	require.NoError(t, err)
	require.NoError(t, w.Close())
	found, err := s.Check(t.Context(), "vm", true)
	require.NoError(t, err)
	require.Empty(t, found)
}

// A disk that is read whole, because nobody knows what changed, adds what is different and no more.
func TestWholeAgain(t *testing.T) {
	_, err := exec.LookPath("qemu-img")
	withQEMU := err == nil
	s, m := twoPoints(t)
	content := bytes.Clone(m.points[m.ids[1]].disks["disk0"])
	copy(content[5*clusterSize:], "different")
	w, err := s.Begin(t.Context(), "vm", &pipe.PointOptions{Base: m.ids[1]})
	require.NoError(t, err)
	target, err := w.Disk(t.Context(), "disk0", int64(len(content)))
	require.NoError(t, err)
	_, err = target.WriteAt(t.Context(), content, 0)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	require.NoError(t, w.Blob(t.Context(), "vm.xml", bytes.NewReader(nil)))
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	m.add(id, modelPoint{disks: map[string][]byte{"disk0": content}, blob: []byte{}})
	for p, err := range s.Points(t.Context(), "vm") {
		require.NoError(t, err)
		if p.ID == id {
			require.Equal(t, int64(clusterSize), p.New)
			require.Equal(t, p.Disks[0].Size-clusterSize, p.Disks[0].Data)
		}
	}
	m.check(t, s, "vm", withQEMU)
}

// A failover whose program ends at once, or cannot be started, leaves the replica as it was. One that never answers is
// failed over: nobody knows whether it runs.
func TestFailoverFails(t *testing.T) {
	s, m := twoPoints(t)
	ready := func() {
		t.Helper()
		state, err := s.State(t.Context(), "vm")
		require.NoError(t, err)
		require.Equal(t, Ready, state.Stage)
		require.NoDirExists(t, filepath.Join(s.folder("vm"), runName))
	}
	for name, command := range map[string][]string{
		"no such program": {"/no/such/program", "{disks}"}, "it ends at once": {"false", "{disks}"}, "a disk is not named": {"true"},
		"a disk that there is not": {"true", "{disk:other}"},
	} {
		_, err := s.Failover(t.Context(), "vm", &FailoverOptions{Command: command})
		require.Error(t, err, name)
		ready()
	}
	_, err := s.Failover(t.Context(), "vm", &FailoverOptions{Point: "0123456789abcdef0123456789abcdef"})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = s.Failover(t.Context(), "nobody", nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoDirExists(t, s.folder("nobody"))
	_, err = s.Seal(t.Context(), "vm")
	var refused *StateError
	require.ErrorAs(t, err, &refused)

	monitor := filepath.Join(t.TempDir(), "m")
	_, err = s.Failover(t.Context(), "vm", &FailoverOptions{Command: []string{"sh", "-c", "sleep 600 & echo $! > " + monitor + ".pid; wait", "{disks}"}, Monitor: monitor, Within: time.Second})
	var silent *NotAnsweringError
	require.ErrorAs(t, err, &silent)
	defer endSleep(t, monitor+".pid")
	state, err := s.State(t.Context(), "vm")
	require.NoError(t, err)
	require.Equal(t, FailedOver, state.Stage)
	require.Equal(t, m.ids[1], state.Point)
	require.Equal(t, monitor, state.Monitor)
	_, err = s.Failover(t.Context(), "vm", nil)
	require.ErrorAs(t, err, &refused)
	require.ErrorAs(t, s.Remove(t.Context(), "vm"), &refused)
	require.NoError(t, s.Undo(t.Context(), "vm"))
	ready()
	require.NoError(t, s.Undo(t.Context(), "vm"), "again")
	m.check(t, s, "vm", false)
}

// endSleep ends the process that a test left.
func endSleep(t *testing.T, pidFile string) {
	text, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	pid := 0
	for _, c := range bytes.TrimSpace(text) {
		pid = 10*pid + int(c-'0')
	}
	p, err := os.FindProcess(pid)
	require.NoError(t, err)
	require.NoError(t, p.Kill())
}

// A failover is in the journal before it happens, and what had not come to anything is undone by the sweep.
func TestSweep(t *testing.T) {
	dir, m := killedSite(t, "failover", 1)
	steps, _ := runVictim(t, dir, "failover with journal", 1, "overlay made")
	require.Zero(t, steps, "no such step")
	s := &Site{dir: dir, step: func(string) {}, warn: func(string) {}}
	state, err := s.State(t.Context(), killVM)
	require.NoError(t, err)
	require.Equal(t, FailingOver, state.Stage)
	j, err := hikae.OpenFileJournal(dir + "-journal")
	require.NoError(t, err)
	defer j.Close()
	n, err := j.Sweep(t.Context(), map[string]hikae.Sweeper{"kvm.replica.": Sweeper{}}, nil)
	require.NoError(t, err)
	require.Positive(t, n)
	state, err = s.State(t.Context(), killVM)
	require.NoError(t, err)
	require.Equal(t, Ready, state.Stage)
	require.NoDirExists(t, filepath.Join(s.folder(killVM), runName))

	f, err := s.Failover(t.Context(), killVM, &FailoverOptions{Journal: j})
	require.NoError(t, err)
	e := hikae.Effect{ID: "1", Kind: KindFailover, VM: killVM, Facts: map[string]string{"site": dir}}
	require.NoError(t, Sweeper{}.Undo(t.Context(), e, nil))
	state, err = s.State(t.Context(), killVM)
	require.NoError(t, err)
	require.Equal(t, f.State.Point, state.Point)
	require.Equal(t, FailedOver, state.Stage, "who has the files keeps them")
	require.NoError(t, s.Undo(t.Context(), killVM))
	m.check(t, s, killVM, false)
	e.VM = "nobody"
	require.NoError(t, Sweeper{}.Undo(t.Context(), e, nil))
	e.Facts = nil
	require.ErrorIs(t, Sweeper{}.Undo(t.Context(), e, nil), fs.ErrInvalid)
}

// A merge that was killed, and that cannot be taken up because somebody reads, does not stand in a failover's way; and it is
// taken up under a replica that is failed over, whose VM sees no difference.
func TestFailoverBesideMerge(t *testing.T) {
	for _, step := range []string{"merge begun", "row", "content merged", "map written"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			dir, m := killedAt(t, step)
			warned := 0
			s := &Site{dir: dir, step: func(string) {}, warn: func(string) { warned++ }}
			require.True(t, merging(s.folder(killVM)))
			reader, err := takeReader(t.Context(), s.folder(killVM), killVM)
			require.NoError(t, err)
			f, err := s.Failover(t.Context(), killVM, nil)
			require.NoError(t, err)
			require.Equal(t, 1, warned)
			sees := func() {
				t.Helper()
				for _, d := range f.State.Disks {
					same(t, d.Path, m.points[m.ids[2]].disks[d.Key], s.folder(killVM))
				}
			}
			sees()
			require.NoError(t, reader.release())
			s, err = Open(dir, &Options{Warn: func(text string) { t.Error(text) }})
			require.NoError(t, err)
			require.False(t, merging(s.folder(killVM)))
			sees()
			require.NoError(t, s.Undo(t.Context(), killVM))
			m.remove(m.ids[0])
			m.check(t, s, killVM, false)
		})
	}
}

// killedAt is a site whose merge was killed at a step, and its model.
func killedAt(t *testing.T, step string) (dir string, m *model) {
	t.Helper()
	dir, m = killedSite(t, "keep", 7)
	steps, _ := runVictim(t, dir, "keep", 7, step)
	require.Zero(t, steps, "no such step")
	return dir, m
}

// A folder with something else in it is no site, and is left alone.
func TestNoSite(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "letters"), nil, 0o600))
	_, err := Open(dir, nil)
	require.ErrorIs(t, err, fs.ErrInvalid)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

// A site that was moved is the same site, and its points start from where they are.
func TestMoved(t *testing.T) {
	s, m := twoPoints(t)
	moved := filepath.Join(t.TempDir(), "moved")
	require.NoError(t, os.Rename(s.dir, moved))
	again, err := Open(moved, nil)
	require.NoError(t, err)
	require.Equal(t, s.ID(), again.ID())
	m.check(t, again, "vm", false)
	f, err := again.Failover(t.Context(), "vm", nil)
	require.NoError(t, err)
	same(t, f.State.Disks[0].Path, m.points[m.ids[1]].disks["disk0"], moved)
	require.Contains(t, f.Options(), f.State.Disks[0].Options()[1])
	require.NoError(t, again.Undo(t.Context(), "vm"))
}
