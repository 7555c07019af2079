package mover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// catalogue is a backend of which only the list matters: a repository of thousands of points takes minutes to make.
type catalogue struct {
	pipe.Backend
	list  []pipe.PointInfo // without an id: it cannot be read
	walks int
}

func (c *catalogue) Points(ctx context.Context, vm string) iter.Seq2[pipe.PointInfo, error] {
	c.walks++
	return func(yield func(pipe.PointInfo, error) bool) {
		for _, p := range c.list {
			var err error
			if p.ID == "" {
				err = errors.New("manifest is damaged")
			}
			if (vm == "" || p.VM == vm) && !yield(p, err) {
				return
			}
		}
	}
}

// pagesOf walks through a listing as a client does.
func pagesOf(t *testing.T, h *handler, vm string) (all []wire.Point, pages int) {
	m := &wire.Points{VM: vm}
	for call := uint64(1); ; call++ {
		page := do[*wire.PointList](t, h, call, m)
		pages++
		all = append(all, page.Points...)
		if !page.More {
			return all, pages
		}
		require.NotEmpty(t, page.Points)
		m.After = page.Points[len(page.Points)-1].ID
		require.NotEmpty(t, m.After, "a page ends with a point that the next one can be asked behind")
	}
}

func TestPointPages(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 63, 64, 65, 128, 1000} {
		c := &catalogue{}
		for i := range n {
			c.list = append(c.list, pipe.PointInfo{ID: fmt.Sprintf("%08d", i), VM: []string{"web/a", "db/a", "web/b"}[i%3], New: 5, Time: time.Unix(int64(i), 0)})
		}
		p := newPlace(t, func(h *host) { h.backend = c })
		all, _ := pagesOf(t, p.session("full", trust.Full, nil), "")
		require.Len(t, all, n)
		for i, point := range all {
			require.Equal(t, c.list[i].ID, point.ID)
			require.EqualValues(t, 5, point.New)
		}
		require.Equal(t, 1, c.walks, "each page walked through all points before it")
		mine, _ := pagesOf(t, p.session("web", trust.Append, nil), "")
		require.Len(t, mine, n/3*2+n%3-max(0, n%3-1))
		a, _ := pagesOf(t, p.session("web", trust.Append, nil), "a")
		require.Len(t, a, (n+2)/3)
	}
}

// Damaged points are told, wherever they stand and however many they are, and the list goes on behind them. An append
// peer hears of them only in its own VMs.
func TestPointPagesWithDamage(t *testing.T) {
	t.Parallel()
	for _, run := range []int{1, 31, 32, 33, 64, 300} {
		for _, before := range []int{0, 1, 60, 63, 64} {
			c := &catalogue{}
			point := func(i int) pipe.PointInfo { return pipe.PointInfo{ID: fmt.Sprintf("%08d", i), VM: "web/a"} }
			for i := range before {
				c.list = append(c.list, point(i))
			}
			for range run {
				c.list = append(c.list, pipe.PointInfo{VM: "web/a"})
			}
			for i := range 100 {
				c.list = append(c.list, point(before+i))
			}
			c.list = append(c.list, pipe.PointInfo{VM: "web/a"})
			p := newPlace(t, func(h *host) { h.backend = c })
			all, _ := pagesOf(t, p.session("full", trust.Full, nil), "")
			good, bad := 0, 0
			for i, q := range all {
				if q.ID == "" {
					require.Contains(t, q.Damage, "damaged")
					bad++
					if run > maxDamage && i == before+maxDamage-1 {
						require.Contains(t, q.Damage, fmt.Sprintf("%d more", run-maxDamage))
					}
					continue
				}
				require.Equal(t, fmt.Sprintf("%08d", good), q.ID)
				good++
			}
			require.Equal(t, before+100, good)
			require.Equal(t, min(run, maxDamage)+1, bad)
			require.Empty(t, all[len(all)-1].ID)
			web := p.session("web", trust.Append, nil)
			mine, _ := pagesOf(t, web, "")
			require.Len(t, mine, before+100)
			mine, _ = pagesOf(t, web, "a")
			require.Len(t, mine, before+100+min(run, maxDamage)+1)
		}
	}
}

// What has no room on the wire is left out, or said not to fit; a page is never more than a message.
func TestPointsThatAreLarge(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", wire.MaxFact)
	large := pipe.PointInfo{VM: "a", Facts: map[string]string{"too": long + "x"}, Tracking: map[string]string{}, Consistency: "crash"}
	for i := range wire.MaxFacts + 10 {
		large.Facts[fmt.Sprintf("fact%04d", i)] = long
	}
	for i := range wire.MaxDisks {
		key := fmt.Sprintf("%0255d", i)
		large.Disks = append(large.Disks, pipe.DiskInfo{Key: key, Size: 1 << 40, Data: 1, Absent: map[string]int64{"zero": 5, "free": 6}})
		large.Tracking[key] = long
	}
	c := &catalogue{}
	for i := range 10 {
		p := large
		p.ID = fmt.Sprint("p", i)
		c.list = append(c.list, p)
	}
	wide := pipe.PointInfo{ID: "wide", VM: "a"}
	for i := range wire.MaxDisks + 1 {
		wide.Disks = append(wide.Disks, pipe.DiskInfo{Key: fmt.Sprint(i)})
	}
	c.list = append(c.list, wide)
	p := newPlace(t, func(h *host) { h.backend = c })
	all, pages := pagesOf(t, p.session("full", trust.Full, nil), "")
	require.Len(t, all, 11)
	require.Greater(t, pages, 5)
	require.Len(t, all[0].Facts, wire.MaxFacts)
	require.NotContains(t, all[0].Facts, "too")
	require.Len(t, all[0].Disks, wire.MaxDisks)
	require.EqualValues(t, 6, all[0].Disks[3].Absent["free"])
	require.Contains(t, all[10].Damage, "wide")
}

// Several listings at once, one that is not gone on with, and one from a point in the middle.
func TestPointPagesApart(t *testing.T) {
	t.Parallel()
	c := &catalogue{}
	for i := range 300 {
		c.list = append(c.list, pipe.PointInfo{ID: fmt.Sprintf("%08d", i), VM: "a"})
	}
	h := newPlace(t, func(h *host) { h.backend = c }).session("full", trust.Full, nil)
	for range 2 * maxLists {
		require.True(t, do[*wire.PointList](t, h, 1, &wire.Points{}).More)
	}
	require.Len(t, h.pages.list, maxLists)
	page := do[*wire.PointList](t, h, 2, &wire.Points{After: "00000250"})
	require.Equal(t, "00000251", page.Points[0].ID)
	require.False(t, page.More)
	fails(t, h, 3, wire.CodeNotFound, &wire.Points{After: "nowhere"})
	all, _ := pagesOf(t, h, "a")
	require.Len(t, all, 300)
}

// A blob is read in parts, in order or not, and by several at once.
func TestReadBlob(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	want := chacha(3, 3*wire.MaxPart+777)
	w, err := p.repo.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	require.NoError(t, w.Blob(t.Context(), "config", bytes.NewReader(want)))
	require.NoError(t, w.Blob(t.Context(), "empty", bytes.NewReader(nil)))
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	h := p.session("full", trust.Full, nil)
	for i, off := range []int{0, wire.MaxPart, 5, 3 * wire.MaxPart, len(want) - 1, len(want), 0} {
		m := do[*wire.BlobContent](t, h, uint64(i+1), &wire.ReadBlob{Point: id, Name: "config", Off: int64(off), Len: wire.MaxPart})
		require.EqualValues(t, len(want), m.Size)
		require.True(t, bytes.Equal(want[off:min(len(want), off+wire.MaxPart)], m.Data))
	}
	require.Zero(t, do[*wire.BlobContent](t, h, 20, &wire.ReadBlob{Point: id, Name: "empty", Len: 1}).Size)
	fails(t, h, 21, wire.CodeInvalid, &wire.ReadBlob{Point: id, Name: "config", Off: int64(len(want)) + 1})
	fails(t, h, 22, wire.CodeInvalid, &wire.ReadBlob{Point: id, Name: "config", Len: wire.MaxPart + 1})
	fails(t, h, 23, wire.CodeNotFound, &wire.ReadBlob{Point: id, Name: "other", Len: 1})
	fails(t, h, 24, wire.CodeNotFound, &wire.ReadBlob{Point: "x", Name: "config", Len: 1})
	require.LessOrEqual(t, len(h.reading.list), maxStreams)
}

// Parts of a blob that overtake each other are put in order; a blob that is not whole is not there.
func TestWriteBlob(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	h := p.session("web", trust.Append, nil)
	b := do[*wire.Begun](t, h, 1, &wire.Begin{VM: "vm"})
	want := chacha(4, 10_000)
	blob := do[*wire.BlobStarted](t, h, 2, &wire.StartBlob{Writer: b.Writer, Name: "config"}).Blob
	errs := make(chan error, 10)
	for i := 9; i >= 0; i-- {
		go func() {
			_, err := h.Handle(context.Background(), uint64(3+i), &wire.BlobPart{Blob: blob, Off: int64(i * 1000), Data: want[i*1000:][:1000]})
			errs <- err
		}()
		time.Sleep(time.Millisecond)
	}
	for range 10 {
		require.NoError(t, <-errs)
	}
	fails(t, h, 20, wire.CodeInvalid, &wire.BlobPart{Blob: blob, Off: 500, Data: want[:10]})
	do[*wire.OK](t, h, 21, &wire.SealBlob{Blob: blob, Size: 10_000, Sum: blake3.Sum256(want)})
	fails(t, h, 22, wire.CodeClosed, &wire.BlobPart{Blob: blob, Off: 10_000, Data: want[:10]})

	short := do[*wire.BlobStarted](t, h, 23, &wire.StartBlob{Writer: b.Writer, Name: "short"}).Blob
	do[*wire.OK](t, h, 24, &wire.BlobPart{Blob: short, Data: want[:100]})
	fails(t, h, 25, wire.CodeIncomplete, &wire.SealBlob{Blob: short, Size: 101})
	flipped := do[*wire.BlobStarted](t, h, 33, &wire.StartBlob{Writer: b.Writer, Name: "flipped"}).Blob
	do[*wire.OK](t, h, 34, &wire.BlobPart{Blob: flipped, Data: want[:100]})
	fails(t, h, 35, wire.CodeMismatch, &wire.SealBlob{Blob: flipped, Size: 100, Sum: blake3.Sum256(want[1:101])})
	open := do[*wire.BlobStarted](t, h, 26, &wire.StartBlob{Writer: b.Writer, Name: "open"}).Blob
	do[*wire.OK](t, h, 27, &wire.BlobPart{Blob: open, Data: want[:100]})
	fails(t, h, 28, wire.CodeInvalid, &wire.StartBlob{Writer: b.Writer})
	disk := do[*wire.DiskStarted](t, h, 36, &wire.StartDisk{Writer: b.Writer, Key: "disk0", Size: 512}).Disk
	fails(t, h, 37, wire.CodeMismatch, &wire.Write{Disk: disk, Sum: blake3.Sum256(want[1:513]), Plain: 512, Data: want[:512]})
	do[*wire.OK](t, h, 38, &wire.Write{Disk: disk, Sum: blake3.Sum256(want[:512]), Plain: 512, Data: want[:512]})
	do[*wire.OK](t, h, 39, &wire.SealDisk{Disk: disk})
	fails(t, h, 41, wire.CodeIncomplete, &wire.Commit{Writer: b.Writer})
	fails(t, h, 42, wire.CodeIncomplete, &wire.SealBlob{Blob: open, Size: 101})
	id := do[*wire.Committed](t, h, 29, &wire.Commit{Writer: b.Writer}).Point
	do[*wire.UsageIs](t, h, 40, &wire.Usage{Writer: b.Writer})
	info, err := p.repo.Resolve(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, []pipe.BlobInfo{{Name: "config", Size: 10_000}}, info.Blobs)
	r, err := p.repo.OpenBlob(t.Context(), id, "config")
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, errors.Join(err, r.Close()))
	require.Equal(t, want, got)
}

// Images: what is asked beyond them, too much of them, and too many.
func TestImagesAreBounded(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	img := pipetest.NewPattern(6, 100*testBlock+512, pipetest.RandomLayout(6, 100*testBlock+512, pipe.Data, pipe.Zero)...)
	id := mustBackup(t, p.repo, "vm", img, nil)
	h := p.session("full", trust.Full, nil)
	i := do[*wire.ImageOpened](t, h, 1, &wire.OpenDisk{Point: id, Disk: "disk0"})
	fails(t, h, 2, wire.CodeInvalid, &wire.ReadImage{Image: i.Image, Len: wire.MaxContent + 1})
	fails(t, h, 3, wire.CodeInvalid, &wire.ReadImage{Image: i.Image, Off: i.Size + 1})
	fails(t, h, 4, wire.CodeInvalid, &wire.ImageExtents{Image: i.Image, Off: 1, Len: i.Size})
	require.EqualValues(t, 12, do[*wire.Content](t, h, 5, &wire.ReadImage{Image: i.Image, Off: i.Size - 12, Len: 100}).Plain)
	fails(t, h, 6, wire.CodeNotFound, &wire.OpenDisk{Point: id, Disk: "disk1"})
	do[*wire.OK](t, h, 7, &wire.CloseImage{Image: i.Image})
	fails(t, h, 8, wire.CodeClosed, &wire.ReadImage{Image: i.Image, Len: 1})
	fails(t, h, 9, wire.CodeClosed, &wire.CloseImage{Image: i.Image})
	for n := range uint64(maxImages) {
		do[*wire.ImageOpened](t, h, 10+n, &wire.OpenDisk{Point: id, Disk: "disk0"})
	}
	fails(t, h, 100, wire.CodeBusy, &wire.OpenDisk{Point: id, Disk: "disk0"})
}

// What a source had brought before it was killed need not come again: its next attempt puts the old one aside, which makes
// durable what there is, however little.
func TestNextAttemptFindsWhatCame(t *testing.T) {
	p := newPlace(t, nil)
	data := chacha(9, testBlock)
	begin := func() (h *handler, disk wire.Ref, id pipe.ID) {
		h = p.session("web", trust.Append, nil)
		b := do[*wire.Begun](t, h, 1, &wire.Begin{VM: "vm"})
		return h, do[*wire.DiskStarted](t, h, 2, &wire.StartDisk{Writer: b.Writer, Key: "disk0", Size: 4 * testBlock}).Disk, keyedID(b.Key, data)
	}
	h, disk, id := begin()
	require.Equal(t, []byte{0}, do[*wire.Known](t, h, 3, &wire.Query{Disk: disk, IDs: []pipe.ID{id}}).Bits)
	do[*wire.Placed](t, h, 4, &wire.Put{Disk: disk, ID: id, Plain: testBlock, Content: true, Data: data})
	h, disk, id = begin()
	require.Equal(t, []byte{0x80}, do[*wire.Known](t, h, 3, &wire.Query{Disk: disk, IDs: []pipe.ID{id}}).Bits)
	do[*wire.Placed](t, h, 4, &wire.Put{Disk: disk, ID: id, Plain: testBlock})
}
