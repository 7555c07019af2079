package dirstore

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore/vfs/vfstest"
)

// A damaged object takes the right bytes; whatever call fails on the way, it is the old one or the new one, whole.
func TestMend(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	old, right := bytes.Repeat([]byte{1}, 9000), bytes.Repeat([]byte{2}, 9000)
	st, err := Init(t.TempDir())
	require.NoError(t, err)
	defer st.Close()
	require.ErrorIs(t, st.Mend(ctx, "a/b", right), fs.ErrNotExist)
	require.ErrorIs(t, st.Mend(ctx, "../b", right), fs.ErrInvalid)
	require.NoError(t, st.Create(ctx, "a/b", old))
	_, err = st.ReadAt(ctx, "a/b", make([]byte, 10), 0) // it is open
	require.NoError(t, err)
	require.NoError(t, st.Mend(ctx, "a/b", right))
	got, err := store.ReadAll(ctx, st, "a/b", 1<<20)
	require.NoError(t, err)
	require.Equal(t, right, got)
	require.NoError(t, st.Close())
	require.ErrorIs(t, st.Mend(ctx, "a/b", right), fs.ErrClosed)
}

func TestMendThatFails(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	old, right := bytes.Repeat([]byte{1}, 9000), bytes.Repeat([]byte{2}, 9000)
	holds := func(disk *vfstest.Mem) []byte {
		st := OpenFS(disk, nil)
		defer st.Close()
		got, err := store.ReadAll(ctx, st, "a/b", 1<<20)
		require.NoError(t, err)
		require.True(t, bytes.Equal(got, old) || bytes.Equal(got, right), "neither the one nor the other")
		return got
	}
	rng := rand.New(rand.NewPCG(1, 2))
	failed := 0
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			disk := vfstest.NewMem()
			faulty := vfstest.NewFaulty(disk)
			st := OpenFS(faulty, nil)
			require.NoError(t, st.Create(ctx, "a/b", old))
			faulty.Set(vfstest.Fault{N: n, After: after})
			faulty.Before = func(string, string) { holds(disk.Crash(rng, rng.Float64())) } // the power goes
			err := st.Mend(ctx, "a/b", right)
			faulty.Before = nil
			fired := faulty.Fired()
			got := holds(disk.Crash(rng, 1))
			require.NoError(t, st.Close())
			if err == nil {
				require.Equal(t, right, got)
			} else {
				failed++
			}
			if fired == 0 {
				break
			}
		}
	}
	require.Greater(t, failed, 10)
}

// Of a mender and a remover, and of two menders, whoever comes first: what was removed and created anew is never written over by one who had looked before.
func TestMendBesideARemoval(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	old, right, anew := bytes.Repeat([]byte{1}, 9000), bytes.Repeat([]byte{2}, 9000), bytes.Repeat([]byte{3}, 9000)
	steps := 0
	for n := 1; ; n++ {
		disk := vfstest.NewMem()
		faulty := vfstest.NewFaulty(disk)
		mender, other := OpenFS(faulty, nil), OpenFS(disk, nil)
		require.NoError(t, mender.Create(ctx, "a/b", old))
		calls, done := 0, make(chan error, 1)
		faulty.Before = func(string, string) {
			if calls++; calls != n {
				return
			}
			go func() {
				err := other.Remove(ctx, "a/b")
				if err == nil {
					err = other.Create(ctx, "a/b", anew)
				}
				done <- err
			}()
			select { // it waits for the mender, or the mender finds what it did
			case err := <-done:
				done <- err
			case <-time.After(5 * time.Millisecond):
			}
		}
		err := mender.Mend(ctx, "a/b", right)
		faulty.Before = nil
		if calls < n {
			require.NoError(t, err)
			break
		}
		steps++
		require.NoError(t, <-done, "step %d", n)
		got, err := store.ReadAll(ctx, other, "a/b", 1<<20)
		require.NoError(t, err)
		if n == 1 && err == nil { // it was there before the mender looked at anything, and is what it was told to mend
			require.Equal(t, right, got)
		} else {
			require.Equal(t, anew, got, "step %d: what was created anew is lost", n)
		}
		require.NoError(t, mender.Close())
		require.NoError(t, other.Close())
	}
	require.Greater(t, steps, 5)
}
