package job

import (
	"context"
	"io"
	"iter"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// A full backup is taken to another repository, and increments go on from the copy there.
func TestCopyPoint(t *testing.T) {
	seed, far := newRepository(t), newRepository(t)
	h := filled(20, 24*block+512, 9*block)
	first := run(t, h, seed, nil)
	info, err := FindPoint(t.Context(), seed, first.Point)
	require.NoError(t, err)

	fault := pipetest.FailNth(1, true, "commitpoint")
	_, err = CopyPoint(t.Context(), pipetest.HookBackend(far, fault.Hook), seed, info, nil)
	require.ErrorIs(t, err, pipetest.ErrFault)
	require.Empty(t, pointsOf(t, far))

	copied, err := CopyPoint(t.Context(), far, seed, info, &CopyOptions{VM: "web1"})
	require.NoError(t, err)
	requirePoint(t, far, copied.To, h)
	again, err := CopyPoint(t.Context(), far, seed, info, nil)
	require.NoError(t, err)
	require.True(t, again.Already)
	require.Equal(t, copied.To, again.To)

	there, err := FindPoint(t.Context(), far, "web1@latest")
	require.NoError(t, err)
	require.Equal(t, info.Tracking, there.Tracking)
	require.Equal(t, info.Consistency, there.Consistency)
	require.True(t, info.Time.Equal(there.Time))
	require.Equal(t, info.Blobs, there.Blobs)
	for i, d := range info.Disks {
		require.Equal(t, d, there.Disks[i], "what is absent, and why")
	}

	older := info
	older.ID, older.Time = "another", info.Time.Add(-time.Hour)
	_, err = CopyPoint(t.Context(), far, seed, older, nil)
	var late *OlderError
	require.ErrorAs(t, err, &late, "latest must not be the older one")
	require.Equal(t, copied.To, late.Newer)
	_, err = CopyPoint(t.Context(), brokenList{far}, seed, info, nil)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "a list that broke off does not say that the point is not there")

	h.write("d0", []byte("news"), 3*block)
	next := run(t, h, far, nil)
	require.Equal(t, Changed, next.Disks[0].Method, next.Fallbacks)
	require.LessOrEqual(t, next.Disks[0].Moved, int64(block))
	requirePoint(t, far, next.Point, h)

	other, err := CopyPoint(t.Context(), far, seed, info, &CopyOptions{VM: "site/web1",
		Wrap: func(_ string, img pipe.Image) pipe.Image { return pipe.Meter(img) }})
	require.NoError(t, err)
	require.False(t, other.Already, "another VM there")
	require.Zero(t, other.Moved)
}

// brokenList is a backend whose list of points breaks off.
type brokenList struct{ pipe.Backend }

func (brokenList) Points(context.Context, string) iter.Seq2[pipe.PointInfo, error] {
	return func(yield func(pipe.PointInfo, error) bool) { yield(pipe.PointInfo{}, io.ErrUnexpectedEOF) }
}
