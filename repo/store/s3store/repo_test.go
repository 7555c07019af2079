package s3store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/s3store"
	"github.com/hikae/hikae/repo/store/s3store/s3test"
	"github.com/hikae/hikae/repo/store/storetest"
)

// image is a disk in memory.
type image []byte

func (m image) Size() int64  { return int64(len(m)) }
func (m image) Close() error { return nil }
func (m image) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return bytes.NewReader(m).ReadAt(p, off)
}

func newImage(seed byte, size int) image {
	p := make(image, size)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

func backup(t testing.TB, r *repo.Repository, img image) string {
	t.Helper()
	ctx := t.Context()
	w, err := r.Begin(ctx, "web1", nil)
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(ctx, "disk0", img.Size())
	require.NoError(t, err)
	_, err = pipe.Copy(ctx, d, img, nil)
	require.NoError(t, err)
	require.NoError(t, d.Commit(ctx))
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	return id
}

func restored(t testing.TB, r *repo.Repository, point string) image {
	t.Helper()
	img, err := r.Open(t.Context(), point, "disk0")
	require.NoError(t, err)
	defer img.Close()
	got := make(image, img.Size())
	if _, err := img.ReadAt(t.Context(), got, 0); !errors.Is(err, io.EOF) {
		require.NoError(t, err)
	}
	return got
}

func secret() repo.Secret { return repo.KeyFile([32]byte{1, 2, 3}) }

// Whoever has the writer's own credentials writes over every object, marks each as deleted, and tries to remove what was
// there first: under locks every point is still restored, bit for bit, by a client that knows nothing of it, and the next
// backup goes on.
func TestRestoreAfterVandalism(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	at := place(t, srv, s3test.Locked)
	st := open(t, srv, at, quick)
	r, err := repo.Init(t.Context(), st, secret(), nil, nil)
	require.NoError(t, err)
	one, two := newImage(1, 3<<20), newImage(2, 2<<20)
	points := []string{backup(t, r, one), backup(t, r, two)}
	require.NoError(t, r.Close())

	objects, err := storetest.Collect(st.List(t.Context(), ""))
	require.NoError(t, err)
	var names []string
	for name := range objects {
		names = append(names, name)
	}
	require.NoError(t, store.LockAll(t.Context(), st, names, time.Now().Add(time.Hour)))

	evil := newVandal(t, srv, at)
	for i, name := range names {
		first := firstVersion(t, st, name)
		err := evil.api.RemoveObject(t.Context(), at.Bucket, at.Prefix+"/"+name, minio.RemoveObjectOptions{VersionID: first})
		require.Error(t, err, "a locked version is removed by nobody")
		evil.overwrite(name, newImage(byte(i), 1000))
		evil.mark(name)
		if i%2 == 0 {
			evil.overwrite(name, nil)
		}
	}
	plain, err := evil.api.ListObjectsV2(at.Bucket, "", "", "", "", 1000)
	require.NoError(t, err)
	require.Less(t, len(plain.Contents), len(names), "others see objects that are deleted or forged")

	again := open(t, srv, at, quick)
	r, err = repo.Open(t.Context(), again, secret(), nil)
	require.NoError(t, err)
	defer r.Close()
	assert.True(t, bytes.Equal(one, restored(t, r, points[0])))
	assert.True(t, bytes.Equal(two, restored(t, r, points[1])))
	three := newImage(3, 1<<20)
	id := backup(t, r, three)
	assert.True(t, bytes.Equal(three, restored(t, r, id)))
}

func firstVersion(t *testing.T, st *s3store.Store, name string) string {
	for v, err := range st.Versions(t.Context(), name) {
		require.NoError(t, err)
		return v.ID
	}
	t.Fatalf("%s has no version", name)
	return ""
}

// A full backup over a line that loses answers and a server that is busy now and then: nothing is stored twice, nothing
// is lost.
func TestBackupThroughFaults(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	st := open(t, srv, b.at(place(t, srv, s3test.Plain)), quick)
	r, err := repo.Init(t.Context(), st, secret(), nil, nil)
	require.NoError(t, err)
	defer r.Close()
	b.add(&rule{method: "PUT", skip: 1, times: 2, do: lose}, &rule{method: "PUT", skip: 2, times: 2, do: answer(503, "SlowDown")},
		&rule{method: "GET", skip: 2, times: 2, do: half}, &rule{method: "PUT", skip: 4, times: 1, do: after(500, "InternalError")})
	img := newImage(7, 20<<20)
	point := backup(t, r, img)
	b.add()
	assert.True(t, bytes.Equal(img, restored(t, r, point)))
}

// A store that fails in every way that storetest knows is a store of this kind too.
func TestFaulty(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	at := place(t, srv, s3test.Plain)
	st := storetest.NewFaulty(open(t, srv, at, quick))
	r, err := repo.Init(t.Context(), st, secret(), nil, nil)
	require.NoError(t, err)
	defer r.Close()
	img := newImage(9, 1<<20)
	for n := 1; n < 40; n += 1 + n/3 {
		faulty := storetest.NewFaulty(open(t, srv, at, quick), storetest.Fault{Op: storetest.Create, N: n, Mode: storetest.After})
		f, err := repo.Open(t.Context(), faulty, secret(), nil)
		require.NoError(t, err)
		w, err := f.Begin(t.Context(), "web1", nil)
		if err == nil {
			w.Close()
		}
		require.NoError(t, f.Close())
		if faulty.Fired() == 0 {
			break
		}
	}
	assert.True(t, bytes.Equal(img, restored(t, r, backup(t, r, img))))
}

var _ pipe.Image = image(nil)

// What a point needs is kept by the store, and nothing else: one of its objects after the other is locked, a later point's
// own are not, and all that is left of the repository after everything else was removed restores the point.
func TestLockPoint(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	st := open(t, srv, place(t, srv, s3test.Locked), quick)
	r, err := repo.Init(t.Context(), st, secret(), nil, nil)
	require.NoError(t, err)
	one := newImage(1, 3<<20)
	first := backup(t, r, one)
	until := time.Now().Add(time.Hour)
	n, err := r.LockPoint(t.Context(), first, until)
	require.NoError(t, err)
	second := backup(t, r, newImage(2, 2<<20))
	require.NoError(t, r.Close())

	objects, err := storetest.Collect(st.List(t.Context(), ""))
	require.NoError(t, err)
	locked := 0
	for name := range objects {
		kept, err := st.Locked(t.Context(), name)
		require.NoError(t, err)
		err = st.Remove(t.Context(), name)
		if kept.IsZero() {
			require.NoError(t, err, name)
			continue
		}
		locked++
		assert.False(t, kept.Before(until), name)
		require.ErrorIs(t, err, store.ErrLocked, name)
	}
	assert.Equal(t, n, locked)
	assert.Less(t, locked, len(objects))

	r, err = repo.Open(t.Context(), st, secret(), nil)
	require.NoError(t, err)
	defer r.Close()
	assert.True(t, bytes.Equal(one, restored(t, r, first)))
	_, err = r.Open(t.Context(), second, "disk0")
	require.Error(t, err)
	_, err = r.LockPoint(t.Context(), first, time.Now().Add(-time.Hour))
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = r.LockPoint(t.Context(), first, until.Add(time.Hour))
	require.NoError(t, err, "locks are extended")
}

// A bucket without locks says so.
func TestLockPointWithoutLocks(t *testing.T) {
	t.Parallel()
	r, err := repo.Init(t.Context(), memstore.New(nil), secret(), nil, nil)
	require.NoError(t, err)
	defer r.Close()
	_, err = r.LockPoint(t.Context(), backup(t, r, newImage(1, 1<<20)), time.Now().Add(time.Hour))
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

// A first version that does not authenticate, of whatever cause, gives way to one that does.
func TestLaterVersionThatAuthenticates(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	from := memstore.New(nil)
	r, err := repo.Init(t.Context(), from, secret(), nil, nil)
	require.NoError(t, err)
	img := newImage(4, 2<<20)
	point := backup(t, r, img)
	require.NoError(t, r.Close())

	// The repository comes into the bucket by other means, at the second try.
	at := place(t, srv, s3test.Versioned)
	by := newVandal(t, srv, at)
	for info, err := range from.List(t.Context(), "") {
		require.NoError(t, err)
		data, err := store.ReadAll(t.Context(), from, info.Name, 1<<30)
		require.NoError(t, err)
		if !strings.Contains(info.Name, "log/") {
			by.overwrite(info.Name, data[:len(data)/2])
		}
		by.overwrite(info.Name, data)
	}
	r, err = repo.Open(t.Context(), open(t, srv, at, quick), secret(), nil)
	require.NoError(t, err)
	defer r.Close()
	assert.True(t, bytes.Equal(img, restored(t, r, point)))
}
