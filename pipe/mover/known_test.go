package mover

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
)

// numbered is an id that no hash made.
func numbered(n uint64) (id pipe.ID) {
	binary.LittleEndian.PutUint64(id[:], n*0x9e3779b97f4a7c15) // spread, as a hash is
	binary.LittleEndian.PutUint64(id[8:], n)
	return id
}

// knows holds a table against what it is to have.
func knows(t *testing.T, k *knownTable, n uint64, but ...uint64) {
	t.Helper()
	lost := map[uint64]bool{}
	for _, i := range but {
		lost[i] = true
	}
	for i := range n {
		got, ok := k.lookup(numbered(i))
		require.Equal(t, !lost[i], ok, "block %d", i)
		if ok {
			require.Equal(t, numbered(i+1_000_000), got)
		}
	}
	_, ok := k.lookup(numbered(n + 100_000))
	require.False(t, ok)
}

func open(t *testing.T, path string, key byte) *knownTable {
	t.Helper()
	k, err := openKnown(path, [32]byte{key})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, k.Close()) })
	return k
}

func filled(t *testing.T, n uint64) (path string) {
	path = filepath.Join(t.TempDir(), "known", "x")
	k := open(t, path, 1)
	for i := range n {
		require.NoError(t, k.add(numbered(i), numbered(i+1_000_000)))
		require.NoError(t, k.add(numbered(i), numbered(i+1_000_000)))
	}
	require.EqualValues(t, n, k.size())
	knows(t, k, n)
	require.NoError(t, k.sync())
	require.NoError(t, k.Close())
	_, ok := k.lookup(numbered(0))
	require.False(t, ok)
	require.Error(t, k.add(numbered(0), numbered(0)))
	return path
}

func TestKnown(t *testing.T) {
	t.Parallel()
	path := filled(t, 5000)
	k := open(t, path, 1)
	knows(t, k, 5000)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, 5001*knownRecord, info.Size())
	require.EqualValues(t, 0o600, info.Mode().Perm()&0o077|0o600)

	// Another repository behind the table: the newer answer counts, also when it is opened again.
	require.NoError(t, k.add(numbered(7), numbered(1)))
	got, _ := k.lookup(numbered(7))
	require.Equal(t, numbered(1), got)
}

// A block never takes more than 24 bytes of memory, but for a table that is nearly empty.
func TestKnownMemory(t *testing.T) {
	t.Parallel()
	k := &knownTable{next: 1}
	k.resize(knownFirst)
	for n := range uint64(300_000) {
		k.insert(n*0x9e3779b97f4a7c15, uint32(n+1))
		if n >= knownFirst {
			require.LessOrEqual(t, 12*len(k.tags), int(24*(n+1)))
		}
	}
}

// Every truncation, any flipped bit, and another tenant's file: what is damaged is not believed, the rest is.
func TestKnownDamage(t *testing.T) {
	t.Parallel()
	const n = 40
	whole, err := os.ReadFile(filled(t, n))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "k")
	for size := 0; size <= len(whole); size += 29 {
		require.NoError(t, os.WriteFile(path, whole[:size], 0o600))
		k := open(t, path, 1)
		left := uint64(max(0, size/knownRecord-1))
		knows(t, k, left)
		require.NoError(t, k.add(numbered(n), numbered(n+1_000_000)))
		require.NoError(t, k.Close())
		again := open(t, path, 1)
		knows(t, again, left)
		got, ok := again.lookup(numbered(n))
		require.True(t, ok)
		require.Equal(t, numbered(n+1_000_000), got)
		require.NoError(t, again.Close())
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		at := r.IntN(8 * len(whole))
		bad := append([]byte(nil), whole...)
		bad[at/8] ^= 1 << (at % 8)
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		k := open(t, path, 1)
		if rec := at / 8 / knownRecord; rec > 0 {
			knows(t, k, n, uint64(rec-1))
		} else {
			require.Zero(t, k.size(), "the file's head is damaged, so it is another file")
		}
		require.NoError(t, k.Close())
	}
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	require.Zero(t, open(t, path, 2).size(), "another tenant's file was believed")
}

// A record that goes bad while the table is open is not believed either.
func TestKnownDamageWhileOpen(t *testing.T) {
	t.Parallel()
	path := filled(t, 10)
	k := open(t, path, 1)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte{0xff}, 4*knownRecord+40)
	require.NoError(t, err)
	knows(t, k, 10, 3)
	require.NoError(t, k.add(numbered(3), numbered(3+1_000_000)))
	knows(t, k, 10)
}

func TestKnownAtOnce(t *testing.T) {
	t.Parallel()
	k := open(t, filepath.Join(t.TempDir(), "k"), 1)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(1000) {
				if k.add(numbered(i), numbered(i+1_000_000)) != nil {
					t.Error("add")
				}
				if got, ok := k.lookup(numbered(i * (g + 1) % 1000)); ok && got != numbered(i*(g+1)%1000+1_000_000) {
					t.Error("a wrong answer")
				}
			}
		})
	}
	wg.Wait()
	knows(t, k, 1000)
	require.Equal(t, 1000, k.size())
}
