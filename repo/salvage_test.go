package repo_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// A salvage gives all that is there, zeros for what is lost, and the list of it, to the byte; Open gives none of that.
func TestSalvage(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, lost := range []string{"data/", "meta/"} {
		st := memstore.New(nil)
		r := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
		id := mustBackup(t, r, "vm", disk(1), nil)
		for _, name := range named(t, st, lost) {
			if lost == "data/" {
				ruin(t, st, name, 10*4096, 40) // two or three blocks of eight
			} else {
				require.NoError(t, st.Remove(ctx, name))
			}
		}
		damaged := reopen(t, st)
		rep, err := damaged.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
		require.NoError(t, err)
		require.False(t, rep.OK)

		img, err := damaged.Salvage(ctx, id, "disk0")
		require.NoError(t, err)
		defer img.Close()
		var holes []pipe.Extent
		for e, err := range img.Extents(ctx, 0, img.Size()) {
			require.NoError(t, err)
			if lost == "meta/" {
				require.Equal(t, pipe.Extent{Len: img.Size(), Kind: pipe.Bad}, e)
			}
		}
		got, want := make([]byte, img.Size()), make([]byte, img.Size())
		for off := int64(0); off < img.Size(); off += 100_000 { // pieces that are no blocks
			n, err := img.ReadAt(ctx, got[off:min(off+100_000, img.Size())], off)
			require.True(t, err == nil || errors.Is(err, io.EOF), err)
			require.Positive(t, n)
		}
		_, err = disk(1).ReadAt(ctx, want, 0)
		require.NoError(t, err)
		holes = img.Holes()
		require.NotEmpty(t, holes)
		for _, h := range holes {
			clear(want[h.Off:h.End()])
		}
		require.True(t, bytes.Equal(want, got), "all else is what it was, and what is lost is zero")
		require.Equal(t, affectedIn(rep, id), holes)

		w, err := newRepository(t, memstore.New(nil), &repo.InitOptions{BlockSize: testBlock}).Begin(ctx, "copy", nil)
		require.NoError(t, err)
		defer w.Close()
		target, err := w.Disk(ctx, "disk0", img.Size())
		require.NoError(t, err)
		open, err := damaged.OpenDamaged(ctx, id, "disk0")
		require.NoError(t, err)
		defer open.Close()
		_, err = pipe.Copy(ctx, target, open, nil)
		if lost == "data/" {
			require.Error(t, err, "holes are not made of what is asked for whole")
		}
		stats, err := pipe.Copy(ctx, target, open, &pipe.CopyOptions{OnReadError: func(pipe.Extent, error) error { return nil }})
		require.NoError(t, err)
		require.Equal(t, holes, stats.Bad, "a copy that is allowed holes has the same ones")

		plain, err := damaged.Open(ctx, id, "disk0")
		require.NoError(t, err)
		defer plain.Close()
		_, err = plain.ReadAt(ctx, make([]byte, 1), holes[0].Off)
		var corrupt *repo.ErrCorrupt
		require.ErrorAs(t, err, &corrupt)
	}
}

// affectedIn is what a report calls lost of a point's disk.
func affectedIn(rep repo.VerifyReport, point string) (list []pipe.Extent) {
	for _, a := range rep.Affected {
		if a.Point == point && a.Disk == "disk0" {
			list = append(list, pipe.Extent{Off: a.Offset, Len: a.Length, Kind: pipe.Bad})
		}
	}
	slices.SortFunc(list, func(a, b pipe.Extent) int { return int(a.Off - b.Off) })
	return list
}
