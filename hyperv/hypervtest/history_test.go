package hypervtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// history is a VM with plain copies of its disks: what it is compared with knows no pages, no files and no chains.
type history struct {
	t     *testing.T
	h     *Host
	g     *Guest
	r     *rand.Rand
	disks [][]byte
	user  map[string][][]byte // by checkpoint
	order []string
	open  *Object        // a recovery checkpoint
	at    [][]byte       // what the disks held then
	base  map[int]string // ids of the last reference point
	then  [][]byte       // what the disks held then
	point *Object
	doubt bool // the VM was reverted since: lists are not to be believed
	again bool // it was since the open checkpoint was made
	step  string
}

func copies(disks [][]byte) (out [][]byte) {
	for _, d := range disks {
		out = append(out, bytes.Clone(d))
	}
	return out
}

// Whatever happens, in whatever order: files hold what the guest wrote, checkpoints what it had written, and lists of changes cover what changed.
func TestHistories(t *testing.T) {
	runs, steps := 3, 60
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		runs, steps = 40, 300
	}
	for run := range runs {
		seed := uint64(run) + 1
		if s := os.Getenv("HIKAE_TEST_SEED"); s != "" {
			seed, _ = strconv.ParseUint(s, 10, 64)
		}
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { runHistory(t, seed, steps) })
	}
}

func runHistory(t *testing.T, seed uint64, steps int) {
	disks := []Disk{{Size: 5 << 20, BlockSize: 1 << 20}, {Size: 3<<20 + 8192, BlockSize: 1 << 20, SectorSize: 4096}}
	if seed%2 == 0 {
		disks = append(disks, Disk{Size: 2 << 20, Format: "vhd", Fixed: seed%4 == 0})
	}
	h, g := core(t, Options{}, VM{Disks: disks})
	y := &history{t: t, h: h, g: g, r: rand.New(rand.NewPCG(seed, 7)), user: map[string][][]byte{}}
	for _, d := range disks {
		y.disks = append(y.disks, make([]byte, d.Size))
	}
	actions := []struct {
		weight int
		name   string
		do     func()
	}{{40, "write", y.write}, {4, "recovery", y.recovery}, {5, "convert", y.convert}, {3, "destroy", y.destroy}, {3, "checkpoint", y.checkpoint},
		{2, "remove", y.remove}, {1, "apply", y.apply}, {2, "power cycle", y.cycle}, {1, "power cut", y.cut}, {3, "settle", y.settle}, {3, "check", y.check}}
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	for range steps {
		n := y.r.IntN(total)
		for _, a := range actions {
			if n -= a.weight; n < 0 {
				y.step += a.name + " "
				a.do()
				break
			}
		}
	}
	y.settle()
	y.check()
}

func (y *history) must(err error) {
	y.t.Helper()
	require.NoError(y.t, err, y.step)
}

func (y *history) write() {
	for range 1 + y.r.IntN(5) {
		disk := y.r.IntN(len(y.disks))
		d := y.disks[disk]
		n := 512 * (1 + y.r.IntN(24))
		if y.r.IntN(10) == 0 {
			n = 300_000
		}
		off := y.r.IntN(len(d)-n) &^ 511
		if y.r.IntN(8) == 0 {
			off++ // a guest writes whole sectors; the file takes anything
		}
		p := make([]byte, n)
		if y.r.IntN(5) > 0 {
			fill := byte(y.r.Uint32())
			for i := range p {
				p[i] = fill + byte(i>>8)
			}
		}
		y.must(y.g.Write(disk, int64(off), p))
		copy(d[off:], p)
	}
}

func (y *history) recovery() {
	if y.open != nil {
		return
	}
	y.idle()
	set, err := y.h.recovery(y.t, y.g, 1+y.r.IntN(2))
	y.must(err)
	y.open, y.at, y.again = set, copies(y.disks), false
}

// idle waits until the VM takes orders: not until merges are done.
func (y *history) idle() {
	for range 5000 {
		y.h.Lock()
		s := y.g.status()
		y.h.Unlock()
		if s == 0 || s == statusMerging {
			return
		}
		time.Sleep(time.Millisecond)
	}
	require.Fail(y.t, "it never takes orders")
}

// frozen compares the checkpoint's files, and the changes since the last.
func (y *history) frozen() {
	for i, name := range y.h.files(y.open) {
		require.True(y.t, bytes.Equal(y.at[i], y.h.hold(y.t, name)), "disk %d of the checkpoint: %s", i, y.step)
		if y.base[i] == "" || y.doubt {
			continue
		}
		y.covers(name, i, y.then[i], y.at[i])
	}
}

// covers asks in as many steps as it takes, and compares by sectors.
func (y *history) covers(name string, disk int, before, after []byte) {
	known := make([]bool, len(after)/512)
	for off := 0; off < len(after); {
		out, err := y.h.do(y.t, images, "GetVirtualDiskChanges", map[string][]string{"Path": {name}, "LimitId": {y.base[disk]},
			"ByteOffset": {fmt.Sprint(off)}, "ByteLength": {fmt.Sprint(len(after) - off)}}, nil)
		y.must(err)
		lengths := given(out, "ChangedByteLengths").([]uint64)
		for i, at := range given(out, "ChangedByteOffsets").([]uint64) {
			for s := at / 512; s < (at+lengths[i])/512; s++ {
				known[s] = true
			}
		}
		done := int(given(out, "ProcessedByteLength").(uint64))
		require.Positive(y.t, done)
		off += done
	}
	for s := range known {
		if !known[s] && !bytes.Equal(before[s*512:][:512], after[s*512:][:512]) {
			require.Fail(y.t, "a change is not in the list", "disk %d at %d: %s", disk, s*512, y.step)
		}
	}
}

func (y *history) convert() {
	if y.open == nil {
		return
	}
	y.idle()
	y.frozen()
	y.idle()
	_, err := y.h.do(y.t, snapshots, "ConvertToReferencePoint", nil, map[string]*Object{"AffectedSnapshot": y.open})
	y.must(err)
	old := y.point
	for _, o := range y.h.asked(y.t, "SELECT * FROM Msvm_VirtualSystemReferencePoint") {
		if o != old {
			y.point = o
		}
	}
	y.base = map[int]string{}
	ids := y.point.Values["ResilientChangeTrackingIdentifiers"].([]string)
	for n, disk := range y.point.Values["VirtualDiskIdentifiers"].([]string) {
		for i := range y.disks {
			if y.g.drives[i].vhd {
				continue
			}
			y.g.mu.Lock()
			name := y.g.drives[i].nodes[0].name
			y.g.mu.Unlock()
			if have, err := y.h.diskID(name); err == nil && have == disk {
				y.base[i] = ids[n]
			}
		}
	}
	require.Len(y.t, y.base, 2)
	if old != nil {
		_, err := y.h.do(y.t, references, "DestroyReferencePoint", nil, map[string]*Object{"AffectedReferencePoint": old})
		y.must(err)
	}
	y.then, y.open, y.doubt = y.at, nil, y.again
}

func (y *history) destroy() {
	if y.open == nil {
		return
	}
	y.frozen()
	y.idle()
	_, err := y.h.do(y.t, snapshots, "DestroySnapshot", nil, map[string]*Object{"AffectedSnapshot": y.open})
	y.must(err)
	y.open = nil
}

func (y *history) checkpoint() {
	if len(y.order) > 4 {
		return
	}
	id, err := y.g.Checkpoint("")
	y.must(err)
	y.user[id], y.order = copies(y.disks), append(y.order, id)
}

func (y *history) any() string {
	if len(y.order) == 0 {
		return ""
	}
	return y.order[y.r.IntN(len(y.order))]
}

func (y *history) remove() {
	if id := y.any(); id != "" {
		y.must(y.g.RemoveCheckpoint(id))
		y.order = slices.DeleteFunc(y.order, func(s string) bool { return s == id })
		delete(y.user, id)
	}
}

func (y *history) apply() {
	if id := y.any(); id != "" {
		y.must(y.g.ApplyCheckpoint(id))
		y.disks, y.doubt, y.again = copies(y.user[id]), true, true
	}
}

func (y *history) cycle() {
	y.must(y.g.PowerOff())
	y.must(y.g.PowerOn())
}

func (y *history) cut() {
	y.must(y.g.PowerCut())
	for i, want := range y.disks { // a reader replays the log
		require.True(y.t, bytes.Equal(want, y.h.hold(y.t, y.g.Tip(i))), "disk %d after a power cut: %s", i, y.step)
	}
	if y.r.IntN(2) == 0 {
		y.recovery() // while it is off
	}
	y.must(y.g.PowerOn())
}

func (y *history) settle() { require.True(y.t, y.h.Settled(20*time.Second), y.step) }

func (y *history) check() {
	for i, want := range y.disks {
		got, err := y.g.Read(i, 0, len(want))
		y.must(err)
		require.True(y.t, bytes.Equal(want, got), "disk %d: %s", i, y.step)
		require.True(y.t, bytes.Equal(want, all(y.t, y.g.Now(i), int64(len(want)))), "the model of disk %d: %s", i, y.step)
	}
	for id, want := range y.user {
		y.h.Lock()
		cp, err := y.g.byID(id)
		y.h.Unlock()
		y.must(err)
		for i, name := range y.h.files(cp.object) {
			require.True(y.t, bytes.Equal(want[i], y.h.hold(y.t, name)), "disk %d of checkpoint %s: %s", i, id, y.step)
		}
	}
}
