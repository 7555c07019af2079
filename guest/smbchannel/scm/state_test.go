package scm

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// A guest may say any number.
func TestStateString(t *testing.T) {
	require.Equal(t, "paused", Paused.String())
	for _, s := range []State{0, Paused + 1, 1 << 31, math.MaxUint32} {
		require.Equal(t, "unknown", s.String())
	}
}
