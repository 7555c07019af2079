package stripe_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/stripe"
)

// mute is a store whose server is gone: each call takes until its deadline, and ends with an error of the store's own.
type mute struct {
	store.Store
	asked atomic.Int32
}

func (m *mute) wait(ctx context.Context) error {
	m.asked.Add(1)
	<-ctx.Done()
	return errors.New("the connection was lost")
}

func (m *mute) ReadAt(ctx context.Context, _ string, _ []byte, _ int64) (int, error) {
	return 0, m.wait(ctx)
}

func (m *mute) Stat(ctx context.Context, _ string) (store.Info, error) {
	return store.Info{}, m.wait(ctx)
}

// sluggish is a store that has tried for most of the time that it has before it says that its server is gone.
type sluggish struct {
	*mute
	takes time.Duration
}

func (s *sluggish) ReadAt(ctx context.Context, _ string, _ []byte, _ int64) (int, error) {
	s.asked.Add(1)
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
	}
	return 0, errors.New("the server is gone")
}

// The same with members that give up by themselves, shortly before anybody gives them up.
func TestOpenWithoutMostWhoGiveUp(t *testing.T) {
	t.Parallel()
	l := newLab(t, 6, 4, 2)
	list, gone := l.stores(), []*sluggish{}
	for i := range 4 {
		s := &sluggish{&mute{Store: list[i]}, 3 * time.Second / 2}
		list[i], gone = s, append(gone, s)
	}
	_, err := stripe.Open(t.Context(), list, &stripe.Options{ReadDeadline: 2 * time.Second})
	require.ErrorIs(t, err, stripe.ErrTooFew)
	for i, s := range gone {
		require.EqualValues(t, 1, s.asked.Load(), "member %d is waited for once", i)
	}
}

// Bar 14: a set of which four of six are gone is not opened, waits for each of them once, and names them.
func TestOpenWithoutMost(t *testing.T) {
	t.Parallel()
	l := newLab(t, 6, 4, 2)
	list, mutes := l.stores(), []*mute{}
	for i := range 4 {
		m := &mute{Store: list[i]}
		list[i], mutes = m, append(mutes, m)
	}
	_, err := stripe.Open(t.Context(), list, &stripe.Options{ReadDeadline: 2 * time.Second})
	var lost *stripe.LostError
	require.ErrorAs(t, err, &lost)
	require.ElementsMatch(t, labels(6)[:4], lost.Members)
	for i, m := range mutes {
		require.EqualValues(t, 1, m.asked.Load(), "member %d is waited for once", i)
	}
}
