package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// writerLab is a host with three VMs and a VSS, and a provider that goes by it.
type writerLab struct {
	t    *testing.T
	h    *hypervtest.Host
	v    *vssHost
	site *Site
	p    *Provider
	said []string
}

func newWriterLab(t *testing.T, generation string, opts ProviderOptions) *writerLab {
	t.Helper()
	return newWriterLabOf(t, generation, opts, hypervtest.Disk{Size: 4 << 20, BlockSize: 1 << 20}, hypervtest.Disk{Size: 1<<20 + 512, BlockSize: 1 << 20})
}

func newWriterLabOf(t *testing.T, generation string, opts ProviderOptions, disks ...hypervtest.Disk) *writerLab {
	t.Helper()
	l := &writerLab{t: t, h: fake(t, hypervtest.Options{Generation: generation, Dir: t.TempDir()})}
	for n := 1; n <= 3; n++ {
		l.h.AddVM(hypervtest.VM{ID: vmGUID(n), Name: fmt.Sprintf("web%d", n), Version: "5.0", Disks: slices.Clone(disks)})
		g := l.h.VM(vmGUID(n))
		for d := range g.Disks() {
			require.NoError(t, g.Write(d, 4096, []byte(fmt.Sprintf("disk %d of web%d", d, n))))
		}
	}
	l.v = newVSSHost(t, l.h)
	l.site = siteAt(t, l.h, nil)
	l.p = l.provider(opts)
	return l
}

func (l *writerLab) provider(opts ProviderOptions) *Provider {
	l.t.Helper()
	if opts.Requester == nil {
		opts.Requester = l.v.connect
	}
	opts.Warn = func(vm, text string) { l.said = append(l.said, text) }
	p, err := New(l.site, nil, &opts)
	require.NoError(l.t, err)
	return p
}

func (l *writerLab) clean() {
	l.t.Helper()
	require.Empty(l.t, l.v.left())
	require.Zero(l.t, l.v.sessions)
}

func ids(n int) (list []string) {
	for i := range n {
		list = append(list, vmGUID(i+1))
	}
	return list
}

// generationOf is where each procedure with a writer is at home.
var writerProcedures = []struct {
	procedure  Procedure
	generation string
}{{Writer2012, "2012"}, {Writer2012R2, "2012r2"}, {Requested, "2022"}}

// R041, R050, R052, R078, R079, R099, R103: what we call, and in which order, whatever the host does in between; and each disk is
// what it was at the freeze, while its guest goes on.
func TestWriterOrder(t *testing.T) {
	for _, c := range writerProcedures {
		t.Run(string(c.procedure), func(t *testing.T) {
			l := newWriterLab(t, c.generation, ProviderOptions{Procedure: c.procedure})
			l.v.recovery = c.procedure == Writer2012R2
			stop := l.v.writers(1)
			defer stop()
			snaps, err := l.p.SnapshotGroup(t.Context(), append(ids(3), strings.ToUpper(vmGUID(1))), nil)
			require.NoError(t, err)
			require.Len(t, snaps, 3, "one that is named twice is one")
			set := l.v.set()
			require.GreaterOrEqual(t, l.v.asked[0].Limit.Minutes(), 15.0, "auto-recovery takes minutes: R061")
			require.False(t, l.v.asked[0].Full, "a copy, unless asked")
			for i, s := range snaps {
				require.Equal(t, hikae.Application, s.Consistency())
				requireFrozen(t, s, func(n int) io.ReaderAt { return set.frozen[fmt.Sprint(vmGUID(i+1), n)] })
				require.NotEmpty(t, s.VM().Config)
				require.Equal(t, string(c.procedure), s.VM().Facts["procedure"])
				for _, err := range s.Changed(t.Context(), s.VM().Disks[0].Key, "hyperv1:x") {
					require.ErrorIs(t, err, hikae.ErrTrackingLost)
				}
				ids, err := s.Prepare(t.Context())
				require.NoError(t, err)
				require.Empty(t, ids)
				if i != 1 { // the second VM's point fails
					require.NoError(t, s.Commit(t.Context()))
				}
				require.NoError(t, s.Release(t.Context()))
				require.Equal(t, i == 2, len(l.v.left()) == 0, "the set goes with the last VM: R099")
			}
			require.Equal(t, []string{"connect", "components", "take 3 VMs", "finish 2 good", "delete", "close"}, l.v.heard())
			require.NoError(t, snaps[0].Release(t.Context()), "it may be called again")
			l.clean()
		})
	}
}

// R036: what the writer does not offer cannot be asked for, and stops nobody else.
func TestWriterMethods(t *testing.T) {
	l := newWriterLab(t, "2012r2", ProviderOptions{})
	l.v.method[vmGUID(1)], l.v.method[vmGUID(2)] = MethodSaved, MethodOffline
	l.v.hidden[vmGUID(3)] = true
	snaps, err := l.p.SnapshotGroup(t.Context(), ids(3), nil)
	var some *GroupError
	require.ErrorAs(t, err, &some)
	require.Len(t, some.FailedVMs(), 1)
	require.ErrorContains(t, some.VMs[vmGUID(3)], "does not offer")
	require.Len(t, snaps, 2)
	require.Equal(t, hikae.Crash, snaps[0].Consistency())
	require.Contains(t, warnings(snaps[0]), "stood still for a moment")
	l.v.hidden[vmGUID(3)] = false
	third, err := l.p.Snapshot(t.Context(), vmGUID(3), &hikae.SnapshotOptions{Quiescer: nobody{}})
	require.NoError(t, err, "nobody holds what is not in the set")
	require.Contains(t, warnings(third), "was not used")
	release(t, []hikae.Snapshot{third})
	require.Equal(t, hikae.Crash, snaps[1].Consistency(), "since 2012 R2 the writer's word for what it saves is offline")
	release(t, snaps)
	l.clean()
}

type nobody struct{ hikae.Quiescer }

func warnings(s hikae.Snapshot) string {
	return strings.Join(s.(interface{ Warnings() []string }).Warnings(), "\n")
}

func release(t *testing.T, snaps []hikae.Snapshot) {
	t.Helper()
	for _, s := range snaps {
		require.NoError(t, s.Release(t.Context()))
	}
}

// R054, R075: without auto-recovery a running VM is no more than crash-consistent, which is told, or refused where more is required.
func TestWriterWithoutRecovery(t *testing.T) {
	for _, c := range writerProcedures[:2] {
		l := newWriterLab(t, c.generation, ProviderOptions{})
		l.v.blind = true
		s, err := l.p.Snapshot(t.Context(), vmGUID(1), nil)
		require.NoError(t, err)
		require.Equal(t, hikae.Crash, s.Consistency())
		require.Contains(t, warnings(s), "auto-recovery")
		require.NoError(t, s.Release(t.Context()))

		strict := l.provider(ProviderOptions{Quiesce: RequireQuiesce})
		_, err = strict.Snapshot(t.Context(), vmGUID(1), nil)
		var q *hikae.QuiesceError
		require.ErrorAs(t, err, &q)
		l.clean()
	}
}

// A VM that fails in the set has its own error; the others are read, and the set goes with the last of them.
func TestWriterOneVMFails(t *testing.T) {
	l := newWriterLab(t, "2012", ProviderOptions{})
	l.v.failed[vmGUID(2)] = errors.New("VSS_E_WRITERERROR_TIMEOUT")
	snaps, err := l.p.SnapshotGroup(t.Context(), ids(3), nil)
	var some *GroupError
	require.ErrorAs(t, err, &some)
	require.ErrorContains(t, some.VMs[vmGUID(2)], "TIMEOUT")
	require.Len(t, snaps, 2)
	release(t, snaps)
	l.clean()

	for _, id := range ids(3) { // all fail: nothing is left
		l.v.failed[id] = errors.New("VSS_E_WRITERERROR_TIMEOUT")
	}
	snaps, err = l.p.SnapshotGroup(t.Context(), ids(3), nil)
	require.ErrorAs(t, err, &some)
	require.Empty(t, snaps)
	l.clean()
	s, err := l.p.Snapshot(t.Context(), vmGUID(1), nil)
	require.ErrorContains(t, err, "TIMEOUT")
	require.Nil(t, s)
	l.clean()
}

// A set of which no VM can be read, and that nobody can take back, is told with each VM's own error: its shadow copies stay on the host.
func TestWriterLeftoverIsTold(t *testing.T) {
	l := newWriterLab(t, "2012", ProviderOptions{})
	for _, id := range ids(2) {
		l.v.failed[id] = errors.New("VSS_E_WRITERERROR_TIMEOUT")
	}
	l.v.stays = errors.New("VSS_E_PROVIDER_VETO")
	_, err := l.p.SnapshotGroup(t.Context(), ids(2), nil)
	var some *GroupError
	require.ErrorAs(t, err, &some)
	require.Len(t, some.VMs, 2)
	for _, id := range ids(2) {
		require.ErrorContains(t, some.VMs[id], "TIMEOUT")
		require.ErrorIs(t, some.VMs[id], l.v.stays)
	}
	require.NotEmpty(t, l.v.left())
	require.Zero(t, l.v.sessions)
	_, err = l.p.Snapshot(t.Context(), vmGUID(1), nil)
	require.ErrorIs(t, err, l.v.stays)
}

// A set whose making failed, or whose answer was lost, is taken back by its mark.
func TestWriterTakeFails(t *testing.T) {
	for _, late := range []bool{false, true} {
		l := newWriterLab(t, "2012r2", ProviderOptions{})
		if late {
			l.v.lateTake = errors.New("connection reset")
		} else {
			l.v.takeFails = errors.New("VSS_E_INSUFFICIENT_STORAGE")
		}
		_, err := l.p.SnapshotGroup(t.Context(), ids(2), nil)
		require.Error(t, err)
		require.Contains(t, l.v.heard(), "delete by mark")
		l.clean()
		l.v.lateTake, l.v.takeFails = nil, nil
		s, err := l.p.Snapshot(t.Context(), vmGUID(1), nil)
		require.NoError(t, err, "nobody holds the VM any more")
		_, err = l.p.Snapshot(t.Context(), vmGUID(1), nil)
		var busy *hikae.BusyError
		require.ErrorAs(t, err, &busy)
		require.NoError(t, s.Release(t.Context()))
		l.clean()
	}
}

// A set that goes away while it is read fails the read, and the point: production's content is never read in its place.
func TestWriterSetIsLost(t *testing.T) {
	l := newWriterLab(t, "2012", ProviderOptions{})
	s, err := l.p.Snapshot(t.Context(), vmGUID(1), nil)
	require.NoError(t, err)
	img, err := s.OpenDisk(t.Context(), s.VM().Disks[0].Key)
	require.NoError(t, err)
	l.v.set().lose()
	_, err = img.ReadAt(t.Context(), make([]byte, 64<<10), 0)
	require.ErrorIs(t, err, errSetGone)
	_, err = s.OpenDisk(t.Context(), s.VM().Disks[0].Key)
	require.ErrorIs(t, err, errSetGone)
	_, err = s.Prepare(t.Context())
	require.ErrorIs(t, err, errSetGone)
	require.ErrorContains(t, err, "was lost while it was read")
	require.NoError(t, s.Release(t.Context()), "images that are still open are closed")
	l.clean()
}

func TestWriterSnapshotIsChecked(t *testing.T) {
	l := newWriterLab(t, "2012", ProviderOptions{})
	s, err := l.p.Snapshot(t.Context(), vmGUID(1), nil)
	require.NoError(t, err)
	_, err = s.OpenDisk(t.Context(), "scsi9-9")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, s.Release(t.Context()))
	_, err = s.OpenDisk(t.Context(), s.VM().Disks[0].Key)
	require.Error(t, err)

	without, err := New(l.site, nil, &ProviderOptions{})
	require.NoError(t, err)
	_, err = without.Snapshot(t.Context(), vmGUID(1), nil)
	var plan *PlanError
	require.ErrorAs(t, err, &plan)
}

// R052: kill at every step, before and after it has its effect: a sweep leaves no set and no connection, and settles all effects.
func TestWriterKilledAtEachStep(t *testing.T) {
	for _, c := range writerProcedures {
		t.Run(string(c.procedure), func(t *testing.T) {
			l := newWriterLabOf(t, c.generation, ProviderOptions{Procedure: c.procedure}, hypervtest.Disk{Size: 1 << 20, BlockSize: 1 << 20})
			ended := false
			for kill := 1; !ended; kill++ {
				require.Less(t, kill, 100)
				dir := filepath.Join(t.TempDir(), "journal")
				j, err := hikae.OpenFileJournal(dir)
				require.NoError(t, err)
				l.v.kill, l.v.step = kill, 0
				p := l.provider(ProviderOptions{Procedure: c.procedure}) // a session of its own
				err = session(t, p, killedJournal{j, l.v})
				ended = err == nil && 2*l.v.step < kill
				l.v.kill = 0
				require.NoError(t, j.Close())

				next, err := hikae.OpenFileJournal(dir)
				require.NoError(t, err)
				_, err = next.Sweep(t.Context(), map[string]hikae.Sweeper{"hyperv": l.provider(ProviderOptions{})}, nil)
				require.NoError(t, err, "kill %d", kill)
				require.Empty(t, l.v.left(), "kill %d", kill)
				for e, err := range next.Pending(t.Context()) {
					t.Errorf("kill %d: effect %v %v stays", kill, e, err)
				}
				require.NoError(t, next.Close())
			}
		})
	}
}

// killedJournal dies with its session.
type killedJournal struct {
	hikae.Journal
	v *vssHost
}

func (k killedJournal) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	before, after := k.v.alive()
	if before != nil {
		return nil, before
	}
	done, err := k.Journal.Intend(ctx, e)
	return func(ctx context.Context) error {
		before, after := k.v.alive()
		if before != nil {
			return before
		}
		return errors.Join(done(ctx), after)
	}, errors.Join(err, after)
}

// session is the whole life of two VMs in a set.
func session(t *testing.T, p *Provider, j hikae.Journal) error {
	snaps, err := p.SnapshotGroup(t.Context(), ids(2), &hikae.SnapshotOptions{Journal: j})
	for _, s := range snaps {
		_, prepared := s.Prepare(t.Context())
		err = errors.Join(err, prepared, s.Commit(t.Context()), s.Release(t.Context()))
	}
	return err
}

func TestWriterUndoIsStrict(t *testing.T) {
	l := newWriterLab(t, "2012", ProviderOptions{})
	good := hikae.Effect{Kind: kindSet, VM: vmGUID(1), Facts: map[string]string{"site": l.site.Address(), "host": "HV1",
		"mark": "abcdefghijklmnopqrstuvwxyz", "procedure": string(Writer2012), "vms": vmGUID(1)}}
	require.NoError(t, l.p.Undo(t.Context(), good, nil), "what never happened")
	for fact, value := range map[string]string{"mark": "*", "host": "nobody", "site": "elsewhere"} {
		bad := good
		bad.Facts = map[string]string{}
		for k, v := range good.Facts {
			bad.Facts[k] = v
		}
		bad.Facts[fact] = value
		require.Error(t, l.p.Undo(t.Context(), bad, nil), fact)
	}
	without, err := New(l.site, nil, nil)
	require.NoError(t, err)
	require.ErrorIs(t, without.Undo(t.Context(), good, nil), errors.ErrUnsupported)
}

// A disk that was added, or taken away, while the set was made is caught: whether the set has it is not known.
func TestWriterDiskIsAddedWithinTheSet(t *testing.T) {
	disk := func(slot int) Disk {
		return Disk{Controller: "scsi", Slot: slot, Path: fmt.Sprintf(`C:\%d.vhdx`, slot)}
	}
	vm := &planned{machine: &Machine{ID: vmGUID(1), Disks: []Disk{disk(0), disk(1)}}}
	chains := map[string][]string{"scsi0-0": {`C:\0.vhdx`}, "scsi0-1": {`C:\1.vhdx`}, "scsi0-2": {`C:\2.vhdx`}}
	v := &vssSet{host: &Host{}, then: map[string]*seen{}}
	for _, c := range []struct {
		now  []Disk
		what string
	}{{[]Disk{disk(0), disk(1)}, ""}, {[]Disk{disk(0), disk(1), disk(2)}, "was added"}, {[]Disk{disk(1)}, "not there any more"}} {
		v.then[vmGUID(1)] = &seen{machine: &Machine{Disks: c.now}, chains: chains}
		err := v.unchanged(t.Context(), vm, []string{`C:\0.vhdx`, `C:\1.vhdx`})
		if c.what == "" {
			require.NoError(t, err)
			continue
		}
		var changed *ChangedError
		require.ErrorAs(t, err, &changed)
		require.Contains(t, changed.What, c.what)
	}
}
