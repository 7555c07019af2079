package vmware

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmwaretest"
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

// A session that breaks off leaves an unfinished point with the change ids of its snapshot, although that is gone: the next one
// reads what was not durable, and what the guest wrote since.
func TestGoesOnFromAnUnfinishedPoint(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 8 << 20})
	disk := l.vm().Disk(0)
	full := make([]byte, disk.Size())
	_, _ = l.rnd.Read(full)
	require.NoError(t, disk.Write(0, full))

	ctx, cancel := context.WithCancel(t.Context())
	durable := make(chan struct{})
	once := sync.OnceFunc(func() {
		cancel()
		close(durable)
	})
	j, err := hikae.OpenFileJournal(l.journal)
	require.NoError(t, err)
	_, err = job.Backup(ctx, l.provider(), l.vm().Ref().Value, l.repo, &job.BackupOptions{
		Journal: j, CheckpointBytes: 1, BufferBytes: 1 << 20,
		Wrap: func(_ context.Context, _ hikae.Disk, img pipe.Image) (pipe.Image, error) {
			return &halted{img, durable}, nil
		},
		Events: func(e job.Event) {
			if _, ok := e.(job.Unfinished); ok {
				once()
			}
		},
	})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, j.Close())
	l.clean()
	for p, err := range l.repo.Points(t.Context(), "") {
		require.NoError(t, err)
		require.Fail(t, "there is a point", p.ID)
	}

	require.NoError(t, disk.Write(100, []byte("since")))
	res := l.point(&job.BackupOptions{Sample: -1})
	require.NotEmpty(t, res.Resumed, res.Notes)
	require.Equal(t, job.Changed, res.Disks[0].Method)
	require.Empty(t, res.Fallbacks)
	require.Less(t, res.Disks[0].Read, disk.Size())
	l.changed()

	// Where the tracking was begun anew, that moment means nothing any more, and the disk is read.
	l.vm().ResetTracking()
	l.read("begun anew")
}
