package repo

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BadOf is what a point's disk says that its source could not read.
func (r *Repository) BadOf(t testing.TB, point, disk string) [][2]int64 {
	m, err := r.find(t.Context(), point)
	require.NoError(t, err)
	for _, d := range m.Disks {
		if d.Key == disk {
			return d.Bad
		}
	}
	return nil
}

// Stores of tests fail for good, or not at all: waiting for them proves nothing.
func init() { steadyWaits = []time.Duration{time.Millisecond, 2 * time.Millisecond} }
