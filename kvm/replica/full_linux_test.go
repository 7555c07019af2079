package replica

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// A disk that is full at any moment fails what was begun, by an error that says so. Every point that was there reads as it
// did, nothing stays that takes room, and with room again everything goes on (H12).
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	dir := t.TempDir()
	resize := func(flags uintptr, bytes int) error {
		return syscall.Mount("hikae", dir, "tmpfs", flags, fmt.Sprintf("size=%d", bytes))
	}
	if err := resize(0, 64<<20); err != nil {
		t.Skipf("tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	s, err := Open(filepath.Join(dir, "site"), nil)
	require.NoError(t, err)
	m, rng := newModel(), rand.New(rand.NewPCG(rand.Uint64(), 0))
	for range 3 {
		c := m.plan(rng)
		for len(m.ids) > 0 && c.base == "" {
			c = m.plan(rng)
		}
		m.add(c.write(t, s, "vm", rng), c.modelPoint)
	}
	var st syscall.Statfs_t
	require.NoError(t, syscall.Statfs(dir, &st))
	used := int(st.Blocks-st.Bfree) * int(st.Bsize)
	content := make([]byte, 40*clusterSize)
	fill(rng, content)
	full := 0
	for room := 4096; ; room += 96 << 10 {
		require.NoError(t, resize(syscall.MS_REMOUNT, used+room))
		err := writeAll(t, s, m.ids[2], content)
		require.NoError(t, resize(syscall.MS_REMOUNT, 64<<20))
		if err == nil {
			break
		}
		require.ErrorIs(t, err, diskfile.ErrNoSpace)
		full++
		m.check(t, s, "vm", false)
		require.NoError(t, syscall.Statfs(dir, &st))
		require.LessOrEqual(t, int(st.Blocks-st.Bfree)*int(st.Bsize), used+8192, "what failed takes no room")
	}
	require.Greater(t, full, 5)
	t.Logf("figure: a point failed at %d amounts of room", full)
	for p, err := range s.Points(t.Context(), "vm") {
		require.NoError(t, err)
		if _, ok := m.points[p.ID]; !ok {
			m.add(p.ID, modelPoint{disks: map[string][]byte{"disk 1/ü": content}, blob: []byte{}})
		}
	}
	require.NoError(t, syscall.Statfs(dir, &st))
	used = int(st.Blocks-st.Bfree) * int(st.Bsize)
	merged, begun := false, 0
	for room := 0; !merged; room += 64 << 10 {
		require.NoError(t, resize(syscall.MS_REMOUNT, used+room))
		removed, err := s.Keep(t.Context(), "vm", 1)
		// What was begun has taken its point from the list, whether it came to its end or not.
		for p := range s.Points(t.Context(), "vm") {
			img, openErr := s.Open(t.Context(), p.ID, p.Disks[0].Key)
			require.NoError(t, openErr, "a merge that has no room does not stand in a reader's way")
			require.NoError(t, img.Close())
		}
		require.NoError(t, resize(syscall.MS_REMOUNT, 64<<20))
		left := map[string]bool{}
		for p, err := range s.Points(t.Context(), "vm") {
			require.NoError(t, err)
			left[p.ID] = true
			m.checkContent(t, s, p)
		}
		for _, id := range removed {
			require.False(t, left[id])
		}
		if merged = err == nil; !merged {
			require.ErrorIs(t, err, diskfile.ErrNoSpace)
			begun++
		}
	}
	require.Positive(t, begun)
	t.Logf("figure: a merge failed at %d amounts of room", begun)
	require.Len(t, m.ids, 4)
	found, err := s.Check(t.Context(), "vm", true)
	require.NoError(t, err)
	require.Empty(t, found)
}

// checkContent compares the disks of a point with the model.
func (m *model) checkContent(t testing.TB, s *Site, p pipe.PointInfo) {
	t.Helper()
	for _, d := range p.Disks {
		img, err := s.Open(t.Context(), p.ID, d.Key)
		require.NoError(t, err)
		got := make([]byte, d.Size)
		_, err = img.ReadAt(t.Context(), got, 0)
		require.NoError(t, err)
		require.NoError(t, img.Close())
		require.True(t, string(got) == string(m.points[p.ID].disks[d.Key]), "disk %s of %s", d.Key, p.ID)
	}
}

// writeAll makes a point of one disk on another point.
func writeAll(t testing.TB, s *Site, base string, content []byte) error {
	w, err := s.Begin(t.Context(), "vm", &pipe.PointOptions{Base: base})
	if err != nil {
		return err
	}
	defer func() { require.NoError(t, w.Close()) }()
	target, err := w.Disk(t.Context(), "disk 1/ü", int64(len(content)))
	if err != nil {
		return err
	}
	if _, err := target.WriteAt(t.Context(), content, 0); err != nil {
		return err
	}
	if err := target.Commit(t.Context()); err != nil {
		return err
	}
	if err := w.Blob(t.Context(), "vm.xml", strings.NewReader("")); err != nil {
		return err
	}
	_, err = w.Commit(t.Context(), nil)
	return err
}
