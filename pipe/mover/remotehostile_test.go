package mover

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// honest answers as a mover with one point of one empty disk would.
func honest(_ uint64, req wire.Message) (wire.Message, error) {
	switch m := req.(type) {
	case *wire.OpenDisk, *wire.OpenSource:
		return &wire.ImageOpened{Image: 1, Size: 1 << 20, Extents: true}, nil
	case *wire.ReadImage:
		return &wire.Content{Plain: m.Len, Data: make([]byte, m.Len)}, nil
	case *wire.ImageExtents:
		return &wire.ExtentList{Extents: []pipe.Extent{{Off: m.Off, Len: m.Len, Kind: pipe.Zero}}}, nil
	case *wire.ReadBlob:
		return &wire.BlobContent{Size: 3, Data: []byte("abc")}, nil
	case *wire.Begin:
		return &wire.Begun{Writer: 1, Key: [32]byte{7}}, nil
	case *wire.StartDisk:
		return &wire.DiskStarted{Disk: 2, BlockSize: 64 << 10, Marks: true}, nil
	case *wire.Query:
		return &wire.Known{Bits: make([]byte, (len(m.IDs)+7)/8)}, nil
	case *wire.Put:
		return &wire.Placed{Stored: int64(len(m.Data))}, nil
	case *wire.StartBlob:
		return &wire.BlobStarted{Blob: 3}, nil
	case *wire.Commit:
		return &wire.Committed{Point: "p1"}, nil
	case *wire.Usage:
		return &wire.UsageIs{}, nil
	case *wire.Points:
		return &wire.PointList{}, nil
	case *wire.Images:
		return &wire.ImageList{}, nil
	}
	return &wire.OK{}, nil
}

// lie answers requests of one kind by lie, and is honest else.
func lie(kind wire.Kind, lie func(req wire.Message, n int) wire.Message) script {
	var n atomic.Int64
	return func(call uint64, req wire.Message) (wire.Message, error) {
		if req.Kind() == kind {
			return lie(req, int(n.Add(1))), nil
		}
		return honest(call, req)
	}
}

var errUncovered = errors.New("extents that do not cover the image were believed")

// everything uses a client for all that it can do, up to the first error.
func everything(ctx context.Context, c *Client) error {
	for _, err := range c.Points(ctx, "") {
		if err != nil {
			return err
		}
	}
	if _, err := c.Images(ctx); err != nil {
		return err
	}
	img, err := c.Open(ctx, "p1", "d0")
	if err != nil {
		return err
	}
	defer img.Close()
	if _, err := img.ReadAt(ctx, make([]byte, 1<<20), 0); err != nil {
		return err
	}
	total := int64(0)
	for e, err := range pipe.Extents(ctx, img, 0, img.Size()) {
		if err != nil {
			return err
		}
		total += e.Len
	}
	if total != img.Size() {
		return errUncovered
	}
	r, err := c.OpenBlob(ctx, "p1", "config")
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.ReadAll(r); err != nil {
		return err
	}
	return writeSomething(ctx, c)
}

func writeSomething(ctx context.Context, c *Client) error {
	w, err := c.Begin(ctx, "vm", nil)
	if err != nil {
		return err
	}
	defer w.Close()
	d, err := w.Disk(ctx, "d0", 10*64<<10)
	if err != nil {
		return err
	}
	defer d.Close()
	content := bytes.Repeat([]byte{1, 2, 3, 4}, 16<<10)
	img := pipe.NewMemory(d.Size())
	for i := range int64(10) {
		content[0] = byte(i)
		if _, err := img.WriteAt(ctx, content, i*64<<10); err != nil {
			return err
		}
	}
	if err := img.Mark(ctx, pipe.Extent{Off: 64 << 10, Len: 64 << 10}); err != nil {
		return err
	}
	if _, err := pipe.Copy(ctx, d, img, nil); err != nil {
		return err
	}
	if err := d.Commit(ctx); err != nil {
		return err
	}
	if err := w.Blob(ctx, "config", bytes.NewReader(make([]byte, 3<<20))); err != nil {
		return err
	}
	_, err = w.Commit(ctx, nil)
	return err
}

func TestHonestPeer(t *testing.T) {
	require.NoError(t, everything(t.Context(), scriptClient(t, honest)))
}

// RELIABILITY 1.7: whatever a peer answers that fits the wire and makes no sense, the client says so, and ends.
func TestHostileAnswers(t *testing.T) {
	page := func(n int, more bool, ids ...string) wire.Message {
		list := &wire.PointList{More: more}
		for range n {
			list.Points = append(list.Points, wire.Point{ID: "x"})
		}
		for _, id := range ids {
			list.Points = append(list.Points, wire.Point{ID: id})
		}
		return list
	}
	extents := func(list ...pipe.Extent) wire.Message { return &wire.ExtentList{Extents: list} }
	for name, test := range map[string]struct {
		kind wire.Kind
		lie  func(req wire.Message, n int) wire.Message
	}{
		"points: the same page for ever": {wire.KindPoints, func(wire.Message, int) wire.Message { return page(0, true, "a") }},
		"points: empty pages for ever":   {wire.KindPoints, func(wire.Message, int) wire.Message { return page(0, true) }},
		"points: no id to go on from":    {wire.KindPoints, func(wire.Message, int) wire.Message { return page(3, true, "") }},
		"points: more absent than is":    {wire.KindPoints, func(wire.Message, int) wire.Message { return absent(10, 11) }},
		"points: another kind":           {wire.KindPoints, func(wire.Message, int) wire.Message { return &wire.OK{} }},
		"images: another kind":           {wire.KindImages, func(wire.Message, int) wire.Message { return &wire.PointList{} }},
		"open: another kind":             {wire.KindOpenDisk, func(wire.Message, int) wire.Message { return &wire.Content{} }},
		"read: too little":               {wire.KindReadImage, func(wire.Message, int) wire.Message { return &wire.Content{Plain: 5, Data: make([]byte, 5)} }},
		"read: too much":                 {wire.KindReadImage, func(wire.Message, int) wire.Message { return &wire.Content{Plain: 2 << 20, Data: make([]byte, 2<<20)} }},
		"read: less than it says":        {wire.KindReadImage, func(wire.Message, int) wire.Message { return &wire.Content{Plain: 1 << 20, Data: make([]byte, 5)} }},
		"read: does not decode": {wire.KindReadImage, func(wire.Message, int) wire.Message {
			return &wire.Content{Plain: 1 << 20, Codec: pipe.Zstd, Data: []byte("zzzz")}
		}},
		"read: s2 of another length": {wire.KindReadImage, func(wire.Message, int) wire.Message {
			return &wire.Content{Plain: 1 << 20, Codec: pipe.S2, Data: []byte{5, 0}}
		}},
		"read: unknown codec":          {wire.KindReadImage, func(wire.Message, int) wire.Message { return &wire.Content{Plain: 1 << 20, Codec: 99} }},
		"extents: none":                {wire.KindImageExtents, func(wire.Message, int) wire.Message { return extents() }},
		"extents: a gap":               {wire.KindImageExtents, func(wire.Message, int) wire.Message { return extents(pipe.Extent{Off: 1, Len: 5}) }},
		"extents: an overlap":          {wire.KindImageExtents, func(wire.Message, int) wire.Message { return extents(pipe.Extent{Len: 5}, pipe.Extent{Off: 4, Len: 5}) }},
		"extents: empty ones for ever": {wire.KindImageExtents, func(wire.Message, int) wire.Message { return extents(pipe.Extent{}) }},
		"extents: beyond the end":      {wire.KindImageExtents, func(wire.Message, int) wire.Message { return extents(pipe.Extent{Len: 1<<20 + 1}) }},
		"blob: more than its size":     {wire.KindReadBlob, func(wire.Message, int) wire.Message { return &wire.BlobContent{Size: 2, Data: make([]byte, 3)} }},
		"blob: nothing, for ever":      {wire.KindReadBlob, func(wire.Message, int) wire.Message { return &wire.BlobContent{Size: 2} }},
		"blob: grows while it is read": {wire.KindReadBlob, func(_ wire.Message, n int) wire.Message {
			return &wire.BlobContent{Size: int64(n) * 100, Data: []byte{1}}
		}},
		"begin: another kind":              {wire.KindBegin, func(wire.Message, int) wire.Message { return &wire.DiskStarted{} }},
		"disk: no power of two":            {wire.KindStartDisk, func(wire.Message, int) wire.Message { return &wire.DiskStarted{BlockSize: 65537, Marks: true} }},
		"disk: blocks of 4 GiB":            {wire.KindStartDisk, func(wire.Message, int) wire.Message { return &wire.DiskStarted{BlockSize: math.MaxUint32, Marks: true} }},
		"disk: blocks of 8 MiB":            {wire.KindStartDisk, func(wire.Message, int) wire.Message { return &wire.DiskStarted{BlockSize: 8 << 20, Marks: true} }},
		"disk: blocks without marks":       {wire.KindStartDisk, func(wire.Message, int) wire.Message { return &wire.DiskStarted{BlockSize: 65536} }},
		"query: too few bits":              {wire.KindQuery, func(wire.Message, int) wire.Message { return &wire.Known{} }},
		"query: too many bits":             {wire.KindQuery, func(wire.Message, int) wire.Message { return &wire.Known{Bits: make([]byte, 100)} }},
		"query: bits behind the last":      {wire.KindQuery, func(r wire.Message, _ int) wire.Message { return tailed(r.(*wire.Query)) }},
		"put: more was there than a block": {wire.KindPut, func(wire.Message, int) wire.Message { return &wire.Placed{Deduplicated: 1 << 20} }},
		"put: more stored than can be":     {wire.KindPut, func(wire.Message, int) wire.Message { return &wire.Placed{Stored: 1 << 40} }},
		"put: another kind":                {wire.KindPut, func(wire.Message, int) wire.Message { return &wire.OK{} }},
		"mark: another kind":               {wire.KindMark, func(wire.Message, int) wire.Message { return &wire.Placed{} }},
		"seal: another kind":               {wire.KindSealDisk, func(wire.Message, int) wire.Message { return &wire.Placed{} }},
		"blob part: another kind":          {wire.KindBlobPart, func(wire.Message, int) wire.Message { return &wire.Placed{} }},
		"commit: without an id":            {wire.KindCommit, func(wire.Message, int) wire.Message { return &wire.Committed{} }},
		"commit: another kind":             {wire.KindCommit, func(wire.Message, int) wire.Message { return &wire.OK{} }},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, everything(t.Context(), scriptClient(t, lie(test.kind, test.lie))), wire.ErrMalformed)
		})
	}
}

func absent(size int64, absent uint64) wire.Message {
	return &wire.PointList{Points: []wire.Point{{ID: "a", Disks: []wire.PointDisk{{Key: "d", Size: size, Absent: map[string]uint64{"zero": absent}}}}}}
}

func tailed(q *wire.Query) wire.Message {
	bits := make([]byte, (len(q.IDs)+7)/8)
	if len(q.IDs)%8 == 0 {
		return &wire.Known{Bits: append(bits, 0)}
	}
	bits[len(bits)-1] = 1
	return &wire.Known{Bits: bits}
}

// A list that always has another page, each behind the last, comes to an end all the same.
func TestPointsThatNeverEnd(t *testing.T) {
	pages := [2]*wire.PointList{}
	for i := range pages {
		pages[i] = &wire.PointList{More: true, Points: make([]wire.Point, wire.MaxPoints)}
		pages[i].Points[wire.MaxPoints-1].ID = strconv.Itoa(i)
	}
	c := testClient(t, func(int, func(wire.Message)) (line, error) { return &flipping{pages: pages}, nil }, nil)
	count, err := 0, error(nil)
	for _, err = range c.Points(t.Context(), "") {
		if err != nil {
			break
		}
		count++
	}
	require.ErrorIs(t, err, wire.ErrMalformed)
	require.LessOrEqual(t, count, maxPoints)
}

// flipping answers with one page and the other, for ever.
type flipping struct {
	n     int
	pages [2]*wire.PointList
}

func (f *flipping) CallNumbered(context.Context, wire.Message) (uint64, wire.Message, error) {
	f.n++
	return uint64(f.n), f.pages[f.n%2], nil
}

func (f *flipping) Close() error { return nil }

// A point that cannot be read there does not hide the others.
func TestDamagedPointIsAnErrorAndTheListGoesOn(t *testing.T) {
	c := scriptClient(t, lie(wire.KindPoints, func(req wire.Message, _ int) wire.Message {
		if req.(*wire.Points).After == "" {
			return &wire.PointList{More: true, Points: []wire.Point{{ID: "a", Facts: map[string]string{SessionFact: "x", "os": "y"}}, {ID: "b", Damage: "torn"}}}
		}
		return &wire.PointList{Points: []wire.Point{{ID: "c"}}}
	}))
	var seen []string
	for p, err := range c.Points(t.Context(), "") {
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			e, _ := errors.AsType[*Error](err)
			require.Equal(t, "b", e.Object)
			p.ID = "damaged"
		}
		require.NotContains(t, p.Facts, SessionFact)
		seen = append(seen, p.ID)
	}
	require.Equal(t, []string{"a", "damaged", "c"}, seen)
}

// What the wire has no room for fails here, with the error that a local one would have.
func TestNamesThatAreTooLong(t *testing.T) {
	c := scriptClient(t, honest)
	long := string(bytes.Repeat([]byte("x"), 300))
	_, err := c.Open(t.Context(), long, "d")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = c.OpenBlob(t.Context(), "p", long)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = c.OpenImage(t.Context(), long)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = c.Begin(t.Context(), long, nil)
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = c.Begin(t.Context(), "vm", &pipe.PointOptions{Base: long})
	require.ErrorIs(t, err, fs.ErrNotExist)
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	_, err = w.Disk(t.Context(), long, 1)
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.ErrorIs(t, w.Blob(t.Context(), long, bytes.NewReader(nil)), fs.ErrInvalid)
	for range c.Points(t.Context(), long) {
		t.Fatal("a VM that cannot be has points")
	}
}
