package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
)

// dropping is an exclusion made of a list: what is not in it is stored. The ranges are in order and do not overlap.
type dropping map[string][]pipe.Extent

func (d dropping) excluder(context.Context, []OpenDisk) (Exclusion, error) {
	return Exclusion{Image: func(key string, img pipe.Image) pipe.Image {
		if len(d[key]) == 0 {
			return img
		}
		return &dropped{img, d[key]}
	}}, nil
}

type dropped struct {
	pipe.Image
	list []pipe.Extent
}

func (d *dropped) Unwrap() pipe.Image { return d.Image }

func (d *dropped) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		for e, err := range pipe.Extents(ctx, d.Image, off, n) {
			if err != nil {
				yield(e, err)
				return
			}
			for e.Len > 0 {
				part := e
				if e.Kind == pipe.Data {
					for _, x := range d.list {
						switch {
						case x.Off <= e.Off && e.Off < x.End():
							part.Len, part.Kind = min(part.Len, x.End()-e.Off), x.Kind
						case x.Off > e.Off:
							part.Len = min(part.Len, x.Off-e.Off)
						}
					}
				}
				if !yield(part, nil) {
					return
				}
				e.Off, e.Len = part.End(), e.Len-part.Len
			}
		}
	}
}

// expected is what a restore of a disk gives: of each block nothing where all of it may be left out or is known to be zero,
// else all of it.
func expected(t require.TestingT, h *host, d dropping, key string, block int64) (content []byte, kinds []pipe.Kind) {
	content = h.content(key)
	size := int64(len(content))
	zero := make([]bool, size)
	if !h.noExtents {
		for e, err := range pipe.Extents(context.Background(), pipetest.Bytes(content), 0, size) {
			require.NoError(t, err)
			for i := e.Off; i < e.End() && e.Kind == pipe.Zero; i++ {
				zero[i] = true
			}
		}
	}
	byteKinds := make([]pipe.Kind, size)
	for _, e := range d[key] {
		for i := e.Off; i < e.End(); i++ {
			byteKinds[i] = e.Kind
		}
	}
	for at := int64(0); at < size; at += block {
		end := min(at+block, size)
		kind := pipe.Zero
		for i := at; i < end; i++ {
			switch {
			case zero[i]:
			case byteKinds[i] == 0:
				kind = pipe.Data
			case kind == pipe.Zero:
				kind = byteKinds[i]
			}
		}
		switch {
		case kind != pipe.Data:
			clear(content[at:end])
		case bytes.Count(content[at:end], []byte{0}) == int(end-at):
			kind = pipe.Zero // found by reading
		}
		kinds = append(kinds, kind)
	}
	return content, kinds
}

// requireLeftOut compares a point's disk with what it is expected to be, the reasons included.
func requireLeftOut(t require.TestingT, b pipe.Backend, point string, h *host, d dropping, key string, block int64) {
	want, kinds := expected(t, h, d, key, block)
	img, err := b.Open(context.Background(), point, key)
	require.NoError(t, err)
	defer img.Close()
	got := make([]byte, len(want))
	_, err = img.ReadAt(context.Background(), got, 0)
	require.NoError(t, err)
	for i := range kinds {
		at, end := int64(i)*block, min(int64(i+1)*block, int64(len(want)))
		require.True(t, bytes.Equal(want[at:end], got[at:end]), "block %d, expected to be %v", i, kinds[i])
	}
	for e, err := range pipe.Extents(context.Background(), img, 0, img.Size()) {
		require.NoError(t, err)
		for at := e.Off; at < e.End(); at += block {
			require.Equal(t, kinds[at/block], e.Kind, "block %d", at/block)
		}
	}
}

// R014, R016, R017, R018: any history of writes, of sets of exclusions, and of ways in which a backup knows what changed
// gives points that hold what is not left out, and nothing that is: a file excluded from now on is not in the new point,
// one that is not excluded any more is, written to or not; space taken into use without being filled is what it was.
func TestExclusionsAndChangesCombine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		combine(t, pipetest.NewBackend(1<<12), 1<<12, rapid.IntRange(2, 7).Draw(t, "points"))
	})
}

// The same with a real repository.
func TestExclusionsAndChangesCombineInARepository(t *testing.T) {
	var mu sync.Mutex
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		mu.Lock()
		runs++
		skip := runs > 6
		mu.Unlock()
		if skip {
			return
		}
		r := newRepository(t)
		combine(rt, r, block, 4)
		report, err := r.Verify(context.Background(), &repo.VerifyOptions{DataPercent: 100})
		require.NoError(rt, err)
		require.True(rt, report.OK)
	})
}

func combine(t *rapid.T, b pipe.Backend, block int64, points int) {
	size := int64(rapid.IntRange(1, 24).Draw(t, "blocks")) * block
	if rapid.Bool().Draw(t, "odd size") {
		size -= block / 2
	}
	h := newHost(size)
	h.noExtents = rapid.Bool().Draw(t, "no extents")
	d := dropping{}
	for range points {
		for range rapid.IntRange(0, 6).Draw(t, "writes") {
			off := rapid.Int64Range(0, (size-1)/512).Draw(t, "at") * 512
			p := make([]byte, min(size-off, rapid.Int64Range(1, 2*block).Draw(t, "length")))
			if rapid.IntRange(0, 3).Draw(t, "zeros") > 0 {
				_, _ = rand.NewChaCha8([32]byte{byte(rapid.Byte().Draw(t, "fill"))}).Read(p)
			}
			h.write("d0", p, off)
		}
		if rapid.IntRange(0, 2).Draw(t, "exclusions change") > 0 {
			d = dropping{"d0": ranges512(t, size)}
		}
		opts := &BackupOptions{Exclude: d.excluder, Workers: 1}
		if len(d["d0"]) == 0 && rapid.Bool().Draw(t, "not asked") {
			opts.Exclude = nil
		}
		switch rapid.SampledFrom([]string{"known", "known", "known", "lost", "full"}).Draw(t, "changes") {
		case "lost":
			h.disks["d0"].bases = nil
		case "full":
			opts.Full = true
		}
		res, err := Backup(context.Background(), h, "vm-1", b, opts)
		require.NoError(t, err)
		requireLeftOut(t, b, res.Point, h, d, "d0", block)
	}
}

// ranges512 draws a list of ranges of sectors.
func ranges512(t *rapid.T, size int64) (list []pipe.Extent) {
	at := int64(0)
	for range rapid.IntRange(0, 6).Draw(t, "ranges") {
		at += rapid.Int64Range(0, size/1024).Draw(t, "gap") * 512
		n := rapid.Int64Range(1, max(1, size/1024)).Draw(t, "n") * 512
		if at >= size {
			break
		}
		n = min(n, size-at)
		list = append(list, pipe.Extent{Off: at, Len: n, Kind: rapid.SampledFrom([]pipe.Kind{pipe.Free, pipe.Swap, pipe.Excluded}).Draw(t, "kind")})
		at += n
	}
	return list
}

// What an increment reads: nothing of what stays left out or stays unchanged; what is not left out any more, at once.
func TestIncrementReadsNoMoreThanItMust(t *testing.T) {
	h := newHost(40 * block)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(h.disks["d0"].data)
	b := pipetest.NewBackend(block)
	d := dropping{"d0": {{Off: 4*block + 512, Len: 10 * block, Kind: pipe.Free}, {Off: 20 * block, Len: 4 * block, Kind: pipe.Swap}}}
	opts := &BackupOptions{Exclude: d.excluder}
	first := run(t, h, b, opts)
	require.Equal(t, map[string]int64{"free": 9 * block, "swap": 4 * block}, first.Disks[0].Skipped)
	second := run(t, h, b, opts)
	require.Equal(t, Changed, second.Disks[0].Method)
	require.Zero(t, second.Disks[0].Read)
	require.Equal(t, int64(40*block), second.Disks[0].Skipped["unchanged"])

	h.write("d0", []byte("a page that was swapped out"), 21*block)
	h.write("d0", []byte("data"), 30*block)
	third := run(t, h, b, opts)
	require.Equal(t, int64(block), third.Disks[0].Read, "swap that was written to is left out all the same")

	delete(d, "d0")
	fourth := run(t, h, b, opts)
	require.Equal(t, int64(13*block), fourth.Disks[0].Read, "what is not left out any more")
	requirePoint(t, b, fourth.Point, h)

	d["d0"] = []pipe.Extent{{Off: 8 * block, Len: 2 * block, Kind: pipe.Excluded}}
	fifth := run(t, h, b, opts)
	require.Zero(t, fifth.Disks[0].Read)
	require.Equal(t, int64(2*block), fifth.Disks[0].Skipped["excluded"])
	requireLeftOut(t, b, fifth.Point, h, d, "d0", block)
	sixth := run(t, h, b, nil) // without a hook: the base tells that something is missing in it
	require.Equal(t, int64(2*block), sixth.Disks[0].Read)
	requirePoint(t, b, sixth.Point, h)
}

// A range that could not be read before is tried again, although nobody wrote to it.
func TestBadRangesOfTheBaseAreReadAgain(t *testing.T) {
	h := filled(31, 6*block)
	b := pipetest.NewBackend(block)
	opts := &BackupOptions{OnReadError: func(string, pipe.Extent, error) error { return nil }, Wrap: nil}
	h.hook = func(op string) error {
		if op == "image readat" {
			return errors.New("input/output error")
		}
		return nil
	}
	first := run(t, h, b, opts)
	require.NotEmpty(t, first.Disks[0].Bad)
	h.hook = func(string) error { return nil }
	second := run(t, h, b, opts)
	require.Equal(t, Allocated, second.Disks[0].Method, "what was not read did not change since, and is to be read")
	requirePoint(t, b, second.Point, h)
	third := run(t, h, b, opts)
	require.Equal(t, Changed, third.Disks[0].Method)
	requirePoint(t, b, third.Point, h)
}

// What the hook says reaches the result; where it fails, nothing is left out and the backup is good.
func TestExclusionIsTold(t *testing.T) {
	h := filled(32, 4*block, 2*block)
	b := pipetest.NewBackend(block)
	volumes := []VolumeResult{
		{Name: "d0:1", Kind: "ext4", Size: 3 * block, Free: block},
		{Name: "d0:2", Kind: "ntfs", Size: block, Whole: "its log cannot be replayed", Caution: true},
		{Name: "d1", Size: 2 * block, Whole: "nothing that is known here is on it"},
	}
	var seen []string
	var phases []Phase
	res := run(t, h, b, &BackupOptions{
		Exclude: func(_ context.Context, disks []OpenDisk) (Exclusion, error) {
			for _, d := range disks {
				seen = append(seen, fmt.Sprint(d.Key, d.Image.Size() == d.Size))
			}
			return Exclusion{Volumes: volumes, Notes: []string{"a glob fits nothing"}}, nil
		},
		Disks:  []string{"d0"},
		Events: func(e Event) { phases = appendPhase(phases, e) },
	})
	require.Equal(t, []string{"d0true", "d1true"}, seen, "all disks of the VM, also those that are not copied")
	require.Equal(t, volumes, res.Volumes)
	require.Contains(t, res.Notes, "a glob fits nothing")
	require.Contains(t, res.Notes, "volume d0:2 (ntfs) is stored whole, out of caution: its log cannot be replayed")
	require.Empty(t, res.Warnings)
	require.Contains(t, phases, PhaseExclude)
	require.Contains(t, res.Phases, "exclude")

	res = run(t, h, b, &BackupOptions{Exclude: func(context.Context, []OpenDisk) (Exclusion, error) { return Exclusion{}, errors.New("out of luck") }})
	requirePoint(t, b, res.Point, h)
	require.Empty(t, res.Warnings)
	require.Contains(t, res.Notes[len(res.Notes)-1], "out of luck")

	h.level = hikae.Unknown // somebody may write while it is read
	res = run(t, h, b, &BackupOptions{Exclude: func(context.Context, []OpenDisk) (Exclusion, error) { panic("asked about a moving disk") }})
	require.Contains(t, res.Notes[len(res.Notes)-1], "written to")
	h.level = hikae.Application

	ctx, cancel := context.WithCancel(t.Context())
	_, err := Backup(ctx, h, "vm-1", b, &BackupOptions{Exclude: func(ctx context.Context, _ []OpenDisk) (Exclusion, error) {
		cancel()
		return Exclusion{}, ctx.Err()
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, h.snapshots)
}

func appendPhase(list []Phase, e Event) []Phase {
	if p, ok := e.(PhaseStarted); ok && !slices.Contains(list, p.Phase) {
		return append(list, p.Phase)
	}
	return list
}

// A base that cannot tell what it holds costs a full read, never the point.
func TestBaseThatCannotTellItsExtents(t *testing.T) {
	h := filled(33, 6*block)
	b := pipetest.NewBackend(block)
	d := dropping{"d0": {{Off: block, Len: 2 * block, Kind: pipe.Free}}}
	run(t, h, b, &BackupOptions{Exclude: d.excluder})
	h.write("d0", []byte("x"), 5*block)
	for n := range 3 {
		backend := &mute{Backend: b, after: n}
		res := run(t, h, backend, &BackupOptions{Exclude: d.excluder, Workers: 1})
		require.Len(t, res.Warnings, 1)
		require.Contains(t, res.Warnings[0], "verify the repository")
		require.Equal(t, Allocated, res.Disks[0].Method)
		requireLeftOut(t, b, res.Point, h, d, "d0", block)
	}
}

// mute is a backend whose images fail to tell their extents after some.
type mute struct {
	pipe.Backend
	after int
}

func (m *mute) Open(ctx context.Context, point, disk string) (pipe.Image, error) {
	img, err := m.Backend.Open(ctx, point, disk)
	return &muteImage{img, m.after}, err
}

type muteImage struct {
	pipe.Image
	after int
}

func (m *muteImage) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		left := m.after
		for e, err := range pipe.Extents(ctx, m.Image, off, n) {
			if left--; left < 0 {
				yield(pipe.Extent{}, pipetest.ErrFault)
				return
			}
			if !yield(e, err) {
				return
			}
		}
	}
}
