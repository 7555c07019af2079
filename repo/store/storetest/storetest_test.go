package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCheckOnALiveStore(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	require.NoError(t, st.Create(ctx, "keep/me", []byte("x")))
	require.NoError(t, storetest.Check(ctx, st, &storetest.Options{Prefix: "below/this/", Big: 100_000}))
	left, err := storetest.Collect(st.List(ctx, ""))
	require.NoError(t, err)
	assert.Equal(t, map[string]int64{"keep/me": 1}, left)
}

func TestWrappersKeepTheContract(t *testing.T) {
	storetest.TestStore(t, func(testing.TB) store.Store {
		return storetest.NewRecording(storetest.NewCounting(storetest.NewFaulty(memstore.New(nil))))
	})
}

// broken is a store with one promise broken.
type broken struct {
	store.Store
	create func(ctx context.Context, st store.Store, name string, data []byte) error
	read   func(ctx context.Context, st store.Store, name string, p []byte, off int64) (int, error)
	stat   func(ctx context.Context, st store.Store, name string) (store.Info, error)
	list   func(ctx context.Context, st store.Store, prefix string) iter.Seq2[store.Info, error]
	remove func(ctx context.Context, st store.Store, name string) error
}

func (b *broken) Create(ctx context.Context, name string, data []byte) error {
	if b.create != nil {
		return b.create(ctx, b.Store, name, data)
	}
	return b.Store.Create(ctx, name, data)
}

func (b *broken) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if b.read != nil {
		return b.read(ctx, b.Store, name, p, off)
	}
	return b.Store.ReadAt(ctx, name, p, off)
}

func (b *broken) Stat(ctx context.Context, name string) (store.Info, error) {
	if b.stat != nil {
		return b.stat(ctx, b.Store, name)
	}
	return b.Store.Stat(ctx, name)
}

func (b *broken) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	if b.list != nil {
		return b.list(ctx, b.Store, prefix)
	}
	return b.Store.List(ctx, prefix)
}

func (b *broken) Remove(ctx context.Context, name string) error {
	if b.remove != nil {
		return b.remove(ctx, b.Store, name)
	}
	return b.Store.Remove(ctx, name)
}

// The suite is worth something only if it catches stores that break the contract.
func TestCheckCatches(t *testing.T) {
	ctx := t.Context()
	cases := map[string]*broken{
		"overwriting": {create: func(ctx context.Context, st store.Store, name string, data []byte) error {
			if err := st.Create(ctx, name, data); !errors.Is(err, fs.ErrExist) {
				return err
			}
			_ = st.Remove(ctx, name)
			return st.Create(ctx, name, data)
		}},
		"check then act": {create: func(ctx context.Context, st store.Store, name string, data []byte) error {
			if _, err := st.Stat(ctx, name); err == nil {
				return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
			}
			time.Sleep(time.Millisecond)
			if err := st.Create(ctx, name, data); !errors.Is(err, fs.ErrExist) {
				return err
			}
			return nil
		}},
		"torn": {create: func(ctx context.Context, st store.Store, name string, data []byte) error {
			if strings.Contains(name, "whole/") {
				if err := st.Create(ctx, name, data[:len(data)/2]); err != nil {
					return err
				}
				time.Sleep(time.Millisecond)
				_ = st.Remove(ctx, name)
			}
			return st.Create(ctx, name, data)
		}},
		"lost byte": {create: func(ctx context.Context, st store.Store, name string, data []byte) error {
			return st.Create(ctx, name, bytes.TrimSuffix(data, []byte{data0(data)}))
		}},
		"end is an error": {read: func(ctx context.Context, st store.Store, name string, p []byte, off int64) (int, error) {
			n, err := st.ReadAt(ctx, name, p, off)
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}},
		"full and EOF": {read: func(ctx context.Context, st store.Store, name string, p []byte, off int64) (int, error) {
			n, err := st.ReadAt(ctx, name, p, off)
			if info, e := st.Stat(ctx, name); e == nil && off+int64(n) == info.Size {
				err = io.EOF
			}
			return n, err
		}},
		"any error is absence": {stat: func(ctx context.Context, st store.Store, name string) (store.Info, error) {
			info, err := st.Stat(ctx, name)
			if err != nil {
				err = fs.ErrNotExist
			}
			return info, err
		}},
		"loose prefix": {list: func(ctx context.Context, st store.Store, prefix string) iter.Seq2[store.Info, error] {
			return func(yield func(store.Info, error) bool) {
				for info, err := range st.List(ctx, "") {
					if err != nil || strings.HasPrefix(info.Name, strings.TrimSuffix(prefix, "/")) {
						if !yield(info, err) {
							return
						}
					}
				}
			}
		}},
		"listing ends silently": {list: func(ctx context.Context, st store.Store, prefix string) iter.Seq2[store.Info, error] {
			return func(yield func(store.Info, error) bool) {
				n := 0
				for info, err := range st.List(ctx, prefix) {
					if n++; n > 50 || err != nil || !yield(info, err) {
						return
					}
				}
			}
		}},
		"listed twice": {list: func(ctx context.Context, st store.Store, prefix string) iter.Seq2[store.Info, error] {
			return func(yield func(store.Info, error) bool) {
				for info, err := range st.List(ctx, prefix) {
					for range 2 {
						if !yield(info, err) {
							return
						}
					}
				}
			}
		}},
		"remove is idempotent": {remove: func(ctx context.Context, st store.Store, name string) error {
			if err := st.Remove(ctx, name); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}},
		"remove forgets to": {remove: func(ctx context.Context, st store.Store, name string) error {
			_, err := st.Stat(ctx, name)
			return err
		}},
		"deaf to cancel": {create: func(_ context.Context, st store.Store, name string, data []byte) error {
			return st.Create(context.Background(), name, data)
		}},
	}
	for name, b := range cases {
		t.Run(name, func(t *testing.T) {
			b.Store = memstore.New(nil)
			assert.Error(t, storetest.Check(ctx, b, &storetest.Options{Big: 10_000}))
		})
	}
}

func data0(p []byte) byte {
	if len(p) == 0 {
		return 0
	}
	return p[len(p)-1]
}

// H38: an error before, after and in the middle of each write.
func TestFaultyCreate(t *testing.T) {
	ctx := t.Context()
	for mode, size := range map[storetest.Mode]int64{storetest.Before: -1, storetest.After: 10, storetest.Middle: 5} {
		mem := memstore.New(nil)
		st := storetest.NewFaulty(mem, storetest.Fault{Op: storetest.Create, Prefix: "p/", N: 2, Mode: mode})
		require.NoError(t, st.Create(ctx, "other", nil), "another prefix does not count")
		require.NoError(t, st.Create(ctx, "p/1", make([]byte, 10)))
		err := st.Create(ctx, "p/2", make([]byte, 10))
		require.ErrorIs(t, err, storetest.ErrInjected)
		require.ErrorContains(t, err, "p/2")
		info, err := mem.Stat(ctx, "p/2")
		if size < 0 {
			require.ErrorIs(t, err, fs.ErrNotExist)
		} else {
			require.NoError(t, err)
			assert.Equal(t, size, info.Size)
		}
		require.NoError(t, st.Create(ctx, "p/3", nil), "once")
		assert.Equal(t, 1, st.Fired())
	}
}

// H07: listings that fail, stop short, or come back empty without an error.
func TestFaultyList(t *testing.T) {
	ctx := t.Context()
	mem := memstore.New(nil)
	for _, name := range []string{"a", "b", "c", "d"} {
		require.NoError(t, mem.Create(ctx, name, nil))
	}
	for mode, want := range map[storetest.Mode]struct {
		n   int
		err bool
	}{
		storetest.Before: {0, true}, storetest.After: {4, true}, storetest.Middle: {2, true},
		storetest.Truncated: {2, false}, storetest.Empty: {0, false}, storetest.Slow: {4, false},
	} {
		st := storetest.NewFaulty(mem, storetest.Fault{Op: storetest.List, Mode: mode})
		n, failed := 0, false
		for _, err := range st.List(ctx, "") {
			if err != nil {
				require.ErrorIs(t, err, storetest.ErrInjected)
				failed = true
				continue
			}
			n++
		}
		assert.Equal(t, want.n, n, "mode %d", mode)
		assert.Equal(t, want.err, failed, "mode %d", mode)
	}
}

func TestFaultyReadAndSticky(t *testing.T) {
	ctx := t.Context()
	mem := memstore.New(nil)
	require.NoError(t, mem.Create(ctx, "a", []byte("0123456789")))
	own := errors.New("own")
	st := storetest.NewFaulty(mem,
		storetest.Fault{Op: storetest.Read, Mode: storetest.Middle},
		storetest.Fault{Op: storetest.Stat, N: 2, Sticky: true, Err: own})
	p := make([]byte, 10)
	n, err := st.ReadAt(ctx, "a", p, 0)
	assert.Equal(t, 5, n)
	require.ErrorIs(t, err, storetest.ErrInjected)
	_, err = st.ReadAt(ctx, "a", p, 0)
	require.NoError(t, err)

	_, err = st.Stat(ctx, "a")
	require.NoError(t, err)
	for range 3 {
		_, err = st.Stat(ctx, "a")
		require.ErrorIs(t, err, own)
	}
	st.Heal()
	_, err = st.Stat(ctx, "a")
	require.NoError(t, err)
}

func TestFaultyDelayEndsWithTheContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		st := storetest.NewFaulty(memstore.New(nil), storetest.Fault{Sticky: true, Mode: storetest.Slow, Delay: time.Hour})
		begin := time.Now()
		require.NoError(t, st.Create(t.Context(), "a", nil))
		assert.Equal(t, time.Hour, time.Since(begin))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, st.Remove(ctx, "a"), context.DeadlineExceeded)
	})
}

func TestRecordingAndCounting(t *testing.T) {
	ctx := t.Context()
	inner := storetest.NewCounting(memstore.New(nil))
	st := storetest.NewRecording(inner)
	require.NoError(t, st.Create(ctx, "p/a", make([]byte, 10)))
	require.Error(t, st.Create(ctx, "p/a", make([]byte, 7)))
	_, _ = st.ReadAt(ctx, "p/a", make([]byte, 4), 3)
	_, _ = storetest.Collect(st.List(ctx, "p/"))
	_ = st.Remove(ctx, "p/a")

	var log []string
	for _, c := range st.Calls() {
		log = append(log, c.String())
	}
	assert.Equal(t, []string{
		"create p/a: 10", "create p/a: create p/a: file already exists", "read p/a at 3: 4", "list p/: 1", "remove p/a: 0",
	}, log)
	assert.Equal(t, st.Totals(), inner.Totals())
	assert.Equal(t, 2, inner.Totals().Calls[storetest.Create])
	assert.Equal(t, 1, inner.Totals().Failed[storetest.Create])
	assert.EqualValues(t, 10, inner.Totals().CreatedBytes)
	assert.EqualValues(t, 4, inner.Totals().ReadBytes)
	assert.Empty(t, inner.Calls())
	st.Reset()
	assert.Empty(t, st.Calls())
}
