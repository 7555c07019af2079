package vmwaretest

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// seedOf is the seed of a random test: that of HIKAE_TEST_SEED, or another each time.
func seedOf(t *testing.T) int64 {
	seed := time.Now().UnixNano()
	if s, err := strconv.ParseInt(os.Getenv("HIKAE_TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("HIKAE_TEST_SEED=%d", seed)
	return seed
}

func rounds(fast, long int) int {
	switch os.Getenv("HIKAE_TEST_TIER") {
	case "long", "release":
		return long
	}
	return fast
}

// model is what the server should hold, in memory.
type model struct {
	t     *testing.T
	rng   *rand.Rand
	v     *VM
	now   [][]byte // by disk
	snaps []*state
	on    *state // where the machine stands
}

type state struct {
	ref    types.ManagedObjectReference
	disks  [][]byte
	parent *state
}

func newModel(t *testing.T, v *VM, seed int64) *model {
	m := &model{t: t, rng: rand.New(rand.NewSource(seed)), v: v}
	for _, d := range v.Disks() {
		p, err := d.Read(0, int(d.Size()))
		require.NoError(t, err)
		m.now = append(m.now, p)
	}
	return m
}

func (m *model) step() string {
	switch n := m.rng.Intn(20); {
	case n < 11:
		return m.write()
	case n < 15 && len(m.snaps) < 6:
		ref, err := m.v.CreateSnapshot("s", "")
		require.NoError(m.t, err)
		m.on = &state{ref: ref, disks: clone(m.now), parent: m.on}
		m.snaps = append(m.snaps, m.on)
		return "snapshot " + ref.Value
	case n < 18 && len(m.snaps) > 0:
		return m.remove(m.snaps[m.rng.Intn(len(m.snaps))], m.rng.Intn(5) == 0)
	case n == 18 && len(m.snaps) > 0:
		m.on = m.snaps[m.rng.Intn(len(m.snaps))]
		require.NoError(m.t, m.v.Revert(m.on.ref))
		m.now = clone(m.on.disks)
		return "revert " + m.on.ref.Value
	}
	return m.write()
}

func clone(disks [][]byte) (out [][]byte) {
	for _, d := range disks {
		out = append(out, bytes.Clone(d))
	}
	return out
}

func (m *model) write() string {
	i := m.rng.Intn(len(m.now))
	size := int64(len(m.now[i]))
	off := m.rng.Int63n(size)
	if m.rng.Intn(3) == 0 {
		off = off / trackGrain * trackGrain
	}
	p := make([]byte, min(1+m.rng.Int63n(20000), size-off))
	m.rng.Read(p)
	require.NoError(m.t, m.v.Disk(i).Write(off, p))
	copy(m.now[i][off:], p)
	return fmt.Sprintf("write disk %d at %d, %d bytes", i, off, len(p))
}

func (m *model) remove(s *state, children bool) string {
	require.NoError(m.t, m.v.RemoveSnapshot(s.ref, children))
	gone := map[*state]bool{s: true}
	for grew := children; grew; {
		grew = false
		for _, c := range m.snaps {
			if c.parent != nil && gone[c.parent] && !gone[c] {
				gone[c], grew = true, true
			}
		}
	}
	for m.on != nil && gone[m.on] {
		m.on = m.on.parent
	}
	for _, c := range m.snaps {
		for !gone[c] && c.parent != nil && gone[c.parent] {
			c.parent = c.parent.parent
		}
	}
	m.snaps = slices.DeleteFunc(m.snaps, func(c *state) bool { return gone[c] })
	return fmt.Sprintf("remove %s, children %v", s.ref.Value, children)
}

// check compares everything: what the guest sees, what each snapshot holds, and the tree.
func (m *model) check(log []string, byFile func(*testing.T, string) []byte) {
	m.t.Helper()
	for i, want := range m.now {
		d := m.v.Disk(i)
		got, err := d.Read(0, len(want))
		require.NoError(m.t, err)
		m.same(want, got, log, "disk %d as the guest sees it", i)
		m.same(want, byFile(m.t, d.Chain()[0]), log, "disk %d by its files", i)
	}
	infos := m.v.Snapshots()
	require.Len(m.t, infos, len(m.snaps), "%v", log)
	for _, s := range m.snaps {
		at := slices.IndexFunc(infos, func(x SnapshotInfo) bool { return x.Ref == s.ref })
		require.GreaterOrEqual(m.t, at, 0, "%v", log)
		parent := types.ManagedObjectReference{}
		if s.parent != nil {
			parent = s.parent.ref
		}
		require.Equal(m.t, parent, infos[at].Parent, "%v", log)
		require.Equal(m.t, s == m.on, infos[at].Current, "%v", log)
		m.v.mu.Lock()
		real := m.v.snapshotBy(s.ref)
		files := map[int]string{}
		for i, d := range m.v.disks {
			files[i] = real.pins[d.key].layer.local
		}
		m.v.mu.Unlock()
		for i, f := range files {
			m.same(s.disks[i], byFile(m.t, f), log, "disk %d of snapshot %s", i, s.ref.Value)
		}
	}
}

func (m *model) same(want, got []byte, log []string, format string, args ...any) {
	m.t.Helper()
	if !bytes.Equal(want, got) {
		m.t.Fatalf("%s is wrong after\n%v", fmt.Sprintf(format, args...), log)
	}
}

// TestRandom compares the server with a plain model over random schedules, by the guest's view, by vmware/vmdk, and at the end
// of each by qemu-img; and what is left is one file for each disk (R117).
func TestRandom(t *testing.T) {
	seed := seedOf(t)
	for i := range rounds(2, 60) {
		format := []DeltaFormat{SESparse, COWD}[i%2]
		t.Run(fmt.Sprintf("%d-%s", i, format), func(t *testing.T) {
			s, err := Start(&Options{DiskBytes: 1<<20 + 512*int64(i), DisksPerVM: 2, Deltas: format})
			require.NoError(t, err)
			defer func() { require.NoError(t, s.Close()) }()
			v := s.VM("web0")
			m := newModel(t, v, seed+int64(i))
			var log []string
			for n := range rounds(40, 60) {
				log = append(log, m.step())
				if n%rounds(10, 6) == 0 {
					m.check(log, content)
				}
			}
			m.check(log, qemuOr(content))
			for len(m.snaps) > 0 {
				log = append(log, m.remove(m.snaps[0], false))
			}
			m.check(log, content)
			for _, d := range v.Disks() {
				require.Len(t, d.Chain(), 1, "%v", log)
			}
			require.Empty(t, s.Leftovers(), "%v", log)
		})
	}
}

// TestIncrements: the changed areas between any two snapshots that a client took, over random schedules without reverts, hold
// every change, in pages, with ids that were taken before others' snapshots came and went.
func TestIncrements(t *testing.T) {
	seed := seedOf(t)
	r := newRig(t, &Options{DiskBytes: 4<<20 + 512, PageAreas: 3})
	v := r.s.VM("web0")
	r.track(v)
	m := newModel(t, v, seed)
	d := v.Disk(0)
	copyOf := make([]byte, d.Size())
	since := "*"
	for range rounds(6, 200) {
		for range m.rng.Intn(8) {
			switch m.rng.Intn(10) {
			case 0:
				r.remove(r.create(v, false), false)
			default:
				m.write()
			}
		}
		ref := r.create(v, false)
		snap := r.snapshot(ref)
		b := backing(&snap.Config, d.Device())
		file, err := r.s.LocalFile(b.FileName)
		require.NoError(t, err)
		held := content(t, file)
		for off := int64(0); off < d.Size(); {
			res, err := methods.QueryChangedDiskAreas(r.ctx, r.c, &types.QueryChangedDiskAreas{
				This: v.Ref(), Snapshot: &ref, DeviceKey: d.Device(), StartOffset: off, ChangeId: since,
			})
			require.NoError(t, err)
			info := res.Returnval
			require.LessOrEqual(t, len(info.ChangedArea), 3)
			require.Positive(t, info.Length)
			for _, a := range info.ChangedArea {
				copy(copyOf[a.Start:a.Start+a.Length], held[a.Start:])
			}
			off += info.Length
		}
		if !bytes.Equal(held, copyOf) {
			t.Fatal("the copy is not what the snapshot holds")
		}
		since = b.ChangeId
		m.write()
		require.NoError(t, r.remove(ref, false))
	}
}
