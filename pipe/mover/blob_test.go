package mover

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// A point is not committed without a blob that was begun; once that is whole, or gone, the commit can be made again.
func TestCommitWithAnUnsealedBlob(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{10, 9} {
		p := newPlace(t, nil)
		o := newPoint(t, p.session("web", trust.Append, nil), "vm", testBlock)
		do[*wire.Placed](t, o.handler, o.next(), o.block(0, chacha(1, testBlock)))
		do[*wire.OK](t, o.handler, o.next(), &wire.SealDisk{Disk: o.disk})
		b := do[*wire.BlobStarted](t, o.handler, o.next(), &wire.StartBlob{Writer: o.writer, Name: "config"})
		data := []byte("half of it")
		do[*wire.OK](t, o.handler, o.next(), &wire.BlobPart{Blob: b.Blob, Data: data})
		fails(t, o.handler, o.next(), wire.CodeIncomplete, &wire.Commit{Writer: o.writer})
		seal := &wire.SealBlob{Blob: b.Blob, Size: size, Sum: blake3.Sum256(data)}
		blobs := 1
		if size == int64(len(data)) {
			do[*wire.OK](t, o.handler, o.next(), seal)
		} else {
			blobs = 0
			fails(t, o.handler, o.next(), wire.CodeIncomplete, seal)
		}
		do[*wire.Committed](t, o.handler, o.next(), &wire.Commit{Writer: o.writer})
		list := do[*wire.PointList](t, o.handler, o.next(), &wire.Points{})
		require.Len(t, list.Points, 1)
		require.Len(t, list.Points[0].Blobs, blobs)
	}
}

// A point with as many blobs and disks as its description holds is committed and listed; there are never more.
func TestMostBlobsAndDisks(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	h := p.session("web", trust.Append, nil)
	w := do[*wire.Begun](t, h, 1, &wire.Begin{VM: "vm"}).Writer
	call := uint64(2)
	next := func() uint64 { call++; return call - 1 }
	for i := range wire.MaxBlobs {
		b := do[*wire.BlobStarted](t, h, next(), &wire.StartBlob{Writer: w, Name: fmt.Sprint("b", i)})
		do[*wire.OK](t, h, next(), &wire.SealBlob{Blob: b.Blob, Sum: blake3.Sum256(nil)})
	}
	fails(t, h, next(), wire.CodeInvalid, &wire.StartBlob{Writer: w, Name: "one more"})
	for i := range wire.MaxDisks {
		d := do[*wire.DiskStarted](t, h, next(), &wire.StartDisk{Writer: w, Key: fmt.Sprint("d", i)})
		do[*wire.OK](t, h, next(), &wire.SealDisk{Disk: d.Disk})
	}
	fails(t, h, next(), wire.CodeBusy, &wire.StartDisk{Writer: w, Key: "one more"})
	do[*wire.Committed](t, h, next(), &wire.Commit{Writer: w})
	list := do[*wire.PointList](t, h, next(), &wire.Points{})
	require.Len(t, list.Points, 1)
	require.Empty(t, list.Points[0].Damage)
	require.Len(t, list.Points[0].Blobs, wire.MaxBlobs)
	require.Len(t, list.Points[0].Disks, wire.MaxDisks)
}
