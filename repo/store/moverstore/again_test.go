package moverstore_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/moverstore"
)

// losing is a line whose session is lost at one call: before or after the call was carried out. What was open in the
// session is gone then.
type losing struct {
	d     *direct
	at    int
	after bool
	err   error

	mu    sync.Mutex
	calls int
}

func (l *losing) Call(ctx context.Context, req wire.Message) (wire.Message, error) {
	l.mu.Lock()
	l.calls++
	hit := l.calls == l.at
	l.mu.Unlock()
	if !hit {
		return l.d.Call(ctx, req)
	}
	if l.after {
		_, _ = l.d.Call(ctx, req)
	}
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	clear(l.d.objects)
	clear(l.d.lists)
	return nil, l.err
}

// The session is lost at every call of a creation, before and after it took effect: the object is there, whole, once,
// and the creator is told so.
func TestCreateInALostSession(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 250_000) // three parts
	for _, lost := range []error{mover.ErrLostSession, session.ErrLost} {
		for _, after := range []bool{false, true} {
			for n := 1; ; n++ {
				mem := memstore.New(nil)
				l := &losing{d: newDirect(t, mem), at: n, after: after, err: lost}
				require.NoError(t, over1(l).Create(t.Context(), "data/one", data), "call %d", n)
				got, err := store.ReadAll(t.Context(), mem, "data/one", 1<<30)
				require.NoError(t, err)
				require.True(t, bytes.Equal(data, got))
				if l.calls < n {
					require.Greater(t, n, 5)
					break
				}
			}
		}
	}
}

// Who may not read back is told that the object exists, and so is who comes second.
func TestCreateThatCannotBeSettled(t *testing.T) {
	mem := memstore.New(nil)
	blindly := func(l *losing) moverstore.Caller {
		return scripted(func(ctx context.Context, req wire.Message) (wire.Message, error) {
			if req.Kind() == wire.KindStoreRead || req.Kind() == wire.KindStoreStat {
				return nil, &wire.Fail{Code: wire.CodeForbidden, Text: "not for you"}
			}
			return l.Call(ctx, req)
		})
	}
	l := &losing{d: newDirect(t, mem), at: 3, after: true, err: mover.ErrLostSession}
	require.ErrorIs(t, over1(blindly(l)).Create(t.Context(), "data/one", []byte("x")), fs.ErrExist)
	require.Equal(t, 2, l.d.count(wire.KindStoreSeal))

	require.NoError(t, mem.Create(t.Context(), "log/1", []byte("theirs")))
	l = &losing{d: newDirect(t, mem), at: 3, err: mover.ErrLostSession}
	require.ErrorIs(t, over1(l).Create(t.Context(), "log/1", []byte("ours")), fs.ErrExist)
}

// The other calls are made again; a session that is lost again and again is an error.
func TestCallsInLostSessions(t *testing.T) {
	ctx := t.Context()
	mem := memstore.New(nil)
	require.NoError(t, mem.Create(ctx, "log/1", []byte("x")))
	for _, after := range []bool{false, true} {
		over := func(at int) *moverstore.Store {
			return over1(&losing{d: newDirect(t, mem), at: at, after: after, err: mover.ErrLostSession})
		}
		_, err := over(1).Stat(ctx, "log/1")
		require.NoError(t, err)
		n, err := over(1).ReadAt(ctx, "log/1", make([]byte, 1), 0)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		_, err = over(1).Probe(ctx)
		require.NoError(t, err)
		names := 0
		for _, err := range over(1).List(ctx, "") {
			require.NoError(t, err)
			names++
		}
		require.Equal(t, 1, names)
		require.NoError(t, mem.Create(ctx, "beat/1", []byte("x")))
		require.NoError(t, over(1).Remove(ctx, "beat/1"))
		require.ErrorIs(t, over(9).Remove(ctx, "beat/1"), fs.ErrNotExist)
	}
	calls := 0
	gone := scripted(func(context.Context, wire.Message) (wire.Message, error) {
		calls++
		return nil, mover.ErrLostSession
	})
	_, err := over1(gone).Stat(ctx, "log/1")
	require.ErrorIs(t, err, mover.ErrLostSession)
	require.Equal(t, 6, calls)
}

// A listing that has begun cannot go on in another session, and says so.
func TestListingInALostSession(t *testing.T) {
	mem := memstore.New(nil)
	for i := range byte(20) {
		require.NoError(t, mem.Create(t.Context(), "a/"+string('a'+i), nil))
	}
	var last error
	for _, err := range over1(&losing{d: newDirect(t, mem), at: 2, err: mover.ErrLostSession}).List(t.Context(), "a/") {
		last = err
	}
	require.ErrorIs(t, last, mover.ErrLostSession)
}

// Where there is no room a call waits, comes back, and gives up in the end.
func TestBusy(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx := t.Context()
		start, calls := time.Now(), 0
		st := over1(scripted(func(context.Context, wire.Message) (wire.Message, error) {
			if calls++; time.Since(start) < time.Minute {
				return nil, &wire.Fail{Code: wire.CodeBusy, Text: "full"}
			}
			return &wire.StoreSize{Size: 7}, nil
		}))
		info, err := st.Stat(ctx, "log/1")
		require.NoError(t, err)
		require.EqualValues(t, 7, info.Size)
		require.Less(t, calls, 60)

		start = time.Now()
		st = over1(failing(&wire.Fail{Code: wire.CodeBusy, Text: "full"}))
		_, err = st.Stat(ctx, "log/1")
		require.ErrorContains(t, err, "full")
		require.InDelta(t, 10*time.Minute, time.Since(start), float64(10*time.Second))

		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err = st.Stat(short, "log/1")
		require.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
	})
}
