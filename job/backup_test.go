package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

const block = 64 << 10

// filled is a host with random data in its disks.
func filled(seed uint64, sizes ...int64) *host {
	h := newHost(sizes...)
	r := rand.New(rand.NewPCG(seed, 7))
	for _, key := range h.order {
		scribble(h, r, key, 12)
	}
	h.config = map[string][]byte{"web1.xml": []byte("<domain/>\x00\r\n")}
	return h
}

// scribble writes data, and zeros, at some places.
func scribble(h *host, r *rand.Rand, key string, times int) {
	size := int64(len(h.disks[key].data))
	for i := range times {
		p := make([]byte, 1+r.IntN(50_000))
		if i%3 != 2 {
			for j := range p {
				p[j] = byte(r.Uint32())
			}
		}
		off := r.Int64N(size)
		h.write(key, p[:min(int64(len(p)), size-off)], off)
	}
}

func requirePoint(t *testing.T, b pipe.Backend, point string, h *host) {
	t.Helper()
	for _, key := range h.order {
		requireDisk(t, b, point, key, h.content(key))
	}
}

func requireDisk(t *testing.T, b pipe.Backend, point, key string, want []byte) {
	t.Helper()
	img, err := b.Open(t.Context(), point, key)
	require.NoError(t, err)
	defer img.Close()
	got, err := io.ReadAll(io.NewSectionReader(pipe.ReaderAt(t.Context(), img), 0, img.Size()))
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "disk %s of point %s", key, point)
}

func run(t *testing.T, h *host, b pipe.Backend, opts *BackupOptions) Result {
	t.Helper()
	res, err := Backup(t.Context(), h, "vm-1", b, opts)
	require.NoError(t, err)
	require.Zero(t, h.snapshots)
	return res
}

// R005, R006, R007, R013, R014, R015, R016, R182, R183: one session after another, in the order of DESIGN §5; only what
// changed is read, and each point is the disks as they were.
func TestBackupIncremental(t *testing.T) {
	h := filled(1, 20*block+512, 5*block)
	b := pipetest.NewBackend(block)
	full := run(t, h, b, &BackupOptions{Ask: hikae.Application})
	requirePoint(t, b, full.Point, h)
	require.Equal(t, "application", full.Consistency)
	require.Empty(t, full.Fallbacks)
	require.Empty(t, full.Warnings)
	require.NotEmpty(t, full.Bottleneck)
	blob, err := b.OpenBlob(t.Context(), full.Point, "web1.xml")
	require.NoError(t, err)
	got, err := io.ReadAll(blob)
	require.NoError(t, err)
	require.Equal(t, h.config["web1.xml"], got)

	h.write("d0", bytes.Repeat([]byte{9}, 100), 3*block+5)
	h.write("d0", make([]byte, 2*block), 8*block)
	h.during = func() { h.write("d1", []byte("during the copy"), 77); h.during = nil }
	before := h.content("d1")
	inc := run(t, h, b, nil)
	require.Equal(t, full.Point, inc.Base)
	require.Equal(t, Changed, inc.Disks[0].Method)
	require.LessOrEqual(t, inc.Disks[0].Read, int64(3*block))
	require.Zero(t, inc.Disks[1].Read)
	requireDisk(t, b, inc.Point, "d0", h.content("d0"))
	requireDisk(t, b, inc.Point, "d1", before)

	third := run(t, h, b, nil) // what was written during the copy belongs to the next point
	require.Equal(t, int64(block), third.Disks[1].Read)
	requirePoint(t, b, third.Point, h)
}

// Both ways give the same point: the same blocks in the same places.
func TestKnownAndUnknownChangesGiveTheSamePoint(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	h := filled(seed, 30*block-100)
	b := pipetest.NewBackend(block)
	run(t, h, b, nil)
	for range 5 {
		scribble(h, r, "d0", 5)
		known := run(t, h, b, nil)
		unknown := run(t, h, b, &BackupOptions{Full: true})
		require.Equal(t, Changed, known.Disks[0].Method)
		require.Equal(t, Allocated, unknown.Disks[0].Method)
		requirePoint(t, b, known.Point, h)
		requirePoint(t, b, unknown.Point, h)
		require.Zero(t, unknown.Disks[0].Stored, "every block was there")
	}
}

func TestLadder(t *testing.T) {
	b := pipetest.NewBackend(block)
	h := filled(3, 4*block)
	first := run(t, h, b, nil)

	h.disks["d0"].bases = nil // the host was reinstalled
	lost := run(t, h, b, nil)
	require.Equal(t, []Fallback{{"d0", Changed, Allocated, hikae.ErrTrackingLost.Error()}}, lost.Fallbacks)
	requirePoint(t, b, lost.Point, h)

	h.noExtents = true
	h.disks["d0"].bases = nil
	whole := run(t, h, b, nil)
	require.Equal(t, Whole, whole.Disks[0].Method)
	require.Len(t, whole.Fallbacks, 2)
	require.Equal(t, Whole, whole.Fallbacks[1].To)
	require.Equal(t, int64(4*block), whole.Disks[0].Read)
	requirePoint(t, b, whole.Point, h)
	h.noExtents = false

	h.disks["d0"].data = append(h.disks["d0"].data, bytes.Repeat([]byte{5}, block)...)
	resized := run(t, h, b, nil)
	require.Contains(t, resized.Fallbacks[0].Reason, "resized")
	requirePoint(t, b, resized.Point, h)

	h.addDisk("new", 2*block)
	h.write("new", []byte("hello"), 3)
	added := run(t, h, b, nil)
	require.Equal(t, "new", added.Fallbacks[0].Disk)
	require.Contains(t, added.Fallbacks[0].Reason, "new")
	require.Len(t, added.Fallbacks, 1)
	requirePoint(t, b, added.Point, h)

	h.order = []string{"new"}
	delete(h.disks, "d0")
	removed := run(t, h, b, nil)
	require.Len(t, removed.Disks, 1)
	require.Empty(t, removed.Fallbacks)
	requirePoint(t, b, removed.Point, h)

	old := run(t, h, b, &BackupOptions{Base: first.Point})
	require.Contains(t, old.Fallbacks[0].Reason, "new")
}

// A base that cannot be used costs a full read, never the point.
func TestDamagedBase(t *testing.T) {
	for _, op := range []string{"open", "begin", "disk", "mark"} {
		t.Run(op, func(t *testing.T) {
			h := filled(4, 4*block, 3*block)
			b := pipetest.NewBackend(block)
			run(t, h, b, nil)
			h.write("d1", []byte("x"), 1)
			fault := pipetest.FailNth(1, false, op)
			res := run(t, h, pipetest.HookBackend(b, func(ctx context.Context, o *pipetest.Op) error {
				if op == "mark" && o.Kind != pipe.Unchanged {
					return nil
				}
				return fault.Hook(ctx, o)
			}), nil)
			require.True(t, fault.Fired())
			require.NotEmpty(t, res.Fallbacks)
			require.Contains(t, res.Fallbacks[0].Reason, "the base point's disk cannot be")
			require.Len(t, res.Warnings, 1)
			require.Contains(t, res.Warnings[0], "verify the repository")
			require.Len(t, res.Disks, 2)
			requirePoint(t, b, res.Point, h)
		})
	}
}

// The sweep: every operation of host and backend fails once, in turn. There is then no point, or a right one with a
// warning; the host is clean; the old base is good; the next run is right.
func TestEveryStepFailsOnce(t *testing.T) {
	steps := 0
	for n := 1; ; n++ {
		h := filled(uint64(n), 4*block, 2*block)
		b := pipetest.NewBackend(block)
		first := run(t, h, b, nil)
		r := rand.New(rand.NewPCG(uint64(n), 3))
		scribble(h, r, "d0", 4)
		scribble(h, r, "d1", 2)

		var mu sync.Mutex
		seen, fired := 0, ""
		fail := func(op string) error {
			mu.Lock()
			defer mu.Unlock()
			if seen++; seen == n {
				fired = op
				return pipetest.ErrFault
			}
			return nil
		}
		h.hook = fail
		res, err := Backup(t.Context(), h, "vm-1", pipetest.HookBackend(b, func(_ context.Context, op *pipetest.Op) error { return fail("backend " + op.Name) }), &BackupOptions{Workers: 1})
		h.hook = func(string) error { return nil }
		if fired == "" {
			require.NoError(t, err)
			break
		}
		steps++
		require.Zero(t, h.snapshots, fired)
		points := pointsOf(t, b)
		if err != nil {
			require.ErrorIs(t, err, pipetest.ErrFault, fired)
			require.Empty(t, res.Point, fired)
			require.Equal(t, []string{first.Point}, points, fired)
		} else {
			require.Equal(t, []string{first.Point, res.Point}, points, fired)
			require.NotEmpty(t, append(append([]string{}, res.Warnings...), reasonsOf(res)...), "%s is told", fired)
			requirePoint(t, b, res.Point, h)
		}
		scribble(h, r, "d0", 2)
		next := run(t, h, b, nil)
		requirePoint(t, b, next.Point, h)
		if err != nil {
			require.Equal(t, Changed, next.Disks[0].Method, "%s: the old base is good", fired)
		}
	}
	require.Greater(t, steps, 25)
}

func reasonsOf(r Result) (out []string) {
	for _, f := range r.Fallbacks {
		out = append(out, f.Reason)
	}
	if r.Point != "" && len(out) == 0 {
		out = r.Notes
	}
	return out
}

func pointsOf(t *testing.T, b pipe.Backend) (ids []string) {
	t.Helper()
	for p, err := range b.Points(t.Context(), "") {
		require.NoError(t, err)
		ids = append(ids, p.ID)
	}
	return ids
}

// The snapshot is released after a panic, and with a context that is not the cancelled one.
func TestReleaseAlwaysRuns(t *testing.T) {
	for _, phase := range []Phase{PhaseSnapshot, PhaseCopy, PhaseCommit} {
		h := filled(5, 2*block)
		b := pipetest.NewBackend(block)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Backup(ctx, h, "", b, &BackupOptions{Events: func(e Event) {
			if p, ok := e.(PhaseStarted); ok && p.Phase == phase {
				cancel()
			}
		}})
		require.ErrorIs(t, err, context.Canceled, phase)
		require.Zero(t, h.snapshots, phase)
		require.Empty(t, pointsOf(t, b))
		requirePoint(t, b, run(t, h, b, nil).Point, h)
	}
	h := filled(5, 2*block)
	require.PanicsWithValue(t, "boom", func() {
		_, _ = Backup(t.Context(), h, "", pipetest.NewBackend(block), &BackupOptions{
			Wrap: func(context.Context, hikae.Disk, pipe.Image) (pipe.Image, error) { panic("boom") },
		})
	})
	require.Zero(t, h.snapshots)
}

// A host that hangs in Release costs its deadline, not forever; the point that is durable stays good.
func TestReleaseHasADeadline(t *testing.T) {
	h := filled(6, block)
	h.hook = func(op string) error {
		if op == "release" {
			time.Sleep(30 * time.Millisecond)
			return errors.New("the host does not answer")
		}
		return nil
	}
	b := pipetest.NewBackend(block)
	res, err := Backup(t.Context(), h, "", b, &BackupOptions{ReleaseDeadline: 20 * time.Millisecond})
	require.NoError(t, err)
	require.Len(t, pointsOf(t, b), 1)
	require.Contains(t, res.Warnings[len(res.Warnings)-1], "release the snapshot")
}

func TestCommitOfTheSnapshotFails(t *testing.T) {
	h := filled(7, 2*block)
	b := pipetest.NewBackend(block)
	run(t, h, b, nil)
	h.write("d0", []byte("x"), 9)
	h.hook = func(op string) error {
		if op == "commit snapshot" {
			return errors.New("host away")
		}
		return nil
	}
	res := run(t, h, b, nil)
	require.NotEmpty(t, res.Point)
	require.Contains(t, res.Warnings[0], "the point is durable")
	h.hook = func(string) error { return nil }
	next := run(t, h, b, nil)
	requirePoint(t, b, next.Point, h)
	require.NotEmpty(t, next.Fallbacks, "its base is unknown to the host")
}

// A provider that lies about what changed is not believed.
func TestListOfChangesIsChecked(t *testing.T) {
	for name, list := range map[string][]pipe.Extent{
		"nothing":   {},
		"short":     {{Off: 0, Len: block, Kind: pipe.Unchanged}},
		"gap":       {{Off: 0, Len: block, Kind: pipe.Unchanged}, {Off: block + 1, Len: block - 1, Kind: pipe.Data}},
		"overlap":   {{Off: 0, Len: block + 1, Kind: pipe.Unchanged}, {Off: block, Len: block, Kind: pipe.Data}},
		"long":      {{Off: 0, Len: 3 * block, Kind: pipe.Unchanged}},
		"kind":      {{Off: 0, Len: 2 * block, Kind: pipe.Zero}},
		"backwards": {{Off: block, Len: block, Kind: pipe.Unchanged}, {Off: 0, Len: block, Kind: pipe.Unchanged}},
		"negative":  {{Off: 0, Len: -1, Kind: pipe.Unchanged}},
	} {
		t.Run(name, func(t *testing.T) {
			h := filled(8, 2*block)
			b := pipetest.NewBackend(block)
			run(t, h, b, nil)
			h.write("d0", []byte("news"), block+7)
			res, err := Backup(t.Context(), liar{h, list}, "", b, nil)
			require.NoError(t, err)
			require.Len(t, res.Fallbacks, 1)
			requirePoint(t, b, res.Point, h)
		})
	}
}

// A provider is told which repository a point goes to, so that its notes can say whose points judge them.
func TestRepositoryIsNamed(t *testing.T) {
	for want, b := range map[string]pipe.Backend{"": pipetest.NewBackend(block), "r1": named{pipetest.NewBackend(block), "r1"}} {
		a := &asked{host: filled(1, block)}
		_, err := Backup(t.Context(), a, "", b, nil)
		require.NoError(t, err)
		require.Equal(t, want, a.opts.Repository)
	}
}

type named struct {
	pipe.Backend
	id string
}

func (n named) ID() string { return n.id }

type asked struct {
	*host
	opts *hikae.SnapshotOptions
}

func (a *asked) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	a.opts = opts
	return a.host.Snapshot(ctx, id, opts)
}

type liar struct {
	*host
	list []pipe.Extent
}

func (l liar) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	s, err := l.host.Snapshot(ctx, id, opts)
	return lyingSnapshot{s, l.list}, err
}

type lyingSnapshot struct {
	hikae.Snapshot
	list []pipe.Extent
}

func (s lyingSnapshot) Changed(context.Context, string, hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		for _, e := range s.list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestBackupNames(t *testing.T) {
	h := filled(9, block)
	b := pipetest.NewBackend(block)
	res, err := Backup(t.Context(), h, "web1", b, &BackupOptions{Name: "other", Notes: []string{"hello"}})
	require.NoError(t, err)
	require.Equal(t, "other", res.VM)
	require.Equal(t, "hello", res.Notes[0])
	_, err = Backup(t.Context(), h, "nope", b, nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Backup(t.Context(), h, "", b, &BackupOptions{Base: "nope"})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Backup(t.Context(), h, "", b, &BackupOptions{Disks: []string{"nope"}})
	require.ErrorIs(t, err, fs.ErrNotExist)
	h.vms = 2
	_, err = Backup(t.Context(), h, "", b, nil)
	require.ErrorIs(t, err, ErrAmbiguous)
	_, err = Backup(t.Context(), h, "web1", b, nil)
	require.ErrorIs(t, err, ErrAmbiguous)
	_, err = Backup(t.Context(), h, "vm-1", b, nil)
	require.NoError(t, err)
}

func TestWhatIsWarnedAbout(t *testing.T) {
	h := filled(10, block, block)
	h.level = hikae.Crash
	h.skip = map[string]string{"d1": "a raw device mapping is not in snapshots"}
	b := pipetest.NewBackend(block)
	var told []string
	res := run(t, h, b, &BackupOptions{Ask: hikae.Filesystem, Events: func(e Event) {
		if w, ok := e.(Warned); ok {
			told = append(told, w.Text)
		}
	}})
	require.Len(t, res.Warnings, 2)
	require.Equal(t, res.Warnings, told)
	require.Contains(t, res.Warnings[0], "crash")
	require.Contains(t, res.Warnings[1], "raw device")
	require.Len(t, res.Disks, 1)
	info, err := FindPoint(t.Context(), b, res.Point)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"d0": "cp1"}, info.Tracking, "no id for a disk that is not in the point")

	h.skip["d0"] = "independent"
	_, err = Backup(t.Context(), h, "", b, nil)
	require.ErrorContains(t, err, "no disk")
	require.Zero(t, h.snapshots)
}

// The names of the fields are a contract with scripts (DESIGN §9).
func TestResultFields(t *testing.T) {
	h := filled(11, 3*block)
	res := run(t, h, pipetest.NewBackend(block), nil)
	data, err := json.Marshal(res)
	require.NoError(t, err)
	var doc map[string]any
	require.NoError(t, json.Unmarshal(data, &doc))
	for _, field := range []string{"session", "point", "vm", "disks", "consistency", "fallbacks", "warnings", "notes", "stages", "bottleneck", "seconds"} {
		require.Contains(t, doc, field)
		require.NotNil(t, doc[field], field)
	}
	disk := doc["disks"].([]any)[0].(map[string]any)
	for _, field := range []string{"key", "size", "read", "skipped", "deduplicated", "moved", "stored", "parity"} {
		require.Contains(t, disk, field)
		require.NotNil(t, disk[field], field)
	}
}

func TestUnreadableRangeIsMarkedOnlyWhereAllowed(t *testing.T) {
	h := filled(12, 4*block)
	h.write("d0", bytes.Repeat([]byte{1}, 4*block), 0)
	b := pipetest.NewBackend(block)
	bad := func(_ context.Context, d hikae.Disk, img pipe.Image) (pipe.Image, error) {
		return pipetest.HookImage(img, func(_ context.Context, op *pipetest.Op) error {
			if op.Name == "readat" && op.Off < block+1024 && op.End() > block+512 {
				return pipetest.ErrFault
			}
			return nil
		}), nil
	}
	_, err := Backup(t.Context(), h, "", b, &BackupOptions{Wrap: bad})
	require.ErrorIs(t, err, pipetest.ErrFault)
	var where *pipe.RangeError
	require.ErrorAs(t, err, &where)
	require.Empty(t, pointsOf(t, b))
	res := run(t, h, b, &BackupOptions{Wrap: bad, OnReadError: func(disk string, e pipe.Extent, err error) error {
		require.Equal(t, "d0", disk)
		return nil
	}})
	require.Equal(t, []Range{{Offset: block + 512, Length: 512}}, res.Disks[0].Bad)
	require.Contains(t, res.Warnings[0], "512 bytes in 1 ranges")

	text, err := b.OpenBlob(t.Context(), res.Point, pipe.UnreadableBlob)
	require.NoError(t, err, "the block is data but for that, and only this says so")
	defer text.Close()
	got, err := io.ReadAll(text)
	require.NoError(t, err)
	require.JSONEq(t, `{"d0": [{"offset": 66048, "length": 512}]}`, string(got))
	next := run(t, h, b, nil)
	require.Equal(t, Allocated, next.Disks[0].Method, "nothing has changed there, and it can be read now")
	requirePoint(t, b, next.Point, h)
	_, err = b.OpenBlob(t.Context(), next.Point, pipe.UnreadableBlob)
	require.ErrorIs(t, err, fs.ErrNotExist)
	after := run(t, h, b, nil)
	require.Equal(t, Changed, after.Disks[0].Method)
}

// routedHost has disks that came by another way than they began.
type routedHost struct{ *host }

type routedSnapshot struct{ hikae.Snapshot }

type routedImage struct{ pipe.Image }

func (h routedHost) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	s, err := h.host.Snapshot(ctx, id, opts)
	return routedSnapshot{s}, err
}

func (s routedSnapshot) OpenDisk(ctx context.Context, key string) (pipe.Image, error) {
	img, err := s.Snapshot.OpenDisk(ctx, key)
	return routedImage{img}, err
}

func (routedImage) Route() hikae.Route {
	return hikae.Route{Transport: "https", Tried: []hikae.Detour{
		{Transport: "hotadd", Reason: "this is no VM", Offset: -1}, {Transport: "nbdssl", Reason: "the host hung up", Offset: 4096},
		{Transport: "nfs", Reason: "it is not mounted", Offset: -1}, {Transport: "vddk", Reason: "it ended", Offset: 8192},
	}}
}

func TestRoute(t *testing.T) {
	h := filled(2, 5*block)
	res, err := Backup(t.Context(), routedHost{h}, "vm-1", pipetest.NewBackend(block), &BackupOptions{Wrap: limitless})
	require.NoError(t, err)
	require.Equal(t, "https", res.Disks[0].Transport)
	require.Len(t, res.Disks[0].Tried, 4)
	require.Equal(t, []Fallback{
		{Disk: "d0", From: "nbdssl", To: "vddk", Reason: "at 4096: the host hung up"},
		{Disk: "d0", From: "vddk", To: "https", Reason: "at 8192: it ended"},
	}, slices.DeleteFunc(res.Fallbacks, func(f Fallback) bool { return f.To == Whole }))
}

func limitless(_ context.Context, _ hikae.Disk, img pipe.Image) (pipe.Image, error) {
	return pipe.Limit(img, pipe.NewLimiter(1<<40)), nil
}
