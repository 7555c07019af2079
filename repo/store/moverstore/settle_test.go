package moverstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/moverstore"
)

// shaky is a directory on a disk: a name may be visible and not durable, and once a folder could not be synced it never
// can be again.
type shaky struct {
	*memstore.Store

	mu      sync.Mutex
	loose   map[string]bool         // visible, and lost by a power cut
	trouble func(name string) error // after a name became visible, before it is durable
	broken  bool                    // no folder can be synced
}

func newShaky() *shaky { return &shaky{Store: memstore.New(nil), loose: map[string]bool{}} }

func (s *shaky) fail(trouble func(name string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = trouble
}

func (s *shaky) Create(ctx context.Context, name string, data []byte) error {
	if err := s.Store.Create(ctx, name, data); err != nil {
		return err
	}
	s.mu.Lock()
	trouble := s.trouble
	s.mu.Unlock()
	if trouble == nil {
		return nil
	}
	err := trouble(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.loose[name] = true
	}
	s.broken = s.broken || errors.Is(err, store.ErrNotDurable)
	return err
}

func (s *shaky) Settle(_ context.Context, prefix string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return fmt.Errorf("%s: %w", prefix, store.ErrNotDurable)
	}
	for name := range s.loose {
		if strings.HasPrefix(name, prefix) {
			delete(s.loose, name)
		}
	}
	return nil
}

// powerCut takes what is not durable.
func (s *shaky) powerCut() (lost []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.loose {
		s.Store.Set(name, nil)
		lost = append(lost, name)
	}
	return lost
}

// notDurable is what dirstore answers where a folder below part could not be synced.
func notDurable(part string) func(name string) error {
	return func(name string) error {
		if strings.Contains(name, part) {
			return fmt.Errorf("names in %s: %w", name, store.ErrNotDurable)
		}
		return nil
	}
}

// owned is a target over a shaky store, with a repository in it.
func owned(t *testing.T) (st *shaky, x *target, far *moverstore.Store, owner *repo.Repository) {
	st = newShaky()
	x = newTargetOf(t, st)
	far = moverstore.Over(x.dial("owner", trust.Full))
	owner, err := repo.Init(t.Context(), far, secret, &repo.InitOptions{BlockSize: block}, options(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, owner.Close()) })
	return st, x, far, owner
}

// The target says "stored, and not durable": that comes through, for a creation and for a settling, and no point is
// reported that stands on it.
func TestNotDurableComesThrough(t *testing.T) {
	ctx := t.Context()
	st, _, far, owner := owned(t)
	st.fail(notDurable("manifest/"))
	_, err := backup(ctx, owner, "db", disk(1), "", nil)
	require.ErrorIs(t, err, store.ErrNotDurable)
	require.NotEmpty(t, st.loose)
	err = far.Create(ctx, "copy1/manifest/one", []byte("x"))
	require.ErrorIs(t, err, store.ErrNotDurable)
	require.ErrorIs(t, far.Settle(ctx, "copy1/manifest/"), store.ErrNotDurable)
	require.ErrorIs(t, far.Settle(ctx, ""), store.ErrNotDurable)
}

// The same for a write-only client, whose commit record is visible and not durable.
func TestCommitThatIsNotDurable(t *testing.T) {
	ctx := t.Context()
	st, x, _, owner := owned(t)
	key, err := owner.EnrolWriter(ctx, []string{"web"})
	require.NoError(t, err)
	w, err := repo.OpenWriter(ctx, moverstore.Over(x.dial("web-host", trust.Append)), memstore.New(nil), key, options(t))
	require.NoError(t, err)
	defer w.Close()
	point, err := backup(ctx, w, "web", disk(2), "", func() { st.fail(notDurable("log/")) })
	require.Error(t, err, "point %s was reported committed; a power cut takes %v", point, st.powerCut())
}

// What was created by a target that died before the name was durable is durable once anybody was told that it exists,
// in whichever call.
func TestExistingIsDurable(t *testing.T) {
	ctx := t.Context()
	st, _, far, _ := owned(t)
	data := bytes.Repeat([]byte("x"), 100)
	loose := func(name string) {
		require.NoError(t, st.Store.Create(ctx, name, data))
		st.mu.Lock()
		st.loose[name] = true
		st.mu.Unlock()
	}
	loose("slot/one")
	require.Error(t, far.Create(ctx, "slot/one", data))
	require.Empty(t, st.powerCut())

	loose("slot/two")
	loose("copy1/slot/two")
	require.NoError(t, far.Settle(ctx, "slot/"))
	require.Equal(t, []string{"copy1/slot/two"}, st.powerCut())
	st.mu.Lock()
	clear(st.loose)
	st.mu.Unlock()
	loose("copy1/slot/two")
	loose("alone")
	require.NoError(t, far.Settle(ctx, ""))
	require.Empty(t, st.powerCut())
	require.NoError(t, far.Settle(ctx, "nothing/"))
}

// The target dies after a pack's name became visible and before it is durable. The client brings the pack again, in a
// session that knows nothing of the first, and relies on what it is told.
func TestPackOfATargetThatDied(t *testing.T) {
	ctx := t.Context()
	st, x, _, owner := owned(t)
	var once sync.Once
	killed := make(chan struct{})
	st.fail(func(name string) (err error) {
		if strings.HasPrefix(name, "data/") {
			once.Do(func() {
				err = errors.New("killed")
				address := x.address
				go func() {
					defer close(killed)
					x.end(true)
					x.start(address)
				}()
				time.Sleep(300 * time.Millisecond) // the session is gone before anything is answered
			})
		}
		return err
	})
	point, err := backup(ctx, owner, "db", disk(1), "", nil)
	<-killed
	require.NoError(t, err)
	require.Empty(t, st.powerCut(), "what had been reported durable")
	requireRestores(t, owner, point, 1)
}
