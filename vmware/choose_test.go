package vmware

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/stretchr/testify/require"
)

// standing is a transport of which a test says what it does. It counts what is open, as a host would.
type standing struct {
	name  string
	unfit string // why it does not reach the disk
	fail  error  // of Open
	img   func() pipe.Image
	opens atomic.Int64
	live  atomic.Int64
}

func (t *standing) Name() string { return t.name }

func (t *standing) Check(context.Context, *Pinned) error {
	if t.unfit != "" {
		return &UnfitError{Transport: t.name, Reason: t.unfit, Hint: "do something"}
	}
	return nil
}

func (t *standing) Open(context.Context, *Pinned) (pipe.Image, error) {
	t.opens.Add(1)
	if t.fail != nil {
		return nil, t.fail
	}
	t.live.Add(1)
	return &counted{Image: t.img(), t: t}, nil
}

type counted struct {
	pipe.Image
	t    *standing
	once sync.Once
}

func (c *counted) Unwrap() pipe.Image { return c.Image }

func (c *counted) Close() error {
	c.once.Do(func() { c.t.live.Add(-1) })
	return c.Image.Close()
}

// breaking is a line that breaks for good after so many reads.
func breaking(img pipe.Image, after int64) pipe.Image {
	return pipetest.HookImage(img, pipetest.FailNth(after, true, "readat").Hook)
}

func pinnedOf(size int64) *Pinned {
	p := &Pinned{Name: "web1"}
	p.Disk.Key, p.Disk.Size = "6000c29d", size
	return p
}

func chooserOf(t *testing.T, all ...*standing) *chooser {
	t.Helper()
	var opts TransportOptions
	for _, s := range all {
		opts.More = append(opts.More, s)
		opts.Order = append(opts.Order, s.name)
	}
	c, err := newChooser(&opts)
	require.NoError(t, err)
	return c
}

// TestOrder: what is asked for is what is tried, and what is not known is refused.
func TestOrder(t *testing.T) {
	for _, c := range []struct {
		order []string
		want  string
		fails string
	}{
		{nil, "hotadd nbdssl nfs vddk https export", ""},
		{[]string{"https", "nbd"}, "https nbd", ""},
		{[]string{"!hotadd", "!nfs"}, "nbdssl vddk https export", ""},
		{[]string{"https", "export", "!export"}, "https", ""},
		{[]string{"floppy"}, "", `transport "floppy"`},
		{[]string{"!floppy"}, "", `transport "floppy"`},
		{[]string{"https", "https"}, "", "named twice"},
		{[]string{"https", "!https"}, "", "none is left"},
	} {
		names, err := (&TransportOptions{Order: c.order}).names()
		if c.fails != "" {
			require.ErrorIs(t, err, fs.ErrInvalid, "%v", c.order)
			require.ErrorContains(t, err, c.fails)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, strings.Join(names, " "))
	}
}

// TestNBDInTheClear: content crosses the line in the clear only where somebody said so (R113).
func TestNBDInTheClear(t *testing.T) {
	names, err := (&TransportOptions{}).names()
	require.NoError(t, err)
	require.NotContains(t, names, NBD)
	names, err = (&TransportOptions{Order: []string{"!nbdssl"}}).names()
	require.NoError(t, err)
	require.NotContains(t, names, NBD)
}

// TestChoice: the first that can is taken, and each before it says why not.
func TestChoice(t *testing.T) {
	want := pipetest.NewPattern(1, 1<<20)
	a := &standing{name: "a", unfit: "there is no proxy"}
	b := &standing{name: "b", fail: errors.New("b: port 902 is closed")}
	c := &standing{name: "c", img: func() pipe.Image { return pipetest.NewPattern(1, 1<<20+512) }}
	d := &standing{name: "d", img: func() pipe.Image { return want }}
	e := &standing{name: "e", img: func() pipe.Image { return want }}
	img, choice, err := chooserOf(t, a, b, c, d, e).open(t.Context(), pinnedOf(1<<20))
	require.NoError(t, err)
	require.Equal(t, "d", choice.Transport)
	require.Equal(t, []Refusal{
		detourOf("a", "there is no proxy", "do something", -1),
		detourOf("b", "port 902 is closed", "", -1),
		detourOf("c", "it shows a disk of 1049088 bytes, the configuration says 1048576", "", -1),
	}, choice.Tried)
	require.Equal(t, "disk 6000c29d: d; not a: there is no proxy (do something); b: port 902 is closed; "+
		"c: it shows a disk of 1049088 bytes, the configuration says 1048576", choice.String())
	pipetest.TestImage(t, img, want)
	require.NoError(t, img.Close())
	for _, s := range []*standing{a, b, c, d, e} {
		require.Zero(t, s.live.Load(), s.name)
	}
	require.Zero(t, e.opens.Load(), "what is not needed is not tried")
}

// TestNoTransport: where none reaches the disk, the error says of each why.
func TestNoTransport(t *testing.T) {
	a := &standing{name: "a", unfit: "no"}
	b := &standing{name: "b", fail: fs.ErrPermission}
	_, choice, err := chooserOf(t, a, b).open(t.Context(), pinnedOf(512))
	var none *NoTransportError
	require.ErrorAs(t, err, &none)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.Empty(t, choice.Transport)
	require.Len(t, none.Choice.Tried, 2)
}

// TestFailover: for each read that can fail, the disk goes on by the next transport, byte for byte, and nothing stays open.
func TestFailover(t *testing.T) {
	const size = 1<<20 + 512
	want := pipetest.NewPattern(2, size)
	for nth := int64(1); ; nth++ {
		require.Less(t, nth, int64(200))
		fault := pipetest.FailNth(nth, true, "readat")
		a := &standing{name: "a", img: func() pipe.Image { return pipetest.HookImage(want, fault.Hook) }}
		b := &standing{name: "b", img: func() pipe.Image { return want }}
		img, _, err := chooserOf(t, a, b).open(t.Context(), pinnedOf(size))
		require.NoError(t, err)
		buf := make([]byte, 64<<10)
		for off := int64(0); off < size; off += int64(len(buf)) {
			n, err := img.ReadAt(t.Context(), buf, off)
			if err != io.EOF {
				require.NoError(t, err)
			}
			check := make([]byte, n)
			_, err = want.ReadAt(t.Context(), check, off)
			require.NoError(t, err)
			require.Equal(t, check, buf[:n], "at %d", off)
		}
		choice, ok := choiceOf(img)
		require.True(t, ok)
		require.NoError(t, img.Close())
		require.Zero(t, a.live.Load()+b.live.Load())
		if !fault.Fired() {
			require.Equal(t, "a", choice.Transport)
			break
		}
		require.Equal(t, "b", choice.Transport)
		require.Equal(t, []Refusal{detourOf("a", choice.Tried[0].Reason, "", (nth-1)*int64(len(buf)))}, choice.FailedOver())
	}
}

// TestFailoverClosesAtOnce: what a transport did on the host is undone when it is left, not when the disk is.
func TestFailoverClosesAtOnce(t *testing.T) {
	want := pipetest.NewPattern(3, 1<<20)
	a := &standing{name: "a", img: func() pipe.Image { return breaking(want, 2) }}
	b := &standing{name: "b", img: func() pipe.Image { return want }}
	img, _, err := chooserOf(t, a, b).open(t.Context(), pinnedOf(1<<20))
	require.NoError(t, err)
	buf := make([]byte, 512)
	for range 2 {
		_, err = img.ReadAt(t.Context(), buf, 0)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return a.live.Load() == 0 }, timeout, tick)
	require.Equal(t, int64(1), b.live.Load())
	require.NoError(t, img.Close())
}

// TestFailoverDisagrees: a transport that shows another disk does not take over, and where nobody settles who is right, the
// disk fails.
func TestFailoverDisagrees(t *testing.T) {
	const size = 1 << 20
	want, other := pipetest.NewPattern(4, size), pipetest.NewPattern(5, size)
	open := func(img pipe.Image) func() pipe.Image { return func() pipe.Image { return img } }
	read := func(all ...*standing) (pipe.Image, error) {
		img, _, err := chooserOf(t, all...).open(t.Context(), pinnedOf(size))
		require.NoError(t, err)
		buf, check := make([]byte, 64<<10), make([]byte, 64<<10)
		for off := int64(0); off < size; off += int64(len(buf)) {
			if _, err := img.ReadAt(t.Context(), buf, off); err != nil {
				return img, err
			}
			_, err := want.ReadAt(t.Context(), check, off)
			require.NoError(t, err)
			require.Equal(t, check, buf)
		}
		return img, nil
	}
	a := &standing{name: "a", img: open(breaking(want, 8))}
	wrong := &standing{name: "wrong", img: open(other)}
	img, err := read(a, wrong)
	var disagree *DisagreeError
	require.ErrorAs(t, err, &disagree)
	require.Equal(t, "a", disagree.First)
	require.Equal(t, "wrong", disagree.Then)
	_, err = img.ReadAt(t.Context(), make([]byte, 512), 0)
	require.ErrorAs(t, err, &disagree, "it stays so")
	require.NoError(t, img.Close())

	a = &standing{name: "a", img: open(breaking(want, 8))}
	third := &standing{name: "third", img: open(want)}
	img, err = read(a, wrong, third)
	require.NoError(t, err, "a third one agrees with the first")
	choice, _ := choiceOf(img)
	require.Equal(t, "third", choice.Transport)
	require.Len(t, choice.Tried, 2)
	require.Contains(t, choice.Tried[1].Reason, "is not the same")
	require.NoError(t, img.Close())
	require.Zero(t, wrong.live.Load()+third.live.Load()+a.live.Load())
}

// TestNoFailover: what is the caller's, or the disk's own, moves nothing.
func TestNoFailover(t *testing.T) {
	want := pipetest.NewPattern(6, 1<<20)
	bad := errors.Join(ErrContent, errors.New("medium error"))
	a := &standing{name: "a", img: func() pipe.Image {
		return pipetest.HookImage(want, func(_ context.Context, op *pipetest.Op) error {
			if op.Name == "readat" && op.Off == 4096 {
				return bad
			}
			return nil
		})
	}}
	b := &standing{name: "b", img: func() pipe.Image { return want }}
	img, _, err := chooserOf(t, a, b).open(t.Context(), pinnedOf(1<<20))
	require.NoError(t, err)
	defer img.Close()
	buf := make([]byte, 512)
	_, err = img.ReadAt(t.Context(), buf, 4096)
	require.ErrorIs(t, err, ErrContent)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = img.ReadAt(ctx, buf, 0)
	require.ErrorIs(t, err, context.Canceled)
	_, err = img.ReadAt(t.Context(), buf, -1)
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = img.ReadAt(t.Context(), buf, 1<<20)
	require.Equal(t, io.EOF, err)
	_, err = img.ReadAt(t.Context(), buf, 0)
	require.NoError(t, err)
	require.Zero(t, b.opens.Load())
}

// TestLastTransportStays: a range that nobody can read does not lose the rest of the disk.
func TestLastTransportStays(t *testing.T) {
	want := pipetest.NewPattern(7, 1<<20)
	hurt := func() pipe.Image {
		return pipetest.BadSectors(want, pipe.Extent{Off: 8192, Len: 512})
	}
	a, b := &standing{name: "a", img: hurt}, &standing{name: "b", img: hurt}
	img, _, err := chooserOf(t, a, b).open(t.Context(), pinnedOf(1<<20))
	require.NoError(t, err)
	buf := make([]byte, 512)
	_, err = img.ReadAt(t.Context(), buf, 8192)
	require.Error(t, err)
	_, err = img.ReadAt(t.Context(), buf, 8704)
	require.NoError(t, err)
	_, err = img.ReadAt(t.Context(), buf, 8192)
	require.Error(t, err)
	require.Equal(t, int64(1), a.opens.Load(), "it is not gone back to")
	require.NoError(t, img.Close())
	require.Zero(t, a.live.Load()+b.live.Load())
}

// TestFailoverAtOnce: many readers meet the same broken line; one of them changes over, and all get right answers.
func TestFailoverAtOnce(t *testing.T) {
	const size = 8 << 20
	want := pipetest.NewPattern(8, size)
	a := &standing{name: "a", img: func() pipe.Image { return breaking(want, 40) }}
	b := &standing{name: "b", img: func() pipe.Image { return breaking(want, 90) }}
	c := &standing{name: "c", img: func() pipe.Image { return want }}
	img, _, err := chooserOf(t, a, b, c).open(t.Context(), pinnedOf(size))
	require.NoError(t, err)
	var wg sync.WaitGroup
	for w := range int64(8) {
		wg.Go(func() {
			buf, check := make([]byte, 32<<10), make([]byte, 32<<10)
			for off := w << 20; off < (w+1)<<20; off += int64(len(buf)) {
				_, err := img.ReadAt(t.Context(), buf, off)
				_, _ = want.ReadAt(t.Context(), check, off)
				if err != nil || string(buf) != string(check) {
					t.Errorf("at %d: %v", off, err)
					return
				}
			}
		})
	}
	wg.Wait()
	choice, _ := choiceOf(img)
	require.Equal(t, "c", choice.Transport)
	require.NoError(t, img.Close())
	require.Equal(t, int64(3), a.opens.Load()+b.opens.Load()+c.opens.Load())
	require.Zero(t, a.live.Load()+b.live.Load()+c.live.Load())
}

// TestFailoverOfExtents: a map that one transport began, another finishes.
func TestFailoverOfExtents(t *testing.T) {
	const size = 4 << 20
	want := pipetest.NewPattern(9, size, pipetest.RandomLayout(9, size, pipe.Zero, pipe.Data)...)
	for nth := int64(1); ; nth++ {
		fault := pipetest.FailNth(nth, true, "extents")
		a := &standing{name: "a", img: func() pipe.Image { return pipetest.HookImage(want, fault.Hook) }}
		b := &standing{name: "b", img: func() pipe.Image { return want }}
		img, _, err := chooserOf(t, a, b).open(t.Context(), pinnedOf(size))
		require.NoError(t, err)
		at := int64(0)
		for e, err := range pipe.Extents(t.Context(), img, 0, size) {
			require.NoError(t, err)
			require.Equal(t, at, e.Off)
			at = e.End()
		}
		require.Equal(t, int64(size), at)
		require.NoError(t, img.Close())
		if !fault.Fired() {
			break
		}
	}
}

// TestCancelledFailover: who gives up while another transport is opened does not use it up for others.
func TestCancelledFailover(t *testing.T) {
	want := pipetest.NewPattern(10, 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	a := &standing{name: "a", img: func() pipe.Image { return breaking(want, 1) }}
	b := &cancelling{standing: standing{name: "b", img: func() pipe.Image { return want }}, cancel: cancel}
	c, err := newChooser(&TransportOptions{More: []Transport{a, b}, Order: []string{"a", "b"}})
	require.NoError(t, err)
	img, _, err := c.open(t.Context(), pinnedOf(1<<20))
	require.NoError(t, err)
	buf := make([]byte, 512)
	_, err = img.ReadAt(ctx, buf, 0)
	require.ErrorIs(t, err, context.Canceled)
	_, err = img.ReadAt(t.Context(), buf, 0)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	require.Zero(t, a.live.Load()+b.live.Load())
}

// cancelling has its caller give up the first time.
type cancelling struct {
	standing
	cancel context.CancelFunc
}

func (c *cancelling) Open(ctx context.Context, p *Pinned) (pipe.Image, error) {
	if c.opens.Load() == 0 {
		c.opens.Add(1)
		c.cancel()
		return nil, ctx.Err()
	}
	return c.standing.Open(ctx, p)
}

// TestTargetChoice: only what can write is asked to.
func TestTargetChoice(t *testing.T) {
	a := &standing{name: "a", img: func() pipe.Image { return pipetest.NewPattern(1, 512) }}
	_, choice, err := chooserOf(t, a).openTarget(t.Context(), pinnedOf(512))
	var none *NoTransportError
	require.ErrorAs(t, err, &none)
	require.Equal(t, "it reads only", choice.Tried[0].Reason)
}

func detourOf(by, reason, hint string, off int64) Refusal {
	return Refusal{Transport: by, Reason: reason, Hint: hint, Offset: off}
}

// choiceOf is how an image is reached by now.
func choiceOf(img pipe.Image) (Choice, bool) {
	c, ok := pipe.As[Chosen](img)
	if !ok {
		return Choice{}, false
	}
	return c.Choice(), true
}
