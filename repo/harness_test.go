package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testBlock = 64 << 10

// backup makes a point of one disk, as job does: over the base with changed extents where there is one.
func backup(ctx context.Context, r *repo.Repository, vm string, img pipe.Image, opts *pipe.PointOptions) (string, error) {
	w, err := r.Begin(ctx, vm, opts)
	if err != nil {
		return "", err
	}
	defer w.Close()
	t, err := w.Disk(ctx, "disk0", img.Size())
	if err != nil {
		return "", err
	}
	defer t.Close()
	if _, err := pipe.Copy(ctx, t, img, nil); err != nil {
		return "", err
	}
	if err := t.Commit(ctx); err != nil {
		return "", err
	}
	if err := w.Blob(ctx, "config", strings.NewReader(vm)); err != nil {
		return "", err
	}
	return w.Commit(ctx, map[string]string{"disk0": "change-1"})
}

func mustBackup(t testing.TB, r *repo.Repository, vm string, img pipe.Image, opts *pipe.PointOptions) string {
	t.Helper()
	id, err := backup(t.Context(), r, vm, img, opts)
	require.NoError(t, err)
	return id
}

// same compares a point's disk with the image that it was made from, byte by byte.
func same(ctx context.Context, r *repo.Repository, point string, want pipe.Image) error {
	img, err := r.Open(ctx, point, "disk0")
	if err != nil {
		return err
	}
	defer img.Close()
	if img.Size() != want.Size() {
		return errors.New("sizes differ")
	}
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < img.Size(); off += int64(len(a)) {
		n := min(int64(len(a)), img.Size()-off)
		if _, err := img.ReadAt(ctx, a[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := want.ReadAt(ctx, b[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if !bytes.Equal(a[:n], b[:n]) {
			return errDiffers
		}
	}
	return nil
}

var errDiffers = errors.New("the restored disk differs")

func requireSame(t testing.TB, r *repo.Repository, point string, want pipe.Image) {
	t.Helper()
	require.NoError(t, same(t.Context(), r, point, want))
}

func reopen(t testing.TB, st store.Store) *repo.Repository {
	t.Helper()
	r, err := repo.Open(t.Context(), st, testKey, openOptions(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func pointsOf(t testing.TB, r *repo.Repository) (ids []string) {
	t.Helper()
	for p, err := range r.Points(t.Context(), "") {
		require.NoError(t, err)
		ids = append(ids, p.ID)
	}
	return ids
}

// disk is a small disk with data, holes and a tail that is no whole block.
func disk(seed uint64) pipe.Image {
	return pipetest.NewPattern(seed, 9*testBlock+777, pipe.Extent{Off: 3 * testBlock, Len: 2 * testBlock, Kind: pipe.Zero}).Blank()
}
