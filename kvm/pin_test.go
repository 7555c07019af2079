//go:build unix

package kvm

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
)

var errGone = errors.New("the link to the guest is gone")

// silent is a guest whose link breaks while it is frozen, or before it says that it is.
type silent struct{ freeze error }

func (q silent) Freeze(context.Context) error { return q.freeze }
func (silent) Thaw(context.Context) error     { return errGone }

// watched thaws by itself.
type watched struct{ silent }

func (watched) ThawsWithin() time.Duration { return 300 * time.Millisecond }

// R194: a guest that is lost while it is frozen, and thaws by itself, does not fail the snapshot, which waits until it has
// and promises no more than after a power cut. One that nobody would thaw does.
func TestThawIsLost(t *testing.T) {
	t.Parallel()
	for name, freeze := range map[string]error{"frozen": nil, "not known": errGone} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fresh := func() *snapshot {
				s := &snapshot{provider: New(nil, &Options{ThawTimeout: 100 * time.Millisecond}), footprint: newFootprint("/q"),
					consistency: hikae.Crash, done: map[string]func(context.Context) error{}, vm: hikae.VM{Facts: map[string]string{}}, unguard: func() {}}
				s.Disks = []disk{{Key: "a", QDev: "/machine/a", Node: "n"}}
				s.opts.FreezeDeadline = time.Second
				s.mon = script{"qom-set": ""}
				return s
			}
			s, began := fresh(), time.Now()
			require.NoError(t, s.quiesced(t.Context(), watched{silent{freeze}}))
			require.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond)
			require.Equal(t, hikae.Crash, s.consistency)
			require.NotEmpty(t, strings.Join(s.Warnings(), ""))
			require.ErrorIs(t, fresh().quiesced(t.Context(), silent{freeze}), errGone)
		})
	}
}
