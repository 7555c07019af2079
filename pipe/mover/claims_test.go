package mover

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// A mover that was frozen until its session had ended begins its attempt again when it wakes. Where another has written
// the VM meanwhile, or does so now, that is refused, and the other is not disturbed.
func TestFrozenAttemptIsFenced(t *testing.T) {
	t.Parallel()
	begin := func(number string) *wire.Begin {
		return &wire.Begin{VM: "vm1", Facts: map[string]string{SessionFact: number}}
	}
	for _, other := range []string{"b", ""} {
		for _, finished := range []bool{false, true} {
			t.Run(fmt.Sprintf("%q finished %v", other, finished), func(t *testing.T) {
				p := newPlace(t, nil)
				frozen := p.session("web", trust.Append, nil)
				do[*wire.Begun](t, frozen, 1, begin("a"))
				require.NoError(t, frozen.Close())

				h := p.session("web", trust.Append, nil)
				now := newPointOf(t, h, begin(other), testBlock)
				do[*wire.Placed](t, h, now.next(), now.block(0, chacha(1, testBlock)))
				var id string
				if finished {
					id = now.commit(t)
				}
				fails(t, p.session("web", trust.Append, nil), 1, wire.CodeFenced, begin("a"))
				if !finished {
					id = now.commit(t)
				}
				fails(t, p.session("web", trust.Append, nil), 1, wire.CodeFenced, begin("a"))
				requireSame(t, p.repo, id, pipetest.Bytes(chacha(1, testBlock)))
				do[*wire.Begun](t, p.session("web", trust.Append, nil), 1, begin("c"))
			})
		}
	}
}

// The latest attempt may come back as often as its session is lost.
func TestLatestAttemptComesBack(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	for range 3 {
		h := p.session("web", trust.Append, nil)
		do[*wire.Begun](t, h, 1, &wire.Begin{VM: "vm1", Facts: map[string]string{SessionFact: "a"}})
		do[*wire.Begun](t, h, 2, &wire.Begin{VM: "vm2", Facts: map[string]string{SessionFact: "b"}})
	}
}

// An attempt whose commit is under way while it is overtaken, and begun again, is told of its point.
func TestOvertakenWhileItCommits(t *testing.T) {
	t.Parallel()
	s := &slow{begun: make(chan struct{}), goOn: make(chan struct{})}
	p := newPlace(t, func(h *host) { s.Backend, h.backend = h.backend, s })
	begin := &wire.Begin{VM: "vm1", Facts: map[string]string{SessionFact: "a"}}
	old := p.session("web", trust.Append, nil)
	b := do[*wire.Begun](t, old, 1, begin)
	committed := make(chan error, 3)
	go func() {
		_, err := old.Handle(context.Background(), 2, &wire.Commit{Writer: b.Writer})
		committed <- err
	}()
	<-s.begun
	later := make(chan error, 1)
	go func() {
		_, err := p.session("web", trust.Append, nil).Handle(context.Background(), 1, &wire.Begin{VM: "vm1"})
		later <- err
	}()
	require.Eventually(t, func() bool {
		p.claims.mu.Lock()
		defer p.claims.mu.Unlock()
		return len(p.claims.begun["web"]) == 2
	}, 5*time.Second, time.Millisecond)
	again := make(chan error, 1)
	go func() {
		_, err := p.session("web", trust.Append, nil).Handle(context.Background(), 1, begin)
		again <- err
	}()
	select {
	case err := <-again:
		t.Fatal("answered before it was known what became of the commit", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(s.goOn)
	require.NoError(t, <-committed)
	require.Equal(t, wire.CodeExists, toFail(<-again).Code)
	require.NoError(t, <-later)
}

// What is remembered of attempts is bounded for each peer, and one peer's do not push out another's.
func TestBegunAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	c := newClaims()
	try := func(peer, vm, number string) *writer {
		return &writer{claim: claim{peer, vm}, attempt: attempt{peer, number}, ended: make(chan struct{})}
	}
	c.take(try("db", "vm", "a"))
	c.take(try("db", "vm", "b"))
	for i := range maxBegun + 10 {
		_, past := c.take(try("web", fmt.Sprint("vm", i), "a"))
		require.Nil(t, past)
	}
	require.Len(t, c.begun["web"], maxBegun)
	_, past := c.take(try("db", "vm", "a"))
	require.NotNil(t, past)
	require.Equal(t, "b", c.by[claim{"db", "vm"}].attempt.number, "the claim stays where it is")
}
