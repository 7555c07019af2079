package repo

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/retention"
	"github.com/hikae/hikae/repo/store/memstore"
)

// A person forgets the newest point while a policy is about to let the others go, which it does because that one stays: it is decided
// anew, and the VM has a point.
func TestRetainWhileAPointIsForgotten(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	for range 3 {
		emptyPoint(t, r, "vm")
	}
	ids := idsOf(t, r)
	policy, err := retention.Parse("last=1")
	require.NoError(t, err)
	g := newGate(st, nthRecord(1)) // after its enrolment: the record that forgets
	other := openInner(t, g, nil)
	done := make(chan error, 1)
	go func() {
		_, err := other.Retain(ctx, policy, nil)
		done <- err
	}()
	<-g.met
	forget(t, r, ids[2])
	close(g.opened)
	require.NoError(t, <-done)
	require.Equal(t, ids[1:2], idsOf(t, r))
}

// Of two policies that go at once each finds done what the other did.
func TestTwoRetains(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	for range 3 {
		emptyPoint(t, r, "vm")
	}
	ids := idsOf(t, r)
	policy, err := retention.Parse("last=1")
	require.NoError(t, err)
	g := newGate(st, nthRecord(1))
	other := openInner(t, g, nil)
	done := make(chan error, 1)
	go func() {
		_, err := other.Retain(ctx, policy, nil)
		done <- err
	}()
	<-g.met
	_, err = r.Retain(ctx, policy, nil)
	require.NoError(t, err)
	close(g.opened)
	require.NoError(t, <-done)
	require.Equal(t, ids[2:], idsOf(t, r))
}
