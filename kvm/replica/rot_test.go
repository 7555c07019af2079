package replica

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
)

// twoPoints is a site with a point and an increment of it, and their model.
func twoPoints(t testing.TB) (*Site, *model) {
	t.Helper()
	s, m := newSite(t), newModel()
	before := map[string][]byte{"disk0": bytes.Repeat([]byte("first point "), 6*clusterSize/12)}
	c := change{modelPoint: modelPoint{disks: before, blob: []byte("config")}, told: map[string][]pipe.Extent{"disk0": {{Len: int64(len(before["disk0"])), Kind: pipe.Data}}}}
	rng := rand.New(rand.NewPCG(1, 1))
	m.add(c.write(t, s, "vm", rng), c.modelPoint)
	after := bytes.Clone(before["disk0"])
	copy(after[clusterSize:2*clusterSize], bytes.Repeat([]byte("the second point"), clusterSize/16))
	clear(after[3*clusterSize : 4*clusterSize])
	size := int64(len(after))
	c = change{base: m.ids[0], modelPoint: modelPoint{disks: map[string][]byte{"disk0": after}, blob: []byte("config 2")}, told: map[string][]pipe.Extent{"disk0": {
		{Len: clusterSize, Kind: pipe.Unchanged}, {Off: clusterSize, Len: clusterSize, Kind: pipe.Data}, {Off: 2 * clusterSize, Len: clusterSize, Kind: pipe.Unchanged},
		{Off: 3 * clusterSize, Len: clusterSize, Kind: pipe.Free}, {Off: 4 * clusterSize, Len: size - 4*clusterSize, Kind: pipe.Unchanged},
	}}}
	m.add(c.write(t, s, "vm", rng), c.modelPoint)
	return s, m
}

// A bit that flips anywhere in a replica's files is found by what reads it and by a check, and nothing wrong is handed on: what
// is read is right, or is an error (H01).
func TestBitRot(t *testing.T) {
	s, m := twoPoints(t)
	files, err := filepath.Glob(filepath.Join(s.folder("vm"), "*", "*"))
	require.NoError(t, err)
	flips := 60
	if long() {
		flips = 1500
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng, seen := rand.New(rand.NewPCG(seed, 0)), 0
	for range flips {
		path := files[rng.IntN(len(files))]
		if info, err := os.Stat(path); err != nil || info.IsDir() || info.Size() == 0 {
			continue
		}
		undo := flip(t, path, rng)
		found, err := s.Check(t.Context(), "vm", true)
		require.NoError(t, err)
		for i, id := range m.ids {
			if !m.readsRight(t, s, id) {
				require.NotEmpty(t, found, "point %d cannot be read, and a check finds nothing", i)
			}
		}
		if len(found) > 0 {
			seen++
		}
		if len(found) == 0 { // then QEMU would see no other content either
			for _, id := range m.ids {
				same(t, filepath.Join(s.folder("vm"), id, "disk0"+diskSuffix), m.points[id].disks["disk0"], s.folder("vm"))
			}
		}
		undo()
	}
	require.Positive(t, seen)
	t.Logf("figure: %d of %d flips were found; the others were in bytes that mean nothing", seen, flips)
	m.check(t, s, "vm", false)
}

// flip changes one bit of a file.
func flip(t testing.TB, path string, rng *rand.Rand) (undo func()) {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	at := rng.IntN(len(text))
	if rng.IntN(2) == 0 {
		at = rng.IntN(min(len(text), 200)) // where the heads are
	}
	rotten := bytes.Clone(text)
	rotten[at] ^= 1 << rng.IntN(8)
	write := func(b []byte) {
		require.NoError(t, os.Chmod(path, 0o600))
		require.NoError(t, os.WriteFile(path, b, 0o600))
		require.NoError(t, os.Chmod(path, 0o400))
	}
	write(rotten)
	return func() { write(text) }
}

// readsRight reads all of a point. It holds that what is read is right, and tells whether anything could not be read.
func (m *model) readsRight(t testing.TB, s *Site, id string) bool {
	img, err := s.Open(t.Context(), id, "disk0")
	if err != nil {
		requireDamage(t, err)
		return false
	}
	defer img.Close()
	want, got := m.points[id].disks["disk0"], make([]byte, clusterSize)
	whole := true
	for off := 0; off < len(want); off += clusterSize {
		n, err := img.ReadAt(t.Context(), got[:min(clusterSize, len(want)-off)], int64(off))
		if err != nil {
			requireDamage(t, err)
			whole = false
			continue
		}
		require.True(t, bytes.Equal(want[off:off+n], got[:n]), "wrong content at %d", off)
	}
	return whole
}

func requireDamage(t testing.TB, err error) {
	var damage *DamagedError
	require.ErrorAs(t, err, &damage)
	require.True(t, damage.Damaged())
}

// What has rotted is not handed on: a point that would need it of its base is refused, a merge carries the sum along, and a
// failover that is asked to look closely does not start from it (H01).
func TestRotIsNotHandedOn(t *testing.T) {
	s, m := twoPoints(t)
	path := filepath.Join(s.folder("vm"), m.ids[1], "disk0"+diskSuffix)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	at := bytes.Index(text, []byte("the second point"))
	require.Positive(t, at)
	text[at+5] ^= 4
	require.NoError(t, os.Chmod(path, 0o600))
	require.NoError(t, os.WriteFile(path, text, 0o400))

	var damage *DamagedError
	_, err = s.Failover(t.Context(), "vm", &FailoverOptions{Deep: true})
	require.ErrorAs(t, err, &damage)
	require.Equal(t, int64(clusterSize), damage.Off)
	state, err := s.State(t.Context(), "vm")
	require.NoError(t, err)
	require.Equal(t, Ready, state.Stage)

	w, err := s.Begin(t.Context(), "vm", &pipe.PointOptions{Base: m.ids[1]})
	require.NoError(t, err)
	target, err := w.Disk(t.Context(), "disk0", int64(len(m.points[m.ids[1]].disks["disk0"])))
	require.NoError(t, err)
	_, err = target.WriteAt(t.Context(), []byte("a part of the cluster that has rotted"), clusterSize+5)
	require.NoError(t, err)
	require.ErrorAs(t, target.Commit(t.Context()), &damage)
	require.NoError(t, w.Close())

	warned := 0
	s.warn = func(string) { warned++ }
	_, err = s.Keep(t.Context(), "vm", 1)
	require.NoError(t, err)
	require.Equal(t, 1, warned)
	img, err := s.Open(t.Context(), m.ids[1], "disk0")
	require.NoError(t, err)
	_, err = img.ReadAt(t.Context(), make([]byte, 10), clusterSize)
	require.ErrorAs(t, err, &damage)
	_, err = img.ReadAt(t.Context(), make([]byte, clusterSize), 0)
	require.NoError(t, err, "the rest is there")
	require.NoError(t, img.Close())
}

// A record that cannot be read keeps everything where it is: nobody knows what stands on what.
func TestDamagedRecord(t *testing.T) {
	s, m := twoPoints(t)
	require.NoError(t, os.Remove(filepath.Join(s.folder("vm"), m.ids[1], recordName)))
	require.NoError(t, os.WriteFile(filepath.Join(s.folder("vm"), m.ids[1], recordName), []byte("{}"), 0o600))
	var damage *DamagedError
	_, err := s.Keep(t.Context(), "vm", 1)
	require.ErrorAs(t, err, &damage)
	_, err = s.Failover(t.Context(), "vm", nil)
	require.ErrorAs(t, err, &damage, "the newest may be the one")
	var listed []string
	for p, err := range s.Points(t.Context(), "vm") {
		if err != nil {
			require.ErrorAs(t, err, &damage)
			continue
		}
		listed = append(listed, p.ID)
	}
	require.Equal(t, m.ids[:1], listed)
	f, err := s.Failover(t.Context(), "vm", &FailoverOptions{Point: m.ids[0]})
	require.NoError(t, err)
	require.Equal(t, m.ids[0], f.Info.ID)
	require.NoError(t, s.Undo(t.Context(), "vm"))
	s, err = Open(s.dir, nil)
	require.NoError(t, err)
	_, err = os.Stat(filepath.Join(s.folder("vm"), m.ids[1], "disk0"+diskSuffix))
	require.NoError(t, err, "nothing is removed")
	require.False(t, errors.Is(err, os.ErrNotExist))
}
