package job

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// placeRestorer writes over a machine in memory that knows what changed.
type placeRestorer struct {
	memoryRestorer
	h        *host
	since    map[string]hikae.ChangeID
	refuse   error // of Ready
	lost     bool
	short    bool // its list of changes ends early
	opened   int
	notes    []string
	existing map[string]*overwritten
}

// overwritten is a disk that is written over; every byte that it is given counts.
type overwritten struct {
	*pipe.Memory
	given int64
}

func (o *overwritten) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	o.given += int64(len(p))
	return o.Memory.WriteAt(ctx, p, off)
}

func (o *overwritten) Mark(ctx context.Context, e pipe.Extent) error {
	if e.Kind == pipe.Unchanged {
		return nil
	}
	_, err := o.Memory.WriteAt(ctx, make([]byte, e.Len), e.Off)
	return err
}

func (o *overwritten) Rewritten() int64 { return o.given / 2 }

func (r *placeRestorer) InPlace(_ context.Context, _ string, _ *hikae.RestoreOptions) (hikae.Draft, error) {
	return r, nil
}

func (r *placeRestorer) Ready(_ context.Context, disks []hikae.Disk, since map[string]hikae.ChangeID) error {
	r.since, r.existing = since, map[string]*overwritten{}
	for _, d := range disks {
		m := pipe.NewMemory(d.Size)
		if _, err := m.WriteAt(context.Background(), r.h.content(d.Key), 0); err != nil {
			return err
		}
		r.existing[d.Key] = &overwritten{Memory: m}
	}
	return r.refuse
}

func (r *placeRestorer) OpenDisk(_ context.Context, key string) (pipe.Target, error) {
	r.opened++
	return r.existing[key], nil
}

func (r *placeRestorer) Changed(_ context.Context, key string, since hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		size, b := r.existing[key].Size(), r.h.disks[key].bases[0]
		if r.lost || b.id != since {
			yield(pipe.Extent{}, hikae.ErrTrackingLost)
			return
		}
		if r.short {
			size -= 4096
		}
		for off := int64(0); off < size; off += 4096 {
			e := pipe.Extent{Off: off, Len: min(4096, size-off), Kind: pipe.Unchanged}
			if b.dirty[off/4096] {
				e.Kind = pipe.Data
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (r *placeRestorer) Reread(ctx context.Context, key string) (pipe.Image, error) {
	data := make([]byte, r.existing[key].Size())
	_, err := r.existing[key].ReadAt(ctx, data, 0)
	return pipetest.Bytes(data), err
}

func (r *placeRestorer) Notes() []string { return r.notes }

// A restore in place asks first whether all disks can be written, then reads of the point only what may differ; a list of
// changes that is lost or ends early costs reading the whole disk, and nothing else.
func TestRestoreInPlace(t *testing.T) {
	for name, c := range map[string]struct {
		set   func(*placeRestorer)
		whole bool
	}{
		"tracked": {func(*placeRestorer) {}, false},
		"lost":    {func(r *placeRestorer) { r.lost = true }, true},
		"short":   {func(r *placeRestorer) { r.short = true }, true},
	} {
		h, b, point := pointToRestore(t)
		want := map[string][]byte{}
		for _, key := range h.order {
			want[key] = h.content(key)
			h.write(key, bytes.Repeat([]byte("changed"), 1000), block+5)
		}
		r := &placeRestorer{h: h, notes: []string{"look at it"}}
		c.set(r)
		res, err := Restore(t.Context(), b, point, r, &RestoreOptions{InPlace: "vm-1", Compare: true})
		require.NoError(t, err, name)
		require.Equal(t, point.Tracking["d0"], string(r.since["d0"]))
		require.Equal(t, "look at it", res.Notes[len(res.Notes)-1])
		for i, key := range h.order {
			got := make([]byte, len(want[key]))
			_, err := r.existing[key].ReadAt(t.Context(), got, 0)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want[key], got), name)
			require.Equal(t, r.existing[key].given/2, res.Disks[i].Written)
			require.Equal(t, c.whole, res.Disks[i].Read > 2*block, "%s %s read %d", name, key, res.Disks[i].Read)
			require.Positive(t, res.Disks[i].Skipped["unchanged"])
		}
		require.Len(t, res.Notes, map[bool]int{false: 1, true: 3}[c.whole], res.Notes)
	}

	h, b, point := pointToRestore(t)
	r := &placeRestorer{h: h, refuse: fs.ErrPermission}
	_, err := Restore(t.Context(), b, point, r, &RestoreOptions{InPlace: "vm-1"})
	require.ErrorIs(t, err, fs.ErrPermission)
	require.Zero(t, r.opened)
	require.Equal(t, 1, r.closed)
}

func TestPointConfig(t *testing.T) {
	h, b, point := pointToRestore(t)
	config, err := PointConfig(t.Context(), b, point)
	require.NoError(t, err)
	require.Equal(t, h.config, config)
	fault := pipetest.FailNth(1, true, "openblob")
	_, err = PointConfig(t.Context(), pipetest.HookBackend(b, fault.Hook), point)
	require.True(t, errors.Is(err, pipetest.ErrFault))
}
