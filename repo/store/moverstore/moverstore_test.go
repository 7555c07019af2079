package moverstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/moverstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(roleVariable); dir != "" {
		if err := playTarget(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// R177: a store over the wire is a store like any other.
func TestStore(t *testing.T) {
	storetest.TestStore(t, func(t testing.TB) store.Store { return over1(newDirect(t, memstore.New(nil))) })
}

// An object travels in parts of at most 1 MiB, and a small one in one.
func TestParts(t *testing.T) {
	ctx := t.Context()
	d := newDirect(t, memstore.New(nil))
	st := over1(d)
	for _, c := range []struct{ size, parts int }{{0, 0}, {1, 1}, {1 << 20, 1}, {1<<20 + 1, 2}, {5<<20 + 7, 6}} {
		before := d.count(wire.KindStorePart)
		data := bytes.Repeat([]byte{7}, c.size)
		require.NoError(t, st.Create(ctx, fmt.Sprint("a/", c.size), data))
		require.Equal(t, c.parts, d.count(wire.KindStorePart)-before, "%d bytes", c.size)
	}
	require.ErrorIs(t, st.Create(ctx, "big", make([]byte, wire.MaxObject+1)), fs.ErrInvalid)
	require.Zero(t, d.begun())
}

// A part that fails, or a caller who gives up, ends the creation: the other side is told, and nothing is there.
func TestCreateIsAbandoned(t *testing.T) {
	mem := memstore.New(nil)
	d := newDirect(t, mem)
	ctx, cancel := context.WithCancel(t.Context())
	var parts atomic.Int32
	st := over1(scripted(func(callCtx context.Context, req wire.Message) (wire.Message, error) {
		if req.Kind() == wire.KindStorePart && parts.Add(1) == 3 {
			cancel()
		}
		return d.Call(callCtx, req)
	}))
	err := st.Create(ctx, "data/one", make([]byte, 9<<20))
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, d.count(wire.KindStoreDrop))
	require.Zero(t, d.begun())

	st = over1(scripted(func(ctx context.Context, req wire.Message) (wire.Message, error) {
		if p, ok := req.(*wire.StorePart); ok && p.Off == 1<<20 {
			return nil, &wire.Fail{Code: wire.CodeNoSpace, Text: "the disk is full"}
		}
		return d.Call(ctx, req)
	}))
	err = st.Create(t.Context(), "data/two", make([]byte, 3<<20))
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Zero(t, d.begun())
	found, err := storetest.Collect(mem.List(t.Context(), ""))
	require.NoError(t, err)
	require.Empty(t, found)
}

// No more parts are under way than the limit.
func TestPartsUnderWay(t *testing.T) {
	d := newDirect(t, memstore.New(nil))
	var now, most atomic.Int32
	st := over1(scripted(func(ctx context.Context, req wire.Message) (wire.Message, error) {
		if req.Kind() == wire.KindStorePart || req.Kind() == wire.KindStoreRead {
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Millisecond)
		}
		return d.Call(ctx, req)
	}))
	data := make([]byte, 20<<20)
	require.NoError(t, st.Create(t.Context(), "data/one", data))
	n, err := st.ReadAt(t.Context(), "data/one", make([]byte, 20<<20+1), 0)
	require.Equal(t, len(data), n)
	require.Equal(t, io.EOF, err)
	require.LessOrEqual(t, most.Load(), int32(4))
	require.Greater(t, most.Load(), int32(1))
}

// What the other side says becomes the error that users of a store act on, with its words and the object's name.
func TestErrors(t *testing.T) {
	for code, want := range map[wire.Code]error{
		wire.CodeNotFound: fs.ErrNotExist, wire.CodeExists: fs.ErrExist, wire.CodeInvalid: fs.ErrInvalid,
		wire.CodeForbidden: fs.ErrPermission, wire.CodeForeign: store.ErrForeign, wire.CodeNotDurable: store.ErrNotDurable,
		wire.CodeNoSpace: syscall.ENOSPC, wire.CodeReadOnly: syscall.EROFS, wire.CodeUnsupported: errors.ErrUnsupported,
		wire.CodeLost: nil, wire.CodeFailed: nil,
	} {
		_, err := over1(failing(&wire.Fail{Code: code, Text: "because of the weather"})).Stat(t.Context(), "log/1")
		require.ErrorContains(t, err, "because of the weather")
		require.ErrorContains(t, err, "log/1")
		if want != nil {
			require.ErrorIs(t, err, want)
		}
		var path *fs.PathError
		require.ErrorAs(t, err, &path)
		var fail *wire.Fail
		require.ErrorAs(t, err, &fail)
		require.Equal(t, code, fail.Code)
	}
	lost := errors.New("no line")
	st := over1(scripted(func(context.Context, wire.Message) (wire.Message, error) { return nil, lost }))
	require.ErrorIs(t, st.Create(t.Context(), "log/1", nil), lost)
}

// RELIABILITY 1.7: another side that answers what was not asked is an error, never a panic, a loop or a wrong byte.
func TestHostileAnswers(t *testing.T) {
	ctx := t.Context()
	for _, m := range []wire.Message{
		&wire.OK{}, &wire.StoreSize{}, &wire.StoreNames{}, &wire.StoreOpened{}, &wire.Content{Plain: 3, Data: []byte("ab")},
		&wire.Content{Plain: 2, Codec: pipe.Zstd, Data: []byte("ab")}, &wire.Content{Plain: 9, Data: []byte("123456789")},
	} {
		_, err := over1(always(m)).ReadAt(ctx, "a", make([]byte, 4), 0)
		require.Error(t, err, "%v", m.Kind())
		require.False(t, err == io.EOF || errors.Is(err, fs.ErrNotExist), "%v: %v", m.Kind(), err)
	}
	require.Error(t, over1(always(&wire.Content{})).Create(ctx, "a", []byte("x")))
	require.Error(t, over1(always(&wire.Content{})).Remove(ctx, "a"))
	_, err := over1(always(&wire.OK{})).Probe(ctx)
	require.Error(t, err)
	_, err = over1(always(&wire.OK{})).Stat(ctx, "a")
	require.Error(t, err)

	list := func(m wire.Message) *moverstore.Store { return over1(always(m)) }
	requireNoNames(t, list(&wire.StoreNames{Names: []wire.StoreName{{Name: "../../etc"}}}).List(ctx, "log/"), "no object there")
	requireNoNames(t, list(&wire.StoreNames{Names: []wire.StoreName{{Name: "data/1"}}}).List(ctx, "log/"), "no object there")
	requireNoNames(t, list(&wire.StoreNames{List: 1, More: true}).List(ctx, "log/"), "without an end")
	requireNoNames(t, list(&wire.StoreNames{More: true, Names: []wire.StoreName{{Name: "log/1"}}}).List(ctx, "log/"), "without an end")
}

// What is not told is not zero: a full disk and an unknown one are two things.
func TestFree(t *testing.T) {
	_, err := over1(newDirect(t, memstore.New(nil))).Free(t.Context())
	require.ErrorIs(t, err, errors.ErrUnsupported)
	n, err := over1(always(&wire.StoreIs{Free: 5})).Free(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 5, n)
}
