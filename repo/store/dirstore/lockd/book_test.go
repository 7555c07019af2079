package lockd

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Cut off anywhere, the book has every line that was whole, and goes on.
func TestBookCutOff(t *testing.T) {
	dir := t.TempDir()
	b, bad, err := openBook(dir)
	require.NoError(t, err)
	require.Zero(t, bad)
	var sizes []int
	for i := range 5 {
		require.NoError(t, b.lock(fmt.Sprintf("pack/%d", i), int64(100+i)))
		data, err := os.ReadFile(filepath.Join(dir, bookName))
		require.NoError(t, err)
		sizes = append(sizes, len(data))
	}
	require.NoError(t, b.close())
	whole, err := os.ReadFile(filepath.Join(dir, bookName))
	require.NoError(t, err)
	for n := range len(whole) + 1 {
		require.NoError(t, os.WriteFile(filepath.Join(dir, bookName), whole[:n], 0o600))
		b, bad, err := openBook(dir)
		require.NoError(t, err)
		require.Zero(t, bad)
		want := 0
		for _, s := range sizes {
			if s <= n {
				want++
			}
		}
		require.Len(t, b.dates, want, n)
		require.NoError(t, b.close())
	}
}

// A flipped bit is told of and moves no date.
func TestBookDamaged(t *testing.T) {
	dir := t.TempDir()
	b, _, err := openBook(dir)
	require.NoError(t, err)
	require.NoError(t, b.lock("pack/a", 1000))
	require.NoError(t, b.lock("pack/b", 2000))
	require.NoError(t, b.close())
	whole, err := os.ReadFile(filepath.Join(dir, bookName))
	require.NoError(t, err)
	for i := range len(whole) - 1 {
		data := append([]byte(nil), whole...)
		data[i] ^= 4
		require.NoError(t, os.WriteFile(filepath.Join(dir, bookName), data, 0o600))
		b, bad, err := openBook(dir)
		require.NoError(t, err)
		assert.Positive(t, bad, i)
		for name, at := range b.dates {
			assert.Equal(t, map[string]int64{"pack/a": 1000, "pack/b": 2000}[name], at)
		}
		require.NoError(t, b.close())
	}
}

func TestBookManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	b, _, err := openBook(dir)
	require.NoError(t, err)
	b.lines = slack // so that it is written anew on the way
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() { assert.NoError(t, b.lock(fmt.Sprintf("pack/%d", i), 1000)) })
	}
	wg.Wait()
	require.NoError(t, b.close())
	b, bad, err := openBook(dir)
	require.NoError(t, err)
	require.Zero(t, bad)
	require.Len(t, b.dates, 64)
	require.NoError(t, b.close())
}

// The clock: within a boot nothing but the counter, over a restart never back, and forward only so far.
func TestClock(t *testing.T) {
	counter := int64(500)
	since := func() int64 { return counter }
	last := stamp{1_000_000, "one", 400}
	day := int64(24 * 3600)
	for _, c := range []struct {
		name    string
		last    stamp
		wall    int64
		boot    string
		vouched bool
		want    int64
		doubt   bool
	}{
		{"first", stamp{}, 777, "one", false, 777, false},
		{"same boot, ten years on", last, last.at + 3650*day, "one", false, last.at + 100, false},
		{"same boot, stepped back", last, 0, "one", false, last.at + 100, false},
		{"restart", last, last.at + 60, "two", false, last.at + 60, false},
		{"restart, stepped back", last, 5, "two", false, last.at, false},
		{"restart, ten years on", last, last.at + 3650*day, "two", false, last.at, true},
		{"restart, a person vouches", last, last.at + 3650*day, "two", true, last.at + 3650*day, false},
	} {
		k, doubt := startClock(c.last, c.wall, c.boot, since, 30*24*time.Hour, c.vouched)
		assert.Equal(t, c.want, k.now().at, c.name)
		assert.Equal(t, c.doubt, doubt > 0, c.name)
		counter += 7
		assert.Equal(t, c.want+7, k.now().at, c.name)
		counter -= 7
	}
}
