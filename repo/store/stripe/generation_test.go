package stripe_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/stripe"
)

// mortal are members of a process that dies when the arbiter has taken a number of states.
type mortal struct {
	store.Store
	arbiter bool
	left    *atomic.Int32 // states; at zero it is dead
}

var errDead = errors.New("the process is dead")

func (m *mortal) Create(ctx context.Context, name string, data []byte) error {
	if m.left.Load() <= 0 {
		return errDead
	}
	err := m.Store.Create(ctx, name, data)
	if err == nil && m.arbiter && strings.HasPrefix(name, "hikae-stripe/state/") {
		m.left.Add(-1)
	}
	return err
}

// dying gives a set to a process that dies with so many states on the arbiter, the last of which is nowhere else.
func (l *lab) dying(states int32, without ...int) []store.Store {
	left := new(atomic.Int32)
	left.Store(states)
	list := l.stores(without...)
	for i, st := range list {
		if st != nil {
			list[i] = &mortal{st, i == 0, left}
		}
	}
	return list
}

// patient are options for sets of which nobody hangs.
func patient(degraded bool) *stripe.Options {
	return &stripe.Options{Striped: everything, Degraded: degraded, ReadDeadline: time.Minute}
}

// Who changes the set's state dies when only the arbiter has it. The next one to come completes it, and nobody has to help.
func TestStateOnTheArbiterAlone(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for states := range int32(2) {
		l := newLab(t, 6, 4, 2)
		held := objects(t, l.open(patient(false)))
		_, err := l.over(patient(false), l.dying(states+1)).Rebuild(ctx, "c", nil)
		require.Error(t, err)
		st := l.open(patient(false))
		require.NoError(t, st.Create(ctx, "log/1", nil))
		held["log/1"] = nil
		_, err = st.Rebuild(ctx, "c", nil)
		require.NoError(t, err)
		holds(t, l.open(patient(false), 1, 4), held)
		for i, s := range st.State().Members {
			require.Equal(t, stripe.Current, s.Standing, "member %d", i)
		}
	}
}

// The same where a member that is away is marked as behind.
func TestMarkOnTheArbiterAlone(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	require.Error(t, l.over(patient(true), l.dying(1, 5)).Create(ctx, "log/1", nil))
	require.NoError(t, l.open(patient(true), 5).Create(ctx, "log/2", nil))
	_, err := l.open(patient(false)).Rebuild(ctx, "f", nil)
	require.NoError(t, err)
	require.NoError(t, l.open(patient(false)).Create(ctx, "log/3", nil))
}

// Two promotions at once: the set has one arbiter, or another promotion gives it one.
func TestTwoPromotionsAtOnce(t *testing.T) {
	ctx := t.Context()
	for range 5 {
		l := newLab(t, 6, 4, 2)
		held := objects(t, l.open(patient(false)))
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, who := range []string{"b", "c"} {
			st := l.open(patient(false), 0)
			wg.Go(func() { errs[i] = st.Promote(ctx, who, nil) })
		}
		wg.Wait()
		st := l.open(patient(false), 0)
		if errs[0] != nil && errs[1] != nil {
			require.NoError(t, st.Promote(ctx, "d", nil))
		}
		require.NotEmpty(t, l.open(patient(false), 0).State().Arbiter)
		holds(t, st, held)
	}
}

// Two who changed the state at once gave it to different members. Where so many have the one that the other was never in force,
// the set opens with that, and whoever has the other is behind; halves that both may have been believed are for a person.
func TestTwoStatesOfOneGeneration(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	held := objects(t, l.open(patient(false)))
	const one, two = "hikae-stripe/state/0000000000000001", "hikae-stripe/state/0000000000000002"
	was, err := store.ReadAll(ctx, l.mems[0], one, 1<<16)
	require.NoError(t, err)
	state := func(label string) []byte { // the second generation, with another label for the first member
		b := bytes.Replace(was[:bytes.LastIndexByte(was[:len(was)-1], '\n')+1], []byte(`"generation":1`), []byte(`"generation":2`), 1)
		b = bytes.Replace(b, []byte(`"label":"a"`), []byte(`"label":"`+label+`"`), 1)
		return fmt.Appendf(b, "%x\n", sha256.Sum256(b))
	}
	for i, mem := range l.mems {
		mem.Set(two, state(map[bool]string{true: "x", false: "y"}[i == 5]))
	}
	st := l.open(patient(false))
	seats, _ := st.Seats()
	require.Equal(t, "y", seats[0].Label)
	require.Equal(t, stripe.Behind, seats[5].Standing)
	holds(t, st, held)
	_, err = st.Rebuild(ctx, "f", nil)
	require.NoError(t, err)
	require.NoError(t, l.open(patient(false)).Create(ctx, "log/1", nil))

	for i, mem := range l.mems {
		for info := range mem.List(ctx, "hikae-stripe/state/") {
			if info.Name > one {
				require.NoError(t, mem.Remove(ctx, info.Name))
			}
		}
		mem.Set(two, state(map[bool]string{true: "x", false: "y"}[i >= 3]))
	}
	_, err = stripe.Open(ctx, l.stores(), patient(false))
	require.ErrorIs(t, err, stripe.ErrConflict)
}
