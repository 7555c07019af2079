package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/job/replica"
	"github.com/hikae/hikae/job/replica/kvmsite"
	kvmreplica "github.com/hikae/hikae/kvm/replica"
	"github.com/hikae/hikae/pipe"
)

const (
	vmName   = "web1"
	diskSize = 2 << 20
	// twoRan is a file that appears where the VM and its replica run at once.
	twoRan = "two-ran"
)

// lab is a VM of one disk file, and a replica site. That one of the two runs is a file of its name.
type lab struct {
	dir  string
	tick func(string) // is told of each thing that is done outside
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) runs(name string) bool {
	_, err := os.Stat(l.path(name))
	return err == nil
}

// machine is a VM that runs where a file says so.
type machine struct {
	l          *lab
	name       string
	stop, fail error
	silent     bool // nobody can tell whether it runs
}

func (m *machine) Running(context.Context) (bool, error) {
	if m.silent {
		return false, errors.New("it does not answer")
	}
	return m.l.runs(m.name), nil
}

func (m *machine) Stop(context.Context) error {
	if m.stop != nil {
		return m.stop
	}
	m.l.tick("stop " + m.name)
	if err := os.Remove(m.l.path(m.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	m.l.tick("stopped " + m.name)
	return nil
}

func (m *machine) Start(context.Context) error {
	if m.fail != nil {
		return m.fail
	}
	m.l.tick("start " + m.name)
	if err := m.l.start(m.name); err != nil {
		return err
	}
	m.l.tick("started " + m.name)
	return nil
}

// start starts the one or the other, and notes where both run.
func (l *lab) start(name string) error {
	for _, other := range []string{"source", "replica"} {
		if other != name && l.runs(other) {
			if err := os.WriteFile(l.path(twoRan), nil, 0o600); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(l.path(name), nil, 0o600)
}

// site is a real one whose VM runs where a file says so.
type site struct {
	*kvmsite.Site
	l    *lab
	fail error // of Failover, before anything is done
}

func (s *site) Failover(ctx context.Context, vm, point string) error {
	if s.fail != nil {
		return s.fail
	}
	s.l.tick("failover")
	if err := s.Site.Failover(ctx, vm, point); err != nil {
		return err
	}
	if err := s.l.start("replica"); err != nil {
		return err
	}
	s.l.tick("failed over")
	return nil
}

func (s *site) Resume(ctx context.Context, vm string) error {
	s.l.tick("resume")
	return errors.Join(s.Site.Resume(ctx, vm), s.l.start("replica"))
}

func (s *site) Running(ctx context.Context, vm string) (string, error) {
	if s.l.runs("replica") {
		return "the test", nil
	}
	return s.Site.Running(ctx, vm)
}

func (s *site) Undo(ctx context.Context, vm string) error {
	if s.l.runs("replica") {
		return &hikae.BusyError{What: vm, Owner: "the test"}
	}
	s.l.tick("undo")
	err := s.Site.Undo(ctx, vm)
	s.l.tick("undone")
	return err
}

func (s *site) Seal(ctx context.Context, vm string) (pipe.PointInfo, error) {
	if s.l.runs("replica") {
		return pipe.PointInfo{}, &hikae.BusyError{What: vm, Owner: "the test"}
	}
	s.l.tick("seal")
	p, err := s.Site.Seal(ctx, vm)
	s.l.tick("sealed")
	return p, err
}

// open opens the site, as each command does, and the book.
func (l *lab) open(opts *replica.Options) (*site, *replica.Replica, error) {
	inner, err := kvmreplica.Open(l.path("site"), nil)
	if err != nil {
		return nil, nil, err
	}
	book, err := replica.OpenBook(filepath.Join(l.path("site"), ".procedures"))
	if err != nil {
		return nil, nil, err
	}
	s := &site{Site: &kvmsite.Site{Site: inner}, l: l}
	o := replica.Options{}
	if opts != nil {
		o = *opts
	}
	o.Step = func(name string) { l.tick("step " + name) }
	return s, replica.New(s, vmName, book, &o), nil
}

func (l *lab) source() *replica.FromVM {
	return &replica.FromVM{Open: func(ctx context.Context) (hikae.SnapshotProvider, string, *job.BackupOptions, error) {
		p, err := diskvm.Open(ctx, vmName, []diskvm.File{{Key: "disk0", Path: l.path("disk.raw")}}, nil)
		return p, "", nil, err
	}}
}

// home writes the point over the VM's disk.
func (l *lab) home(ctx context.Context, from pipe.Backend, point pipe.PointInfo) (job.RestoreResult, error) {
	l.tick("restore")
	path := l.path("disk.raw")
	r, err := diskvm.NewRestorer(path, nil)
	if err != nil {
		return job.RestoreResult{}, err
	}
	res, err := job.Restore(ctx, from, point, r, &job.RestoreOptions{InPlace: path})
	l.tick("restored")
	return res, err
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if _, err := exec.LookPath("qemu-io"); err != nil {
		t.Skip("qemu-io is not installed")
	}
	l := &lab{dir: t.TempDir(), tick: func(string) {}}
	require.NoError(t, os.WriteFile(l.path("disk.raw"), content(1), 0o600))
	require.NoError(t, l.start("source"))
	return l
}

// content is a disk that holds a generation of the VM.
func content(generation byte) []byte { return bytes.Repeat([]byte{generation}, diskSize) }

// write is what the VM writes to its own disk.
func (l *lab) write(t *testing.T, off int64, b byte, n int) {
	t.Helper()
	f, err := os.OpenFile(l.path("disk.raw"), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{b}, n), off)
	require.NoError(t, errors.Join(err, f.Close()))
}

// writeReplica is what the replica writes, by QEMU's own code.
func (l *lab) writeReplica(t *testing.T, off int64, b byte, n int) {
	t.Helper()
	s, _, err := l.open(nil)
	require.NoError(t, err)
	st, err := s.Site.Site.State(t.Context(), vmName)
	require.NoError(t, err)
	require.Len(t, st.Disks, 1)
	out, err := exec.CommandContext(t.Context(), "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -P %d %d %d", b, off, n), st.Disks[0].Path).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// readReplica is what the replica would read now, by QEMU's own code.
func (l *lab) readReplica(t *testing.T) []byte {
	t.Helper()
	s, _, err := l.open(nil)
	require.NoError(t, err)
	st, err := s.Site.Site.State(t.Context(), vmName)
	require.NoError(t, err)
	require.Len(t, st.Disks, 1)
	to := filepath.Join(t.TempDir(), "read.raw")
	out, err := exec.CommandContext(t.Context(), "qemu-img", "convert", "-f", "qcow2", "-O", "raw", st.Disks[0].Path, to).CombinedOutput()
	require.NoError(t, err, "%s", out)
	data, err := os.ReadFile(to)
	require.NoError(t, err)
	return data
}

func (l *lab) disk(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile(l.path("disk.raw"))
	require.NoError(t, err)
	return data
}

// same compares disks without printing them.
func same(t *testing.T, want, got []byte) {
	t.Helper()
	require.True(t, bytes.Equal(want, got), "the disks differ")
}
