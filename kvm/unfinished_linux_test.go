package kvm

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

// halted is a disk whose second half cannot be read before something of the first is durable.
type halted struct {
	pipe.Image
	durable <-chan struct{}
}

func (h *halted) Unwrap() pipe.Image { return h.Image }

func (h *halted) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off+int64(len(p)) > h.Size()/2 {
		select {
		case <-h.durable:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(time.Minute):
		}
	}
	return h.Image.ReadAt(ctx, p, off)
}

// breakOff makes a backup that ends as soon as something of the data disk is durable.
func (l *lab) breakOff() {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	defer cancel()
	durable, begun := make(chan struct{}), false
	once := sync.OnceFunc(func() {
		cancel()
		close(durable)
	})
	j := l.effects()
	defer j.Close()
	_, err := job.Backup(ctx, l.provider(Options{}), "", l.repo, &job.BackupOptions{
		Journal: j, CheckpointBytes: 1, BufferBytes: mib, Sample: -1,
		Wrap: func(_ context.Context, d hikae.Disk, img pipe.Image) (pipe.Image, error) {
			if d.Key != data {
				return img, nil
			}
			return &halted{img, durable}, nil
		},
		Events: func(e job.Event) {
			switch e := e.(type) {
			case job.DiskProgress:
				begun = begun || e.Key == data && e.Stats.Read > 0
			case job.Unfinished:
				if begun {
					once()
				}
			}
		},
	})
	require.ErrorIs(l.t, err, context.Canceled)
}

// bitmaps are the names of ours on the data disk.
func (l *lab) bitmaps() (names []string) {
	l.t.Helper()
	list, err := l.provider(Options{}).Leftovers(l.t.Context(), l.machine.ID())
	require.NoError(l.t, err)
	seen := map[string]bool{}
	for _, left := range list {
		if left.Kind == "bitmap" && !seen[left.Name] {
			seen[left.Name] = true
			names = append(names, left.Name)
		}
	}
	return names
}

// A session that breaks off leaves its bitmaps beside those of the base, for the next one: it reads what was not durable and what
// the guest wrote since. After a second one that breaks off the first one's are gone, and after a commit all but its own.
func TestGoesOnFromAnUnfinishedPoint(t *testing.T) {
	if !long() {
		t.Skip("boots a guest: needs HIKAE_TEST_TIER=long")
	}
	l := newLab(t)
	l.fx("fill", "/dev/vdb", "0", "1048576", "1")
	first, err := l.backup(Options{}, job.BackupOptions{})
	require.NoError(t, err)
	for seed := range 2 {
		l.fx("fill", "/dev/vdb", "0", "15728640", string(rune('2'+seed)))
		l.breakOff()
		require.Len(t, l.bitmaps(), 4, "of two disks: of the point and of the unfinished one")
		require.Zero(t, l.sweep())
		require.Len(t, l.bitmaps(), 4)
	}
	l.fx("fill", "/dev/vdb", "65536", "65536", "9")
	sum := l.guestSum()
	res, err := l.backup(Options{}, job.BackupOptions{Sample: -1})
	require.NoError(t, err)
	require.NotEmpty(t, res.Resumed, res.Notes)
	require.Equal(t, first.Point, res.Base)
	require.Empty(t, res.Fallbacks)
	require.Less(t, res.Disks[1].Read, int64(15*mib))
	require.Len(t, l.bitmaps(), 2)
	dir := l.restore(res.Point)
	require.Equal(t, sum, l.sumOfData(dir))
	l.checkSystem(dir)
}
