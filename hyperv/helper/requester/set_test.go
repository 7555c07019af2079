package requester_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/helper/wire"
)

// R052: a service that is busy with shadow copies calls their deletion out of order, and has none when it is asked before they show.
// Neither means that they are gone: it is looked, what is found is deleted, and where that fails the book still knows the set.
func TestRefusedDeleteIsLookedInto(t *testing.T) {
	for name, c := range map[string]struct {
		code  requester.Code
		times int32 // that it is refused
	}{"bad state once": {requester.BadState, 1}, "not found once": {requester.ObjectNotFound, 1}, "bad state always": {requester.BadState, 1 << 20}} {
		t.Run(name, func(t *testing.T) {
			s := machine(t)
			s.WriterErr = &requester.Error{Op: "writer", Code: requester.WriterTimeout, Text: "too slow"}
			s.Persist = true
			var refused atomic.Int32
			s.Fault = func(_ context.Context, call string) error {
				if call == "DeleteSnapshots" && refused.Add(1) <= c.times {
					return &requester.Error{Op: call, Code: c.code}
				}
				return nil
			}
			p := serve(t, s, nil).hello(0)
			err := p.ask(&wire.Take{Mark: mark, VMs: []string{web1}}, &wire.TakeAnswer{})
			require.ErrorContains(t, err, "too slow")
			if c.times == 1 {
				require.Empty(t, s.Left())
				require.Empty(t, p.noted())
				return
			}
			require.ErrorContains(t, err, "take it back")
			require.Len(t, p.noted(), 1)
			refused.Store(1 << 21)
			swept := &wire.SweepAnswer{}
			p.must(&wire.Sweep{Mark: mark}, swept)
			require.Len(t, swept.Deleted, 1)
			require.Empty(t, s.Left())
		})
	}
}
