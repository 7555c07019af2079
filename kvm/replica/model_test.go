package replica

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/pipe/qcow2"
)

// modelPoint is what a point must hold.
type modelPoint struct {
	disks map[string][]byte
	blob  []byte
}

// model is a VM's replica as it must be: the contents of its points, in order.
type model struct {
	ids    []string
	points map[string]modelPoint
}

func newModel() *model { return &model{points: map[string]modelPoint{}} }

// sizes of disks of a model: a cluster and less, some tables, and ends within sectors.
var modelSizes = map[string]int64{"disk0": 5*clusterSize + 700, "disk 1/ü": 40 * clusterSize, "tiny": 3}

// nextContent changes a content in some places, and tells in extents what it did: data, zeros, reasons, and as in the base.
func nextContent(rng *rand.Rand, before []byte, based bool) (content []byte, told []pipe.Extent) {
	content = bytes.Clone(before)
	size := int64(len(before))
	for pos := int64(0); pos < size; {
		n := 1 + rng.Int64N(3*clusterSize)
		if rng.IntN(3) == 0 {
			n = 1 + rng.Int64N(5000)
		}
		if rng.IntN(3) == 0 {
			n = clusterSize - pos%clusterSize + clusterSize*rng.Int64N(3)
		}
		n = min(n, size-pos)
		kinds := []pipe.Kind{pipe.Data, pipe.Zero, pipe.Free, pipe.Swap, pipe.Excluded}
		if based {
			kinds = append(kinds, pipe.Unchanged, pipe.Unchanged, pipe.Unchanged, pipe.Unchanged, pipe.Unchanged)
		}
		kind := kinds[rng.IntN(len(kinds))]
		part := content[pos : pos+n]
		switch kind {
		case pipe.Unchanged:
		case pipe.Data:
			fill(rng, part)
		default:
			clear(part)
		}
		told = append(told, pipe.Extent{Off: pos, Len: n, Kind: kind})
		pos += n
	}
	return content, told
}

func fill(rng *rand.Rand, p []byte) {
	seed := byte(rng.IntN(255) + 1)
	for i := range p {
		p[i] = seed + byte(i>>9)
	}
	if rng.IntN(4) == 0 {
		clear(p[len(p)/2:])
	}
}

// change is a new point of a model: its contents, and what is told of them.
type change struct {
	base string
	modelPoint
	told map[string][]pipe.Extent
}

// plan makes up the next point.
func (m *model) plan(rng *rand.Rand) change {
	c := change{modelPoint: modelPoint{disks: map[string][]byte{}, blob: fmt.Appendf(nil, "config %d", rng.Uint64())}, told: map[string][]pipe.Extent{}}
	if len(m.ids) > 0 && rng.IntN(6) != 0 {
		c.base = m.ids[len(m.ids)-1]
	}
	for _, key := range []string{"disk0", "disk 1/ü", "tiny"} {
		if rng.IntN(8) == 0 {
			continue // the VM lost it
		}
		before, based := m.points[c.base].disks[key]
		if !based {
			before = make([]byte, modelSizes[key])
		}
		c.disks[key], c.told[key] = nextContent(rng, before, based)
	}
	return c
}

// write makes the point, by a copy of an image or by hand.
func (c *change) write(t testing.TB, s *Site, vm string, rng *rand.Rand) string {
	t.Helper()
	w, err := s.Begin(t.Context(), vm, &pipe.PointOptions{Base: c.base})
	require.NoError(t, err)
	defer w.Close()
	for _, key := range []string{"disk0", "disk 1/ü", "tiny"} {
		content, ok := c.disks[key]
		if !ok {
			continue
		}
		target, err := w.Disk(t.Context(), key, int64(len(content)))
		require.NoError(t, err)
		img := pipetest.WithExtents(pipetest.Bytes(content), c.told[key]...)
		if rng.IntN(2) == 0 {
			_, err = pipe.Copy(t.Context(), target, img, nil)
			require.NoError(t, err)
		} else {
			c.writeByHand(t, target.(pipe.ExtentTarget), key, rng)
		}
		require.NoError(t, target.Commit(t.Context()))
	}
	require.NoError(t, w.Blob(t.Context(), "vm.xml", bytes.NewReader(c.blob)))
	id, err := w.Commit(t.Context(), map[string]string{"disk0": "change"})
	require.NoError(t, err)
	return id
}

// writeByHand writes in any order, in pieces of any length, and some of it twice.
func (c *change) writeByHand(t testing.TB, target pipe.ExtentTarget, key string, rng *rand.Rand) {
	content, told := c.disks[key], c.told[key]
	for _, i := range rng.Perm(len(told)) {
		e := told[i]
		if rng.IntN(4) == 0 { // what is replaced afterwards
			noise := make([]byte, e.Len)
			fill(rng, noise)
			_, err := target.WriteAt(t.Context(), noise, e.Off)
			require.NoError(t, err)
		}
		if e.Kind != pipe.Data {
			require.NoError(t, target.Mark(t.Context(), e))
			continue
		}
		for pos := e.Off; pos < e.End(); {
			n := min(e.End()-pos, 1+rng.Int64N(2*clusterSize))
			_, err := target.WriteAt(t.Context(), content[pos:pos+n], pos)
			require.NoError(t, err)
			pos += n
		}
	}
}

func (m *model) add(id string, p modelPoint) {
	m.ids = append(m.ids, id)
	m.points[id] = p
}

// check compares all points of a site with the model, byte by byte: as a session reads them, as the reader of qcow2 does,
// and, where qemu is not nil, as QEMU does.
func (m *model) check(t testing.TB, s *Site, vm string, qemu bool) {
	t.Helper()
	var ids []string
	for p, err := range s.Points(t.Context(), vm) {
		require.NoError(t, err)
		ids = append(ids, p.ID)
		want, ok := m.points[p.ID]
		require.True(t, ok, "a point that nobody made")
		require.Len(t, p.Disks, len(want.disks))
		m.checkPoint(t, s, vm, p, qemu)
	}
	require.Equal(t, m.ids, ids)
	found, err := s.Check(t.Context(), vm, true)
	require.NoError(t, err)
	require.Empty(t, found)
}

func (m *model) checkPoint(t testing.TB, s *Site, vm string, p pipe.PointInfo, qemu bool) {
	want := m.points[p.ID]
	for _, d := range p.Disks {
		content := want.disks[d.Key]
		require.Equal(t, int64(len(content)), d.Size)
		img, err := s.Open(t.Context(), p.ID, d.Key)
		require.NoError(t, err)
		require.NoError(t, pipetest.CheckImage(t.Context(), img, pipetest.Bytes(content)))
		require.NoError(t, img.Close())
		path := filepath.Join(s.folder(vm), p.ID, nameFor(d.Key)+diskSuffix)
		same(t, path, content, s.folder(vm))
		if qemu {
			out, err := exec.Command("qemu-img", "check", "-q", "-f", "qcow2", path).CombinedOutput()
			require.NoError(t, err, "%s", out)
			raw := filepath.Join(t.TempDir(), "raw")
			require.NoError(t, os.WriteFile(raw, append(bytes.Clone(content), make([]byte, imageSize(d.Size)-d.Size)...), 0o600))
			out, err = exec.Command("qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, raw).CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
	}
	r, err := s.OpenBlob(t.Context(), p.ID, "vm.xml")
	require.NoError(t, err)
	var got bytes.Buffer
	_, err = got.ReadFrom(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, want.blob, got.Bytes())
}

// same holds that a disk's file, read as any qcow2 image, has a content.
func same(t testing.TB, path string, content []byte, dir string) {
	t.Helper()
	img, err := qcow2.Open(t.Context(), path, &qcow2.Options{Allow: []string{dir}})
	require.NoError(t, err)
	got := make([]byte, img.Size())
	_, err = img.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	require.True(t, bytes.Equal(content, got[:len(content)]), path)
	require.Empty(t, bytes.Trim(got[len(content):], "\x00"))
}

// Random points, merges and failovers, compared byte by byte (R146, H06).
func TestModel(t *testing.T) {
	seeds, steps := 2, 20
	if long() {
		seeds, steps = 60, 60
	}
	for range seeds {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			s, m := newSite(t), newModel()
			for range steps {
				m.step(t, s, rng)
			}
			_, err := exec.LookPath("qemu-img")
			m.check(t, s, "web 1", err == nil)
		})
	}
}

// step does one thing.
func (m *model) step(t testing.TB, s *Site, rng *rand.Rand) {
	const vm = "web 1"
	switch n := rng.IntN(10); {
	case n < 5:
		c := m.plan(rng)
		m.add(c.write(t, s, vm, rng), c.modelPoint)
	case n < 7 && len(m.ids) > 0:
		m.keep(t, s, vm, 1+rng.IntN(6))
	case n < 9 && len(m.ids) > 0:
		m.failover(t, s, vm, m.ids[rng.IntN(len(m.ids))], rng.IntN(3) != 0, rng)
	default:
		m.check(t, s, vm, false)
	}
}

func (m *model) keep(t testing.TB, s *Site, vm string, n int) {
	removed, err := s.Keep(t.Context(), vm, n)
	require.NoError(t, err)
	for _, id := range removed {
		m.remove(id)
	}
	if len(m.ids) > n { // only what two others stand on is kept beyond
		left, _, err := listFolder(s.folder(vm))
		require.NoError(t, err)
		above := map[string]int{}
		for _, r := range left {
			above[r.Base]++
		}
		for _, r := range left[:len(left)-n] {
			require.GreaterOrEqual(t, above[r.Info.ID], 2)
		}
	}
}

func (m *model) remove(id string) {
	delete(m.points, id)
	for i := range m.ids {
		if m.ids[i] == id {
			m.ids = append(m.ids[:i:i], m.ids[i+1:]...)
			return
		}
	}
}

// failover runs from a point: what is written to it is gone, or the next point.
func (m *model) failover(t testing.TB, s *Site, vm, point string, seal bool, rng *rand.Rand) {
	f, err := s.Failover(t.Context(), vm, &FailoverOptions{Point: point})
	require.NoError(t, err)
	_, err = s.Begin(t.Context(), vm, nil)
	var refused *StateError
	require.ErrorAs(t, err, &refused)
	_, err = s.Keep(t.Context(), vm, 1)
	require.ErrorAs(t, err, &refused)
	after := modelPoint{disks: map[string][]byte{}, blob: m.points[point].blob}
	for _, d := range f.State.Disks {
		after.disks[d.Key] = scribble(t, d.Path, m.points[point].disks[d.Key], rng)
		same(t, d.Path, after.disks[d.Key], s.folder(vm))
	}
	if !seal {
		require.NoError(t, s.Undo(t.Context(), vm))
		return
	}
	info, err := s.Seal(t.Context(), vm)
	require.NoError(t, err)
	m.add(info.ID, after)
}

// scribble writes to an image as a guest does, by QEMU's own tool where there is one.
func scribble(t testing.TB, path string, before []byte, rng *rand.Rand) []byte {
	t.Helper()
	content := bytes.Clone(before)
	if _, err := exec.LookPath("qemu-io"); err != nil || len(content) < 512 {
		return content
	}
	args := []string{"-f", "qcow2"}
	for range 1 + rng.IntN(4) {
		sectors := int64(len(content) / 512)
		off := rng.Int64N(sectors)
		n := min(1+rng.Int64N(300), sectors-off)
		part := content[off*512 : (off+n)*512]
		if rng.IntN(4) == 0 {
			clear(part)
			args = append(args, "-c", fmt.Sprintf("write -z -u %d %d", off*512, n*512))
			continue
		}
		b := byte(1 + rng.IntN(255))
		for i := range part {
			part[i] = b
		}
		args = append(args, "-c", fmt.Sprintf("write -P %d %d %d", b, off*512, n*512))
	}
	out, err := exec.Command("qemu-io", append(args, path)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return content
}
