package xfs_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
	"github.com/hikae/hikae/pipe/exclude/xfs"
)

// wrapped makes a snapshot whose log goes over the ring's end: its tail is of one cycle and its head of the next.
func (l *lab) wrapped(t *testing.T) (snapshot string, records []xfs.LogRecord) {
	img := l.path()
	mkfsAt(t, img, "-d", "size=320m", "-l", "size=13m")
	m := fsystest.Mount(t, "xfs", img, "nouuid")
	opts := &fsystest.AgeOptions{MaxFile: 16 << 10, MaxFiles: 3000, Fsync: 2}
	require.NoError(t, fsystest.Age(m.Dir, 7, 60, opts))
	for round := range uint64(60) {
		require.NoError(t, churn(m.Dir, 700))
		require.NoError(t, ageAgain(m.Dir, 8+round, 30, opts))
		snapshot = l.clone(t, img)
		vol, err := fsystest.Image(snapshot)
		require.NoError(t, err)
		records, err = xfs.LogRecords(t.Context(), vol)
		require.NoError(t, err)
		require.NoError(t, vol.Close())
		if len(records) > 12 && records[0].Cycle < records[len(records)-1].Cycle {
			require.NoError(t, m.Unmount())
			return snapshot, records
		}
		require.NoError(t, os.Remove(snapshot))
	}
	t.Fatal("the log never wrapped")
	return "", nil
}

// churn fills the log with little else being written.
func churn(dir string, n int) error {
	sub := filepath.Join(dir, "churn")
	if err := os.Mkdir(sub, 0o700); err != nil {
		return err
	}
	for i := range n {
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), nil, 0o600); err != nil {
			return err
		}
	}
	return os.RemoveAll(sub)
}

// TestTorn damages the log's records as a crash does, and holds what the reader makes of them against the kernel.
func TestTorn(t *testing.T) {
	l := newLab(t)
	snapshot, records := l.wrapped(t)
	last := func(i int) xfs.LogRecord { return records[len(records)-1-i] }

	flip := func(t *testing.T, f *os.File, off int64) {
		b := make([]byte, 512)
		_, err := f.ReadAt(b, off)
		require.NoError(t, err)
		b[300] ^= 4
		_, err = f.WriteAt(b, off)
		require.NoError(t, err)
	}
	// stale puts a block back to what it was in the cycle before.
	stale := func(t *testing.T, f *os.File, off int64, cycle uint32) {
		b := make([]byte, 512)
		binary.BigEndian.PutUint32(b, cycle)
		_, err := f.WriteAt(b, off)
		require.NoError(t, err)
	}
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, f *os.File)
		fails  bool // the kernel refuses it too
		slow   bool // for the long tier
	}{
		{name: "as it is", slow: true, damage: func(*testing.T, *os.File) {}},
		{name: "a bit of the last record", damage: func(t *testing.T, f *os.File) { flip(t, f, last(0).Blocks[last(0).Head]) }},
		{name: "a bit of the fifth last", slow: true, damage: func(t *testing.T, f *os.File) { flip(t, f, last(4).Blocks[last(4).Head]) }},
		{name: "the last block is missing", damage: func(t *testing.T, f *os.File) {
			stale(t, f, last(0).Blocks[len(last(0).Blocks)-1], last(0).Cycle-1)
		}},
		{name: "the last header is missing", slow: true, damage: func(t *testing.T, f *os.File) {
			stale(t, f, last(0).Blocks[0], last(0).Cycle-1)
		}},
		{name: "a block of the third last is missing", slow: true, damage: func(t *testing.T, f *os.File) {
			stale(t, f, last(2).Blocks[last(2).Head], last(2).Cycle-1)
		}},
		{name: "a bit of an early record", fails: true, damage: func(t *testing.T, f *os.File) {
			r := records[len(records)/3]
			flip(t, f, r.Blocks[r.Head])
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.slow && !long() {
				t.Skip("one of several alike: the others are in the long tier")
			}
			copied := l.clone(t, snapshot)
			f, err := os.OpenFile(copied, os.O_RDWR, 0)
			require.NoError(t, err)
			c.damage(t, f)
			require.NoError(t, f.Close())
			if !c.fails {
				l.checkSnapshot(t, copied)
				return
			}
			shown, _ := open(t, copied)
			assert.Contains(t, shown.Info().Doubt, "checksum of a record")
			for r, err := range shown.Free(t.Context()) {
				t.Fatal("free in spite of the doubt:", r, err)
			}
			_, err = fsystest.TryMount(t, "xfs", copied, "nouuid")
			assert.Error(t, err, "the kernel takes what the reader doubts")
		})
	}
}
