package bars

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

// A session's events become a bar for each disk; an end in the middle leaves the terminal in order.
func TestFollowsASession(t *testing.T) {
	var out bytes.Buffer
	b := New(&out)
	b.Event(job.PhaseStarted{Phase: job.PhaseCompare})
	b.Event(job.DiskStarted{Key: "disk0", Size: 1 << 20})
	b.Event(job.DiskProgress{Key: "disk0", Progress: pipe.Progress{Done: 1 << 19, Total: 1 << 20}})
	b.Event(job.DiskProgress{Key: "disk0", Progress: pipe.Progress{Total: 1 << 20}}) // begun again
	b.Event(job.DiskDone{Key: "disk0", Stats: pipe.Stats{Size: 1 << 20}})
	b.Set("disk\x1b[2J1", 1, 2)
	b.Close()
	require.Contains(t, out.String(), "compare disk0")
	require.NotContains(t, out.String(), "\x1b[2J", "a name never moves the cursor")
}

func TestNilShowsNothing(t *testing.T) {
	var b *Bars
	b.Event(job.DiskStarted{Key: "disk0", Size: 1})
	b.Set("x", 1, 2)
	b.Close()
}
