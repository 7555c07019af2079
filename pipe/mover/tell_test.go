package mover

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// An append peer is told at the same pace what is durable, whether it brought what nobody has, what somebody else has,
// or what it has brought before: else it could ask what others have.
func TestDurableTellsNothingOfOthers(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	secret := chacha(7, testBlock)
	victim := newPoint(t, p.session("db", trust.Append, nil), "vm", testBlock)
	do[*wire.Placed](t, victim.handler, victim.next(), victim.block(0, secret))
	victim.commit(t)

	settled := func(vm string, guess []byte) time.Duration {
		told := make(chan uint64, 100)
		h := p.session("web", trust.Append, func(m wire.Message) {
			if d, ok := m.(*wire.Durable); ok {
				told <- d.Below
			}
		})
		o := newPoint(t, h, vm, testBlock)
		call := o.next()
		do[*wire.Placed](t, h, call, o.block(0, guess))
		since, end := time.Now(), time.After(20*time.Second)
		for {
			select {
			case below := <-told:
				if below > call {
					return time.Since(since)
				}
			case <-end:
				t.Error("never told")
				return 0
			}
		}
	}
	var wg sync.WaitGroup
	var times [2]time.Duration
	for i, guess := range [][]byte{chacha(99, testBlock), secret} {
		wg.Go(func() { times[i] = settled(fmt.Sprint("vm", i), guess) })
	}
	wg.Wait()
	for _, d := range times {
		require.Greater(t, d, settleIdle, "told by what the block is, and not by the time that passed")
	}
	require.InDelta(t, times[0].Seconds(), times[1].Seconds(), 2*tellEvery.Seconds()+0.3)
}

// Several points are written by one client of which none fills a pack: what they keep of content stays within bounds all
// the same, no put waits for long, and nothing is let go that is not durable.
func TestManySmallPoints(t *testing.T) {
	t.Parallel()
	for _, role := range []trust.Role{trust.Append, trust.Full} {
		p := newPlace(t, nil)
		c := p.client("web", role)
		writers, each := 8, 14<<20/testBlock // 112 MiB in all: more than the window
		longest := time.Duration(0)
		block := chacha(1, testBlock)
		for i := range writers {
			w, err := c.Begin(t.Context(), fmt.Sprint("vm", i), nil)
			require.NoError(t, err)
			defer w.Close()
			d, err := w.Disk(t.Context(), "d", int64(each)*testBlock)
			require.NoError(t, err)
			bt := d.(pipe.BlockTarget)
			for j := range each {
				block[0], block[1], block[2], block[3] = byte(i), byte(j), byte(j>>8), byte(len(role))
				since := time.Now()
				_, err := bt.PutBlock(t.Context(), int64(j)*testBlock, bt.Fingerprint(block), testBlock, pipe.Plain, block)
				require.NoError(t, err)
				longest = max(longest, time.Since(since))
			}
		}
		require.Zero(t, c.Stats().Unkept, "bytes that a restart of the target would lose")
		require.Less(t, longest, 10*time.Second)
	}
}
