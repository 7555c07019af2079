package hyperv

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/pipe"
)

// increment takes a full, lets something happen, and takes the next; which of its disks were read whole, it says.
func (l *lab) increment(g *hypervtest.Guest, p *Provider, happens func(base *point)) (base, next *point) {
	l.t.Helper()
	base, _, err := l.backup(p, g, nil, newNote())
	require.NoError(l.t, err)
	happens(base)
	next, _, err = l.backup(p, g, base, newNote())
	require.NoError(l.t, err)
	l.same(g, next)
	return base, next
}

// Trap 1: a checkpoint that a dead session left is somebody's at work, until a sweep; a sweep removes it, and no other.
func TestTrapLeftoverCheckpoint(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g := l.vm("web1", nil)
	dead := newNote()
	s, err := l.provider(nil).Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: dead})
	require.NoError(t, err)
	require.NotEmpty(t, l.fake.Leftovers())

	_, _, err = l.backup(l.provider(nil), g, nil, newNote())
	var busy *hikae.BusyError
	require.ErrorAs(t, err, &busy)
	require.Len(t, dead.left(), 1)
	for range 2 { // what is undone already is no error
		require.NoError(t, l.provider(nil).Undo(t.Context(), dead.left()[0], nil))
	}
	l.clean(g)
	_, err = s.Prepare(t.Context())
	require.ErrorContains(t, err, "was removed while it was read")
	require.NoError(t, s.Release(t.Context()))
	require.Empty(t, dead.left())
	pt, _, err := l.backup(l.provider(nil), g, nil, newNote())
	require.NoError(t, err)
	l.same(g, pt)
}

// Trap 1, 14: a sweep does not take a checkpoint of another program for ours, also where the host did not keep our name.
func TestTrapForeignCheckpointStays(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g := l.vm("web1", nil)
	p := l.provider(nil)
	effect := hikae.Effect{ID: "1", Kind: kindCheckpoint, VM: g.ID(), Facts: map[string]string{"site": l.site.Address(), "host": "HV1",
		"mark": strings.Repeat("a", 26), "begun": time.Now().Add(-48 * time.Hour).UTC().Format(time.RFC3339)}}
	other := newNote()
	s, err := p.Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: other})
	require.NoError(t, err)
	require.NoError(t, p.Undo(t.Context(), effect, nil))
	_, err = s.Prepare(t.Context())
	require.NoError(t, err, "another session's checkpoint is there")
	require.NoError(t, s.Release(t.Context()))
	l.clean(g)
	for _, bad := range []map[string]string{{"mark": "x"}, {"mark": strings.Repeat("a", 26)}, {"mark": strings.Repeat("a", 26), "begun": "soon"}} {
		bad["site"] = l.site.Address()
		require.Error(t, p.Undo(t.Context(), hikae.Effect{Kind: kindCheckpoint, VM: g.ID(), Facts: bad}, nil))
		require.Error(t, p.Undo(t.Context(), hikae.Effect{Kind: kindReference, VM: g.ID(), Facts: bad}, nil))
	}
	effect.Facts["site"] = "elsewhere:5986"
	require.ErrorIs(t, p.Undo(t.Context(), effect, nil), errors.ErrUnsupported)
}

// Trap 2: a merge that does not end makes no backup fail; it is told, the effect stays, and a later start sees it done.
func TestTrapMergeHangs(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g := l.vm("web1", nil)
	l.fake.Fail(hypervtest.Fault{Event: "merge", Hang: true})
	j := newNote()
	var told []string
	p := l.provider(&ProviderOptions{MergeLimit: 300 * time.Millisecond, Warn: func(_, text string) { told = append(told, text) }})
	pt, s, err := l.backup(p, g, nil, j)
	require.NoError(t, err)
	l.same(g, pt)
	require.Len(t, told, 1)
	require.Contains(t, told[0], "clean-up is pending")
	require.Equal(t, told, s.(interface{ Warnings() []string }).Warnings())
	require.Len(t, j.left(), 1)
	require.Equal(t, kindCheckpoint, j.left()[0].Kind)

	var pending *PendingError
	require.ErrorAs(t, p.Undo(t.Context(), j.left()[0], nil), &pending)
	require.NotEmpty(t, pending.Files)
	l.fake.Heal()
	require.NoError(t, l.provider(nil).Undo(t.Context(), j.left()[0], nil))
	l.clean(g, refs(pt)...)
	next, _, err := l.backup(l.provider(nil), g, pt, newNote())
	require.NoError(t, err)
	require.Empty(t, next.lost)
	l.same(g, next)
}

// Trap 4: what cannot be told is read whole, with the reason; the point after that is incremental again.
func TestTrapTrackingLost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		happens func(*lab, *hypervtest.Guest, *point)
		why     string
	}{
		"ids unknown": {func(l *lab, g *hypervtest.Guest, _ *point) { g.LoseTracking(0) }, "0xC03A0030"},
		"the host's answer": {func(l *lab, g *hypervtest.Guest, _ *point) {
			l.fake.Fail(hypervtest.Fault{Event: "changes", Code: 0xC03A0030, Reason: "0xC03A0030"})
		}, "0xC03A0030"},
		"no reference point": {func(l *lab, g *hypervtest.Guest, b *point) {
			require.NoError(l.t, l.provider(nil).dropReferences(l.t.Context(), g.ID(), refs(b)))
		}, "is not there any more"},
		"extended": {func(l *lab, g *hypervtest.Guest, _ *point) { require.NoError(l.t, g.Extend(0, 2*labDisk)) }, ""},
		"another id": {func(_ *lab, _ *hypervtest.Guest, b *point) {
			for key := range b.ids {
				b.ids[key] = "vmware2:x"
			}
		}, "not one of this hypervisor's"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, hypervtest.Options{})
			g, p := l.vm("web1", nil), l.provider(nil)
			_, next := l.increment(g, p, func(b *point) {
				c.happens(l, g, b)
				require.NoError(t, g.Write(0, 5<<20, []byte("after the base")))
			})
			for _, err := range next.lost {
				require.ErrorContains(t, err, c.why)
			}
			if c.why != "" {
				require.NotEmpty(t, next.lost)
			}
			last, _, err := l.backup(p, g, next, newNote())
			require.NoError(t, err)
			require.Empty(t, last.lost)
			l.same(g, last)
		})
	}
}

// Trap 4: after a revert the host's ids are known and its lists are wrong. It shows in the files.
func TestTrapRevert(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	id, err := g.Checkpoint("before")
	require.NoError(t, err)
	require.NoError(t, g.Write(0, 4<<20, bytes.Repeat([]byte("x"), 100_000)))
	base, next := l.increment(g, p, func(*point) {
		require.NoError(t, g.PowerOff())
		require.NoError(t, g.ApplyCheckpoint(id))
		require.NoError(t, g.PowerOn())
	})
	require.Len(t, next.lost, 2)
	for _, err := range next.lost {
		require.ErrorIs(t, err, hikae.ErrTrackingLost)
		require.ErrorContains(t, err, "reverted")
	}
	require.NotEqual(t, base.content, next.content)
}

// Trap 4: an empty list is not believed where the file says that it was written to.
func TestTrapEmptyList(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	base, _, err := l.backup(p, g, nil, newNote())
	require.NoError(t, err)
	for key, id := range base.ids {
		m, err := parseMoment(id)
		require.NoError(t, err)
		m.data = "00000000-0000-4000-8000-000000000000" // as if somebody had written to it behind the host's back
		m.seq--                                         // which counts in the file's header
		base.ids[key] = m.change()
	}
	next, _, err := l.backup(p, g, base, newNote())
	require.NoError(t, err)
	require.Len(t, next.lost, 2)
	for _, err := range next.lost {
		require.ErrorContains(t, err, "DataWriteGuid")
	}
	idle, _, err := l.backup(p, g, next, newNote())
	require.NoError(t, err)
	require.Empty(t, idle.lost, "a disk that nobody wrote to is believed")
	require.Zero(t, idle.read)
}

// Trap 4: a VM whose notes tell of a restore is read whole.
func TestTrapRestoredInPlace(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	_, next := l.increment(g, p, func(*point) { l.notes(g, "of a person", RestoredNote+"2026-11-22T10:00:00Z") })
	require.Len(t, next.lost, 2)
	last, _, err := l.backup(p, g, next, newNote())
	require.NoError(t, err)
	require.Empty(t, last.lost)
}

// Trap 5: after a power cut the list is coarse: more is read, and nothing is lost.
func TestTrapPowerCut(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	_, next := l.increment(g, p, func(*point) {
		require.NoError(t, g.Write(0, 100, []byte("one byte or two")))
		require.NoError(t, g.Flush(0))
		require.NoError(t, g.PowerCut())
		require.NoError(t, g.PowerOn())
	})
	require.Empty(t, next.lost)
	require.Greater(t, next.read, int64(changeGrain))
}

// Trap 8: a disk that no checkpoint covers does not vanish quietly.
func TestTrapPassThrough(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g := l.vm("db1", func(v *hypervtest.VM) {
		v.Disks = append(v.Disks, hypervtest.Disk{Path: `\\HV1\root\virtualization\v2:Msvm_DiskDrive.DeviceID="1"`, Bus: 1, Physical: true})
	})
	_, err := l.provider(nil).Snapshot(t.Context(), g.ID(), nil)
	var plan *PlanError
	require.ErrorAs(t, err, &plan)
	p := l.provider(&ProviderOptions{IgnoreDisks: []string{"scsi1-0"}})
	s, err := p.Snapshot(t.Context(), g.ID(), nil)
	require.NoError(t, err)
	require.Len(t, s.VM().Disks, 3)
	require.NotEmpty(t, s.VM().Disks[2].Skip)
	require.NoError(t, s.Release(t.Context()))
	l.clean(g)
}

// Trap 9: what cannot be tracked is read whole through a checkpoint, and why is in the plan.
func TestTrapVHDIsNotTracked(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g := l.vm("old1", func(v *hypervtest.VM) {
		v.Disks = []hypervtest.Disk{{Size: labDisk, Format: "vhd"}, {Size: labDisk / 2, BlockSize: 1 << 20}}
	})
	p := l.provider(nil)
	base, next := l.increment(g, p, func(*point) { require.NoError(t, g.Write(0, 0, []byte("after the base"))) })
	require.Len(t, base.ids, 1)
	require.Empty(t, next.lost)
	l.clean(g, refs(next)...)
	plan, err := p.Plan(t.Context(), g.ID())
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(plan.Reasons, func(r Reason) bool { return r.About == aboutTracking && !r.Met && strings.Contains(r.Found, "VHD") }))
}

// Trap 14: reference points of other programs stay, whatever becomes of ours.
func TestTrapForeignReferencePoint(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	foreign := l.another()
	base, next := l.increment(g, p, func(*point) { require.NoError(t, g.Write(0, 0, []byte("after the base"))) })
	require.NotEqual(t, refs(base), refs(next))
	require.ElementsMatch(t, append(refs(next), foreign), l.fake.ReferencePoints(g.ID()))
}

// Trap 16: checkpoints of users are a part of the chain, made before the base or after it, and stay.
func TestTrapUsersCheckpoints(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	older, err := g.Checkpoint("older")
	require.NoError(t, err)
	require.NoError(t, g.Write(0, 3<<20, []byte("between")))
	var newer string
	_, next := l.increment(g, p, func(*point) {
		require.NoError(t, g.Write(0, 0, []byte("after the base")))
		newer, err = g.Checkpoint("newer")
		require.NoError(t, err)
		require.NoError(t, g.Write(1, 0, []byte("after the user's")))
	})
	require.Empty(t, next.lost)
	require.ElementsMatch(t, []string{older, newer}, g.Checkpoints())
	l.clean(g, refs(next)...)
}

// A user's checkpoint that is made while ours is read goes on standing on what is below it.
func TestUsersCheckpointOnOurs(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	s, err := p.Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: newNote()})
	require.NoError(t, err)
	want := l.frozen(g)
	user, err := g.Checkpoint("in the middle")
	require.NoError(t, err)
	require.NoError(t, g.Write(0, 0, []byte("later")))
	got := map[string][]byte{}
	for _, d := range s.VM().Disks {
		img, err := s.OpenDisk(t.Context(), d.Key)
		require.NoError(t, err)
		got[d.Key] = make([]byte, d.Size)
		_, err = img.ReadAt(t.Context(), got[d.Key], 0)
		require.NoError(t, err)
	}
	sameContent(t, want, got)
	require.NoError(t, s.Release(t.Context()))
	l.clean(g)
	require.Equal(t, []string{user}, g.Checkpoints())
}

// Trap 18: without tracking all is read, nothing is left on the host, and a base that was there goes.
func TestTrapNoTracking(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g := l.vm("web1", nil)
	base, _, err := l.backup(l.provider(nil), g, nil, newNote())
	require.NoError(t, err)
	next, _, err := l.backup(l.provider(&ProviderOptions{NoTracking: true}), g, base, newNote())
	require.NoError(t, err)
	require.Len(t, next.lost, 2)
	require.Empty(t, next.ids)
	l.same(g, next)
	l.clean(g)
}

// Release without Commit leaves the old base whole: the next increment has what changed since it began.
func TestReleaseWithoutCommit(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	base, next := l.increment(g, p, func(base *point) {
		for _, prepared := range []bool{false, true} {
			require.NoError(t, g.Write(0, 0, []byte("seen by a session that fails")))
			j := newNote()
			s, err := p.Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: j, Since: base.ids})
			require.NoError(t, err)
			img, err := s.OpenDisk(t.Context(), s.VM().Disks[0].Key)
			require.NoError(t, err)
			if prepared {
				_, err = s.Prepare(t.Context())
				require.NoError(t, err)
				_, err = img.ReadAt(t.Context(), make([]byte, 10), 0)
				require.ErrorIs(t, err, errSealed, "what is merged into is not read for the checkpoint's")
				_, err = s.OpenDisk(t.Context(), s.VM().Disks[0].Key)
				require.ErrorIs(t, err, errSealed)
			}
			require.NoError(t, s.Release(t.Context()))
			require.NoError(t, s.Release(t.Context()))
			require.NoError(t, img.Close())
			require.Empty(t, j.left())
			l.clean(g, refs(base)...)
		}
	})
	require.Empty(t, next.lost)
	require.NotEqual(t, base.ids, next.ids)
}

// gate is a caller's quiescer.
type gate struct {
	mu            sync.Mutex
	froze, thawed int
	fail          error
}

func (g *gate) Freeze(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.froze++
	return g.fail
}
func (g *gate) Thaw(context.Context) error { g.mu.Lock(); defer g.mu.Unlock(); g.thawed++; return nil }

// A caller's quiescer freezes around a checkpoint that the host does not quiesce for, and thaws on every path.
func TestCallersQuiescer(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g := l.vm("web1", nil)
	for _, c := range []struct {
		fail  error
		level hikae.Consistency
	}{{nil, hikae.Filesystem}, {errors.New("the guest's writers failed"), hikae.Crash}} {
		q := &gate{fail: c.fail}
		s, err := l.provider(nil).Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Quiescer: q})
		require.NoError(t, err)
		require.Equal(t, c.level, s.Consistency())
		require.Equal(t, [2]int{1, 1}, [2]int{q.froze, q.thawed})
		require.NoError(t, s.Release(t.Context()))
	}
	require.NotContains(t, l.rows(g), "freeze R091")
	q := &gate{fail: errors.New("no")}
	_, err := l.provider(&ProviderOptions{Quiesce: RequireQuiesce}).Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Quiescer: q})
	var failed *hikae.QuiesceError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, 1, q.thawed)
	l.clean(g)
}

// A host's answers about changes do not have to hold together.
func TestChangesThatDoNotHoldTogether(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g := l.vm("web1", nil)
	h, err := l.site.Owner(t.Context(), g.ID())
	require.NoError(t, err)
	type answer struct {
		done             uint64
		offsets, lengths []uint64
	}
	var now []answer
	l.fake.Lock()
	l.fake.Define(hypervtest.V2, hypervtest.Class{Name: "Msvm_ImageManagementService", Keys: []string{"SystemCreationClassName", "SystemName", "CreationClassName", "Name"},
		Methods: map[string]hypervtest.Method{"GetVirtualDiskChanges": func(*hypervtest.Call) (uint32, []any) {
			a := now[0]
			now = now[min(1, len(now)-1):]
			return 0, []any{"ProcessedByteLength", a.done, "ChangedByteOffsets", a.offsets, "ChangedByteLengths", a.lengths, "Job", nil}
		}}})
	l.fake.Unlock()
	const size = 1 << 20
	for why, list := range map[string][]answer{
		"covers nothing":          {{done: size / 2}, {done: 0}},
		"answers for":             {{done: size + 1}},
		"overlaps":                {{size, []uint64{0, 4096}, []uint64{8192, 4096}}},
		"lies outside":            {{size, []uint64{size - 1}, []uint64{2}}},
		"lengths of them":         {{size, []uint64{0, 4096}, []uint64{1}}},
		"of 0 bytes":              {{size, []uint64{0}, []uint64{0}}},
		"at 18446744073709551615": {{size, []uint64{1<<64 - 1}, []uint64{1<<64 - 1}}},
	} {
		now = list
		_, err := h.changedRanges(t.Context(), `C:\x.vhdx`, "id", size)
		require.ErrorIs(t, err, hikae.ErrTrackingLost, why)
		require.ErrorContains(t, err, why)
	}
	now = []answer{{size / 2, []uint64{0}, []uint64{1}}, {size / 2, []uint64{size - 1}, []uint64{1}}}
	got, err := h.changedRanges(t.Context(), `C:\x.vhdx`, "id", size)
	require.NoError(t, err)
	require.Equal(t, []pipe.Extent{{Len: changeGrain, Kind: pipe.Data}, {Off: size - changeGrain, Len: changeGrain, Kind: pipe.Data}}, got)
}
