package job

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// tightLipped is a backend that breaks its promise: its images do not tell what they hold.
type tightLipped struct{ pipe.Backend }

func (m tightLipped) Open(ctx context.Context, point, disk string) (pipe.Image, error) {
	img, err := m.Backend.Open(ctx, point, disk)
	return struct{ pipe.Image }{img}, err
}

// What the base left out is known by its extents only. A base that has none must not be taken for one that left nothing
// out: what is not excluded any more would be taken over from it, as zeros.
func TestBaseThatDoesNotTellWhatItLeftOut(t *testing.T) {
	h := newHost(8 * block)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(h.disks["d0"].data)
	b := tightLipped{pipetest.NewBackend(block)}
	d := dropping{"d0": {{Off: 2 * block, Len: 3 * block, Kind: pipe.Excluded}}}
	run(t, h, b, &BackupOptions{Exclude: d.excluder})
	delete(d, "d0")
	res := run(t, h, b, &BackupOptions{Exclude: d.excluder})
	require.Equal(t, Allocated, res.Disks[0].Method)
	require.Contains(t, res.Fallbacks[0].Reason, "left out")
	requirePoint(t, b, res.Point, h)
}
